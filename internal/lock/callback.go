package lock

import (
	"context"
	"time"
)

// MarkAttempt stores that a callback of a grant is about to be attempted. first reports whether nobody can have heard of the
// lease before: this is the first attempt, there is one token, and no caller without a token asked for the lease. Only
// then may a task that is gone cost the lease (see [Coordinator.EndTask]).
//
// A grant that is over is [ErrLeaseLost]; one whose tokens are not the ones given any more is [ErrSuperseded]. seen is the
// record as the stream showed it, or the zero Record; it spares a read where it shows the grant without an attempt.
func (c *Coordinator) MarkAttempt(ctx context.Context, ref GrantRef, tokens Tokens, seen Record) (first bool, err error) {
	op := &attempting{rules: c.rules, ref: ref, tokens: tokens}
	if l, held := ref.in(seen); held && !l.Attempted {
		_, err = c.decide(ctx, ref.Lock, Reply{After: seen}, op)
	} else {
		_, err = c.readFirst(ctx, ref.Lock, op)
	}
	return op.first && err == nil, err
}

type attempting struct {
	rules  Rules
	ref    GrantRef
	tokens Tokens // as they were granted
	first  bool   // set by next, for the command that it returns
}

func (o *attempting) waiters(Record) int { return 0 }

func (o *attempting) next(now time.Time, r Record) (*Command, error) {
	o.first = false // also after a command that seemed to fail and was applied: then the record shows the attempt
	l, held := o.ref.in(r)
	switch {
	case !held || l.ExpiresAt <= now.UnixMilli():
		return nil, ErrLeaseLost
	case l.Tokens != o.tokens:
		return nil, ErrSuperseded
	case !l.Attempted:
		o.first = unshared(l.Tokens, l.Known)
		l.Attempted = true
	case unshared(l.Tokens, l.Known): // the first attempt may still be under way and end after this one
		l.Known = true
	default:
		return nil, nil
	}
	c := o.rules.swap(now, r, r.withHolder(o.ref.Key, l), CauseAttempt, "", "")
	return &c, nil
}

// EndTask ends a grant whose only task is gone. tokens is that task's, as the grant was stored; by says who found out. The
// grant stays if it has other tokens by now, or if anybody else may use the lease. A grant that is over is no error. The
// event is a release. The secret may be used again: the task, when it is retried, waits with another token.
func (c *Coordinator) EndTask(ctx context.Context, ref GrantRef, tokens Tokens, by string) error {
	_, err := c.readFirst(ctx, ref.Lock, endingTask{c.rules, ref, by, tokens})
	return err
}

type endingTask struct {
	rules  Rules
	ref    GrantRef
	by     string
	tokens Tokens
}

func (o endingTask) waiters(Record) int { return queueHead }

func (o endingTask) next(now time.Time, r Record) (*Command, error) {
	l, held := o.ref.in(r)
	if !held || l.Tokens != o.tokens {
		return nil, nil
	}
	if l.Known || l.RenewedAt != l.AcquiredAt { // somebody may be at work under the lease
		return nil, nil
	}
	to := o.rules.settle(now, r.withoutHolder(o.ref.Key))
	to.Retired = Retired{Key: o.ref.Key, Fence: l.Fence, At: now.UnixMilli(), Cause: CauseTaskGone}
	c := o.rules.swap(now, r, to, CauseTaskGone, o.by, "")
	return &c, nil
}
