package lock

import (
	"context"
	"time"
)

// A coordinator with a wrong clock tells nobody of its grants (see [MaxClockError]), but what it wrote before it read a reply
// stays: a lease that is not used, and a fencing token ahead of time, which closes the lock until time catches up. The
// coordinator takes both back at once (undo). If the reply was lost, or the coordinator died, an operator does it with a
// force-release and a repair.

// maxTold is higher than every fencing token that anybody can have been told by now. A grant's token is at most
// [MaxFenceLead] ahead of its coordinator's clock, and a coordinator whose clock is further from the store's than
// [MaxClockOffset] tells nobody. This coordinator's clock may be as far off in the other direction.
func maxTold(now time.Time) int64 {
	return now.Add(MaxFenceLead + 2*(MaxClockError+time.Second)).UnixMicro()
}

// A RepairRequest asks, for an operator, that a lock's fencing token is lowered.
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

// Repair opens a lock that nobody can be granted because its fencing token is ahead of time: a coordinator with a wrong clock
// wrote it. It lowers the token to one that is higher than all that anybody can have been told. The lock can be granted
// again some seconds later; the next acquire then grants its waiters. The write has [CauseRepair], the principal and the
// reason.
//
// Repair checks three things. This coordinator's clock must agree with the store's. The token must be further ahead than any
// that anybody can have been told, or the error is [ErrNothingToRepair]. No live lease may have such a token, or the error is
// [ErrLockHeld]: force-release that lease first. Repair cannot check whether a resource has stored the wrong token, for
// instance from an event; that resource would refuse later holders until its token is reset.
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
	sent  int64 // the revision of the last try, to recognise it in the record if its reply was lost
}

func (o *repairing) waiters(Record) int { return QueueHead }

func (o *repairing) next(now time.Time, r Record) (*Command, error) {
	if o.sent != 0 && r.Rev == o.sent && r.Cause == CauseRepair && r.Fence == o.done.After {
		return nil, nil // the try that seemed to fail was applied
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
