package lock

import (
	"maps"
	"time"
)

// An operation is one request at a coordinator, as a step machine without I/O: the coordinator drives it over a store,
// the explorer over a model of one. Every step reads the clock anew.
type operation interface {
	// first is the optimistic command, made without having seen the record.
	first(now time.Time) Command
	// next decides on the record as it is stored, after a guard failed or the record was read: a command to try, or nil
	// with the outcome, where a nil error means that the record shows the operation done already.
	next(now time.Time, r Record) (*Command, error)
}

// An AcquireRequest asks for permits on a lock.
type AcquireRequest struct {
	Lock      string
	Lease     string // the secret, chosen by the caller, used once
	Owner     string
	Principal string
	TTL       time.Duration
	Metadata  string // a JSON object, or empty
	Capacity  int64
	Permits   int64
}

type acquisition struct {
	rules Rules
	key   LeaseKey
	req   AcquireRequest
}

func (o acquisition) first(now time.Time) Command {
	return o.rules.take(now, o.key, o.holder(now, now.UnixMicro()), o.req.Capacity)
}

func (o acquisition) holder(now time.Time, fence int64) Holder {
	ms, ttl := now.UnixMilli(), o.req.TTL.Milliseconds()
	return Holder{
		Owner: o.req.Owner, Principal: o.req.Principal, Permits: o.req.Permits, Fence: fence,
		AcquiredAt: ms, RenewedAt: ms, ExpiresAt: ms + ttl, TTL: ttl, Metadata: o.req.Metadata,
	}
}

func (o acquisition) next(now time.Time, r Record) (*Command, error) {
	if h, mine := r.Holders[o.key]; mine {
		if h.ExpiresAt <= now.UnixMilli() {
			return nil, ErrLeaseLost
		}
		return nil, nil
	}
	if r.Retired.Lease == o.key {
		return nil, ErrLeaseLost
	}
	live := r.blocking(now.UnixMilli(), o.rules.skew())
	if len(live) > 0 && r.Capacity != o.req.Capacity {
		return nil, &CapacityError{Capacity: r.Capacity}
	}
	if r.Waiting > 0 || permits(live)+o.req.Permits > o.req.Capacity {
		return nil, o.rules.held(now, live)
	}
	fence := r.nextFence(now)
	if lead := time.UnixMicro(fence).Sub(now); lead > MaxFenceLead {
		return nil, &StoreError{
			Kind: ErrUnavailable, What: "the lock's fencing token is " + lead.Round(time.Second).String() + " ahead of now",
			Fix: "a coordinator with a wrong clock wrote it; wait until it is less than " + MaxFenceLead.String() + " ahead",
		}
	}
	h := o.holder(now, fence)
	if len(r.Holders) == 0 {
		c := o.rules.take(now, o.key, h, o.req.Capacity)
		return &c, nil
	}
	to := r
	to.Holders, to.Fence, to.Capacity = live, fence, o.req.Capacity
	to.Holders[o.key] = h
	c := o.rules.swap(now, r, to, CauseAcquire, o.req.Principal, "")
	return &c, nil
}

// held is the answer while live bars the way, with the time until the first of them may be taken over.
func (u Rules) held(now time.Time, live map[LeaseKey]Holder) *HeldError {
	e := &HeldError{Now: now.UnixMilli(), RetryAfter: time.Second}
	for i, key := range byFence(live) {
		h := live[key]
		e.Holders = append(e.Holders, h)
		wait := time.Duration(h.ExpiresAt+u.skew()-e.Now) * time.Millisecond
		if i == 0 || wait < e.RetryAfter {
			e.RetryAfter = wait
		}
	}
	return e
}

// A RenewRequest extends a lease.
type RenewRequest struct {
	Lock      string
	Lease     string
	Principal string
	TTL       time.Duration // 0: as long as the lease's TTL
	Metadata  *string       // nil: unchanged
}

type renewal struct {
	rules Rules
	key   LeaseKey
	req   RenewRequest
}

// DefaultTTL is what an acquire without one gets. A renewal without one guesses it, so that it too costs one request
// for leases with the default.
const DefaultTTL = time.Minute

func (o renewal) first(now time.Time) Command {
	ttl := o.req.TTL
	if ttl == 0 {
		ttl = DefaultTTL
	}
	return o.rules.renew(now, o.key, ttl.Milliseconds(), o.req.TTL == 0, o.req.Metadata, o.req.Principal)
}

func (o renewal) next(now time.Time, r Record) (*Command, error) {
	h, held := r.Holders[o.key]
	if !held || h.ExpiresAt <= now.UnixMilli() {
		return nil, ErrLeaseLost
	}
	ttl := h.TTL
	if o.req.TTL != 0 {
		ttl = o.req.TTL.Milliseconds()
	}
	expiry := now.UnixMilli() + ttl
	if expiry <= h.ExpiresAt && (o.req.Metadata == nil || *o.req.Metadata == h.Metadata) {
		return nil, nil // lasts longer already, as after a late duplicate
	}
	if c := o.rules.renew(now, o.key, ttl, false, o.req.Metadata, o.req.Principal); c.Allows(r) {
		return &c, nil
	}
	h.RenewedAt = now.UnixMilli()
	if expiry > h.ExpiresAt {
		h.ExpiresAt, h.TTL = expiry, ttl
	}
	if o.req.Metadata != nil {
		h.Metadata = *o.req.Metadata
	}
	to := r
	to.Holders = maps.Clone(r.Holders) // expired holders stay: the stream drops renewals, and would miss their end
	to.Holders[o.key] = h
	c := o.rules.swap(now, r, to, CauseRenew, o.req.Principal, "")
	return &c, nil
}

// A ReleaseRequest ends a lease.
type ReleaseRequest struct {
	Lock      string
	Lease     string
	Principal string
}

type releasing struct {
	rules Rules
	key   LeaseKey
	req   ReleaseRequest
}

func (o releasing) first(now time.Time) Command { return o.rules.release(now, o.key, o.req.Principal) }

func (o releasing) next(now time.Time, r Record) (*Command, error) {
	h, held := r.Holders[o.key]
	if !held && r.Retired.Lease == o.key && r.Retired.Cause == CauseRelease {
		return nil, nil // a repeat
	}
	if !held || h.ExpiresAt <= now.UnixMilli() {
		return nil, ErrLeaseLost
	}
	to := r
	to.Holders = r.blocking(now.UnixMilli(), o.rules.skew())
	delete(to.Holders, o.key)
	to.Retired = Retired{Lease: o.key, Fence: h.Fence, At: now.UnixMilli(), Cause: CauseRelease}
	c := o.rules.swap(now, r, to, CauseRelease, o.req.Principal, "")
	return &c, nil
}

// An ExpireRequest is a timer come due: it names the grant it was set for.
type ExpireRequest struct {
	Lock  string
	Lease LeaseKey
	Fence int64
}

type expiring struct {
	rules Rules
	req   ExpireRequest
}

// notDue is the outcome of a timer that came early: the lease was renewed since.
type notDue struct{ at int64 }

func (notDue) Error() string { return "lease is not due" }

func (o expiring) first(now time.Time) Command { return o.rules.expire(now, o.req.Lease) }

func (o expiring) next(now time.Time, r Record) (*Command, error) {
	h, held := r.Holders[o.req.Lease]
	if !held || h.Fence != o.req.Fence {
		return nil, nil // gone
	}
	if due := h.ExpiresAt + o.rules.skew(); due > now.UnixMilli() {
		return nil, notDue{at: due}
	}
	if c := o.rules.expire(now, o.req.Lease); c.Allows(r) {
		return &c, nil
	}
	to := r
	to.Holders = r.blocking(now.UnixMilli(), o.rules.skew())
	to.Retired = Retired{Lease: o.req.Lease, Fence: h.Fence, At: now.UnixMilli(), Cause: CauseExpire}
	c := o.rules.swap(now, r, to, CauseExpire, "", "")
	return &c, nil
}

// A ForceReleaseRequest ends leases against their holders' will.
type ForceReleaseRequest struct {
	Lock      string
	Principal string
	Reason    string
	Fence     int64 // 0: every holder; else only the holder with this fence
}

type forcing struct {
	rules Rules
	req   ForceReleaseRequest
	sent  *Become // what was last tried, to know it again if its reply was lost
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
			to.Retired = Retired{Lease: key, Fence: h.Fence, At: now.UnixMilli(), Cause: CauseForceRelease}
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
	c := o.rules.swap(now, r, to, CauseForceRelease, o.req.Principal, o.req.Reason)
	become := c.Effect.(Become)
	o.sent = &become
	return &c, nil
}
