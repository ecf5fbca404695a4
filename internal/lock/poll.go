package lock

import (
	"context"
	"errors"
	"time"
)

// A poll is a repeated acquire with the ticket of its place. It reads the record and the waiter with that ticket, in one request to the
// store. Most polls end with that: the lock is held, and the waiter keeps its place. Once in half of the place's time, the poll also
// extends the place, by a write of the waiter alone. Everything else is as without a ticket: a grant to claim, a lock to take over, a place
// that is gone. So a ticket that is wrong, of another lock or of another waiter costs time and changes no answer.
//
// The two items may be read at different times. That is safe: an answer that the lock is held needs the place, which was there when it was
// read, and a grant is claimed by a command on the record.

// hasTicket reports whether the request may be answered by a poll.
func (o acquiring) hasTicket() bool { return o.req.Ticket > 0 && o.req.Wait > 0 && o.polls() }

func (c *Coordinator) poll(ctx context.Context, name string, op acquiring) (outcome, error) {
	for range maxTries {
		asked := c.clock()
		read, w, err := c.store.Poll(ctx, name, op.req.Ticket)
		if err != nil {
			return outcome{}, c.noteClock(err)
		}
		if err := c.checkOffset(read.Offset); err != nil {
			return outcome{}, err
		}
		read.After.hold = c.holdOn(ctx, name)
		now := c.clock()
		until, waits := op.polled(now, read.After, w)
		if !waits {
			return c.decide(ctx, name, read, asked, op)
		}
		read.After.Own = w
		if until == 0 {
			return outcome{read, false, now}, nil
		}
		reply, err := c.store.Apply(ctx, name, op.rules.keep(w, until))
		if err == nil {
			return outcome{Reply{After: read.After, Offset: reply.Offset}, false, now}, nil
		}
		if _, moved := errors.AsType[*GuardError](err); !moved {
			return outcome{}, c.noteClock(err)
		}
	}
	return outcome{}, tooManyTries()
}

// polled decides on what a poll read: waits is false if the request must be decided on as without a ticket. until, if not 0, is the time to
// which the place must be extended.
func (o acquiring) polled(now time.Time, r Record, w Waiter) (until int64, waits bool) {
	_, holds := r.Holders[o.key]
	_, newToken := w.Tokens.with(o.req.Token)
	if holds || newToken || w.Key != o.key || r.Rev == 0 || unshared(w.Tokens, w.Known) {
		return 0, false
	}
	ms := now.UnixMilli()
	if _, overdue := o.rules.recheck(now, r); overdue || len(r.blocking(ms, o.rules.skew())) < len(r.Holders) {
		return 0, false
	}
	if o.isHalfOver(now, w) {
		until = max(w.Until, now.Add(o.req.Wait).UnixMilli())
	}
	held := r.heldBack(now) != nil
	free := r.hasFree() && !held
	switch isHead := w.Ticket <= r.Head; {
	case len(r.Holders) == 0 && !held, free && isHead && r.fits(w.Terms): // a write left waiters that fit
		return 0, false
	case free && until > 0: // the head may be an abandoned waiter that wants more than is free
		return 0, false
	}
	if until > 0 && until > (r.TTL-int64(o.rules.Retention/(2*time.Second)))*1000 {
		return 0, false // the row would be purged soon after: a write of it moves its native TTL, too
	}
	return until, true
}
