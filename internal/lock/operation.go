package lock

import (
	"errors"
	"maps"
	"slices"
	"time"
)

// An operation is one request at a coordinator, as a step machine without I/O: the coordinator drives it over a store,
// the explorer over a model of one. Every step reads the clock anew.
type operation interface {
	// first is the optimistic command, made without having seen the record.
	first(now time.Time) Command
	decider
}

// A decider is the part of an operation that has seen the record.
type decider interface {
	// next decides on the record as it is stored, after a guard failed or the record was read: a command to try, or nil
	// with the outcome, where a nil error means that the record shows the operation done already.
	next(now time.Time, r Record) (*Command, error)
	// waiters is how much of the queue next wants to see of a record that has one.
	waiters(r Record) int
}

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

type acquisition struct {
	rules Rules
	key   LeaseKey
	req   AcquireRequest
}

func (o acquisition) first(now time.Time) Command {
	return o.rules.take(now, o.key, o.lease(now, now.UnixMicro()), o.req.Capacity)
}

func (o acquisition) lease(now time.Time, fence int64) Lease { return grant(o.terms(), now, fence) }

func (o acquisition) terms() Terms {
	t := Terms{
		Owner: o.req.Owner, Principal: o.req.Principal, Permits: o.req.Permits, Capacity: o.req.Capacity, TTL: o.req.TTL.Milliseconds(),
		Metadata: o.req.Metadata, Execution: o.req.Execution,
	}
	t.Tokens, _ = t.Tokens.with(o.req.Token)
	return t
}

func (o acquisition) waiters(Record) int {
	if o.req.Wait == 0 && o.req.Token == "" {
		return queueHead // it has no place; it only helps to settle
	}
	return MaxQueue // it may be anywhere in it
}

func (o acquisition) next(now time.Time, r Record) (*Command, error) {
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
func (o acquisition) clears(from, to Record) bool {
	return len(to.Queue) == 0 && to.Waiting > 0 && to.Waiting < from.Waiting && to.hasPermits(o.terms())
}

// repeat decides on a request whose lease holds already.
func (o acquisition) repeat(now time.Time, r Record, h Lease) (*Command, error) {
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
func (o acquisition) keepPlace(now time.Time, r Record) (to Record, kept bool) {
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
func (o acquisition) enqueue(now time.Time, r Record) Record {
	r.NextTicket++
	r.Waiting++
	r.Queue = append(slices.Clone(r.Queue), Waiter{Ticket: r.NextTicket, Key: o.key, Terms: o.terms(), Until: now.Add(o.req.Wait).UnixMilli()})
	return r
}

// mismatches tells whether a newcomer that does not wait names another capacity than the lock has in use. One that waits is
// queued, and granted when what is held fits both capacities.
func (o acquisition) mismatches(r Record) bool {
	inUse := len(r.Holders) > 0 || r.Waiting > 0
	return inUse && o.req.Wait == 0 && r.waits(o.key) < 0 && r.capacity() != o.req.Capacity
}

// refusal is the answer to a request that did not get the lock.
func (o acquisition) refusal(now time.Time, r Record) error {
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
func (o acquisition) fenceError(now time.Time, r Record) error {
	next := o.terms()
	if len(r.Queue) > 0 {
		next = r.Queue[0].Terms
	}
	if !r.fits(next) {
		return nil
	}
	return fenceError(now, r.nextFence(now))
}

// fenceError refuses a fencing token that is further ahead of now than [MaxFenceLead].
func fenceError(now time.Time, fence int64) error {
	lead := time.UnixMicro(fence).Sub(now)
	if lead <= MaxFenceLead {
		return nil
	}
	return &StoreError{
		Kind: ErrMisconfigured, What: "the lock's fencing token is " + lead.Round(time.Second).String() + " ahead of now: a coordinator with a wrong clock wrote it",
		Fix: "run holdfast repair on the lock, or wait until the token is less than " + MaxFenceLead.String() + " ahead",
	}
}

// doubt refuses to tell a lease that a coordinator with a wrong clock granted: that one tells nobody, and may be about to take it
// back, with its fencing token.
func (u Rules) doubt(now time.Time, h Lease) error {
	if err := fenceError(now, h.Fence); err != nil {
		return err
	}
	if ahead := time.Duration(h.AcquiredAt-now.UnixMilli()) * time.Millisecond; ahead > u.Skew {
		return &StoreError{
			Kind: ErrUnavailable, What: "the lease was granted " + ahead.String() + " ahead of now: two coordinators' clocks disagree",
			Fix: "send the same request again; and see that the coordinators' clocks are synchronised",
		}
	}
	return nil
}

// blind tells whether the request can be granted by a single write to the record, unseen.
func (o acquisition) blind() bool { return o.req.Token == "" && o.req.Execution == "" }

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

// A RenewRequest extends a lease.
type RenewRequest struct {
	Lock      string
	Secret    string
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

func (o renewal) waiters(Record) int { return 0 }

func (o renewal) next(now time.Time, r Record) (*Command, error) {
	h, held := r.Holders[o.key]
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
	expiry := now.UnixMilli() + ttl
	learns := unshared(h.Tokens, h.Known)
	if expiry <= h.ExpiresAt && !h.Unclaimed && !learns && (o.req.Metadata == nil || *o.req.Metadata == h.Metadata) {
		return nil, nil // lasts longer already, as after a late duplicate
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
		h.Metadata = *o.req.Metadata
	}
	to := r.withHolder(o.key, h) // expired holders stay: the stream drops renewals, and would miss their end
	c := o.rules.swap(now, r, to, CauseRenew, o.req.Principal, "")
	return &c, nil
}

// A ReleaseRequest ends a lease.
type ReleaseRequest struct {
	Lock      string
	Secret    string
	Principal string
}

type releasing struct {
	rules Rules
	key   LeaseKey
	req   ReleaseRequest
}

func (o releasing) first(now time.Time) Command { return o.rules.release(now, o.key, o.req.Principal) }

func (o releasing) waiters(r Record) int {
	if _, held := r.Holders[o.key]; held {
		return queueHead
	}
	return MaxQueue // it may be a waiter who leaves
}

func (o releasing) next(now time.Time, r Record) (*Command, error) {
	h, held := r.Holders[o.key]
	place := r.waits(o.key)
	if !held && place < 0 && r.Retired.Key == o.key && causes[r.Retired.Cause].released {
		return nil, nil // a repeat
	}
	if !held && place < 0 || held && h.ExpiresAt <= now.UnixMilli() {
		return nil, ErrLeaseLost
	}
	var to Record
	if held {
		to = r.withoutHolder(o.key)
	} else {
		to = r.withoutWaiter(place)
	}
	to = o.rules.settle(now, to)
	to.Retired = Retired{Key: o.key, Fence: h.Fence, At: now.UnixMilli(), Cause: CauseRelease}
	c := o.rules.swap(now, r, to, CauseRelease, o.req.Principal, "")
	return &c, nil
}

// An GrantRef is a timer come due: it names the grant it was set for.
type GrantRef struct {
	Lock  string
	Key   LeaseKey
	Fence int64
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

// ending ends a grant whose task is known to be gone, whatever its time, and so what nobody could use. It is told as a
// release. The secret may try again: its task, tried again, waits with another token.
type ending struct {
	rules  Rules
	req    GrantRef
	by     string
	tokens Tokens // the grant's only one, which nobody waits with
}

func (o ending) waiters(Record) int { return queueHead }

func (o ending) next(now time.Time, r Record) (*Command, error) {
	h, held := r.Holders[o.req.Key]
	if !held || h.Fence != o.req.Fence || h.Tokens != o.tokens {
		return nil, nil // gone, or somebody else waits for it
	}
	if h.Known || h.RenewedAt != h.AcquiredAt {
		return nil, nil // somebody may be at work under it
	}
	to := o.rules.settle(now, r.withoutHolder(o.req.Key))
	to.Retired = Retired{Key: o.req.Key, Fence: h.Fence, At: now.UnixMilli(), Cause: CauseTaskGone}
	c := o.rules.swap(now, r, to, CauseTaskGone, o.by, "")
	return &c, nil
}

// departing ends the lease, or the wait, of an execution that is over. It is told as a release.
type departing struct {
	rules     Rules
	lease     LeaseKey
	execution string
}

func (o departing) waiters(Record) int { return MaxQueue }

func (o departing) next(now time.Time, r Record) (*Command, error) {
	h, held := r.Holders[o.lease]
	place := r.waits(o.lease)
	var to Record
	switch {
	case held && h.Execution == o.execution:
		to = r.withoutHolder(o.lease)
	case !held && place >= 0 && r.Queue[place].Terms.Execution == o.execution:
		to = r.withoutWaiter(place)
	default:
		return nil, nil
	}
	to = o.rules.settle(now, to)
	to.Retired = Retired{Key: o.lease, Fence: h.Fence, At: now.UnixMilli(), Cause: CauseExecutionEnd}
	c := o.rules.swap(now, r, to, CauseExecutionEnd, o.execution, "")
	return &c, nil
}

// marking notes something of a grant that changes nobody's claim: that its callback is about to be tried, or that its
// execution was seen to run. first tells, after the write, whether it was not so before.
type marking struct {
	rules   Rules
	req     GrantRef
	attempt bool   // the callback
	tokens  Tokens // that are attempted, as they were granted
	checked int64  // or else: when the execution is to be looked at again
	first   bool
}

// errGone is the outcome of marking a grant that is over.
var errGone = errors.New("the grant is over")

func (o *marking) waiters(Record) int { return 0 }

func (o *marking) next(now time.Time, r Record) (*Command, error) {
	o.first = false // a write that seemed to be the first may have failed on one that was
	h, held := r.Holders[o.req.Key]
	if !held || h.Fence != o.req.Fence || h.ExpiresAt <= now.UnixMilli() {
		return nil, errGone
	}
	if o.attempt && h.Tokens != o.tokens {
		return nil, ErrSuperseded
	}
	switch {
	case !o.attempt && h.CheckAt < o.checked:
		h.CheckAt = o.checked
	case o.attempt && !h.Attempted:
		o.first = unshared(h.Tokens, h.Known) // otherwise somebody else may know of the lease
		h.Attempted = true
	case o.attempt && unshared(h.Tokens, h.Known): // the first attempt may be under way still, and come after this one
		h.Known = true
	default:
		return nil, nil
	}
	cause := CauseCheck
	if o.attempt {
		cause = CauseAttempt
	}
	c := o.rules.swap(now, r, r.withHolder(o.req.Key, h), cause, "", "")
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
	alone bool    // leave the queue as it is: a write that touched it could not be made
}

func (o *forcing) waiters(Record) int {
	if o.alone {
		return 0
	}
	return queueHead
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
	to = o.rules.advance(now, to) // others whose time is over are for a timer to tell: not everyone here was forced out
	c := o.rules.swap(now, r, to, CauseForceRelease, o.req.Principal, o.req.Reason)
	become := c.Effect.(Become)
	o.sent = &become
	return &c, nil
}
