package lock

import (
	"errors"
	"slices"
)

// Tasks in the explorer of sets. A task asks for both locks with a token, and learns of its grant by a callback alone. For each grant that is stored a
// callback is due. Two processes may send it at once, the function that made the grant and the stream's consumer: each stores the attempt, reads the
// leases, sends the callback, and then stores that it was answered or ends the leases; between any two of these steps it may die, and another one begins
// later. A task may end at any time.

// opCall is the reading of a set's leases, and the sending of the callback.
const opCall = opSettle + 1

// ofTask marks the messages of a process that sends a callback.
const ofTask = 3

func (x *setExplorer) isTask(client uint8) bool { return x.tasks>>client&1 != 0 }

func (x *setExplorer) token(client uint8) Token {
	if !x.isTask(client) || x.forgets {
		return Token{}
	}
	return task(string('t' + rune(client)))
}

// taskMoves are what may happen to a task besides the answers to its requests.
func (x *setExplorer) taskMoves(s setState, i uint8) {
	c := s.clients[i]
	if int(s.deaths) < x.deaths && c.phase == phaseAcquiring {
		t := s
		t.deaths++
		t.clients[i].phase, t.dead = phaseIdle, s.dead|1<<i
		x.step(t, "a task ends", setMessage{client: i})
	}
	if s.failing>>i&1 != 0 {
		t := s
		t.failing &^= 1 << i
		if c.phase == phaseAcquiring {
			t.clients[i].phase = phaseIdle
		}
		x.step(t, "a task is told that its wait is over", setMessage{client: i})
	}
	if s.owed>>i&1 != 0 && int(s.deliveries) < x.deliveries {
		t := s
		t.deliveries++
		if m := (setMessage{stage: setRead, op: opAttempt, client: i, of: ofTask}); t.put(m) {
			x.step(t, "a callback is begun", m)
		}
	}
}

// diesAt lets a process that sends a callback die: what it was to do is done by another one.
func (x *setExplorer) diesAt(gone setState, m setMessage) {
	if m.of == ofTask && int(gone.crashes) < x.crashes {
		gone.crashes++
		gone.deliveries--
		x.step(gone, "the process that sends a callback dies", m)
	}
}

// due notes the callbacks that follow from a write of the first lock, and the waits that it ended.
func (x *setExplorer) due(t *setState, before, after Record) {
	for _, ch := range CallbacksDue(before, after) {
		client, _ := parseKey(ch.Key)
		t.owed |= 1 << client
		t.told &^= 1 << client
	}
	for _, w := range PlacesEnded(before, after) {
		if client, _ := parseKey(w.Key); w.Tokens.OfTask() {
			t.failing |= 1 << client
		}
	}
	for k := range before.Holders {
		if client, _ := parseKey(k); x.isTask(client) && after.Holders[k].Fence == 0 && !before.Holders[k].Told {
			t.failing |= 1 << client
		}
	}
}

// forcedOut notes that an operator has ended a lease of a task that is told of it all the same: it was told before, or its leases were read before.
func (x *setExplorer) forcedOut(t *setState, m setMessage) {
	if m.op != opForce || !x.isTask(m.client) {
		return
	}
	told := t.told>>m.client&1 != 0
	for _, other := range t.messages {
		told = told || other.op == opCall && other.client == m.client && (other.stage == setReply || other.seen != [2]uint32{})
	}
	if told {
		t.forced |= 1 << m.client
	}
}

// nextStep is what a process that sends a callback does after an answer of the store.
func (x *setExplorer) nextStep(t *setState, m setMessage) {
	next := setMessage{stage: setRead, op: opCall, client: m.client, both: true, of: ofTask, first: m.first}
	switch {
	case m.op == opAttempt && m.answer == ok:
		t.put(next)
		return
	case m.op == opAttempt && m.answer == lost:
		t.failing |= 1 << m.client
	}
	t.owed &^= 1 << m.client
	t.deliveries--
}

// leases is what a process reads of a set before it sends the callback.
func (x *setExplorer) leases(n setMessage, rs []Record) setMessage {
	n.seen, n.stage, n.answer, n.until = [2]uint32{}, setReply, ok, 63
	for _, r := range rs {
		h, held := r.Holders[x.key(n.client)]
		if !held && !x.trustful {
			n.answer = lost
		}
		if held {
			n.until = min(n.until, uint8((h.ExpiresAt-1_000_000)/tick.Milliseconds()))
		}
	}
	return n
}

// call is the arrival of a callback.
func (x *setExplorer) call(t setState, m setMessage) {
	c := &t.clients[m.client]
	waits := c.phase == phaseAcquiring
	switch {
	case waits && m.answer == ok:
		c.phase, c.until, t.told = phaseHolding, m.until, t.told|1<<m.client
	case waits:
		c.phase = phaseIdle
	}
	next := setMessage{stage: setRead, op: opTold, client: m.client, of: ofTask}
	if m.first && (!waits || m.answer == lost) {
		next.op, next.both = opEnd, true
	}
	t.put(next)
	x.step(t, "a callback arrives", m)
}

// isUntold checks that no task waits for a callback that nobody will send.
func (x *setExplorer) checkTold(s setState) {
	if s.owed != 0 || s.failing != 0 {
		return
	}
	for _, m := range s.messages {
		if m.stage != 0 && m.of == ofTask {
			return
		}
	}
	for i := range uint8(x.clients) {
		h, held := x.record(s.records[0]).Holders[x.key(i)]
		if x.isTask(i) && held && h.ExpiresAt > x.clock(s.now).UnixMilli() && s.clients[i].phase == phaseAcquiring {
			x.fail("callback: task %d waits, has its leases, and nobody tells it", i)
		}
	}
}

// checkTaskEnd checks the end of the leases of a task that is gone: both, and never those of a task that was told.
func (x *setExplorer) checkTaskEnd(m setMessage, s setState, next [2]uint32) {
	if m.op != opEnd {
		return
	}
	k := x.key(m.client)
	after := []Record{x.record(next[0]), x.record(next[1])}
	if s.told>>m.client&1 != 0 && s.clients[m.client].phase == phaseHolding {
		x.fail("callback: the leases of task %d, which was told, are ended as those of a dead one", m.client)
	}
	if heldIn(after, k) != 0 {
		x.fail("sets: one lease of task %d is left after its end", m.client)
	}
}

// ofCallback is the operation of a process that sends a callback.
func (x *setExplorer) ofCallback(m setMessage, r Record) decider {
	h := r.Holders[x.key(m.client)]
	ref := GrantRef{Key: x.key(m.client), Fence: h.Fence}
	if m.op == opTold {
		return telling{x.rules, ref, h.Tokens}
	}
	return &attempting{rules: x.rules, ref: ref, tokens: h.Tokens}
}

func (x *setExplorer) endOfTask(m setMessage, r Record) setDecider {
	k := x.key(m.client)
	h := r.Holders[k]
	return setEndingTask{endingTask{x.rules, GrantRef{Key: k, Fence: h.Fence}, "", h.Tokens}, setNames[:]}
}

// answered reports whether an outcome says that the callbacks were answered before, or are not this process's any more.
func answered(err error) bool { return errors.Is(err, ErrTold) || errors.Is(err, ErrSuperseded) }

// setTaskMutants break the rules of sets that wait for tasks. A world of tasks must show each.
var setTaskMutants = map[string]func(*setWorld){
	"the leases of a set are not read before the callback": func(w *setWorld) { w.trustful = true },
	"the end of a task ends its first lease": func(w *setWorld) {
		w.mutate = func(parts []Part) []Part {
			if parts[0].Command.Stamp.Cause == CauseTaskGone {
				return parts[:1]
			}
			return parts
		}
	},
	"every attempt is a first one, and is stored as one": func(w *setWorld) {
		w.alwaysFirst, w.mutate = true, without(CauseAttempt, func(l *Lease) { l.Known = false })
	},
	"an attempt is not stored": func(w *setWorld) {
		w.mutate = without(CauseAttempt, func(l *Lease) { l.Attempted, l.Known = false, false })
	},
	"told is stored with the attempt": func(w *setWorld) { w.mutate = without(CauseAttempt, func(l *Lease) { l.Told = true }) },
	"the token is lost in the place":  func(w *setWorld) { w.forgets = true },
}

// without changes the leases that writes with a cause store.
func without(cause Cause, change func(*Lease)) func([]Part) []Part {
	return func(parts []Part) []Part {
		return rewritten(parts, func(p Part, l *Lease) {
			if p.Command.Stamp.Cause == cause {
				change(l)
			}
		})
	}
}

// rewritten are the parts of a write with other leases.
func rewritten(parts []Part, change func(Part, *Lease)) []Part {
	parts = slices.Clone(parts)
	for i, p := range parts {
		become, ok := p.Command.Effect.(Become)
		if !ok {
			continue
		}
		for k, l := range become.To.Holders {
			change(p, &l)
			become.To = become.To.withHolder(k, l)
		}
		become.To.FreeAt = freeAt(become.To.Holders)
		parts[i].Command.Effect = become
	}
	return parts
}
