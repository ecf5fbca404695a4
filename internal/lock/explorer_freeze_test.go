package lock

// The part of the explorer of sets that has a prefix rule: an operator freezes locks for a tick, and may end the freeze early. A coordinator may go by the rule as it was
// before its last change, within the tick of that change; the stream's consumer, which settles locks, reads the rules anew if it would go by a freeze. At the end of a
// freeze a job settles the locks that it was of.

// freezeLasts is how long a freeze lasts.
const freezeLasts = 1

// A setRule is the rule, and the jobs for the ends of its freezes.
type setRule struct {
	until  uint8  // the end of the freeze; 0: there is none
	before uint8  // until, as it was before the last change
	at     uint8  // when that was; 0: never
	sets   uint8  // how often it was set
	thaws  uint16 // bit per tick at which a freeze ends, and a job must look
	wake   bool   // a freeze was ended early, and a job must look at once
}

func (x *setExplorer) ruleMoves(s setState) {
	r := s.rule
	if int(r.sets) < x.freezes {
		t := s
		end := s.now + freezeLasts
		t.rule = x.jobsOf(setRule{until: end, before: r.until, at: s.now, sets: r.sets + 1, thaws: r.thaws | 1<<end, wake: r.wake})
		x.step(t, "an operator freezes", setMessage{})
	}
	if r.until > s.now {
		t := s
		t.rule.until, t.rule.before, t.rule.at, t.rule.wake = 0, r.until, s.now, true
		t.rule = x.jobsOf(t.rule)
		x.step(t, "an operator ends the freeze", setMessage{})
	}
	for offset := range x.clocks {
		for end := range uint8(16) {
			due := end + x.clocks - 1 // by any clock it is over then
			if x.hasty {
				due = end
			}
			if r.thaws&(1<<end) != 0 && s.now+offset >= due {
				t := s
				t.rule.thaws &^= 1 << end
				x.thaw(t, offset)
			}
		}
		if r.wake {
			t := s
			t.rule.wake = false
			x.thaw(t, offset)
		}
	}
}

// jobsOf is a rule with the jobs for its ends, unless nothing looks at these.
func (x *setExplorer) jobsOf(r setRule) setRule {
	if x.asleep {
		r.thaws, r.wake = 0, false
	}
	return r
}

// thaw is the job for the end of a freeze.
func (x *setExplorer) thaw(t setState, offset uint8) {
	if until := t.rule.until; until > t.now+offset {
		t.rule.thaws |= 1 << until
		x.step(t, "the job for the end of a freeze is set again", setMessage{})
		return
	}
	var m setMessage
	for lock := range uint8(2) {
		if x.frozen>>lock&1 == 0 || x.record(t.records[lock]).Waiting == 0 {
			continue
		}
		m = setMessage{stage: setRead, op: opSettle, lock: lock, of: 2, offset: offset}
		if x.jobs {
			m.head = noHead
		}
		if !t.put(m) {
			panic("a world with more messages than maxSetMessages")
		}
	}
	x.step(t, "the job for the end of a freeze settles", m)
}

// clocksOfJobs is how many clocks the stream's consumer may have.
func (x *setExplorer) clocksOfJobs() uint8 {
	if x.freezes > 0 {
		return x.clocks
	}
	return 1
}

// views are the ends of the freeze by which a decision may go.
func (x *setExplorer) views(s *setState, m setMessage) []uint8 {
	old := s.rule.before
	fresh := m.of == 2 && old > s.now && !x.stale // it reads the rules anew
	if s.rule.at != s.now || fresh || old == s.rule.until {
		return []uint8{s.rule.until}
	}
	return []uint8{s.rule.until, old}
}

// holdBy is what keeps a lock from being granted by a view at a time, or nil.
func (x *setExplorer) holdBy(view, lock, at uint8) *hold {
	if x.byRate != nil && lock == 0 {
		return x.byRate
	}
	if x.frozen>>lock&1 == 0 || view <= at || x.deaf {
		return nil
	}
	if x.holds[view] == nil {
		x.holds[view] = &hold{freeze: &Freeze{Until: x.clock(view).UnixMilli()}}
	}
	return x.holds[view]
}

// seen is a record that a message has read, with what keeps its lock from being granted.
func (x *setExplorer) seen(m setMessage, lock, at uint8) Record {
	r := x.record(m.seen[lock] - 1)
	if m.op == opAcquire || r.Waiting > 0 {
		r.hold = x.holdBy(m.view, lock, at)
	}
	return r
}

// checkFrozen checks that a decision grants no lock that is frozen by the rules that it goes by.
func (x *setExplorer) checkFrozen(m, n setMessage, at uint8) {
	for lock := range uint8(2) {
		if n.stage != setWrite || n.cmds[lock] == 0 || m.seen[lock] == 0 || x.frozen>>lock&1 == 0 || m.view <= at {
			continue
		}
		from := x.record(m.seen[lock] - 1)
		for k, h := range x.commands[n.cmds[lock]-1].Next(from).Holders {
			if from.Holders[k].Fence != h.Fence {
				x.fail("freeze: %v is granted %s by %s, which is frozen until %d", k, setNames[lock], opName(m.op), m.view)
			}
		}
	}
}

// checkGiveBack checks that a lease gets no further permits, and that a holder that gives permits back has one, and leaves none idle that the first waiter could have.
func (x *setExplorer) checkGiveBack(m setMessage, before, after Record) {
	for k, h := range after.Holders {
		switch was := before.Holders[k]; {
		case was.Fence != h.Fence:
		case h.Permits > was.Permits:
			x.fail("permits: %v has %d, and had %d", k, h.Permits, was.Permits)
		case m.op == opGiveBack && k == x.key(m.client) && h.Permits != 1:
			x.fail("permits: %v gave back all but one, and has %d", k, h.Permits)
		}
	}
	if set := after.headSet(); m.op == opGiveBack && after.Rev != before.Rev && set == nil && Unsettled(after) {
		x.fail("permits: %v gave some back, and %v is not granted them", x.key(m.client), after.Queue[0].Key)
	}
}
