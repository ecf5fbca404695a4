package lock

import (
	"context"
	"time"
)

// What the table says that nobody has done in time: a timer died, a record of the stream was lost, a process was killed in the wrong moment.
// The next acquire of the lock mends most of it; a lock that nobody asks for stays as it is until an operator looks. [Coordinator.Examine]
// finds it; [Coordinator.Expire], [Coordinator.Settle] and package stream's callbacks mend it.

// A Finding is something that is due on a lock and was not done.
type Finding struct {
	Kind      FindingKind
	Lock      string
	Key       LeaseKey  // of the lease or the waiter; empty for a finding about the record
	Lease     Lease     // of a finding about a lease
	Ticket    int64     // of a finding about a waiter
	Since     time.Time // when it became due; zero for a finding about the record
	Execution string    // to which the lease belongs
}

// Ref names the grant of a finding about a lease.
func (f Finding) Ref() GrantRef { return GrantRef{Lock: f.Lock, Key: f.Key, Fence: f.Lease.Fence} }

// A FindingKind says what is due. Its values are in the answers of the command.
type FindingKind string

// The kinds of finding.
const (
	FindingExpired   FindingKind = "expired"    // a lease is past its expiry, and others wait for it or its events are published: its timer died
	FindingUnchecked FindingKind = "unchecked"  // the check of a lease's execution is overdue: its timer died
	FindingUntold    FindingKind = "untold"     // a lease was granted to a task whose callback nobody has answered
	FindingUnsettled FindingKind = "unsettled"  // permits are free, the waiter at the head of the queue fits, and no freeze is in force
	FindingAbandoned FindingKind = "abandoned"  // a waiter's time is over, and its place is still there
	FindingNoTTL     FindingKind = "no-ttl"     // the row has no native TTL: nothing will ever purge it
	FindingAhead     FindingKind = "fence-lead" // the fencing token is ahead of time, so that nothing can be granted: see [Coordinator.Repair]
)

// Patience is how long after something is due a finding of it is made: a timer is delayed by a few seconds at most, and by a minute while
// SQS or the functions are throttled.
const Patience = time.Minute

// findings are what is due on a record since patience. Waiters are judged as far as the record has them. listened says that others listen
// for the events of the lock, so that a lease which nobody waits for must be ended in time all the same.
func (u Rules) findings(now time.Time, name string, r Record, listened bool) (list []Finding) {
	if r.Rev == 0 {
		return nil
	}
	ms := now.UnixMilli()
	due := ms - Patience.Milliseconds()
	of := func(kind FindingKind, since int64, key LeaseKey) {
		l := r.Holders[key]
		list = append(list, Finding{Kind: kind, Lock: name, Key: key, Lease: l, Since: time.UnixMilli(since), Execution: l.Execution})
	}
	for _, key := range byFence(r.Holders) {
		l := r.Holders[key]
		checked := l.Execution != "" && !l.Unclaimed
		switch {
		case checked && l.CheckAt <= due:
			of(FindingUnchecked, l.CheckAt, key)
		case !checked && l.ExpiresAt+u.skew() <= due && (r.Waiting > 0 || listened):
			of(FindingExpired, l.ExpiresAt+u.skew(), key)
		}
		if l.Tokens.OfTask() && !l.Told && l.ExpiresAt > ms && l.AcquiredAt <= due {
			of(FindingUntold, l.AcquiredAt, key)
		}
	}
	for _, w := range r.Places() {
		if w.Until <= due {
			list = append(list, Finding{Kind: FindingAbandoned, Lock: name, Key: w.Key, Ticket: w.Ticket, Since: time.UnixMilli(w.Until), Execution: w.Execution})
		}
	}
	if ahead := fenceError(now, r.nextFence(now)); ahead != nil {
		list = append(list, Finding{Kind: FindingAhead, Lock: name})
	} else if len(list) == 0 && r.heldBack(now) == nil && u.fitsBy(due, r) {
		list = append(list, Finding{Kind: FindingUnsettled, Lock: name})
	}
	if r.TTL == 0 {
		list = append(list, Finding{Kind: FindingNoTTL, Lock: name})
	}
	return list
}

// fitsBy reports whether the first waiter that was read fits since a time, in milliseconds. A record whose waiters were not read is judged by
// its permits. Leases that expired later still have their timers. A set may wait for its other locks: Examine looks at these.
func (u Rules) fitsBy(due int64, r Record) bool {
	r.Holders = r.blocking(due, u.skew())
	if len(r.Queue) > 0 {
		return r.Queue[0].Set == "" && r.fits(r.Queue[0].Terms)
	}
	return r.Waiting > 0 && r.hasFree()
}

// Suspect reports whether a record, as a sweep of the table reads it, needs a closer look by [Coordinator.Examine].
func (c *Coordinator) Suspect(name string, r Record, listened bool) bool {
	return len(c.rules.findings(c.clock(), name, r, listened)) > 0
}

// Examine reads a lock and the head of its queue, and returns what is due on it and was not done within [Patience]. A
// queue whose head fits is a finding without a time: the write that settles it may be under way, so it counts only if a later Examine finds it
// at the same revision. The record is returned for what
// else its reader wants to know; it is the zero Record if there is no row.
func (c *Coordinator) Examine(ctx context.Context, name string, listened bool) ([]Finding, Record, error) {
	read, err := c.store.Get(ctx, name)
	if err != nil {
		return nil, Record{}, err
	}
	if err := c.checkOffset(read.Offset); err != nil { // with a wrong clock everything seems overdue, or nothing
		return nil, Record{}, err
	}
	r := read.After
	if r.Waiting > 0 {
		if r.Queue, err = c.store.Waiters(ctx, name, maxMoves+1); err != nil {
			return nil, Record{}, err
		}
		if r.hold = c.holdOn(ctx, name); r.hold.failed() != nil {
			return nil, Record{}, r.hold.failed()
		}
	}
	list := c.rules.findings(c.clock(), name, r, listened)
	if set := r.headSet(); len(list) == 0 && set != nil && c.setIsForgotten(ctx, *set) {
		list = append(list, Finding{Kind: FindingUnsettled, Lock: name})
	}
	return list, r, nil
}

// setIsForgotten reports whether a set that waits could be granted now.
func (c *Coordinator) setIsForgotten(ctx context.Context, w Waiter) bool {
	names := SetNames(w.Set)
	op := setSettling{c.rules, names, w.Key}
	rs, _, err := c.readSet(ctx, names, w.Tickets[:len(names)], op)
	if err != nil {
		return false
	}
	parts, err := op.next(c.clock(), rs, rs)
	return err == nil && len(parts) > 0
}

// Rewrite writes a row again as it is, as its next use would: with its native TTL, and in the store's index. The write is quiet, so that nothing
// follows from it. A row that is gone is no error.
func (c *Coordinator) Rewrite(ctx context.Context, name string) error {
	_, err := c.readFirst(ctx, name, rewriting{c.rules})
	return err
}

type rewriting struct{ rules Rules }

func (o rewriting) waiters(Record) int { return QueueHead }

func (o rewriting) next(now time.Time, r Record) (*Command, error) {
	if r.Rev == 0 {
		return nil, nil
	}
	c := o.rules.swap(now, r, r, CauseQueue, "", "")
	return &c, nil
}
