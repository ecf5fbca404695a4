package lock

import (
	"context"
	"errors"
	"time"
)

// Expire puts out the holders of a lock that are past their expiry, if the grant that the request names is one of them, and
// hands on to waiters. It answers when to ask again: the zero time if that grant is gone, by this call or before. A grant
// that belongs to an execution, and is to be looked after, is an [*ExecutionError]. It reads first: most leases are released
// before their timer comes due, a read costs a fifth of a write, and a wrong clock must not write.
func (c *Coordinator) Expire(ctx context.Context, req GrantRef) (again time.Time, err error) {
	_, err = c.readFirst(ctx, req.Lock, expiring{c.rules, req})
	if early, ok := errors.AsType[notDue](err); ok {
		return time.UnixMilli(early.at), nil
	}
	return time.Time{}, err
}

type expiring struct {
	rules Rules
	req   GrantRef
}

// notDue is the outcome of a timer that came early: the lease was renewed since.
type notDue struct{ at int64 }

func (notDue) Error() string { return "lease is not due" }

func (o expiring) first(now time.Time) Command { return o.rules.expire(now, o.req.Key) }

func (o expiring) waiters(Record) int { return queueHead }

func (o expiring) next(now time.Time, r Record) (*Command, error) {
	h, held := r.Holders[o.req.Key]
	if !held || h.Fence != o.req.Fence {
		return nil, nil // gone
	}
	if h.Execution != "" && !h.Unclaimed { // time does not end it
		if h.CheckAt > now.UnixMilli() {
			return nil, notDue{at: h.CheckAt}
		}
		return nil, &ExecutionError{Execution: h.Execution, Every: time.Duration(h.TTL) * time.Millisecond, Lease: h}
	}
	if due := h.ExpiresAt + o.rules.skew(); due > now.UnixMilli() {
		return nil, notDue{at: due}
	}
	if c := o.rules.expire(now, o.req.Key); c.Allows(r) {
		return &c, nil
	}
	to := o.rules.settle(now, r)
	to.Retired = Retired{Key: o.req.Key, Fence: h.Fence, At: now.UnixMilli(), Cause: CauseExpire}
	c := o.rules.swap(now, r, to, CauseExpire, "", "")
	return &c, nil
}
