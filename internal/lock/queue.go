package lock

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// The queue. A waiter's place is its ticket; tickets only grow. A write that grants or ends a lease, or changes the queue, settles the record: in one atomic step it removes
// expired leases and abandoned waiters, then grants the waiters at the head of the queue that fit. (Renewals, claims, attempts and
// checks change neither; a force-release leaves expired leases to a timer.) So a later request is never granted before a waiter, and
// a lock is not free while a waiter fits. The exception is [Unsettled]: one write grants or removes at most maxMoves of the waiters
// that it read. Another write, sent at once, handles the rest.
//
// A waiter that polls repeats its acquire, which extends its place and returns the lease once it is granted. With the ticket of an
// earlier answer such a poll is one read of two items; see poll.go. A waiter with a token gets a callback, which the stream's consumer sends while the lease is stored. A waiter holds the lock only after it received the
// coordinator's answer or the callback.

const (
	// MaxQueue is how many waiters one lock can have.
	MaxQueue = 500
	// ClaimTime is how long a grant to a waiter that polls lasts until the waiter claims it. A waiter that stopped polling delays those
	// behind it by at most this.
	ClaimTime = 10 * time.Second
	// QueueHead is how many waiters at the head of the queue an operation reads. One is enough unless places are abandoned or several
	// waiters fit. Ten waiters without metadata take less than 4 KB, one read unit of DynamoDB.
	QueueHead = 10
	// maxMoves is how many waiters one write grants or removes, so that it fits DynamoDB's transactions of 100 items.
	maxMoves = 40
)

// settle is the record without expired leases and abandoned waiters, and with the waiters granted that fit.
func (u Rules) settle(now time.Time, r Record) Record {
	r.Holders = r.blocking(now.UnixMilli(), u.skew())
	return u.advance(now, r)
}

// advance is the part of settle that changes the queue. While a hold keeps the lock from being granted, it removes abandoned waiters only. It never
// grants a set, whose grant is a write of several records, and so grants nobody behind it: see setrun.go.
func (u Rules) advance(now time.Time, r Record) Record { return u.advanceBy(now, r, maxMoves) }

// advanceBy is advance with another bound of the waiters that it grants or removes.
func (u Rules) advanceBy(now time.Time, r Record, most int) Record {
	ms := now.UnixMilli()
	to := r
	to.Queue = nil
	moves := 0
	for i, w := range r.Queue {
		if moves == most {
			to.Queue = append(to.Queue, r.Queue[i:]...)
			break
		}
		fence := to.nextFence(now)
		switch {
		case w.Until <= ms: // abandoned
			moves++
		case len(to.Queue) == 0 && w.Set == "" && to.heldBack(now) == nil && to.fits(w.Terms) && fenceError(now, fence) == nil:
			moves++
			to, _ = to.handedTo(now, w)
		default:
			to.Queue = append(to.Queue, w)
		}
	}
	to.Waiting = r.Waiting - int64(len(r.Queue)-len(to.Queue))
	return to
}

// handedTo is the record with a lease for a waiter, whose place it leaves as it is. Unless a task waits, the lease lasts until its waiter is
// to have claimed it.
func (r Record) handedTo(now time.Time, w Waiter) (Record, Lease) {
	ms := now.UnixMilli()
	h := grant(w.Terms, now, r.nextFence(now))
	h.Known = w.Known
	if !h.Tokens.OfTask() {
		h.Unclaimed = true
		h.ExpiresAt = min(ms+h.TTL, ms+ClaimTime.Milliseconds())
		h = h.bounded()
	}
	r = r.counting(now).withHolder(w.Key, h)
	r.Fence = h.Fence
	return r, h
}

// fits reports whether the permits of want are free and the record has room for the lease, whatever the queue.
func (r Record) fits(want Terms) bool { return r.hasPermits(want) && r.room(want) == nil }

func (r Record) hasPermits(want Terms) bool {
	return permits(r.Holders)+want.Permits <= r.limit(want.Capacity)
}

// Unsettled reports whether a write may have left waiters that fit, because the queue is longer than what the write read or
// moved, or because a set is first. The coordinator that made the write settles the lock; if it fails, the stream's consumer does.
func Unsettled(r Record) bool {
	return r.Waiting > 0 && r.hasFree() && (len(r.Queue) == 0 || r.fits(r.Queue[0].Terms))
}

// settling is the operation of [Coordinator.Settle].
type settling struct{ rules Rules }

func (o settling) waiters(Record) int { return maxMoves + 1 }

func (o settling) next(now time.Time, r Record) (*Command, error) {
	to := o.rules.settle(now, r)
	if to.Waiting == r.Waiting && !changesHolders(r, to) {
		return nil, nil
	}
	cause := CauseQueue
	if changesHolders(r, to) {
		cause = CauseSettle
	}
	c := o.rules.swap(now, r, to, cause, "", "")
	return &c, nil
}

// lastUntil is when the last of the waiters that were read loses its place; 0 with none.
func (r Record) lastUntil() (at int64) {
	for i := range r.Queue {
		at = max(at, r.Queue[i].Until)
	}
	return max(at, r.Own.Until)
}

// Places are the waiters that were read, in the order of tickets: the head of the queue, and the caller's own place behind it.
func (r Record) Places() []Waiter {
	if r.Own.Ticket == 0 {
		return r.Queue
	}
	return append(slices.Clip(r.Queue), r.Own)
}

// place is a lease's place among the waiters that were read.
func (r Record) place(key LeaseKey) (w Waiter, waits bool) {
	for i := range r.Queue { // a waiter is large: by index, and without the list of Places
		if r.Queue[i].Key == key {
			return r.Queue[i], true
		}
	}
	if r.Own.Ticket != 0 && r.Own.Key == key {
		return r.Own, true
	}
	return Waiter{}, false
}

// position is a lease's position in the queue, from 1; 0 if it has no place that was read. It is exact within Queue. Behind it, it counts
// those who left between the head and the place, so it is never too low.
func (r Record) position(key LeaseKey) int64 {
	if i := slices.IndexFunc(r.Queue, func(w Waiter) bool { return w.Key == key }); i >= 0 {
		return int64(i + 1)
	}
	if r.Own.Ticket == 0 || r.Own.Key != key {
		return 0
	}
	return max(1, min(r.Own.Ticket-r.Head+1, r.Waiting))
}

// withPlace is the record with a place changed; withoutPlace is the record without it. The place must be among the waiters that were read.
func (r Record) withPlace(w Waiter) Record {
	if r.Own.Ticket == w.Ticket {
		r.Own = w
		return r
	}
	i := slices.IndexFunc(r.Queue, func(q Waiter) bool { return q.Ticket == w.Ticket })
	r.Queue = slices.Clone(r.Queue)
	r.Queue[i] = w
	return r
}

func (r Record) withoutPlace(w Waiter) Record {
	r.Waiting--
	if r.Own.Ticket == w.Ticket {
		r.Own = Waiter{}
		return r
	}
	r.Queue = slices.DeleteFunc(slices.Clone(r.Queue), func(q Waiter) bool { return q.Ticket == w.Ticket })
	return r
}

// headFrom is the Head of a record that was made of from: the lowest ticket that is left of the waiters that were read, or that of from if none
// is left.
func (r Record) headFrom(from Record) int64 {
	switch {
	case r.Waiting == 0:
		return 0
	case len(r.Queue) > 0:
		return r.Queue[0].Ticket
	case r.Waiting == 1 && r.Own.Ticket != 0:
		return r.Own.Ticket
	}
	return from.Head
}

// headMoved reports whether a record that was made of from has another head of its queue, or may have one that was not read.
func (r Record) headMoved(from Record) bool {
	return r.Waiting > 0 && (r.Head != from.Head || len(r.Queue) == 0 && len(from.Queue) > 0)
}

// onlyJoined reports whether all writes between from, which is older, and r added a waiter each: then the queue of r is that of from, with
// further waiters at its end. Any other write may have changed a waiter.
func (r Record) onlyJoined(from Record) bool {
	joined := r.NextTicket - from.NextTicket
	return joined > 0 && r.Rev == from.Rev+joined && r.Fence >= from.Fence && r.Waiting == from.Waiting+joined
}

// PlacesEnded are the waiters that a write removed without a grant. Both records must have the places that the write read.
func PlacesEnded(before, after Record) (list []Waiter) {
	for _, w := range before.Places() {
		_, holds := after.Holders[w.Key]
		if _, waits := after.place(w.Key); !holds && !waits {
			list = append(list, w)
		}
	}
	return list
}

// mergeQueue is a stored queue after a write that read some of its waiters as from and replaces these by to. A waiter that the write does
// not change stays as it is stored: it may have been kept since.
func mergeQueue(stored, from, to []Waiter) []Waiter {
	if len(from) == 0 && len(to) == 0 {
		return slices.Clone(stored)
	}
	read := make(map[int64]int, len(from)) // by ticket: the index in from, or -1 for a waiter that the write does not change
	for i := range from {
		read[from[i].Ticket] = i
	}
	var out []Waiter
	for i := range to {
		if at, seen := read[to[i].Ticket]; seen && from[at] == to[i] {
			read[to[i].Ticket] = -1
		} else {
			out = append(out, to[i])
		}
	}
	for i := range stored {
		if at, seen := read[stored[i].Ticket]; !seen || at < 0 {
			out = append(out, stored[i])
		}
	}
	slices.SortFunc(out, func(a, b Waiter) int { return cmp.Compare(a.Ticket, b.Ticket) })
	return out
}

// Settle grants a lock's waiters what earlier writes left free, and removes abandoned waiters. It grants the set at the head of the queue, if that
// is first and fits in its other locks.
func (c *Coordinator) Settle(ctx context.Context, name string) error {
	_, err := c.SettleUntil(ctx, name)
	return err
}

// A HeldUp says that a lock has free permits which nobody gets, since the head of its queue does not fit, or is a set that waits for its other
// locks, or since a rate allows the next grant later. The zero HeldUp says that it has none.
type HeldUp struct {
	Head  int64     // of the record: while it is the same, so is the head of the queue
	Until time.Time // when the head loses its place, unless its caller extends it, or when the rate allows a grant
}

// SettleUntil is Settle. It returns when the lock must be settled again, if the head of the queue keeps those behind it from free permits: nothing
// else may happen to the lock when the head's caller is gone and its place ends.
//
// It goes by no freeze and no rate that was read before: if that has been ended since, nobody may look at the lock again.
func (c *Coordinator) SettleUntil(ctx context.Context, name string) (HeldUp, error) {
	now := c.clock()
	if rules, fresh := c.cache.get(now); fresh && holdBy(rules, name, now) != nil {
		if _, err := c.readRules(ctx); err != nil {
			return HeldUp{}, err
		}
	}
	for range maxTries {
		out, err := c.readFirst(ctx, name, settling{c.rules})
		if err != nil || out.After.hold.failed() != nil || out.After.hold.freezes(c.clock()) { // the end of a freeze settles the lock
			return HeldUp{}, err
		}
		if out.wrote { // after a write, decide has settled what is left
			continue
		}
		if at, _ := out.After.nextGrant(); at > c.clock().UnixMilli() && Unsettled(out.After) {
			return HeldUp{Head: out.After.Head, Until: time.UnixMilli(at)}, nil
		}
		set := out.After.headSet()
		if set == nil {
			return out.After.heldUp(), nil
		}
		names := SetNames(set.Set)
		granted, err := c.trySet(ctx, nil, names, set.Tickets[:len(names)], setSettling{c.rules, names, set.Key})
		if err != nil || len(granted.parts) == 0 {
			return out.After.heldUp(), err
		}
		c.finish(ctx, c.dueOfSet(nil, granted), "", leftBy(granted)...)
	}
	return HeldUp{}, nil // the stream's consumer sees each of these writes
}

// heldUp is the HeldUp of a record that is settled, and of which the head of the queue was read.
func (r Record) heldUp() HeldUp {
	if len(r.Queue) == 0 || !r.hasFree() {
		return HeldUp{}
	}
	return HeldUp{Head: r.Head, Until: time.UnixMilli(r.Queue[0].Until)}
}
