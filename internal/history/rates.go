package history

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// checkRates checks that no lock is granted more often in a period than a rate allows which all coordinators went by from the first of these grants to the last.
func checkRates(h *History, f freezes) (found []Violation) {
	granted := map[string][]int64{} // the times of the decisions
	for _, r := range h.Rows {
		if corrects(r.Cause) {
			continue
		}
		for key, l := range orEmpty(r.After).Holders {
			if orEmpty(r.Before).Holders[key].Fence != l.Fence && l.Renewed != 0 {
				granted[r.Lock] = append(granted[r.Lock], f.at(l.Renewed))
			}
		}
	}
	for _, prefix := range f.prefixes {
		for i, v := range f.versions[prefix] {
			if v.grants == 0 {
				continue
			}
			from, to := f.versions[prefix][i-1].to, v.to // all coordinators go by this version
			if i+1 < len(f.versions[prefix]) {
				to = f.versions[prefix][i+1].from
			}
			for name, times := range granted {
				if !strings.HasPrefix(name, prefix) {
					continue
				}
				slices.Sort(times)
				for j := int(v.grants); j < len(times); j++ {
					first, last := times[j-int(v.grants)], times[j]
					if first > from && last < to && last-first < v.period-2*int64(f.cfg.Skew) {
						found = append(found, Violation{"rates", name, last, fmt.Sprintf("it is granted %d times from %v to %v, and by the rule of %q at most %d times in %v",
							v.grants+1, time.Duration(first), time.Duration(last), prefix, v.grants, time.Duration(v.period))})
					}
				}
			}
		}
	}
	slices.SortFunc(found, func(a, b Violation) int { return compare(a.At, b.At) })
	return found
}
