package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// Callbacks send the callbacks of tasks that wait with a token. An error is [ErrTaskGone] or [ErrUndeliverable]; after any
// other, it is unknown whether the callback was delivered.
type Callbacks interface {
	// Succeed ends a task's wait with a result in JSON.
	Succeed(ctx context.Context, token lock.Token, output []byte) error
	// Fail ends a task's wait with an error.
	Fail(ctx context.Context, token lock.Token, code, cause string) error
}

// ByKind are the callbacks of each kind of token of tasks.
type ByKind map[lock.TokenKind]Callbacks

// Succeed implements [Callbacks].
func (b ByKind) Succeed(ctx context.Context, token lock.Token, output []byte) error {
	if c := b[token.Kind]; c != nil {
		return withoutToken(c.Succeed(ctx, token, output), token)
	}
	return unknownKind(token.Kind)
}

// Fail implements [Callbacks].
func (b ByKind) Fail(ctx context.Context, token lock.Token, code, cause string) error {
	if c := b[token.Kind]; c != nil {
		return withoutToken(c.Fail(ctx, token, code, cause), token)
	}
	return unknownKind(token.Kind)
}

// A tokenError is the error of a callback whose text had the token: services repeat values that they refuse, and errors are logged.
type tokenError struct {
	error
	text string
}

func (e *tokenError) Error() string { return e.text }

func (e *tokenError) Unwrap() error { return e.error }

// withoutToken returns an error whose text does not have the token.
func withoutToken(err error, token lock.Token) error {
	if err == nil || token.Empty() || !strings.Contains(err.Error(), token.Text) {
		return err
	}
	return &tokenError{err, strings.ReplaceAll(err.Error(), token.Text, "(the token)")}
}

func unknownKind(kind lock.TokenKind) error { return fmt.Errorf("%w: %q", ErrUnknownKind, kind) }

// leaves reports whether one of the tokens is that of a task for which there are no callbacks here.
func (b ByKind) leaves(tokens lock.Tokens) bool { return b.unknown(tokens) != nil }

// unknown is [ErrUnknownKind] if one of the tokens is that of a task for which there are no callbacks here.
func (b ByKind) unknown(tokens lock.Tokens) error {
	for _, t := range tokens.List() {
		if t.OfTask() && b[t.Kind] == nil {
			return unknownKind(t.Kind)
		}
	}
	return nil
}

// Notifications send hints to waiters that poll.
type Notifications interface {
	// Notify sends a message to the queue with a URL. An error is [ErrUndeliverable] if a repetition cannot succeed.
	Notify(ctx context.Context, queue string, message []byte) error
}

// ErrTaskGone says that no task waits with this token. The task may have got its callback before, may have timed out, or may
// belong to an execution that ended; the services do not say which.
var ErrTaskGone = errors.New("no task waits with this token")

// ErrUndeliverable says that a callback can never be sent: the deployment does not allow it, or the token is not valid.
var ErrUndeliverable = errors.New("callback cannot be sent")

// ErrUnknownKind says that a token is of a kind for which this process has no callbacks: a newer version stored it. The task may wait, or
// may have got its callback from the newer version, so the grant stays as it is. What failed with this error is deferred, for the newer
// version's functions.
var ErrUnknownKind = errors.New("this version knows no tokens of this kind, and leaves their callbacks to a newer one")

// The error codes of a wait that ends without a grant, for a state machine's Catch.
const (
	FailTimedOut  = "WaitTimedOut"
	FailCancelled = "WaitCancelled"
	FailLost      = "LeaseLost"
)

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
		for _, j := range c.jobs(d, batch[i+1:]) {
			err := errNotTried
			if inARow < maxCallbackFailures || c.Backlog == nil {
				err = catchPanic(func() error { return c.do(ctx, j) })
			}
			switch {
			case err != nil:
				if !errors.Is(err, ErrUnknownKind) { // no service was asked
					inARow++
				}
				failures = append(failures, failure{j, i, err})
			case j.Kind != JobSettle:
				inARow = 0
			}
		}
	}
	return failures
}

// jobs are the callbacks and the hand-off that follow from a write, before the rest of its batch.
func (c *Consumer) jobs(d derivation, rest []derivation) (list []Job) {
	fail := func(tokens lock.Tokens, code, cause string) {
		if tokens.OfTask() {
			list = append(list, Job{Kind: JobFail, Lock: d.Lock, Tokens: tokens, Code: code, Cause: cause})
		}
	}
	for _, ended := range d.Ended {
		if ended.Until <= c.now().UnixMilli() {
			fail(ended.Tokens, FailTimedOut, "the lock did not come free within wait_ms")
		} else {
			fail(ended.Tokens, FailCancelled, "the wait was cancelled")
		}
	}
	for _, ch := range d.effects.Changes {
		if ch.Kind != lock.LeaseAcquired && !ch.Lease.Told { // nobody knows whether its task was told
			fail(ch.Lease.Tokens, FailLost, endedEarly)
		}
	}
	for _, ch := range d.effects.Callbacks {
		if toldWithin(rest, lock.GrantRef{Lock: d.Lock, Key: ch.Key, Fence: ch.Lease.Fence}) {
			continue
		}
		list = append(list, Job{Kind: JobDeliver, Lock: d.Lock, Key: ch.Key, Lease: ch.Lease})
	}
	if d.effects.Unsettled { // the coordinator settles it with its next write, unless it dies before
		j := Job{Kind: JobSettle, Lock: d.Lock}
		if !d.effects.Turn {
			j.Head = noHead
		}
		list = append(list, j)
	}
	return list
}

// toldWithin reports whether a later write of the batch shows the callbacks of a grant answered, as they are if the function that made
// the grant sent them. It spares a read, and for a lease that has ended a callback.
func toldWithin(rest []derivation, ref lock.GrantRef) bool {
	return slices.ContainsFunc(rest, func(d derivation) bool {
		l := d.Before.Holders[ref.Key]
		return d.Lock == ref.Lock && d.Poison == nil && l.Fence == ref.Fence && l.Told
	})
}

// settle grants the free permits of a lock to its waiters. If the head of the queue cannot be granted, and so keeps those behind it from the permits,
// the job is repeated when the head's place ends: its caller may be gone, and then no other write of the lock may come. A job for a head that is
// gone is not repeated, so that there is one for each head: the write that made another one the head has a job of its own. Without a backlog, polls
// find the end of the place.
func (c *Consumer) settle(ctx context.Context, j Job) error {
	held, err := c.Coordinator.SettleUntil(ctx, j.Lock)
	if err != nil {
		c.reporter().fault(ctx, LockNotHandedOn, "lock was not granted to its waiters", slog.String("lock", j.Lock), slog.Any("error", err))
		return err
	}
	c.clearSettleFailures(j.Lock)
	if held.Until.IsZero() || c.Backlog == nil || j.Head != 0 && j.Head != held.Head {
		return nil
	}
	return c.later(ctx, Job{Kind: JobSettle, Lock: j.Lock, Head: held.Head, Due: held.Until, Newer: j.Newer})
}

// Executions check whether executions run.
type Executions interface {
	// Running reports whether an execution has not ended.
	Running(ctx context.Context, arn string) (bool, error)
}
