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

// settleTime is how long a queue that could move may stay as it is before that is a finding: the write that settles it may be under way.
const settleTime = 2 * time.Second

// NoIndex is the [Outcome.What] of a lock whose row is not in the index of names.
const NoIndex = "no-index"

// examine finds what is due on a lock. A queue that could move must be found twice.
func (r *Redriver) examine(ctx context.Context, name string) ([]lock.Finding, error) {
	list, record, err := r.Coordinator.Examine(ctx, name, r.listens(name))
	if err != nil || len(list) == 0 || list[0].Kind != lock.FindingUnsettled {
		return list, err
	}
	if err := r.wait(ctx, settleTime); err != nil {
		return nil, err
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
	return r.treat(ctx, found, apply), nil
}

// treat mends what is due, or shows it.
func (r *Redriver) treat(ctx context.Context, found []lock.Finding, apply bool) (list []Outcome) {
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
	return list
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
		return r.Coordinator.Rewrite(ctx, f.Lock)
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

// lasting handles an item other than a lock's that has no native TTL.
func (r *Redriver) lasting(ctx context.Context, req Request, it dynamo.Swept) Outcome {
	o := Outcome{What: string(lock.FindingNoTTL), Lock: it.Lock, State: Due, Detail: fmt.Sprintf("the item %s has no native TTL, so nothing will ever purge it", it.SK), Fix: "holdfast redrive --apply"}
	if it.Kind == dynamo.SweptOther {
		o.State, o.Fix = Kept, "if no newer version of Holdfast uses this table, set its attribute ttl or delete it by hand"
		return o
	}
	if req.Apply {
		if err := r.Store.Expire(ctx, it, r.now()); err != nil {
			o.State, o.Detail = Failed, o.Detail+": "+err.Error()
			return o
		}
		o.State, o.Fix = Done, ""
	}
	return o
}

// unlisted handles a lock whose row is not in the index of names, so that lists of a prefix may leave it out: a version without the index, an import or
// another program made the row. A grant puts it there, and a renewal does not.
func (r *Redriver) unlisted(ctx context.Context, req Request, it dynamo.Swept) Outcome {
	o := Outcome{
		What: NoIndex, Lock: it.Lock, State: Due, Detail: "its row is not in the index of names, so that a list of a prefix may leave it out",
		Fix: "holdfast redrive --apply, or the next acquire of the lock",
	}
	if req.Apply {
		if err := r.Coordinator.Rewrite(ctx, it.Lock); err != nil {
			o.State, o.Detail = Failed, o.Detail+": "+err.Error()
			return o
		}
		o.State, o.Fix = Done, ""
	}
	return o
}
