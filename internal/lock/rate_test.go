package lock

import (
	"errors"
	"slices"
	"testing"
	"time"
)

func rateOf(grants int64, period time.Duration) Limits {
	return Limits{Rate: Rate{grants, period.Milliseconds()}}
}

// tooOften checks that a rate refuses a request, or keeps a waiter, for a time.
func (k *kit) tooOften(err error, grants int64, prefix string, after time.Duration) {
	k.t.Helper()
	held, _ := errors.AsType[*HeldError](err)
	e, _ := errors.AsType[*LimitError](err)
	if held != nil {
		if e = held.Rate; held.RetryAfter != after {
			k.t.Errorf("a waiter is told %v, want %v", held.RetryAfter, after)
		}
	}
	if e == nil || e.Limit != (Limit{LimitRate, grants, prefix}) || e.RetryAfter != after || !e.Passes {
		k.t.Fatalf("error %v, want the rate %d of %q for %v", err, grants, prefix, after)
	}
}

// In any period a lock is granted as often as its rate says, and no more. Repetitions, renewals and refusals do not count. An acquire takes one request more than without a rate.
func TestRuleRate(t *testing.T) {
	k := newKit(t)
	k.limit("a", rateOf(2, time.Minute))
	once := func(secret string) {
		t.Helper()
		k.store.reset()
		k.must(secret)
		if k.store.requests() != 2 {
			t.Errorf("%d requests", k.store.requests())
		}
		k.must(secret)
		k.want(second(k.renew(secret, 0)), nil)
		k.want(k.release(secret), nil)
	}
	once("1")
	k.pass(20 * time.Second)
	once("2")
	k.pass(10 * time.Second)
	k.store.reset()
	k.tooOften(second(k.acquire("3")), 2, "a", 30*time.Second)
	if k.store.requests() != 1 {
		t.Errorf("a refusal is %d requests", k.store.requests())
	}
	k.pass(30*time.Second - ms)
	k.tooOften(second(k.acquire("3")), 2, "a", ms)
	k.pass(ms)
	once("3")
	k.tooOften(second(k.acquire("4")), 2, "a", 20*time.Second)
	k.pass(20 * time.Second)
	once("4")
	k.pass(24*time.Hour - time.Second) // the row remembers the grants for as long as a period may be
	if ttl := k.record().TTL; ttl <= k.time.Unix() {
		t.Error("the row may be purged")
	}
	k.pass(time.Second)
	once("5")
	if r := k.record(); len(r.Grants) != 2 || r.Grants[1] != k.time.UnixMilli() {
		t.Errorf("%+v", r.Grants)
	}
	k.limit("a", Limits{})
	for _, secret := range []string{"6", "7"} {
		k.must(secret)
		k.want(k.release(secret), nil)
	}
}

func second[T any](_ T, err error) error { return err }

// Each rule's rate counts, whatever their periods. A rate that is set later does not count earlier grants, and one that is removed lets waiters go.
func TestRuleRatesOfSeveralPrefixes(t *testing.T) {
	k := newKit(t)
	k.must("0")
	k.want(k.release("0"), nil)
	k.limit("", rateOf(3, time.Hour))
	k.limit("a", rateOf(1, time.Minute))
	for _, secret := range []string{"1", "2", "3"} {
		k.must(secret)
		k.want(k.release(secret), nil)
		if secret != "3" {
			k.tooOften(second(k.acquire("x")), 1, "a", time.Minute)
		}
		k.pass(time.Minute)
	}
	k.tooOften(second(k.acquire("x")), 3, "", 57*time.Minute)
	k.limit("", Limits{})
	k.limit("", rateOf(1, time.Second))
	k.must("v")
	err := second(k.acquire("x"))
	if held, ok := errors.AsType[*HeldError](err); !ok || held.Rate != nil { // the holder keeps it from being granted, too
		t.Errorf("error %v", err)
	}
	k.waits("w", placeFor(time.Hour))
	k.want(k.release("v"), nil)
	k.tooOften(second(k.acquire("w", placeFor(time.Hour))), 1, "a", time.Minute)
	k.holds(nil, []string{"w"})
	k.limit("a", Limits{})
	k.pass(time.Second)
	k.want(k.Settle(t.Context(), "a"), nil)
	k.holds([]string{"w"}, nil)
}

// Waiters keep their order. Each is granted when the rate allows it: by a poll, by the job of the stream's consumer, by any write; and no more of them than it allows.
func TestRuleRateAndWaiters(t *testing.T) {
	for name, next := range map[string]func(k *kit){
		"settling": func(k *kit) { k.want(k.Settle(t.Context(), "a"), nil) },
		"a poll":   func(k *kit) { _, _ = k.acquire("1", of(3, 1), placeFor(time.Hour)) },
		"another's request": func(k *kit) {
			_, err := k.acquire("late", of(3, 1))
			k.want(err, ErrLockHeld)
		},
		"one that joins": func(k *kit) { _, _ = k.acquire("late", of(3, 1), placeFor(time.Hour)) },
	} {
		t.Run(name, func(t *testing.T) {
			k := newKit(t)
			k.limit("a", rateOf(1, time.Minute))
			k.must("0", of(3, 1), lasting(time.Hour))
			for i, secret := range []string{"1", "2"} {
				_, err := k.acquire(secret, of(3, 1), placeFor(time.Hour))
				k.tooOften(err, 1, "a", time.Minute)
				if held, _ := errors.AsType[*HeldError](err); held.Position != int64(i+1) {
					t.Errorf("position %d", held.Position)
				}
			}
			k.pass(time.Minute - ms)
			if next(k); k.holder("1").Fence != 0 {
				t.Fatal("granted too early")
			}
			if got := k.heldUp("a"); got != ms {
				t.Errorf("held up for %v", got)
			}
			k.pass(ms)
			if next(k); k.holder("1").Fence == 0 || k.holder("2").Fence != 0 {
				t.Fatalf("the lock is %+v", k.record())
			}
			k.want(k.release("0"), nil) // more permits come free, and the head fits
			if k.holder("2").Fence != 0 {
				t.Fatal("a release grants more than the rate allows")
			}
			if got := k.heldUp("a"); got != time.Minute {
				t.Errorf("held up for %v", got)
			}
			k.pass(time.Minute)
			if k.want(k.Settle(t.Context(), "a"), nil); k.holder("2").Fence == 0 {
				t.Fatalf("the lock is %+v", k.record())
			}
		})
	}
}

// One write grants no more waiters than the rate allows, also where all fit.
func TestRuleRateBoundsAWrite(t *testing.T) {
	k := newKit(t)
	k.must("0", of(5, 5))
	for _, secret := range []string{"1", "2", "3", "4"} {
		k.waits(secret, of(5, 1), placeFor(time.Hour))
	}
	k.limit("a", rateOf(3, time.Minute))
	k.want(k.release("0"), nil)
	k.holds([]string{"1", "2", "3"}, []string{"4"})
	polls := k.poll("4", k.record().NextTicket, of(5, 1), placeFor(time.Hour))
	k.tooOften(polls, 3, "a", time.Minute)
	k.pass(5 * time.Second)
	k.costs("a poll", 1, 0, 0, func() { _ = k.poll("4", k.record().NextTicket, of(5, 1), placeFor(time.Hour)) })
}

// The stream's consumer learns of each write after which a rate alone keeps back the head of a queue, so that it sets a job: also if the head did not fit before.
func TestRuleRateKeepsNobodyForEver(t *testing.T) {
	k := newKit(t)
	inner, turns := k.store.Changed, 0
	k.store.Changed = func(name string, before, after Record) {
		inner(name, before, after)
		if w := (Write{Lock: name, Before: withoutQueue(before), After: withoutQueue(after)}); w.Effects(false).Turn && w.OfQueue() {
			turns++
		}
	}
	k.limit("a", rateOf(2, time.Minute))
	k.must("0", of(3, 1), lasting(time.Hour))
	k.must("1", of(3, 1), lasting(time.Hour))
	k.waits("heavy", of(3, 2), placeFor(time.Hour))
	if got := k.heldUp("a"); got != time.Hour { // it does not fit: its place's end comes first
		t.Errorf("held up for %v", got)
	}
	turns = 0
	k.want(k.release("0"), nil)
	if turns != 1 || k.holder("heavy").Fence != 0 {
		t.Errorf("%d turns, and the lock is %+v", turns, k.record())
	}
	if got := k.heldUp("a"); got != time.Minute {
		t.Errorf("held up for %v", got)
	}
	turns = 0
	for _, secret := range []string{"2", "3"} { // their joins leave the head as it is
		k.waits(secret, of(3, 1), placeFor(time.Hour))
	}
	k.want(second(k.renew("1", 2*time.Hour)), nil)
	if turns != 0 {
		t.Errorf("%d turns of joins and a renewal", turns)
	}
	for _, secret := range []string{"heavy", "2", "3", "1"} {
		k.want(k.release(secret), nil)
	}
	if got := k.heldUp("a"); got != 0 {
		t.Errorf("held up for %v, and nobody waits", got)
	}
	k.waits("4", of(3, 1), placeFor(time.Hour))
	k.limit("a", rateOf(2, time.Hour))
	k.freeze("a", 2*time.Hour)
	if got := k.heldUp("a"); got != 0 { // the end of the freeze settles the lock, and finds the rate
		t.Errorf("held up for %v by a freeze", got)
	}
}

// A set is granted when the rates of all its locks allow it.
func TestRuleRateOfASet(t *testing.T) {
	k := newKit(t)
	k.limit("b", rateOf(1, time.Minute))
	k.mustSet("1", ab)
	k.want(k.releaseSet("1", ab...), nil)
	err := second(k.set("2", ab))
	if e, ok := errors.AsType[*SetError](err); !ok || e.Lock != "b" {
		t.Errorf("error %v", err)
	}
	k.tooOften(err, 1, "b", time.Minute)
	k.holdsSet("2", ab, false, false)
	anHour := func(r *SetRequest) { r.Wait = time.Hour }
	k.freeze("a", time.Hour)
	k.pass(RulePeriod)
	if now := k.frozen(second(k.set("2", ab))); now.Lock != "a" { // a frozen lock comes before one at its rate
		t.Errorf("told %+v", now)
	}
	k.unfreeze("a")
	k.pass(RulePeriod)
	k.pass(time.Minute - 2*RulePeriod)
	k.mustSet("1b", ab)
	k.want(k.releaseSet("1b", ab...), nil)
	held := k.waitSet("2", ab, anHour)
	if held.Lock != "b" {
		t.Errorf("told %+v", held)
	}
	k.tooOften(held, 1, "b", time.Minute)
	if got := k.heldUp("b"); got != time.Minute {
		t.Errorf("held up for %v", got)
	}
	k.pass(30 * time.Second)
	k.store.reset()
	k.tooOften(k.waitSet("2", ab, anHour, func(r *SetRequest) { r.Tickets = held.Tickets }), 1, "b", 30*time.Second)
	if k.store.requests() != 0 || k.store.sets != 1 {
		t.Errorf("a poll: %d requests and %d about both locks", k.store.requests(), k.store.sets)
	}
	k.want(k.Settle(t.Context(), "a"), nil)
	k.holdsSet("2", ab, false, true)
	k.pass(30 * time.Second)
	k.want(k.Settle(t.Context(), "b"), nil)
	k.holdsSet("2", ab, true, false)
	if a, b := k.at("a").Grants, k.at("b").Grants; a != nil || !slices.Equal(b, []int64{k.time.UnixMilli()}) {
		t.Errorf("grants %v and %v", a, b)
	}
}

// A write may take longer than what held the request back. The answer says what that was, and not only that the lock is held, which it is not.
func TestRefusalSaysWhatHeldTheRequestBack(t *testing.T) {
	slow := func(k *kit) {
		k.store.after = func(Command) error { k.store.after = nil; k.pass(time.Minute); return nil }
	}
	t.Run("rate", func(t *testing.T) {
		k := newKit(t)
		k.limit("a", rateOf(1, time.Minute))
		k.must("1")
		k.want(k.release("1"), nil)
		k.pass(59 * time.Second)
		slow(k)
		k.tooOften(second(k.acquire("2", placeFor(time.Hour))), 1, "a", time.Second)
	})
	t.Run("freeze", func(t *testing.T) {
		k := newKit(t)
		k.freeze("a", time.Minute)
		slow(k)
		k.mustBeFrozen(second(k.acquire("2", placeFor(time.Hour))))
	})
	t.Run("rate of a set", func(t *testing.T) {
		k := newKit(t)
		k.limit("b", rateOf(1, time.Minute))
		k.mustSet("1", ab)
		k.want(k.releaseSet("1", ab...), nil)
		k.pass(59 * time.Second)
		slow(k)
		k.tooOften(second(k.set("2", ab, func(r *SetRequest) { r.Wait = time.Hour })), 1, "b", time.Second)
	})
}
