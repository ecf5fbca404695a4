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

// jobMessage is a job on the queue. A message without a kind is a timer's.
type jobMessage struct {
	Version   int           `json:"v"`
	Kind      JobKind       `json:"kind"`
	Lock      string        `json:"lock,omitzero"`
	Since     int64         `json:"since"` // Unix milliseconds
	Tries     int           `json:"tries"`
	Event     *eventMessage `json:"event,omitzero"`
	Lease     lock.LeaseKey `json:"lease,omitzero"`
	Fence     int64         `json:"fence,omitzero"` // of a timer
	Holder    *lock.Holder  `json:"holder,omitzero"`
	Code      string        `json:"code,omitzero"`
	Cause     string        `json:"cause,omitzero"`
	Execution *ExecutionEnd `json:"execution,omitzero"`
}

type eventMessage struct {
	DetailType string          `json:"detail_type"`
	Detail     json.RawMessage `json:"detail"`
	Time       time.Time       `json:"time"`
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
		body, err := json.Marshal(timerMessage{1, t.Lock, t.Lease, t.Fence})
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

// encodeJob makes a job's message. The tokens of a callback are in it, as they are in the table; no lease's secret is.
func encodeJob(j Job) ([]byte, error) {
	m := jobMessage{Version: 1, Kind: j.Kind, Lock: j.Lock, Tries: j.Tries}
	if !j.Since.IsZero() {
		m.Since = j.Since.UnixMilli()
	}
	switch j.Kind {
	case JobPublish:
		m.Event = &eventMessage{j.Event.DetailType, j.Event.Detail, j.Event.Time}
	case JobTimer:
		m.Lock, m.Lease, m.Fence = j.Timer.Lock, j.Timer.Lease, j.Timer.Fence
	case JobTell:
		m.Lease, m.Holder = j.Lease, &j.Holder
	case JobFail:
		m.Holder, m.Code, m.Cause = &j.Holder, j.Code, j.Cause
	case JobEnd:
		m.Execution = &j.Execution
	}
	return json.Marshal(m)
}

// decodeJob reads a message's body: a job, or a timer.
func decodeJob(body string) (Job, error) {
	var m jobMessage
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		return Job{}, err
	}
	j := Job{Kind: m.Kind, Lock: m.Lock, Tries: m.Tries, Lease: m.Lease, Code: m.Code, Cause: m.Cause}
	if m.Since != 0 {
		j.Since = time.UnixMilli(m.Since)
	}
	if m.Holder != nil {
		j.Holder = *m.Holder
	}
	if j.Lock == "" && j.Kind != JobEnd {
		return Job{}, errors.New("not a timer or a job: it names no lock")
	}
	missing := false
	switch j.Kind {
	case "", JobTimer:
		j.Kind, j.Lease = JobTimer, ""
		j.Timer = Timer{Lock: m.Lock, Lease: m.Lease, Fence: m.Fence}
		missing = m.Lease == "" || m.Fence < 1
	case JobPublish:
		if missing = m.Event == nil; !missing {
			j.Event = Entry{DetailType: m.Event.DetailType, Detail: m.Event.Detail, Time: m.Event.Time, Lock: m.Lock}
		}
	case JobTell:
		missing = m.Lease == "" || m.Holder == nil
	case JobFail:
		missing = m.Holder == nil
	case JobEnd:
		if missing = m.Execution == nil || m.Execution.Execution == ""; !missing {
			j.Execution = *m.Execution
		}
	}
	if missing {
		return Job{}, fmt.Errorf("a %s without what it is about", j.Kind)
	}
	return j, nil
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
