package sqs

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/holdfast-lock/holdfast/internal/stream"
)

const (
	// hidden is for how long a message that was received is kept from others, in seconds: longer than the redrive function may run.
	hidden = 90
	// receiveWait is how long a receipt waits for messages, in seconds. A short poll asks some of SQS's servers only.
	receiveWait = 1
)

// Receive implements [stream.Letters].
func (q *Queue) Receive(ctx context.Context, n int) ([]stream.Letter, error) {
	out, err := q.client.ReceiveMessage(ctx, &awssqs.ReceiveMessageInput{
		QueueUrl: aws.String(q.url), MaxNumberOfMessages: int32(min(n, maxMessages)), VisibilityTimeout: hidden, WaitTimeSeconds: receiveWait,
	})
	if err != nil {
		return nil, err
	}
	var list []stream.Letter
	for _, m := range out.Messages {
		list = append(list, stream.Letter{ID: aws.ToString(m.MessageId), Body: aws.ToString(m.Body), Receipt: aws.ToString(m.ReceiptHandle)})
	}
	return list, nil
}

// Delete implements [stream.Letters].
func (q *Queue) Delete(ctx context.Context, l stream.Letter) error {
	_, err := q.client.DeleteMessage(ctx, &awssqs.DeleteMessageInput{QueueUrl: aws.String(q.url), ReceiptHandle: aws.String(l.Receipt)})
	return err
}

// Release implements [stream.Letters].
func (q *Queue) Release(ctx context.Context, l stream.Letter) error {
	_, err := q.client.ChangeMessageVisibility(ctx, &awssqs.ChangeMessageVisibilityInput{
		QueueUrl: aws.String(q.url), ReceiptHandle: aws.String(l.Receipt), VisibilityTimeout: 0,
	})
	return err
}
