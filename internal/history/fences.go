package history

import (
	"fmt"
	"slices"
)

// checkFences checks that the fencing tokens of a lock grow over its grants: a grant whose request began after another grant was answered
// has a higher one; and that no two leases have the same. ops are sorted by their beginning.
func checkFences(name string, ops []Op) (found []Violation) {
	type grant struct {
		lease       string
		began, told int64 // when its first request began; when the grant was first answered
		fence       int64
	}
	began := map[string]int64{}
	owner := map[int64]string{}
	var grants []*grant
	for _, o := range ops {
		if _, known := began[o.Lease]; !known && o.Op == Acquire {
			began[o.Lease] = o.Began
		}
		if o.Fence == 0 || o.Result != Granted {
			continue
		}
		other, known := owner[o.Fence]
		if known && other != o.Lease {
			found = append(found, Violation{"fences", name, o.Ended, fmt.Sprintf("the leases %s and %s both have the fencing token %d", other, o.Lease, o.Fence)})
		}
		if !known {
			owner[o.Fence] = o.Lease
			grants = append(grants, &grant{o.Lease, began[o.Lease], o.Ended, o.Fence})
			continue
		}
		for _, g := range grants[max(0, len(grants)-64):] { // the first answer counts
			if g.fence == o.Fence {
				g.told = min(g.told, o.Ended)
			}
		}
	}
	byBegin, byTold := slices.Clone(grants), slices.Clone(grants)
	slices.SortStableFunc(byBegin, func(a, b *grant) int { return compare(a.began, b.began) })
	slices.SortStableFunc(byTold, func(a, b *grant) int { return compare(a.told, b.told) })
	var top *grant
	next := 0
	for _, g := range byBegin {
		for ; next < len(byTold) && byTold[next].told < g.began; next++ {
			if top == nil || byTold[next].fence > top.fence {
				top = byTold[next]
			}
		}
		if top != nil && g.fence <= top.fence && g.lease != top.lease {
			found = append(found, Violation{"fences", name, g.told, fmt.Sprintf("lease %s has the fencing token %d, and lease %s, granted before it was asked for, has %d", g.lease, g.fence, top.lease, top.fence)})
		}
	}
	return found
}

// checkGuarded checks a resource that compares fencing tokens: what it accepts never falls.
func checkGuarded(list []Guarded) (found []Violation) {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b Guarded) int { return compare(a.At, b.At) })
	top := map[string]int64{}
	for _, g := range list {
		switch {
		case g.OK && g.Fence < top[g.Lock]:
			found = append(found, Violation{"guarded", g.Lock, g.At, fmt.Sprintf("a write with the fencing token %d was accepted after one with %d", g.Fence, top[g.Lock])})
		case !g.OK && g.Fence >= top[g.Lock]:
			found = append(found, Violation{"guarded", g.Lock, g.At, fmt.Sprintf("a write with the fencing token %d was refused, and the highest so far is %d", g.Fence, top[g.Lock])})
		}
		if g.OK {
			top[g.Lock] = max(top[g.Lock], g.Fence)
		}
	}
	return found
}
