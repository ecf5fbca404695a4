package lock

import (
	"cmp"
	"fmt"
	"slices"
)

// land applies a write in flight, if all its guards hold, and sends what follows: an answer, and the settling of what the write left.
func (x *setExplorer) land(s, gone setState, m setMessage) {
	parts, ids := x.parts(m)
	next, whole := s.records, true
	for i, p := range parts {
		lock := slices.Index(setNames[:], p.Lock)
		after, applied := x.apply(s.records[lock], ids[i])
		next[lock], whole = after, whole && applied
	}
	if !whole {
		x.refused(s, gone, m)
		return
	}
	t := gone
	n := m
	n.stage, n.cmds, n.seen, n.prev, n.held, n.due = setReply, [2]uint32{}, [2]uint32{}, [2]uint32{}, 0, 0
	var keeps bool
	for _, p := range parts {
		keeps = keeps || p.Command.Kind == Extends
	}
	x.checkWrite(s, m, next)
	t.records = next
	x.due(&t, x.record(s.records[0]), x.record(next[0]))
	x.forcedOut(&t, m)
	for lock := range 2 {
		t.fences[lock] = max(t.fences[lock], x.record(next[lock]).Fence)
	}
	after := []Record{x.record(next[0]), x.record(next[1])}
	switch {
	case m.op == opRelease || m.op >= opExpire:
		n.answer = ok
	case keeps:
		n.answer = held
	case !m.both:
		n = x.lease(n, x.clock(s.now+m.offset), after[m.lock:m.lock+1])
	default:
		n = x.lease(n, x.clock(s.now+m.offset), after)
	}
	x.put(&t, n)
	if !keeps {
		x.followUp(&t, s, parts, m)
	}
	x.step(t, "write lands", m)
}

// A setCommands is a write, mutated, with the numbers of its commands.
type setCommands struct {
	parts []Part
	ids   []uint32
}

func (x *setExplorer) parts(m setMessage) ([]Part, []uint32) {
	w, known := x.writing[m.cmds]
	if known {
		return w.parts, w.ids
	}
	for lock, id := range m.cmds {
		if id != 0 {
			w.parts = append(w.parts, Part{Lock: setNames[lock], Command: x.commands[id-1]})
		}
	}
	if x.mutate != nil {
		w.parts = x.mutate(w.parts)
	}
	for _, p := range w.parts {
		w.ids = append(w.ids, intern(&x.commands, x.cmdID, p.Command))
	}
	x.writing[m.cmds] = w
	return w.parts, w.ids
}

func (x *setExplorer) apply(record, cmd uint32) (uint32, bool) {
	memo := [2]uint32{record, cmd}
	v, known := x.applied[memo]
	if !known {
		if c := x.commands[cmd]; c.Allows(x.records[record]) {
			v = intern(&x.records, x.recordID, c.Next(x.records[record])) + 1
		}
		x.applied[memo] = v
	}
	return v - 1, v != 0
}

// refused lets whoever made a write that was refused decide anew: on one lock on the record that the refusal returned, on both after
// another read.
func (x *setExplorer) refused(s, gone setState, m setMessage) {
	n := m
	n.stage, n.cmds, n.seen = setRead, [2]uint32{}, [2]uint32{}
	if !m.both {
		n.prev = [2]uint32{}
		n.seen[m.lock] = s.records[m.lock] + 1
		for _, view := range x.views(&s, m) {
			n, t := n, gone
			n.view = view
			n = x.decide(n, s.now+m.offset)
			x.put(&t, n)
			x.step(t, "write refused", n)
		}
		return
	}
	x.put(&gone, n)
	x.step(gone, "write refused", n)
}

// followUp marks the locks that the stream's consumer must settle, and lets the writer settle them.
func (x *setExplorer) followUp(t *setState, s setState, parts []Part, m setMessage) {
	todo := uint8(0) // bit per lock
	if m.of == 2 {
		todo = 1 << m.lock
	}
	for _, p := range parts {
		lock := slices.Index(setNames[:], p.Lock)
		w := Write{Before: x.record(s.records[lock]), After: x.record(t.records[lock])}
		if x.stream && w.OfQueue() {
			w.Before.Queue, w.After.Queue = nil, nil
			e := w.Effects(false)
			if e.Unsettled {
				t.pending |= 1 << lock
			}
			if x.turns(w, e) && x.jobs {
				t.turned |= 1 << lock
			}
		}
		if x.follows || m.of == 2 {
			todo |= 1 << lock
		}
		if become, ok := p.Command.Effect.(Become); ok && become.To.hold.freezes(x.clock(m.read)) { // the end of the freeze settles it
			todo &^= 1 << lock
		}
	}
	for lock := range uint8(2) {
		if todo&(1<<lock) == 0 || !Unsettled(x.record(t.records[lock])) {
			continue
		}
		next := setMessage{stage: setRead, op: opSettle, lock: lock, of: max(m.of%ofTask, 1)}
		if next.of == 2 && x.jobs {
			if next.head = noHead; lock == m.lock {
				next.head = m.head
			}
		}
		if !slices.Contains(t.messages[:], next) && !t.put(next) {
			panic("a world with more messages than maxSetMessages")
		}
	}
}

// checkWrite checks the rules on a write.
func (x *setExplorer) checkWrite(s setState, m setMessage, next [2]uint32) {
	read := x.clock(m.read).UnixMilli()
	var granted, joined [2]map[LeaseKey]bool
	for lock := range 2 {
		granted[lock], joined[lock] = map[LeaseKey]bool{}, map[LeaseKey]bool{}
		before, after := x.record(s.records[lock]), x.record(next[lock])
		for k, h := range after.Holders {
			if before.Holders[k].Fence == h.Fence {
				continue
			}
			granted[lock][k] = true
			if h.Fence <= s.fences[lock] {
				x.fail("fence: %v got %d after %d", k, h.Fence, s.fences[lock])
			}
			if before.Retired.Key == k && before.Retired.Cause != CauseTaskGone {
				x.fail("rule 1: %v is over, and was granted again", k)
			}
		}
		x.checkGiveBack(m, before, after)
		x.checkRate(uint8(lock), s.fences[lock], before, after)
		for k, h := range before.Holders {
			if _, still := after.Holders[k]; !still && h.ExpiresAt > read-tick.Milliseconds() && m.op != opForce && (m.op != opRelease && m.op != opEnd || k != x.key(m.client)) {
				x.fail("%s ended the lease of %v, which is live", opName(m.op), k)
			}
		}
		if permits(after.Holders) > x.capacity[lock] {
			x.fail("%d permits of %s are granted", permits(after.Holders), setNames[lock])
		}
		for _, w := range after.Queue {
			joined[lock][w.Key] = before.waits(w.Key) < 0 || before.Queue[before.waits(w.Key)].Ticket != w.Ticket
		}
		x.checkTurns(m, before, after, x.record(s.records[1-lock]), granted[lock], read)
	}
	for client := range uint8(x.clients) {
		k := x.key(client)
		if x.isSet(client) && (granted[0][k] != granted[1][k] || joined[0][k] != joined[1][k]) {
			x.fail("sets: %v was granted or joined in one of its locks only", k)
		}
	}
	x.checkRelease(m, s, next)
	x.checkTaskEnd(m, s, next)
}

// checkRelease checks that a release that was applied leaves nothing of a lease that it could have ended.
func (x *setExplorer) checkRelease(m setMessage, s setState, next [2]uint32) {
	if m.op != opRelease {
		return
	}
	for lock := range 2 {
		h, holds := x.record(next[lock]).Holders[x.key(m.client)]
		if holds && h.ExpiresAt > x.clock(s.now+1).UnixMilli() {
			x.fail("release: %v still holds %s", x.key(m.client), setNames[lock])
		}
	}
}

// checkTurns checks the order of one queue. What is left of a set whose place in the other queue is gone may be removed.
func (x *setExplorer) checkTurns(m setMessage, before, after, other Record, granted map[LeaseKey]bool, read int64) {
	if after.Waiting != int64(len(after.Queue)) || after.Head != after.headFrom(after) {
		x.fail("queue: %d wait and the head is %d, the record says %d and %d", len(after.Queue), after.headFrom(after), after.Waiting, after.Head)
	}
	passed := false
	for _, w := range before.Queue {
		stays := after.waits(w.Key) >= 0
		if second, waits := other.place(w.Key); w.Set != "" && !stays && !granted[w.Key] && (!waits || second.Tickets != w.Tickets) {
			continue
		}
		switch {
		case granted[w.Key] && passed:
			x.fail("queue: %v was granted before its turn", w.Key)
		case stays:
			passed = true
			if now := after.Queue[after.waits(w.Key)]; now.Ticket == w.Ticket && now.Until < w.Until {
				x.fail("queue: the place of %v was shortened", w.Key)
			} else if now.Ticket != w.Ticket && w.Until > read && m.op != opAcquire {
				x.fail("queue: %v lost its place", w.Key)
			}
		case !granted[w.Key] && w.Until > read && (m.op != opRelease || w.Key != x.key(m.client)):
			x.fail("queue: %v vanished", w.Key)
		}
	}
	for k := range granted {
		if before.waits(k) < 0 && passed {
			x.fail("queue: %v came later and was granted first", k)
		}
	}
}

// checkState checks what must hold at all times: exclusion, one order of sets, and that nobody who can be granted is forgotten.
func (x *setExplorer) checkState(s setState) {
	for lock := range 2 {
		believed := int64(0)
		for i, c := range s.clients[:x.clients] {
			switch {
			case c.phase != phaseHolding || s.forced&(1<<i) != 0:
			case c.lease == gaveBack:
				believed += min(x.wants[i][lock], 1)
			default:
				believed += x.wants[i][lock]
			}
		}
		if believed > x.capacity[lock] {
			x.fail("exclusion: clients believe they hold %d permits of %s", believed, setNames[lock])
		}
	}
	rs := []Record{x.record(s.records[0]), x.record(s.records[1])}
	var orders [2][]LeaseKey
	for lock := range 2 {
		for _, w := range rs[lock].Queue {
			if other, waits := rs[1-lock].place(w.Key); w.Set != "" && waits && other.Tickets == w.Tickets {
				orders[lock] = append(orders[lock], w.Key)
			}
		}
	}
	if !slices.Equal(orders[0], orders[1]) {
		x.fail("order: sets wait as %v and as %v", orders[0], orders[1])
	}
	if x.drained(&s) {
		x.checkForgotten(s, rs)
	}
	x.checkFree(s)
	x.checkTold(s)
}

// drained reports whether everything that settles is done: the stream's consumer, or without a stream the writers, which then do not die.
func (x *setExplorer) drained(s *setState) bool {
	if s.pending != 0 || s.rule.wake || s.rule.thaws&(2<<s.now-1) != 0 {
		return false
	}
	for _, job := range s.jobs {
		if job.head != 0 && job.due <= s.now {
			return false
		}
	}
	for _, m := range s.messages {
		if m.of == 2 || m.of == 1 && !x.stream {
			return false
		}
	}
	return true
}

// checkForgotten checks that no waiter is first in its queues, fits, and is left there. Where there are jobs for the ends of places, it does not wait behind
// others whose time is over.
func (x *setExplorer) checkForgotten(s setState, rs []Record) {
	over := func(w Waiter) bool { return x.jobs && w.Until <= x.clock(s.now).UnixMilli() }
	for lock := range rs {
		rs[lock].Queue = slices.DeleteFunc(slices.Clone(rs[lock].Queue), over)
	}
	alive := func(w Waiter) bool { return w.Until > x.clock(s.now+1).UnixMilli() }
	for lock, r := range rs {
		if s.rule.until > s.now && x.frozen != 0 { // what a freeze of one lock leaves is judged when it is over
			return
		}
		if len(r.Queue) == 0 || !alive(r.Queue[0]) || !r.fits(r.Queue[0].Terms) || x.comes(uint8(lock), r, s.now) {
			continue
		}
		w := r.Queue[0]
		if w.Set == "" {
			x.fail("forgotten: %v is first in %s and fits", w.Key, setNames[lock])
			continue
		}
		other, waits := rs[1-lock].place(w.Key)
		switch {
		case !waits:
			x.fail("forgotten: %v is first in %s, and its other place is gone", w.Key, setNames[lock])
		case rs[1-lock].Queue[0].Ticket == other.Ticket && rs[1-lock].fits(other.Terms) && !x.comes(uint8(1-lock), rs[1-lock], s.now):
			x.fail("forgotten: %v is first in both queues and fits", w.Key)
		}
	}
}

// checkFree checks that, if nothing more is delivered, a newcomer that wants both locks gets them a TTL, a wait and some skew from now.
func (x *setExplorer) checkFree(s setState) {
	memo := [3]uint32{s.records[0], s.records[1], uint32(s.now)}
	problem, known := x.probed[memo]
	if !known {
		problem = x.probe(s.now+uint8(x.ttl+x.wait)+3, s.records)
		x.probed[memo] = problem
	}
	if problem != "" {
		x.fail("%s", problem)
	}
}

func (x *setExplorer) probe(at uint8, records [2]uint32) string {
	rs := []Record{x.record(records[0]), x.record(records[1])}
	op := setAcquiring{rules: x.rules, names: setNames[:], key: "newcomer", req: SetRequest{
		TTL: tick, Wait: tick, Locks: []Want{{"a", x.capacity[0], x.capacity[0]}, {"b", x.capacity[1], x.capacity[1]}},
	}}.limitedBy(nil, nil)
	for range 2 {
		parts, err := op.next(x.clock(at), rs, rs)
		if err != nil {
			return fmt.Sprintf("stuck: a newcomer at t=%d is told %v on\n  %s\n  %s", at, err, short(rs[0]), short(rs[1]))
		}
		for _, p := range parts {
			lock := slices.Index(setNames[:], p.Lock)
			rs[lock] = p.Command.Next(rs[lock])
		}
		if heldIn(rs, op.key) == 2 {
			return ""
		}
	}
	return fmt.Sprintf("stuck: a newcomer at t=%d does not get\n  %s\n  %s", at, short(rs[0]), cmp.Or(short(rs[1])))
}
