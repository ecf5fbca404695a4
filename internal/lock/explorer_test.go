package lock

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"time"
)

// The explorer walks every interleaving of a small world over the real commands, operations and interpreter. Clients
// send requests; a request reaches a coordinator, which reads its clock and makes a command; the command is in flight
// until it lands on the record; the answer is in flight until it reaches the client. Each of the three may be lost, each
// of the first two delivered twice, all of them late. Coordinators' clocks differ by up to the skew allowance, chosen
// anew for every delivery. A client that crashes is one that never acts again, which is a prefix of some other run;
// one that is paused acts late. Timers come due at any time. Rows are purged when native TTL allows.
//
// States are kept as 64-bit hashes, so a state may be taken for another one with a chance of about n²/2^65: 1 in 10^5
// for ten million states.

// A world bounds what is explored. Times are in ticks.
type world struct {
	name       string
	clients    int
	capacity   int64
	leases     int   // lease secrets that a client uses, one after the other
	sends      int   // requests that a client sends
	duplicates int   // extra deliveries in a run
	timers     int   // expiry timers
	forces     int   // force-releases by an operator
	inFlight   int   // messages at a time
	ttl        int64 // of every lease
	retention  int64
	horizon    uint8 // last tick

	// What a mutant changes; the zero values are the protocol.
	mutate          func(Command) Command
	skew            int64 // allowance in ticks by which the rules differ from the clocks' true spread of 1
	believeInReply  bool  // clients count a lease from when the answer came
	believeRelease  bool  // clients still believe while they release
	answerWholeTTL  bool  // a repeated acquire is answered with the whole TTL
	shortenOnRepeat bool  // clients take a shorter remaining life for the truth of an older answer
}

const tick = time.Second

type opKind uint8

const (
	opAcquire opKind = iota + 1
	opRenew
	opRelease
	opExpire
	opForce
)

func (k opKind) String() string {
	return [...]string{"", "acquire", "renew", "release", "expire", "force-release"}[k]
}

type stage uint8

const (
	request stage = iota + 1 // on its way to a coordinator
	write                    // a command on its way to the record
	reply                    // an answer on its way to the client
)

type verdict uint8

const (
	ok verdict = iota + 1
	held
	lost
)

type message struct {
	stage  stage
	op     opKind
	client uint8
	lease  uint8
	sent   uint8  // when the client sent it
	offset uint8  // of the coordinator's clock
	read   uint8  // when the coordinator read its clock for the command
	cmd    uint32 // the command in flight
	answer verdict
	until  uint8 // for an ok: sent + remaining
}

type phase uint8

const (
	phaseIdle phase = iota
	phaseAcquiring
	phaseHolding
	phaseReleasing
)

type clientState struct {
	phase phase
	lease uint8
	until uint8 // while holding: believes until this tick
	sends uint8
}

const (
	maxClients  = 3
	maxInFlight = 4
)

type state struct {
	now        uint8
	duplicates uint8
	timers     uint8
	forces     uint8
	forced     uint8  // bit per client whose lease an operator ended: its belief is the operator's doing
	record     uint32 // interned
	fence      int64  // the highest ever stored, over purges
	clients    [maxClients]clientState
	messages   [maxInFlight]message // in a canonical order, empty ones last
}

type explorer struct {
	world
	rules       Rules
	limit       int // states to visit at most; 0: all
	visited     hashSet
	seed        maphash.Seed
	records     []Record
	recordID    map[string]uint32
	commands    []Command
	cmdID       map[string]uint32
	applied     map[[2]uint32]uint32   // record, command -> next record + 1; 0: the guard fails
	decided     map[decideKey]decision // what an operation does next
	probed      map[[2]uint32]string   // record, tick -> liveness violation
	trace       []step                 // the path walked
	found       string                 // the violation, with its trace
	transitions int
}

type decideKey struct {
	op            opKind
	client, lease uint8
	now           uint8
	record        uint32
}

type decision struct {
	cmd    uint32
	answer verdict
}

func explore(w world, limit int) *explorer {
	x := &explorer{
		world: w, limit: limit, seed: maphash.MakeSeed(),
		rules:    Rules{Skew: time.Duration(1+w.skew) * tick, Retention: time.Duration(w.retention) * tick},
		recordID: map[string]uint32{}, cmdID: map[string]uint32{}, applied: map[[2]uint32]uint32{},
		decided: map[decideKey]decision{}, probed: map[[2]uint32]string{},
	}
	x.internRecord(Record{})
	x.visit(state{now: 1})
	return x
}

// hashSet is an open-addressed set of non-zero 64-bit hashes.
type hashSet struct {
	slots []uint64
	n     int
}

func (h *hashSet) add(v uint64) bool {
	if 2*h.n >= len(h.slots) {
		old := h.slots
		h.slots = make([]uint64, max(1<<16, 2*len(old)))
		for _, o := range old {
			if o != 0 {
				h.place(o)
			}
		}
	}
	if v == 0 {
		v = 1
	}
	if !h.place(v) {
		return false
	}
	h.n++
	return true
}

func (h *hashSet) place(v uint64) bool {
	mask := uint64(len(h.slots) - 1)
	for i := v & mask; ; i = (i + 1) & mask {
		switch h.slots[i] {
		case 0:
			h.slots[i] = v
			return true
		case v:
			return false
		}
	}
}

func (x *explorer) internRecord(r Record) uint32 {
	return intern(&x.records, x.recordID, r)
}

func (x *explorer) internCommand(c Command) uint32 {
	return intern(&x.commands, x.cmdID, c)
}

func intern[T any](list *[]T, ids map[string]uint32, v T) uint32 {
	s := fmt.Sprintf("%v", v) // maps print in the order of their keys
	id, known := ids[s]
	if !known {
		id = uint32(len(*list))
		*list = append(*list, v)
		ids[s] = id
	}
	return id
}

func (x *explorer) clock(at uint8) time.Time { return time.Unix(1000, 0).Add(time.Duration(at) * tick) }

func key(client, lease uint8) LeaseKey { return LeaseKey(fmt.Sprintf("client%d.%d", client, lease)) }

func (x *explorer) operation(m message, r Record) operation {
	k, ttl := key(m.client, m.lease), time.Duration(x.ttl)*tick
	switch m.op {
	case opAcquire:
		return acquisition{x.rules, k, AcquireRequest{TTL: ttl, Capacity: x.capacity, Permits: 1}}
	case opRenew:
		return renewal{x.rules, k, RenewRequest{TTL: ttl}}
	case opRelease:
		return releasing{x.rules, k, ReleaseRequest{}}
	case opExpire:
		return expiring{x.rules, ExpireRequest{Lease: k, Fence: r.Holders[k].Fence}}
	}
	return nil
}

// apply lands a command on a record.
func (x *explorer) apply(record, cmd uint32) (next uint32, ok bool) {
	memo := [2]uint32{record, cmd}
	v, known := x.applied[memo]
	if !known {
		c := x.commands[cmd]
		if x.mutate != nil {
			c = x.mutate(c)
		}
		if c.Allows(x.records[record]) {
			v = x.internRecord(c.Next(x.records[record])) + 1
		}
		x.applied[memo] = v
	}
	return v - 1, v != 0
}

// decide asks the operation what it does with the record it met.
func (x *explorer) decide(m message, at uint8, record uint32) decision {
	memo := decideKey{m.op, m.client, m.lease, at, record}
	d, known := x.decided[memo]
	if !known {
		r := x.records[record]
		cmd, err := x.operation(m, r).next(x.clock(at), r)
		switch {
		case cmd != nil:
			d.cmd = x.internCommand(*cmd)
		case err == nil:
			d.answer = ok
		case err == ErrLeaseLost:
			d.answer = lost
		default:
			d.answer = held
		}
		x.decided[memo] = d
	}
	return d
}

func (x *explorer) fail(format string, args ...any) {
	if x.found == "" {
		var b strings.Builder
		fmt.Fprintf(&b, format, args...)
		for _, s := range x.trace {
			fmt.Fprintf(&b, "\n  t=%d "+s.format, append([]any{s.now}, s.args...)...)
		}
		x.found = b.String()
	}
}

func (x *explorer) done() bool { return x.found != "" || x.limit != 0 && x.visited.n >= x.limit }

func (x *explorer) visit(s state) {
	// A lease that its client can no longer prove is over for it.
	for i := range x.clients {
		if c := &s.clients[i]; c.phase == phaseHolding && c.until <= s.now {
			c.phase, c.until = phaseIdle, 0
		}
	}
	slices.SortFunc(s.messages[:], func(a, b message) int {
		if a == b {
			return 0
		}
		if (a.stage == 0) != (b.stage == 0) {
			return int(b.stage) - int(a.stage)
		}
		return compareMessages(a, b)
	})
	if x.done() || !x.visited.add(maphash.Comparable(x.seed, s)) {
		return
	}
	believers := int64(0)
	for i, c := range s.clients[:x.clients] {
		if believes := c.phase == phaseHolding || x.believeRelease && c.phase == phaseReleasing && c.until > s.now; believes && s.forced&(1<<i) == 0 {
			believers++
		}
	}
	if believers > x.capacity {
		x.fail("exclusion: %d clients believe they hold one of %d permits", believers, x.capacity)
		return
	}
	x.moves(s)
}

func compareMessages(a, b message) int {
	pack := func(m message) (uint64, uint64) {
		return uint64(m.stage)<<56 | uint64(m.op)<<48 | uint64(m.client)<<40 | uint64(m.lease)<<32 | uint64(m.cmd),
			uint64(m.sent)<<40 | uint64(m.offset)<<32 | uint64(m.read)<<24 | uint64(m.answer)<<16 | uint64(m.until)
	}
	a1, a2 := pack(a)
	b1, b2 := pack(b)
	switch {
	case a1 < b1 || a1 == b1 && a2 < b2:
		return -1
	case a1 == b1 && a2 == b2:
		return 0
	}
	return 1
}

// step walks one transition and comes back. Labels are made into text only for a violation.
func (x *explorer) step(s state, format string, args ...any) {
	if x.done() {
		return
	}
	x.transitions++
	x.trace = append(x.trace, step{s.now, format, args})
	x.visit(s)
	x.trace = x.trace[:len(x.trace)-1]
}

type step struct {
	now    uint8
	format string
	args   []any
}

func (s *state) put(m message) bool {
	for i := range s.messages {
		if s.messages[i].stage == 0 {
			s.messages[i] = m
			return true
		}
	}
	return false
}

func (x *explorer) room(s state) bool {
	n := 0
	for _, m := range s.messages {
		if m.stage != 0 {
			n++
		}
	}
	return n < x.inFlight
}

// moves walks everything that can happen next.
func (x *explorer) moves(s state) {
	if s.now < x.horizon {
		t := s
		t.now++
		x.step(t, "tick")
	}
	room := x.room(s)
	for i := range uint8(x.clients) {
		x.clientMoves(s, i, room)
	}
	for i := range x.messages(s) {
		x.messageMoves(s, i)
	}
	r := x.records[s.record]
	if r.Rev > 0 && r.TTL != 0 && r.TTL < x.clock(s.now).Unix() {
		t := s
		t.record = 0
		x.checkChanges(r, Record{}, "purge", nil)
		x.step(t, "row purged")
	}
	if room && int(s.timers) < x.timers {
		for k := range r.Holders {
			for offset := range uint8(2) {
				var m message
				fmt.Sscanf(string(k), "client%d.%d", &m.client, &m.lease)
				m = message{stage: write, op: opExpire, client: m.client, lease: m.lease, offset: offset, read: s.now + offset}
				m.cmd = x.internCommand(x.operation(m, r).first(x.clock(m.read)))
				t := s
				t.timers++
				t.put(m)
				x.step(t, "timer for %v at a clock %d ahead", k, offset)
			}
		}
	}
	if room && int(s.forces) < x.forces && len(r.Holders) > 0 {
		op := &forcing{rules: x.rules}
		cmd, _ := op.next(x.clock(s.now), r)
		t := s
		t.forces++
		t.put(message{stage: write, op: opForce, read: s.now, cmd: x.internCommand(*cmd)})
		x.step(t, "operator forces")
	}
}

func (x *explorer) messages(s state) (n int) {
	for n < len(s.messages) && s.messages[n].stage != 0 {
		n++
	}
	return n
}

func (x *explorer) clientMoves(s state, i uint8, room bool) {
	c := s.clients[i]
	if !room || int(c.sends) >= x.sends {
		return
	}
	send := func(op opKind, lease uint8, change func(*clientState)) {
		t := s
		t.clients[i].sends++
		change(&t.clients[i])
		t.put(message{stage: request, op: op, client: i, lease: lease, sent: s.now})
		x.step(t, "client %d sends %v of lease %d", i, op, lease)
	}
	switch c.phase {
	case phaseIdle:
		if int(c.lease) < x.leases {
			send(opAcquire, c.lease+1, func(c *clientState) { c.phase, c.lease = phaseAcquiring, c.lease+1 })
		}
	case phaseAcquiring:
		send(opAcquire, c.lease, func(*clientState) {})
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
	m := s.messages[i]
	gone := s
	gone.messages[i] = message{}
	x.step(gone, "%v of client %d lost at stage %d", m.op, m.client, m.stage)
	again := int(s.duplicates) < x.duplicates && x.room(s)

	switch m.stage {
	case request:
		for offset := range uint8(2) {
			n := m
			n.stage, n.offset, n.read = write, offset, s.now+offset
			n.cmd = x.internCommand(x.operation(n, x.records[s.record]).first(x.clock(n.read)))
			t := gone
			t.put(n)
			x.step(t, "%v of client %d reaches a clock %d ahead", m.op, m.client, offset)
			if again {
				t = s
				t.duplicates++
				t.put(n)
				x.step(t, "%v of client %d reaches a clock %d ahead, and will again", m.op, m.client, offset)
			}
		}
	case write:
		if int64(s.now) > int64(m.read)+x.retention {
			return // no write lands a retention after its now
		}
		x.land(s, gone, m, again)
	case reply:
		x.receive(gone, m)
	}
}

// land applies a command in flight, and sends what follows: another command, or an answer.
func (x *explorer) land(s, gone state, m message, again bool) {
	before := x.records[s.record]
	next, applied := x.apply(s.record, m.cmd)
	t := gone
	n := m
	if applied {
		after := x.records[next]
		x.checkWrite(s, m, before, after)
		for k, h := range before.Holders {
			if m.op == opForce && after.Holders[k].Fence != h.Fence {
				t.forced |= 1 << clientOf(k)
			}
		}
		t.record, t.fence = next, max(s.fence, after.Fence)
		n.stage, n.answer = reply, ok
		x.answer(&n, s, after)
	} else {
		n.read = s.now + m.offset
		if m.op == opForce {
			n = message{} // an operator looks again
		} else if d := x.decide(m, n.read, s.record); d.answer != 0 {
			x.checkAnswer(s, n, before, d.answer)
			n.stage, n.answer = reply, d.answer
			x.answer(&n, s, before)
		} else {
			n.cmd = d.cmd
		}
	}
	if n.op == opExpire && n.stage == reply {
		n = message{}
	}
	if n.stage != 0 {
		t.put(n)
	}
	x.step(t, "%v of client %d lands: applied=%v answer=%d record=%v", m.op, m.client, applied, n.answer, x.records[t.record])
	if again && applied { // the SDK sends the same write again
		t = s
		t.duplicates++
		t.record, t.fence = next, max(s.fence, x.records[next].Fence)
		x.step(t, "%v of client %d lands, its reply is lost, and it is sent again: record=%v", m.op, m.client, x.records[t.record])
	}
}

func clientOf(k LeaseKey) (client uint8) {
	_, _ = fmt.Sscanf(string(k), "client%d.", &client)
	return client
}

// answer fills in how long the lease lives, as the coordinator tells it.
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
	n.until = n.sent + uint8(max(remaining, 0)/tick.Milliseconds())
	n.read, n.offset = 0, 0
}

// receive is what a client makes of an answer.
func (x *explorer) receive(t state, m message) {
	c := &t.clients[m.client]
	if m.lease != c.lease || m.op == opForce {
		x.step(t, "client %d ignores an answer", m.client)
		return
	}
	if x.believeInReply {
		m.until += t.now - m.sent
	}
	switch {
	case m.answer == ok && m.op == opAcquire && (c.phase == phaseAcquiring || c.phase == phaseHolding),
		m.answer == ok && m.op == opRenew && c.phase == phaseHolding:
		if m.until > t.now {
			c.phase, c.until = phaseHolding, max(c.until, m.until)
		}
	case m.answer == lost && m.op == opAcquire && c.phase == phaseAcquiring,
		m.answer == lost && m.op == opRenew && c.phase == phaseHolding,
		m.op == opRelease && c.phase == phaseReleasing:
		c.phase, c.until = phaseIdle, 0
	}
	x.step(t, "client %d hears %d to its %v, until %d", m.client, m.answer, m.op, m.until)
}

// checkWrite holds a write that was applied against the rules.
func (x *explorer) checkWrite(s state, m message, before, after Record) {
	read := x.clock(m.read).UnixMilli()
	mine := key(m.client, m.lease)
	for k, h := range after.Holders {
		if before.Holders[k].Fence == h.Fence {
			continue
		}
		if h.Fence <= s.fence {
			x.fail("fence: %v got %d after %d was granted", k, h.Fence, s.fence)
		}
		if _, was := before.Holders[k]; was || before.Retired.Lease == k {
			x.fail("rule 1: %v is over, and was granted again", k)
		}
	}
	if after.Fence < before.Fence {
		x.fail("fence: went from %d to %d", before.Fence, after.Fence)
	}
	if h, was := before.Holders[mine]; (m.op == opRenew || m.op == opRelease) && (!was || h.ExpiresAt <= read) {
		x.fail("rule 1: %v of %v, which is over", m.op, mine)
	}
	for k, h := range before.Holders {
		now, still := after.Holders[k]
		switch {
		case still && now.ExpiresAt < h.ExpiresAt:
			x.fail("rule 4: the lease of %v was shortened", k)
		case !still && m.op != opForce && (k != mine || m.op != opRelease) && h.ExpiresAt > read-tick.Milliseconds():
			x.fail("%v ended the lease of %v, which is live", m.op, k)
		}
	}
	if permits(after.Holders) > after.Capacity {
		x.fail("%d permits of %d are granted", permits(after.Holders), after.Capacity)
	}
	if after.FreeAt != freeAt(after.Holders) {
		x.fail("free_at is %d, the holders say %d", after.FreeAt, freeAt(after.Holders))
	}
	x.checkChanges(before, after, m.op.String(), &mine)
	x.checkLive(s.now, after)
}

// checkChanges holds the events of a write against what happened: one for every lease that ended, of the right kind, and
// none for any other.
func (x *explorer) checkChanges(before, after Record, what string, mine *LeaseKey) {
	ended := map[LeaseKey]ChangeKind{}
	for _, c := range Changes(before, after) {
		if c.Kind == LeaseAcquired {
			continue
		}
		if _, twice := ended[c.Lease]; twice {
			x.fail("events: two for the end of %v", c.Lease)
		}
		ended[c.Lease] = c.Kind
	}
	for k, h := range before.Holders {
		want := LeaseExpired
		switch {
		case after.Holders[k].Fence == h.Fence:
			want = ""
		case what == opForce.String():
			want = LeaseForceReleased
		case what == opRelease.String() && *mine == k:
			want = LeaseReleased
		}
		if ended[k] != want {
			x.fail("events: %v by %s told as %q, not %q", k, what, ended[k], want)
		}
	}
}

// checkAnswer holds an answer given without a write against the record it was read from.
func (x *explorer) checkAnswer(s state, m message, r Record, answer verdict) {
	mine := key(m.client, m.lease)
	h, is := r.Holders[mine]
	live := is && h.ExpiresAt > x.clock(m.read).UnixMilli()
	if live && answer != ok && m.op != opExpire {
		x.fail("%v of %v was told no by its own live lease", m.op, mine)
	}
	if !live && answer == ok && m.op != opExpire && (m.op != opRelease || r.Retired.Lease != mine || r.Retired.Cause != CauseRelease) {
		x.fail("rule 1: %v of %v, which is over, was told ok", m.op, mine)
	}
	if m.op == opRelease && r.Retired.Lease == mine && r.Retired.Cause == CauseRelease && answer != ok {
		x.fail("rule 3: a repeated release of %v was told no", mine)
	}
}

// checkLive makes sure that if nothing more is delivered, a newcomer gets the lock a TTL and two skews from now.
func (x *explorer) checkLive(now uint8, r Record) {
	memo := [2]uint32{x.internRecord(r), uint32(now)}
	problem, known := x.probed[memo]
	if !known {
		problem = x.probe(now+uint8(x.ttl)+2, memo[0])
		x.probed[memo] = problem
	}
	if problem != "" {
		x.fail("%s", problem)
	}
}

func (x *explorer) probe(at uint8, record uint32) string {
	m := message{op: opAcquire, client: maxClients, lease: 1}
	cmd := x.internCommand(x.operation(m, Record{}).first(x.clock(at)))
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
