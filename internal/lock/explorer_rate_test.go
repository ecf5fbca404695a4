package lock

import "time"

// The part of the explorer of sets that has a rate: lock a is granted once in a number of ticks.

// rated is what keeps lock a back by the rate, or nil without one.
func (w setWorld) rated() *hold {
	if w.rate == 0 || w.deaf {
		return nil
	}
	return &hold{rates: []rate{{Limit{LimitRate, 1, ""}, w.rate * tick.Milliseconds()}}}
}

// heldUp is when the stream's consumer must settle a lock again, as [Coordinator.SettleUntil] decides on a record that has nothing to settle.
func (x *setExplorer) heldUp(r Record, now time.Time) HeldUp {
	if at, _ := r.nextGrant(); at > now.UnixMilli() && Unsettled(r) {
		if x.early {
			at -= tick.Milliseconds()
		}
		return HeldUp{r.Head, time.UnixMilli(at)}
	}
	return r.heldUp()
}

// comes reports whether the rate allows the next grant of a lock only later than now.
func (x *setExplorer) comes(lock uint8, r Record, now uint8) bool {
	if lock != 0 {
		return false
	}
	r.hold = x.rated()
	at, _ := r.nextGrant()
	return at > x.clock(now).UnixMilli()
}

// turns is Turn of a write's effects.
func (x *setExplorer) turns(w Write, e Effects) bool {
	if x.unrated {
		w.After.Grants = nil
		return w.Effects(false).Turn
	}
	return e.Turn
}

// checkRate checks that no grant of lock a comes within the rate's time after the one before. A fencing token is the time of its grant; last is the highest before the write.
func (x *setExplorer) checkRate(lock uint8, last int64, before, after Record) {
	if lock != 0 || x.rate == 0 {
		return
	}
	for _, k := range byFence(after.Holders) {
		h := after.Holders[k]
		if before.Holders[k].Fence == h.Fence {
			continue
		}
		if gap := h.Fence - last; last > 0 && gap < x.rate*tick.Microseconds() {
			x.fail("rate: %v is granted %d µs after the grant before", k, gap)
		}
		last = h.Fence
	}
}

// rateWorlds are walked with the others.
var rateWorlds = []setWorld{
	{name: "a rate and a waiter", clients: 2, clocks: 1, wants: wants{onlyA, onlyA}, capacity: oneEach, sends: 1, again: 1, timers: 1, stream: true, jobs: true, rate: 2, ttl: 3, wait: 4, retention: 5, horizon: 4},
	{name: "a rate and two clocks", clients: 2, clocks: 2, wants: wants{onlyA, onlyA}, capacity: oneEach, sends: 1, again: 1, timers: 1, stream: true, jobs: true, rate: 2, ttl: 1, wait: 4, retention: 5, horizon: 3},
	{name: "a rate of a lock with two permits", clients: 2, clocks: 1, wants: wants{onlyA, {2, 0}}, capacity: [2]int64{2, 1}, sends: 1, again: 1, stream: true, jobs: true, rate: 2, ttl: 3, wait: 5, retention: 5, horizon: 3},
	{name: "a rate and two waiters", clients: 3, clocks: 1, wants: wants{onlyA, onlyA, onlyA}, capacity: [2]int64{3, 1}, sends: 1, stream: true, jobs: true, rate: 2, ttl: 4, wait: 5, retention: 5, horizon: 3},
	{name: "a rate of a lock of a set", clients: 2, clocks: 1, wants: wants{onlyA, both}, capacity: oneEach, sends: 1, again: 1, stream: true, jobs: true, rate: 2, ttl: 3, wait: 4, retention: 5, horizon: 3},
}

// rateMutants break the rules of rates. A world with a rate must show each.
var rateMutants = map[string]func(*setWorld){
	"nothing goes by a rate": func(w *setWorld) { w.deaf = true },
	"grants are not counted": func(w *setWorld) {
		w.mutate = became(func(from Record, to *Record) { to.Grants = from.Grants })
	},
	"grants of waiters are not counted": func(w *setWorld) {
		w.mutate = became(func(from Record, to *Record) {
			for k, h := range to.Holders {
				if h.Unclaimed && from.Holders[k].Fence != h.Fence {
					to.Grants = from.Grants
				}
			}
		})
	},
	"the times of grants end with the leases": func(w *setWorld) {
		w.mutate = became(func(_ Record, to *Record) {
			if len(to.Holders) == 0 {
				to.Grants = nil
			}
		})
	},
	"no job is set for the next grant":                            func(w *setWorld) { w.once = true },
	"a job for the next grant is due too early":                   func(w *setWorld) { w.early, w.still = true, true },
	"no job is set for permits that a rate keeps back when freed": func(w *setWorld) { w.unrated = true },
}
