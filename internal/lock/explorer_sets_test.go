package lock

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"time"
)

// The explorer of sets walks every interleaving of small worlds over two locks. Clients ask for both, or for one of them. A coordinator reads
// the two records one after the other, at any times; its write lands later, atomically; whoever made a write then settles what it left, later
// or never; the stream's consumer does the same for each write that it must see, later, and until it is done. Clocks differ by a tick.

// A setWorld bounds what is explored. Times are in ticks.
type setWorld struct {
	name      string
	wants     [maxClients][2]int64 // permits that each client wants of each lock; 0: it does not ask for the lock
	capacity  [2]int64
	clients   int
	sends     int
	timers    int
	forces    int
	clocks    uint8 // how many clocks there are: of two, one is a tick ahead
	polls     bool  // clients that wait may poll with their tickets
	stream    bool  // a stream's consumer settles, and writers may die before they do; else writers settle and do not die
	follows   bool  // writers settle what they left
	jobs      bool  // the stream's consumer also settles a lock when the place of its head ends: see HeldUp
	again     uint8 // bit per client that sends one request more than the others
	ttl, wait int64
	patience  [maxClients]int64 // the wait of a client, if not that of all
	retention int64
	horizon   uint8
	freezes   int   // how often an operator freezes locks, until a tick later; he may end that early
	frozen    uint8 // bit per lock that the freeze is of
	downgrade bool  // a client that holds more than one permit of one lock may give back all but one
	rate      int64 // in any so many ticks, lock a is granted once; 0: as often as it is free

	tasks      uint8 // bit per client that waits with a token, for both locks
	deaths     int   // of tasks
	deliveries int   // how many processes send callbacks at a time
	crashes    int   // of these

	// What a mutant changes.
	mutate      func([]Part) []Part // before they are applied
	trust       bool                // a part of a set that was read once is believed
	alone       bool                // whoever settles looks at its own lock only
	once        bool                // the stream's consumer sets no job for the end of a place
	trustful    bool                // the leases of a set are not read before its callback
	alwaysFirst bool                // every attempt at a callback is taken for the first
	forgets     bool                // places have no tokens
	still       bool                // it sets one at each turn, and does not repeat it
	deaf        bool                // nothing goes by freezes
	stale       bool                // the stream's consumer goes by a freeze that has been ended since
	hasty       bool                // the end of a freeze is looked at without an allowance for clocks
	asleep      bool                // nothing looks at the end of a freeze
	unrated     bool                // no job is set when permits become free that a rate keeps back
	early       bool                // a job for the next grant by a rate is due a tick too early, and not repeated
}

type setStage uint8

const (
	setRequest setStage = iota + 1
	setRead
	setWrite
	setReply
)

type setMessage struct {
	stage      setStage
	op         opKind
	client     uint8
	lock       uint8 // of an operation on one lock
	both       bool  // the operation is on the set
	poll       bool
	offset     uint8
	read       uint8
	sent       uint8
	of         uint8 // 1: a writer that settles; 2: the stream's consumer
	head       uint8 // of a job of the stream's consumer: see Job.Head in package stream
	held, due  uint8 // the head that was found to hold up others, and when its place ends
	answer     verdict
	until      uint8
	view       uint8     // of a decision: the end of the freeze in the rules that it goes by; 0: none
	seen, prev [2]uint32 // records, plus 1
	cmds       [2]uint32 // commands, plus 1
	first      bool      // of a process that sends a callback: its attempt is the first
}

// opSettle is a settling of a lock, or, of both, of the set that is first there.
const opSettle opKind = opTold + 1

// gaveBack is the lease of a client that believes in one permit.
const gaveBack = 2

// opGiveBack gives back all permits of a lease but one.
const opGiveBack = opCall + 1

const maxSetMessages = 7

type setState struct {
	now, timers, forces uint8
	forced              uint8
	owed, told, failing uint8 // bit per task: a callback is due; it was sent; the task is to be told that its wait is over
	dead                uint8 // bit per task
	deaths, deliveries  uint8
	crashes             uint8
	pending, turned     uint8 // bit per lock that the stream's consumer must settle; those of which the head or the free permits are new
	jobs                [2]setJob
	rule                setRule
	records             [2]uint32
	fences              [2]int64
	clients             [maxClients]clientState
	messages            [maxSetMessages]setMessage
}

// A setJob is a job of the stream's consumer for the end of the place at the head of a queue.
type setJob struct{ head, due uint8 }

// noHead is the head of a job that is not repeated.
const noHead = 255

type setExplorer struct {
	setWorld
	rules       Rules
	limit       int
	visited     hashSet
	seed        maphash.Seed
	records     []Record
	recordID    map[string]uint32
	commands    []Command
	cmdID       map[string]uint32
	decided     map[setMessage]setMessage
	applied     map[[2]uint32]uint32
	writing     map[[2]uint32]setCommands
	firsts      map[firstKey]uint32
	probed      map[[3]uint32]string
	holds       map[uint8]*hold // by the end of a freeze
	byRate      *hold           // of lock a, if there is a rate
	trace       []setStep
	found       string
	transitions int
}

func exploreSets(w setWorld, limit int) *setExplorer {
	x := &setExplorer{
		setWorld: w, limit: limit, rules: Rules{Skew: tick, Retention: time.Duration(w.retention) * tick}, seed: maphash.MakeSeed(),
		recordID: map[string]uint32{}, cmdID: map[string]uint32{}, decided: map[setMessage]setMessage{}, applied: map[[2]uint32]uint32{},
		writing: map[[2]uint32]setCommands{}, firsts: map[firstKey]uint32{}, probed: map[[3]uint32]string{},
		holds: map[uint8]*hold{}, byRate: w.rated(),
	}
	intern(&x.records, x.recordID, Record{})
	x.visit(setState{now: 1})
	return x
}

func (x *setExplorer) clock(at uint8) time.Time {
	return time.Unix(1000, 0).Add(time.Duration(at) * tick)
}

func (x *setExplorer) record(id uint32) Record { return x.records[id] }

var setNames = [2]string{"a", "b"}

func (x *setExplorer) isSet(client uint8) bool {
	return x.wants[client][0] > 0 && x.wants[client][1] > 0
}

func (x *setExplorer) only(client uint8) uint8 {
	if x.wants[client][0] > 0 {
		return 0
	}
	return 1
}

// key is of a client's lease, in the form of the other explorer's.
func (x *setExplorer) key(client uint8) LeaseKey { return key(client, 1) }

func (x *setExplorer) fail(format string, args ...any) {
	if x.found != "" {
		return
	}
	x.found = fmt.Sprintf(format, args...)
	for _, step := range x.trace {
		x.found += "\n  " + x.describe(step)
	}
}

// A setStep is a transition on the current path.
type setStep struct {
	now     uint8
	what    string
	m       setMessage
	records [2]uint32
}

func (x *setExplorer) describe(s setStep) string {
	m, text := s.m, fmt.Sprintf("t=%d: %s", s.now, s.what)
	if m.op != 0 {
		text += fmt.Sprintf(" [%v of client %d, lock %d, both %v, poll %v, by %d, sent %d, clock %d ahead, answer %d until %d]",
			opName(m.op), m.client, m.lock, m.both, m.poll, m.of, m.sent, m.offset, m.answer, m.until)
	}
	return text + "\n      a " + short(x.record(s.records[0])) + "\n      b " + short(x.record(s.records[1]))
}

func (x *setExplorer) done() bool { return x.found != "" || x.limit != 0 && x.visited.n >= x.limit }

func (x *setExplorer) step(s setState, what string, m setMessage) {
	if x.done() {
		return
	}
	x.transitions++
	x.trace = append(x.trace, setStep{s.now, what, m, s.records})
	x.visit(s)
	x.trace = x.trace[:len(x.trace)-1]
}

func opName(k opKind) string {
	switch k {
	case opSettle:
		return "settle"
	case opCall:
		return "callback"
	case opGiveBack:
		return "give-back"
	}
	return k.String()
}

func short(r Record) string {
	var b strings.Builder
	fmt.Fprintf(&b, "rev %d, cause %s, waiting %d, holders", r.Rev, r.Cause, r.Waiting)
	for _, k := range byFence(r.Holders) {
		h := r.Holders[k]
		fmt.Fprintf(&b, " %s (fence %d, unclaimed %v, until %d)", k, h.Fence, h.Unclaimed, (h.ExpiresAt-1_000_000)/tick.Milliseconds())
	}
	b.WriteString(", queue")
	for _, w := range r.Queue {
		fmt.Fprintf(&b, " %s (ticket %d, set %q, until %d)", w.Key, w.Ticket, w.Set, (w.Until-1_000_000)/tick.Milliseconds())
	}
	return b.String()
}

func (s *setState) put(m setMessage) bool {
	for i := range s.messages {
		if s.messages[i].stage == 0 {
			s.messages[i] = m
			return true
		}
	}
	return false
}

func (x *setExplorer) visit(s setState) {
	for i := range x.clients {
		if c := &s.clients[i]; c.phase == phaseHolding && c.until <= s.now {
			c.phase, c.until = phaseIdle, 0
		}
	}
	slices.SortFunc(s.messages[:], compareMessages)
	if x.done() || !x.visited.add(maphash.Comparable(x.seed, s)) {
		return
	}
	x.checkState(s)
	x.moves(s)
}

// compareMessages puts the order of messages, which has no meaning, into one form, empty ones last.
func compareMessages(a, b setMessage) int {
	return cmp.Or(
		-cmp.Compare(a.stage, b.stage), cmp.Compare(a.op, b.op), cmp.Compare(a.client, b.client), cmp.Compare(a.lock, b.lock), cmp.Compare(a.of, b.of),
		cmp.Compare(a.head, b.head), cmp.Compare(a.held, b.held), cmp.Compare(a.due, b.due), cmp.Compare(a.sent, b.sent), cmp.Compare(a.read, b.read), cmp.Compare(a.offset, b.offset), slices.Compare(a.seen[:], b.seen[:]),
		slices.Compare(a.prev[:], b.prev[:]), slices.Compare(a.cmds[:], b.cmds[:]), cmp.Compare(a.answer, b.answer), cmp.Compare(a.until, b.until), compareBools(a.first, b.first),
	)
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func (x *setExplorer) moves(s setState) {
	if s.now < x.horizon {
		t := s
		t.now++
		x.step(t, "tick", setMessage{})
	}
	for i := range uint8(x.clients) {
		x.clientMoves(s, i)
		x.taskMoves(s, i)
	}
	x.ruleMoves(s)
	for i, m := range s.messages {
		if m.stage != 0 {
			x.messageMoves(s, i)
		}
	}
	for lock := range uint8(2) {
		r := x.record(s.records[lock])
		if s.pending&(1<<lock) != 0 {
			for offset := range x.clocksOfJobs() {
				t := s
				m := setMessage{stage: setRead, op: opSettle, lock: lock, of: 2, offset: offset}
				if x.jobs && s.turned&(1<<lock) == 0 {
					m.head = noHead
				}
				t.pending, t.turned = s.pending&^(1<<lock), s.turned&^(1<<lock)
				if t.put(m) {
					x.step(t, "the stream's consumer settles", m)
				}
			}
		}
		if job := s.jobs[lock]; job.head != 0 && job.due <= s.now {
			t := s
			t.jobs[lock] = setJob{}
			if m := (setMessage{stage: setRead, op: opSettle, lock: lock, of: 2, head: job.head}); t.put(m) {
				x.step(t, "a place ends", m)
			}
		}
		for k := range r.Holders {
			client, _ := parseKey(k)
			if int(s.timers) < x.timers {
				t := s
				t.timers++
				if m := (setMessage{stage: setRead, op: opExpire, lock: lock, client: client}); t.put(m) {
					x.step(t, "timer", m)
				}
			}
			if int(s.forces) < x.forces {
				t := s
				t.forces++
				if !x.isTask(client) {
					t.forced |= 1 << client
				}
				if m := (setMessage{stage: setRead, op: opForce, lock: lock, client: client}); t.put(m) {
					x.step(t, "an operator forces", m)
				}
			}
		}
	}
}

func (x *setExplorer) clientMoves(s setState, i uint8) {
	c := s.clients[i]
	if int(c.sends) >= x.sends+int(x.again>>i&1) {
		return
	}
	send := func(op opKind, poll bool, change func(*clientState)) {
		t := s
		t.clients[i].sends++
		change(&t.clients[i])
		m := setMessage{stage: setRequest, op: op, client: i, sent: s.now, poll: poll, both: x.isSet(i), lock: x.only(i)}
		if op == opRelease {
			m.sent = 0
		}
		if t.put(m) {
			x.step(t, "client sends", m)
		}
	}
	same := func(*clientState) {}
	switch c.phase {
	case phaseIdle:
		if c.lease == 0 && (i == 0 || s.clients[i-1].lease != 0 || x.wants[i] != x.wants[i-1]) { // of clients that want the same, the order has no meaning
			send(opAcquire, false, func(c *clientState) { c.phase, c.lease = phaseAcquiring, 1 })
		}
	case phaseAcquiring:
		send(opAcquire, false, same)
		if x.isTask(i) {
			return
		}
		if x.polls && x.isSet(i) {
			send(opAcquire, true, same)
		}
		send(opRelease, false, func(c *clientState) { c.phase = phaseIdle })
	case phaseHolding:
		if !x.isTask(i) {
			send(opRenew, false, same)
		}
		if !x.isSet(i) && x.downgrade && x.wants[i][x.only(i)] > 1 {
			send(opGiveBack, false, func(c *clientState) { c.lease = gaveBack })
		}
		send(opRelease, false, func(c *clientState) { c.phase, c.until = phaseReleasing, 0 })
	}
}

func (x *setExplorer) messageMoves(s setState, i int) {
	m := s.messages[i]
	gone := s
	gone.messages[i] = setMessage{}
	x.diesAt(gone, m)
	switch m.stage {
	case setRequest:
		for offset := range x.clocks {
			for _, view := range x.views(&s, m) {
				n, t := m, gone
				n.stage, n.offset = setRead, offset
				if !n.both && n.op != opGiveBack && (n.op != opAcquire || x.holdBy(view, n.lock, s.now+offset) == nil) {
					n.stage, n.read = setWrite, s.now+offset
					n.cmds[n.lock] = x.first(n) + 1
				}
				t.put(n)
				x.step(t, "request delivered", n)
			}
		}
	case setRead:
		for lock := range uint8(2) {
			if m.seen[lock] != 0 || !m.both && lock != m.lock {
				continue
			}
			for _, view := range x.views(&s, m) {
				n, t := m, gone
				n.seen[lock] = s.records[lock] + 1
				if whole := !n.both || n.seen[1-lock] != 0; whole {
					n.view = view
					n = x.decide(n, s.now+n.offset)
				}
				x.put(&t, n)
				x.step(t, "a record is read", n)
			}
			if m.both && m.prev == [2]uint32{} { // which of the two is read first matters once
				continue
			}
			break
		}
	case setWrite:
		if int64(s.now) <= int64(m.read)+x.retention {
			x.land(s, gone, m)
		}
	case setReply:
		x.receive(gone, m)
	}
}

// put puts a message that is still to be moved: settling ends with its last decision, and that of the stream's consumer with a job.
func (x *setExplorer) put(t *setState, m setMessage) {
	if m.stage == setReply && m.of == ofTask && m.op != opCall {
		x.nextStep(t, m)
		return
	}
	if m.stage == setReply && m.op >= opExpire && m.op != opCall {
		if x.jobs && m.of == 2 && m.held != 0 && (m.head == 0 || m.head == m.held && !x.still) && !x.once {
			job := &t.jobs[m.lock]
			if int64(job.head) != x.record(t.records[m.lock]).Head || m.due < job.due { // else there is a job for the head, and another one ends at once
				*job = setJob{m.held, m.due}
			}
		}
		return
	}
	if m.stage == setReply && !x.matters(t, m) {
		return
	}
	if m.stage == setReply && m.op == opAcquire && x.isTask(m.client) { // it waits for its callback
		return
	}
	t.put(m)
}

func (x *setExplorer) matters(t *setState, m setMessage) bool {
	c := t.clients[m.client]
	switch {
	case m.op == opCall:
		return true
	case m.answer == held:
		return false
	case m.op == opAcquire:
		return c.phase == phaseAcquiring || c.phase == phaseHolding && m.answer == ok
	case m.op == opRenew:
		return c.phase == phaseHolding
	}
	return c.phase == phaseReleasing
}

func (x *setExplorer) receive(t setState, m setMessage) {
	if m.op == opCall {
		x.call(t, m)
		return
	}
	if !x.matters(&t, m) {
		x.step(t, "an answer comes too late", m)
		return
	}
	c := &t.clients[m.client]
	if m.answer == ok && m.op != opRelease {
		c.phase, c.until = phaseHolding, max(c.until, m.until)
	} else {
		c.phase, c.until = phaseIdle, 0
	}
	x.step(t, "client hears", m)
}

// first is the command of an operation on one lock that is sent before the record is read.
func (x *setExplorer) first(m setMessage) uint32 {
	memo := firstKey{m.op, m.client, m.lock, m.read}
	id, known := x.firsts[memo]
	if !known {
		id = intern(&x.commands, x.cmdID, x.single(m, Record{}).(operation).first(x.clock(m.read)))
		x.firsts[memo] = id
	}
	return id
}

// single is the operation of a message about one lock, and nil for one about both.
func (x *setExplorer) single(m setMessage, r Record) decider {
	k, ttl := x.key(m.client), time.Duration(x.ttl)*tick
	ref := GrantRef{Key: k, Fence: r.Holders[k].Fence}
	switch {
	case m.both:
		return nil
	case m.op == opAcquire:
		return acquiring{rules: x.rules, key: k, req: AcquireRequest{TTL: ttl, Capacity: x.capacity[m.lock], Permits: x.wants[m.client][m.lock], Wait: x.waits(m.client)}}
	case m.op == opRenew:
		return renewing{x.rules, k, RenewRequest{TTL: ttl}}
	case m.op == opRelease:
		return releasing{x.rules, k, ReleaseRequest{}}
	case m.op == opGiveBack:
		return givingBack{x.rules, k, ReleaseRequest{Keep: 1, Capacity: x.capacity[m.lock]}}
	case m.op == opExpire:
		return expiring{x.rules, ref}
	case m.op == opForce:
		return &forcing{rules: x.rules, req: ForceReleaseRequest{Fence: ref.Fence}}
	case m.of == ofTask:
		return x.ofCallback(m, r)
	}
	return settling{x.rules}
}

func (x *setExplorer) waits(client uint8) time.Duration {
	return time.Duration(cmp.Or(x.patience[client], x.wait)) * tick
}

func (x *setExplorer) set(m setMessage) setDecider {
	k, ttl := x.key(m.client), time.Duration(x.ttl)*tick
	names := setNames[:]
	switch m.op {
	case opAcquire:
		req := SetRequest{TTL: ttl, Wait: x.waits(m.client), Token: x.token(m.client)}
		for i, name := range names {
			req.Locks = append(req.Locks, Want{name, x.capacity[i], x.wants[m.client][i]})
		}
		return setAcquiring{rules: x.rules, names: names, key: k, req: req}.limitedBy(nil, nil)
	case opRenew:
		return setRenewing{x.rules, names, k, RenewRequest{TTL: ttl}}
	case opRelease:
		return &setReleasing{rules: x.rules, names: names, key: k}
	case opEnd:
		return x.endOfTask(m, x.record(m.seen[0]-1))
	}
	return setSettling{x.rules, names, k}
}

// decide is what follows from the records that a message has read.
func (x *setExplorer) decide(m setMessage, at uint8) setMessage {
	m.read = at
	n, known := x.decided[m]
	if known {
		return n
	}
	n = m
	n.view = 0
	now := x.clock(at)
	if m.both {
		n = x.decideSet(n, m.view, now)
	} else {
		r := x.seen(m, m.lock, at)
		op := x.single(m, r)
		cmd, err := op.next(now, r)
		n = x.become(n, err)
		if a, attempts := op.(*attempting); attempts {
			n.first = a.first || x.alwaysFirst
		}
		if held := x.heldUp(r, now); x.jobs && !r.hold.freezes(now) && m.op == opSettle && m.of == 2 && held.Head != 0 {
			n.held, n.due = uint8(held.Head), uint8(held.Until.Sub(x.clock(0))/tick)
		}
		if cmd != nil {
			n.stage, n.held, n.due = setWrite, 0, 0
			n.cmds[m.lock] = intern(&x.commands, x.cmdID, *cmd) + 1
		} else if set := r.headSet(); m.op == opSettle && set != nil && !x.alone && r.heldBack(now) == nil {
			client, _ := parseKey(set.Key)
			n = setMessage{stage: setRead, op: opSettle, both: true, client: client, of: m.of, lock: m.lock, head: m.head, held: n.held, due: n.due}
		} else if err == nil && m.op == opAcquire {
			n = x.lease(n, now, []Record{r})
		}
	}
	x.checkFrozen(m, n, at)
	x.decided[m] = n
	return n
}

func (x *setExplorer) become(n setMessage, err error) setMessage {
	n.seen, n.prev = [2]uint32{}, [2]uint32{}
	n.stage, n.poll = setReply, false
	switch {
	case err == nil:
		n.answer = ok
	case errors.Is(err, ErrLeaseLost):
		n.answer = lost
	case answered(err):
		n.answer = held
	default:
		n.answer = held
	}
	return n
}

func (x *setExplorer) decideSet(n setMessage, view uint8, now time.Time) setMessage {
	m := n
	n.view = view
	var rs, prev []Record
	for i := range uint8(2) {
		rs = append(rs, x.seen(n, i, n.read))
		if m.prev[i] != 0 {
			prev = append(prev, x.record(m.prev[i]-1))
		}
	}
	n.view = 0
	if x.trust {
		prev = rs
	}
	switch {
	case m.poll:
		return x.decidePoll(n, now, rs)
	case m.op == opCall:
		return x.leases(n, rs)
	}
	parts, err := x.set(m).next(now, rs, prev)
	if errors.Is(err, errTorn) {
		n.prev, n.seen = m.seen, [2]uint32{}
		return n
	}
	n = x.become(n, err)
	if len(parts) == 0 {
		if err == nil && m.op != opRelease && m.op != opSettle && m.op != opEnd {
			n = x.lease(n, now, rs)
		}
		return n
	}
	return x.writes(n, m, parts)
}

// writes is a message with a write on its way. It keeps what was read, for the next try.
func (x *setExplorer) writes(n, m setMessage, parts []Part) setMessage {
	n.stage, n.answer, n.prev = setWrite, 0, m.seen
	for _, p := range parts {
		n.cmds[slices.Index(setNames[:], p.Lock)] = intern(&x.commands, x.cmdID, p.Command) + 1
	}
	return n
}

func (x *setExplorer) decidePoll(n setMessage, now time.Time, rs []Record) setMessage {
	m := n
	op := x.set(m).(setAcquiring)
	var places []Waiter
	for i, r := range rs {
		w, _ := r.place(op.key)
		places = append(places, w)
		rs[i].Queue = nil
	}
	until, waits := op.polled(now, rs, places)
	switch {
	case !waits: // read anew
		n.poll, n.seen = false, [2]uint32{}
		return n
	case until == 0:
		n = x.become(n, ErrLockHeld)
		return n
	}
	var parts []Part
	for i, w := range places {
		parts = append(parts, Part{Lock: setNames[i], Command: op.rules.keep(w, until)})
	}
	n = x.become(n, nil)
	return x.writes(n, m, parts)
}

// lease adds to an answer until when the lease lasts.
func (x *setExplorer) lease(n setMessage, now time.Time, rs []Record) setMessage {
	n.answer, n.until = ok, 63
	for _, r := range rs {
		h, has := r.Holders[x.key(n.client)]
		remaining := (h.ExpiresAt - now.UnixMilli()) / tick.Milliseconds()
		switch {
		case !has:
			n.answer = held
		case remaining <= 0:
			n.answer = lost
		}
		n.until = min(n.until, n.sent+uint8(max(remaining, 0)))
	}
	return n
}
