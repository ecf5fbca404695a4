package lock

import (
	"maps"
	"time"
)

// A Command is one guarded write: if every clause of the guard holds for the record as it is stored, the effect makes the
// next record, in one atomic step. This file is the table of commands. [Command.Allows] and [Command.Next] are their
// reference interpreter: a store either runs them under a mutex (see [Memory]) or compiles the clauses and effects to
// conditions and updates of its own (see package dynamo).
type Command struct {
	Kind   Kind
	Guard  []Clause
	Absent bool // the guard also holds when there is no record
	Effect Effect
	Stamp  Stamp
}

// A Kind names a row of the table.
type Kind string

// The commands.
const (
	Take    Kind = "take"    // a lease on a free lock
	Renew   Kind = "renew"   // a later expiry for a lease, which becomes the latest of the lock
	Release Kind = "release" // the end of the only lease, by its holder
	Expire  Kind = "expire"  // the end of the only lease, past its expiry
	Swap    Kind = "swap"    // any next record, computed from the one that was read
	Extends Kind = "keep"    // a later end of a waiter's place; the record stays as it is
)

// A Stamp is what every command writes beside its effect. Every command also increments Rev.
type Stamp struct {
	Cause  Cause
	By     string
	Reason string
	TTL    int64 // Unix seconds; 0 removes the attribute
}

// A Clause is one condition on a stored record.
type Clause struct {
	Test Test
	Key  LeaseKey // for the tests of one lease
	N    int64
}

// A Test is a kind of clause.
type Test uint8

// The tests. "The lease" is the one under Clause.Key; a test of a lease that is not in the record fails.
const (
	FreeBy         Test = iota + 1 // free_at <= N
	NobodyWaiting                  // waiting = 0
	FenceBelow                     // fence < N
	NotRetired                     // the lease is not the one that ended last
	LeaseOutlives                  // the lease's expires_at > N
	LeaseExpiredBy                 // the lease's expires_at <= N
	LeaseTTLIs                     // the lease's ttl_ms = N
	LeaseTTLAllows                 // the lease's terms allow a TTL of N
	LeaseMayLast                   // the lease may last until N
	LeaseClaimed                   // the lease is no grant that its waiter has not claimed
	OnlyHolder                     // there is exactly one holder
	RevIs                          // rev = N
	FenceIs                        // fence = N
	PlaceUntil                     // the lease has a place in the queue, which is kept until N
)

func (t Test) String() string {
	return [...]string{"", "FreeBy", "NobodyWaiting", "FenceBelow", "NotRetired", "LeaseOutlives",
		"LeaseExpiredBy", "LeaseTTLIs", "LeaseTTLAllows", "LeaseMayLast", "LeaseClaimed", "OnlyHolder", "RevIs", "FenceIs", "PlaceUntil"}[t]
}

// Holds reports whether the clause holds for a record.
func (c Clause) Holds(r Record) bool {
	h, held := r.Holders[c.Key]
	switch c.Test {
	case FreeBy:
		return r.FreeAt <= c.N
	case NobodyWaiting:
		return r.Waiting == 0
	case FenceBelow:
		return r.Fence < c.N
	case NotRetired:
		return r.Retired.Key != c.Key
	case LeaseOutlives:
		return held && h.ExpiresAt > c.N
	case LeaseExpiredBy:
		return held && h.ExpiresAt <= c.N
	case LeaseTTLIs:
		return held && h.TTL == c.N
	case LeaseTTLAllows:
		return held && (h.Bounds.MaxTTL == 0 || h.Bounds.MaxTTL >= c.N)
	case LeaseMayLast:
		return held && (h.EndsAt == 0 || h.EndsAt >= c.N)
	case LeaseClaimed:
		return held && !h.Unclaimed
	case OnlyHolder:
		return len(r.Holders) == 1
	case RevIs:
		return r.Rev == c.N
	case FenceIs:
		return r.Fence == c.N
	case PlaceUntil:
		w, waits := r.place(c.Key)
		return waits && w.Until == c.N
	}
	return false
}

// An Effect is what a command does to the record besides its stamp: one of [Grant], [Extend], [End], [Become] and [Keep].
type Effect interface{ apply(Record) Record }

// Grant makes Lease the only lease of a free lock. It sets the lock's capacity and fencing token.
type Grant struct {
	Key      LeaseKey
	Lease    Lease
	Capacity int64
}

// Extend moves a lease's expiry, which becomes the lock's FreeAt. With a nil Metadata the lease keeps what it has.
type Extend struct {
	Key       LeaseKey
	ExpiresAt int64
	RenewedAt int64
	TTL       int64
	Metadata  *string
}

// End frees a lock whose only lease is Key. The record remembers the lease as retired.
type End struct {
	Key   LeaseKey
	At    int64
	Cause Cause
}

// Become replaces From, which the guard proves is still stored, by To. Rev and the stamp are the command's. Waiters that From does not
// show stay, and so do those that To leaves as From shows them.
type Become struct{ From, To Record }

// Keep extends a waiter's place. It changes the waiter alone: neither Rev nor the stamp is written, so it never comes in the way
// of a command on the record.
type Keep struct {
	Ticket int64
	Key    LeaseKey
	Until  int64
}

func (e Grant) apply(r Record) Record {
	r.Holders = map[LeaseKey]Lease{e.Key: e.Lease}
	r.Capacity, r.Fence, r.FreeAt = e.Capacity, e.Lease.Fence, e.Lease.ExpiresAt
	return r
}

func (e Extend) apply(r Record) Record {
	h := r.Holders[e.Key]
	h.ExpiresAt, h.RenewedAt, h.TTL = e.ExpiresAt, e.RenewedAt, e.TTL
	if e.Metadata != nil {
		h = h.withMetadata(*e.Metadata)
	}
	r.Holders = maps.Clone(r.Holders)
	r.Holders[e.Key] = h
	r.FreeAt = e.ExpiresAt
	return r
}

func (e End) apply(r Record) Record {
	r.Retired = Retired{Key: e.Key, Fence: r.Holders[e.Key].Fence, At: e.At, Cause: e.Cause}
	r.Holders, r.FreeAt = nil, 0
	return r
}

func (e Become) apply(r Record) Record {
	to := e.To
	to.Queue, to.Own, to.hold, to.texts = mergeQueue(r.Queue, e.From.Places(), e.To.Places()), Waiter{}, nil, nil
	return to
}

func (e Keep) apply(r Record) Record {
	w, waits := r.place(e.Key)
	if !waits {
		return r
	}
	w.Until = e.Until
	return r.withPlace(w)
}

// Allows reports whether the guard holds for a record, and no waiter that the effect adds has a place already.
func (c Command) Allows(r Record) bool {
	if r.Rev == 0 {
		return c.Absent
	}
	for _, clause := range c.Guard {
		if !clause.Holds(r) {
			return false
		}
	}
	become, ok := c.Effect.(Become)
	return !ok || !become.joinsTwice(r)
}

// joinsTwice reports whether a waiter that the effect adds has a place already. A store need not find one among the first [QueueHead]
// waiters, since every operation reads these.
func (e Become) joinsTwice(stored Record) bool {
	for _, w := range e.To.Places() {
		_, read := e.From.place(w.Key)
		if other, waits := stored.place(w.Key); !read && waits && other.Ticket != w.Ticket {
			return true
		}
	}
	return false
}

// Next is the record that the command makes of one that the guard allows.
func (c Command) Next(r Record) Record {
	rev := r.Rev + 1
	r = c.Effect.apply(r)
	if c.Kind == Extends {
		return r
	}
	r.Rev, r.Cause, r.By, r.Reason, r.TTL = rev, c.Stamp.Cause, c.Stamp.By, c.Stamp.Reason, c.Stamp.TTL
	return r
}

// take grants a lock that has no leases, or no record. It leaves expired leases to a swap, which a coordinator makes only
// after it has seen a reply of the store: so no write that a coordinator with a wrong clock makes blind ends a live lease.
// The lease's fencing token must be higher than the record's.
func (u Rules) take(now time.Time, key LeaseKey, h Lease, capacity int64) Command {
	cause := CauseAcquire
	if h.bound() {
		cause = CauseTask
	}
	return Command{
		Kind:   Take,
		Absent: true,
		Guard: []Clause{
			{Test: FreeBy, N: 0}, // no holders
			{Test: NobodyWaiting},
			{Test: FenceBelow, N: h.Fence},
			{Test: NotRetired, Key: key},
		},
		Effect: Grant{Key: key, Lease: h, Capacity: capacity},
		Stamp:  Stamp{Cause: cause, By: h.Principal, TTL: u.purgeAt(now, h.ExpiresAt, h.Fence)},
	}
}

// renew extends a lease that is live at now. It writes the lock's FreeAt, so its guard wants the new expiry to be no earlier
// than that of any lease, its own included: a renewal never shortens a lease. sameTTL restricts it to a lease whose TTL is
// the given one, for callers that named none.
func (u Rules) renew(now time.Time, key LeaseKey, ttl int64, sameTTL bool, metadata *string, by string) Command {
	expiry := now.UnixMilli() + ttl
	c := Command{
		Kind: Renew,
		Guard: []Clause{
			{Test: LeaseOutlives, Key: key, N: now.UnixMilli()},
			{Test: LeaseTTLAllows, Key: key, N: ttl},
			{Test: LeaseMayLast, Key: key, N: expiry},
			{Test: LeaseClaimed, Key: key}, // to claim a grant changes more than the expiry: see claimed
			{Test: FreeBy, N: expiry},
			{Test: NobodyWaiting}, // a row must be kept longer than its waiters' places, which this does not know
			{Test: FenceBelow, N: u.unseenFence(now)},
		},
		Effect: Extend{Key: key, ExpiresAt: expiry, RenewedAt: now.UnixMilli(), TTL: ttl, Metadata: metadata},
		Stamp:  Stamp{Cause: CauseRenew, By: by, TTL: u.purgeAt(now, expiry, u.unseenFence(now))},
	}
	if sameTTL {
		c.Guard = append(c.Guard, Clause{Test: LeaseTTLIs, Key: key, N: ttl})
	}
	return c
}

// release ends a lease that is live at now and the only one.
func (u Rules) release(now time.Time, key LeaseKey, by string) Command {
	return u.end(Release, CauseRelease, now, key, by, Clause{Test: LeaseOutlives, Key: key, N: now.UnixMilli()})
}

// expire ends a lease that has expired by every clock within the skew allowance, and that is the only one.
func (u Rules) expire(now time.Time, key LeaseKey) Command {
	return u.end(Expire, CauseExpire, now, key, "", Clause{Test: LeaseExpiredBy, Key: key, N: now.UnixMilli() - u.skew()})
}

func (u Rules) end(kind Kind, cause Cause, now time.Time, key LeaseKey, by string, when Clause) Command {
	return Command{
		Kind:   kind,
		Guard:  []Clause{when, {Test: OnlyHolder}, {Test: NobodyWaiting}, {Test: FenceBelow, N: u.unseenFence(now)}},
		Effect: End{Key: key, At: now.UnixMilli(), Cause: cause},
		Stamp:  Stamp{Cause: cause, By: by, TTL: u.purgeAt(now, 0, u.unseenFence(now))},
	}
}

// unseenFence is the bound of the record's fencing token in the guard of a command that writes a native TTL without having
// read the record. Without the bound, a write with a stale now could let the row be purged before a later take is sure to
// propose a higher token. It leaves room for a grant by a coordinator whose clock is ahead.
func (u Rules) unseenFence(now time.Time) int64 { return now.Add(u.Skew).UnixMicro() + 1 }

// swap replaces from by to, if from is still stored. Rev alone does not prove that: after a purge a new row counts from 1
// again, but its fencing token is higher. It has a clause for each waiter that it removes or changes, since a [Keep] leaves Rev as it
// is. FreeAt, Capacity, Head and the native TTL follow from to. A row with waiters is kept for
// a retention after the last of them loses its place, so that a row whose waiters all died is purged in the end.
func (u Rules) swap(now time.Time, from, to Record, cause Cause, by, reason string) Command {
	to.FreeAt, to.Capacity, to.Head = freeAt(to.Holders), to.capacity(), to.headFrom(from)
	if cause == CauseQueue && to.headMoved(from) && to.hasFree() {
		cause = CauseTurn // the stream's consumer must see it: no other write may come that grants the head
	}
	stamp := Stamp{Cause: cause, By: by, Reason: reason, TTL: u.purgeAt(now, max(to.FreeAt, to.lastUntil()), to.Fence)}
	if to.Waiting > int64(len(to.Places())) && from.Waiting > 0 { // waiters that were not read: the row is kept for them as before
		stamp.TTL = max(stamp.TTL, from.TTL)
	}
	guard := []Clause{{Test: RevIs, N: from.Rev}, {Test: FenceIs, N: from.Fence}}
	for _, w := range from.Places() {
		if now, stays := to.place(w.Key); !stays || now != w {
			guard = append(guard, Clause{Test: PlaceUntil, Key: w.Key, N: w.Until})
		}
	}
	return Command{Kind: Swap, Absent: from.Rev == 0, Guard: guard, Effect: Become{From: from, To: to}, Stamp: stamp}
}

// keep extends the place of a waiter that polls, if it is as it was read. A request that is delivered late so changes nothing.
func (u Rules) keep(w Waiter, until int64) Command {
	return Command{
		Kind:   Extends,
		Guard:  []Clause{{Test: PlaceUntil, Key: w.Key, N: w.Until}},
		Effect: Keep{Ticket: w.Ticket, Key: w.Key, Until: until},
	}
}
