package lock

import (
	"context"
	"errors"
	"slices"
	"time"
)

// The lease of an execution ends with the execution, not at a time. Two signals end it: the event of the execution's end
// ([Coordinator.EndExecution]), and a timer that checks whether the execution runs ([Coordinator.Expire]). If both are
// lost, the next acquire that is refused asks for the check again (recheck).

const (
	// ExecutionLife is how long the lease of an execution lasts if nothing ends it. An execution runs for a year at most
	// (Step Functions' quota for standard workflows).
	ExecutionLife = 367 * 24 * time.Hour
	// RecheckAfter is how long a check of an execution must be overdue before a refused caller asks for it again. It also
	// bounds how often that happens.
	RecheckAfter = time.Minute
	// maxRechecks is how many overdue checks one write asks for, so that its update expression fits DynamoDB's 4 KB. The
	// next refused caller asks for others.
	maxRechecks = 10
)

// An ExecutionError is the outcome of a timer whose lease belongs to an execution: the caller must check whether the
// execution runs.
type ExecutionError struct {
	Execution string
	Every     time.Duration // how often to check
	Lease     Lease
}

func (e *ExecutionError) Error() string { return "the lease belongs to execution " + e.Execution }

// EndExecution ends every lease of an execution that is over, and removes its waiters from all queues. If there is any, it
// calls over first: an event of the end may be older than a restart of the execution.
func (c *Coordinator) EndExecution(ctx context.Context, execution string, over func(context.Context) (bool, error)) error {
	list, err := c.store.Bound(ctx, execution)
	if err != nil || len(list) == 0 {
		return err
	}
	if is, err := over(ctx); err != nil || !is {
		return err
	}
	for _, b := range list {
		if err := c.EndPlace(ctx, b, execution); err != nil {
			return err
		}
	}
	return c.store.Unbind(ctx, execution, list)
}

// EndPlace ends one lease, or one place in a queue, of an execution that is over; of a set those in all its locks, by one write. What is not there,
// or belongs to something else, is no error. The event is a release.
func (c *Coordinator) EndPlace(ctx context.Context, b Binding, execution string) error {
	if names := SetNames(b.Set); names != nil {
		_, err := c.runSet(ctx, names, nil, setEndingExecution{c.rules, names, b.Key, execution})
		return err
	}
	_, err := c.readFirst(ctx, b.Lock, endingPlace{c.rules, b.Key, execution})
	return err
}

type endingPlace struct {
	rules     Rules
	key       LeaseKey
	execution string
}

func (o endingPlace) waiters(Record) int { return QueueHead }

func (o endingPlace) place(r Record) LeaseKey { return placeUnlessHeld(r, o.key) }

func (o endingPlace) next(now time.Time, r Record) (*Command, error) {
	l, held := r.Holders[o.key]
	place, waits := r.place(o.key)
	var to Record
	switch {
	case held && l.Execution == o.execution:
		to = r.withoutHolder(o.key)
	case !held && waits && place.Execution == o.execution:
		to = r.withoutPlace(place)
	default:
		return nil, nil
	}
	to = o.rules.settle(now, to)
	to.Retired = Retired{Key: o.key, Fence: l.Fence, At: now.UnixMilli(), Cause: CauseExecutionEnd}
	c := o.rules.swap(now, r, to, CauseExecutionEnd, o.execution, "")
	return &c, nil
}

// MarkChecked stores that a grant's execution was found running; of a set, for the leases in all its locks. set is its text, or empty. MarkChecked
// returns when to check again: every from now, a minute later for a lease of a set that is not its first, or the zero time if the grant is over. It is no
// later than the time at which a limit ends the lease.
func (c *Coordinator) MarkChecked(ctx context.Context, ref GrantRef, set string, every time.Duration) (again time.Time, err error) {
	again = c.clock().Add(every)
	var after Record
	if names := SetNames(set); names != nil {
		var out setOutcome
		if out, err = c.runSet(ctx, names, nil, setChecking{c.rules, names, ref, again.UnixMilli()}); err == nil {
			after = out.after[slices.Index(names, ref.Lock)]
		}
	} else {
		var out outcome
		out, err = c.readFirst(ctx, ref.Lock, checking{c.rules, ref, again.UnixMilli()})
		after = out.After
	}
	if errors.Is(err, ErrLeaseLost) {
		return time.Time{}, nil
	}
	if l, held := ref.in(after); held && (l.EndsAt > 0 || set != "") { // it may end before that, or is due after the first of its set
		again = time.UnixMilli(l.CheckAt)
	}
	return again, err
}

type checking struct {
	rules Rules
	ref   GrantRef
	again int64 // when to check next
}

func (o checking) waiters(Record) int { return 0 }

func (o checking) next(now time.Time, r Record) (*Command, error) {
	l, held := o.ref.in(r)
	if !held || l.ExpiresAt <= now.UnixMilli() {
		return nil, ErrLeaseLost
	}
	was := l.CheckAt
	l.CheckAt = o.again
	if l = l.bounded(); was >= l.CheckAt {
		return nil, nil
	}
	c := o.rules.swap(now, r, r.withHolder(o.ref.Key, l), CauseCheck, "", "")
	return &c, nil
}

// recheck asks again for checks of executions that are overdue by [RecheckAfter]: it sets their CheckAt to now, and the
// stream's consumer sets timers for them. Without it, an execution whose end event and timer were both lost would hold the
// lock for [ExecutionLife]. It reports whether there was such a check.
func (u Rules) recheck(now time.Time, r Record) (to Record, overdue bool) {
	ms, asked := now.UnixMilli(), 0
	to = r
	for _, key := range byFence(r.Holders) {
		l := r.Holders[key]
		if l.Execution != "" && !l.Unclaimed && l.CheckAt <= ms-RecheckAfter.Milliseconds() && asked < maxRechecks {
			l.CheckAt, asked = ms, asked+1
			to = to.withHolder(key, l)
		}
	}
	return to, asked > 0
}
