package lock

import (
	"errors"
	"testing"
	"time"
)

// holdsSet checks that a set holds all of its locks, or none, and waits in all of them, or in none.
func (k *kit) holdsSet(secret string, names []string, held, waits bool) {
	k.t.Helper()
	for _, name := range names {
		r := k.at(name)
		_, holds := r.Holders[SetKey(names, secret)]
		_, place := r.place(SetKey(names, secret))
		if holds != held || place != waits {
			k.t.Errorf("%s holds %s: %v, waits: %v; want %v and %v", secret, name, holds, place, held, waits)
		}
	}
}

func (k *kit) mustRelease(name, secret string) {
	k.t.Helper()
	if _, err := k.Release(k.t.Context(), ReleaseRequest{Lock: name, Secret: secret}); err != nil {
		k.t.Fatal(err)
	}
}

// No write grants a set of which one lock is frozen, whichever of its locks the write is of. The set keeps its places. When the freeze ends, the
// settling of the lock that was frozen grants the set, also if the other lock was freed long before.
func TestRuleSetWithAFrozenLockIsGrantedToNobody(t *testing.T) {
	for _, frozen := range ab {
		for name, free := range map[string]func(k *kit){
			"a release":       func(k *kit) { k.mustRelease("a", "holder") },
			"a force-release": func(k *kit) { _, err := k.ForceRelease(t.Context(), ForceReleaseRequest{Lock: "a"}); k.want(err, nil) },
			"a timer": func(k *kit) {
				k.pass(ttl + skew)
				_, err := k.fire("holder", k.at("a").Holders[KeyOf("a", "holder")].Fence)
				k.want(err, nil)
			},
			"its poll": func(k *kit) { k.pass(ttl + skew) },
		} {
			t.Run(name+", "+frozen+" is frozen", func(t *testing.T) {
				k := newKit(t)
				k.must("holder")
				held := k.waitSet("s", ab, func(r *SetRequest) { r.Wait = time.Hour })
				k.freeze(frozen, time.Hour/2)
				k.pass(NoRulesPeriod)
				free(k)
				k.want(k.Settle(t.Context(), "a"), nil)
				k.want(k.Settle(t.Context(), "b"), nil)
				for _, tickets := range [][]int64{nil, held.Tickets} {
					_, err := k.set("s", ab, func(r *SetRequest) { r.Wait, r.Tickets = time.Hour, tickets })
					if now := k.frozen(err); now.Lock != frozen || now.Position != 1 || len(now.Tickets) != 2 {
						t.Errorf("told %+v", now)
					}
				}
				k.holdsSet("s", ab, false, true)
				k.unfreeze(frozen)
				k.pass(RulePeriod)
				k.want(k.Settle(t.Context(), frozen), nil)
				k.holdsSet("s", ab, true, false)
			})
		}
	}
}

// A set that finds all its locks free is refused, or joins all queues, if one of them is frozen. The answer names that lock.
func TestRuleFrozenLockRefusesASet(t *testing.T) {
	k := newKit(t)
	k.freeze("b", time.Hour)
	_, err := k.set("s", ab)
	if held := k.frozen(err); held.Lock != "b" || held.RetryAfter != time.Hour || held.Position != 0 {
		t.Errorf("told %+v", held)
	}
	k.holdsSet("s", ab, false, false)
	k.must("holder", lasting(2*time.Hour)) // of a: it holds the set up for longer, but the freeze is what the caller is told of
	if held := k.waitSet("s", ab); held.Freeze == nil || held.Lock != "b" || held.Position != 1 {
		t.Errorf("told %+v", held)
	}
	k.freeze("a", 2*time.Hour)
	k.pass(RulePeriod)
	_, err = k.set("s", ab, setWaits)
	if held := k.frozen(err); held.Lock != "a" {
		t.Errorf("with two frozen locks told %+v", held)
	}
	k.freeze("b", 3*time.Hour)
	k.pass(RulePeriod)
	_, err = k.set("s", ab, setWaits)
	if held := k.frozen(err); held.Lock != "b" {
		t.Errorf("with two frozen locks, the other for longer, told %+v", held)
	}
	k.mustSet("t", []string{"c", "d"})
	if _, err := k.set("u", []string{"c", "e"}); !errors.Is(err, ErrLockHeld) || errors.As(err, new(*HeldError)) && k.at("e").Rev != 0 {
		t.Errorf("a set without a frozen lock: %v", err)
	}
}

// The lease of a set is claimed, renewed and released as always while its locks are frozen. Its release grants the locks to nobody, neither to a set nor
// to single waiters, and asks the store for no more than the release itself.
func TestRuleHolderOfAFrozenSetGoesOn(t *testing.T) {
	k := newKit(t)
	k.freeze("other", time.Hour)
	k.must("holder")
	held := k.waitSet("s", ab)
	k.mustRelease("a", "holder")
	k.freeze("a", time.Hour)
	k.freeze("b", time.Hour)
	k.pass(RulePeriod)
	k.mustSet("s", ab, setWaits, func(r *SetRequest) { r.Tickets = held.Tickets })
	k.mustSet("s", ab)
	if _, err := k.RenewAll(t.Context(), SetRenewRequest{Locks: ab, Secret: "s"}); err != nil {
		t.Errorf("renewed: %v", err)
	}
	tickets := k.waitSet("next", ab).Tickets
	k.waits("single")
	k.store.reset()
	k.want(k.releaseSet("s", ab...), nil)
	if k.store.requests() != 2 || k.store.sets != 2 { // the records, the heads of two queues, and the write
		t.Errorf("%d requests and %d about both locks", k.store.requests(), k.store.sets)
	}
	k.store.reset()
	if k.want(k.Settle(t.Context(), "b"), nil); k.store.requests() != 2 || k.store.sets != 0 {
		t.Errorf("settling: %d requests and %d about both locks", k.store.requests(), k.store.sets)
	}
	k.store.reset()
	held = k.waitSet("next", ab, func(r *SetRequest) { r.Tickets = tickets })
	if k.store.requests() != 0 || k.store.sets != 1 || held.Freeze == nil {
		t.Errorf("a poll: %d requests and %d about both locks, told %+v", k.store.requests(), k.store.sets, held)
	}
	k.pass(45 * time.Second)
	k.store.reset()
	held = k.waitSet("next", ab, func(r *SetRequest) { r.Tickets = tickets })
	if k.store.requests() != 0 || k.store.sets != 2 || held.Freeze == nil {
		t.Errorf("a poll that extends the places: %d requests and %d about both locks, told %+v", k.store.requests(), k.store.sets, held)
	}
	k.holdsSet("next", ab, false, true)
	if r := k.at("a"); r.Waiting != 2 || len(r.Holders) != 0 {
		t.Errorf("a is %+v", r)
	}
}

// While the rules cannot be read, no set is granted, and what is to be repeated fails.
func TestRuleSetIsNotGrantedWhileTheRulesCannotBeRead(t *testing.T) {
	k := newKit(t)
	k.freeze("other", time.Hour)
	k.mustSet("s", ab)
	_ = k.waitSet("next", ab)
	k.pass(RulePeriod)
	k.store.noRules = &StoreError{Kind: ErrThrottled, What: "the test throttles"}
	_, err := k.set("t", []string{"c", "d"})
	k.want(err, ErrThrottled)
	k.want(k.releaseSet("s", ab...), ErrThrottled)
	k.holdsSet("s", ab, true, false)
	k.want(k.renewSet("s"), nil)
	k.store.noRules = &StoreError{Kind: ErrMisconfigured, What: "the test has no permission"}
	k.want(k.releaseSet("s", ab...), nil)
	k.holdsSet("next", ab, false, true)
	_, err = k.set("t", []string{"c", "d"})
	k.want(err, ErrMisconfigured)
	k.store.noRules = nil
	k.want(k.Settle(t.Context(), "a"), nil)
	k.holdsSet("next", ab, true, false)
}

func (k *kit) renewSet(secret string) error {
	_, err := k.RenewAll(k.t.Context(), SetRenewRequest{Locks: ab, Secret: secret})
	return err
}
