package lock

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// `make explore` sets it: larger worlds, which take many minutes.
var exploreAll = flag.Bool("explore.all", false, "explore the large worlds too")

// Each world is explored completely.
var worlds = []world{
	{name: "mutex", clients: 2, capacity: 1, leases: 2, sends: 2, ttl: 1, retention: 2, horizon: 4},
	{name: "mutex with duplicates and a timer", clients: 2, capacity: 1, leases: 1, sends: 1, duplicates: 1, timers: 1, ttl: 1, retention: 2, horizon: 5},
	{name: "mutex with an operator", clients: 2, capacity: 1, leases: 1, sends: 2, forces: 1, ttl: 1, retention: 2, horizon: 3},
	{name: "mutex with a longer lease", clients: 2, capacity: 1, leases: 1, sends: 2, ttl: 2, retention: 3, horizon: 4},
	{name: "two on two permits", clients: 2, capacity: 2, leases: 1, sends: 2, ttl: 1, retention: 2, horizon: 3},
	{name: "three on two permits", clients: 3, capacity: 2, leases: 1, sends: 1, timers: 1, ttl: 1, retention: 2, horizon: 4},
	{name: "a queue of three", clients: 3, capacity: 1, leases: 1, sends: 2, ttl: 1, wait: 1, retention: 2, horizon: 1},
	{name: "a queue with an operator", clients: 3, capacity: 1, leases: 1, sends: 1, timers: 1, forces: 1, ttl: 1, wait: 2, retention: 2, horizon: 3},
	{name: "a queue for two permits", clients: 3, capacity: 2, leases: 1, sends: 1, timers: 1, ttl: 1, wait: 1, retention: 2, horizon: 4},
	{name: "force-release beside expiry", clients: 2, capacity: 1, leases: 1, sends: 1, timers: 1, forces: 1, duplicates: 1, ttl: 1, wait: 1, retention: 2, horizon: 3},
	{name: "polls", clients: 2, capacity: 1, polls: true, leases: 1, sends: 2, ttl: 4, wait: 3, retention: 8, horizon: 3},
	{name: "claims", clients: 2, capacity: 1, renewals: true, leases: 1, sends: 2, ttl: 2, wait: 2, retention: 3, horizon: 2},
	{name: "claims of grants that are notified", clients: 2, capacity: 1, notified: 0b11, renewals: true, leases: 1, sends: 2, ttl: 2, wait: 2, retention: 3, horizon: 2},
	{name: "small and big permits", clients: 3, capacity: 2, permits: [maxClients]int64{1, 2, 1}, leases: 1, sends: 1, timers: 1, ttl: 1, wait: 2, retention: 2, horizon: 3},
	{name: "two capacities", clients: 3, capacities: [maxClients]int64{2, 1, 3}, leases: 1, sends: 1, timers: 1, ttl: 1, wait: 2, retention: 2, horizon: 3},
	{name: "an execution", clients: 2, capacity: 1, bound: 0b10, departs: 1, renewals: true, leases: 1, sends: 2, ttl: 1, wait: 2, retention: 2, horizon: 2},
	{name: "tasks with tokens", clients: 2, capacity: 1, bound: 0b11, tokens: 0b11, attempts: 2, departs: 1, leases: 1, sends: 1, ttl: 1, wait: 3, retention: 3, horizon: 2},
	{name: "a task, a poller and an operator", clients: 2, capacity: 1, bound: 0b01, tokens: 0b01, attempts: 2, departs: 1, forces: 1, leases: 1, sends: 1, ttl: 1, wait: 2, retention: 2, horizon: 2},
}

var largeWorlds = []world{
	{name: "a queue of two", clients: 2, capacity: 1, leases: 1, sends: 2, timers: 1, ttl: 1, wait: 1, retention: 2, horizon: 3},
	{name: "a queue of two, three requests each", clients: 2, capacity: 1, leases: 1, sends: 3, ttl: 1, wait: 1, retention: 2, horizon: 3},
	{name: "one client, much in flight", clients: 1, capacity: 1, leases: 2, sends: 3, duplicates: 1, timers: 1, ttl: 1, retention: 2, horizon: 4},
	{name: "mutex with an operator, longer", clients: 2, capacity: 1, leases: 1, sends: 2, forces: 1, ttl: 1, retention: 2, horizon: 4},
	{name: "mutex with duplicates", clients: 2, capacity: 1, leases: 1, sends: 2, duplicates: 1, ttl: 1, retention: 2, horizon: 4},
	{name: "mutex with renewals", clients: 2, capacity: 1, leases: 1, sends: 3, ttl: 2, retention: 3, horizon: 4},
	{name: "three on two permits, two requests each", clients: 3, capacity: 2, leases: 1, sends: 2, ttl: 1, retention: 2, horizon: 3},
	{name: "small and big permits, longer", clients: 3, capacity: 3, permits: [maxClients]int64{1, 3, 2}, leases: 1, sends: 2, ttl: 1, wait: 2, retention: 2, horizon: 2},
	{name: "a task, a poller and an operator, longer", clients: 2, capacity: 1, bound: 0b01, tokens: 0b01, attempts: 2, departs: 1, forces: 1, leases: 1, sends: 2, ttl: 1, wait: 2, retention: 2, horizon: 2},
	{name: "executions", clients: 2, capacity: 1, bound: 0b11, departs: 2, leases: 1, sends: 2, timers: 1, duplicates: 1, ttl: 1, wait: 2, retention: 2, horizon: 3},
	{name: "tasks with tokens, more requests", clients: 2, capacity: 1, bound: 0b11, tokens: 0b11, attempts: 3, departs: 1, leases: 1, sends: 2, ttl: 1, wait: 3, retention: 3, horizon: 3},
}

func TestExplore(t *testing.T) {
	todo := slices.Concat(worlds, limitWorlds)
	if *exploreAll {
		todo = append(todo, largeWorlds...)
	}
	states, failed := atomic.Int64{}, atomic.Bool{}
	t.Run("worlds", func(t *testing.T) {
		for _, w := range todo {
			t.Run(w.name, func(t *testing.T) {
				t.Parallel()
				start := time.Now()
				x := explore(w, 0)
				states.Add(int64(x.visited.n))
				t.Logf("%d states, %d transitions, %d records in %v", x.visited.n, x.transitions, len(x.records), time.Since(start).Round(time.Second))
				if x.found != "" {
					failed.Store(true)
					t.Error(x.found)
				}
			})
		}
	})
	if failed.Load() {
		return
	}
	fmt.Printf("explorer: %d states in %d worlds, no violation\n", states.Load(), len(todo))
	if n := states.Load(); n < 1_000_000 {
		t.Errorf("only %d states", n)
	}
}

// A mutant is the protocol without one clause of one guard.
type mutant struct {
	kind Kind
	test Test // 0: the alternative "no record" of take
}

func (m mutant) String() string {
	if m.test == 0 {
		return string(m.kind) + " without Absent"
	}
	return fmt.Sprintf("%s without %v", m.kind, m.test)
}

func (m mutant) apply(c Command) Command {
	if c.Kind == m.kind {
		c.Absent = c.Absent && m.test != 0
		c.Guard = slices.DeleteFunc(slices.Clone(c.Guard), func(clause Clause) bool { return clause.Test == m.test })
	}
	return c
}

// named are the mutants that no world can show, because clients there always name their TTL and have the same one, or because the
// world has no queue. Each has a test of its own.
var named = map[mutant]func(*testing.T, func(Command) Command) error{
	{Take, NobodyWaiting}:    waiterTest(func(u Rules, now time.Time) Command { return u.take(now, "b", Lease{Fence: 1 << 52}, 1) }),
	{Renew, NobodyWaiting}:   waiterTest(func(u Rules, now time.Time) Command { return u.renew(now, "a", 60_000, false, nil, "") }),
	{Release, NobodyWaiting}: waiterTest(func(u Rules, now time.Time) Command { return u.release(now, "a", "") }),
	{Expire, NobodyWaiting}:  waiterTest(func(u Rules, now time.Time) Command { return u.expire(now.Add(time.Hour), "a") }),
	{Renew, LeaseTTLIs}:      sameTTLTest,
	{Extends, PlaceUntil}:    keepTest,
	{Swap, PlaceUntil}:       evictTest, // the world "polls" shows it, too, after 1.8 million states
	{Renew, LeaseClaimed}:    claimTest,
	{Renew, FenceBelow}:      purgeTest(func(u Rules, now time.Time) Command { return u.renew(now, "a", 60_000, false, nil, "") }),
	{Renew, LeaseTTLAllows}:  ttlLimitTest,
	{Renew, LeaseMayLast}:    holdLimitTest, // the worlds with limits show it, too: TestLimitMutants
	{Expire, FenceBelow}:     purgeTest(func(u Rules, now time.Time) Command { return u.expire(now, "a") }),
}

// allMutants lists every clause of every guard, from the commands themselves, so that a new clause is a new mutant.
func allMutants() (list []mutant) {
	u, now := Rules{}.withDefaults(), time.Unix(1000, 0)
	for _, c := range []Command{
		u.take(now, "k", Lease{}, 1), u.renew(now, "k", 1, true, nil, ""), u.release(now, "k", ""), u.expire(now, "k"),
		u.swap(now, Record{Rev: 1, Waiting: 1, Queue: []Waiter{{Ticket: 1, Key: "k"}}}, Record{}, CauseAcquire, "", ""), u.keep(Waiter{Key: "k"}, 1),
	} {
		if c.Absent {
			list = append(list, mutant{c.Kind, 0})
		}
		for _, clause := range c.Guard {
			list = append(list, mutant{c.Kind, clause.Test})
		}
	}
	return list
}

func TestMutants(t *testing.T) {
	mutants := allMutants()
	var killed atomic.Int64
	t.Run("all", func(t *testing.T) {
		for _, m := range mutants {
			t.Run(m.String(), func(t *testing.T) {
				t.Parallel()
				caught := m.hunt(t)
				if caught == "" {
					t.Fatal("survives")
				}
				t.Log("caught by " + caught)
				killed.Add(1)
			})
		}
	})
	fmt.Printf("mutants: %d of %d killed\n", killed.Load(), len(mutants))
}

// hunt returns what catches the mutant, or "".
func (m mutant) hunt(t *testing.T) string {
	if test := named[m]; test != nil {
		if err := test(t, func(c Command) Command { return c }); err != nil {
			t.Errorf("its named test fails without the mutation: %v", err)
		}
		if err := test(t, m.apply); err != nil {
			return "its named test: " + err.Error()
		}
		return ""
	}
	return caught(func(w *world) { w.mutate = m.apply })
}

// caught explores the changed worlds until one shows a violation: first the beginning of each, where most violations are.
func caught(change func(*world)) string { return caughtIn(worlds, change) }

// caughtIn is caught for other worlds.
func caughtIn(worlds []world, change func(*world)) string {
	for _, limit := range []int{30_000, 300_000, 0} {
		for _, w := range worlds {
			change(&w)
			if x := explore(w, limit); x.found != "" {
				line, _, _ := strings.Cut(x.found, "\n")
				return fmt.Sprintf("%s after %d states: %s", w.name, x.visited.n, line)
			}
		}
	}
	return ""
}

// TestModelMutants breaks the rules that clients and coordinators keep outside of guards.
func TestModelMutants(t *testing.T) {
	for name, change := range map[string]func(*world){
		"no skew allowance": func(w *world) { w.skew = -1 },
		"a repeated acquire is answered with the whole TTL":  func(w *world) { w.answerWholeTTL = true },
		"a client counts its lease from the answer":          func(w *world) { w.believeInReply = true },
		"a client believes while it releases":                func(w *world) { w.believeRelease = true },
		"an attempt of a callback is not remembered":         func(w *world) { w.attemptsForget = true },
		"a callback that was attempted is not sent again":    func(w *world) { w.attemptIsTold = true },
		"a callback is marked as answered before it is sent": func(w *world) { w.toldEarly = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			by := caught(change)
			if by == "" {
				t.Fatal("survives")
			}
			t.Log("caught by " + by)
		})
	}
}

// waiterTest makes a test that a command leaves a record with waiters alone: its row must be kept for the waiters, and a write that
// ends a lease must grant the head of the queue.
func waiterTest(command func(Rules, time.Time) Command) func(*testing.T, func(Command) Command) error {
	return func(_ *testing.T, mutate func(Command) Command) error {
		u, now := Rules{}.withDefaults(), time.Unix(1000, 0)
		c := command(u, now)
		r := Record{Rev: 1, Fence: 1, Waiting: 1}
		if c.Kind != Take {
			r.Holders = map[LeaseKey]Lease{"a": {ExpiresAt: now.UnixMilli() + 1000, Fence: 1}}
			r.FreeAt = freeAt(r.Holders)
		}
		if mutate(c).Allows(r) {
			return fmt.Errorf("%s is allowed while one waits", c.Kind)
		}
		r.Waiting = 0
		if !mutate(c).Allows(r) {
			return fmt.Errorf("%s is not allowed while nobody waits", c.Kind)
		}
		return nil
	}
}

// evictTest lets a write remove a waiter whose place was extended after the write had read it.
func evictTest(_ *testing.T, mutate func(Command) Command) error {
	u, now := Rules{}.withDefaults(), time.Unix(1000, 0)
	w := Waiter{Ticket: 1, Key: "w", Terms: Terms{Permits: 1, Capacity: 1, TTL: 1}, Until: now.UnixMilli() - 1}
	r := Record{Rev: 1, Fence: 1, Capacity: 1, Waiting: 1, Head: 1, Queue: []Waiter{w}, Holders: map[LeaseKey]Lease{"h": {Fence: 1, ExpiresAt: now.UnixMilli() + 1000, Terms: Terms{Permits: 1, Capacity: 1}}}}
	evict := mutate(u.swap(now, r, u.settle(now, r), CauseQueue, "", ""))
	if !evict.Allows(r) || len(evict.Next(r).Queue) != 0 {
		return errors.New("an abandoned waiter is not removed")
	}
	if kept := u.keep(w, now.UnixMilli()+5000).Next(r); evict.Allows(kept) {
		return errors.New("a waiter that was kept since is removed")
	}
	return nil
}

// keepTest lets a poll that is delivered late extend a place that a later one has extended further.
func keepTest(_ *testing.T, mutate func(Command) Command) error {
	u, w := Rules{}.withDefaults(), Waiter{Ticket: 1, Key: "w", Until: 100}
	r := Record{Rev: 1, Waiting: 1, Queue: []Waiter{w}}
	early, late := mutate(u.keep(w, 200)), mutate(u.keep(w, 150))
	if !early.Allows(r) {
		return errors.New("a place is not extended")
	}
	r = early.Next(r)
	if r.Rev != 1 || r.Queue[0].Until != 200 {
		return fmt.Errorf("a poll made the record %+v", r)
	}
	if late.Allows(r) {
		return fmt.Errorf("a late poll shortens the place from %d to %d", r.Queue[0].Until, late.Next(r).Queue[0].Until)
	}
	return nil
}

// purgeTest makes a test that a command whose now is older than the record's fence is refused: the native TTL it writes
// would let the row be purged while a take under way could still propose a lower fence. It needs a semaphore, on which another
// lease was granted and released after the command was made.
func purgeTest(command func(Rules, time.Time) Command) func(*testing.T, func(Command) Command) error {
	return func(_ *testing.T, mutate func(Command) Command) error {
		u, now := Rules{}.withDefaults(), time.Unix(1000, 0)
		c := command(u, now)
		r := Record{Rev: 9, Fence: now.Add(5 * time.Second).UnixMicro(), Capacity: 2, Holders: map[LeaseKey]Lease{"a": {Fence: 1}}}
		h := r.Holders["a"]
		if h.ExpiresAt = now.UnixMilli() + 1000; c.Kind == Expire {
			h.ExpiresAt = now.UnixMilli() - 1000
		}
		r.Holders["a"], r.FreeAt = h, h.ExpiresAt
		// A renewal's expiry counts too: only a short one leaves the fence uncovered.
		if c.Kind == Renew {
			c = u.renew(now, "a", 2000, false, nil, "")
		}
		if mutate(c).Allows(r) {
			next := c.Next(r)
			return fmt.Errorf("%s lets the row be purged %v after its fence, not %v", c.Kind, time.Unix(next.TTL, 0).Sub(time.UnixMicro(r.Fence)), u.Retention)
		}
		r.Fence = now.UnixMicro()
		if !mutate(c).Allows(r) {
			return fmt.Errorf("%s is not allowed on a record with an older fence", c.Kind)
		}
		return nil
	}
}

// claimTest: a blind renewal must not extend an unclaimed grant, because it cannot give it the life of its execution.
func claimTest(_ *testing.T, mutate func(Command) Command) error {
	u, now := Rules{}.withDefaults(), time.Unix(1000, 0)
	h := Lease{ExpiresAt: now.UnixMilli() + 1000, Fence: 1, Unclaimed: true}
	r := Record{Rev: 1, Fence: 1, Holders: map[LeaseKey]Lease{"a": h}, FreeAt: h.ExpiresAt}
	c := mutate(u.renew(now, "a", 60_000, false, nil, ""))
	if c.Allows(r) {
		return fmt.Errorf("a blind renewal extends an unclaimed grant")
	}
	h.Unclaimed = false
	r.Holders = map[LeaseKey]Lease{"a": h}
	if !c.Allows(r) {
		return fmt.Errorf("a blind renewal of a claimed grant is refused")
	}
	return nil
}

// ttlLimitTest: a blind renewal must not give a lease a longer TTL than its limit.
func ttlLimitTest(_ *testing.T, mutate func(Command) Command) error {
	return renewalLimitTest(mutate, Lease{Terms: Terms{Bounds: Bounds{MaxTTL: 5000}}}, "a lease is renewed for a longer TTL than its limit")
}

// holdLimitTest: a blind renewal must not extend a lease beyond its end.
func holdLimitTest(_ *testing.T, mutate func(Command) Command) error {
	return renewalLimitTest(mutate, Lease{EndsAt: 1_005_000}, "a lease is extended beyond its end")
}

// renewalLimitTest is of a blind renewal at second 1,000 of a lease that may be renewed for 5 s.
func renewalLimitTest(mutate func(Command) Command, h Lease, wrong string) error {
	u, now := Rules{}.withDefaults(), time.Unix(1000, 0)
	h.ExpiresAt, h.Fence = now.UnixMilli()+1000, 1
	r := Record{Rev: 1, Fence: 1, Holders: map[LeaseKey]Lease{"a": h}, FreeAt: h.ExpiresAt}
	if mutate(u.renew(now, "a", 5001, false, nil, "")).Allows(r) {
		return errors.New(wrong)
	}
	if !mutate(u.renew(now, "a", 5000, false, nil, "")).Allows(r) {
		return fmt.Errorf("a renewal up to the limit is refused")
	}
	return nil
}

// sameTTLTest: a renewal that assumes the default TTL must not change the TTL of a lease that has another.
func sameTTLTest(_ *testing.T, mutate func(Command) Command) error {
	u, now := Rules{}.withDefaults(), time.Unix(1000, 0)
	op := renewing{u, "a", RenewRequest{}}
	r := Record{Rev: 1, Fence: 1, Holders: map[LeaseKey]Lease{"a": {Terms: Terms{TTL: 5000}, ExpiresAt: now.UnixMilli() + 1000, Fence: 1}}}
	r.FreeAt = freeAt(r.Holders)
	if mutate(op.first(now)).Allows(r) {
		return fmt.Errorf("a lease of 5 s is renewed for the default TTL")
	}
	return nil
}

// TestQueueMutants breaks the rules of the queue in the records that swaps write. A world with a queue must catch each.
func TestQueueMutants(t *testing.T) {
	// became changes what a swap writes, where it grants waiters, or else leaves it.
	became := func(change func(from Record, to *Record, granted []Waiter)) func(Command) Command {
		return func(c Command) Command {
			b, ok := c.Effect.(Become)
			if !ok {
				return c
			}
			var granted []Waiter
			for _, w := range b.From.Queue {
				if _, holds := b.To.Holders[w.Key]; holds {
					granted = append(granted, w)
				}
			}
			b.To.Holders = maps.Clone(b.To.Holders)
			b.To.Queue = slices.Clone(b.To.Queue)
			change(b.From, &b.To, granted)
			b.To.FreeAt = freeAt(b.To.Holders)
			c.Effect = b
			return c
		}
	}
	var killed atomic.Int64
	mutants := map[string]func(Command) Command{
		"a hand-off grants nobody": became(func(_ Record, to *Record, granted []Waiter) {
			for _, w := range granted {
				delete(to.Holders, w.Key)
				to.Queue = append(to.Queue, w)
				to.Waiting++
			}
			slices.SortFunc(to.Queue, func(a, b Waiter) int { return cmp.Compare(a.Ticket, b.Ticket) })
		}),
		"the last one is granted first": became(func(_ Record, to *Record, granted []Waiter) {
			if len(granted) == 1 && len(to.Queue) > 0 {
				last := to.Queue[len(to.Queue)-1]
				to.Holders[last.Key] = to.Holders[granted[0].Key]
				delete(to.Holders, granted[0].Key)
				to.Queue = append([]Waiter{granted[0]}, to.Queue[:len(to.Queue)-1]...)
			}
		}),
		"a newcomer takes the head's turn": became(func(from Record, to *Record, _ []Waiter) {
			if len(to.Queue) > 0 && to.waits(to.Queue[len(to.Queue)-1].Key) > 0 && from.waits(to.Queue[len(to.Queue)-1].Key) < 0 {
				last := len(to.Queue) - 1
				to.Queue[0].Ticket, to.Queue[last].Ticket = to.Queue[last].Ticket, to.Queue[0].Ticket
				slices.SortFunc(to.Queue, func(a, b Waiter) int { return cmp.Compare(a.Ticket, b.Ticket) })
			}
		}),
		"a claim leaves the grant's notification": became(func(from Record, to *Record, _ []Waiter) {
			for k, h := range to.Holders {
				if was := from.Holders[k]; was.Fence == h.Fence && was.Unclaimed && !h.Unclaimed {
					h.Tokens = was.Tokens
					to.Holders[k] = h
				}
			}
		}),
		"waiters are forgotten": became(func(from Record, to *Record, _ []Waiter) {
			if len(from.Queue) > 0 {
				to.Waiting -= int64(len(to.Queue))
				to.Queue = nil
			}
		}),
		"a grant stays in the queue": became(func(_ Record, to *Record, granted []Waiter) {
			to.Queue = append(slices.Clone(granted), to.Queue...)
			to.Waiting += int64(len(granted))
		}),
		"the count is off": became(func(_ Record, to *Record, _ []Waiter) { to.Waiting += int64(len(to.Queue)) }),
		"a row with waiters may be purged": func(c Command) Command {
			if b, ok := c.Effect.(Become); ok && b.To.Waiting > 0 {
				c.Stamp.TTL = 1
			}
			return c
		},
		"releases do not hand on":        mutant{Release, NobodyWaiting}.apply,
		"timers do not hand on":          mutant{Expire, NobodyWaiting}.apply,
		"swaps do not look at the queue": func(c Command) Command { return mutant{Swap, FenceIs}.apply(mutant{Swap, RevIs}.apply(c)) },
	}
	t.Run("all", func(t *testing.T) {
		for name, mutate := range mutants {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				if by := caught(func(w *world) { w.mutate = mutate }); by != "" {
					t.Log("caught by " + by)
					killed.Add(1)
					return
				}
				t.Error("survives")
			})
		}
	})
	fmt.Printf("mutants: %d of %d of the queue killed\n", killed.Load(), len(mutants))
}
