package lock

import (
	"context"
	"errors"
	"maps"
	"time"
)

// A ForceReleaseRequest ends leases against their holders' will.
type ForceReleaseRequest struct {
	Lock      string
	Principal string
	Reason    string
	Fence     int64 // 0: every holder; else only the holder with this fence
}

// ForceRelease ends every lease on a lock, or the one with the fence given, and answers those it ended, oldest grant
// first: none if nobody held it, or if this was a repeat. A fence that is no holder's is [ErrLockChanged]. Where the hand-off
// to waiters cannot be written, the leases end without it, and the waiters are left to the next write.
func (c *Coordinator) ForceRelease(ctx context.Context, req ForceReleaseRequest) ([]Lease, error) {
	op := &forcing{rules: c.rules, req: req}
	_, err := c.readFirst(ctx, req.Lock, op)
	if errors.Is(err, ErrMisconfigured) || errors.Is(err, ErrLockFull) || errors.Is(err, ErrThrottled) {
		op.alone = true
		_, err = c.readFirst(ctx, req.Lock, op)
	}
	if err != nil {
		return nil, err
	}
	if op.sent == nil {
		return nil, nil
	}
	var ended []Lease
	for _, key := range byFence(op.sent.From.Holders) {
		if h := op.sent.From.Holders[key]; op.sent.To.Holders[key].Fence != h.Fence {
			ended = append(ended, h)
		}
	}
	return ended, nil
}

type forcing struct {
	rules Rules
	req   ForceReleaseRequest
	sent  *Become // what was last tried, to know it again if its reply was lost
	alone bool    // leave the queue as it is: a write that touched it could not be made
}

func (o *forcing) waiters(Record) int {
	if o.alone {
		return 0
	}
	return queueHead
}

func (o *forcing) next(now time.Time, r Record) (*Command, error) {
	if o.sent != nil && r.Retired == o.sent.To.Retired {
		return nil, nil // the write that seemed to fail was ours
	}
	o.sent = nil
	to := r
	to.Holders = maps.Clone(r.Holders)
	for _, key := range byFence(r.Holders) {
		if h := r.Holders[key]; o.req.Fence == 0 || o.req.Fence == h.Fence {
			delete(to.Holders, key)
			to.Retired = Retired{Key: key, Fence: h.Fence, At: now.UnixMilli(), Cause: CauseForceRelease}
		}
	}
	if len(to.Holders) == len(r.Holders) {
		if o.req.Fence == 0 {
			return nil, nil // nobody holds it
		}
		if r.Retired.Fence == o.req.Fence && r.Retired.Cause == CauseForceRelease {
			return nil, nil // a repeat
		}
		return nil, ErrLockChanged
	}
	to = o.rules.advance(now, to) // others whose time is over are for a timer to tell: not everyone here was forced out
	c := o.rules.swap(now, r, to, CauseForceRelease, o.req.Principal, o.req.Reason)
	become := c.Effect.(Become)
	o.sent = &become
	return &c, nil
}
