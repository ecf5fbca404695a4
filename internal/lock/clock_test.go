package lock

import (
	"errors"
	"testing"
	"time"
)

func TestRule5WrongClock(t *testing.T) {
	for _, c := range []struct {
		offset time.Duration
		wrong  bool
	}{{MaxClockError, false}, {MaxClockError + ms, true}, {-MaxClockError, false}, {-MaxClockError - ms, true}} {
		k := newKit(t)
		k.store.offset = c.offset
		_, err := k.acquire("a")
		if errors.Is(err, ErrUnavailable) != c.wrong || !c.wrong && err != nil {
			t.Errorf("offset %v: %v", c.offset, err)
		}
		if c.wrong != (len(k.record().Holders) == 0) {
			t.Errorf("offset %v: the grant was not undone: %+v", c.offset, k.record())
		}
		if !c.wrong {
			continue
		}
		// It looks before it writes, until the clocks agree; and neither releases nor status are refused.
		writes := len(k.store.applied)
		if _, err = k.acquire("b"); !errors.Is(err, ErrUnavailable) || len(k.store.applied) != writes {
			t.Errorf("offset %v: %v after %d writes", c.offset, err, len(k.store.applied)-writes)
		}
		if _, err = k.renew("b", ttl); !errors.Is(err, ErrUnavailable) || len(k.store.applied) != writes {
			t.Errorf("offset %v: %v after %d writes", c.offset, err, len(k.store.applied)-writes)
		}
		k.store.offset = 0
		k.must("b")
		k.store.offset = c.offset
		if _, err = k.renew("b", 2*ttl); !errors.Is(err, ErrUnavailable) {
			t.Errorf("offset %v: renewal %v", c.offset, err)
		}
	}
	// A decision is not made on a reply that proves a wrong clock.
	k := newKit(t)
	l := k.must("a", lasting(time.Hour))
	k.pass(2 * time.Hour)
	k.store.offset = 2 * time.Hour
	rev := k.record().Rev
	if _, err := k.fire("a", l.Lease.Fence); !errors.Is(err, ErrUnavailable) || k.record().Rev != rev {
		t.Errorf("a timer under a wrong clock: %v", err)
	}
	// A refusal of the store's that is due to the clock is remembered.
	k = newKit(t)
	k.store.before = func(Command) error { return &ClockError{Offset: time.Hour} }
	_, err := k.acquire("a")
	k.want(err, ErrUnavailable)
	k.store.before, k.store.offset = nil, time.Hour
	writes := len(k.store.applied)
	if _, err = k.acquire("a"); !errors.Is(err, ErrUnavailable) || len(k.store.applied) != writes {
		t.Errorf("%v", err)
	}
}

func TestRule5Undo(t *testing.T) {
	const year = 365 * 24 * time.Hour
	k := newKit(t)
	k.must("before", of(2, 1))
	k.want(k.release("before"), nil)
	fence := k.record().Fence
	k.pass(time.Second)
	truth := k.time
	k.pass(year)
	k.store.offset = year
	_, err := k.acquire("a", of(2, 1))
	k.want(err, ErrUnavailable)
	r := k.record()
	if len(r.Holders) != 0 || r.Fence != fence || r.FreeAt != 0 || r.Capacity != 2 {
		t.Errorf("after the undo: %+v", r)
	}
	if r.Retired.Key != KeyOf(lockName, "a") || r.Retired.At != truth.UnixMilli() || r.Retired.Cause != CauseUndo || r.TTL > truth.Add(DefaultRetention).Unix()+1 {
		t.Errorf("after the undo: %+v", r)
	}
	k.time, k.store.offset = truth, 0
	if l := k.must("b", of(2, 1)); l.Lease.Fence != truth.UnixMicro() {
		t.Errorf("the next token is %d", l.Lease.Fence)
	}
	_, err = k.acquire("a", of(2, 1))
	k.want(err, ErrLeaseLost) // its secret is spent

	// Those that were displaced, and live by the store's clock, are back; those that are over are not.
	u, now := Rules{}.withDefaults(), truth
	before := Record{Rev: 7, Fence: 5, Capacity: 2, Holders: map[LeaseKey]Lease{
		"live": {Fence: 4, ExpiresAt: now.UnixMilli() - skew.Milliseconds() + 1}, "over": {Fence: 5, ExpiresAt: now.UnixMilli() - skew.Milliseconds()},
	}}
	after := Record{Rev: 8, Fence: 9, Capacity: 1, Holders: map[LeaseKey]Lease{"a": {Fence: 9}}}
	c := u.undo(now, "a", before, after)
	next := c.Next(after)
	if _, back := next.Holders["live"]; !c.Allows(after) || len(next.Holders) != 1 || !back || next.Fence != 5 || next.Retired.Fence != 9 {
		t.Errorf("undone: %+v", next)
	}
	for _, other := range []Record{{Rev: 9, Fence: 9}, {Rev: 8, Fence: 10}} { // somebody wrote since
		if c.Allows(other) {
			t.Errorf("allowed on %+v", other)
		}
	}
	// What was claimed, not granted, is as before, and its secret is not spent.
	before.Holders["a"] = Lease{Fence: 5, Unclaimed: true, ExpiresAt: now.UnixMilli() + 1}
	if next = u.undo(now, "a", before, after).Next(after); !next.Holders["a"].Unclaimed || next.Retired.Key == "a" {
		t.Errorf("undone: %+v", next)
	}
	// A lock that was never seen.
	if next = u.undo(now, "a", Record{}, after).Next(after); next.Fence != 0 || next.Capacity != 1 || len(next.Holders) != 0 {
		t.Errorf("undone: %+v", next)
	}
}

// No coordinator returns a lease that one with a wrong clock granted: that one may undo it, and its fencing token, at any time.
func TestRule5DoubtfulLeasesAreNotTold(t *testing.T) {
	for _, c := range []struct {
		ahead time.Duration
		want  error
	}{
		{skew, nil}, {skew + ms, ErrUnavailable}, {time.Minute, ErrUnavailable},
		{MaxFenceLead, ErrUnavailable}, {MaxFenceLead + ms, ErrMisconfigured}, {365 * 24 * time.Hour, ErrMisconfigured},
	} {
		k := newKit(t)
		truth := k.time
		k.pass(c.ahead)
		k.must("a") // and the reply was lost
		k.time = truth
		_, err := k.acquire("a")
		k.want(err, c.want)
		_, err = k.renew("a", ttl)
		k.want(err, c.want)
		if c.want != nil && k.record().Rev != 1 {
			t.Errorf("%v ahead: it was written: %+v", c.ahead, k.record())
		}
		k.want(k.release("a"), nil)
	}
	// A permit with such a token beside it is renewed as ever.
	k := newKit(t)
	k.must("a", of(2, 1))
	k.must("b", of(2, 1))
	r := k.record()
	b := r.Holders[KeyOf(lockName, "b")]
	b.Fence = k.time.Add(24 * time.Hour).UnixMicro()
	k.store.records[lockName] = Record{Rev: r.Rev, Fence: b.Fence, Capacity: 2, FreeAt: r.FreeAt, Holders: map[LeaseKey]Lease{KeyOf(lockName, "a"): r.Holders[KeyOf(lockName, "a")], KeyOf(lockName, "b"): b}}
	k.pass(time.Second)
	if _, err := k.renew("a", ttl); err != nil {
		t.Error(err)
	}
	_, err := k.renew("b", ttl)
	k.want(err, ErrMisconfigured)
}

// Undoing a write that granted nothing retires no lease.
func TestRule5UndoOfAWriteThatGrantedNothing(t *testing.T) {
	u, now := Rules{}.withDefaults(), time.Unix(1_800_000_000, 0)
	held := map[LeaseKey]Lease{"x": {Fence: 5, ExpiresAt: now.Add(time.Hour).UnixMilli()}}
	last := Retired{Key: "last", Fence: 4, At: 1, Cause: CauseRelease}
	before, after := Record{Rev: 7, Fence: 5, Capacity: 1, Holders: held, Retired: last}, Record{Rev: 8, Fence: 5, Capacity: 1, Holders: held, Retired: last}
	if next := u.undo(now, "a", before, after).Next(after); next.Retired != last {
		t.Errorf("undone: %+v", next)
	}
}

// A grant beside waiters is not undone, because the undo has not read them.
func TestRule5UndoLeavesQueuesAlone(t *testing.T) {
	k := newKit(t)
	k.must("a", lasting(time.Second))
	k.waits("b")
	k.pass(time.Second + skew)
	writes := 0
	k.store.before = func(c Command) error {
		if c.Kind == Swap {
			writes, k.store.offset = writes+1, time.Hour
		}
		return nil
	}
	_, err := k.acquire("b", placeFor(time.Hour))
	k.want(err, ErrUnavailable)
	if writes != 1 || k.holder("b").Fence == 0 {
		t.Errorf("%d writes, record %+v", writes, k.record())
	}
}

func TestRule6FenceLead(t *testing.T) {
	for _, c := range []struct {
		lead    time.Duration
		refused bool
	}{{MaxFenceLead - time.Microsecond, false}, {MaxFenceLead, true}} { // the next one is a microsecond further
		k := newKit(t)
		k.must("a")
		k.want(k.release("a"), nil)
		r := k.record()
		r.Fence = k.time.Add(c.lead).UnixMicro()
		k.store.records[lockName] = r
		_, err := k.acquire("b")
		if errors.Is(err, ErrMisconfigured) != c.refused || !c.refused && err != nil {
			t.Errorf("lead %v: %v", c.lead, err)
		}
		if len(k.record().Holders) == 0 != c.refused {
			t.Errorf("lead %v: %+v", c.lead, k.record())
		}
		// A request that would wait gets the same error, and no place in the queue.
		_, err = k.acquire("w", placeFor(time.Hour))
		if errors.Is(err, ErrMisconfigured) != c.refused || errors.Is(err, ErrLockHeld) == c.refused {
			t.Errorf("lead %v: a waiter is told %v", c.lead, err)
		}
	}
	// A waiter at the head of the queue gets the error at its next poll, and no grant.
	k := newKit(t)
	k.must("a")
	k.waits("b")
	r := k.record()
	r.Fence = k.time.Add(2 * MaxFenceLead).UnixMicro()
	k.store.records[lockName] = r
	if p := k.waits("b"); p != 1 { // held: it waits for the holder first
		t.Errorf("place %d", p)
	}
	k.want(k.release("a"), nil)
	k.holds(nil, []string{"b"})
	_, err := k.acquire("b", placeFor(time.Hour))
	k.want(err, ErrMisconfigured)
}
