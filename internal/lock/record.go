package lock

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"math"
	"slices"
	"time"
)

// A LeaseKey names a lease in a record. It is a hash of the lease secret and the lock's name, so that the table, its stream,
// logs and events can contain it and nobody who reads them can act as the holder.
type LeaseKey string

// KeyOf is the key of a lease secret on a lock: the first 128 bits of a SHA-256 in base64url, 22 characters.
func KeyOf(name, secret string) LeaseKey {
	sum := sha256.Sum256([]byte("holdfast lease\x00" + name + "\x00" + secret))
	return LeaseKey(base64.RawURLEncoding.EncodeToString(sum[:16]))
}

// A Record is one lock as it is stored. The zero Record is a lock without a row. A Record is a value: nothing changes its
// Holders map or its Queue in place. Times are Unix milliseconds by a coordinator's clock unless a field says otherwise.
type Record struct {
	Rev        int64              // number of writes so far; 0 only in the zero Record
	Fence      int64              // the highest fencing token ever granted (about Unix microseconds, see [Record.nextFence])
	Capacity   int64              // permits of the lock: the smallest capacity of its leases; without a lease, the last one
	Holders    map[LeaseKey]Lease // empty when free
	FreeAt     int64              // when the last of the leases expires; 0 when free
	Waiting    int64              // number of waiters in the queue
	NextTicket int64              // the last ticket given
	Head       int64              // the lowest ticket of the waiters, or a lower number; 0 when nobody waits
	Cause      Cause              // of the last write
	By         string             // principal that asked for the last write; empty: unknown
	Reason     string             // of a force-release or repair, as the operator gave it
	Retired    Retired            // the lease that ended last: late duplicates of its requests are recognised
	TTL        int64              // native TTL in Unix SECONDS; 0: never purge

	// Queue is the head of the queue in the order of tickets, as far as it was read with [Store.Waiters]. The replies of a
	// store leave it empty. Every write that adds or removes a waiter increments Rev. A [Keep] does not: a swap has a clause
	// for each waiter that it removes or changes.
	Queue []Waiter
	// Own is the place of the operation's caller, if it was read and Queue does not reach so far; else the zero Waiter.
	Own Waiter

	// Grants are the times of the last grants, oldest first, in Unix milliseconds, while a rate is in force for the lock: see rate.go.
	Grants []int64

	// hold is what keeps the lock from being granted, as far as the operation needs to know. It is not stored.
	hold *hold
	// texts are those of its leases, as far as the operation needs them. They are not stored here.
	texts map[int64]Texts
}

// Terms are what an acquire asks for.
type Terms struct {
	Owner     string // as the caller named itself; shown to others
	Principal string // the caller as the authorizer names it; empty without an authorizer
	Permits   int64  // at least 1
	Capacity  int64  // of the lock, as this caller knows it; at least Permits
	TTL       int64  // milliseconds; with an Execution, the time between two checks of it
	Metadata  string // a JSON object as the caller sent it; empty: none
	Tokens    Tokens // of the tasks that wait for the grant, or where to send a hint to a caller that polls; empty: it only polls
	Execution string // the state machine's execution that the lease belongs to and ends with; empty: none
	Joined    int64  // when the caller joined the queue, in Unix milliseconds; 0: it did not wait, or an older version made its place
	Set       string `json:",omitzero"` // the names of the set's locks, of which this is one: see [SetNames]; empty: a single lock

	// Bounds are the limits that the lease keeps; see [Limits].
	Bounds Bounds `json:",omitzero"`

	// Trace is the trace context of the acquire, as a traceparent of W3C, for events, the history and other callers; empty: none.
	Trace string `json:",omitzero"`

	// Newer are the attributes of a newer version, which this one does not know, in a text of the store's own; empty: none. A waiter's go
	// to its lease with the other terms.
	Newer string `json:",omitzero"`
}

// A Waiter is a place in a lock's queue.
type Waiter struct {
	Ticket int64
	Key    LeaseKey
	Terms        // of the lease that the waiter gets
	Known  bool  // becomes the Known of the lease
	Until  int64 // the place is kept until then; a waiter that polls extends it, see [Keep]

	// Tickets are those of all places of a set, in the order of its names, and then zeros.
	Tickets [MaxSet]int64
}

// A Lease is a number of permits that are granted to a holder until they expire.
type Lease struct {
	Terms
	Fence      int64 // the fencing token of the grant
	AcquiredAt int64
	RenewedAt  int64
	ExpiresAt  int64
	EndsAt     int64 `json:",omitzero"` // no renewal makes it last longer, by Bounds.MaxHold; 0: there is no such limit
	CheckAt    int64 // with an Execution: when to check next whether it still runs

	// Split says which of the lease's texts were not read: see [Store.Texts]. A record that is not stored yet has none of them split.
	Split SplitTexts

	// Unclaimed marks a grant to a waiter that polls, until the waiter asks for it. It lasts [ClaimTime] at most; from the
	// claim on it lasts its TTL.
	Unclaimed bool
	// Attempted says that a callback was attempted since the last token was added.
	Attempted bool
	// Told says that every callback was answered since the last token was added: it was delivered, or nobody waits for it.
	Told bool
	// Known says that others than the one task that waits with the only token may know of the lease: a second
	// attempt was made, a caller without a token asked for it, or it has had other tokens. The lease of a task that is
	// gone is then left to its TTL or its execution.
	Known bool
}

// SplitTexts says which texts of a lease a store keeps apart from the record, where every lease makes every write of the lock cost more.
type SplitTexts uint8

// The ways to keep the texts of a lease.
const (
	Whole            SplitTexts = iota // all are in the record
	Split                              // owner, principal, set, trace and metadata are kept apart, and were not read
	SplitButMetadata                   // owner, principal, set and trace are kept apart; the metadata was renewed, and is in the record
)

// Texts are what a store may keep apart of a lease.
type Texts struct {
	Owner, Principal, Metadata, Set, Trace string
	Joined                                 int64 // no text, and of use at the grant only: kept apart for its size
}

// Waited is for how many milliseconds the caller waited in the queue before the grant; 0 if it did not.
func (l Lease) Waited() int64 {
	if l.Joined == 0 {
		return 0
	}
	return max(l.AcquiredAt-l.Joined, 0) // the clocks of the two coordinators may differ
}

// With is the lease with its texts, as they were read. It has no effect on a lease whose texts are in the record.
func (l Lease) With(t Texts) Lease {
	if l.Split == Whole {
		return l
	}
	l.Owner, l.Principal, l.Set, l.Trace, l.Joined = t.Owner, t.Principal, t.Set, cmp.Or(l.Trace, t.Trace), cmp.Or(l.Joined, t.Joined)
	if l.Split == Split {
		l.Metadata = t.Metadata
	}
	l.Split = Whole
	return l
}

// withMetadata is the lease with metadata that a renewal brought.
func (l Lease) withMetadata(metadata string) Lease {
	if l.Metadata = metadata; l.Split == Split {
		l.Split = SplitButMetadata
	}
	return l
}

// Retired is what a record remembers of the lease that ended last.
type Retired struct {
	Key   LeaseKey
	Fence int64
	At    int64
	Cause Cause // how it ended: one of the causes that end leases
}

// blocking are the leases that keep others out at now: those not yet past their expiry by the skew allowance s, so that no
// coordinator's clock within s of this one can still take them for live. Both are in milliseconds.
func (r Record) blocking(now, s int64) map[LeaseKey]Lease {
	live := maps.Clone(r.Holders)
	maps.DeleteFunc(live, func(_ LeaseKey, h Lease) bool { return h.ExpiresAt <= now-s })
	return live
}

// nextFence is the fencing token of a grant made now: max(now in microseconds, Fence+1). It grows with every grant. A request
// can propose it without the record (now), and it still grows after the row was purged (see [Rules.Retention]).
func (r Record) nextFence(now time.Time) int64 { return max(now.UnixMicro(), r.Fence+1) }

// withHolder is the record with a lease put; withoutHolder and withoutWaiter are the record without one.
func (r Record) withHolder(key LeaseKey, h Lease) Record {
	holders := make(map[LeaseKey]Lease, len(r.Holders)+1)
	maps.Copy(holders, r.Holders)
	holders[key] = h
	r.Holders = holders
	return r
}

func (r Record) withoutHolder(key LeaseKey) Record {
	r.Holders = maps.Clone(r.Holders)
	delete(r.Holders, key)
	return r
}

// Size is about how many bytes the record takes in an answer.
func (r Record) Size() int {
	size := 200
	for _, h := range r.Holders {
		size += 300 + len(h.Owner) + len(h.Principal) + len(h.Metadata)
	}
	return size
}

// limit is how many permits the record's leases and a new one with the given capacity may have together: the smallest of
// their capacities. So while the capacity of a lock is being changed, the smaller one holds.
func (r Record) limit(capacity int64) int64 {
	for _, l := range r.Holders {
		capacity = min(capacity, l.Capacity)
	}
	return capacity
}

// capacity is the limit of the present leases; without one, the last.
func (r Record) capacity() int64 {
	if len(r.Holders) == 0 {
		return r.Capacity
	}
	return r.limit(math.MaxInt64)
}

// hasFree reports whether permits are free. A lock without leases is free, also if its row was made by a waiter and has no capacity yet.
func (r Record) hasFree() bool { return len(r.Holders) == 0 || permits(r.Holders) < r.Capacity }

func permits(holders map[LeaseKey]Lease) (sum int64) {
	for _, h := range holders {
		sum += h.Permits
	}
	return sum
}

func freeAt(holders map[LeaseKey]Lease) (at int64) {
	for _, h := range holders {
		at = max(at, h.ExpiresAt)
	}
	return at
}

// byFence are the keys of leases, oldest grant first.
func byFence(holders map[LeaseKey]Lease) []LeaseKey {
	return slices.SortedFunc(maps.Keys(holders), func(a, b LeaseKey) int {
		return cmp.Compare(holders[a].Fence, holders[b].Fence)
	})
}
