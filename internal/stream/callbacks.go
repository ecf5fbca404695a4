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

// Callbacks send the callbacks of tasks that wait with a token. An error is [ErrTaskGone] or [ErrUndeliverable]; after any
// other, it is unknown whether the callback was delivered.
type Callbacks interface {
	// Succeed ends a task's wait with a result in JSON.
	Succeed(ctx context.Context, token lock.Token, output []byte) error
	// Fail ends a task's wait with an error.
	Fail(ctx context.Context, token lock.Token, code, cause string) error
}

// ErrTaskGone says that no task waits with this token. The task may have got its callback before, may have timed out, or may
// belong to an execution that ended; the services do not say which.
var ErrTaskGone = errors.New("no task waits with this token")

// ErrUndeliverable says that a callback can never be sent: the deployment does not allow it, or the token is not valid.
var ErrUndeliverable = errors.New("callback cannot be sent")

// The error codes of a wait that ends without a grant, for a state machine's Catch.
const (
	FailTimedOut  = "WaitTimedOut"
	FailCancelled = "WaitCancelled"
	FailLost      = "LeaseLost"
)

// endedEarly is the cause of FailLost.
const endedEarly = "the lease ended before its callback was sent"

// A notifier delivers callbacks.
type notifier struct {
	callbacks   Callbacks
	coordinator *lock.Coordinator
	reporter
}

func (c *Consumer) notifier() notifier { return notifier{c.Callbacks, c.Coordinator, c.reporter()} }

// deliver sends the callbacks of a grant, one for each of its tokens. seen is the lock's record, if it is known. After an
// error, deliver must be retried.
//
// It first stores under the lease and its fence that a callback is about to be attempted. So if a task is gone:
//
//   - On the first attempt, with the only token there ever was, no callback can have been delivered: the task has ended. Its
//     lease is ended at once, unless another attempt has begun since, or somebody else has asked for the lease.
//   - On a later attempt, an earlier one may have succeeded and its reply been lost, or this process may have died after it.
//     The task may work under the lock, so the lease stays; its TTL, or the end of its execution, ends it. The same holds for
//     a task that was retried and so has several tokens: each gets a callback, and it is unknown which token is the live one.
//
// A crash before the attempt is stored makes the next attempt a first one, a crash after that a later one. So a live task
// never loses its lock, and the lock of a dead task stays for a TTL at most.
func (n notifier) deliver(ctx context.Context, name string, key lock.LeaseKey, l lock.Lease, seen lock.Record) error {
	attrs := []slog.Attr{slog.String("lock", name), slog.Int64("fence", l.Fence), slog.String("owner", l.Owner)}
	ref := lock.GrantRef{Lock: name, Key: key, Fence: l.Fence}
	first, err := n.coordinator.MarkAttempt(ctx, ref, l.Tokens, seen)
	switch {
	case errors.Is(err, lock.ErrSuperseded): // the write that added a token has its own job for all of them
		return nil
	case errors.Is(err, lock.ErrLeaseLost):
		return n.fail(ctx, name, l.Tokens, FailLost, endedEarly)
	case err != nil:
		n.fault(ctx, CallbackFailed, "callback of a grant was not delivered", append(attrs, slog.Any("error", err))...)
		return err
	}
	gone := 0
	tokens := l.Tokens.List()
	var failed error
	for _, token := range tokens {
		err := n.callbacks.Succeed(ctx, token, output(name, l))
		attrs := append(slices.Clone(attrs), slog.Bool("first", first), slog.Any("error", err))
		switch {
		case err == nil:
			n.log.LogAttrs(ctx, slog.LevelInfo, "callback of a grant was delivered", attrs...)
		case errors.Is(err, ErrTaskGone):
			gone++
			n.log.LogAttrs(ctx, slog.LevelInfo, "no task waits with this token", attrs...)
		case errors.Is(err, ErrUndeliverable): // the task can never get its callback, as if it were gone
			gone++
			n.fault(ctx, CallbackUndeliverable, "callback of a grant cannot be delivered", attrs...)
		default:
			failed = err
			n.fault(ctx, CallbackFailed, "callback of a grant was not delivered", attrs...)
		}
	}
	if !first || gone == 0 || len(tokens) > 1 {
		return failed
	}
	// If EndTask fails, a retry is not a first attempt: the lease's TTL ends it.
	if err := n.coordinator.EndTask(ctx, ref, l.Tokens, "task gone"); err != nil {
		n.fault(ctx, CallbackFailed, "lease of a dead task was not ended", append(attrs, slog.Any("error", err))...)
	}
	return failed
}

// fail ends the waits of tokens with an error. After an error of its own, it must be retried.
func (n notifier) fail(ctx context.Context, name string, tokens lock.Tokens, code, cause string) error {
	var failed error
	for _, token := range tokens.List() {
		switch err := n.callbacks.Fail(ctx, token, code, cause); {
		case err == nil, errors.Is(err, ErrTaskGone):
		case errors.Is(err, ErrUndeliverable):
			n.fault(ctx, CallbackUndeliverable, "callback of an ended wait cannot be delivered", slog.String("lock", name), slog.Any("error", err))
		default:
			failed = err
			n.fault(ctx, CallbackFailed, "callback of an ended wait was not delivered", slog.String("lock", name), slog.Any("error", err))
		}
	}
	return failed
}

// maxCallbackFailures is the number of failed callbacks in a row after which the rest of a batch's are deferred without an
// attempt: each attempt at a service that does not answer takes some seconds.
const maxCallbackFailures = 3

// errNotTried is the error of a job that was deferred without an attempt.
var errNotTried = errors.New("not attempted, because the jobs before it failed")

// callbacks delivers the callbacks of a batch's grants and ended waits, and settles the locks whose writes left waiters that fit.
func (c *Consumer) callbacks(ctx context.Context, batch []derivation) (failures []failure) {
	if c.Callbacks == nil {
		return nil
	}
	inARow := 0
	for i, d := range batch {
		if d.Poison != nil {
			continue
		}
		for _, j := range c.jobs(d) {
			err := errNotTried
			if inARow < maxCallbackFailures || c.Backlog == nil {
				err = catchPanic(func() error { return c.doFirst(ctx, j, d.After) })
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
func (c *Consumer) jobs(d derivation) (list []Job) {
	fail := func(tokens lock.Tokens, code, cause string) {
		list = append(list, Job{Kind: JobFail, Lock: d.Lock, Tokens: tokens, Code: code, Cause: cause})
	}
	for _, ended := range d.Ended {
		if ended.Until <= c.now().UnixMilli() {
			fail(ended.Tokens, FailTimedOut, "the lock did not come free within wait_ms")
		} else {
			fail(ended.Tokens, FailCancelled, "the wait was cancelled")
		}
	}
	for _, ch := range d.effects.Changes {
		if ch.Kind != lock.LeaseAcquired && !ch.Lease.Tokens.Empty() && !ch.Lease.Attempted { // the grant's own record was lost
			fail(ch.Lease.Tokens, FailLost, endedEarly)
		}
	}
	for _, ch := range d.effects.Callbacks {
		list = append(list, Job{Kind: JobDeliver, Lock: d.Lock, Key: ch.Key, Lease: ch.Lease})
	}
	if d.effects.Unsettled { // the coordinator settles it with its next write, unless it dies before
		list = append(list, Job{Kind: JobSettle, Lock: d.Lock})
	}
	return list
}

// doFirst does a job of a write for the first time. seen is the record that the write left; it spares deliver a read.
func (c *Consumer) doFirst(ctx context.Context, j Job, seen lock.Record) error {
	if j.Kind == JobDeliver {
		return c.notifier().deliver(ctx, j.Lock, j.Key, j.Lease, seen)
	}
	return c.do(ctx, j)
}

// settle grants the free permits of a lock to its waiters.
func (c *Consumer) settle(ctx context.Context, name string) error {
	if err := c.Coordinator.Settle(ctx, name); err != nil {
		c.reporter().fault(ctx, LockNotHandedOn, "lock was not granted to its waiters", slog.String("lock", name), slog.Any("error", err))
		return err
	}
	c.clearSettleFailures(name)
	return nil
}

// output is the result of a task's wait: its lease, as JSON.
func output(name string, l lock.Lease) []byte {
	out := wire.Granted{
		Lock: name, Fence: l.Fence, Owner: l.Owner, AcquiredAt: wire.At(l.AcquiredAt), ExpiresAt: wire.At(l.ExpiresAt), TTL: l.TTL, Permits: l.Permits,
	}
	if json.Valid([]byte(l.Metadata)) {
		out.Metadata = []byte(l.Metadata)
	}
	data, err := json.Marshal(out)
	if err != nil {
		panic(fmt.Errorf("stream: %w", err)) // cannot happen: plain types
	}
	return data
}

// Executions check whether executions run.
type Executions interface {
	// Running reports whether an execution has not ended.
	Running(ctx context.Context, arn string) (bool, error)
}
