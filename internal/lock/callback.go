package lock

import (
	"context"
	"time"
)

// An Attempt is the outcome of [Coordinator.MarkAttempt].
type Attempt struct {
	// First reports whether nobody can have heard of the lease before: this is the first attempt, there is one token, and
	// no caller without a token asked for the lease. Only then may a task that is gone cost the lease (see
	// [Coordinator.EndTask]).
	First bool
	// Seen is the record with the attempt. It spares [Coordinator.MarkTold] a read.
	Seen Record
}

// MarkAttempt stores that a callback of a grant is about to be attempted.
//
// A grant that is over is [ErrLeaseLost]; one whose tokens are not the ones given any more is [ErrSuperseded]; one whose
// callbacks were answered is [ErrTold]. seen is the record that a write left a moment ago, or the zero Record; it spares a
// read where it shows the grant without an attempt.
func (c *Coordinator) MarkAttempt(ctx context.Context, ref GrantRef, tokens Tokens, seen Record) (Attempt, error) {
	op := &attempting{rules: c.rules, ref: ref, tokens: tokens}
	l, held := ref.in(seen)
	out, err := c.mark(ctx, ref, seen, held && !l.Attempted && l.ExpiresAt > c.clock().UnixMilli(), op)
	return Attempt{op.first && err == nil, out.After}, err
}

// mark runs an operation on a grant: from a record that may be stale, if it is of use, or else from one that it reads.
func (c *Coordinator) mark(ctx context.Context, ref GrantRef, seen Record, useful bool, op decider) (outcome, error) {
	if !useful {
		return c.readFirst(ctx, ref.Lock, op)
	}
	seen.Queue = nil
	return c.decide(ctx, ref.Lock, Reply{After: seen}, time.Time{}, op)
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
	case l.Told:
		return nil, ErrTold
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

// MarkTold stores that the callbacks of a grant were answered, so that nobody sends them again. tokens are those that they were
// for: one that was added since needs a callback of its own. A grant that is over is no error. seen is the record that a
// write left a moment ago, or the zero Record. MarkTold returns the record as it is then stored.
func (c *Coordinator) MarkTold(ctx context.Context, ref GrantRef, tokens Tokens, seen Record) (Record, error) {
	_, held := ref.in(seen)
	out, err := c.mark(ctx, ref, seen, held, telling{c.rules, ref, tokens})
	return out.After, err
}

type telling struct {
	rules  Rules
	ref    GrantRef
	tokens Tokens
}

func (o telling) waiters(Record) int { return 0 }

func (o telling) next(now time.Time, r Record) (*Command, error) {
	l, held := o.ref.in(r)
	if !held || l.Tokens != o.tokens || l.Told {
		return nil, nil
	}
	l.Told = true
	c := o.rules.swap(now, r, r.withHolder(o.ref.Key, l), CauseTold, "", "")
	return &c, nil
}

// Unclaimed reports whether a grant is still to be claimed by its waiter, who polls.
func (c *Coordinator) Unclaimed(ctx context.Context, ref GrantRef) (bool, error) {
	reply, err := c.store.Get(ctx, ref.Lock)
	l, held := ref.in(reply.After)
	return held && l.Unclaimed && l.ExpiresAt > c.clock().UnixMilli(), err
}

// EndTask ends a grant whose only task is gone, of a set in all its locks by one write. l is the lease as it was stored with that task's token, of a
// set in its first lock; by says who found out. The grant stays if it has other tokens by now, or if anybody else may use the lease. A grant that is
// over is no error. The event is a release. The secret may be used again: the task, when it is retried, waits with another token.
func (c *Coordinator) EndTask(ctx context.Context, ref GrantRef, l Lease, by string) error {
	op := endingTask{c.rules, ref, by, l.Tokens}
	if names := SetNames(l.Set); names != nil {
		_, err := c.runSet(ctx, names, nil, setEndingTask{op, names})
		return err
	}
	_, err := c.readFirst(ctx, ref.Lock, op)
	return err
}

type endingTask struct {
	rules  Rules
	ref    GrantRef
	by     string
	tokens Tokens
}

func (o endingTask) waiters(Record) int { return QueueHead }

// ends reports whether the grant is there, has the same tokens, and no caller may be at work under it.
func (o endingTask) ends(r Record) bool {
	l, held := o.ref.in(r)
	return held && l.Tokens == o.tokens && !l.Known && l.RenewedAt == l.AcquiredAt
}

func (o endingTask) next(now time.Time, r Record) (*Command, error) {
	if !o.ends(r) {
		return nil, nil
	}
	l, _ := o.ref.in(r)
	to := o.rules.settle(now, r.withoutHolder(o.ref.Key))
	to.Retired = Retired{Key: o.ref.Key, Fence: l.Fence, At: now.UnixMilli(), Cause: CauseTaskGone}
	c := o.rules.swap(now, r, to, CauseTaskGone, o.by, "")
	return &c, nil
}
