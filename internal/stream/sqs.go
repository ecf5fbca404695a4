//go:build !memory

package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// Queue keeps timers as delayed messages of a standard SQS queue, and buries what cannot be read in another.
type Queue struct {
	Client *sqs.Client
	URL    string
	Clock  func() time.Time // nil: time.Now
}

// A message is what goes to the queue: a body, and when it is to come; or why there is none.
type message struct {
	body []byte
	due  time.Time
	err  error
}

// Arm implements [Timers], ten messages a request. Delays are whole seconds, so a timer comes up to one second late.
func (q *Queue) Arm(ctx context.Context, timers []Timer) []error {
	list := make([]message, len(timers))
	for i, t := range timers {
		body, err := json.Marshal(timerMessage{1, t.Lock, t.Key, t.Fence})
		list[i] = message{body, t.Due, err}
	}
	return q.send(ctx, list)
}

// PutOff implements [Backlog] on the same queue.
func (q *Queue) PutOff(ctx context.Context, jobs []Job) []error {
	list := make([]message, len(jobs))
	for i, j := range jobs {
		body, err := encodeJob(j)
		list[i] = message{body, j.Due, err}
	}
	return q.send(ctx, list)
}

// Limits of one SendMessageBatch.
const (
	maxMessages     = 10
	maxMessageBytes = 256 * 1024 // of all messages
)

// send sends messages, as many a request as it takes.
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

// sendBatch sends messages in one request, and sets the error of each that was not taken.
func (q *Queue) sendBatch(ctx context.Context, list []message, errs []error) {
	now := time.Now
	if q.Clock != nil {
		now = q.Clock
	}
	in := &sqs.SendMessageBatchInput{QueueUrl: aws.String(q.URL)}
	for i, m := range list {
		if errs[i] = m.err; m.err == nil {
			in.Entries = append(in.Entries, types.SendMessageBatchRequestEntry{
				Id: aws.String(strconv.Itoa(i)), MessageBody: aws.String(string(m.body)), DelaySeconds: delaySeconds(m.due.Sub(now())),
			})
		}
	}
	if len(in.Entries) == 0 {
		return
	}
	out, err := q.Client.SendMessageBatch(ctx, in)
	if err != nil {
		copy(errs, errAll(len(list), err))
		return
	}
	for _, f := range out.Failed {
		if i, err := strconv.Atoi(aws.ToString(f.Id)); err == nil && i >= 0 && i < len(list) {
			errs[i] = fmt.Errorf("%s: %s", aws.ToString(f.Code), aws.ToString(f.Message))
		}
	}
}

func delaySeconds(d time.Duration) int32 {
	return int32(min(max(d, 0)+time.Second-1, maxDelay) / time.Second)
}

// A buriedWrite is a stream record in the dead-letter queue.
type buriedWrite struct {
	Problem  string          `json:"problem"`
	Lock     string          `json:"lock,omitempty"`
	Sequence string          `json:"sequence"`
	Record   json.RawMessage `json:"record,omitempty"`
}

// maxMessage is how much of a record is buried; SQS takes 256 KiB in all.
const maxMessage = 200 * 1024

// Bury implements [DeadLetter].
func (q *Queue) Bury(ctx context.Context, w Write) error {
	b := buriedWrite{Problem: w.Poison.Error(), Lock: w.Lock, Sequence: w.Sequence}
	if len(w.Raw) <= maxMessage && json.Valid(w.Raw) {
		b.Record = w.Raw
	}
	body, err := json.Marshal(b)
	if err != nil {
		return err
	}
	_, err = q.Client.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: aws.String(q.URL), MessageBody: aws.String(string(body))})
	return err
}
