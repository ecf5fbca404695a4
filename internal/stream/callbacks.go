package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// Callbacks tell those who wait with a token. Their errors are [ErrTaskGone], or mean that nobody knows.
type Callbacks interface {
	Succeed(ctx context.Context, token string, output []byte) error
	Fail(ctx context.Context, token, code, cause string) error
}

// ErrTaskGone says that nobody waits with this token. The task may have been told before, have timed out, or be of an execution that
// ended: the services do not say which.
var ErrTaskGone = errors.New("nobody waits with this token")

// ErrUndeliverable says that a callback can never be sent: the deployment does not allow it, or the token is none.
var ErrUndeliverable = errors.New("callback cannot be sent")

// What a wait that ends without a grant fails with, for a state machine's Catch.
const (
	FailTimedOut  = "WaitTimedOut"
	FailCancelled = "WaitCancelled"
	FailLost      = "LeaseLost"
)

// A teller tells tasks that wait with a token.
type teller struct {
	callbacks   Callbacks
	coordinator *lock.Coordinator
	reporter
}

func (c *Consumer) teller() teller { return teller{c.Callbacks, c.Coordinator, c.reporter()} }

// tell delivers a grant to its tokens; seen is the lock's record as far as it is known. After an error it must be done again.
//
// That it is about to be tried is stored first, under the lease and its fence. So when nobody waits any more:
//
//   - on the first attempt ever, with the only token there ever was, nobody can have been told: the task is dead, and its
//     lease is ended at once, if no second attempt was begun since and nobody else asked for the lease;
//   - on a later one, an earlier attempt may have succeeded and its answer been lost, or this process died after it: the task
//     may be at work under the lock. Nothing is ended; the lease's TTL, or its execution's end, decides. The same if the task
//     was tried again and so has several tokens: all are told, and nobody knows whose is whose.
//
// A crash before the attempt was stored repeats as a first one; a crash after it, as a later one. A live task loses its lock
// to neither, and a dead one keeps it for a TTL at most.
func (t teller) tell(ctx context.Context, name string, granted lock.Change, seen lock.Record) error {
	h := granted.Lease
	about := []slog.Attr{slog.String("lock", name), slog.Int64("fence", h.Fence), slog.String("owner", h.Owner)}
	req := lock.GrantRef{Lock: name, Key: granted.Key, Fence: h.Fence}
	first, err := t.coordinator.MarkAttempt(ctx, req, h.Tokens, seen)
	switch {
	case errors.Is(err, lock.ErrSuperseded): // the write that added a token tells all
		return nil
	case errors.Is(err, lock.ErrLeaseLost): // ended, or forced out, before it could be told
		return t.fail(ctx, name, h.Tokens, FailLost, "the lease ended before it could be told")
	case err != nil:
		t.fault(ctx, CallbackFailed, "grant was not told", append(about, slog.Any("error", err))...)
		return err
	}
	gone := 0
	tokens := h.Tokens.List()
	var failed error
	for _, token := range tokens {
		err := t.callbacks.Succeed(ctx, token, output(name, h))
		about := append(slices.Clone(about), slog.Bool("first", first), slog.Any("error", err))
		switch {
		case err == nil:
			t.log.LogAttrs(ctx, slog.LevelInfo, "grant was told", about...)
		case errors.Is(err, ErrTaskGone):
			gone++
			t.log.LogAttrs(ctx, slog.LevelInfo, "nobody waits with this token", about...)
		case errors.Is(err, ErrUndeliverable): // as good as gone: it can never be told
			gone++
			t.fault(ctx, CallbackUndeliverable, "grant cannot be told", about...)
		default:
			failed = err
			t.fault(ctx, CallbackFailed, "grant was not told", about...)
		}
	}
	if !first || gone == 0 || len(tokens) > 1 {
		return failed
	}
	if err := t.coordinator.EndTask(ctx, req, h.Tokens, "task gone"); err != nil { // a repetition finds it attempted: its TTL ends it
		t.fault(ctx, CallbackFailed, "lease of a dead task was not ended", append(about, slog.Any("error", err))...)
	}
	return failed
}

// fail tells all tokens of a wait or a grant that it is over. After an error it must be done again.
func (t teller) fail(ctx context.Context, name string, tokens lock.Tokens, code, cause string) error {
	var failed error
	for _, token := range tokens.List() {
		switch err := t.callbacks.Fail(ctx, token, code, cause); {
		case err == nil, errors.Is(err, ErrTaskGone):
		case errors.Is(err, ErrUndeliverable):
			t.fault(ctx, CallbackUndeliverable, "end of a wait cannot be told", slog.String("lock", name), slog.Any("error", err))
		default:
			failed = err
			t.fault(ctx, CallbackFailed, "end of a wait was not told", slog.String("lock", name), slog.Any("error", err))
		}
	}
	return failed
}

// maxCallbackFailures is after how many failed callbacks in a row the rest of a batch's are put off untried: a service that
// does not answer takes some seconds each time.
const maxCallbackFailures = 3

// errNotTried is why a job was put off that was not tried.
var errNotTried = errors.New("those before it failed; it was not tried")

// callbacks tells of all grants and ended waits of a batch, and hands on what its writes left free.
func (c *Consumer) callbacks(ctx context.Context, batch []derivation) (failures []failure) {
	if c.Callbacks == nil {
		return nil
	}
	inARow := 0
	for i, w := range batch {
		if w.Poison != nil {
			continue
		}
		for _, j := range c.jobs(w) {
			err := errNotTried
			if inARow < maxCallbackFailures || c.Backlog == nil {
				err = safely(func() error { return c.tryFirst(ctx, j, w.After) })
			}
			switch {
			case err != nil:
				inARow++
				failures = append(failures, failure{j, i, err})
			case j.Kind != JobSettle:
				inARow = 0
			}
		}
	}
	return failures
}

// jobs are the callbacks and the hand-off that follow from a write.
func (c *Consumer) jobs(w derivation) (list []Job) {
	fail := func(tokens lock.Tokens, code, cause string) {
		list = append(list, Job{Kind: JobFail, Lock: w.Lock, Tokens: tokens, Code: code, Cause: cause})
	}
	for _, ended := range w.Ended {
		if ended.Until <= c.now().UnixMilli() {
			fail(ended.Tokens, FailTimedOut, "the lock did not come free within wait_ms")
		} else {
			fail(ended.Tokens, FailCancelled, "the wait was cancelled")
		}
	}
	for _, ch := range w.effects.Changes {
		if ch.Kind != lock.LeaseAcquired && !ch.Lease.Tokens.Empty() && !ch.Lease.Attempted { // the record of its grant was lost
			fail(ch.Lease.Tokens, FailLost, "the lease ended before it could be told")
		}
	}
	for _, ch := range w.effects.Callbacks {
		list = append(list, Job{Kind: JobTell, Lock: w.Lock, Key: ch.Key, Lease: ch.Lease})
	}
	if w.effects.Unsettled { // whoever wrote it died before it had handed on all there is
		list = append(list, Job{Kind: JobSettle, Lock: w.Lock})
	}
	return list
}

// tryFirst does a job of a write for the first time: a grant is told with what the write shows, which spares a read.
func (c *Consumer) tryFirst(ctx context.Context, j Job, seen lock.Record) error {
	if j.Kind == JobTell {
		return c.teller().tell(ctx, j.Lock, lock.Change{Kind: lock.LeaseAcquired, Key: j.Key, Lease: j.Lease}, seen)
	}
	return c.do(ctx, j)
}

// settle grants a lock's waiters what is free.
func (c *Consumer) settle(ctx context.Context, name string) error {
	if err := c.Coordinator.Settle(ctx, name); err != nil {
		c.reporter().fault(ctx, LockNotHandedOn, "lock was not handed on", slog.String("lock", name), slog.Any("error", err))
		return err
	}
	c.settled(name)
	return nil
}

// output is what a task gets of its lease.
func output(name string, h lock.Lease) []byte {
	out := wire.Granted{
		Lock: name, Fence: h.Fence, Owner: h.Owner, AcquiredAt: wire.At(h.AcquiredAt), ExpiresAt: wire.At(h.ExpiresAt), TTL: h.TTL, Permits: h.Permits,
	}
	if json.Valid([]byte(h.Metadata)) {
		out.Metadata = []byte(h.Metadata)
	}
	data, err := json.Marshal(out)
	if err != nil {
		panic(fmt.Errorf("stream: %w", err)) // plain types
	}
	return data
}

// Executions tell whether executions run.
type Executions interface {
	Running(ctx context.Context, arn string) (bool, error)
}
