package lock

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"
)

// An AcquireRequest asks for permits on a lock.
type AcquireRequest struct {
	Lock      string
	Secret    string // of the lease: random, chosen by the caller, used for one lease only
	Owner     string // as the caller names itself; shown to others
	Principal string // the caller as the authorizer names it
	TTL       time.Duration
	AnyTTL    bool   // the caller names no TTL: where a limit is shorter, it takes its place
	Metadata  string // a JSON object, or empty
	Capacity  int64  // 0: the caller names none, and gets that of a limit, or 1
	Permits   int64
	// SameCapacity refuses the request with [ErrCapacityMismatch] if the lock is in use with another capacity, also if it would wait.
	SameCapacity bool

	// Wait, if not 0, makes the request join the queue if the lock is held, and keeps its place for this long. The same
	// request, repeated in time, extends the place, and returns the lease once it is granted.
	Wait time.Duration
	// Ticket, if not 0, is that of an earlier [HeldError] for the same request. It makes a poll cheap: see poll.go. It is a
	// hint: with a wrong one the request is answered as without.
	Ticket int64
	// Token is the callback token of a task that waits for the grant instead of polling. The place is then kept for Wait
	// from the first request with this token. A token of the kind notify is that of a caller that polls: it changes nothing but
	// that the grant of its place needs a callback, until it is claimed.
	Token Token
	// Execution, if not empty, is the execution that the lease belongs to and ends with. TTL is then the time between two
	// checks of it.
	Execution string
	// Trace is the trace context that is kept with the lease, a traceparent of W3C; empty: none.
	Trace string

	set string // the names of the set's locks, if the request is a part of one
}

// A LeaseStatus is the coordinator's answer about one lease.
type LeaseStatus struct {
	Lock      string
	Lease     Lease
	Capacity  int64
	Remaining time.Duration // until the expiry, when the coordinator answered; the caller counts it from before it sent the request
}

// Acquire grants permits. Repeated with the secret of a live lease, it returns that lease again, with the time that is left.
//
// The errors are [ErrLockHeld] (a [*HeldError], with the place in the queue), [ErrCapacityMismatch], [ErrQueueFull],
// [ErrLimit] (a [*LimitError]), a [*PermitsError], [ErrLockFull], [ErrLeaseLost] for a secret whose lease is over, [ErrMorePermits] for one whose lease has fewer permits, and the store's.
func (c *Coordinator) Acquire(ctx context.Context, req AcquireRequest) (LeaseStatus, error) {
	l, err := c.acquire(ctx, req)
	if held, ok := errors.AsType[*HeldError](err); ok && req.Ticket == 0 { // a poll is one read; the answer before it named the holders
		c.nameHolders(ctx, req.Lock, held)
	}
	return l, err
}

func (c *Coordinator) acquire(ctx context.Context, req AcquireRequest) (LeaseStatus, error) {
	if err := c.readIfSuspect(ctx, req.Lock); err != nil {
		return LeaseStatus{}, err
	}
	key := KeyOf(req.Lock, req.Secret)
	op := c.withLimits(ctx, acquiring{rules: c.rules, key: key, req: req})
	out, err := c.tryAcquire(ctx, op)
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
		return LeaseStatus{}, op.refusal(out.at, out.After)
	}
	if l := out.After.Holders[key]; l.Split != Whole { // a repeated request, whose caller knows the texts
		texts, _ := c.store.Texts(ctx, req.Lock, []int64{l.Fence})
		out.After = out.After.withHolder(key, l.With(texts[l.Fence]))
	}
	return c.lease(req.Lock, key, out.After)
}

// tryAcquire carries out an acquire by the first request that can do it: a poll, a blind write, or a read of the record. Nothing is written
// blindly while the prefix rules keep the lock from being granted, or cannot be read.
func (c *Coordinator) tryAcquire(ctx context.Context, op acquiring) (outcome, error) {
	if op.hasTicket() {
		return c.poll(ctx, op.req.Lock, op)
	}
	hold := c.holdOn(ctx, op.req.Lock)
	switch {
	case hold.failed() != nil:
		return outcome{}, hold.failed()
	case hold == nil && op.refused == nil && op.blind():
		return c.writeFirst(ctx, op.req.Lock, op)
	}
	return c.readFirst(ctx, op.req.Lock, op)
}

// lease is the answer about a lease that the record shows.
func (c *Coordinator) lease(name string, key LeaseKey, r Record) (LeaseStatus, error) {
	h := r.Holders[key]
	remaining := time.Duration(h.ExpiresAt-c.clock().UnixMilli()) * time.Millisecond
	if remaining <= 0 {
		return LeaseStatus{}, ErrLeaseLost // the store's reply took longer than the lease
	}
	return LeaseStatus{Lock: name, Lease: h, Capacity: r.Capacity, Remaining: remaining}, nil
}

type acquiring struct {
	rules   Rules
	key     LeaseKey
	req     AcquireRequest
	limits  lockLimits // of the lock, by which req was completed
	refused error      // why the request makes no lease and no place; nil: it may
}

// polls reports whether the caller learns of a grant by its own acquire.
func (o acquiring) polls() bool { return !o.req.Token.OfTask() }

// blind reports whether one write to the record, made before reading it, can grant the request. A token or an execution needs
// further items.
func (o acquiring) blind() bool { return o.polls() && o.req.Execution == "" }

func (o acquiring) first(now time.Time) Command {
	return o.rules.take(now, o.key, o.lease(now, now.UnixMicro()), o.req.Capacity)
}

func (o acquiring) lease(now time.Time, fence int64) Lease { return grant(o.terms(), now, fence) }

func (o acquiring) terms() Terms {
	t := Terms{
		Owner: o.req.Owner, Principal: o.req.Principal, Permits: o.req.Permits, Capacity: o.req.Capacity, TTL: o.req.TTL.Milliseconds(),
		Metadata: o.req.Metadata, Execution: o.req.Execution, Set: o.req.set, Trace: o.req.Trace, Bounds: o.limits.bounds(o.req.Execution != ""),
	}
	if !o.polls() {
		t.Tokens, _ = t.Tokens.with(o.req.Token)
	}
	return t
}

func (o acquiring) waiters(r Record) int {
	if _, mine := r.Holders[o.key]; mine {
		return 0
	}
	if o.req.Wait > 0 && o.countsPrincipal() {
		return wholeQueue(r)
	}
	return QueueHead
}

// wholeQueue is how many waiters are read to see all of a queue.
func wholeQueue(r Record) int { return max(QueueHead, int(min(r.Waiting, MaxQueue))) }

func (o acquiring) place(r Record) LeaseKey {
	if o.req.Wait == 0 && o.polls() {
		return "" // it has no place
	}
	return placeUnlessHeld(r, o.key)
}

func (o acquiring) next(now time.Time, r Record) (*Command, error) {
	if h, mine := r.Holders[o.key]; mine {
		return o.repeat(now, r, h)
	}
	if r.Retired.Key == o.key && (r.Retired.Cause != CauseTaskGone || o.polls()) {
		return nil, ErrLeaseLost
	}
	if err := r.hold.failed(); err != nil {
		return nil, err
	}
	to, kept := o.keepPlace(now, r)
	to, overdue := o.rules.recheck(now, o.rules.settle(now, to))
	h, turn := to.Holders[o.key] // it was a waiter, and settling granted it
	_, waits := to.place(o.key)
	joins := !waits && !turn
	if joins {
		if err := cmp.Or(o.refused, o.limits.overPrincipal(to, o.terms())); err != nil {
			return nil, err
		}
	}
	if err := o.fenceError(now, to); err != nil && !turn {
		return nil, err
	}
	switch {
	case turn:
		if h.Unclaimed {
			to = to.withHolder(o.key, claimed(h, now))
		}
	case joins && to.heldBack(now) == nil && to.Waiting == 0 && !o.mismatches(to) && to.fits(o.terms()):
		h := o.lease(now, to.nextFence(now))
		if len(r.Holders) == 0 && r.Waiting == 0 && o.blind() && r.hold == nil {
			c := o.rules.take(now, o.key, h, o.req.Capacity)
			return &c, nil
		}
		to = to.counting(now).withHolder(o.key, h)
		to.Fence = h.Fence
	case joins && o.req.Wait > 0 && to.Waiting < o.limits.maxQueue() && !o.mismatches(to):
		to = o.enqueue(now, to)
	case !kept && !overdue && !changesHolders(r, to) && !o.clears(r, to):
		return nil, o.refusal(now, to)
	}
	c := o.rules.swap(now, r, to, o.cause(r, to, overdue), o.req.Principal, "")
	return &c, nil
}

// cause is the cause of the write that makes to of from. Those that the stream's consumer must see, whoever listens, come first: see
// [Write.OfQueue].
func (o acquiring) cause(from, to Record, overdue bool) Cause {
	h, granted := to.Holders[o.key]
	switch {
	case from.Waiting == 0 && to.Waiting > 0:
		return CauseJoin
	case granted && h.bound():
		return CauseTask
	case overdue:
		return CauseRecheck
	case changesHolders(from, to):
		return CauseAcquire
	}
	return CauseQueue
}

// bound reports whether a lease needs the stream's consumer from its grant on: for callbacks to tasks, or for checks of its execution.
func (t Terms) bound() bool { return t.Tokens.OfTask() || t.Execution != "" }

// clears reports whether to write a record that grants nothing: all waiters that were read have lost their places, and only
// waiters that were not read stand before this request. Without that write, a long queue of abandoned places would refuse
// requests that do not wait, for ever.
func (o acquiring) clears(from, to Record) bool {
	return len(to.Queue) == 0 && to.Waiting > 0 && to.Waiting < from.Waiting && to.hasPermits(o.terms())
}

// repeat decides on a request whose lease is in the record.
func (o acquiring) repeat(now time.Time, r Record, h Lease) (*Command, error) {
	if h.ExpiresAt <= now.UnixMilli() {
		return nil, ErrLeaseLost
	}
	if err := o.rules.doubt(now, h); err != nil {
		return nil, err
	}
	if o.req.Permits > h.Permits {
		return nil, ErrMorePermits
	}
	cause := CauseClaim
	claims := h.Unclaimed
	if claims {
		h = claimed(h, now)
	}
	added := false
	if !o.polls() {
		h, added = h.withToken(o.req.Token)
	}
	if added { // the task was retried and waits with another token, which needs a callback too
		cause = CauseToken
	}
	learns := o.polls() && unshared(h.Tokens, h.Known)
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

// keepPlace extends a waiter's place and adds the token of its task. kept reports whether that changed anything. A waiter that
// asks after its time, while its place is still stored, keeps it.
func (o acquiring) keepPlace(now time.Time, r Record) (to Record, kept bool) {
	w, waits := r.place(o.key)
	if !waits {
		return r, false
	}
	until := now.Add(o.req.Wait).UnixMilli()
	if o.polls() {
		learns := unshared(w.Tokens, w.Known)
		w.Known = w.Known || learns
		w, kept = w.withToken(o.req.Token)
		kept = kept || learns || o.isHalfOver(now, w)
	} else {
		w, kept = w.withToken(o.req.Token)
	}
	if !kept {
		return r, false
	}
	w.Until = max(w.Until, until)
	return r.withPlace(w), true
}

// isHalfOver reports whether a place has used up half of its time. Extending it then leaves time for lost polls and clocks that differ.
func (o acquiring) isHalfOver(now time.Time, w Waiter) bool {
	return w.Until < now.Add(o.req.Wait/2).UnixMilli()
}

// enqueue puts the request at the end of the queue.
func (o acquiring) enqueue(now time.Time, r Record) Record {
	if len(r.Holders) == 0 && r.Waiting == 0 {
		r.Capacity = o.req.Capacity // the record of a lock that was never held has none, and of one that is free, that of its last holder
	}
	r.NextTicket++
	w := Waiter{Ticket: r.NextTicket, Key: o.key, Terms: o.terms(), Until: now.Add(o.req.Wait).UnixMilli()}
	w.Joined = now.UnixMilli()
	w.Tokens, _ = w.Tokens.with(o.req.Token)
	if r.Waiting == int64(len(r.Queue)) {
		r.Queue = append(slices.Clone(r.Queue), w)
	} else { // the queue was not read to its end
		r.Own = w
	}
	r.Waiting++
	return r
}

// mismatches reports whether a request that does not wait names another capacity than the lock in use has. A request that waits
// joins the queue, and is granted when the held permits fit both capacities; unless it wants the same capacity.
func (o acquiring) mismatches(r Record) bool {
	inUse := len(r.Holders) > 0 || r.Waiting > 0
	_, waits := r.place(o.key)
	return inUse && (o.req.Wait == 0 || o.req.SameCapacity) && !waits && r.capacity() != o.req.Capacity
}

// capacityError is the error of a request that does not wait for a lock in use with another capacity.
func (o acquiring) capacityError(r Record) error {
	e := &CapacityError{Capacity: r.capacity(), Asked: o.req.Capacity, Rule: o.limits.capacity}
	for _, key := range byFence(r.Holders) {
		if h := r.Holders[key]; h.Capacity == e.Capacity && e.Owner == "" {
			e.Owner = h.Owner
		}
	}
	return e
}

// refusal is the error of a request that was not granted, by a decision at a time. What held it back then may be over when the decision is written and answered.
func (o acquiring) refusal(now time.Time, r Record) error {
	_, waits := r.place(o.key)
	rate := r.tooOften(now, o.terms())
	switch {
	case r.hold.freezes(now):
		e := o.rules.frozen(now, r, o.key, r.hold.freeze)
		e.Full = o.queueIsFull(r, waits)
		return e
	case o.mismatches(r):
		return o.capacityError(r)
	case o.queueIsFull(r, waits):
		return o.limits.queueFull(r)
	case rate != nil && o.req.Wait == 0 && r.Waiting == 0:
		return rate
	case rate != nil:
		e := o.rules.held(now, r, o.key)
		e.Rate, e.RetryAfter = rate, rate.RetryAfter
		return e
	case o.req.Wait == 0 && r.Waiting == 0 && r.hasPermits(o.terms()):
		if err := r.room(o.terms()); err != nil {
			return err
		}
	}
	return o.rules.held(now, r, o.key)
}

// queueIsFull reports whether the request would join the queue, and cannot.
func (o acquiring) queueIsFull(r Record, waits bool) bool {
	return o.req.Wait > 0 && !waits && r.Waiting >= o.limits.maxQueue()
}

// fenceError is why the next in line cannot be granted although its permits are free; nil if it can.
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

// changesHolders reports whether two records have different leases.
func changesHolders(from, to Record) bool {
	return !maps.EqualFunc(from.Holders, to.Holders, func(a, b Lease) bool { return a.Fence == b.Fence })
}

// held is the error of a request that must wait. RetryAfter is the time until the first of the holders can be replaced.
func (u Rules) held(now time.Time, r Record, key LeaseKey) *HeldError {
	own, _ := r.place(key)
	e := &HeldError{Now: now.UnixMilli(), RetryAfter: time.Second, Waiting: r.Waiting, Position: r.position(key), Ticket: own.Ticket}
	live := r.blocking(e.Now, u.skew())
	for i, key := range byFence(live) {
		h := live[key]
		e.Holders = append(e.Holders, h)
		until := h.ExpiresAt
		if h.Execution != "" { // its end is unknown; its next check is the earliest that the coordinator learns of it
			until = min(until, max(h.CheckAt, e.Now+time.Second.Milliseconds()))
		}
		wait := time.Duration(until+u.skew()-e.Now) * time.Millisecond
		if i == 0 || wait < e.RetryAfter {
			e.RetryAfter = wait
		}
	}
	return e
}

// frozen is the error of a request that must wait for the end of a freeze, and then for the waiters before it.
func (u Rules) frozen(now time.Time, r Record, key LeaseKey, f *Freeze) *HeldError {
	e := u.held(now, r, key)
	e.Freeze, e.RetryAfter = f, time.UnixMilli(f.Until).Sub(now)
	return e
}

// grant makes a lease with these terms, granted now.
func grant(terms Terms, now time.Time, fence int64) Lease {
	ms := now.UnixMilli()
	l := Lease{Terms: terms, Fence: fence, AcquiredAt: ms, RenewedAt: ms, ExpiresAt: ms + terms.TTL}
	if l.Execution != "" {
		l.CheckAt, l.ExpiresAt = ms+l.TTL, ms+ExecutionLife.Milliseconds()
	}
	if terms.Bounds.MaxHold > 0 {
		l.EndsAt = ms + terms.Bounds.MaxHold
	}
	return l.bounded()
}

// bounded is a lease that does not last longer than it may, and whose execution is not checked after that.
func (l Lease) bounded() Lease {
	if l.EndsAt > 0 {
		l.ExpiresAt, l.CheckAt = min(l.ExpiresAt, l.EndsAt), min(l.CheckAt, l.EndsAt)
	}
	return l
}

// claimed is an unclaimed grant after its waiter asked for it: it lasts as long as a new lease, and needs no callback.
func claimed(h Lease, now time.Time) Lease {
	fresh := grant(h.Terms, now, h.Fence)
	h.Tokens = Tokens{}
	h.Unclaimed, h.RenewedAt, h.ExpiresAt, h.CheckAt = false, fresh.RenewedAt, max(h.ExpiresAt, fresh.ExpiresAt), fresh.CheckAt
	return h.bounded()
}
