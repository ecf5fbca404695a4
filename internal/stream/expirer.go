package stream

import (
	"context"
	"log/slog"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// An Expirer is what happens when a timer comes due.
type Expirer struct {
	Coordinator *lock.Coordinator
	Timers      Timers // for those that came early
	Log         *slog.Logger
}

// Fire puts out the lease that a timer names, if it is past its expiry; sets the timer again if the lease was renewed;
// and does nothing if the lease is gone. An error means that the timer must come again.
func (x *Expirer) Fire(ctx context.Context, t Timer) error {
	again, err := x.Coordinator.Expire(ctx, lock.ExpireRequest{Lock: t.Lock, Lease: t.Lease, Fence: t.Fence})
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

// minHop keeps a timer that is due at once from spinning, should two clocks disagree about when that is.
const minHop = 10 * time.Millisecond
