package history

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// A change is what an event is about: one lease, once.
type change struct {
	lock  string
	fence int64
	kind  string
}

// checkEvents compares the events with the rows. There is one event for each lease that a write granted or ended, and none for anything
// else. Repetitions have the same id, and no other event has it. The events of a lock are in the order of the writes, if cfg says so.
func checkEvents(h *History, cfg Config) (found []Violation) {
	if len(h.Rows) == 0 {
		return nil // the stream was not recorded
	}
	wrong := func(c change, format string, args ...any) {
		found = append(found, Violation{"events", c.lock, 0, fmt.Sprintf("%s of the lease with fencing token %d: ", c.kind, c.fence) + fmt.Sprintf(format, args...)})
	}
	expected := map[change]int{}
	order := map[change]int{}
	for i, r := range h.Rows {
		if r.Quiet {
			continue
		}
		for _, c := range changesOf(r) {
			order[c] = i
			if expected[c]++; expected[c] > 1 {
				wrong(c, "the rows show it %d times", expected[c])
			}
		}
	}
	ids, byID := map[change]string{}, map[string]change{}
	latest := map[string]int{} // by lock: the row of the last event
	for _, e := range h.Events {
		c := change{e.Lock, e.Fence, e.Type}
		if _, repeated := ids[c]; !repeated && expected[c] > 0 {
			if cfg.Ordered && order[c] < latest[c.lock] {
				wrong(c, "its event comes after that of a later write")
			}
			latest[c.lock] = max(latest[c.lock], order[c])
		}
		if expected[c] == 0 {
			wrong(c, "an event says so, and no row shows it")
		}
		if id, known := ids[c]; known && id != e.ID {
			wrong(c, "two events with the ids %q and %q", id, e.ID)
		}
		if other, known := byID[e.ID]; known && other != c {
			wrong(c, "its event has the id %q, which is that of another one", e.ID)
		}
		ids[c], byID[e.ID] = e.ID, c
	}
	if !cfg.Stable {
		return found
	}
	for _, c := range slices.SortedFunc(maps.Keys(expected), func(a, b change) int {
		return cmp.Or(cmp.Compare(a.lock, b.lock), cmp.Compare(a.fence, b.fence), cmp.Compare(a.kind, b.kind))
	}) {
		if _, told := ids[c]; !told {
			wrong(c, "there is no event")
		}
	}
	return found
}

// changesOf are the leases that a write granted or ended, and how.
func changesOf(r Row) (list []change) {
	before, after := orEmpty(r.Before), orEmpty(r.After)
	for key, l := range before.Holders {
		if after.Holders[key].Fence == l.Fence {
			continue
		}
		kind := "expired"
		switch lock.Cause(r.Cause) {
		case lock.CauseForceRelease:
			kind = "force-released"
		case lock.CauseRelease, lock.CauseTaskGone, lock.CauseExecutionEnd, lock.CauseUndo:
			if after.Retired == key {
				kind = "released"
			}
		}
		list = append(list, change{r.Lock, l.Fence, kind})
	}
	for key, l := range after.Holders {
		if before.Holders[key].Fence != l.Fence {
			list = append(list, change{r.Lock, l.Fence, "acquired"})
		}
	}
	return list
}
