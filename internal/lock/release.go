package lock

import (
	"context"
	"time"
)

// A ReleaseRequest ends a lease, or gives some of its permits back.
type ReleaseRequest struct {
	Lock      string
	Secret    string
	Principal string
	Keep      int64 // permits that the lease keeps; 0: it ends
	Capacity  int64 // with Keep: of the lock, as the caller knows it
}

// Released is what a release did.
type Released struct {
	Lock  string
	Fence int64
	At    int64 // Unix milliseconds
}

// Release ends a live lease, or removes a waiter from the queue. Repeated, it returns the same answer while the record
// remembers the lease. A lease that ended in another way, or that never existed, is [ErrLeaseLost].
func (c *Coordinator) Release(ctx context.Context, req ReleaseRequest) (Released, error) {
	if req.Keep > 0 {
		return c.giveBack(ctx, req)
	}
	out, err := c.writeFirst(ctx, req.Lock, releasing{c.rules, KeyOf(req.Lock, req.Secret), req})
	if err != nil {
		return Released{}, err
	}
	return Released{Lock: req.Lock, Fence: out.After.Retired.Fence, At: out.After.Retired.At}, nil
}

type releasing struct {
	rules Rules
	key   LeaseKey
	req   ReleaseRequest
}

func (o releasing) first(now time.Time) Command { return o.rules.release(now, o.key, o.req.Principal) }

func (o releasing) waiters(Record) int { return QueueHead }

func (o releasing) place(r Record) LeaseKey { return placeUnlessHeld(r, o.key) }

// placeUnlessHeld is the key of a place that an operation must see if its lease is not in the record.
func placeUnlessHeld(r Record, key LeaseKey) LeaseKey {
	if _, held := r.Holders[key]; held {
		return ""
	}
	return key
}

func (o releasing) next(now time.Time, r Record) (*Command, error) {
	h, held := r.Holders[o.key]
	place, waits := r.place(o.key)
	if !held && !waits && r.Retired.Key == o.key && causes[r.Retired.Cause].released {
		return nil, nil // a repeat
	}
	if !held && !waits || held && h.ExpiresAt <= now.UnixMilli() {
		return nil, ErrLeaseLost
	}
	var to Record
	if held {
		to = r.withoutHolder(o.key)
	} else {
		to = r.withoutPlace(place)
	}
	to = o.rules.settle(now, to)
	to.Retired = Retired{Key: o.key, Fence: h.Fence, At: now.UnixMilli(), Cause: CauseRelease}
	c := o.rules.swap(now, r, to, CauseRelease, o.req.Principal, "")
	return &c, nil
}
