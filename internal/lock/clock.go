package lock

import (
	"context"
	"errors"
	"time"
)

// checkOffset is the clock guard (rule 5): a coordinator whose clock the reply proves wrong grants nothing.
func (c *Coordinator) checkOffset(offset time.Duration) error {
	wrong := offset.Abs() > MaxClockError
	c.suspect.Store(wrong)
	if wrong {
		return &ClockError{Offset: offset}
	}
	return nil
}

// noteClock remembers if an error says that this coordinator's clock is wrong.
func (c *Coordinator) noteClock(err error) error {
	if _, wrong := errors.AsType[*ClockError](err); wrong {
		c.suspect.Store(true)
	}
	return err
}

// readIfSuspect reads the lock if the last reply proved this coordinator's clock wrong, to learn whether it still is: a
// coordinator that knows its clock to be wrong writes nothing.
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

// undo takes back a grant that this coordinator made under a wrong clock and told nobody of. The leases that it displaced
// and that are live by the store's clock return, and the record's fencing token is the one of before. The secret of the
// grant cannot be used again. If undo fails, the grant expires; a fencing token that is far ahead is then for
// [Coordinator.Repair].
func (c *Coordinator) undo(ctx context.Context, name string, key LeaseKey, granted Reply) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	theirs := c.clock().Add(-granted.Offset)
	_, _ = c.store.Apply(ctx, name, c.rules.undo(theirs, key, granted.Before, granted.After)) // see above if it fails
}

// undo restores the record before of a grant, if the record after it is still stored. now is the store's clock. The record
// remembers the grant as ended, so that late duplicates of its acquire are recognised.
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

// doubt refuses to answer with a lease that a coordinator with a wrong clock granted: that coordinator tells nobody of it
// and may be about to undo it.
func (u Rules) doubt(now time.Time, h Lease) error {
	if err := fenceError(now, h.Fence); err != nil {
		return err
	}
	if ahead := time.Duration(h.AcquiredAt-now.UnixMilli()) * time.Millisecond; ahead > u.Skew {
		return &StoreError{
			Kind: ErrUnavailable, What: "the lease was granted " + ahead.String() + " ahead of now: two coordinators' clocks disagree",
			Fix: "send the same request again, and check that the coordinators' clocks are synchronised",
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
