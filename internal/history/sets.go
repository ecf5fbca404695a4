package history

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// SetOps are the operations of a request about a set of locks, which has o's other fields: one for each lock, in the order of the request. locks
// is the list of the request: of names, or of what it asks of each lock.
func SetOps(o Op, locks json.RawMessage) ([]Op, error) {
	var wants []struct {
		Name              string
		Capacity, Permits int64
	}
	var names []string
	var err error
	if !bytes.HasPrefix(bytes.TrimLeft(locks, "[ \t\r\n"), []byte("{")) {
		err = json.Unmarshal(locks, &names)
		wants = slices.Grow(wants, len(names))[:len(names)]
		for i, name := range names {
			wants[i].Name = name
		}
	} else {
		err = json.Unmarshal(locks, &wants)
	}
	if err != nil {
		return nil, fmt.Errorf("history: the locks of a set are %s: %w", locks, err)
	}
	names = nil
	for _, w := range wants {
		names = append(names, w.Name)
	}
	slices.Sort(names)
	o.Set = strings.Join(names, ",")
	var list []Op
	for _, w := range wants {
		o.Lock, o.Capacity, o.Permits = w.Name, w.Capacity, w.Permits
		list = append(list, o)
	}
	return list, nil
}

// checkSets checks that the leases of a set are granted together: one write grants all of them, in every lock of the set, at the same time, as
// far as the rows have the times of their writes. And that an acquire of a set is told of all its leases or of none, and is answered "held" only
// if one of its locks refused it.
func checkSets(h *History, cfg Config) (found []Violation) {
	type grant struct {
		key string
		at  int64
	}
	granted := map[grant][]string{}
	sets := map[grant]string{}
	for _, r := range h.Rows {
		for key, l := range orEmpty(r.After).Holders {
			if orEmpty(r.Before).Holders[key].Fence == l.Fence || corrects(r.Cause) {
				continue
			}
			g := grant{key, 0}
			if cfg.Timed {
				g.at = r.At
			}
			granted[g] = append(granted[g], r.Lock)
			if l.Set != "" { // else it is a single lock, or the row's texts are kept apart
				sets[g] = l.Set
			}
		}
	}
	for g, set := range sets {
		locks := granted[g]
		if slices.Sort(locks); strings.Join(slices.Compact(locks), ",") != set {
			found = append(found, Violation{"sets", locks[0], g.at, fmt.Sprintf("a set of %s is granted in %s alone", set, strings.Join(locks, ","))})
		}
	}
	type request struct {
		client, lease string
		began, ended  int64 // a callback may tell of a grant by a request whose own answer was "held"
	}
	asked := map[request][]Op{}
	for _, o := range h.Ops {
		if o.Set != "" && o.Op == Acquire && (o.Result == Held || o.Result == Granted) {
			r := request{o.Client, o.Lease, o.Began, o.Ended}
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
		case cfg.Timed && first.Result == Held && !slices.ContainsFunc(ops, Op.ruled) && !slices.ContainsFunc(ops, func(o Op) bool { return refusedBy(rows[o.Lock], o, cfg) }):
			found = append(found, Violation{"sets", first.Lock, first.Ended, fmt.Sprintf("the acquire of %s by %s is answered \"held\", and all of %s were free for it", first.Lease, first.Client, first.Set)})
		}
	}
	slices.SortFunc(found, func(a, b Violation) int { return compare(a.At, b.At) })
	return found
}
