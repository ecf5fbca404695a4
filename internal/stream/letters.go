package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// A Letter is a message of the dead-letter queue.
type Letter struct {
	ID      string // the queue's name for the message
	Body    string
	Receipt string // names this receipt of the message, for the queue
}

// Letters read a dead-letter queue.
type Letters interface {
	// Receive takes up to n messages, which nobody else receives for a minute and a half. None means that there are none, or that
	// others have them.
	Receive(ctx context.Context, n int) ([]Letter, error)
	// Delete removes a message for good.
	Delete(ctx context.Context, l Letter) error
	// Release puts a message back at once.
	Release(ctx context.Context, l Letter) error
}

// A Buried is the message of a [Write] in the dead-letter queue: a stream record, a job, or a message of the timers' queue.
type Buried struct {
	Problem  string          `json:"problem"`
	Lock     string          `json:"lock,omitempty"`
	Sequence string          `json:"sequence"`
	Record   json.RawMessage `json:"record,omitempty"` // as it was received, unless it is too large or no JSON
}

// maxRecord is the size in bytes above which a record is left out of its dead letter: a message has 256 KiB at most.
const maxRecord = 200 * 1024

// EncodeBuried returns the message of a write that cannot be handled, as JSON.
func EncodeBuried(w Write) ([]byte, error) {
	b := Buried{Problem: w.Poison.Error(), Lock: w.Lock, Sequence: w.Sequence}
	if len(w.Raw) <= maxRecord && json.Valid(w.Raw) {
		b.Record = w.Raw
	}
	return json.Marshal(b)
}

// ReadRecord decodes one record of the stream, with a [Reader], as [Consumer.HandleStream] does. ok is false if it is not about a lock.
func ReadRecord(raw json.RawMessage, read Reader) (w Write, ok bool) { return readSafely(raw, read) }

// Try does one job, once, for an operator. Nothing is deferred: an error says that the job is still to be done.
func (x *Expirer) Try(ctx context.Context, j Job) error {
	return catchPanic(func() error {
		switch {
		case j.Kind == JobTimer:
			return x.Fire(ctx, j.Timer)
		case j.Kind == JobEnd:
			return x.HandleExecution(ctx, ExecutionEvent{Detail: j.Execution})
		case x.Consumer == nil:
			return errors.New("nothing here does this kind of job")
		case j.Kind == JobPublish:
			for _, o := range x.Consumer.publish(ctx, []*offer{{entry: j.Event}}) {
				return fmt.Errorf("the event was not published: %w", o.err)
			}
			return nil
		}
		return x.Consumer.do(ctx, j)
	})
}

// TimerOf is the timer of a grant, due a skew allowance after its expiry, or at the next check of its execution.
func (c *Consumer) TimerOf(ref lock.GrantRef, l lock.Lease) Timer { return Timer{ref, c.due(l)} }
