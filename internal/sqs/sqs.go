// Package sqs keeps the stream's timers, jobs and dead letters in SQS queues.
package sqs

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/holdfast-lock/holdfast/internal/stream"
)

// A Queue is a standard SQS queue. It is a [stream.Timers] and a [stream.Backlog], whose timers and jobs are delayed messages,
// or a [stream.DeadLetter] and [stream.Letters].
type Queue struct {
	client *awssqs.Client
	url    string
}

// New returns the queue with a URL.
func New(cfg aws.Config, url string) *Queue { return &Queue{awssqs.NewFromConfig(cfg), url} }

// URL returns the queue's URL.
func (q *Queue) URL() string { return q.url }

// A message is a body and the time at which it must be delivered, or the error of making it.
type message struct {
	body []byte
	due  time.Time
	err  error
}

// Arm implements [stream.Timers]. Delays are whole seconds, so a timer fires up to one second late.
func (q *Queue) Arm(ctx context.Context, timers []stream.Timer) []error {
	list := make([]message, len(timers))
	for i, t := range timers {
		body, err := stream.EncodeTimer(t)
		list[i] = message{body, t.Due, err}
	}
	return q.send(ctx, list)
}

// Defer implements [stream.Backlog].
func (q *Queue) Defer(ctx context.Context, jobs []stream.Job) []error {
	list := make([]message, len(jobs))
	for i, j := range jobs {
		body, err := stream.EncodeJob(j)
		list[i] = message{body, j.Due, err}
	}
	return q.send(ctx, list)
}

// Limits of one SendMessageBatch.
const (
	maxMessages     = 10
	maxMessageBytes = 256 * 1024 // of all messages
)

// send sends messages, as many in a request as SQS takes.
func (q *Queue) send(ctx context.Context, list []message) []error {
	errs := make([]error, len(list))
	for start := 0; start < len(list); {
		end, bytes := start, 0
		for end < len(list) && end < start+maxMessages && (end == start || bytes+len(list[end].body) <= maxMessageBytes) {
			bytes += len(list[end].body)
			end++
		}
		q.sendBatch(ctx, list[start:end], errs[start:end])
		start = end
	}
	return errs
}

// sendBatch sends messages in one request. It sets the error of each message that was not taken.
func (q *Queue) sendBatch(ctx context.Context, list []message, errs []error) {
	in := &awssqs.SendMessageBatchInput{QueueUrl: aws.String(q.url)}
	for i, m := range list {
		if errs[i] = m.err; m.err == nil {
			in.Entries = append(in.Entries, types.SendMessageBatchRequestEntry{
				Id: aws.String(strconv.Itoa(i)), MessageBody: aws.String(string(m.body)), DelaySeconds: delaySeconds(time.Until(m.due)),
			})
		}
	}
	if len(in.Entries) == 0 {
		return
	}
	out, err := q.client.SendMessageBatch(ctx, in)
	if err != nil {
		copy(errs, slices.Repeat([]error{err}, len(list)))
		return
	}
	for _, f := range out.Failed {
		if i, err := strconv.Atoi(aws.ToString(f.Id)); err == nil && i >= 0 && i < len(list) {
			errs[i] = fmt.Errorf("%s: %s", aws.ToString(f.Code), aws.ToString(f.Message))
		}
	}
}

func delaySeconds(d time.Duration) int32 {
	return int32(min(max(d, 0)+time.Second-1, stream.MaxDelay) / time.Second)
}

// Bury implements [stream.DeadLetter].
func (q *Queue) Bury(ctx context.Context, w stream.Write) error {
	body, err := stream.EncodeBuried(w)
	if err != nil {
		return err
	}
	_, err = q.client.SendMessage(ctx, &awssqs.SendMessageInput{QueueUrl: aws.String(q.url), MessageBody: aws.String(string(body))})
	return err
}
