package redrive

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

const (
	// maxOutcomes is how many outcomes a sweep collects before it answers, so that its answer fits what a function may return.
	maxOutcomes = 2000
	// settleTime is how long a queue that could move may stay as it is before that is a finding: the write that settles it may be under way.
	settleTime = 2 * time.Second
	// orphanLife is the native TTL that an item without one gets, from now: longer than any such item is needed.
	orphanLife = 3 * 24 * time.Hour
)

// sweep reads a part of the table and looks closer at what seems to be left undone: a lease past its expiry whose timer died, a queue that could
// move, a grant that was not told, an execution whose check is overdue, a waiter whose time is over, items without a row or without native TTL.
// With Apply it mends them, and sets the timers of live leases again, which costs a message each and does no harm.
func (r *Redriver) sweep(ctx context.Context, req Request) (a Answer, err error) {
	a.Outcomes, a.Cursor = []Outcome{}, req.Cursor
	for scans := 1; ; scans++ {
		part, err := r.Store.Sweep(ctx, dynamo.SweepQuery{Prefix: req.Prefix, Cursor: a.Cursor, Scans: 1})
		if err != nil {
			return a, err
		}
		a.Items += part.Read
		a.Units += part.Units
		if err := r.part(ctx, req, part.Items, &a); err != nil {
			return a, err
		}
		a.Cursor = part.Next
		if a.Cursor == "" || late(ctx) || len(a.Outcomes) >= maxOutcomes || scans == r.ScansPerAnswer {
			return a, nil
		}
	}
}

// part handles the items of one scan.
func (r *Redriver) part(ctx context.Context, req Request, items []dynamo.Swept, a *Answer) error {
	look := []string{} // the locks that need a closer look
	seen := map[string]bool{}
	suspect := func(name string) {
		if !seen[name] {
			seen[name] = true
			look = append(look, name)
		}
	}
	var timers []stream.Timer
	var strays []dynamo.Swept
	overdue := r.now().Add(-lock.Patience).UnixMilli()
	for _, it := range items {
		switch {
		case it.Err != nil:
			a.Outcomes = append(a.Outcomes, Outcome{
				What: "unreadable", Lock: it.Lock, State: Kept, Detail: fmt.Sprintf("the item %s cannot be read: %v", it.SK, it.Err),
				Fix: "look at the item, and correct or delete it by hand",
			})
			continue
		case it.Kind == dynamo.SweptLock:
			a.Locks++
			if r.Coordinator.Suspect(it.Lock, it.Record, r.listens(it.Lock)) {
				suspect(it.Lock)
			}
			timers = append(timers, r.timersOf(it)...)
			a.Outcomes = append(a.Outcomes, lostOf(req.Lost, it)...)
			continue
		case it.Kind == dynamo.SweptWaiter && it.Waiter.Until <= overdue:
			suspect(it.Lock)
			strays = append(strays, it)
		case it.Kind == dynamo.SweptPlace:
			strays = append(strays, it)
		}
		if it.NoTTL {
			a.Outcomes = append(a.Outcomes, r.lasting(ctx, req, it))
		}
	}
	for _, name := range look {
		list, err := r.tend(ctx, name, req.Apply)
		if err != nil {
			return err
		}
		a.Outcomes = append(a.Outcomes, list...)
	}
	if err := r.strays(ctx, req, strays, a); err != nil {
		return err
	}
	if req.Apply {
		r.arm(ctx, timers, a)
	}
	return nil
}

// timersOf are the timers that the leases of a lock need, by the rules of [lock.Write.Effects].
func (r *Redriver) timersOf(it dynamo.Swept) (list []stream.Timer) {
	c := r.Expirer.Consumer
	if c == nil || c.Timers == nil {
		return nil
	}
	for key, l := range it.Record.Holders {
		if l.Execution != "" || it.Record.Waiting > 0 || r.listens(it.Lock) {
			list = append(list, c.TimerOf(lock.GrantRef{Lock: it.Lock, Key: key, Fence: l.Fence}, l))
		}
	}
	return list
}

func (r *Redriver) arm(ctx context.Context, timers []stream.Timer, a *Answer) {
	if len(timers) == 0 {
		return
	}
	errs := r.Expirer.Consumer.Timers.Arm(ctx, timers)
	a.Timers += len(timers)
	for i, err := range errs {
		if err != nil {
			a.Timers--
			a.Outcomes = append(a.Outcomes, Outcome{What: "timer", Lock: timers[i].Lock, State: Failed, Detail: "the timer was not set again: " + err.Error()})
		}
	}
}

// lostOf names the events of a lock that fell into a time in which records of the stream were lost. Only the last grants and the last end are in
// the table, so that there may be more.
func lostOf(windows []Window, it dynamo.Swept) (list []Outcome) {
	within := func(ms int64) bool {
		at := time.UnixMilli(ms)
		for _, w := range windows {
			if !at.Before(w.From.Add(-time.Second)) && !at.After(w.To.Add(time.Second)) {
				return true
			}
		}
		return false
	}
	lost := func(event string, fence int64) {
		list = append(list, Outcome{
			What: "event", Lock: it.Lock, State: Kept, Detail: "may not have been published, and cannot be made from the table",
			Lost: []string{fmt.Sprintf("%s of grant %d", event, fence)},
		})
	}
	for _, l := range it.Record.Holders {
		if within(l.AcquiredAt) {
			lost("Lock Acquired", l.Fence)
		}
	}
	if end := it.Record.Retired; end.Fence != 0 && within(end.At) {
		lost(fmt.Sprintf("the end (%s)", end.Cause), end.Fence)
	}
	return list
}

// lasting handles an item other than a lock's that has no native TTL.
func (r *Redriver) lasting(ctx context.Context, req Request, it dynamo.Swept) Outcome {
	o := Outcome{What: string(lock.FindingNoTTL), Lock: it.Lock, State: Due, Detail: fmt.Sprintf("the item %s has no native TTL, so nothing will ever purge it", it.SK)}
	if it.Kind == dynamo.SweptOther {
		o.State, o.Fix = Kept, "if no newer version of Holdfast uses this table, set its attribute ttl or delete it by hand"
		return o
	}
	if req.Apply {
		if err := r.Store.Expire(ctx, it, r.now().Add(orphanLife).Unix()); err != nil {
			o.State, o.Detail = Failed, o.Detail+": "+err.Error()
			return o
		}
		o.State = Done
	}
	return o
}

// strays handles waiters whose time is over, and tickets, whose lock has no row.
func (r *Redriver) strays(ctx context.Context, req Request, items []dynamo.Swept, a *Answer) error {
	rows := map[string]bool{}
	for _, it := range items {
		has, known := rows[it.Lock]
		if !known {
			reply, err := r.Store.Get(ctx, it.Lock)
			if err != nil {
				return err
			}
			has = reply.After.Rev > 0
			rows[it.Lock] = has
		}
		if has {
			continue
		}
		o := Outcome{What: "orphan", Lock: it.Lock, State: Due, Detail: fmt.Sprintf("the item %s belongs to a queue whose lock has no row", it.SK)}
		if req.Apply {
			removed, err := r.Store.RemoveOrphan(ctx, it)
			switch {
			case err != nil:
				o.State, o.Detail = Failed, o.Detail+": "+err.Error()
			case removed:
				o.State = Done
			default:
				o.State, o.Detail = Pointless, o.Detail+"; it has changed since"
			}
		}
		a.Outcomes = append(a.Outcomes, o)
	}
	return nil
}

// examine finds what is due on a lock. A queue that could move must be found twice.
func (r *Redriver) examine(ctx context.Context, name string) ([]lock.Finding, error) {
	list, record, err := r.Coordinator.Examine(ctx, name, r.listens(name))
	if err != nil || len(list) == 0 || list[0].Kind != lock.FindingUnsettled {
		return list, err
	}
	select {
	case <-time.After(settleTime):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	again, now, err := r.Coordinator.Examine(ctx, name, r.listens(name))
	if err != nil || now.Rev != record.Rev {
		return nil, err
	}
	return again, nil
}

// tend mends what is due on one lock, or shows it. An error is that of a read.
func (r *Redriver) tend(ctx context.Context, name string, apply bool) (list []Outcome, err error) {
	found, err := r.examine(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	for _, f := range found {
		o := describe(f)
		if problem := r.cannot(f); problem != "" {
			o.State, o.Fix = Kept, problem
		} else if apply {
			if err := r.mend(ctx, f); err != nil {
				o.State, o.Detail = Failed, o.Detail+": "+err.Error()
			} else {
				o.State, o.Fix = Done, ""
			}
		}
		list = append(list, o)
	}
	return list, nil
}

// cannot says what to do about a finding that this redriver cannot mend; empty if it can.
func (r *Redriver) cannot(f lock.Finding) string {
	c := r.Expirer.Consumer
	switch {
	case f.Kind == lock.FindingAhead:
		return "holdfast repair " + f.Lock + " --reason …"
	case f.Kind == lock.FindingUnchecked && r.Expirer.Executions == nil, f.Kind == lock.FindingUntold && (c == nil || c.Callbacks == nil):
		return "holdfast redrive --function NAME --apply: only the deployment's function can reach Step Functions"
	}
	return ""
}

// mend does what a finding calls for.
func (r *Redriver) mend(ctx context.Context, f lock.Finding) error {
	switch f.Kind {
	case lock.FindingExpired, lock.FindingUnchecked:
		return r.Expirer.Try(ctx, stream.Job{Kind: stream.JobTimer, Lock: f.Lock, Timer: stream.Timer{GrantRef: f.Ref()}})
	case lock.FindingUntold:
		return r.Expirer.Try(ctx, stream.Job{Kind: stream.JobDeliver, Lock: f.Lock, Key: f.Key, Lease: f.Lease})
	case lock.FindingUnsettled, lock.FindingAbandoned:
		return r.Coordinator.Settle(ctx, f.Lock)
	case lock.FindingNoTTL:
		return r.Coordinator.KeepForRetention(ctx, f.Lock)
	}
	return errors.New("this version cannot mend it")
}

// describe is the outcome of a finding that has not been mended.
func describe(f lock.Finding) Outcome {
	o := Outcome{What: string(f.Kind), Lock: f.Lock, State: Due, Fix: "holdfast redrive --apply, or the next acquire of the lock"}
	since := stamp(f.Since)
	switch f.Kind {
	case lock.FindingExpired:
		o.Detail = fmt.Sprintf("the lease of grant %d is over since %s, and nobody has ended it: its timer was lost", f.Lease.Fence, since)
	case lock.FindingUnchecked:
		o.Detail = fmt.Sprintf("whether execution %s of grant %d still runs should have been checked at %s: its timer was lost", f.Execution, f.Lease.Fence, since)
	case lock.FindingUntold:
		o.Detail, o.Fix = fmt.Sprintf("the lease of grant %d was granted to a task at %s, and its callback was never answered", f.Lease.Fence, since), "holdfast redrive --apply"
	case lock.FindingUnsettled:
		o.Detail = "permits are free, and the waiter at the head of the queue does not get them"
	case lock.FindingAbandoned:
		o.Detail = fmt.Sprintf("the time of waiter %d is over since %s, and its place is still there", f.Ticket, since)
	case lock.FindingNoTTL:
		o.Detail = "the row has no native TTL, so nothing will ever purge it"
	case lock.FindingAhead:
		o.Detail, o.Fix = "its fencing token is ahead of time, so that nothing can be granted: a coordinator with a wrong clock wrote it", "holdfast repair"
	}
	return o
}
