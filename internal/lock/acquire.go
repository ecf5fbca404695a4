package lock

import (
	"context"
	"maps"
	"slices"
	"time"
)

// An AcquireRequest asks for permits on a lock.
type AcquireRequest struct {
	Lock      string
	Secret    string // the secret, chosen by the caller, used once
	Owner     string
	Principal string
	TTL       time.Duration
	Metadata  string // a JSON object, or empty
	Capacity  int64
	Permits   int64

	// Wait, if not 0, joins the queue when the lock cannot be had now, and keeps the place for this long. Repeated in time,
	// the same request keeps it further, and finds the grant.
	Wait time.Duration
	// Token is a callback's, to be told of the grant instead of polling; the place is then kept for Wait from the first request
	// with this token.
	Token string
	// Execution, if not empty, is the execution that the lease is to live as long as. TTL is then how often to check.
	Execution string
}

// A LeaseStatus is a holder's place on a lock, as the coordinator tells it.
type LeaseStatus struct {
	Lock      string
	Lease     Lease
	Capacity  int64
	Remaining time.Duration // life left when the coordinator answered; a caller counts it from before it sent the request
}

// Acquire grants permits, or answers [ErrLockHeld], [ErrCapacityMismatch], [ErrQueueFull] or, for a secret whose lease is
// over, [ErrLeaseLost]. Repeated with the secret of a live lease it gives that lease again, with what is left of its life.
// With a Wait, an [ErrLockHeld] tells the place in the queue.
func (c *Coordinator) Acquire(ctx context.Context, req AcquireRequest) (LeaseStatus, error) {
	if err := c.readIfSuspect(ctx, req.Lock); err != nil {
		return LeaseStatus{}, err
	}
	key := KeyOf(req.Lock, req.Secret)
	op := acquiring{c.rules, key, req}
	var out outcome
	var err error
	if op.blind() {
		out, err = c.writeFirst(ctx, req.Lock, op)
	} else {
		out, err = c.readFirst(ctx, req.Lock, op)
	}
	if err != nil {
		return LeaseStatus{}, err
	}
	if err := c.checkOffset(out.Offset); err != nil {
		if out.wrote && out.Before.Waiting == 0 && out.After.Waiting == 0 {
			c.undo(ctx, req.Lock, key, out.Reply)
		}
		return LeaseStatus{}, err
	}
	if _, mine := out.After.Holders[key]; !mine {
		return LeaseStatus{}, op.refusal(c.clock(), out.After)
	}
	return c.lease(req.Lock, key, out.After)
}

// lease tells a holder its lease as the record has it, with the life that is left now.
func (c *Coordinator) lease(name string, key LeaseKey, r Record) (LeaseStatus, error) {
	h := r.Holders[key]
	remaining := time.Duration(h.ExpiresAt-c.clock().UnixMilli()) * time.Millisecond
	if remaining <= 0 {
		return LeaseStatus{}, ErrLeaseLost // the store's reply took longer than the lease lasted
	}
	return LeaseStatus{Lock: name, Lease: h, Capacity: r.Capacity, Remaining: remaining}, nil
}

type acquiring struct {
	rules Rules
	key   LeaseKey
	req   AcquireRequest
}

// blind tells whether the request can be granted by a single write to the record, unseen.
func (o acquiring) blind() bool { return o.req.Token == "" && o.req.Execution == "" }

func (o acquiring) first(now time.Time) Command {
	return o.rules.take(now, o.key, o.lease(now, now.UnixMicro()), o.req.Capacity)
}

func (o acquiring) lease(now time.Time, fence int64) Lease { return grant(o.terms(), now, fence) }

func (o acquiring) terms() Terms {
	t := Terms{
		Owner: o.req.Owner, Principal: o.req.Principal, Permits: o.req.Permits, Capacity: o.req.Capacity, TTL: o.req.TTL.Milliseconds(),
		Metadata: o.req.Metadata, Execution: o.req.Execution,
	}
	t.Tokens, _ = t.Tokens.with(o.req.Token)
	return t
}

func (o acquiring) waiters(Record) int {
	if o.req.Wait == 0 && o.req.Token == "" {
		return queueHead // it has no place; it only helps to settle
	}
	return MaxQueue // it may be anywhere in it
}

func (o acquiring) next(now time.Time, r Record) (*Command, error) {
	if h, mine := r.Holders[o.key]; mine {
		return o.repeat(now, r, h)
	}
	if r.Retired.Key == o.key && (r.Retired.Cause != CauseTaskGone || o.req.Token == "") {
		return nil, ErrLeaseLost
	}
	to, kept := o.keepPlace(now, r)
	to, overdue := o.rules.recheck(now, o.rules.settle(now, to))
	h, turn := to.Holders[o.key] // it was the head, and its turn is now
	joins := to.waits(o.key) < 0
	if err := o.fenceError(now, to); err != nil && !turn {
		return nil, err
	}
	switch {
	case turn:
		if h.Unclaimed {
			to = to.withHolder(o.key, claimed(h, now))
		}
	case joins && to.Waiting == 0 && !o.mismatches(to) && to.fits(o.terms()):
		h := o.lease(now, to.nextFence(now))
		if len(r.Holders) == 0 && r.Waiting == 0 && o.blind() {
			c := o.rules.take(now, o.key, h, o.req.Capacity)
			return &c, nil
		}
		to = to.withHolder(o.key, h)
		to.Fence = h.Fence
	case joins && o.req.Wait > 0 && to.Waiting < MaxQueue:
		to = o.enqueue(now, to)
	case !kept && !overdue && !changesHolders(r, to) && !o.clears(r, to):
		return nil, o.refusal(now, to)
	}
	cause := CauseQueue
	switch {
	case changesHolders(r, to):
		cause = CauseAcquire
	case overdue:
		cause = CauseRecheck
	}
	c := o.rules.swap(now, r, to, cause, o.req.Principal, "")
	return &c, nil
}

// clears tells whether a write is worth it that grants nothing: everyone who was seen in the queue went away, and only others that
// were not seen bar this request. Without it, a queue that all have left could bar those for ever who do not join it.
func (o acquiring) clears(from, to Record) bool {
	return len(to.Queue) == 0 && to.Waiting > 0 && to.Waiting < from.Waiting && to.hasPermits(o.terms())
}

// repeat decides on a request whose lease holds already.
func (o acquiring) repeat(now time.Time, r Record, h Lease) (*Command, error) {
	if h.ExpiresAt <= now.UnixMilli() {
		return nil, ErrLeaseLost
	}
	if err := o.rules.doubt(now, h); err != nil {
		return nil, err
	}
	cause := CauseClaim
	claims := h.Unclaimed
	if claims {
		h = claimed(h, now)
	}
	h, added := h.withToken(o.req.Token)
	if added { // its task was tried again, and waits with another token: tell that one too
		cause = CauseToken
	}
	learns := o.req.Token == "" && unshared(h.Tokens, h.Known)
	h.Known = h.Known || learns
	if !added && !claims && !learns {
		return nil, nil
	}
	to := r.withHolder(o.key, h)
	if err := grows(r, to); err != nil {
		return nil, err
	}
	c := o.rules.swap(now, r, to, cause, o.req.Principal, "")
	return &c, nil
}

// keepPlace keeps a waiter's place for longer, and adds a token that its task waits with. It tells whether that changed anything.
// A waiter that comes late, and is still there, is not put out.
func (o acquiring) keepPlace(now time.Time, r Record) (to Record, kept bool) {
	place := r.waits(o.key)
	if place < 0 {
		return r, false
	}
	w, until := r.Queue[place], now.Add(o.req.Wait).UnixMilli()
	if o.req.Token == "" {
		learns := unshared(w.Tokens, w.Known)
		w.Known = w.Known || learns
		kept = learns || w.Until < now.Add(o.req.Wait/2).UnixMilli() // half of the time is left to lost polls and other clocks
	} else {
		w, kept = w.withToken(o.req.Token)
	}
	if !kept {
		return r, false
	}
	w.Until = max(w.Until, until)
	r.Queue = slices.Clone(r.Queue)
	r.Queue[place] = w
	return r, true
}

// enqueue puts the request at the end of the queue.
func (o acquiring) enqueue(now time.Time, r Record) Record {
	r.NextTicket++
	r.Waiting++
	r.Queue = append(slices.Clone(r.Queue), Waiter{Ticket: r.NextTicket, Key: o.key, Terms: o.terms(), Until: now.Add(o.req.Wait).UnixMilli()})
	return r
}

// mismatches tells whether a newcomer that does not wait names another capacity than the lock has in use. One that waits is
// queued, and granted when what is held fits both capacities.
func (o acquiring) mismatches(r Record) bool {
	inUse := len(r.Holders) > 0 || r.Waiting > 0
	return inUse && o.req.Wait == 0 && r.waits(o.key) < 0 && r.capacity() != o.req.Capacity
}

// refusal is the answer to a request that did not get the lock.
func (o acquiring) refusal(now time.Time, r Record) error {
	switch {
	case o.mismatches(r):
		return &CapacityError{Capacity: r.capacity()}
	case o.req.Wait > 0 && r.waits(o.key) < 0 && r.Waiting >= MaxQueue:
		return ErrQueueFull
	case o.req.Wait == 0 && r.Waiting == 0 && r.hasPermits(o.terms()):
		if err := r.room(o.terms()); err != nil {
			return err
		}
	}
	return o.rules.held(now, r, o.key)
}

// fenceError says why the next in turn, who fits, cannot be granted.
func (o acquiring) fenceError(now time.Time, r Record) error {
	next := o.terms()
	if len(r.Queue) > 0 {
		next = r.Queue[0].Terms
	}
	if !r.fits(next) {
		return nil
	}
	return fenceError(now, r.nextFence(now))
}

// changesHolders tells whether two records have other holders: whether a write is news to anyone.
func changesHolders(from, to Record) bool {
	return !maps.EqualFunc(from.Holders, to.Holders, func(a, b Lease) bool { return a.Fence == b.Fence })
}

// held is the answer to a lease that must wait, with the time until the first of those in its way may be taken over.
func (u Rules) held(now time.Time, r Record, key LeaseKey) *HeldError {
	e := &HeldError{Now: now.UnixMilli(), RetryAfter: time.Second, Waiting: r.Waiting, Position: int64(r.waits(key) + 1)}
	live := r.blocking(e.Now, u.skew())
	for i, key := range byFence(live) {
		h := live[key]
		e.Holders = append(e.Holders, h)
		until := h.ExpiresAt
		if h.Execution != "" { // nobody knows; it is looked at then
			until = min(until, max(h.CheckAt, e.Now+time.Second.Milliseconds()))
		}
		wait := time.Duration(until+u.skew()-e.Now) * time.Millisecond
		if i == 0 || wait < e.RetryAfter {
			e.RetryAfter = wait
		}
	}
	return e
}

// grant makes a lease of terms.
func grant(terms Terms, now time.Time, fence int64) Lease {
	ms := now.UnixMilli()
	l := Lease{Terms: terms, Fence: fence, AcquiredAt: ms, RenewedAt: ms, ExpiresAt: ms + terms.TTL}
	if l.Execution != "" {
		l.CheckAt, l.ExpiresAt = ms+l.TTL, ms+ExecutionLife.Milliseconds()
	}
	return l
}

// claimed is an unclaimed grant whose waiter has come: it lasts as long as a new one.
func claimed(h Lease, now time.Time) Lease {
	fresh := grant(h.Terms, now, h.Fence)
	h.Unclaimed, h.RenewedAt, h.ExpiresAt, h.CheckAt = false, fresh.RenewedAt, max(h.ExpiresAt, fresh.ExpiresAt), fresh.CheckAt
	return h
}
