package lock

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

const place = 10 * time.Second

func polling(ticket int64) func(*AcquireRequest) {
	return func(r *AcquireRequest) { r.Wait, r.Ticket = place, ticket }
}

// poll sends an acquire with a ticket, and returns the refusal; nil: it was granted.
func (k *kit) poll(secret string, ticket int64, change ...func(*AcquireRequest)) *HeldError {
	k.t.Helper()
	_, err := k.acquire(secret, append([]func(*AcquireRequest){polling(ticket)}, change...)...)
	held, ok := errors.AsType[*HeldError](err)
	if err != nil && !ok {
		k.t.Fatalf("poll of %s: %v", secret, err)
	}
	return held
}

// costs runs a step, and checks how many requests of each kind the store got.
func (k *kit) costs(what string, polls, writes, others int, step func()) {
	k.t.Helper()
	k.store.reset()
	step()
	if s := k.store; s.polls != polls || len(s.applied) != writes || s.requests() != polls+writes+others {
		k.t.Errorf("%s: %d polls, %d writes, %d requests in all; want %d, %d, %d", what, s.polls, len(s.applied), s.requests(), polls, writes, polls+writes+others)
	}
}

// A poll is one read. Once in half of the place's time it also writes the waiter, and never the record.
func TestPoll(t *testing.T) {
	k := newKit(t)
	k.must("h", lasting(time.Hour))
	b := k.poll("b", 0)
	c := k.poll("c", 0)
	if b.Ticket == 0 || c.Ticket <= b.Ticket || c.Position != 2 {
		t.Fatalf("%+v, %+v", b, c)
	}
	rev := k.record().Rev
	for range 3 {
		k.costs("a poll", 1, 0, 0, func() {
			if again := k.poll("c", c.Ticket); again == nil || again.Position != 2 || again.Waiting != 2 || again.Ticket != c.Ticket || len(again.Holders) != 1 {
				t.Errorf("%+v", again)
			}
		})
	}
	k.pass(place/2 - time.Millisecond)
	k.costs("before half time", 1, 0, 0, func() { _ = k.poll("c", c.Ticket) })
	k.pass(2 * time.Millisecond)
	k.costs("after half time", 1, 1, 0, func() { _ = k.poll("c", c.Ticket) })
	if w := k.record().Queue[1]; w.Until != k.time.Add(place).UnixMilli() {
		t.Errorf("the place is kept until %d", w.Until)
	}
	if k.record().Rev != rev {
		t.Error("a poll changed the record")
	}
	k.pass(place / 2) // b did not poll
	k.must("h", lasting(time.Hour))
	if _, err := k.Release(t.Context(), ReleaseRequest{Lock: lockName, Secret: "h"}); err != nil {
		t.Fatal(err)
	}
	k.costs("a claim", 1, 1, 0, func() {
		if held := k.poll("c", c.Ticket); held != nil {
			t.Errorf("%+v", held)
		}
	})
	if l := k.record().Holders[KeyOf(lockName, "c")]; l.Unclaimed || l.ExpiresAt != k.time.Add(ttl).UnixMilli() {
		t.Errorf("lease %+v", l)
	}
}

// A ticket is a hint: with any other one the answer is as without.
func TestWrongTickets(t *testing.T) {
	k := newKit(t)
	k.must("h", lasting(time.Hour))
	b, c := k.poll("b", 0), k.poll("c", 0)
	left := k.poll("left", 0)
	if _, err := k.Release(t.Context(), ReleaseRequest{Lock: lockName, Secret: "left"}); err != nil {
		t.Fatal(err)
	}
	for name, ticket := range map[string]int64{"another's": b.Ticket, "one that left": left.Ticket, "of nobody": 1 << 50} {
		if held := k.poll("c", ticket); held == nil || held.Position != 2 || held.Ticket != c.Ticket {
			t.Errorf("%s: %+v", name, held)
		}
	}
	if held := k.poll("new", b.Ticket); held == nil || held.Position != 3 || held.Ticket == b.Ticket {
		t.Errorf("a newcomer with another's ticket: %+v", held)
	}
	if _, err := k.acquire("left", polling(left.Ticket)); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("a waiter that left: %v", err)
	}
	if _, err := k.acquire("elsewhere", polling(b.Ticket), func(r *AcquireRequest) { r.Lock = "other" }); err != nil {
		t.Errorf("a ticket of another lock: %v", err)
	}
	if k.record().Waiting != 3 {
		t.Errorf("%d wait", k.record().Waiting)
	}
}

// A poll takes over what nobody else would: an expired lease, an overdue check of an execution, permits that a write left free.
func TestPollTakesOver(t *testing.T) {
	t.Run("an expired lease", func(t *testing.T) {
		k := newKit(t)
		k.must("h")
		b := k.poll("b", 0, placeFor(time.Hour))
		k.pass(ttl + skew - ms)
		if held := k.poll("b", b.Ticket, placeFor(time.Hour)); held == nil {
			t.Error("granted within the skew allowance")
		}
		k.pass(ms)
		if held := k.poll("b", b.Ticket, placeFor(time.Hour)); held != nil {
			t.Errorf("%+v", held)
		}
	})
	t.Run("an overdue check", func(t *testing.T) {
		k := newKit(t)
		k.must("h", boundTo("x"))
		b := k.poll("b", 0, placeFor(time.Hour))
		k.pass(ttl + RecheckAfter)
		_ = k.poll("b", b.Ticket, placeFor(time.Hour))
		if cause := k.record().Cause; cause != CauseRecheck {
			t.Errorf("cause %s", cause)
		}
	})
	t.Run("a free lock", func(t *testing.T) {
		k := newKit(t)
		k.must("h")
		b, second := k.poll("b", 0), k.poll("second", 0)
		r := k.record()
		c := k.rules.swap(k.time, r, r.withoutHolder(KeyOf(lockName, "h")), CauseRelease, "", "") // by a coordinator that died before it settled
		if _, err := k.store.Apply(t.Context(), lockName, c); err != nil {
			t.Fatal(err)
		}
		_ = k.poll("second", second.Ticket)
		if r := k.record(); len(r.Holders) != 1 || r.Waiting != 1 {
			t.Errorf("%+v", r)
		}
		if held := k.poll("b", b.Ticket); held != nil {
			t.Errorf("%+v", held)
		}
	})
	t.Run("permits that a write left free", func(t *testing.T) {
		k := newKit(t)
		k.must("h", of(2, 1))
		k.must("g", of(2, 1))
		b, second := k.poll("b", 0, of(2, 1)), k.poll("second", 0, of(2, 1))
		r := k.record()
		c := k.rules.swap(k.time, r, r.withoutHolder(KeyOf(lockName, "h")), CauseRelease, "", "")
		if _, err := k.store.Apply(t.Context(), lockName, c); err != nil {
			t.Fatal(err)
		}
		k.costs("a poll behind the head", 1, 0, 0, func() { _ = k.poll("second", second.Ticket, of(2, 1)) })
		if held := k.poll("b", b.Ticket, of(2, 1)); held != nil {
			t.Errorf("%+v", held)
		}
	})
	t.Run("free permits behind an abandoned place", func(t *testing.T) {
		k := newKit(t)
		k.must("h", of(3, 2), lasting(time.Hour))
		_ = k.poll("big", 0, of(3, 3))
		k.pass(place / 2)
		small := k.poll("small", 0, of(3, 1))
		k.costs("before half time", 1, 0, 0, func() { _ = k.poll("small", small.Ticket, of(3, 1)) })
		k.pass(place/2 + ms)
		if held := k.poll("small", small.Ticket, of(3, 1)); held != nil {
			t.Errorf("%+v", held)
		}
	})
	t.Run("a purged row", func(t *testing.T) {
		k := newKit(t)
		k.must("h")
		b := k.poll("b", 0)
		k.pass(48 * time.Hour)
		k.store.Purge(k.time)
		if held := k.poll("b", b.Ticket); held != nil {
			t.Errorf("%+v", held)
		}
	})
}

// A place is not extended by a poll to less than half a retention before the row may be purged: then the record is written, too.
func TestPollKeepsTheRow(t *testing.T) {
	k := newKit(t)
	k.must("h", lasting(30*time.Hour))
	b := k.poll("b", 0)
	k.costs("early", 1, 1, 0, func() { k.pass(place - ms); _ = k.poll("b", b.Ticket) })
	long := placeFor(100 * time.Hour)
	k.costs("a long place", 1, 1, 1, func() { _ = k.poll("b", b.Ticket, long) })
	if r := k.record(); r.TTL*1000 < r.Queue[0].Until+DefaultRetention.Milliseconds() {
		t.Errorf("the row is kept until %d, the place until %d", r.TTL, r.Queue[0].Until)
	}
}

// What happens between a poll's read and its write, or to the write: a hand-off, an eviction, its own first try.
func TestPollRaces(t *testing.T) {
	start := func(t *testing.T) (*kit, *HeldError) {
		k := newKit(t)
		k.must("h", lasting(time.Hour))
		b := k.poll("b", 0)
		k.pass(place/2 + ms)
		return k, b
	}
	once := func(k *kit, do func()) {
		k.store.polled = func() {
			k.store.polled = nil
			do()
		}
	}
	t.Run("a hand-off", func(t *testing.T) {
		k, b := start(t)
		once(k, func() { _, _ = k.Release(t.Context(), ReleaseRequest{Lock: lockName, Secret: "h"}) })
		if held := k.poll("b", b.Ticket); held != nil {
			t.Errorf("%+v", held)
		}
	})
	t.Run("an eviction", func(t *testing.T) {
		k, b := start(t)
		once(k, func() {
			k.pass(place)
			_ = k.Settle(t.Context(), lockName)
		})
		if held := k.poll("b", b.Ticket); held == nil || held.Position != 1 || held.Ticket == b.Ticket {
			t.Errorf("%+v", held)
		}
	})
	t.Run("a lost reply", func(t *testing.T) {
		k, b := start(t)
		k.store.after = func(Command) error { k.store.after = nil; return ErrUnavailable }
		if _, err := k.acquire("b", polling(b.Ticket)); !errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
		k.costs("the retry", 1, 0, 0, func() { _ = k.poll("b", b.Ticket) })
	})
	t.Run("a hand-off that read the waiter before it was kept", func(t *testing.T) {
		k, b := start(t)
		r := k.record()
		late := k.rules.settle(k.time.Add(place), r) // a coordinator whose clock is ahead found the place abandoned
		evict := k.rules.swap(k.time, r, late, CauseQueue, "", "")
		_ = k.poll("b", b.Ticket)
		failed := new(GuardError)
		if _, err := k.store.Apply(t.Context(), lockName, evict); !errors.As(err, &failed) || !failed.Places {
			t.Errorf("evicted a waiter that was kept since: %v", err)
		}
	})
	t.Run("a poll of a coordinator whose clock is wrong", func(t *testing.T) {
		k, b := start(t)
		k.store.offset = 3 * time.Second
		if _, err := k.acquire("b", polling(b.Ticket)); !errors.Is(err, ErrUnavailable) || len(k.store.applied) > 5 {
			t.Error(err)
		}
	})
}

// A request behind the head of a long queue finds its place without reading the queue, and a position is never too low.
func TestPlaceBehindTheHead(t *testing.T) {
	k := newKit(t)
	k.must("h", lasting(time.Hour))
	const n = 4 * QueueHead
	tickets := map[int]int64{}
	for i := range n {
		k.costs("a join", 0, 2, min(i, 1)+oneIf(i >= QueueHead), func() {
			held := k.poll(fmt.Sprint(i), 0, placeFor(time.Hour))
			if held.Position != int64(i+1) {
				t.Errorf("%d joins at %d", i, held.Position)
			}
			tickets[i] = held.Ticket
		})
	}
	for i := range n {
		if held := k.poll(fmt.Sprint(i), 0, placeFor(time.Hour)); held.Position != int64(i+1) || held.Ticket != tickets[i] {
			t.Errorf("%d repeats: %+v", i, held)
		}
	}
	for i := 1; i < 5; i++ { // they leave between the head and the others
		if _, err := k.Release(t.Context(), ReleaseRequest{Lock: lockName, Secret: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.Release(t.Context(), ReleaseRequest{Lock: lockName, Secret: fmt.Sprint(n - 1)}); err != nil {
		t.Fatal(err)
	}
	if held := k.poll(fmt.Sprint(n-2), tickets[n-2], placeFor(time.Hour)); held.Position < n-5 || held.Position > held.Waiting || held.Waiting != n-5 {
		t.Errorf("%+v", held)
	}
	for i := range n - 1 { // all get their turn, in order
		if i >= 1 && i < 5 {
			continue
		}
		if _, err := k.Release(t.Context(), ReleaseRequest{Lock: lockName, Secret: previous(i)}); err != nil {
			t.Fatal(i, err)
		}
		if held := k.poll(fmt.Sprint(i), tickets[i], placeFor(time.Hour)); held != nil {
			t.Fatalf("%d: %+v", i, held)
		}
		if r := k.record(); r.Head != r.headFrom(r) || len(r.Queue) > 0 && r.Head != r.Queue[0].Ticket {
			t.Errorf("head %d of %+v", r.Head, r.Queue)
		}
	}
}

// previous is who held the lock before the waiter i.
func previous(i int) string {
	switch i {
	case 0:
		return "h"
	case 5:
		return "0"
	}
	return fmt.Sprint(i - 1)
}

func oneIf(b bool) int {
	if b {
		return 1
	}
	return 0
}

// A caller that loses the race to join a long queue reads no waiter again, unless one has left. It finds its place if it joined itself.
func TestJoiningInACrowd(t *testing.T) {
	for name, test := range map[string]struct {
		between      func(i int, other *Coordinator) error // before the i-th try
		read, looked int
		joined       int64 // waiters beside the first
	}{
		"others join": {func(i int, other *Coordinator) error {
			_, err := other.Acquire(t.Context(), AcquireRequest{Lock: lockName, Secret: fmt.Sprint("other ", i), TTL: ttl, Capacity: 1, Permits: 1, Wait: place})
			return err
		}, 1, 1, 4},
		"others leave": {func(i int, other *Coordinator) error {
			_, err := other.Release(t.Context(), ReleaseRequest{Lock: lockName, Secret: fmt.Sprint(i)})
			return err
		}, 4, 4, -2},
		"the request was delivered twice": {func(_ int, other *Coordinator) error {
			_, err := other.Acquire(t.Context(), AcquireRequest{Lock: lockName, Secret: "late", TTL: ttl, Capacity: 1, Permits: 1, Wait: place})
			return err
		}, 2, 2, 1},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKit(t)
			k.must("h", lasting(time.Hour))
			const n = 2 * QueueHead
			for i := range n {
				_ = k.poll(fmt.Sprint(i), 0)
			}
			other, err := New(Config{Store: &k.store.Memory, Clock: func() time.Time { return k.time }})
			if err != nil {
				t.Fatal(err)
			}
			i := 0
			k.store.before = func(c Command) error {
				if c.Kind == Swap && i < 3 {
					if _, held := errors.AsType[*HeldError](test.between(i, other)); !held && name != "others leave" {
						t.Error("granted")
					}
					i++
				}
				return nil
			}
			k.store.reset()
			held := k.poll("late", 0)
			if held == nil || held.Waiting != n+test.joined || held.Ticket == 0 {
				t.Errorf("%+v", held)
			}
			if s := k.store; len(s.limits) != test.read || s.places != test.looked || s.reads != 0 {
				t.Errorf("read the queue %d times, places %d times, the record %d times", len(s.limits), s.places, s.reads)
			}
		})
	}
}

func TestOnlyJoined(t *testing.T) {
	from := Record{Rev: 5, Fence: 10, Waiting: 20, NextTicket: 30}
	for _, test := range []struct {
		r    Record
		want bool
	}{
		{Record{Rev: 6, Fence: 10, Waiting: 21, NextTicket: 31}, true},
		{Record{Rev: 8, Fence: 11, Waiting: 23, NextTicket: 33}, true},
		{Record{Rev: 6, Fence: 10, Waiting: 20, NextTicket: 30}, false}, // a renewal, or a change of a waiter
		{Record{Rev: 7, Fence: 10, Waiting: 21, NextTicket: 31}, false}, // beside one that joined
		{Record{Rev: 7, Fence: 10, Waiting: 20, NextTicket: 31}, false},
		{Record{Rev: 6, Fence: 10, Waiting: 19, NextTicket: 30}, false},
		{Record{Rev: 5, Fence: 10, Waiting: 20, NextTicket: 30}, false}, // the record is the same: something beside it has changed
		{Record{Rev: 7, Fence: 9, Waiting: 22, NextTicket: 32}, false},  // another row
		{Record{Rev: 9, Fence: 11, Waiting: 1, NextTicket: 11}, false},
	} {
		if got := test.r.onlyJoined(from); got != test.want {
			t.Errorf("%+v: %v", test.r, got)
		}
	}
}

// A caller without a token that polls with the ticket of a task learns of the place: the task's lease may then not end with the task.
func TestPollOfATasksPlace(t *testing.T) {
	k := newKit(t)
	k.must("h", lasting(time.Hour))
	k.waits("b", withToken("t"))
	_ = k.poll("b", k.record().Queue[0].Ticket)
	if !k.record().Queue[0].Known {
		t.Error("the place is not marked as known to others")
	}
}
