package stream

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// MaxDelay is the longest delay of a message: SQS's maximum for DelaySeconds. A timer that is due later is set again when its
// message arrives.
const MaxDelay = 900 * time.Second

// timerMessage is the message of a timer.
type timerMessage struct {
	Version int           `json:"v"`
	Lock    string        `json:"lock"`
	Lease   lock.LeaseKey `json:"lease"` // the hash, not the secret
	Fence   int64         `json:"fence"`
}

// EncodeTimer returns the message of a timer, as JSON.
func EncodeTimer(t Timer) ([]byte, error) {
	return json.Marshal(timerMessage{1, t.Lock, t.Key, t.Fence})
}

// jobHead has the fields that every job has, also one of a newer version.
type jobHead struct {
	Version int     `json:"v"`
	Kind    JobKind `json:"kind"`
	Lock    string  `json:"lock,omitzero"`
	Since   int64   `json:"since"` // Unix milliseconds
	Tries   int     `json:"tries"`
}

// jobMessage is the message of a job. A message without a kind is a [timerMessage], which has a subset of these fields.
type jobMessage struct {
	jobHead
	Event     *eventMessage `json:"event,omitzero"`
	Lease     lock.LeaseKey `json:"lease,omitzero"`
	Fence     int64         `json:"fence,omitzero"`
	Grant     *lock.Lease   `json:"grant,omitzero"`
	Tokens    lock.Tokens   `json:"tokens,omitzero"`
	Code      string        `json:"code,omitzero"`
	Cause     string        `json:"cause,omitzero"`
	Execution *ExecutionEnd `json:"execution,omitzero"`
	Cursor    string        `json:"cursor,omitzero"`
	Head      int64         `json:"head,omitzero"`

	History []lock.HistoryEntry `json:"history,omitempty"`
}

type eventMessage struct {
	DetailType string          `json:"detail_type"`
	Detail     json.RawMessage `json:"detail"`
	Time       time.Time       `json:"time"`
}

// A kindSpec is what differs between the kinds of job.
type kindSpec struct {
	// endless: the job is never given up, because without it a lease would never end.
	endless bool
	encode  func(Job, *jobMessage)
	// decode returns false if the message lacks a field of needs.
	decode func(*jobMessage, *Job) bool
	needs  string
	// do is nil for publications, which are done in batches, and for the jobs of the [Expirer].
	do func(context.Context, *Consumer, Job) error
}

var jobKinds = map[JobKind]kindSpec{
	JobPublish: {
		encode: func(j Job, m *jobMessage) { m.Event = &eventMessage{j.Event.DetailType, j.Event.Detail, j.Event.Time} },
		decode: func(m *jobMessage, j *Job) bool {
			if m.Event == nil {
				return false
			}
			j.Event = Entry{DetailType: m.Event.DetailType, Detail: m.Event.Detail, Time: m.Event.Time, Lock: m.Lock}
			return true
		},
		needs: "event",
	},
	JobDeliver: {
		encode: func(j Job, m *jobMessage) { m.Lease, m.Grant = j.Key, &j.Lease },
		decode: func(m *jobMessage, j *Job) bool {
			if m.Lease == "" || m.Grant == nil {
				return false
			}
			j.Key, j.Lease = m.Lease, *m.Grant
			return true
		},
		needs: "lease and grant",
		do: func(ctx context.Context, c *Consumer, j Job) error {
			return c.notifier().deliver(ctx, j.Lock, j.Key, j.Lease, new(lock.Record))
		},
	},
	JobFail: {
		encode: func(j Job, m *jobMessage) { m.Tokens, m.Code, m.Cause = j.Tokens, j.Code, j.Cause },
		decode: func(m *jobMessage, j *Job) bool {
			j.Tokens, j.Code, j.Cause = m.Tokens, m.Code, m.Cause
			return !m.Tokens.Empty()
		},
		needs: "tokens",
		do: func(ctx context.Context, c *Consumer, j Job) error {
			return c.notifier().fail(ctx, j.Lock, j.Tokens, j.Code, j.Cause)
		},
	},
	JobSettle: {
		encode: func(j Job, m *jobMessage) { m.Head = j.Head },
		decode: func(m *jobMessage, j *Job) bool { j.Head = m.Head; return true },
		do:     func(ctx context.Context, c *Consumer, j Job) error { return c.settle(ctx, j) },
	},
	JobThaw: {
		encode: func(j Job, m *jobMessage) { m.Cursor = j.Cursor },
		decode: func(m *jobMessage, j *Job) bool { j.Cursor = m.Cursor; return true },
		do:     func(ctx context.Context, c *Consumer, j Job) error { return c.thaw(ctx, j) },
	},
	JobHistory: {
		encode: func(j Job, m *jobMessage) { m.History = j.History },
		decode: func(m *jobMessage, j *Job) bool { j.History = m.History; return len(m.History) > 0 },
		needs:  "history",
		do:     func(ctx context.Context, c *Consumer, j Job) error { return c.recordLater(ctx, j) },
	},
	JobTimer: {
		endless: true,
		encode:  func(j Job, m *jobMessage) { m.Lock, m.Lease, m.Fence = j.Timer.Lock, j.Timer.Key, j.Timer.Fence },
		decode: func(m *jobMessage, j *Job) bool {
			j.Timer = Timer{GrantRef: lock.GrantRef{Lock: m.Lock, Key: m.Lease, Fence: m.Fence}}
			return m.Lease != "" && m.Fence >= 1
		},
		needs: "lease and fence",
	},
	JobEnd: {
		endless: true,
		encode:  func(j Job, m *jobMessage) { m.Execution = &j.Execution },
		decode: func(m *jobMessage, j *Job) bool {
			if m.Execution == nil || m.Execution.Execution == "" {
				return false
			}
			j.Execution = *m.Execution
			return true
		},
		needs: "execution",
	},
}

// EncodeJob returns the message of a job, as JSON. It contains the tokens of callbacks, as the table does; it contains no
// lease's secret.
func EncodeJob(j Job) ([]byte, error) {
	m := jobMessage{jobHead: jobHead{Version: 1, Kind: j.Kind, Lock: j.Lock, Tries: j.Tries}}
	if !j.Since.IsZero() {
		m.Since = j.Since.UnixMilli()
	}
	if kind, known := jobKinds[j.Kind]; known {
		kind.encode(j, &m)
	}
	body, err := json.Marshal(m)
	if err != nil || len(j.Newer) == 0 {
		return body, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(body, &all); err != nil {
		return nil, err
	}
	maps.Copy(all, j.Newer)
	return json.Marshal(all)
}

// The fields of a message that every job has, and those of some kinds.
var (
	fieldsOfJobs  = []string{"v", "kind", "lock", "since", "tries"}
	fieldsOfKinds = []string{"event", "lease", "fence", "grant", "tokens", "code", "cause", "execution", "cursor", "head", "history"}
)

// newerFields are the fields of a message that this version does not know; nil without one.
func newerFields(body string, known bool) map[string]json.RawMessage {
	var all map[string]json.RawMessage
	if json.Unmarshal([]byte(body), &all) != nil { // cannot happen: it was read
		return nil
	}
	maps.DeleteFunc(all, func(field string, _ json.RawMessage) bool {
		field = strings.ToLower(field) // as package json reads them
		return slices.Contains(fieldsOfJobs, field) || known && slices.Contains(fieldsOfKinds, field)
	})
	if len(all) == 0 {
		return nil
	}
	return all
}

// DecodeJob reads the body of a message, of a job or of a timer. It accepts kinds that this version does not know, of which it reads the head
// only; [Consumer.Do] refuses them.
func DecodeJob(body string) (Job, error) {
	var m jobMessage
	if err := json.Unmarshal([]byte(body), &m.jobHead); err != nil {
		return Job{}, err
	}
	j := Job{Kind: cmp.Or(m.Kind, JobTimer), Lock: m.Lock, Tries: m.Tries}
	if m.Since != 0 {
		j.Since = time.UnixMilli(m.Since)
	}
	kind, known := jobKinds[j.Kind]
	j.Newer = newerFields(body, known)
	if !known {
		return j, nil
	}
	if m.Lock == "" && m.Kind != JobEnd {
		return Job{}, errors.New("not a timer or a job: it names no lock")
	}
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		return Job{}, err
	}
	if !kind.decode(&m, &j) {
		return Job{}, fmt.Errorf("a %s job needs %s", j.Kind, kind.needs)
	}
	return j, nil
}
