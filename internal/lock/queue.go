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
// A waiter that polls repeats its acquire, which extends its place and returns the lease once it is granted. A waiter with a
// token gets a callback, which the stream's consumer sends while the lease is stored. A waiter holds the lock only after it received the
// coordinator's answer or the callback.

const (
	// MaxQueue is how many waiters one lock can have.
	MaxQueue = 500
	// ClaimTime is how long a grant to a waiter that polls lasts until the waiter claims it. A waiter that stopped polling delays those
	// behind it by at most this.
	ClaimTime = 10 * time.Second
	// queueHead is how many waiters a hand-off reads. One is enough unless places are abandoned or several waiters fit.
	queueHead = 32
	// maxMoves is how many waiters one write grants or removes, so that it fits DynamoDB's transactions of 100 items.
	maxMoves = 40
)

// settle is the record without expired leases and abandoned waiters, and with the waiters granted that fit.
func (u Rules) settle(now time.Time, r Record) Record {
	r.Holders = r.blocking(now.UnixMilli(), u.skew())
	return u.advance(now, r)
}

// advance is the part of settle that changes the queue.
func (u Rules) advance(now time.Time, r Record) Record {
	ms := now.UnixMilli()
	to := r
	to.Queue = nil
	moves := 0
	for i, w := range r.Queue {
		if moves == maxMoves {
			to.Queue = append(to.Queue, r.Queue[i:]...)
			break
		}
		fence := to.nextFence(now)
		switch {
		case w.Until <= ms: // abandoned
			moves++
		case len(to.Queue) == 0 && to.fits(w.Terms) && fenceError(now, fence) == nil:
			moves++
			h := grant(w.Terms, now, fence)
			h.Known = w.Known
			if !h.Tokens.OfTask() {
				h.Unclaimed = true
				h.ExpiresAt = min(ms+h.TTL, ms+ClaimTime.Milliseconds())
			}
			to = to.withHolder(w.Key, h)
			to.Fence = fence
		default:
			to.Queue = append(to.Queue, w)
		}
	}
	to.Waiting = r.Waiting - int64(len(r.Queue)-len(to.Queue))
	return to
}

// fits reports whether the permits of want are free and the record has room for the lease, whatever the queue.
func (r Record) fits(want Terms) bool { return r.hasPermits(want) && r.room(want) == nil }

func (r Record) hasPermits(want Terms) bool {
	return permits(r.Holders)+want.Permits <= r.limit(want.Capacity)
}

// Unsettled reports whether a write may have left waiters that fit, because the queue is longer than what the write read or
// moved. The coordinator that made the write settles the record again; if it fails, the stream's consumer does.
func Unsettled(r Record) bool {
	return r.Waiting > 0 && permits(r.Holders) < r.Capacity && (len(r.Queue) == 0 || r.fits(r.Queue[0].Terms))
}

// settling is the operation of [Coordinator.Settle].
type settling struct{ rules Rules }

func (o settling) waiters(Record) int { return MaxQueue }

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
	for _, w := range r.Queue {
		at = max(at, w.Until)
	}
	return at
}

// waits is the index of a lease's place among the waiters that were read; -1: none.
func (r Record) waits(key LeaseKey) int {
	return slices.IndexFunc(r.Queue, func(w Waiter) bool { return w.Key == key })
}

// PlacesEnded are the waiters that a write removed without a grant. Both records must have their queues.
func PlacesEnded(before, after Record) (list []Waiter) {
	for _, w := range before.Queue {
		if _, holds := after.Holders[w.Key]; !holds && after.waits(w.Key) < 0 {
			list = append(list, w)
		}
	}
	return list
}

// mergeQueue is a stored queue after a write that read its head as from and replaces it by to.
func mergeQueue(stored, from, to []Waiter) []Waiter {
	seen := map[int64]bool{}
	for _, w := range from {
		seen[w.Ticket] = true
	}
	out := slices.Clone(to)
	for _, w := range stored {
		if !seen[w.Ticket] {
			out = append(out, w)
		}
	}
	slices.SortFunc(out, func(a, b Waiter) int { return cmp.Compare(a.Ticket, b.Ticket) })
	return out
}

// Settle grants a lock's waiters what earlier writes left free, and removes abandoned waiters.
func (c *Coordinator) Settle(ctx context.Context, name string) error {
	_, err := c.readFirst(ctx, name, settling{c.rules})
	return err
}
