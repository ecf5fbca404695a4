package lock

import (
	"context"
	"errors"
	"time"
)

// Expire ends the expired leases of a lock if the grant that a timer names is one of them, and grants waiters what is free.
// It returns when the timer must fire again: the zero time if the grant is over. If the grant belongs to an execution that
// must be checked now, the error is an [*ExecutionError].
//
// This is where expiry is decided for a lock that nobody asks for; an acquire decides it in settle. Expire reads before it
// writes: most leases are released before their timer fires, a read costs a fifth of a write, and a coordinator with a
// wrong clock must not write.
func (c *Coordinator) Expire(ctx context.Context, ref GrantRef) (again time.Time, err error) {
	_, err = c.readFirst(ctx, ref.Lock, expiring{c.rules, ref})
	if early, ok := errors.AsType[notDue](err); ok {
		return time.UnixMilli(early.at), nil
	}
	return time.Time{}, err
}

type expiring struct {
	rules Rules
	ref   GrantRef
}

// notDue is the outcome of a timer that fired before its time: the lease was renewed since it was set.
type notDue struct{ at int64 }

func (notDue) Error() string { return "lease is not due" }

func (o expiring) first(now time.Time) Command { return o.rules.expire(now, o.ref.Key) }

func (o expiring) waiters(Record) int { return QueueHead }

func (o expiring) next(now time.Time, r Record) (*Command, error) {
	h, held := o.ref.in(r)
	if !held {
		return nil, nil
	}
	if h.Execution != "" && !h.Unclaimed && (h.EndsAt == 0 || h.EndsAt > now.UnixMilli()) { // it ends with its execution, or when it may last no longer
		if h.CheckAt > now.UnixMilli() {
			return nil, notDue{at: h.CheckAt}
		}
		return nil, &ExecutionError{Execution: h.Execution, Every: time.Duration(h.TTL) * time.Millisecond, Lease: h}
	}
	if due := h.ExpiresAt + o.rules.skew(); due > now.UnixMilli() {
		return nil, notDue{at: due}
	}
	if c := o.rules.expire(now, o.ref.Key); c.Allows(r) {
		return &c, nil
	}
	to := o.rules.settle(now, r)
	to.Retired = Retired{Key: o.ref.Key, Fence: h.Fence, At: now.UnixMilli(), Cause: CauseExpire}
	c := o.rules.swap(now, r, to, CauseExpire, "", "")
	return &c, nil
}
