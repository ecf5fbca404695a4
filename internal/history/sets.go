package history

import (
	"fmt"
	"slices"
	"strings"
)

// checkSets checks that the leases of a set are granted together: one write grants all of them, in every lock of the set, at the same time. And
// that an acquire of a set is answered "held" only if one of its locks refused it, and that it is told of all its leases or of none.
func checkSets(h *History, cfg Config) (found []Violation) {
	type grant struct {
		key string
		at  int64
	}
	granted := map[grant][]string{}
	sets := map[grant]string{}
	for _, r := range h.Rows {
		for key, l := range orEmpty(r.After).Holders {
			if l.Set != "" && orEmpty(r.Before).Holders[key].Fence != l.Fence && !corrects(r.Cause) {
				g := grant{key, r.At}
				granted[g], sets[g] = append(granted[g], r.Lock), l.Set
			}
		}
	}
	for g, locks := range granted {
		if slices.Sort(locks); strings.Join(locks, ",") != sets[g] {
			found = append(found, Violation{"sets", locks[0], g.at, fmt.Sprintf("a set of %s is granted in %s alone", sets[g], strings.Join(locks, ","))})
		}
	}
	type request struct {
		client, lease string
		began         int64
	}
	asked := map[request][]Op{}
	for _, o := range h.Ops {
		if o.Set != "" && o.Op == Acquire && (o.Result == Held || o.Result == Granted) {
			r := request{o.Client, o.Lease, o.Began}
			asked[r] = append(asked[r], o)
		}
	}
	rows := rowsOf(h)
	for _, ops := range asked {
		first := ops[0]
		mixed := slices.ContainsFunc(ops, func(o Op) bool { return o.Result != first.Result })
		switch {
		case mixed || len(ops) != strings.Count(first.Set, ",")+1:
			found = append(found, Violation{"sets", first.Lock, first.Ended, fmt.Sprintf("the acquire of %s by %s has answers about some of the locks of %s", first.Lease, first.Client, first.Set)})
		case first.Result == Held && !slices.ContainsFunc(ops, func(o Op) bool { return refusedBy(rows[o.Lock], o, cfg) }):
			found = append(found, Violation{"sets", first.Lock, first.Ended, fmt.Sprintf("the acquire of %s by %s is answered \"held\", and all of %s were free for it", first.Lease, first.Client, first.Set)})
		}
	}
	slices.SortFunc(found, func(a, b Violation) int { return compare(a.At, b.At) })
	return found
}
