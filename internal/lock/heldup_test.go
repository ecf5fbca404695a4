package lock

import (
	"errors"
	"testing"
	"time"
)

// heldUp settles a lock, and returns how long from now its head may hold up others; 0: it holds up nobody.
func (k *kit) heldUp(name string) time.Duration {
	k.t.Helper()
	held, err := k.SettleUntil(k.t.Context(), name)
	if err != nil {
		k.t.Fatal(err)
	}
	if held.Until.IsZero() {
		return 0
	}
	if r := k.at(name); held.Head != r.Head || held.Head == 0 {
		k.t.Errorf("%s: head %d, the record has %d", name, held.Head, r.Head)
	}
	return held.Until.Sub(k.time)
}

// A set that waits for another lock holds up those behind it in the queue of a free lock, until its place ends. Settling says when that is, and then
// grants the next.
func TestRuleNobodyIsForgottenBehindADeadSet(t *testing.T) {
	k := newKit(t)
	if _, err := k.acquire("holder", lasting(time.Hour), func(r *AcquireRequest) { r.Lock = "b" }); err != nil {
		t.Fatal(err)
	}
	tickets := k.waitSet("s", ab).Tickets
	if got := k.heldUp("a"); got != time.Minute {
		t.Errorf("held up for %v, want the time of the set's places", got)
	}
	if got := k.heldUp("b"); got != 0 {
		t.Errorf("a lock that is held is held up for %v", got)
	}
	if _, err := k.acquire("task", withToken("t")); !errors.Is(err, ErrLockHeld) {
		t.Fatal(err)
	}
	k.pass(45 * time.Second)
	_ = k.waitSet("s", ab, func(r *SetRequest) { r.Tickets = tickets }) // it lives, and extends its places
	if got := k.heldUp("a"); got != time.Minute {
		t.Errorf("held up for %v after a poll", got)
	}
	k.pass(time.Minute)
	if got := k.heldUp("a"); got != 0 || k.holder("task").Fence == 0 {
		t.Errorf("held up for %v, and a is %+v", got, k.record())
	}
}

// The same for a single waiter that wants more permits than are free.
func TestRuleNobodyIsForgottenBehindADeadHeavyWaiter(t *testing.T) {
	k := newKit(t)
	k.must("holder", of(2, 1), lasting(time.Hour))
	if held := k.waits("heavy", of(2, 2), placeFor(time.Minute)); held != 1 {
		t.Fatal(held)
	}
	if _, err := k.acquire("task", of(2, 1), withToken("t")); !errors.Is(err, ErrLockHeld) {
		t.Fatal(err)
	}
	if got := k.heldUp(lockName); got != time.Minute {
		t.Errorf("held up for %v", got)
	}
	k.pass(time.Minute)
	if got := k.heldUp(lockName); got != 0 || k.holder("task").Fence == 0 {
		t.Errorf("held up for %v, and the lock is %+v", got, k.record())
	}
}

// A frozen lock is not settled again before the freeze ends: that settles it.
func TestFrozenLockIsNotHeldUp(t *testing.T) {
	k := newKit(t)
	k.freeze("a", time.Hour)
	_ = k.waitSet("s", ab)
	k.must("b-holder", func(r *AcquireRequest) { r.Lock = "c" })
	if got := k.heldUp("a"); got != 0 {
		t.Errorf("held up for %v", got)
	}
}

// After each write that leaves a new head of a queue, or frees permits, while the head cannot be granted, the stream's consumer learns of it: of
// the join of the head, of its end, and of a release.
func TestWritesAfterWhichALockIsHeldUp(t *testing.T) {
	k := newKit(t)
	inner, turns := k.store.Changed, map[string][]Cause{}
	k.store.Changed = func(name string, before, after Record) {
		inner(name, before, after)
		w := Write{Lock: name, Before: withoutQueue(before), After: withoutQueue(after)}
		if e := w.Effects(false); e.Turn && w.OfQueue() {
			turns[name] = append(turns[name], after.Cause)
		}
	}
	check := func(step string, want ...Cause) {
		t.Helper()
		if got := turns["a"]; len(got) != len(want) || len(got) > 0 && got[0] != want[0] {
			t.Errorf("%s: %v, want %v", step, got, want)
		}
		clear(turns)
	}
	if _, err := k.acquire("holder", lasting(time.Hour), func(r *AcquireRequest) { r.Lock = "b" }); err != nil {
		t.Fatal(err)
	}
	k.must("single")
	check("an acquire")
	_ = k.waitSet("1", ab)
	check("a set joins the queue of a lock that is held")
	k.mustRelease("a", "single")
	check("permits come free", CauseRelease)
	_ = k.waitSet("2", ab, func(r *SetRequest) { r.Wait = time.Hour })
	_ = k.waitSet("3", ab, func(r *SetRequest) { r.Wait = time.Hour })
	check("others join")
	k.want(k.releaseSet("1", ab...), nil)
	check("the head leaves", CauseRelease)
	k.want(k.releaseSet("3", ab...), nil)
	check("another leaves")
	_ = k.waitSet("4", ab, func(r *SetRequest) { r.Wait = 2 * time.Hour })
	k.pass(time.Hour)
	k.want(k.Settle(t.Context(), "a"), nil)
	check("the head's place ends", CauseTurn)
	_ = k.waitSet("5", []string{"a", "c"})
	check("another set joins")
	k.want(k.releaseSet("4", ab...), nil)
	check("the head leaves, and the next is granted", CauseRelease)
}
