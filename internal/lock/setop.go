package lock

import (
	"cmp"
	"errors"
	"time"
)

// A setDecider is a request for a set, as a step machine without I/O; compare decider. It decides on the records of all locks of the set.
//
// The records are read one after the other, and a set's writes are atomic. So the records can show a part of a grant, of a join, of a
// release: some of the leases or places, and not the others. An operation acts on a part only if the read before it, prev, showed one of the
// same leases or places: then the write that made it was complete before this read began, and what is not there has ended. Else it returns
// errTorn, and is asked again with records that are read anew. A write of the records needs no such care, where its guards cover all of them.
type setDecider interface {
	// next returns the commands to try, in one atomic step, or none and the outcome. No command and no error means that the records show the
	// operation done. prev is nil, or the records of the read before.
	next(now time.Time, rs, prev []Record) ([]Part, error)
	// owner is the key of the set's leases and places.
	owner() LeaseKey
	// queues reports whether next must see the heads of the queues and the set's places.
	queues() bool
}

// errTorn says that the records must be read again.
var errTorn = errors.New("the records show a part of a set")

// heldIn is in how many records a key has a lease.
func heldIn(rs []Record, key LeaseKey) (n int) {
	for _, r := range rs {
		if _, held := r.Holders[key]; held {
			n++
		}
	}
	return n
}

// waitsIn is in how many records a key has a place.
func waitsIn(rs []Record, key LeaseKey) (n int) {
	for _, r := range rs {
		if _, waits := r.place(key); waits {
			n++
		}
	}
	return n
}

// leaseSeenTwice and placeSeenTwice report whether two reads in a row show the same lease or place of a set.
func leaseSeenTwice(rs, prev []Record, key LeaseKey) bool {
	for i := range prev {
		was, held := prev[i].Holders[key]
		if now, still := rs[i].Holders[key]; held && still && now.Fence == was.Fence {
			return true
		}
	}
	return false
}

func placeSeenTwice(rs, prev []Record, key LeaseKey) bool {
	for i := range prev {
		was, waited := prev[i].place(key)
		if now, waits := rs[i].place(key); waited && waits && now.Ticket == was.Ticket {
			return true
		}
	}
	return false
}

// setMoves is how many waiters of each queue a write of a set of n locks grants or removes, twice: an item of the record, up to three of the
// set's own place and lease, and up to two for each waiter fit the 100 items of a transaction.
func setMoves(n int) int { return min(max((100-4*n)/(4*n), 1), QueueHead) }

type setAcquiring struct {
	rules Rules
	names []string
	key   LeaseKey
	req   SetRequest  // its locks are in the order of names
	ones  []acquiring // the request as it is for each lock, completed by its limits
}

func (o setAcquiring) owner() LeaseKey { return o.key }
func (o setAcquiring) queues() bool    { return true }

func (o setAcquiring) next(now time.Time, rs, prev []Record) ([]Part, error) {
	switch held := heldIn(rs, o.key); {
	case held == len(rs):
		return o.repeat(now, rs)
	case held > 0 && !leaseSeenTwice(rs, prev, o.key):
		return nil, errTorn
	case held > 0:
		return nil, ErrLeaseLost
	}
	for _, r := range rs {
		if r.Retired.Key == o.key && (r.Retired.Cause != CauseTaskGone || o.ones[0].polls()) {
			return nil, ErrLeaseLost
		}
	}
	for _, r := range rs {
		if err := r.hold.failed(); err != nil {
			return nil, err
		}
	}
	places := waitsIn(rs, o.key)
	if places > 0 && places < len(rs) && !placeSeenTwice(rs, prev, o.key) {
		return nil, errTorn
	}
	whole := places == len(rs) && sameGeneration(rs, o.key)
	to := o.settled(now, rs, whole)
	fit := o.rules.setFits(now, to, o.key)
	var refused error
	if places == 0 {
		refused = o.refused(to)
	}
	switch {
	case whole && fit == nil:
		to = o.rules.grantSet(now, to, o.key, true)
	case whole, places > 0: // what is left of it is removed first, and it joins again by another write
	case refused != nil:
		return nil, refused
	case o.free(now, to):
		if err := o.fenceError(now, to); err != nil {
			return nil, err
		}
		to = o.grantNew(now, to)
	case o.req.Wait > 0 && !o.queueFull(to):
		to = o.enqueue(now, to)
	}
	parts := o.parts(now, rs, to)
	switch {
	case len(parts) > 0:
		return parts, nil
	case whole && errors.Is(fit, ErrMisconfigured):
		return nil, fit
	}
	return nil, o.refusal(now, rs)
}

// sameGeneration reports whether the places of a key in all records were joined by one write.
func sameGeneration(rs []Record, key LeaseKey) bool {
	var first Waiter
	for i, r := range rs {
		w, _ := r.place(key)
		if i == 0 {
			first = w
		}
		if w.Tickets != first.Tickets || w.Tickets[i] != w.Ticket {
			return false
		}
	}
	return true
}

// repeat decides on a request whose lease is in all records. A grant that is not claimed is claimed in all. A task's further token, and that a caller
// without one knows of a task's lease, is stored with the first.
func (o setAcquiring) repeat(now time.Time, rs []Record) (parts []Part, err error) {
	for _, r := range rs {
		h := r.Holders[o.key]
		if h.ExpiresAt <= now.UnixMilli() {
			return nil, ErrLeaseLost
		}
		if err := o.rules.doubt(now, h); err != nil {
			return nil, err
		}
	}
	for i, r := range rs {
		h := r.Holders[o.key]
		to, cause := h, CauseClaim
		if h.Unclaimed {
			to = checkedInOrder(i, claimed(h, now))
		}
		switch one := o.ones[i]; {
		case !one.polls():
			var added bool
			if to, added = to.withToken(o.req.Token); added {
				cause = CauseToken
			}
		case unshared(h.Tokens, h.Known):
			to.Known = true
		}
		if to == h {
			continue
		}
		if err := grows(r, r.withHolder(o.key, to)); err != nil {
			return nil, &SetError{o.names[i], err}
		}
		parts = append(parts, o.rules.part(now, o.names[i], r, r.withHolder(o.key, to), cause, o.req.Principal))
	}
	return parts, nil
}

// settled are the records, settled, with the places of the set extended if they have used up half of their time or get another token, or removed if some of
// them are gone. Overdue checks of executions are asked for again.
func (o setAcquiring) settled(now time.Time, rs []Record, whole bool) (to []Record) {
	kept := whole && o.keeps(now, rs)
	for i, r := range rs {
		w, waits := r.place(o.key)
		switch {
		case waits && !whole:
			r = r.withoutPlace(w)
		case kept:
			w, _ = w.withToken(o.ones[i].req.Token)
			w.Known = w.Known || o.ones[i].polls() && unshared(w.Tokens, w.Known)
			w.Until = max(w.Until, now.Add(o.req.Wait).UnixMilli())
			r = r.withPlace(w)
		}
		r.Holders = r.blocking(now.UnixMilli(), o.rules.skew())
		r, _ = o.rules.recheck(now, o.rules.advanceBy(now, r, setMoves(len(rs))))
		to = append(to, r)
	}
	return to
}

// refused is why no lock of the set may be granted and no queue joined: a limit of one of them.
func (o setAcquiring) refused(to []Record) error {
	for i, one := range o.ones {
		if err := cmp.Or(one.refused, one.limits.overPrincipal(to[i], one.terms())); err != nil {
			return &SetError{o.names[i], err}
		}
	}
	return nil
}

// keeps reports whether the request extends the places of its set: as that of a caller that polls, or with another token of a task.
func (o setAcquiring) keeps(now time.Time, rs []Record) bool {
	for i, r := range rs {
		w, _ := r.place(o.key)
		one := o.ones[i]
		_, added := w.withToken(one.req.Token)
		if added || o.ones[0].polls() && (one.isHalfOver(now, w) || unshared(w.Tokens, w.Known)) {
			return true
		}
	}
	return false
}

// free reports whether all locks can be granted to a set that has no place.
func (o setAcquiring) free(now time.Time, to []Record) bool {
	for i, r := range to {
		if one := o.ones[i]; r.Waiting > 0 || r.heldBack(now) != nil || one.mismatches(r) || !r.fits(one.terms()) {
			return false
		}
	}
	return true
}

func (o setAcquiring) fenceError(now time.Time, to []Record) error {
	for i, r := range to {
		if err := fenceError(now, r.nextFence(now)); err != nil {
			return &SetError{o.names[i], err}
		}
	}
	return nil
}

func (o setAcquiring) queueFull(to []Record) bool {
	for i, r := range to {
		if o.ones[i].queueIsFull(r, false) {
			return true
		}
	}
	return false
}

func (o setAcquiring) grantNew(now time.Time, rs []Record) (to []Record) {
	for i, r := range rs {
		h := checkedInOrder(i, o.ones[i].lease(now, r.nextFence(now)))
		r = r.counting(now).withHolder(o.key, h)
		r.Fence = h.Fence
		to = append(to, r)
	}
	return to
}

// enqueue puts the set at the end of all queues. Each place names the tickets of all.
func (o setAcquiring) enqueue(now time.Time, rs []Record) (to []Record) {
	var tickets [MaxSet]int64
	for i, r := range rs {
		tickets[i] = r.NextTicket + 1
	}
	for i, r := range rs {
		r = o.ones[i].enqueue(now, r)
		w, _ := r.place(o.key)
		w.Tickets = tickets
		to = append(to, r.withPlace(w))
	}
	return to
}

// parts are the writes of the records that differ.
func (o setAcquiring) parts(now time.Time, from, to []Record) (list []Part) {
	for i := range from {
		was, waited := from[i].place(o.key)
		is, waits := to[i].place(o.key)
		overdue := asksForChecks(from[i], to[i])
		if !changesHolders(from[i], to[i]) && from[i].Waiting == to[i].Waiting && waited == waits && was == is && !overdue {
			continue
		}
		list = append(list, o.rules.part(now, o.names[i], from[i], to[i], o.ones[i].cause(from[i], to[i], overdue), o.req.Principal))
	}
	return list
}

// asksForChecks reports whether a write asks again for an overdue check of an execution.
func asksForChecks(from, to Record) bool {
	for key, l := range to.Holders {
		if was, there := from.Holders[key]; there && was.Fence == l.Fence && was.CheckAt != l.CheckAt {
			return true
		}
	}
	return false
}

func (u Rules) part(now time.Time, name string, from, to Record, cause Cause, by string) Part {
	return Part{Lock: name, Command: u.swap(now, from, to, cause, by, ""), Read: from}
}

// refusal is the error of a set that was not granted. It is about the lock that holds the set up for longest, as far as is known. A frozen lock comes
// before others.
func (o setAcquiring) refusal(now time.Time, rs []Record) error {
	var worst *HeldError
	var refused error // of a lock that no waiting helps, or that is free but for its rate
	var tickets []int64
	position := int64(0)
	for i, r := range rs {
		one := o.ones[i]
		w, waits := r.place(o.key)
		blocks := !r.fits(one.terms()) || r.tooOften(now, one.terms()) != nil || r.Waiting > 0 && (!waits || r.position(o.key) > 1)
		err := one.refusal(now, r)
		held, ok := errors.AsType[*HeldError](err)
		if !ok {
			if refused == nil {
				refused = &SetError{o.names[i], err}
			}
			continue
		}
		if waits {
			tickets = append(tickets, w.Ticket)
			position = max(position, held.Position)
		}
		held.Lock = o.names[i]
		switch frozen := held.Freeze != nil; {
		case !blocks && !frozen:
		case worst == nil, frozen && worst.Freeze == nil, frozen == (worst.Freeze != nil) && held.RetryAfter > worst.RetryAfter:
			worst = held
		}
	}
	if refused != nil && (worst == nil || worst.Freeze == nil) {
		return refused
	}
	if worst == nil { // it became free since: the same request may be sent at once
		worst = &HeldError{Now: now.UnixMilli(), RetryAfter: time.Second, Lock: o.names[0], Waiting: rs[0].Waiting}
	}
	worst.Position, worst.Ticket, worst.Tickets = position, 0, nil
	if len(tickets) == len(rs) {
		worst.Tickets = tickets
	}
	return worst
}

// polled decides on a poll of a set; compare acquiring.polled. places are the waiters that were read by their tickets.
func (o setAcquiring) polled(now time.Time, rs []Record, places []Waiter) (until int64, waits bool) {
	ms := now.UnixMilli()
	fits := true // everywhere: then it may be granted, or those before it are sets that wait for other locks, or are gone
	for i, r := range rs {
		w := places[i]
		if _, holds := r.Holders[o.key]; holds || w.Key != o.key || r.Rev == 0 || w.Tickets[i] != w.Ticket || w.Tickets != places[0].Tickets {
			return 0, false
		}
		if _, overdue := o.rules.recheck(now, r); overdue || len(r.blocking(ms, o.rules.skew())) < len(r.Holders) || unshared(w.Tokens, w.Known) {
			return 0, false
		}
		if o.ones[i].isHalfOver(now, w) {
			until = max(until, w.Until, now.Add(o.req.Wait).UnixMilli())
		}
		fits = fits && r.fits(w.Terms) && r.heldBack(now) == nil
	}
	if fits {
		return 0, false
	}
	for _, r := range rs {
		if until > 0 && (r.hasFree() && r.heldBack(now) == nil || until > (r.TTL-int64(o.rules.Retention/(2*time.Second)))*1000) {
			return 0, false // an abandoned waiter may be first; or the row would be purged soon after
		}
	}
	return until, true
}

type setRenewing struct {
	rules Rules
	names []string
	key   LeaseKey
	req   RenewRequest
}

func (o setRenewing) owner() LeaseKey { return o.key }
func (o setRenewing) queues() bool    { return false }

func (o setRenewing) next(now time.Time, rs, prev []Record) (parts []Part, err error) {
	if held := heldIn(rs, o.key); held < len(rs) {
		if held > 0 && !leaseSeenTwice(rs, prev, o.key) {
			return nil, errTorn
		}
		return nil, ErrLeaseLost
	}
	for i, r := range rs {
		one := o.req
		one.Lock = o.names[i]
		cmd, err := renewing{o.rules, o.key, one}.next(now, r)
		if err != nil {
			return nil, &SetError{o.names[i], err}
		}
		if cmd != nil {
			parts = append(parts, Part{Lock: o.names[i], Command: *cmd, Read: r})
		}
	}
	return parts, nil
}

type setReleasing struct {
	rules   Rules
	names   []string
	key     LeaseKey
	by      string
	partial bool // the lease is over in some of the locks; set by next
}

func (o *setReleasing) owner() LeaseKey { return o.key }
func (o *setReleasing) queues() bool    { return true }

// repeated is nil if the records remember the lease, and that it was released.
func (o *setReleasing) repeated(rs []Record) error {
	remembered := 0
	for _, r := range rs {
		if r.Retired.Key != o.key {
			continue
		}
		if remembered++; !causes[r.Retired.Cause].released {
			return ErrLeaseLost
		}
	}
	if remembered == 0 {
		return ErrLeaseLost
	}
	return nil
}

func (o *setReleasing) next(now time.Time, rs, prev []Record) (parts []Part, err error) {
	if heldIn(rs, o.key)+waitsIn(rs, o.key) == 0 {
		return nil, o.repeated(rs)
	}
	if isTorn(rs, prev, o.key) {
		return nil, errTorn
	}
	parts = o.rules.endAll(now, o.names, rs, o.key, CauseRelease, o.by, func(_ Terms, h Lease) bool { return h.Fence == 0 || h.ExpiresAt > now.UnixMilli() })
	if o.partial = len(parts) < len(rs); len(parts) == 0 {
		return nil, ErrLeaseLost
	}
	return parts, nil
}
