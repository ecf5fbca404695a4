package lock

import (
	"fmt"
	"slices"
	"time"
)

// checkWrite checks the rules on a write that was applied.
func (x *explorer) checkWrite(s state, m message, next uint32) {
	mine := key(m.client, m.lease)
	before, after := x.records[s.record], x.records[next]
	if c := s.clients[m.client]; m.op == opEnd && c.phase == phaseHolding && c.lease == m.lease && s.forced&(1<<m.client) == 0 && after.Holders[mine].Fence != before.Holders[mine].Fence {
		x.fail("callbacks: the lease of %v was ended, and its task is at work", mine)
	}
	if before.Holders[mine] != after.Holders[mine] && m.op == opTold && x.waits(&s, m) {
		x.fail("callbacks: the callback of %v is stored as answered, and its task waits", mine)
	}
	memo := checkKey{s.record, next, m.op, m.client, m.lease, m.read, s.now, s.fence}
	if x.checked[memo] {
		return
	}
	x.checked[memo] = true
	read := x.clock(m.read).UnixMilli()
	for k, h := range after.Holders {
		if before.Holders[k].Fence == h.Fence {
			continue
		}
		if h.Fence <= s.fence {
			x.fail("fence: %v got %d after %d was granted", k, h.Fence, s.fence)
		}
		if _, was := before.Holders[k]; was || before.Retired.Key == k && before.Retired.Cause != CauseTaskGone {
			x.fail("rule 1: %v is over, and was granted again", k)
		}
	}
	if after.Fence < before.Fence {
		x.fail("fence: went from %d to %d", before.Fence, after.Fence)
	}
	if h, was := before.Holders[mine]; (m.op == opRenew || m.op == opRelease && before.waits(mine) < 0) && (!was || h.ExpiresAt <= read) {
		x.fail("rule 1: %v of %v, which is over", m.op, mine)
	}
	for k, h := range before.Holders {
		now, still := after.Holders[k]
		switch {
		case still && now.ExpiresAt < h.ExpiresAt:
			x.fail("rule 4: the lease of %v was shortened", k)
		case !still && m.op != opForce && (k != mine || m.op != opRelease && m.op != opDepart && m.op != opEnd) && h.ExpiresAt > read-tick.Milliseconds():
			x.fail("%v ended the lease of %v, which is live", m.op, k)
		}
	}
	for k, h := range after.Holders {
		if client, _ := parseKey(k); h.Unclaimed && h.Tokens.Empty() == (x.notified&(1<<client) != 0) {
			x.fail("callbacks: the grant of %v is unclaimed, and has the tokens %v", k, h.Tokens)
		}
		if !h.Unclaimed && !h.Tokens.Empty() && !h.Tokens.OfTask() {
			x.fail("callbacks: %v claimed its grant, and is notified of it still", k)
		}
		if permits(after.Holders) > h.Capacity {
			x.fail("%d permits are granted, and %v asked for %d in all", permits(after.Holders), k, h.Capacity)
		}
		if h.Execution != "" && h.EndsAt == 0 && !h.Unclaimed && h.ExpiresAt < h.AcquiredAt+(ExecutionLife-tick).Milliseconds() {
			x.fail("executions: the lease of %v ends before its execution", k)
		}
	}
	if len(after.Holders) > 0 && after.Capacity != after.capacity() {
		x.fail("the capacity is %d, the holders say %d", after.Capacity, after.capacity())
	}
	if after.FreeAt != freeAt(after.Holders) {
		x.fail("free_at is %d, the holders say %d", after.FreeAt, freeAt(after.Holders))
	}
	safe := max(max(after.FreeAt, after.Fence/1000)/1000+int64(x.rules.Retention/time.Second), after.lastUntil()/1000+int64(x.rules.Retention/(2*time.Second)))
	if after.TTL < safe {
		x.fail("purge: native TTL is %d, but fences only grow, and waiters only keep their places, if it is %d", after.TTL, safe)
	}
	if text := lostByFilters(Write{Before: before, After: after}); text != "" {
		x.fail("%s", text)
	}
	x.checkLimits(before, after)
	x.checkQueue(before, after, m.op, mine, read)
	x.checkChanges(before, after, m.op, mine)
	x.checkLive(s.now, next)
}

// checkQueue checks the rules of the queue on a write: waiters are granted in the order of tickets, no later request is granted before a
// waiter, no waiter disappears, and no permit is free that the head of the queue could have.
func (x *explorer) checkQueue(before, after Record, op opKind, mine LeaseKey, read int64) {
	if after.Waiting != int64(len(after.Queue)) {
		x.fail("queue: %d wait, the record says %d", len(after.Queue), after.Waiting)
	}
	if head := after.headFrom(after); after.Head != head {
		x.fail("queue: the head is %d, the record says %d", head, after.Head)
	}
	last := int64(0)
	for _, w := range after.Queue {
		if w.Ticket <= last || w.Ticket > after.NextTicket {
			x.fail("queue: ticket %d after %d, next is %d", w.Ticket, last, after.NextTicket)
		}
		last = w.Ticket
		if _, holds := after.Holders[w.Key]; holds {
			x.fail("queue: %v holds and waits", w.Key)
		}
		if i := slices.IndexFunc(after.Queue, func(o Waiter) bool { return o.Key == w.Key }); after.Queue[i].Ticket != w.Ticket {
			x.fail("queue: %v waits twice", w.Key)
		}
		if i := before.waits(w.Key); i >= 0 && before.Queue[i].Ticket != w.Ticket && before.Queue[i].Until > read {
			x.fail("queue: %v lost its place", w.Key)
		}
	}
	passed := false // somebody alive was left waiting
	for _, w := range before.Queue {
		_, got := after.Holders[w.Key]
		stays := after.waits(w.Key) >= 0
		switch {
		case got && passed:
			x.fail("queue: %v was granted before its turn", w.Key)
		case stays:
			passed = true
			if now := after.Queue[after.waits(w.Key)]; now.Ticket == w.Ticket && now.Until < w.Until {
				x.fail("queue: the place of %v was shortened", w.Key)
			}
		case !got && w.Until > read && (op != opRelease && op != opDepart || w.Key != mine):
			x.fail("queue: %v vanished", w.Key)
		}
	}
	for k := range after.Holders {
		if _, held := before.Holders[k]; !held && before.waits(k) < 0 && passed {
			x.fail("queue: %v came later and was granted first", k)
		}
	}
	if len(after.Queue) > 0 && after.fits(after.Queue[0].Terms) {
		x.fail("queue: the lock lies idle while %v waits", after.Queue[0].Key)
	}
}

// checkChanges compares the changes of a write with what happened: one for every lease that ended, of the right kind, and no other.
func (x *explorer) checkChanges(before, after Record, op opKind, mine LeaseKey) {
	ended := map[LeaseKey]ChangeKind{}
	for _, c := range Changes(before, after) {
		if c.Kind == LeaseAcquired {
			continue
		}
		if _, twice := ended[c.Key]; twice {
			x.fail("events: two for the end of %v", c.Key)
		}
		ended[c.Key] = c.Kind
	}
	for k, h := range before.Holders {
		want := LeaseExpired
		switch {
		case after.Holders[k].Fence == h.Fence:
			want = ""
		case op == opForce:
			want = LeaseForceReleased
		case (op == opRelease || op == opDepart || op == opEnd) && mine == k:
			want = LeaseReleased
		}
		if ended[k] != want {
			x.fail("events: %v by %v told as %q, not %q", k, op, ended[k], want)
		}
	}
}

// checkAnswer compares an answer that was given without a write with the record that it was read from.
func (x *explorer) checkAnswer(s state, m message, r Record, answer verdict) {
	if m.op > opExpire {
		return
	}
	mine := key(m.client, m.lease)
	h, is := r.Holders[mine]
	live := is && h.ExpiresAt > x.clock(m.read).UnixMilli()
	if live && answer != ok && m.op != opExpire {
		x.fail("%v of %v was told no by its own live lease", m.op, mine)
	}
	if !live && answer == ok && m.op != opExpire && (m.op != opRelease || r.Retired.Key != mine || !causes[r.Retired.Cause].released) {
		x.fail("rule 1: %v of %v, which is over, was told ok", m.op, mine)
	}
	if m.op == opRelease && r.Retired.Key == mine && causes[r.Retired.Cause].released && answer != ok {
		x.fail("rule 3: a repeated release of %v was told no", mine)
	}
}

// checkLive checks that, if no further message is delivered, a new request gets the lock a TTL and two skew allowances from now.
func (x *explorer) checkLive(now uint8, record uint32) {
	memo := [2]uint32{record, uint32(now)}
	problem, known := x.probed[memo]
	if !known {
		problem = x.probe(now+uint8(max(x.ttl, x.limited.hold)+x.wait)+2, memo[0])
		x.probed[memo] = problem
	}
	if problem != "" {
		x.fail("%s", problem)
	}
}

func (x *explorer) probe(at uint8, record uint32) string {
	if r := x.records[record]; x.bound != 0 && x.limited.hold == 0 && (len(r.Holders) > 0 || len(r.Queue) > 0) {
		return "" // an execution may hold for as long as it runs
	}
	m := message{op: opAcquire, client: maxClients, lease: 1}
	m.read = at
	cmd := x.first(m)
	for range maxTries {
		if _, applied := x.apply(record, cmd); applied {
			return ""
		}
		d := x.decide(m, at, record)
		if d.answer != 0 {
			return fmt.Sprintf("stuck: a newcomer at t=%d is answered %d on %v", at, d.answer, x.records[record])
		}
		cmd = d.cmd
	}
	return fmt.Sprintf("stuck: a newcomer at t=%d never gets %v", at, x.records[record])
}
