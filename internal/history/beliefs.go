package history

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// checkBeliefs checks that at no time the clients of a lock believe in more permits than its capacity, which is the smallest that one of
// them names. A holder whose lease an operator ended learns of it at its next renewal, so a belief counts until the force-release began; not
// at all, if that was before the grant was answered.
func checkBeliefs(list []Belief, ops map[string][]Op, cfg Config) (found []Violation) {
	type grant struct {
		lease string
		fence int64
	}
	asked := map[grant]int64{} // when the request began that was answered with a grant
	forces := map[string][]Op{}
	for name, own := range ops {
		for _, o := range own {
			g := grant{o.Lease, o.Fence}
			if at, known := asked[g]; o.Result == Granted && (!known || o.Began < at) {
				asked[g] = o.Began
			}
			if o.Op == Force && (o.Result != Lost || o.Fence > 0) { // "lost" may be the answer to a repetition
				forces[name] = append(forces[name], o)
			}
		}
	}
	byLock := map[string][]Belief{}
	for _, b := range list {
		b.Permits, b.Capacity = max(b.Permits, 1), max(b.Capacity, 1)
		from, known := asked[grant{b.Lease, b.Fence}]
		if !known {
			from = b.From
		}
		for _, o := range forces[b.Lock] {
			if (o.Fence == 0 || o.Fence == b.Fence) && cfg.until(o) > from {
				b.Until = min(b.Until, o.Began)
			}
		}
		if b.From < b.Until {
			byLock[b.Lock] = append(byLock[b.Lock], b)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byLock)) {
		found = append(found, overlaps(name, byLock[name])...)
	}
	return found
}

func overlaps(name string, list []Belief) (found []Violation) {
	slices.SortStableFunc(list, func(a, b Belief) int { return compare(a.From, b.From) })
	var now []Belief
	for _, b := range list {
		now = slices.DeleteFunc(now, func(other Belief) bool { return other.Until <= b.From })
		now = append(now, b)
		sum, capacity := int64(0), b.Capacity
		var who strings.Builder
		for _, other := range now {
			sum, capacity = sum+other.Permits, min(capacity, other.Capacity)
			fmt.Fprintf(&who, "; %s believes in lease %s with fencing token %d until %d", other.Client, other.Lease, other.Fence, other.Until)
		}
		if sum > capacity {
			found = append(found, Violation{"beliefs", name, b.From, fmt.Sprintf("%d permits of %d are believed in%s", sum, capacity, who.String())})
		}
	}
	return found
}
