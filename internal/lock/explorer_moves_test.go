package lock

import "fmt"

// matters reports whether an answer can still change what its client does. If it cannot now, it never can: a client passes through the
// phases of a lease in one direction.
func (x *explorer) matters(s *state, m message) bool {
	c := s.clients[m.client]
	switch {
	case m.lease != c.lease || m.answer == held || s.ended&(1<<m.client) != 0:
		return false
	case m.op == opAcquire && m.answer == ok && x.tokens&(1<<m.client) != 0:
		return false // the task waits for its callback
	case m.op == opAcquire && m.answer == ok:
		return m.until > s.now && (c.phase == phaseAcquiring || c.phase == phaseHolding)
	case m.op == opRenew && m.answer == ok:
		return m.until > s.now && (c.phase == phaseHolding || x.renewals && c.phase == phaseAcquiring)
	case m.op == opAcquire:
		return c.phase == phaseAcquiring
	case m.op == opRenew:
		return c.phase == phaseHolding
	}
	return c.phase == phaseReleasing
}

// step follows one transition and returns to the state before it.
func (x *explorer) step(s state, what string, m message) {
	if x.done() {
		return
	}
	x.transitions++
	x.trace = append(x.trace, step{s.now, what, m, s.record})
	x.visit(s)
	x.trace = x.trace[:len(x.trace)-1]
}

func (x *explorer) describe(s step) string {
	text := fmt.Sprintf("t=%d: %s", s.now, s.what)
	if m := s.m; m.op != 0 {
		text += fmt.Sprintf(" [%v of client %d lease %d, sent %d, clock %d ahead, read %d, answer %d until %d]",
			m.op, m.client, m.lease, m.sent, m.offset, m.read, m.answer, m.until)
	}
	return text + fmt.Sprintf(" record %v", x.records[s.record])
}

func (s *state) put(m message) {
	for i := range s.messages {
		if s.messages[i] == 0 {
			s.messages[i] = m.pack()
			return
		}
	}
	panic("a world with more messages than maxMessages")
}

// moves follows every transition from a state.
func (x *explorer) moves(s state) {
	if s.now < x.horizon {
		t := s
		t.now++
		x.step(t, "tick", message{})
	}
	for i := range uint8(x.clients) {
		x.clientMoves(s, i)
	}
	for i := range x.messages(s) {
		x.messageMoves(s, i)
	}
	r := x.records[s.record]
	if r.Rev > 0 && r.TTL != 0 && r.TTL < x.clock(s.now).Unix() {
		t := s
		t.record = 0
		x.checkChanges(r, Record{}, 0, "")
		x.step(t, "row purged", message{})
	}
	if int(s.timers) < x.timers {
		for k := range r.Holders {
			for offset := range uint8(2) {
				client, lease := parseKey(k)
				m := message{stage: write, op: opExpire, client: client, lease: lease, offset: offset, read: s.now + offset}
				m.cmd = x.first(m)
				t := s
				t.timers++
				t.put(m)
				x.step(t, "timer", m)
			}
		}
	}
	for i := range uint8(x.clients) {
		x.executionMoves(s, i)
	}
	if int(s.attempts) < x.attempts {
		for k, h := range r.Holders {
			if h.Tokens.OfTask() && !h.Told {
				client, lease := parseKey(k)
				t := s
				t.attempts++
				x.look(t, "a callback is tried", message{op: opAttempt, client: client, lease: lease, read: s.now})
			}
		}
	}
	if int(s.forces) < x.forces && len(r.Holders) > 0 {
		m := message{stage: write, op: opForce, read: s.now, cmd: x.force(s.now, s.record)}
		t := s
		t.forces++
		t.put(m)
		x.step(t, "an operator forces", m)
	}
}

// executionMoves ends an execution, and delivers the event of its end.
func (x *explorer) executionMoves(s state, i uint8) {
	if x.bound&(1<<i) == 0 || s.clients[i].lease == 0 {
		return
	}
	if s.ended&(1<<i) == 0 {
		t := s
		t.ended |= 1 << i
		t.clients[i].phase, t.clients[i].until = phaseIdle, 0
		x.step(t, fmt.Sprintf("execution %d ends", i), message{})
	} else if int(s.departs) < x.departs {
		t := s
		t.departs++
		x.look(t, "the end of an execution is heard of", message{op: opDepart, client: i, lease: s.clients[i].lease, read: s.now})
	}
}

// look lets a coordinator read the record and decide on it.
func (x *explorer) look(s state, what string, m message) {
	d := x.decide(m, m.read, s.record)
	if d.answer != 0 {
		if m.op == opAttempt {
			x.attempted(s, what, m, d.answer, d.first)
		}
		return
	}
	m.stage, m.cmd = write, d.cmd
	if d.first {
		m.until = 1
	}
	s.put(m)
	x.step(s, what, m)
}

// attempted sends a callback after its attempt was stored, or found stored. One that was answered is not sent: then nobody sends it any
// more, so its task must have it, or be gone.
func (x *explorer) attempted(s state, what string, m message, answer verdict, first bool) {
	switch answer {
	case ok:
		n := message{stage: sending, op: opAttempt, client: m.client, lease: m.lease}
		if first || x.attemptsForget {
			n.until = 1
		}
		s.put(n)
		if x.toldEarly {
			x.look(s, what, message{op: opTold, client: m.client, lease: m.lease, read: s.now})
			return
		}
		x.step(s, what, n)
	case told:
		if x.waits(&s, m) {
			x.fail("callbacks: nobody sends the callback of %v any more, and its task waits", key(m.client, m.lease))
		}
	}
}

// waits reports whether a client is a task that waits for a callback.
func (x *explorer) waits(s *state, m message) bool {
	c := s.clients[m.client]
	return c.phase == phaseAcquiring && c.lease == m.lease
}

// callBack delivers a callback. A task that got one already, or that is gone, does not receive it: then its lease ends if this was the
// first attempt and nobody else can know of it. Otherwise it is marked as answered.
func (x *explorer) callBack(s state, m message) {
	c := &s.clients[m.client]
	after := message{op: opTold, client: m.client, lease: m.lease, read: s.now}
	if x.waits(&s, m) {
		c.phase, c.until = phaseHolding, forever
		x.step(s, "the task is called back, and nobody stores it", m)
	} else if m.until == 1 {
		after.op = opEnd
	}
	x.look(s, "a callback is answered", after)
}

// force is an operator's command.
func (x *explorer) force(now uint8, record uint32) uint32 {
	memo := [2]uint32{record, uint32(now)}
	id, known := x.forcings[memo]
	if !known {
		cmd, _ := (&forcing{rules: x.rules}).next(x.clock(now), x.records[record])
		id = x.internCommand(*cmd)
		x.forcings[memo] = id
	}
	return id
}

func (x *explorer) messages(s state) (n int) {
	for n < len(s.messages) && s.messages[n] != 0 {
		n++
	}
	return n
}

func (x *explorer) clientMoves(s state, i uint8) {
	c := s.clients[i]
	if int(c.sends) >= x.sends || s.ended&(1<<i) != 0 {
		return
	}
	send := func(op opKind, lease uint8, change func(*clientState)) {
		t := s
		t.clients[i].sends++
		change(&t.clients[i])
		m := message{stage: request, op: op, client: i, lease: lease, sent: s.now}
		if op == opRelease {
			m.sent = 0 // its answer has no life to count
		}
		t.put(m)
		x.step(t, "client sends", m)
	}
	switch c.phase {
	case phaseIdle:
		if int(c.lease) < x.leases {
			send(opAcquire, c.lease+1, func(c *clientState) { c.phase, c.lease = phaseAcquiring, c.lease+1 })
		}
	case phaseAcquiring:
		send(opAcquire, c.lease, func(*clientState) {})
		if x.renewals {
			send(opRenew, c.lease, func(*clientState) {})
		}
		if x.polls {
			t := s
			t.clients[i].sends++
			m := message{stage: poll, op: opAcquire, client: i, lease: c.lease, sent: s.now}
			t.put(m)
			x.step(t, "client polls", m)
		}
		send(opRelease, c.lease, func(c *clientState) { c.phase = phaseIdle }) // gives up
	case phaseHolding:
		send(opRenew, c.lease, func(*clientState) {})
		send(opRelease, c.lease, func(c *clientState) {
			c.phase = phaseReleasing
			if !x.believeRelease {
				c.until = 0
			}
		})
	case phaseReleasing:
		send(opRelease, c.lease, func(*clientState) {})
	}
}

func (x *explorer) messageMoves(s state, i int) {
	m := s.messages[i].unpack()
	gone := s
	gone.messages[i] = 0
	again := int(s.duplicates) < x.duplicates

	switch m.stage {
	case request:
		for offset := range uint8(2) {
			n := m
			n.stage, n.offset, n.read = write, offset, s.now+offset
			n.cmd = x.first(n)
			t := gone
			t.put(n)
			x.step(t, "request delivered", n)
			if again {
				t = s
				t.duplicates++
				t.put(n)
				x.step(t, "request delivered, and will be again", n)
			}
		}
	case poll:
		for offset := range uint8(2) {
			for second := range uint8(2) {
				n := m
				n.stage, n.offset, n.cmd, n.until = half, offset, s.record, second
				t := gone
				t.put(n)
				x.step(t, "a poll reads one item", n)
			}
		}
	case half:
		row, waiter := m.cmd, s.record
		if m.until != 0 {
			row, waiter = waiter, row
		}
		n := m
		n.read = s.now + m.offset
		n = x.polledTo(n, s, x.poll(m, n.read, row, waiter), x.records[row])
		gone.put(n)
		x.step(gone, "a poll reads the other item", n)
	case write:
		if int64(s.now) > int64(m.read)+x.retention {
			return // no write lands a retention after its now
		}
		x.land(s, gone, m, again)
	case reply:
		x.receive(gone, m)
	case sending:
		x.callBack(gone, m)
	}
}

// polledTo is the message that follows from a poll: a command, or an answer.
func (x *explorer) polledTo(n message, s state, d decision, row Record) message {
	if d.answer != 0 {
		n.stage, n.answer = reply, d.answer
		x.answer(&n, s, row)
		return n
	}
	n.stage, n.cmd, n.until = write, d.cmd, 0
	return n
}

// land applies a command in flight, and sends the next message: another command, or an answer.
func (x *explorer) land(s, gone state, m message, again bool) {
	before := x.records[s.record]
	next, applied := x.apply(s.record, m.cmd)
	t := gone
	n := m
	if applied {
		after := x.records[next]
		x.checkWrite(s, m, next)
		x.become(&t, m, next)
		n.stage, n.answer, n.until = reply, ok, 0
		if _, mine := after.Holders[key(m.client, m.lease)]; m.op == opAcquire && !mine {
			n.answer = held // it has a place in the queue, or helped others to theirs
		}
		x.answer(&n, s, after)
	} else {
		n.read = s.now + m.offset
		if m.op == opForce {
			n = message{} // an operator looks again
		} else if x.commands[m.cmd].Kind == Extends { // it reads both again
			n = x.polledTo(n, s, x.poll(m, n.read, s.record, s.record), before)
		} else if d := x.decide(m, n.read, s.record); d.answer != 0 {
			x.checkAnswer(s, n, before, d.answer)
			n.stage, n.answer = reply, d.answer
			x.answer(&n, s, before)
		} else {
			n.cmd, n.until = d.cmd, 0
			if d.first {
				n.until = 1
			}
		}
	}
	if n.op >= opExpire && n.stage == reply {
		if n.op == opAttempt {
			x.attempted(t, "the attempt is stored", n, n.answer, applied && m.until == 1)
		}
		n = message{}
	}
	if n.stage != 0 {
		t.put(n)
	}
	x.step(t, "write lands", n)
	if again && applied { // the SDK sends the same write again
		t = s
		t.duplicates++
		x.become(&t, m, next)
		x.step(t, "write lands, its reply is lost, and it is sent again", m)
	}
}

// become makes a record that was written the current one.
func (x *explorer) become(t *state, m message, next uint32) {
	before, after := x.records[t.record], x.records[next]
	for k, h := range before.Holders {
		if m.op == opForce && after.Holders[k].Fence != h.Fence {
			client, _ := parseKey(k)
			t.forced |= 1 << client
		}
	}
	t.record, t.fence = next, max(t.fence, after.Fence)
}

// answer adds to an answer until when the lease lasts.
func (x *explorer) answer(n *message, s state, r Record) {
	n.cmd = 0
	if n.answer != ok || n.op != opAcquire && n.op != opRenew {
		n.read, n.offset = 0, 0
		return
	}
	h := r.Holders[key(n.client, n.lease)]
	remaining := h.ExpiresAt - x.clock(s.now+n.offset).UnixMilli()
	if x.answerWholeTTL {
		remaining = h.TTL
	}
	if remaining <= 0 {
		n.answer = lost
	}
	n.until = n.sent + uint8(min(max(remaining, 0)/tick.Milliseconds(), forever-int64(n.sent)))
	if x.bound&(1<<n.client) != 0 && n.answer == ok && (h.EndsAt == 0 || x.limited.endless) {
		n.until = forever // it lives as long as the execution
	}
	n.read, n.offset = 0, 0
}

// receive changes a client's state by an answer that matters.
func (x *explorer) receive(t state, m message) {
	c := &t.clients[m.client]
	if x.believeInReply {
		m.until = min(m.until+t.now-m.sent, forever)
	}
	if m.answer == ok && m.op != opRelease {
		c.phase, c.until = phaseHolding, max(c.until, m.until)
	} else {
		c.phase, c.until = phaseIdle, 0
	}
	x.step(t, "client hears", m)
}
