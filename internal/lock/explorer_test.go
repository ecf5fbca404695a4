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
// until it is applied to the record; the answer is in flight until it reaches the client. Each of the three may arrive late or
// never, the first two also twice. Coordinators' clocks differ by up to the skew allowance, chosen for every delivery. A
// client that crashes never acts again, which is a prefix of another run; a client that is paused acts late. Timers fire at
// any time. Rows are purged when native TTL allows it.
//
// A client may be an execution: its lease lasts until the execution ends, which may happen at any time, and whose event reaches a
// coordinator later or never. A client may be a task that waits with a token: it holds the lease from its callback on, which may be
// attempted at any time while the grant is stored, several times at once: by functions and by the stream's consumer. Between the mark of
// an attempt, the callback and the mark that it was answered, any time may pass, and whoever makes them may die. A task that got its
// callback, or that is gone, receives no other.
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
	notified   uint8             // bit per client that polls, and is notified of its grant
	attempts   int               // tries of callbacks
	departs    int               // words of an execution's end that arrive
	renewals   bool              // waiters may claim their grants by a renewal
	polls      bool              // waiters may poll with their tickets
	leases     int               // lease secrets that a client uses, one after the other
	sends      int               // requests that a client sends
	duplicates int               // extra deliveries in a run
	timers     int               // expiry timers
	forces     int               // force-releases by an operator
	ttl        int64             // of every lease
	wait       int64             // how long an acquire keeps a place in the queue; 0: there is no queue
	retention  int64
	horizon    uint8 // last tick
	limited    limitedWorld

	// What a mutant changes; the zero values are the protocol.
	mutate         func(Command) Command
	skew           int64 // allowance in ticks by which the rules differ from the clocks' true spread of 1
	believeInReply bool  // clients count a lease from when the answer came, not from when they asked
	believeRelease bool  // clients still believe while they release
	answerWholeTTL bool  // a repeated acquire is answered with the whole TTL
	attemptsForget bool  // every attempt of a callback counts as the first, and as the only one
	attemptIsTold  bool  // a callback that was attempted is not sent again
	toldEarly      bool  // a callback is marked as answered before it is sent
}

// tick is the unit of a world's times. An unclaimed grant lasts one.
const tick = ClaimTime

// forever is the expiry of an execution's lease.
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
	opTold    // that a callback was answered
)

func (k opKind) String() string {
	return [...]string{"", "acquire", "renew", "release", "expire", "force-release", "depart", "attempt", "end", "told"}[k]
}

type stage uint8

const (
	request stage = iota + 1 // on its way to a coordinator
	write                    // a command on its way to the record
	reply                    // an answer on its way to the client
	sending                  // a callback on its way to its task
	poll                     // a poll on its way to a coordinator
	half                     // a poll of which one of the two items was read: the record if until is 0, else the waiter
)

type verdict uint8

const (
	ok verdict = iota + 1
	held
	lost
	told // of an attempt: the callback was answered before
)

type message struct {
	stage  stage
	op     opKind
	client uint8
	lease  uint8
	sent   uint8  // when the client sent it
	offset uint8  // of the coordinator's clock
	read   uint8  // when the coordinator read its clock for the command
	cmd    uint32 // the command in flight; of a poll, the record of which one item was read
	answer verdict
	until  uint8 // for an ok: sent + remaining
}

// packed is a message in one word, as states contain it; 0 is none.
type packed uint64

func (m message) pack() packed {
	return packed(m.stage)<<60 | packed(m.op)<<56 | packed(m.client)<<52 | packed(m.lease)<<48 | packed(m.sent)<<42 |
		packed(m.offset)<<40 | packed(m.read)<<34 | packed(m.answer)<<31 | packed(m.until)<<25 | packed(m.cmd)
}

func (p packed) unpack() message {
	return message{
		stage: stage(p >> 60), op: opKind(p >> 56 & 15), client: uint8(p >> 52 & 15), lease: uint8(p >> 48 & 15),
		sent: uint8(p >> 42 & 63), offset: uint8(p >> 40 & 3), read: uint8(p >> 34 & 63), answer: verdict(p >> 31 & 7),
		until: uint8(p >> 25 & 63), cmd: uint32(p & (1<<25 - 1)),
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
	polled      map[pollKey]decision   // what a poll does next
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

type pollKey struct {
	client, lease uint8
	now           uint8
	row, waiter   uint32 // the records of which the two items were read
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
	principal         string
	execution         string
	token             Token
}

func explore(w world, limit int) *explorer {
	x := &explorer{
		world: w, limit: limit,
		rules:    Rules{Skew: time.Duration(1+w.skew) * tick, Retention: time.Duration(w.retention) * tick},
		recordID: map[string]uint32{}, cmdID: map[string]uint32{}, applied: map[[2]uint32]uint32{},
		firsts: map[firstKey]uint32{}, decided: map[decideKey]decision{}, polled: map[pollKey]decision{}, probed: map[[2]uint32]string{},
		forcings: map[[2]uint32]uint32{}, checked: map[checkKey]bool{}, shown: time.Now(),
	}
	for i := range x.sizes {
		x.sizes[i] = terms{capacity: w.capacity, permits: 1}
		if i == maxClients {
			continue
		}
		t := &x.sizes[i]
		t.capacity, t.permits = cmp.Or(w.capacities[i], t.capacity), cmp.Or(w.permits[i], t.permits)
		t.principal = w.limited.principalOf(i)
		if w.bound&(1<<i) != 0 {
			t.execution = fmt.Sprintf("execution %d", i)
		}
		if w.tokens&(1<<i) != 0 {
			t.token = task(fmt.Sprintf("token %d", i))
		}
		if w.notified&(1<<i) != 0 {
			t.token = Token{Kind: NotifyToken, Text: fmt.Sprintf("queue %d", i)}
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

// internRecord interns a record without the times at which its waiters joined: no decision depends on them, and states that differ in them alone are
// one.
func (x *explorer) internRecord(r Record) uint32 {
	for i, w := range r.Queue {
		if w.Joined != 0 {
			r.Queue = slices.Clone(r.Queue)
			r.Queue[i].Joined = 0
		}
	}
	for key, h := range r.Holders {
		if h.Joined != 0 {
			h.Joined = 0
			r = r.withHolder(key, h)
		}
	}
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
		return acquiring{rules: x.rules, key: k, limits: x.limits(x.clock(m.read), r), req: AcquireRequest{
			TTL: ttl, Capacity: t.capacity, Permits: t.permits, Principal: t.principal, Wait: time.Duration(x.wait) * tick, Execution: t.execution, Token: t.token,
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
	case opTold:
		return telling{x.rules, grant, r.Holders[k].Tokens}
	}
	return nil
}

// apply applies a command to a record.
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

// decide asks the operation to decide on a record.
func (x *explorer) decide(m message, at uint8, record uint32) decision {
	memo := decideKey{m.op, m.client, m.lease, at, record}
	d, known := x.decided[memo]
	if !known {
		r := x.records[record]
		if h, there := r.Holders[key(m.client, m.lease)]; there && m.op >= opAttempt {
			h.Known = h.Known && !x.attemptsForget
			h.Told = h.Told || x.attemptIsTold && h.Attempted
			r = r.withHolder(key(m.client, m.lease), h)
		}
		m.read = at
		op := x.operation(m, r)
		cmd, err := op.next(x.clock(at), r)
		x.checkRefused(m, r, err)
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
		case errors.Is(err, ErrTold):
			d.answer = told
		default:
			d.answer = held
		}
		x.decided[memo] = d
	}
	return d
}

// poll asks a poll to decide on the two items that it read.
func (x *explorer) poll(m message, at uint8, row, waiter uint32) decision {
	memo := pollKey{m.client, m.lease, at, row, waiter}
	d, known := x.polled[memo]
	if known {
		return d
	}
	var w Waiter
	if i := x.records[waiter].waits(key(m.client, m.lease)); i >= 0 {
		w = x.records[waiter].Queue[i]
	}
	record := x.records[row]
	record.Queue = nil
	op := x.operation(m, record).(acquiring)
	switch until, waits := op.polled(x.clock(at), record, w); {
	case !waits:
		d = x.decide(m, at, row)
	case until == 0:
		d.answer = held
	default:
		d.cmd = x.internCommand(op.rules.keep(w, until))
	}
	x.polled[memo] = d
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

// progressEvery is the time between two lines of progress.
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

// A step is a transition on the current path.
type step struct {
	now    uint8
	what   string
	m      message // the message it was about, if any
	record uint32  // after it
}
