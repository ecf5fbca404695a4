package lock

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
	"time"
)

// The explorer walks every interleaving of a small world over the real commands, operations and interpreter. Clients
// send requests; a request reaches a coordinator, which reads its clock and makes a command; the command is in flight
// until it lands on the record; the answer is in flight until it reaches the client. Each of the three may come late or
// never, the first two also twice. Coordinators' clocks differ by up to the skew allowance, chosen
// anew for every delivery. A client that crashes is one that never acts again, which is a prefix of some other run;
// one that is paused acts late. Timers come due at any time. Rows are purged when native TTL allows.
//
// A client may be an execution: it believes that its lease lasts until the execution ends, which may happen at any time, and is
// told to a coordinator later or never. A client may be a task that waits with a token: it believes when it was called back,
// which may be tried at any time while its grant is stored, several times; a task that was told, or is gone, is not there for a
// later callback.
//
// States are kept as 64-bit hashes, so a state may be taken for another one with a chance of about n²/2^65: 1 in 10^5
// for ten million states.

// A world bounds what is explored. Times are in ticks.
type world struct {
	name       string
	clients    int
	capacity   int64
	capacities [maxClients]int64 // of each client, where they differ
	permits    [maxClients]int64 // that each client wants; 0: 1
	bound      uint8             // bit per client that is an execution
	tokens     uint8             // bit per client that is an execution's task, and waits with a token
	attempts   int               // tries of callbacks
	departs    int               // words of an execution's end that arrive
	renewals   bool              // waiters may claim their grants by a renewal
	leases     int               // lease secrets that a client uses, one after the other
	sends      int               // requests that a client sends
	duplicates int               // extra deliveries in a run
	timers     int               // expiry timers
	forces     int               // force-releases by an operator
	ttl        int64             // of every lease
	wait       int64             // how long an acquire keeps a place in the queue; 0: there is no queue
	retention  int64
	horizon    uint8 // last tick

	// What a mutant changes; the zero values are the protocol.
	mutate         func(Command) Command
	skew           int64 // allowance in ticks by which the rules differ from the clocks' true spread of 1
	believeInReply bool  // clients count a lease from when the answer came, not from when they asked
	believeRelease bool  // clients still believe while they release
	answerWholeTTL bool  // a repeated acquire is answered with the whole TTL
	attemptsForget bool  // every attempt of a callback counts as the first, and as the only one
}

// tick is the unit of a world's times. An unclaimed grant lasts one.
const tick = ClaimTime

// forever is until when an execution believes, if it does not end before.
const forever = 63

type opKind uint8

const (
	opAcquire opKind = iota + 1
	opRenew
	opRelease
	opExpire
	opForce
	opDepart  // an execution's end
	opAttempt // a callback
	opEnd     // of a lease whose task is gone
)

func (k opKind) String() string {
	return [...]string{"", "acquire", "renew", "release", "expire", "force-release", "depart", "attempt", "end"}[k]
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

// packed is a message as states keep it: in one word, 0 for none.
type packed uint64

func (m message) pack() packed {
	return packed(m.stage)<<60 | packed(m.op)<<56 | packed(m.client)<<52 | packed(m.lease)<<48 | packed(m.sent)<<42 |
		packed(m.offset)<<40 | packed(m.read)<<34 | packed(m.answer)<<32 | packed(m.until)<<26 | packed(m.cmd)
}

func (p packed) unpack() message {
	return message{
		stage: stage(p >> 60), op: opKind(p >> 56 & 15), client: uint8(p >> 52 & 15), lease: uint8(p >> 48 & 15),
		sent: uint8(p >> 42 & 63), offset: uint8(p >> 40 & 3), read: uint8(p >> 34 & 63), answer: verdict(p >> 32 & 3),
		until: uint8(p >> 26 & 63), cmd: uint32(p & (1<<26 - 1)),
	}
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
	maxMessages = 9
)

type state struct {
	now        uint8
	duplicates uint8
	timers     uint8
	forces     uint8
	attempts   uint8
	departs    uint8
	ended      uint8  // bit per client whose execution is over
	forced     uint8  // bit per client whose lease an operator ended: its belief is the operator's doing
	record     uint32 // interned
	fence      int64  // the highest ever stored, over purges
	clients    [maxClients]clientState
	messages   [maxMessages]packed // in descending order, so empty ones come last
}

type explorer struct {
	world
	rules       Rules
	limit       int // states to visit at most; 0: all
	visited     hashSet
	records     []Record
	recordID    map[string]uint32
	commands    []Command
	cmdID       map[string]uint32
	applied     map[[2]uint32]uint32   // record, command -> next record + 1; 0: the guard fails
	firsts      map[firstKey]uint32    // the optimistic command of an operation
	decided     map[decideKey]decision // what an operation does next
	probed      map[[2]uint32]string   // record, tick -> liveness violation
	forcings    map[[2]uint32]uint32   // record, tick -> command
	checked     map[checkKey]bool      // writes that were held against the rules
	sizes       [maxClients + 1]terms  // what each client asks for; the last one is a newcomer
	shown       time.Time              // when progress was last shown
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

type firstKey struct {
	op                  opKind
	client, lease, read uint8
}

type decision struct {
	cmd    uint32
	answer verdict
	first  bool // of an attempt: none was before
}

// checkKey is all that the checks of a write depend on.
type checkKey struct {
	before, after uint32
	op            opKind
	client, lease uint8
	read, now     uint8
	fence         int64
}

// terms is what a client asks for.
type terms struct {
	capacity, permits int64
	execution, token  string
}

func explore(w world, limit int) *explorer {
	x := &explorer{
		world: w, limit: limit,
		rules:    Rules{Skew: time.Duration(1+w.skew) * tick, Retention: time.Duration(w.retention) * tick},
		recordID: map[string]uint32{}, cmdID: map[string]uint32{}, applied: map[[2]uint32]uint32{},
		firsts: map[firstKey]uint32{}, decided: map[decideKey]decision{}, probed: map[[2]uint32]string{},
		forcings: map[[2]uint32]uint32{}, checked: map[checkKey]bool{}, shown: time.Now(),
	}
	for i := range x.sizes {
		x.sizes[i] = terms{capacity: w.capacity, permits: 1}
		if i == maxClients {
			continue
		}
		t := &x.sizes[i]
		t.capacity, t.permits = cmp.Or(w.capacities[i], t.capacity), cmp.Or(w.permits[i], t.permits)
		if w.bound&(1<<i) != 0 {
			t.execution = fmt.Sprintf("execution %d", i)
		}
		if w.tokens&(1<<i) != 0 {
			t.token = fmt.Sprintf("token %d", i)
		}
	}
	x.checkLive(1, x.internRecord(Record{}))
	x.visit(state{now: 1})
	return x
}

// hash mixes the whole state into 64 bits, word by word, as wyhash does.
func (s *state) hash() uint64 {
	h := uint64(0x9e3779b97f4a7c15)
	mix := func(v uint64) {
		hi, lo := bits.Mul64(h^v, 0xd6e8feb86659fd93)
		h = hi ^ lo ^ bits.RotateLeft64(v, 23)
	}
	mix(uint64(s.now)<<32 | uint64(s.duplicates)<<24 | uint64(s.timers)<<16 | uint64(s.forces)<<8 | uint64(s.forced))
	mix(uint64(s.record)<<32 | uint64(s.attempts)<<16 | uint64(s.departs)<<8 | uint64(s.ended))
	mix(uint64(s.fence))
	for _, c := range s.clients {
		mix(uint64(c.phase)<<24 | uint64(c.lease)<<16 | uint64(c.until)<<8 | uint64(c.sends))
	}
	for _, m := range s.messages {
		if m == 0 {
			break // the rest is empty
		}
		mix(uint64(m))
	}
	hi, lo := bits.Mul64(h, 0xa0761d6478bd642f)
	return hi ^ lo
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

func key(client, lease uint8) LeaseKey { return LeaseKey([]byte{'A' + client, '0' + lease}) }

func parseKey(k LeaseKey) (client, lease uint8) { return k[0] - 'A', k[1] - '0' }

func (x *explorer) operation(m message, r Record) decider {
	k, ttl, t := key(m.client, m.lease), time.Duration(x.ttl)*tick, x.sizes[m.client]
	grant := GrantRef{Key: k, Fence: r.Holders[k].Fence}
	switch m.op {
	case opAcquire:
		return acquiring{x.rules, k, AcquireRequest{
			TTL: ttl, Capacity: t.capacity, Permits: t.permits, Wait: time.Duration(x.wait) * tick, Execution: t.execution, Token: t.token,
		}}
	case opRenew:
		return renewing{x.rules, k, RenewRequest{TTL: ttl}}
	case opRelease:
		return releasing{x.rules, k, ReleaseRequest{}}
	case opExpire:
		return expiring{x.rules, grant}
	case opDepart:
		return endingPlace{x.rules, k, t.execution}
	case opAttempt:
		return &attempting{rules: x.rules, ref: grant, tokens: r.Holders[k].Tokens}
	case opEnd:
		return endingTask{x.rules, grant, "", r.Holders[k].Tokens}
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

// first asks the operation for its optimistic command.
func (x *explorer) first(m message) uint32 {
	memo := firstKey{m.op, m.client, m.lease, m.read}
	id, known := x.firsts[memo]
	if !known {
		id = x.internCommand(x.operation(m, Record{}).(operation).first(x.clock(m.read)))
		x.firsts[memo] = id
	}
	return id
}

// decide asks the operation what it does with the record it met.
func (x *explorer) decide(m message, at uint8, record uint32) decision {
	memo := decideKey{m.op, m.client, m.lease, at, record}
	d, known := x.decided[memo]
	if !known {
		r := x.records[record]
		if h := r.Holders[key(m.client, m.lease)]; x.attemptsForget && h.Known {
			h.Known = false
			r = r.withHolder(key(m.client, m.lease), h)
		}
		op := x.operation(m, r)
		cmd, err := op.next(x.clock(at), r)
		if mark, ok := op.(*attempting); ok {
			d.first = mark.first && err == nil
		}
		switch {
		case cmd != nil:
			d.cmd = x.internCommand(*cmd)
		case err == nil:
			d.answer = ok
		case errors.Is(err, ErrLeaseLost):
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
			b.WriteString("\n  " + x.describe(s))
		}
		x.found = b.String()
	}
}

func (x *explorer) done() bool { return x.found != "" || x.limit != 0 && x.visited.n >= x.limit }

// progressEvery is how often a walk shows that it goes on.
const progressEvery = 5 * time.Second

func (x *explorer) progress() {
	if x.visited.n&0x3fff == 0 && time.Since(x.shown) > progressEvery {
		x.shown = time.Now()
		fmt.Printf("explorer: %d states of %q so far\n", x.visited.n, x.name)
	}
}

func (x *explorer) visit(s state) {
	// A lease that its client can no longer prove is over for it.
	for i := range x.clients {
		if c := &s.clients[i]; c.phase == phaseHolding && c.until <= s.now {
			c.phase, c.until = phaseIdle, 0
		}
	}
	for i, p := range s.messages {
		if p == 0 {
			continue
		}
		if m := p.unpack(); m.stage == reply && !x.matters(&s, m) {
			s.messages[i] = 0
		}
	}
	for i := 1; i < len(s.messages); i++ { // in descending order
		for j := i; j > 0 && s.messages[j] > s.messages[j-1]; j-- {
			s.messages[j], s.messages[j-1] = s.messages[j-1], s.messages[j]
		}
	}
	if x.done() || !x.visited.add(s.hash()) {
		return
	}
	x.progress()
	believed, most := int64(0), int64(math.MaxInt64)
	for i, c := range s.clients[:x.clients] {
		if believes := c.phase == phaseHolding || x.believeRelease && c.phase == phaseReleasing && c.until > s.now; believes && s.forced&(1<<i) == 0 {
			believed += x.sizes[i].permits
			most = min(most, x.sizes[i].capacity)
		}
	}
	if believed > most {
		x.fail("exclusion: clients believe they hold %d of %d permits", believed, most)
		return
	}
	x.moves(s)
}

// matters tells whether an answer can still change what its client does. If not now, then never: a client goes through
// the phases of a lease in one direction.
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

// step walks one transition and comes back.
func (x *explorer) step(s state, what string, m message) {
	if x.done() {
		return
	}
	x.transitions++
	x.trace = append(x.trace, step{s.now, what, m, s.record})
	x.visit(s)
	x.trace = x.trace[:len(x.trace)-1]
}

// A step is a transition on the path walked.
type step struct {
	now    uint8
	what   string
	m      message // the message it was about, if any
	record uint32  // after it
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

// moves walks everything that can happen next.
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
			if !h.Tokens.Empty() {
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

// executionMoves ends an execution, and has its end heard of.
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

// look has a coordinator read the record, and decide on it.
func (x *explorer) look(s state, what string, m message) {
	d := x.decide(m, m.read, s.record)
	if d.answer != 0 {
		if m.op == opAttempt && d.answer == ok { // it was tried before
			x.callBack(s, m, d.first || x.attemptsForget)
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

// callBack sends a task its lease. A task that was told already, or went away, is not there: then its lease is ended, if
// nobody can have been told.
func (x *explorer) callBack(s state, m message, first bool) {
	c := &s.clients[m.client]
	if c.phase == phaseAcquiring && c.lease == m.lease {
		c.phase, c.until = phaseHolding, forever
		x.step(s, "the task is called back", m)
	} else if first {
		x.look(s, "the task is gone", message{op: opEnd, client: m.client, lease: m.lease, read: s.now})
	}
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
		if n.op == opAttempt && n.answer == ok {
			x.callBack(t, n, applied && m.until == 1 || x.attemptsForget)
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
	n.until = n.sent + uint8(min(max(remaining, 0)/tick.Milliseconds(), forever-int64(n.sent)))
	if x.bound&(1<<n.client) != 0 && n.answer == ok {
		n.until = forever // it lives as long as the execution
	}
	n.read, n.offset = 0, 0
}

// receive is what a client makes of an answer that matters.
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

// checkWrite holds a write that was applied against the rules.
func (x *explorer) checkWrite(s state, m message, next uint32) {
	mine := key(m.client, m.lease)
	before, after := x.records[s.record], x.records[next]
	if c := s.clients[m.client]; m.op == opEnd && c.phase == phaseHolding && c.lease == m.lease && s.forced&(1<<m.client) == 0 && after.Holders[mine].Fence != before.Holders[mine].Fence {
		x.fail("callbacks: the lease of %v was ended, and its task is at work", mine)
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
		if permits(after.Holders) > h.Capacity {
			x.fail("%d permits are granted, and %v asked for %d in all", permits(after.Holders), k, h.Capacity)
		}
		if h.Execution != "" && !h.Unclaimed && h.ExpiresAt < h.AcquiredAt+(ExecutionLife-tick).Milliseconds() {
			x.fail("executions: the lease of %v ends before its execution", k)
		}
	}
	if len(after.Holders) > 0 && after.Capacity != after.capacity() {
		x.fail("the capacity is %d, the holders say %d", after.Capacity, after.capacity())
	}
	if after.FreeAt != freeAt(after.Holders) {
		x.fail("free_at is %d, the holders say %d", after.FreeAt, freeAt(after.Holders))
	}
	safe := max(after.FreeAt, after.Fence/1000, after.lastUntil())/1000 + int64(x.rules.Retention/time.Second)
	if after.TTL < safe {
		x.fail("purge: native TTL is %d, but fences only grow, and waiters only keep their places, if it is %d", after.TTL, safe)
	}
	x.checkQueue(before, after, m.op, mine, read)
	x.checkChanges(before, after, m.op, mine)
	x.checkLive(s.now, next)
}

// checkQueue holds a write against the rules of the queue: turns are taken in the order of tickets, nobody who comes later is
// granted before somebody who waits, nobody vanishes, and no permit lies idle that the head could have.
func (x *explorer) checkQueue(before, after Record, op opKind, mine LeaseKey, read int64) {
	if after.Waiting != int64(len(after.Queue)) {
		x.fail("queue: %d wait, the record says %d", len(after.Queue), after.Waiting)
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

// checkChanges holds the events of a write against what happened: one for every lease that ended, of the right kind, and
// none for any other.
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

// checkAnswer holds an answer given without a write against the record it was read from.
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
	if !live && answer == ok && m.op != opExpire && (m.op != opRelease || r.Retired.Key != mine || r.Retired.Cause != CauseRelease) {
		x.fail("rule 1: %v of %v, which is over, was told ok", m.op, mine)
	}
	if m.op == opRelease && r.Retired.Key == mine && r.Retired.Cause == CauseRelease && answer != ok {
		x.fail("rule 3: a repeated release of %v was told no", mine)
	}
}

// checkLive makes sure that if nothing more is delivered, a newcomer gets the lock a TTL and two skews from now.
func (x *explorer) checkLive(now uint8, record uint32) {
	memo := [2]uint32{record, uint32(now)}
	problem, known := x.probed[memo]
	if !known {
		problem = x.probe(now+uint8(x.ttl+x.wait)+2, memo[0])
		x.probed[memo] = problem
	}
	if problem != "" {
		x.fail("%s", problem)
	}
}

func (x *explorer) probe(at uint8, record uint32) string {
	if r := x.records[record]; x.bound != 0 && (len(r.Holders) > 0 || len(r.Queue) > 0) {
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
