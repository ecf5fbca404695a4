package lock

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// The queue. A waiter's place is its ticket; tickets only grow. Whoever writes a record settles it: holders past their
// expiry go, waiters whose time is over go, and as many heads as fit become holders, all in the write's own step. So nobody who
// comes later is granted before somebody who waits, and a lock is not free while a waiter fits: but for what one write cannot
// move or did not see ([Unsettled]), which the next one at once does.
//
// A waiter that polls repeats its acquire: that keeps its place, and finds the grant. A waiter with a token is told of the
// grant by a callback, which the stream delivers. Neither believes that it holds before an answer of the coordinator's says
// how long: the poll's own, or the callback, which is sent only while the lease is stored.

const (
	// MaxQueue is how many may wait for one lock.
	MaxQueue = 500
	// ClaimTime is how long a grant to a waiter that polls lasts before the waiter has asked for it: what a waiter that went
	// away costs those behind it.
	ClaimTime = 10 * time.Second
	// queueHead is how many waiters a hand-off reads first: more than one only matters where the first ones went away, or
	// where several fit.
	queueHead = 32
	// maxMoves is how many waiters one write moves, so that it fits a transaction of 100 items; the rest is for further writes.
	maxMoves = 40
)

// settle is the record after what time and the queue demand: see above. It changes nothing of r's own maps and slices.
func (u Rules) settle(now time.Time, r Record) Record {
	r.Holders = r.blocking(now.UnixMilli(), u.skew())
	return u.advance(now, r)
}

// advance is the part of settle that concerns the queue.
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
		case w.Until <= ms: // went away
			moves++
		case len(to.Queue) == 0 && to.fits(w.Terms) && fenceError(now, fence) == nil:
			moves++
			h := grant(w.Terms, now, fence)
			h.Known = w.Known
			if h.Tokens.Empty() {
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

// fits tells whether want's permits are free, and there is room for it, whatever the queue.
func (r Record) fits(want Terms) bool { return r.hasPermits(want) && r.room(want) == nil }

func (r Record) hasPermits(want Terms) bool {
	return permits(r.Holders)+want.Permits <= r.limit(want.Capacity)
}

// Unsettled tells whether a write may have left waiters that fit: its queue may go on beyond what it moved or saw. Whoever
// made it goes on; if that died, somebody else must. Where the head of the queue is known, it tells.
func Unsettled(r Record) bool {
	return r.Waiting > 0 && permits(r.Holders) < r.Capacity && (len(r.Queue) == 0 || r.fits(r.Queue[0].Terms))
}

// settling does nothing but settle.
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

// lastUntil is when the last of the waiters that are known loses its place; 0 with none.
func (r Record) lastUntil() (at int64) {
	for _, w := range r.Queue {
		at = max(at, w.Until)
	}
	return at
}

// waits finds a lease's place among the waiters that are known; -1: none.
func (r Record) waits(key LeaseKey) int {
	return slices.IndexFunc(r.Queue, func(w Waiter) bool { return w.Key == key })
}

// PlacesEnded are the waiters that are not in the queue any more and got nothing, of a write whose records tell the queue.
func PlacesEnded(before, after Record) (list []Waiter) {
	for _, w := range before.Queue {
		if _, holds := after.Holders[w.Key]; !holds && after.waits(w.Key) < 0 {
			list = append(list, w)
		}
	}
	return list
}

// mergeQueue is a stored queue after a write that saw its head as from, and makes that to.
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

// Settle hands on what a write left undone that could not move all who wait at once.
func (c *Coordinator) Settle(ctx context.Context, name string) error {
	_, err := c.readFirst(ctx, name, settling{c.rules})
	return err
}
