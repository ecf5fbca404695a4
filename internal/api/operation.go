package api

import (
	"context"
	"math"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

func (a *API) renew(ctx context.Context, c *call) (any, int64, error) {
	req := lock.RenewRequest{Lock: c.lock, Principal: c.principal, Secret: c.fields.lease()}
	req.TTL = a.ttl(c.fields)
	if metadata, given := c.fields.metadata(); given {
		req.Metadata = &metadata
	}
	if err := c.fields.done(); err != nil {
		return nil, 0, err
	}
	l, err := a.coordinator.Renew(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	return leaseAnswer(l, req.Secret), l.Lease.Fence, nil
}

func (a *API) release(ctx context.Context, c *call) (any, int64, error) {
	req := lock.ReleaseRequest{Lock: c.lock, Principal: c.principal, Secret: c.fields.lease()}
	if mode, given := c.fields.str("mode"); given {
		req.Keep, req.Capacity = wire.ModeRead.Permits(), wire.ModeCapacity
		if wire.Mode(mode) != wire.ModeRead {
			c.fields.fail("mode", "mode is %q; a release takes \"read\" only, by which a writer becomes a reader: leave it out to end the lease", brief([]byte(mode)))
		}
	}
	if err := c.fields.done(); err != nil {
		return nil, 0, err
	}
	r, err := a.coordinator.Release(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	return wire.Released{Lock: r.Lock, Fence: r.Fence, ReleasedAt: wire.At(r.At)}, r.Fence, nil
}

func (a *API) forceRelease(ctx context.Context, c *call) (any, int64, error) {
	req := lock.ForceReleaseRequest{Lock: c.lock, Principal: c.principal}
	reason, given := c.fields.str("reason")
	problem := wire.CheckText(reason, wire.MaxReason, true)
	switch {
	case !given:
		c.fields.fail("reason", "reason is missing; say why, in 1 to %d bytes", wire.MaxReason)
	case wire.Blank(reason):
		c.fields.fail("reason", "reason is empty; say why, in 1 to %d bytes", wire.MaxReason)
	case problem != "":
		c.fields.fail("reason", "reason %s", problem)
	}
	req.Reason = reason
	req.Fence, _ = c.fields.integer("fence", 1, 1<<53-1, "")
	if err := c.fields.done(); err != nil {
		return nil, 0, err
	}
	ended, err := a.coordinator.ForceRelease(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	answer := wire.ForceReleased{Lock: c.lock, Released: holders(ended, math.MaxInt64)}
	fence := req.Fence
	if len(ended) > 0 {
		fence = ended[len(ended)-1].Fence
	}
	return answer, fence, nil
}

func (a *API) status(ctx context.Context, c *call) (any, int64, error) {
	waiters, _ := c.fields.integer("waiters", 1, wire.MaxPage, "")
	if err := c.fields.done(); err != nil {
		return nil, 0, err
	}
	s, err := a.coordinator.Status(ctx, c.lock)
	if err != nil {
		return nil, 0, err
	}
	answer := statusAnswer(s)
	if waiters > 0 && s.Waiting > 0 {
		queue, err := a.coordinator.Queue(ctx, c.lock, int(waiters))
		if err != nil {
			return nil, 0, err
		}
		for _, w := range queue {
			answer.Queue = append(answer.Queue, wire.Waiter{
				Position: w.Position, Owner: w.Owner, Principal: w.Principal, Permits: w.Permits, JoinedAt: wire.AtOrNone(w.Joined), Task: w.Task, Set: w.Set,
			})
		}
	}
	return answer, s.Fence, nil
}

func (a *API) list(ctx context.Context, c *call) (any, int64, error) {
	req := lock.ListRequest{Limit: wire.DefaultPage}
	req.Prefix, _ = c.fields.str("prefix")
	if problem := wire.CheckPrefix(req.Prefix); problem != "" {
		c.fields.fail("prefix", "prefix %s%s", problem, spelling(req.Prefix))
	}
	if n, given := c.fields.integer("limit", 1, wire.MaxPage, ""); given {
		req.Limit = int(n)
	}
	req.Cursor, _ = c.fields.str("cursor")
	switch state, given := c.fields.str("state"); {
	case state == "all":
		req.All = true
	case given && state != "held":
		c.fields.fail("state", "state is %q; it must be held or all", brief([]byte(state)))
	}
	if err := c.fields.done(); err != nil {
		return nil, 0, err
	}
	list, next, err := a.coordinator.List(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	answer := wire.List{Locks: []wire.Status{}, NextCursor: next}
	for _, s := range list {
		answer.Locks = append(answer.Locks, statusAnswer(s))
	}
	return answer, 0, nil
}

// ttl reads ttl_ms, which must be within the limits of this deployment; 0 if it is absent.
func (a *API) ttl(o *object) time.Duration {
	n, _ := o.integer("ttl_ms", a.minTTL.Milliseconds(), a.maxTTL.Milliseconds(), " milliseconds")
	return time.Duration(n) * time.Millisecond
}

// lease reads the secret of a lease, which is required.
func (o *object) lease() string {
	lease, given := o.str("lease")
	if !given {
		o.fail("lease", "lease is missing; send the one that the lock was acquired with")
		return ""
	}
	o.checkLease(lease)
	return lease
}

func (o *object) checkLease(lease string) {
	if problem := wire.CheckLease(lease); problem != "" {
		o.fail("lease", "lease %s", problem)
	}
}
