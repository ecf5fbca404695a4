package stream

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// An Expirer is what happens when a timer comes due.
type Expirer struct {
	Coordinator *lock.Coordinator
	Timers      Timers     // for those that came early
	Executions  Executions // nil: no lease belongs to one
	Log         *slog.Logger
}

// Fire puts out the lease that a timer names, if it is past its expiry; sets the timer again if the lease was renewed;
// and does nothing if the lease is gone. An error means that the timer must come again.
func (x *Expirer) Fire(ctx context.Context, t Timer) error {
	again, err := x.Coordinator.Expire(ctx, lock.ExpireRequest{Lock: t.Lock, Lease: t.Lease, Fence: t.Fence})
	if bound, ok := errors.AsType[*lock.ExecutionError](err); ok && x.Executions != nil {
		again, err = x.check(ctx, t, bound)
	}
	if err != nil {
		x.Log.ErrorContext(ctx, "timer failed", "lock", t.Lock, "fence", t.Fence, "error", err)
		return err
	}
	if again.IsZero() {
		return nil
	}
	t.Due = again
	for _, err := range x.Timers.Arm(ctx, []Timer{t}) {
		if err != nil {
			x.Log.ErrorContext(ctx, "timer was not set again", "lock", t.Lock, "fence", t.Fence, "error", err)
			return err
		}
	}
	return nil
}

// check looks whether a lease's execution still runs: the backstop of the event that says that it ended.
func (x *Expirer) check(ctx context.Context, t Timer, bound *lock.ExecutionError) (again time.Time, err error) {
	running, err := x.Executions.Running(ctx, bound.Execution)
	if err != nil {
		return time.Time{}, err
	}
	req := lock.ExpireRequest{Lock: t.Lock, Lease: t.Lease, Fence: t.Fence}
	if running {
		return x.Coordinator.Checked(ctx, req, bound.Every)
	}
	x.Log.InfoContext(ctx, "execution ended unheard", "lock", t.Lock, "fence", t.Fence, "execution", bound.Execution)
	if err := x.Coordinator.Depart(ctx, t.Lock, t.Lease, bound.Execution); err != nil { // whatever is known of its other locks
		return time.Time{}, err
	}
	return time.Time{}, x.Coordinator.EndExecution(ctx, bound.Execution, func(context.Context) (bool, error) { return true, nil })
}

// minHop keeps a timer that is due at once from spinning, should two clocks disagree about when that is.
const minHop = 10 * time.Millisecond
