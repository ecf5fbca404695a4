package lock

import (
	"context"
	"time"
)

// A RenewRequest extends a lease.
type RenewRequest struct {
	Lock      string
	Secret    string
	Principal string
	TTL       time.Duration // 0: the TTL that the lease has
	Metadata  *string       // nil: unchanged
}

// Renew extends a live lease so that it lasts for at least TTL from now, but not beyond its EndsAt. It never shortens one. A lease that is over is
// [ErrLeaseLost]; if a limit ended it, and it is still known, the error is a [*LimitError] too, as is that of a TTL that its limit does not allow. The answer does not have the texts of a lease whose store keeps them apart: a renewal is one request.
func (c *Coordinator) Renew(ctx context.Context, req RenewRequest) (LeaseStatus, error) {
	if err := c.readIfSuspect(ctx, req.Lock); err != nil {
		return LeaseStatus{}, err
	}
	key := KeyOf(req.Lock, req.Secret)
	out, err := c.writeFirst(ctx, req.Lock, renewing{c.rules, key, req})
	if err != nil {
		return LeaseStatus{}, err
	}
	if err := c.checkOffset(out.Offset); err != nil {
		return LeaseStatus{}, err
	}
	return c.lease(req.Lock, key, out.After)
}

// DefaultTTL is the TTL of an acquire that names none. A renewal that names none tries this one first, guarded by the
// lease's TTL, so that it costs one request for leases with the default.
const DefaultTTL = time.Minute

type renewing struct {
	rules Rules
	key   LeaseKey
	req   RenewRequest
}

func (o renewing) first(now time.Time) Command {
	ttl := o.req.TTL
	if ttl == 0 {
		ttl = DefaultTTL
	}
	return o.rules.renew(now, o.key, ttl.Milliseconds(), o.req.TTL == 0, o.req.Metadata, o.req.Principal)
}

func (o renewing) waiters(Record) int { return 0 }

func (o renewing) next(now time.Time, r Record) (*Command, error) {
	h, held := r.Holders[o.key]
	if held && h.EndsAt > 0 && h.EndsAt <= now.UnixMilli() {
		return nil, &LimitError{Limit: h.Bounds.hold(o.req.Lock), Asked: now.UnixMilli() - h.AcquiredAt}
	}
	if !held || h.ExpiresAt <= now.UnixMilli() {
		return nil, ErrLeaseLost
	}
	if err := o.rules.doubt(now, h); err != nil {
		return nil, err
	}
	ttl := h.TTL
	if o.req.TTL != 0 {
		ttl = o.req.TTL.Milliseconds()
	}
	if most := h.Bounds.MaxTTL; most > 0 && ttl > most {
		return nil, &LimitError{Limit: h.Bounds.ttl(o.req.Lock), Field: "ttl_ms", Asked: ttl}
	}
	expiry := now.UnixMilli() + ttl
	if h.EndsAt > 0 {
		expiry = min(expiry, h.EndsAt)
	}
	learns := unshared(h.Tokens, h.Known)
	if expiry <= h.ExpiresAt && !h.Unclaimed && !learns && (o.req.Metadata == nil || *o.req.Metadata == h.Metadata && h.Split != Split) {
		return nil, nil // the lease lasts longer already: this request is a late duplicate
	}
	if c := o.rules.renew(now, o.key, ttl, false, o.req.Metadata, o.req.Principal); c.Allows(r) && !h.Unclaimed {
		return &c, nil
	}
	h.RenewedAt, h.Known = now.UnixMilli(), h.Known || learns
	if h.Unclaimed {
		h = claimed(h, now)
	}
	if expiry >= h.ExpiresAt {
		h.ExpiresAt, h.TTL = expiry, ttl
	}
	if o.req.Metadata != nil {
		h = h.withMetadata(*o.req.Metadata)
	}
	to := r.withHolder(o.key, h) // not settled: the stream drops renewals, and would miss the end of an expired lease
	c := o.rules.swap(now, r, to, CauseRenew, o.req.Principal, "")
	return &c, nil
}
