package history

import (
	"fmt"
	"maps"
	"slices"
)

// checkBeliefs checks that at no time the clients of a lock believe in more permits than its capacity, which is the smallest that one of
// them names. A holder whose lease an operator ended learns of it at its next renewal, so a belief counts until the force-release began.
func checkBeliefs(list []Belief, ops map[string][]Op) (found []Violation) {
	byLock := map[string][]Belief{}
	for _, b := range list {
		b.Permits, b.Capacity = max(b.Permits, 1), max(b.Capacity, 1)
		for _, o := range ops[b.Lock] {
			if o.Op == Force && o.Result != Lost && (o.Fence == 0 || o.Fence == b.Fence) && o.Ended > b.From {
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
		who := ""
		for _, other := range now {
			sum, capacity = sum+other.Permits, min(capacity, other.Capacity)
			who += fmt.Sprintf("; %s believes in lease %s with fencing token %d until %d", other.Client, other.Lease, other.Fence, other.Until)
		}
		if sum > capacity {
			found = append(found, Violation{"beliefs", name, b.From, fmt.Sprintf("%d permits of %d are believed in%s", sum, capacity, who)})
		}
	}
	return found
}
