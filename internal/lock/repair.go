package lock

import (
	"context"
	"time"
)

// This file puts right what a coordinator with a wrong clock wrote. Such a coordinator tells nobody of a grant (see
// [MaxClockError]), but what it wrote blind stays: a holder that is never used, and a fencing token ahead of time, which would close
// the lock until time catches up with it. The coordinator takes both back at once (undo); if its reply was lost, or it died, an
// operator does, with a force-release and a repair.

// maxTold is above every fencing token that a coordinator can have told by now: a grant's token is at most [MaxFenceLead] ahead
// of its coordinator's clock, and a clock that is further from the store's than [MaxClockError], and the second by which a Date
// is cut, tells nothing. Ours may be as far off, the other way.
func maxTold(now time.Time) int64 {
	return now.Add(MaxFenceLead + 2*(MaxClockError+time.Second)).UnixMicro()
}

// A RepairRequest asks for a lock's fencing token to be put right.
type RepairRequest struct {
	Lock      string
	Principal string
	Reason    string
}

// Repaired is what a repair did.
type Repaired struct {
	Before, After int64     // the record's fencing token
	Opens         time.Time // when the lock can be granted again
}

// Repair puts right a lock whose fencing token is ahead of time, so that nobody can be granted it: a coordinator with a wrong clock
// wrote it. The token becomes one that is above all that can have been told to anyone, and the lock can be granted again some
// seconds later; those who wait are then granted by the next acquire. The write has [CauseRepair], and who asked and why.
//
// It checks that this coordinator's clock agrees with the store's; that the token is further ahead than any that can have been
// told, else it is [ErrNothingToRepair]; and that no lease with such a token is live, else it is [ErrLockHeld]: force-release that
// one first. It cannot check whether a resource has stored the wrong token, as from an event: that one would refuse those that
// come.
func (c *Coordinator) Repair(ctx context.Context, req RepairRequest) (Repaired, error) {
	op := &repairing{rules: c.rules, req: req}
	if _, err := c.readFirst(ctx, req.Lock, op); err != nil {
		return Repaired{}, err
	}
	return op.done, nil
}

type repairing struct {
	rules Rules
	req   RepairRequest
	done  Repaired
	sent  int64 // the revision that was last tried, to know it again if its reply was lost
}

func (o *repairing) waiters(Record) int { return queueHead }

func (o *repairing) next(now time.Time, r Record) (*Command, error) {
	if o.sent != 0 && r.Rev == o.sent && r.Cause == CauseRepair && r.Fence == o.done.After {
		return nil, nil // the write that seemed to fail was ours
	}
	fence := maxTold(now)
	if r.Fence <= fence {
		return nil, ErrNothingToRepair
	}
	to := o.rules.settle(now, r)
	for _, h := range to.Holders {
		if h.Fence > fence {
			return nil, o.rules.held(now, to, "")
		}
	}
	to.Fence = fence
	o.sent = r.Rev + 1
	o.done = Repaired{Before: r.Fence, After: fence, Opens: time.UnixMicro(fence).Add(-MaxFenceLead)}
	c := o.rules.swap(now, r, to, CauseRepair, o.req.Principal, o.req.Reason)
	return &c, nil
}
