package history

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// A version is a prefix rule as it was between two writes of it. Times are of the history.
type version struct {
	from, to int64 // when a coordinator may go by it: from its write until every coordinator has read the next one
	until    int64 // the end of its freeze; 0: it has none
	grants   int64 // of its rate; 0: it has none
	period   int64
}

// freezes are the freezes of a history.
type freezes struct {
	cfg      Config
	versions map[string][]version // by prefix, from the one before the first write on
	prefixes []string
}

// freezesOf are the freezes that the writes of the rules make. A coordinator goes by rules that it has read for [Config.RuleUse], or for [Config.NoRuleUse] if
// it found none, so that the first rule of the table is in force later than others.
func freezesOf(h *History, cfg Config) freezes {
	f := freezes{cfg: cfg, versions: map[string][]version{}}
	first := int64(math.MaxInt64)
	for _, r := range h.Rules {
		first = min(first, f.stored(r))
	}
	for _, r := range h.Rules {
		list, known := f.versions[r.Prefix]
		if !known {
			f.prefixes = append(f.prefixes, r.Prefix)
			list = []version{{from: math.MinInt64}}
		}
		read := max(f.stored(r)+int64(cfg.RuleUse), first+int64(cfg.NoRuleUse))
		if promised := f.at(r.InForce); r.InForce != 0 && promised < read {
			read = promised
		}
		list[len(list)-1].to = read + int64(cfg.RuleRead+2*cfg.Skew)
		v := version{from: r.At - int64(cfg.Skew), to: math.MaxInt64, grants: r.Grants, period: r.Period * grain}
		if r.Until != 0 {
			v.until = f.at(r.Until)
		}
		f.versions[r.Prefix] = append(list, v)
	}
	return f
}

// stored is when a rule was stored at the latest.
func (f freezes) stored(r Rule) int64 {
	if r.Seen != 0 {
		return r.Seen
	}
	return r.At + int64(f.cfg.RuleLanding)
}

// at is a time in Unix milliseconds in the history's time.
func (f freezes) at(ms int64) int64 { return (ms - f.cfg.Start) * grain }

// must reports whether every coordinator must take a lock for frozen at a time: by one of the prefixes, all versions that a coordinator may then go by
// freeze it.
func (f freezes) must(name string, at int64) bool {
	return slices.ContainsFunc(f.prefixes, func(prefix string) bool {
		return strings.HasPrefix(name, prefix) && !slices.ContainsFunc(f.versions[prefix], func(v version) bool {
			return v.from <= at && at <= v.to && v.until <= at+int64(f.cfg.Skew)
		})
	})
}

// may reports whether a coordinator may take a lock for frozen, or a rate may keep it from being granted, at some time from one time to another.
func (f freezes) may(name string, from, to int64) bool {
	return f.last(name, from, to) != math.MinInt64
}

// last is the last moment, from one time to another, at which a coordinator may take a lock for frozen, or a rate may keep it from being granted; math.MinInt64 if there is none.
func (f freezes) last(name string, from, to int64) int64 {
	last := int64(math.MinInt64)
	for _, prefix := range f.prefixes {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		for _, v := range f.versions[prefix] {
			if end := min(v.to, v.until+int64(f.cfg.Skew), to); v.until != 0 && v.from <= to && end >= from {
				last = max(last, end)
			}
			if end := min(v.to, to-v.period) + v.period; v.grants != 0 && v.from <= to && end >= from { // who goes by the rule last may be told to wait for a period
				last = max(last, end)
			}
		}
	}
	return last
}

// checkFreezes checks that no lock is granted by a decision that every coordinator had to make by a freeze of it, and that an acquire which is answered
// that a lock is frozen until a time is explained by such a freeze.
func checkFreezes(h *History, f freezes) (found []Violation) {
	for _, r := range h.Rows {
		if corrects(r.Cause) {
			continue
		}
		for key, l := range orEmpty(r.After).Holders {
			if orEmpty(r.Before).Holders[key].Fence == l.Fence || l.Renewed == 0 {
				continue
			}
			if at := f.at(l.Renewed); f.must(r.Lock, at) {
				found = append(found, Violation{"freezes", r.Lock, r.At, fmt.Sprintf("the lease with fencing token %d is granted at %v, by a write with cause %q, while the lock is frozen", l.Fence, time.Duration(at), r.Cause)})
			}
		}
	}
	if f.cfg.Start == 0 {
		return found
	}
	for _, o := range h.Ops {
		if o.Frozen != 0 && !f.explain(o) {
			found = append(found, Violation{"freezes", o.Lock, o.Ended, fmt.Sprintf("acquire of %s by %s is answered that the lock is frozen until %v, and no rule that a coordinator may have gone by from %v to %v says so",
				o.Lease, o.Client, time.Duration(f.at(o.Frozen)), time.Duration(o.Began), time.Duration(o.Ended))})
		}
	}
	return found
}

// explain reports whether a rule explains the answer that a lock, or a lock of a set, is frozen until a time, and no other rule certainly freezes it for longer.
func (f freezes) explain(o Op) (explained bool) {
	names := []string{o.Lock}
	if o.Set != "" {
		names = strings.Split(o.Set, ",")
	}
	until := f.at(o.Frozen)
	for _, prefix := range f.prefixes {
		if !slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, prefix) }) {
			continue
		}
		longer := true
		for _, v := range f.versions[prefix] {
			if v.from > o.Ended || v.to < o.Began {
				continue
			}
			explained = explained || v.until == until && until+int64(f.cfg.Skew) >= o.Began
			longer = longer && v.until > until
		}
		if longer {
			return false
		}
	}
	return explained
}

// checkHeads checks that an acquire is not answered "held" whose place was the first in the queue, while nobody held the lock and it was not frozen, from the beginning
// of the request to its end: a poll grants the lock then.
func checkHeads(h *History, f freezes) (found []Violation) {
	rows := rowsOf(h)
	for _, o := range h.Ops {
		if o.Op != Acquire || o.Result != Held || o.Ticket == 0 || o.Set != "" || o.Wait == 0 || o.ruled() || f.may(o.Lock, o.Began-int64(f.cfg.Skew), o.Ended) {
			continue
		}
		waits := func(r Record) bool { return len(r.Holders) > 0 || r.Head != o.Ticket }
		if !within(rows[o.Lock], o, waits) {
			found = append(found, Violation{"heads", o.Lock, o.Ended, fmt.Sprintf("acquire of %s by %s is answered \"held\" with ticket %d, which was first in the queue of a free lock from %v to %v",
				o.Lease, o.Client, o.Ticket, time.Duration(o.Began), time.Duration(o.Ended))})
		}
	}
	return found
}

// checkForgotten checks that no task waits for longer than [Config.Forgotten] for a lock that nobody holds and that is not frozen, unless a set is first in
// the queue. A task does not ask again: only the coordinator's duty grants it the lock.
func checkForgotten(h *History, f freezes) (found []Violation) {
	if f.cfg.Forgotten == 0 {
		return nil
	}
	rows := rowsOf(h)
	for _, w := range taskWaits(h) {
		idle := int64(math.MaxInt64) // since when the lock is free
		list := rows[w.lock]
		from, _ := slices.BinarySearchFunc(list, w.from, func(r Row, at int64) int { return compare(r.At, at) })
		for i := max(from-1, 0); i < len(list) && list[i].At <= w.to; i++ {
			r := orEmpty(list[i].After)
			if len(r.Holders) > 0 || r.Waiting == 0 || r.SetFirst {
				idle = math.MaxInt64
				continue
			}
			since, end := min(idle, max(list[i].At, w.from)), w.to
			if i+1 < len(list) {
				end = min(end, list[i+1].At)
			}
			idle = max(since, f.last(w.lock, since, end))
			if end-idle > int64(f.cfg.Forgotten) {
				found = append(found, Violation{"forgotten", w.lock, end, fmt.Sprintf("%s waits from %v to %v as a task, and the lock is free and not frozen since %v",
					w.lease, time.Duration(w.from), time.Duration(w.to), time.Duration(idle))})
				break
			}
		}
	}
	return found
}

// A taskWait is the time in which a task waits for a lock.
type taskWait struct {
	lock, lease string
	from, to    int64
}

// taskWaits are the waits of the tasks: from the first answer with a ticket to the beginning of the next request for the lease that is no acquire, or to its grant.
func taskWaits(h *History) (list []taskWait) {
	open := map[string]taskWait{} // by lease
	ops := slices.Clone(h.Ops)
	slices.SortStableFunc(ops, func(a, b Op) int { return compare(a.Ended, b.Ended) })
	for _, o := range ops {
		w, waits := open[o.Lease]
		switch {
		case o.Op == Acquire && o.Result == Held && o.Ticket != 0 && o.Wait == 0 && o.Set == "":
			if !waits {
				open[o.Lease] = taskWait{o.Lock, o.Lease, o.Ended, 0}
			}
		case waits && (o.Op != Acquire || o.Result == Granted):
			w.to = o.Ended
			if o.Op != Acquire {
				w.to = o.Began
			}
			list = append(list, w)
			delete(open, o.Lease)
		}
	}
	return list
}

// checkDowngrades checks that after a downgrade that was answered the lease has one permit.
func checkDowngrades(h *History) (found []Violation) {
	rows := rowsOf(h)
	for _, o := range h.Ops {
		if o.Op != Downgrade || o.Result != OK {
			continue
		}
		reads := func(r Record) bool {
			for _, l := range r.Holders {
				if l.Fence == o.Fence {
					return l.Permits == 1
				}
			}
			return false
		}
		if !within(rows[o.Lock], o, reads) {
			found = append(found, Violation{"downgrades", o.Lock, o.Ended, fmt.Sprintf("the downgrade of %s by %s is answered, and no row shows its lease with one permit from %v to %v",
				o.Lease, o.Client, time.Duration(o.Began), time.Duration(o.Ended))})
		}
	}
	return found
}
