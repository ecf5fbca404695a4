package stream

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// MaxDelay is the longest delay of a message, which is SQS's longest DelaySeconds. A timer that is due later is set again when
// its message arrives.
const MaxDelay = 900 * time.Second

// timerMessage is a timer on the queue.
type timerMessage struct {
	Version int           `json:"v"`
	Lock    string        `json:"lock"`
	Lease   lock.LeaseKey `json:"lease"` // the hash, not the secret
	Fence   int64         `json:"fence"`
}

// EncodeTimer makes a timer's message.
func EncodeTimer(t Timer) ([]byte, error) {
	return json.Marshal(timerMessage{1, t.Lock, t.Key, t.Fence})
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
	Fence     int64         `json:"fence,omitzero"`  // of a timer
	Grant     *lock.Lease   `json:"grant,omitzero"`  // of a tell
	Tokens    lock.Tokens   `json:"tokens,omitzero"` // of a fail
	Code      string        `json:"code,omitzero"`
	Cause     string        `json:"cause,omitzero"`
	Execution *ExecutionEnd `json:"execution,omitzero"`
}

type eventMessage struct {
	DetailType string          `json:"detail_type"`
	Detail     json.RawMessage `json:"detail"`
	Time       time.Time       `json:"time"`
}

// EncodeJob makes a job's message. The tokens of a callback are in it, as they are in the table; no lease's secret is.
func EncodeJob(j Job) ([]byte, error) {
	m := jobMessage{Version: 1, Kind: j.Kind, Lock: j.Lock, Tries: j.Tries}
	if !j.Since.IsZero() {
		m.Since = j.Since.UnixMilli()
	}
	switch j.Kind {
	case JobPublish:
		m.Event = &eventMessage{j.Event.DetailType, j.Event.Detail, j.Event.Time}
	case JobTimer:
		m.Lock, m.Lease, m.Fence = j.Timer.Lock, j.Timer.Key, j.Timer.Fence
	case JobTell:
		m.Lease, m.Grant = j.Key, &j.Lease
	case JobFail:
		m.Tokens, m.Code, m.Cause = j.Tokens, j.Code, j.Cause
	case JobEnd:
		m.Execution = &j.Execution
	}
	return json.Marshal(m)
}

// DecodeJob reads a message's body: a job, or a timer.
func DecodeJob(body string) (Job, error) {
	var m jobMessage
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		return Job{}, err
	}
	j := Job{Kind: m.Kind, Lock: m.Lock, Tries: m.Tries, Key: m.Lease, Tokens: m.Tokens, Code: m.Code, Cause: m.Cause}
	if m.Since != 0 {
		j.Since = time.UnixMilli(m.Since)
	}
	if m.Grant != nil {
		j.Lease = *m.Grant
	}
	if j.Lock == "" && j.Kind != JobEnd {
		return Job{}, errors.New("not a timer or a job: it names no lock")
	}
	missing := false
	switch j.Kind {
	case "", JobTimer:
		j.Kind, j.Key = JobTimer, ""
		j.Timer = Timer{GrantRef: lock.GrantRef{Lock: m.Lock, Key: m.Lease, Fence: m.Fence}}
		missing = m.Lease == "" || m.Fence < 1
	case JobPublish:
		if missing = m.Event == nil; !missing {
			j.Event = Entry{DetailType: m.Event.DetailType, Detail: m.Event.Detail, Time: m.Event.Time, Lock: m.Lock}
		}
	case JobTell:
		missing = m.Lease == "" || m.Grant == nil
	case JobFail:
		missing = m.Tokens.Empty()
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
