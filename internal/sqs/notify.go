package sqs

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/smithy-go"

	"github.com/holdfast-lock/holdfast/internal/stream"
)

// A Sender sends to the queues of waiters. It is a [stream.Notifications].
type Sender struct{ client *awssqs.Client }

// NewSender returns a sender to the queues of a region.
func NewSender(cfg aws.Config) *Sender { return &Sender{awssqs.NewFromConfig(cfg)} }

// lasting are the codes of SQS's errors that a repetition does not change: the queue was deleted or never was, or this process may not
// send to it.
var lasting = []string{
	"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "QueueDeletedRecently", "InvalidAddress", "InvalidParameterValue",
	"UnsupportedOperation", "AccessDenied", "AccessDeniedException", "KmsAccessDenied", "KmsDisabled", "KmsNotFound",
}

// Notify implements [stream.Notifications].
func (s *Sender) Notify(ctx context.Context, queue string, message []byte) error {
	_, err := s.client.SendMessage(ctx, &awssqs.SendMessageInput{QueueUrl: &queue, MessageBody: aws.String(string(message))})
	if api, ok := errors.AsType[smithy.APIError](err); ok && slices.Contains(lasting, api.ErrorCode()) {
		return fmt.Errorf("%w: %w", stream.ErrUndeliverable, err)
	}
	return err
}
