package lock

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"
)

// A ForceReleaseRequest asks, for an operator, that leases of others end.
type ForceReleaseRequest struct {
	Lock      string
	Principal string
	Reason    string
	Fence     int64 // 0: every lease; else only the lease with this fencing token
}

// ForceRelease ends every lease on a lock, or the one with the fencing token given, and returns those that it ended, oldest
// grant first. It returns none if the lock was free or the request is a repeat. A fencing token that no lease has is
// [ErrLockChanged]. If the store cannot write the hand-off to the waiters with it, ForceRelease ends the leases without a
// hand-off, and the next write of the lock makes it.
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
	changes := slices.DeleteFunc(Changes(op.sent.From, op.sent.To), func(ch Change) bool { return ch.Kind == LeaseAcquired })
	changes, _ = c.TextsOf(ctx, req.Lock, changes) // the leases have ended, whether or not it is known who held them
	var ended []Lease
	for _, ch := range changes {
		ended = append(ended, ch.Lease)
	}
	return ended, nil
}

type forcing struct {
	rules Rules
	req   ForceReleaseRequest
	sent  *Become // the last try, to recognise it in the record if its reply was lost
	alone bool    // leave the queue as it is: the store refused a write with a hand-off
}

func (o *forcing) waiters(Record) int {
	if o.alone {
		return 0
	}
	return QueueHead
}

func (o *forcing) next(now time.Time, r Record) (*Command, error) {
	if o.sent != nil && r.Retired == o.sent.To.Retired {
		return nil, nil // the try that seemed to fail was applied
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
	to = o.rules.advance(now, to) // not settle: the event of an expired lease must be an expiry, which a timer writes
	c := o.rules.swap(now, r, to, CauseForceRelease, o.req.Principal, o.req.Reason)
	become := c.Effect.(Become)
	o.sent = &become
	return &c, nil
}
