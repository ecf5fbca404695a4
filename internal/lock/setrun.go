package lock

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"
)

// Who grants a set that waits. A write settles its own record and never grants a set: it leaves the set at the head of the queue, and those
// behind it wait. The writer then reads the other locks of the set, and grants it in one write if it is first and fits in all of them
// ([Coordinator.settleSet]). If two writes free two locks of a set, the writer of the later one reads after both, so the set is not
// forgotten. If that writer dies, the stream's consumer does the same: it sees every write that ends a lease while others wait, and, by
// [CauseTurn], every write that only brought a set to the head. A set that polls also grants itself.

// maxSettled is how many locks a coordinator settles at most after one write. The stream's consumer settles what is left.
const maxSettled = 3 * MaxSet

// setOutcome is what an operation on a set ended with. before and after are the records before and after the last write, or both as they
// were read; after has the queues as they were read or written.
type setOutcome struct {
	after  []Record
	parts  []Part // of the last write
	offset time.Duration
	at     time.Time // of the decision, by this coordinator's clock
}

// readSet reads the records of a set's locks, with the heads of their queues and the places of the set if the operation needs them. tickets are those of the places,
// where they are known: then a place at the head of its queue is all that is read of the queue.
func (c *Coordinator) readSet(ctx context.Context, names []string, tickets []int64, op setDecider) (rs []Record, offset time.Duration, err error) {
	seen, offset, err := c.store.Read(ctx, asks(names, tickets))
	if err != nil {
		return nil, 0, c.noteClock(err)
	}
	if err := c.checkOffset(offset); err != nil {
		return nil, 0, err
	}
	for i, name := range names {
		r := seen[i].Record
		if op.queues() {
			if r, err = c.withTurn(ctx, i, name, seen[i], op); err != nil {
				return nil, 0, err
			}
		}
		rs = append(rs, r)
	}
	if op.queues() {
		rs, err = c.withHolds(ctx, names, rs, op)
	}
	return rs, offset, err
}

// withTurn adds to a record what a decision on a grant of it needs: the head of its queue with the place of the set, and whose the leases and places are, if
// they are counted. The lock is the i-th of the set.
func (c *Coordinator) withTurn(ctx context.Context, i int, name string, seen Seen, op setDecider) (r Record, err error) {
	acquire, takes := op.(setAcquiring)
	counts := takes && acquire.ones[i].countsPrincipal()
	r = seen.Record
	if w := seen.Waiter; w.Key == op.owner() && w.Ticket == r.Head && w.Ticket <= r.NextTicket {
		r.Queue = []Waiter{w}
	} else if r, err = c.withQueueOf(ctx, name, r, placeOf{op.owner(), counts}); err != nil {
		return r, c.noteClock(err)
	}
	if counts {
		r.texts, err = c.lookUp(ctx, name, maps.Values(r.Holders))
	}
	return r, err
}

// withHolds adds to the records of a set what keeps those from being granted that the operation may grant; compare withHold. The rules are looked at last, so that
// the decision follows at once.
func (c *Coordinator) withHolds(ctx context.Context, names []string, rs []Record, op setDecider) ([]Record, error) {
	_, takes := op.(setAcquiring)
	if !takes && !slices.ContainsFunc(rs, func(r Record) bool { return r.Waiting > 0 }) {
		return rs, nil
	}
	holds := c.holdsOn(ctx, names...)
	for i := range rs {
		if takes || rs[i].Waiting > 0 {
			rs[i].hold = holds[i]
		}
	}
	return rs, holds[0].passes()
}

func asks(names []string, tickets []int64) (list []Ask) {
	for i, name := range names {
		ask := Ask{Lock: name}
		if len(tickets) == len(names) {
			ask.Ticket = tickets[i]
		}
		list = append(list, ask)
	}
	return list
}

// withQueueOf adds to a record what a set needs of its queue. If the queue changed meanwhile, it reads both again, once; compare
// Coordinator.run.
func (c *Coordinator) withQueueOf(ctx context.Context, name string, r Record, of placeOf) (Record, error) {
	for range 2 {
		with, err := c.withQueue(ctx, name, r, Record{}, of)
		if !errors.Is(err, errMoved) {
			return with, err
		}
		reply, err := c.store.Get(ctx, name)
		if err != nil {
			return r, err
		}
		if reply.After.Rev == r.Rev {
			return recounted(with), nil
		}
		r = reply.After
	}
	return c.withQueue(ctx, name, r, Record{}, of)
}

// placeOf is a decider that only reads: the head of the queue, or the whole queue, and the place of a key.
type placeOf struct {
	key   LeaseKey
	whole bool
}

func (p placeOf) waiters(r Record) int {
	if p.whole {
		return wholeQueue(r)
	}
	return QueueHead
}

func (p placeOf) place(r Record) LeaseKey                  { return placeUnlessHeld(r, p.key) }
func (p placeOf) next(time.Time, Record) (*Command, error) { return nil, nil }

// runSet reads the records of a set and tries the commands of an operation until they are applied or it has another outcome. Then it settles
// what the write left.
func (c *Coordinator) runSet(ctx context.Context, names []string, tickets []int64, op setDecider) (setOutcome, error) {
	return c.runSetFrom(ctx, nil, names, tickets, op)
}

// runSetFrom is runSet that first decides on records which were read before, if there are any.
func (c *Coordinator) runSetFrom(ctx context.Context, read []Record, names []string, tickets []int64, op setDecider) (setOutcome, error) {
	out, err := c.trySet(ctx, read, names, tickets, op)
	if err == nil && len(out.parts) > 0 {
		c.finish(ctx, c.dueOfSet(nil, out), op.owner(), leftBy(out)...)
	}
	return out, err
}

func (c *Coordinator) trySet(ctx context.Context, read []Record, names []string, tickets []int64, op setDecider) (setOutcome, error) {
	var prev []Record
	for range maxTries {
		rs, offset, asked, err := read, time.Duration(0), time.Time{}, error(nil)
		if read = nil; rs == nil {
			asked = c.clock()
			rs, offset, err = c.readSet(ctx, names, tickets, op)
		}
		if errors.Is(err, errMoved) {
			prev = nil
			continue
		}
		if err != nil {
			return setOutcome{}, err
		}
		now := c.clock()
		parts, err := op.next(now, rs, prev)
		if errors.Is(err, errTorn) || errors.Is(err, ErrLeaseLost) && endsSince(asked, now, rs...) {
			prev = rs
			continue
		}
		if err != nil {
			return setOutcome{}, err
		}
		if len(parts) == 0 {
			return setOutcome{after: rs, offset: offset, at: now}, nil
		}
		offset, err = c.store.ApplyAll(ctx, parts)
		if err == nil {
			return setOutcome{after: afterParts(names, rs, parts), parts: parts, offset: offset, at: now}, nil
		}
		if _, moved := errors.AsType[*GuardError](err); !moved {
			return setOutcome{}, c.noteClock(err)
		}
		prev = rs
	}
	return setOutcome{}, tooManyTries()
}

// afterParts are the records of a set after a write, of which those that the write did not change are as they were read.
func afterParts(names []string, rs []Record, parts []Part) []Record {
	after := slices.Clone(rs)
	for _, p := range parts {
		after[slices.Index(names, p.Lock)] = p.after()
	}
	return after
}

// pollSet answers a repeated acquire that has its tickets with one read, as [Coordinator.poll] does for one lock.
func (c *Coordinator) pollSet(ctx context.Context, op setAcquiring) (setOutcome, error) {
	seen, offset, err := c.store.Read(ctx, asks(op.names, op.req.Tickets))
	if err != nil {
		return setOutcome{}, c.noteClock(err)
	}
	if err := c.checkOffset(offset); err != nil {
		return setOutcome{}, err
	}
	var rs []Record
	var places []Waiter
	holds := c.holdsOn(ctx, op.names...)
	for i, s := range seen {
		s.Record.hold = holds[i]
		rs, places = append(rs, s.Record), append(places, s.Waiter)
	}
	now := c.clock()
	until, waits := op.polled(now, rs, places)
	if heldIn(rs, op.key) == len(rs) { // to claim it needs no queue
		return c.runSetFrom(ctx, rs, op.names, op.req.Tickets, op)
	}
	if !waits {
		return c.runSet(ctx, op.names, op.req.Tickets, op)
	}
	for i := range rs {
		rs[i].Own = places[i]
	}
	if until == 0 {
		return setOutcome{after: rs, offset: offset, at: now}, nil
	}
	var parts []Part
	for i, w := range places {
		parts = append(parts, Part{Lock: op.names[i], Command: op.rules.keep(w, until), Read: rs[i]})
	}
	switch offset, err = c.store.ApplyAll(ctx, parts); {
	case err == nil:
		return setOutcome{after: rs, offset: offset, at: now}, nil
	case errors.As(err, new(*GuardError)):
		return c.runSet(ctx, op.names, op.req.Tickets, op)
	}
	return setOutcome{}, c.noteClock(err)
}

// undoSet takes back a grant that this coordinator made under a wrong clock and told nobody of, in each lock on its own; see undo.
func (c *Coordinator) undoSet(ctx context.Context, out setOutcome) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	theirs := c.clock().Add(-out.offset)
	for _, p := range out.parts {
		before, after := p.Read, p.after()
		if before.Waiting > 0 || after.Waiting > 0 {
			continue
		}
		for key := range after.Holders {
			if _, held := before.Holders[key]; !held {
				_, _ = c.store.Apply(ctx, p.Lock, c.rules.undo(theirs, key, before, after))
			}
		}
	}
}

// grantSet grants a set its places in all records. A task, and a caller that claims its grant at once, has the lease for its whole TTL.
func (u Rules) grantSet(now time.Time, rs []Record, key LeaseKey, claims bool) (to []Record) {
	first, _ := rs[0].place(key)
	for i, r := range rs {
		w, _ := r.place(key)
		r = r.withoutPlace(w)
		r, h := r.handedTo(now, w)
		if h.Unclaimed && (claims || first.Tokens.OfTask()) {
			h = claimed(h, now)
		}
		r = r.withHolder(key, checkedInOrder(i, h))
		to = append(to, u.advanceBy(now, r, setMoves(len(rs))))
	}
	return to
}

// errBehind says that a set cannot be granted: another waiter is first, or it does not fit.
var errBehind = errors.New("the set is not first in all queues, or does not fit, or a lock is frozen")

// setFits returns nil if a set is first in all queues and fits in all records, which are settled, and nothing keeps a lock from being granted.
func (u Rules) setFits(now time.Time, rs []Record, key LeaseKey) error {
	for _, r := range rs {
		if len(r.Queue) == 0 || r.Queue[0].Key != key || !r.fits(r.Queue[0].Terms) || r.heldBack(now) != nil {
			return errBehind
		}
	}
	for _, r := range rs {
		if err := fenceError(now, r.nextFence(now)); err != nil {
			return err
		}
	}
	return nil
}

// setSettling grants a set that waits, if it can be granted. It removes what is left of a set of which some places are gone.
type setSettling struct {
	rules Rules
	names []string
	key   LeaseKey
}

func (o setSettling) owner() LeaseKey { return o.key }
func (o setSettling) queues() bool    { return true }

func (o setSettling) next(now time.Time, rs, prev []Record) (parts []Part, err error) {
	places := waitsIn(rs, o.key)
	switch {
	case places == 0:
		return nil, nil
	case heldIn(rs, o.key) > 0:
		return nil, errTorn
	case places < len(rs) && !placeSeenTwice(rs, prev, o.key):
		return nil, errTorn
	}
	whole := places == len(rs) && sameGeneration(rs, o.key)
	var to []Record
	for _, r := range rs {
		if w, waits := r.place(o.key); waits && !whole {
			r = r.withoutPlace(w)
		}
		r.Holders = r.blocking(now.UnixMilli(), o.rules.skew())
		to = append(to, o.rules.advanceBy(now, r, setMoves(len(rs))))
	}
	if whole && o.rules.setFits(now, to, o.key) == nil {
		to = o.rules.grantSet(now, to, o.key, false)
	}
	for i, r := range rs {
		if changesHolders(r, to[i]) || r.Waiting != to[i].Waiting {
			cause := CauseQueue
			if changesHolders(r, to[i]) {
				cause = CauseSettle
			}
			parts = append(parts, o.rules.part(now, o.names[i], r, to[i], cause, ""))
		}
	}
	return parts, nil
}

// A left is a lock as a write left it.
type left struct {
	lock  string
	after Record
	since int // how many locks and sets were settled before
}

// leftBy are the locks that a write of a set left with waiters that may be granted.
func leftBy(out setOutcome) (list []left) {
	for _, p := range out.parts {
		list = append(list, left{lock: p.Lock, after: p.after()})
	}
	return list
}

// finish settles locks that writes left with waiters that fit: by further writes of their records, and by grants of the sets at the heads of
// their queues, until nothing is left to do or a write fails. The stream's consumer settles what finish does not. due are the writes so far that
// need callbacks; finish sends these, and those of its own writes. own is the set that made the write, if one did: it was not granted for a reason.
func (c *Coordinator) finish(ctx context.Context, due []Write, own LeaseKey, todo ...left) {
	tried := map[LeaseKey]int{own: 1} // sets, and when
	for n := 1; len(todo) > 0 && n < maxSettled; n++ {
		l := todo[0]
		todo = todo[1:]
		if l.after.heldBack(c.clock()) != nil || !Unsettled(l.after) {
			continue
		}
		if set := l.after.headSet(); set != nil {
			if tried[set.Key] <= l.since {
				tried[set.Key] = n
				out := c.settleSet(ctx, *set)
				due = c.dueOfSet(due, out)
				for _, next := range leftBy(out) {
					next.since = n
					todo = append(todo, next)
				}
			}
			continue
		}
		asked := c.clock()
		read, err := c.store.Get(ctx, l.lock)
		if err != nil {
			continue
		}
		out, err := c.run(ctx, l.lock, read, asked, settling{c.rules})
		if err != nil {
			continue
		}
		if out.wrote {
			due = c.due(due, l.lock, out.Reply)
		}
		if out.wrote || out.After.headSet() != nil {
			todo = append(todo, left{l.lock, out.After, n})
		}
	}
	if len(due) > 0 {
		c.granted(ctx, c, due)
	}
}

// settleSet grants the set that has a place, if it can be granted.
func (c *Coordinator) settleSet(ctx context.Context, w Waiter) setOutcome {
	names := SetNames(w.Set)
	out, _ := c.trySet(ctx, nil, names, w.Tickets[:len(names)], setSettling{c.rules, names, w.Key}) // after an error it has no parts
	return out
}

// headSet is the first waiter that was read, if it is a set that fits in this record.
func (r Record) headSet() *Waiter {
	if len(r.Queue) == 0 || r.Queue[0].Set == "" || !r.fits(r.Queue[0].Terms) {
		return nil
	}
	return &r.Queue[0]
}
