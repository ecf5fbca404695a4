package lock

import (
	"context"
	"time"
)

// giveBack leaves a live lease the permits that the request keeps, and grants the others to those who wait. The lease keeps its fencing token and
// its expiry. Repeated, it changes nothing. To keep more permits than the lease has is [ErrMorePermits], and to name
// another capacity than it has is [ErrCapacityMismatch].
func (c *Coordinator) giveBack(ctx context.Context, req ReleaseRequest) (Released, error) {
	key := KeyOf(req.Lock, req.Secret)
	out, err := c.readFirst(ctx, req.Lock, givingBack{c.rules, key, req})
	if err != nil {
		return Released{}, err
	}
	if err := c.checkOffset(out.Offset); err != nil {
		return Released{}, err
	}
	return Released{Lock: req.Lock, Fence: out.After.Holders[key].Fence, At: c.clock().UnixMilli()}, nil
}

type givingBack struct {
	rules Rules
	key   LeaseKey
	req   ReleaseRequest
}

func (o givingBack) waiters(Record) int { return QueueHead }

func (o givingBack) next(now time.Time, r Record) (*Command, error) {
	h, held := r.Holders[o.key]
	switch {
	case !held || h.ExpiresAt <= now.UnixMilli():
		return nil, ErrLeaseLost
	case o.req.Capacity != h.Capacity:
		return nil, &CapacityError{Capacity: h.Capacity}
	case o.req.Keep > h.Permits:
		return nil, ErrMorePermits
	case o.req.Keep == h.Permits:
		return nil, nil
	}
	if err := o.rules.doubt(now, h); err != nil {
		return nil, err
	}
	if h.Unclaimed {
		h = claimed(h, now)
	}
	h.Permits = o.req.Keep
	to := o.rules.settle(now, r.withHolder(o.key, h))
	c := o.rules.swap(now, r, to, CauseGiveBack, o.req.Principal, "")
	return &c, nil
}
