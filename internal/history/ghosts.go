package history

import (
	"math"
	"slices"
)

// prepare computes what is known of the operations of a lock before the search for an order. ops are sorted by their beginning.
func prepare(ops []Op, cfg Config) []*call {
	lastUse := map[string]int64{}
	exists := map[string]int64{}  // by lease: from when on an acquire may have taken effect without an answer that says so
	asked := map[string]Op{}      // by lease: an acquire
	releases := map[string][]Op{} // by lease: those without an answer
	reads := map[string]int64{}   // by lease: when the first downgrade began
	for _, o := range ops {
		lastUse[o.Lease] = max(lastUse[o.Lease], o.Ended)
		if o.Op == Release && o.Result == Unknown {
			releases[o.Lease] = append(releases[o.Lease], o)
		}
		if first, known := reads[o.Lease]; o.Op == Downgrade && (!known || o.Began < first) {
			reads[o.Lease] = o.Began
		}
		if o.Op != Acquire {
			continue
		}
		asked[o.Lease] = o
		from := int64(math.MaxInt64) // never
		switch {
		case o.Result == Unknown, o.Result == Held:
			from = o.Began
		case o.Result == Granted && cfg.until(o) > o.Ended: // a late copy of it, after its lease was forgotten
			from = o.Ended
		}
		if first, known := exists[o.Lease]; !known || from < first {
			exists[o.Lease] = from
		}
	}
	list := make([]*call, len(ops))
	for i, o := range ops {
		if o.Op == Renew { // it does not say how much its lease has
			o.Permits, o.Capacity = asked[o.Lease].Permits, asked[o.Lease].Capacity
			if at, known := reads[o.Lease]; known && at <= o.Ended {
				o.Permits = 1
			}
		}
		first, known := exists[o.Lease]
		freed := int64(0)
		for _, r := range releases[o.Lease] {
			if r.Began <= o.Ended {
				freed = max(freed, cfg.until(r))
			}
		}
		list[i] = &call{Op: o, copies: cfg.until(o), freed: freed, exists: known && first <= o.Ended, lastUse: lastUse}
		list[i].behind = (o.Op == Release || o.Op == Force) && o.Result == Lost && slices.ContainsFunc(ops, func(other Op) bool {
			own := other.Lease == o.Lease || o.Op == Force && other.Fence == o.Fence && other.Fence != 0
			return other.Op == Acquire && !own && other.Began <= o.Ended && cfg.until(other)+other.Wait >= o.Began
		})
	}
	markGhosts(list, cfg)
	return list
}

// A ghost is the time in which a request may keep the lock from others without an answer that says so.
type ghost struct {
	lease    string
	from, to int64
}

// ghosts are the ghosts of the acquires of a lock. An acquire that was answered "held" with a place in the queue, or that had no answer,
// may get a lease when its place's time or its own delivery is over, at the latest; the lease then lasts for its TTL, or until the waiter
// must have claimed it. A granted one may be granted again by a copy. An answered release ends all that, if no copy can come after it.
func ghosts(calls []*call, cfg Config) (list []ghost) {
	copies, ends := map[string]int64{}, map[string]int64{}
	for _, c := range calls {
		if c.Op.Op == Acquire {
			copies[c.Lease] = max(copies[c.Lease], c.copies)
		}
	}
	for _, c := range calls {
		if c.Op.Op == Release && (c.Result == OK || c.Result == Lost) && c.Began > copies[c.Lease] {
			end := c.Ended
			if c.Result == Lost { // it may have expired: then it blocks others for a skew allowance, by a clock that may be as much behind
				end += 2 * int64(cfg.Skew)
			}
			if at, known := ends[c.Lease]; !known || end < at {
				ends[c.Lease] = end
			}
		}
	}
	for _, c := range calls {
		if c.Op.Op != Acquire { // also one whose lease was over before the answer: it held the lock until then
			continue
		}
		to := c.copies + c.Wait + max(c.TTL, int64(cfg.Claim)) + 2*int64(cfg.Skew) + grain
		if c.copies <= c.Ended && (c.Result == Granted || c.Result == Held && c.Wait == 0 && c.Ticket == 0) {
			continue // its lease is in the state, or it can never have one
		}
		if to < 0 { // overflow: a wait without end
			to = math.MaxInt64
		}
		if at, known := ends[c.Lease]; known {
			to = min(to, at)
		}
		list = append(list, ghost{c.Lease, c.Began, to})
	}
	return list
}

// markGhosts marks the acquires that were answered "held" while a ghost of another lease may have kept the lock from them.
func markGhosts(calls []*call, cfg Config) {
	list := ghosts(calls, cfg)
	slices.SortStableFunc(list, func(a, b ghost) int { return compare(a.from, b.from) })
	asked := slices.Clone(calls)
	slices.SortStableFunc(asked, func(a, b *call) int { return compare(a.Ended, b.Ended) })
	var first, second ghost // those that end last, of two leases
	next := 0
	for _, c := range asked {
		for ; next < len(list) && list[next].from <= c.Ended; next++ {
			switch g := list[next]; {
			case g.lease == first.lease:
				first.to = max(first.to, g.to)
			case g.to > first.to:
				first, second = g, first
			case g.to > second.to:
				second = g
			}
		}
		g := first
		if g.lease == c.Lease {
			g = second
		}
		c.ghosts = g.to >= c.Began && g.to > 0
	}
}
