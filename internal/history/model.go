package history

import (
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// The model of one lock. Porcupine looks for an order of the operations, each at some time between its beginning and its end, in which
// every answer is one that the model can give.
//
// A state has the leases that are known by answers, and those that are known to be over. Nothing else is certain: a request without an
// answer, or one that was answered "held", may take effect later, since the network may deliver it late or twice. Such a ghost of a
// request can keep the lock from others for a while, and an answer "held" may be due to it; a grant is never due to it. So ghosts are
// not in the state. They are times, computed before the search, in which "held" needs no other explanation (see ghosts).
//
// Expiry is a step that the model may take at any time after a lease's expiry, and within Skew before it where the answer is to its own
// holder. Since the search does not choose times, a lease may be over for an operation that ends after that moment.

// A known is a lease that an answer has shown.
type known struct {
	lease             string
	fence             int64
	permits, capacity int64
	until             int64 // the earliest time of its expiry
	latest            int64 // the latest time of its expiry, by any clock
	loose             bool  // it may have been ended by a release or force-release that had no answer
	byRelease         bool  // and that was a release
	looseUntil        int64 // until when that operation may take effect
}

// An ended is a lease that is known to be over.
type ended struct {
	lease    string
	fence    int64
	released bool  // by a release, as far as anyone knows: a repeated release may be answered "ok"
	keeps    int64 // until when it may keep others from the lock: it is over for its holder, and stored
}

type state struct {
	top    int64 // the highest fencing token of a grant
	forced int64 // until when a force-release that had an answer may take effect again
	live   []known
	over   []ended
}

// A call is an operation with what is known of it before the search.
type call struct {
	Op
	copies  int64 // when the last copy of it may reach the coordinator
	ghosts  bool  // a ghost of another request may keep the lock from this one
	freed   int64 // until when a release of this acquire's lease may take effect that had no answer and began before this was answered
	exists  bool  // a ghost of an acquire with this lease may hold a lease or a place
	behind  bool  // another lease may have ended since the first try of this release or force-release, so that the lock remembers that one
	lastUse map[string]int64
}

type model struct{ cfg Config }

func (m model) step(s *state, c *call) (bool, *state) {
	switch {
	case c.Op.Op == Acquire && c.Result == Granted:
		return m.grant(s, c)
	case c.Op.Op == Acquire && c.Result == Held:
		return m.held(s, c)
	case c.Op.Op == Renew && c.Result == Granted:
		return m.renewed(s, c)
	case c.Op.Op == Release && c.Result == OK:
		return m.released(s, c)
	case c.Op.Op == Downgrade && c.Result == OK:
		return m.downgraded(s, c)
	case c.Result == Lost && c.Op.Op == Force:
		i := slices.IndexFunc(s.live, func(k known) bool { return k.fence == c.Fence })
		if i < 0 || !c.behind {
			return i < 0 || !m.certain(s.live[i], c, 0), s
		}
		next := s.clone(c)
		next.end(i, next.live[i].byRelease, m.keeps(next.live[i]))
		return true, next
	case c.Result == Lost:
		return m.lost(s, c)
	case c.Op.Op == Force && c.Result == OK:
		return true, m.force(s, c)
	case c.Result == Unknown:
		return true, m.unknown(s, c)
	}
	return false, s
}

// certain reports whether a lease is certainly live for an operation that is carried out by a clock that is at most early ahead of the
// earliest expiry.
func (m model) certain(k known, c *call, early int64) bool {
	return !k.loose && c.Ended < k.until-early
}

// grant is an acquire that was answered with a lease: a new one, or the same again.
func (m model) grant(s *state, c *call) (bool, *state) {
	if i := s.find(c.Lease); i >= 0 {
		k := s.live[i]
		switch {
		case k.fence == c.Fence && c.Began > k.latest:
			return false, s
		case k.fence == c.Fence:
			return m.alive(s, i, c)
		case m.certain(k, c, int64(m.cfg.Skew)):
			return false, s
		}
	}
	if s.isOver(c.Fence) || c.capacity() == 1 && s.mutex() && c.Fence <= s.top {
		return false, s
	}
	next := s.clone(c)
	next.live = slices.DeleteFunc(next.live, func(k known) bool { return k.lease == c.Lease })
	if !m.makeRoom(next, c, c.permits(), c.capacity()) {
		return false, s
	}
	k := known{lease: c.Lease, fence: c.Fence, permits: c.permits(), capacity: c.capacity(), until: c.expiry(), latest: m.latest(c)}
	if next.forced >= c.Began {
		k.loose, k.looseUntil = true, next.forced
	}
	if c.freed >= c.Began {
		k.loose, k.byRelease, k.looseUntil = true, true, max(k.looseUntil, c.freed)
	}
	next.put(k)
	next.top = max(next.top, c.Fence)
	return true, next
}

// expiry is the earliest expiry that an answer promises.
func (c *call) expiry() int64 {
	left := c.Left
	if left == 0 {
		left = c.TTL
	}
	return c.Began + left - grain
}

// latest is the latest expiry that follows from an operation. A copy of a renewal extends the lease again.
func (m model) latest(c *call) int64 {
	left := c.Left
	if left == 0 {
		left = c.TTL
	}
	at := c.Ended + left
	if c.Op.Op == Renew {
		at = max(at, c.copies+c.TTL)
	}
	return at + int64(m.cfg.Skew) + grain
}

// makeRoom reports whether permits may be free. It removes the leases beside which they cannot be held, which must be over.
func (m model) makeRoom(s *state, c *call, permits, capacity int64) bool {
	sum, limit := permits, capacity
	var keep []known
	for _, k := range s.live {
		if m.certain(k, c, 0) {
			sum, limit = sum+k.permits, min(limit, k.capacity)
		}
	}
	if sum > limit {
		return false
	}
	for _, k := range s.live {
		if m.certain(k, c, 0) || sum+k.permits <= min(limit, k.capacity) {
			keep = append(keep, k)
		} else {
			s.over = append(s.over, ended{k.lease, k.fence, k.byRelease, 0})
		}
	}
	s.live = keep
	return true
}

// alive is an answer that proves a known lease.
func (m model) alive(s *state, i int, c *call) (bool, *state) {
	k := s.live[i]
	next := s.clone(c)
	next.live = slices.Delete(next.live, i, i+1)
	if !m.makeRoom(next, c, k.permits, k.capacity) {
		return false, s
	}
	if k.loose && c.Began > k.looseUntil {
		k.loose, k.byRelease = false, false
	}
	k.until, k.latest = max(k.until, c.expiry()), max(k.latest, m.latest(c))
	next.put(k)
	return true, next
}

// keeps is until when a lease may keep others from the lock.
func (m model) keeps(k known) int64 { return k.latest + int64(m.cfg.Skew) }

// held is an acquire that was refused because others hold the lock or wait for it.
func (m model) held(s *state, c *call) (bool, *state) {
	i := s.find(c.Lease)
	if i >= 0 && m.certain(s.live[i], c, int64(m.cfg.Skew)) {
		return false, s // it would have been answered with its lease
	}
	explained := c.ghosts || c.Set != "" || c.ruled() // another lock of the set may hold it up: see checkSets; of freezes see checkFreezes
	for _, k := range s.live {
		explained = explained || k.lease != c.Lease && c.Began <= m.keeps(k)
	}
	for _, e := range s.over {
		explained = explained || c.Began <= e.keeps
	}
	if !explained {
		return false, s
	}
	if i < 0 {
		return true, s
	}
	next := s.clone(c)
	next.end(i, false, m.keeps(next.live[i]))
	return true, next
}

func (m model) renewed(s *state, c *call) (bool, *state) {
	i := s.find(c.Lease)
	switch {
	case i >= 0 && s.live[i].fence == c.Fence && c.Began <= s.live[i].latest:
		return m.alive(s, i, c)
	case i >= 0 && (s.live[i].fence == c.Fence || m.certain(s.live[i], c, int64(m.cfg.Skew))):
		return false, s
	case s.isOver(c.Fence) || !c.exists:
		return false, s
	}
	return m.grant(s, c) // of an acquire that had no answer
}

func (m model) released(s *state, c *call) (bool, *state) {
	i := s.find(c.Lease)
	if i >= 0 {
		if c.Began > s.live[i].latest && !s.live[i].byRelease {
			return false, s
		}
		next := s.clone(c)
		next.end(i, true, 0)
		return true, next
	}
	for _, e := range s.over {
		switch {
		case e.lease != c.Lease:
		case e.released:
			return true, s
		case e.keeps != 0 && c.Began <= e.keeps-int64(m.cfg.Skew): // over by one coordinator's clock, and live by another's
			next := s.clone(c)
			for i := range next.over {
				if o := &next.over[i]; o.lease == c.Lease {
					o.released, o.keeps = true, 0
				}
			}
			return true, next
		default:
			return c.exists, s // of a ghost
		}
	}
	if !c.exists {
		return false, s
	}
	next := s.clone(c)
	next.over = append(next.over, ended{c.Lease, 0, true, 0})
	return true, next
}

// downgraded is an answer that a lease is live and has one permit from now on.
func (m model) downgraded(s *state, c *call) (bool, *state) {
	i := s.find(c.Lease)
	switch {
	case i < 0:
		return c.exists && !s.isOver(c.Fence), s
	case s.live[i].fence != c.Fence || c.Began > s.live[i].latest:
		return false, s
	}
	next := s.clone(c)
	k := next.live[i]
	k.permits = 1
	next.live = slices.Delete(next.live, i, i+1)
	if !m.makeRoom(next, c, k.permits, k.capacity) {
		return false, s
	}
	next.put(k)
	return true, next
}

// lost is an answer that a lease is over. So may be answered a release that is repeated on the way, by the SDK of a coordinator: the
// first try ended the lease, and the lock has forgotten it since.
func (m model) lost(s *state, c *call) (bool, *state) {
	i := s.find(c.Lease)
	if i < 0 {
		return true, s
	}
	if m.certain(s.live[i], c, int64(m.cfg.Skew)) && !c.behind {
		return false, s
	}
	next := s.clone(c)
	next.end(i, next.live[i].byRelease || c.behind, m.keeps(next.live[i]))
	return true, next
}

func (m model) force(s *state, c *call) *state {
	next := s.clone(c)
	if c.Fence == 0 {
		next.forced = max(next.forced, c.copies)
	}
	for i := len(next.live) - 1; i >= 0; i-- {
		if c.Fence == 0 || next.live[i].fence == c.Fence {
			next.end(i, next.live[i].byRelease, 0)
		}
	}
	return next
}

// unknown is an operation that may take effect now or later, or not at all.
func (m model) unknown(s *state, c *call) *state {
	if len(s.live) == 0 && c.Op.Op != Force {
		return s
	}
	next := s.clone(c)
	if c.Op.Op == Force && c.Fence == 0 {
		next.forced = max(next.forced, c.copies)
	}
	for i := range next.live {
		k := &next.live[i]
		own := k.lease == c.Lease
		switch {
		case c.Op.Op == Force && (c.Fence == 0 || c.Fence == k.fence), c.Op.Op == Release && own:
			k.loose, k.byRelease = true, k.byRelease || c.Op.Op == Release
			k.looseUntil = max(k.looseUntil, c.copies)
		case c.Op.Op == Downgrade && own: // it has one permit at least
			k.permits = 1
		case c.Op.Op == Renew && own:
			k.latest = max(k.latest, m.latest(c))
		}
	}
	return next
}

func (s *state) find(lease string) int {
	return slices.IndexFunc(s.live, func(k known) bool { return k.lease == lease })
}

// mutex reports whether every known lease is of a mutex, so that fencing tokens grow from one to the next.
func (s *state) mutex() bool {
	return !slices.ContainsFunc(s.live, func(k known) bool { return k.capacity > 1 })
}

func (s *state) isOver(fence int64) bool {
	return fence != 0 && slices.ContainsFunc(s.over, func(e ended) bool { return e.fence == fence })
}

// clone is a copy without the ended leases that no later operation names.
func (s *state) clone(c *call) *state {
	next := &state{top: s.top, forced: s.forced, live: slices.Clone(s.live)}
	for _, e := range s.over {
		if max(c.lastUse[e.lease], e.keeps) >= c.Began {
			next.over = append(next.over, e)
		}
	}
	return next
}

func (s *state) end(i int, released bool, keeps int64) {
	k := s.live[i]
	s.live = slices.Delete(s.live, i, i+1)
	s.over = append(s.over, ended{k.lease, k.fence, released, keeps})
	slices.SortFunc(s.over, func(a, b ended) int { return compare(a.fence, b.fence) })
}

func (s *state) put(k known) {
	s.live = append(s.live, k)
	slices.SortFunc(s.live, func(a, b known) int { return compare(a.fence, b.fence) })
}

func (s *state) equal(o *state) bool {
	return s == o || s.top == o.top && s.forced == o.forced && slices.Equal(s.live, o.live) && slices.Equal(s.over, o.over)
}

func (s *state) hash() uint64 {
	h := fnv.New64a()
	add := func(n int64) {
		var b [8]byte
		for i := range b {
			b[i] = byte(n >> (8 * i))
		}
		_, _ = h.Write(b[:])
	}
	add(s.top)
	for _, k := range s.live {
		add(k.fence)
		add(k.until)
	}
	for _, e := range s.over {
		add(e.fence)
	}
	return h.Sum64()
}

// endOfSpan is the input of the operation after a span. It is refused, so that the search visits every order of the span, and the states
// in which it is tried are all those that the span can end in.
type endOfSpan struct{ states *[]*state }

func (m model) porcupine(from []*state) porcupine.Model {
	n := porcupine.NondeterministicModel{
		Init: func() []any {
			var list []any
			for _, s := range from {
				list = append(list, s)
			}
			return list
		},
		Step: func(st, input, _ any) []any {
			s := st.(*state)
			if end, ok := input.(endOfSpan); ok {
				if !slices.ContainsFunc(*end.states, s.equal) {
					*end.states = append(*end.states, s)
				}
				return nil
			}
			if ok, next := m.step(s, input.(*call)); ok {
				return []any{next}
			}
			return nil
		},
		Equal: func(a, b any) bool { return a.(*state).equal(b.(*state)) },
		Hash:  func(s any) uint64 { return s.(*state).hash() },
	}
	if len(from) > 1 {
		return n.ToModel()
	}
	return porcupine.Model{
		Init: func() any { return from[0] },
		Step: func(st, input, output any) (bool, any) {
			list := n.Step(st, input, output)
			if len(list) == 0 {
				return false, st
			}
			return true, list[0]
		},
		Equal: n.Equal, Hash: n.Hash,
	}
}

// checkOrder looks for an order of the operations of a lock. Long histories are cut into spans at moments in which no operation is under
// way; a span begins in each of the states that the one before can end in.
func checkOrder(name string, ops []Op, cfg Config) (found []Violation, undecided []string) {
	calls := prepare(ops, cfg)
	m := model{cfg}
	from := []*state{{}}
	for start := 0; start < len(calls); {
		end := start + spanOf(calls[start:], cfg.Span)
		last := end == len(calls)
		var ends []*state
		list := make([]porcupine.Operation, 0, end-start+1)
		for _, c := range calls[start:end] {
			list = append(list, porcupine.Operation{Input: c, Call: c.Began, Return: c.Ended})
		}
		if !last {
			list = append(list, porcupine.Operation{Input: endOfSpan{&ends}, Call: math.MaxInt64 - 1, Return: math.MaxInt64})
		}
		result := porcupine.CheckOperationsTimeout(m.porcupine(from), list, cfg.Timeout)
		switch {
		case result == porcupine.Unknown:
			return found, append(undecided, fmt.Sprintf("lock %s: no answer within %v on the order of %d operations from %v on", name, cfg.Timeout, end-start, time.Duration(calls[start].Began)))
		case last && result == porcupine.Illegal, !last && len(ends) == 0:
			return append(found, m.explain(name, from, calls[start:end])), nil
		}
		start, from = end, ends
	}
	return nil, nil
}

// spanOf is the length of the next span: at least size calls, if there is a moment after them in which none is under way.
func spanOf(calls []*call, size int) int {
	var latest int64
	for i, c := range calls {
		if i >= size && c.Began > latest {
			return i
		}
		latest = max(latest, c.Ended)
	}
	return len(calls)
}

// explain finds the shortest prefix of a span, by the ends of its operations, that has no order, and names the operation that ends it.
func (m model) explain(name string, from []*state, calls []*call) Violation {
	list := slices.Clone(calls)
	slices.SortStableFunc(list, func(a, b *call) int { return compare(a.Ended, b.Ended) })
	good, bad := 0, len(list) // the number of operations with and without an order
	for bad-good > 1 {
		n := (good + bad) / 2
		if m.hasOrder(from, list[:n], calls) {
			good = n
		} else {
			bad = n
		}
	}
	last := list[bad-1]
	var what strings.Builder
	fmt.Fprintf(&what, "no order of the operations explains %s", describe(last.Op))
	for _, c := range list[max(0, bad-9) : bad-1] {
		what.WriteString("\n    after " + describe(c.Op))
	}
	return Violation{Check: "order", Lock: name, At: last.Ended, What: what.String()}
}

// hasOrder looks for an order of the operations that ended, with those that began before the last of them ended as operations that may or
// may not have taken effect yet.
func (m model) hasOrder(from []*state, done, all []*call) bool {
	var list []porcupine.Operation
	isDone := map[*call]bool{}
	latest := int64(0)
	for _, c := range done {
		isDone[c], latest = true, max(latest, c.Ended)
		list = append(list, porcupine.Operation{Input: c, Call: c.Began, Return: c.Ended})
	}
	for _, c := range all {
		if !isDone[c] && c.Began <= latest { // it may come before the others, or after them
			list = append(list, porcupine.Operation{Input: c, Call: c.Began, Return: math.MaxInt64 - 1})
		}
	}
	optional := m.porcupine(from)
	step := optional.Step
	optional.Step = func(s, input, output any) (bool, any) {
		if ok, next := step(s, input, output); ok {
			return true, next
		}
		return !isDone[input.(*call)], s
	}
	return porcupine.CheckOperationsTimeout(optional, list, time.Second) != porcupine.Illegal
}

func describe(o Op) string {
	text := fmt.Sprintf("%s of %s by %s: %s", o.Op, o.Lease, o.Client, o.Result)
	if o.Fence != 0 {
		text += fmt.Sprintf(", fence %d", o.Fence)
	}
	if o.Ticket != 0 {
		text += fmt.Sprintf(", ticket %d", o.Ticket)
	}
	if o.Left != 0 {
		text += fmt.Sprintf(", %v left", time.Duration(o.Left))
	}
	return fmt.Sprintf("%s (%v to %v)", text, time.Duration(o.Began), time.Duration(o.Ended))
}
