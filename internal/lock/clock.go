package lock

import (
	"context"
	"errors"
	"time"
)

// checkOffset is the clock guard (rule 5): a reply that proves our clock wrong makes no grant.
func (c *Coordinator) checkOffset(offset time.Duration) error {
	wrong := offset.Abs() > MaxClockError
	c.suspect.Store(wrong)
	if wrong {
		return &ClockError{Offset: offset}
	}
	return nil
}

// noteClock remembers what an error says of our clock.
func (c *Coordinator) noteClock(err error) error {
	if _, wrong := errors.AsType[*ClockError](err); wrong {
		c.suspect.Store(true)
	}
	return err
}

// readIfSuspect reads the lock before the first grant after a reply that proved our clock wrong, so that a clock that is
// known to be wrong writes nothing.
func (c *Coordinator) readIfSuspect(ctx context.Context, name string) error {
	if !c.suspect.Load() {
		return nil
	}
	reply, err := c.store.Get(ctx, name)
	if err != nil {
		return err
	}
	return c.checkOffset(reply.Offset)
}

// undo takes back a grant made under a wrong clock, as far as it can: the holders it displaced that were live by the store's clock
// are back, its secret is spent, and so is its fencing token, which nobody was told: the lock has the token of before. If it fails,
// the grant expires by itself, and a token that is far ahead is for [Coordinator.Repair].
func (c *Coordinator) undo(ctx context.Context, name string, key LeaseKey, granted Reply) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	theirs := c.clock().Add(-granted.Offset)
	_, _ = c.store.Apply(ctx, name, c.rules.undo(theirs, key, granted.Before, granted.After)) // nothing more to do if it fails
}

// undo makes the record before again of the record after a grant of key, at now by the store's clock, if nobody wrote since. The
// grant was not told to anyone; it ends as a release, so that late duplicates of its acquire are recognised.
func (u Rules) undo(now time.Time, key LeaseKey, before, after Record) Command {
	to := after
	to.Holders = before.blocking(now.UnixMilli(), u.skew())
	to.Fence = before.Fence
	if before.Capacity != 0 {
		to.Capacity = before.Capacity
	}
	_, held := before.Holders[key]
	if h, granted := after.Holders[key]; granted && !held {
		to.Retired = Retired{Key: key, Fence: h.Fence, At: now.UnixMilli(), Cause: CauseUndo}
	}
	return u.swap(now, after, to, CauseUndo, after.By, "undone: granted under a wrong clock")
}

// doubt refuses to tell a lease that a coordinator with a wrong clock granted: that one tells nobody, and may be about to take it
// back, with its fencing token.
func (u Rules) doubt(now time.Time, h Lease) error {
	if err := fenceError(now, h.Fence); err != nil {
		return err
	}
	if ahead := time.Duration(h.AcquiredAt-now.UnixMilli()) * time.Millisecond; ahead > u.Skew {
		return &StoreError{
			Kind: ErrUnavailable, What: "the lease was granted " + ahead.String() + " ahead of now: two coordinators' clocks disagree",
			Fix: "send the same request again; and see that the coordinators' clocks are synchronised",
		}
	}
	return nil
}

// fenceError refuses a fencing token that is further ahead of now than [MaxFenceLead].
func fenceError(now time.Time, fence int64) error {
	lead := time.UnixMicro(fence).Sub(now)
	if lead <= MaxFenceLead {
		return nil
	}
	return &StoreError{
		Kind: ErrMisconfigured, What: "the lock's fencing token is " + lead.Round(time.Second).String() + " ahead of now: a coordinator with a wrong clock wrote it",
		Fix: "run holdfast repair on the lock, or wait until the token is less than " + MaxFenceLead.String() + " ahead",
	}
}
