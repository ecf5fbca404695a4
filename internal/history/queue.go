package history

import (
	"fmt"
	"slices"
)

// A wait is the time of a lease in its lock's queue, as its caller saw it.
type wait struct {
	lease  string
	began  int64 // the beginning of its first request
	first  int64 // the end of the first answer with the ticket
	last   int64 // the beginning of the last request that was answered with the ticket: the place was there since first until then
	ticket int64 // 0: it was granted without an answer that it waits
	fence  int64 // of the grant; 0: none that counts
	told   int64 // when the grant was answered
}

// checkQueue checks the order of the queue: no lease is granted before one that waits with a lower ticket, or that waited already when the
// first one's request began. A waiter counts as long as it asks often enough to keep its place and to claim its grant, until it is granted
// or leaves.
func checkQueue(name string, ops []Op, cfg Config) (found []Violation) {
	waits := waitsOf(ops, cfg)
	slices.SortStableFunc(waits, func(a, b wait) int { return compare(a.fence, b.fence) })
	for _, a := range waits {
		if a.ticket == 0 {
			continue
		}
		for _, b := range waits {
			if b.fence == 0 || a.lease == b.lease || a.fence != 0 && a.fence < b.fence {
				continue
			}
			later := b.ticket > a.ticket || b.ticket == 0 && b.began > a.first
			passed := a.fence > b.fence || a.fence == 0 && b.told < a.last // a still had its place when b's grant was answered
			if later && passed && a.began <= b.told && b.began <= max(a.told, a.last) {
				found = append(found, Violation{"queue", name, b.told, fmt.Sprintf(
					"lease %s (ticket %d, asked for at %d) was granted with the fencing token %d before lease %s, which waited with ticket %d from %d to %d", b.lease, b.ticket, b.began, b.fence, a.lease, a.ticket, a.first, a.last)})
			}
		}
	}
	return found
}

// waitsOf are the waits of the leases of a lock. A wait ends where its place may have been lost: after a pause that is longer than the place
// or an unclaimed grant may last, and at a release or a force-release.
func waitsOf(ops []Op, cfg Config) (list []wait) {
	byLease := map[string][]Op{}
	var leases []string
	var forces []Op
	for _, o := range ops {
		if o.Op == Force {
			forces = append(forces, o)
			continue
		}
		if byLease[o.Lease] == nil {
			leases = append(leases, o.Lease)
		}
		byLease[o.Lease] = append(byLease[o.Lease], o)
	}
	for _, lease := range leases {
		own := byLease[lease]
		w := wait{lease: lease, began: own[0].Began}
		for _, o := range own {
			keeps := min(o.Wait/2, max(o.TTL, grain), int64(cfg.Claim)) - int64(cfg.Skew) - grain
			switch lapsed := w.ticket != 0 && o.Ended-w.last > keeps; {
			case o.Op != Acquire || o.Result == Lost:
				w.ticket = 0
			case o.Result == Granted:
				if lapsed || slices.ContainsFunc(forces, func(f Op) bool { return f.Began <= o.Ended && cfg.until(f) >= w.began }) {
					w.ticket, w.began = 0, 0 // it may have kept its place, or may have come anew
				} else if w.ticket != 0 {
					w.last = o.Began
				}
				w.fence, w.told = o.Fence, o.Ended
			case o.Result == Held && o.Ticket != 0:
				if lapsed || o.Ticket != w.ticket {
					w.ticket, w.first = o.Ticket, o.Ended
				}
				w.last = o.Began
			}
			if w.fence != 0 {
				break
			}
		}
		list = append(list, w)
	}
	return list
}
