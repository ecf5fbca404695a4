package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// maxDelay is SQS's longest DelaySeconds; a timer that is due later goes there in hops.
const maxDelay = 900 * time.Second

// Queue keeps timers as delayed messages of a standard SQS queue, and buries what cannot be read in another.
type Queue struct {
	Client *sqs.Client
	URL    string
	Clock  func() time.Time // nil: time.Now
}

// timerMessage is a timer on the queue.
type timerMessage struct {
	Version int           `json:"v"`
	Lock    string        `json:"lock"`
	Lease   lock.LeaseKey `json:"lease"` // the hash, not the secret
	Fence   int64         `json:"fence"`
}

// Arm implements [Timers], ten messages a request. Delays are whole seconds, so a timer comes up to one second late.
func (q *Queue) Arm(ctx context.Context, timers []Timer) []error {
	now := time.Now
	if q.Clock != nil {
		now = q.Clock
	}
	errs := make([]error, len(timers))
	for start := 0; start < len(timers); start += 10 {
		chunk := timers[start:min(start+10, len(timers))]
		in := &sqs.SendMessageBatchInput{QueueUrl: aws.String(q.URL)}
		for i, t := range chunk {
			body, err := json.Marshal(timerMessage{1, t.Lock, t.Lease, t.Fence})
			if err != nil {
				errs[start+i] = err
				continue
			}
			in.Entries = append(in.Entries, types.SendMessageBatchRequestEntry{
				Id: aws.String(strconv.Itoa(i)), MessageBody: aws.String(string(body)), DelaySeconds: delaySeconds(t.Due.Sub(now())),
			})
		}
		out, err := q.Client.SendMessageBatch(ctx, in)
		if err != nil {
			copy(errs[start:], errAll(len(chunk), err))
			continue
		}
		for _, f := range out.Failed {
			if i, err := strconv.Atoi(aws.ToString(f.Id)); err == nil && i < len(chunk) {
				errs[start+i] = fmt.Errorf("%s: %s", aws.ToString(f.Code), aws.ToString(f.Message))
			}
		}
	}
	return errs
}

func delaySeconds(d time.Duration) int32 {
	return int32(min(max(d, 0)+time.Second-1, maxDelay) / time.Second)
}

// readTimer reads a message's body.
func readTimer(body string) (Timer, error) {
	var m timerMessage
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		return Timer{}, err
	}
	if m.Lock == "" || m.Lease == "" || m.Fence < 1 {
		return Timer{}, errors.New("not a timer: it names no lock, lease or fence")
	}
	return Timer{Lock: m.Lock, Lease: m.Lease, Fence: m.Fence}, nil
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
