package lock

import (
	"context"
	"time"
)

// Sets of tasks, and of executions. The place and the lease of a set in its first lock, by the order of names, have the tokens of the task that
// waits: so there is one callback for the set, and one record that says whether it was attempted and answered. All its leases belong to the
// execution, which one binding names. Whoever ends one for the execution or for the task ends all of them, and all places, by one write.
//
// Each lease of the set is checked on its own, in case another is forced out. Those of the further locks are due later, and a check moves all of
// them on: so as long as the first lease is there, one check is made for the set.

// checkOrder is how much later than the first lease the further leases of a set are due for a check.
const checkOrder = time.Minute

// LeadsSet reports whether a lock is the first of a set, or is alone. set is the text of the set: see [SetNames].
func LeadsSet(name, set string) bool { return set == "" || SetNames(set)[0] == name }

// bindingOf is the binding of a lease or a place of a lock.
func bindingOf(name string, key LeaseKey, t Terms) Binding {
	if t.Set != "" {
		name = SetNames(t.Set)[0]
	}
	return Binding{name, key, t.Set}
}

// checkedInOrder is the lease of a set in its i-th lock, with the time of its next check; see checkOrder.
func checkedInOrder(i int, h Lease) Lease {
	if i > 0 && h.Execution != "" && !h.Unclaimed {
		h.CheckAt += checkOrder.Milliseconds()
	}
	return h.bounded()
}

// LeasesOfSet are the live leases of a set under a key, in the order of the locks' names. If one of them is not there, the error is [ErrLeaseLost].
func (c *Coordinator) LeasesOfSet(ctx context.Context, set string, key LeaseKey) (list []Lease, err error) {
	seen, _, err := c.store.Read(ctx, asks(SetNames(set), nil))
	if err != nil {
		return nil, c.noteClock(err)
	}
	for _, s := range seen {
		h, held := s.Record.Holders[key]
		if !held || h.ExpiresAt <= c.clock().UnixMilli() {
			return nil, ErrLeaseLost
		}
		list = append(list, h)
	}
	return list, nil
}

// dueOfSet adds to a list the writes of a set's step that need callbacks; compare due.
func (c *Coordinator) dueOfSet(list []Write, out setOutcome) []Write {
	for _, p := range out.parts {
		list = c.due(list, p.Lock, Reply{Before: p.Read, After: p.after(), Offset: out.offset})
	}
	return list
}

// endAll are the writes that end the leases, and remove the places, of a set for which ends is true.
func (u Rules) endAll(now time.Time, names []string, rs []Record, key LeaseKey, cause Cause, by string, ends func(Terms, Lease) bool) (parts []Part) {
	for i, r := range rs {
		h, holds := r.Holders[key]
		w, waits := r.place(key)
		var to Record
		switch {
		case holds && ends(h.Terms, h):
			to = r.withoutHolder(key)
		case !holds && waits && ends(w.Terms, Lease{}):
			to = r.withoutPlace(w)
		default:
			continue
		}
		to.Holders = to.blocking(now.UnixMilli(), u.skew())
		to = u.advanceBy(now, to, setMoves(len(rs)))
		to.Retired = Retired{Key: key, Fence: h.Fence, At: now.UnixMilli(), Cause: cause}
		parts = append(parts, u.part(now, names[i], r, to, cause, by))
	}
	return parts
}

// setEndingExecution ends the leases and the places of a set whose execution is over.
type setEndingExecution struct {
	rules     Rules
	names     []string
	key       LeaseKey
	execution string
}

func (o setEndingExecution) owner() LeaseKey { return o.key }
func (o setEndingExecution) queues() bool    { return true }

func (o setEndingExecution) next(now time.Time, rs, prev []Record) ([]Part, error) {
	if isTorn(rs, prev, o.key) {
		return nil, errTorn
	}
	return o.rules.endAll(now, o.names, rs, o.key, CauseExecutionEnd, o.execution, func(t Terms, _ Lease) bool { return t.Execution == o.execution }), nil
}

// isTorn reports whether records show a part of what a set has, and the read before does not confirm it.
func isTorn(rs, prev []Record, key LeaseKey) bool {
	held, places := heldIn(rs, key), waitsIn(rs, key)
	return held+places > 0 && held < len(rs) && places < len(rs) && !leaseSeenTwice(rs, prev, key) && !placeSeenTwice(rs, prev, key)
}

// setEndingTask ends the leases of a set whose only task is gone, as endingTask does with that of a lock. The first record decides, which has the tokens.
// It was read when the grant was complete, so what is not in another record has ended.
type setEndingTask struct {
	endingTask
	names []string
}

func (o setEndingTask) owner() LeaseKey { return o.ref.Key }
func (o setEndingTask) queues() bool    { return true }

func (o setEndingTask) next(now time.Time, rs, _ []Record) ([]Part, error) {
	if !o.ends(rs[0]) {
		return nil, nil
	}
	return o.rules.endAll(now, o.names, rs, o.ref.Key, CauseTaskGone, o.by, func(_ Terms, h Lease) bool { return h.Fence != 0 }), nil
}

// setChecking stores that the execution of a set was found running.
type setChecking struct {
	rules Rules
	names []string
	ref   GrantRef // of the lease that was due
	again int64    // when to check the first lease next
}

func (o setChecking) owner() LeaseKey { return o.ref.Key }
func (o setChecking) queues() bool    { return false }

func (o setChecking) next(now time.Time, rs, _ []Record) (parts []Part, err error) {
	n := 0 // of the leases that are there
	for i, r := range rs {
		l, held := r.Holders[o.ref.Key]
		if own := o.names[i] == o.ref.Lock; own && (l.Fence != o.ref.Fence || l.ExpiresAt <= now.UnixMilli()) {
			return nil, ErrLeaseLost
		}
		if !held || l.Execution == "" {
			continue
		}
		was := l.CheckAt
		l.CheckAt = o.again
		l = checkedInOrder(n, l)
		if n++; l.CheckAt > was {
			parts = append(parts, o.rules.part(now, o.names[i], r, r.withHolder(o.ref.Key, l), CauseCheck, ""))
		}
	}
	return parts, nil
}
