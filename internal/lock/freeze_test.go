package lock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// freeze stores a freeze as another coordinator does, and returns its rule.
func (k *kit) freeze(prefix string, d time.Duration) PrefixRule {
	k.t.Helper()
	other := k.another()
	s, err := other.SetRule(k.t.Context(), RuleRequest{Prefix: prefix, Principal: "arn:op", Set: RuleParts{Freeze: &Freeze{Until: k.time.Add(d).UnixMilli(), Reason: "audit"}}})
	if err != nil {
		k.t.Fatal(err)
	}
	return s.PrefixRule
}

func (k *kit) unfreeze(prefix string) {
	k.t.Helper()
	if _, err := k.another().SetRule(k.t.Context(), RuleRequest{Prefix: prefix, Principal: "arn:op", Remove: AllParts()}); err != nil {
		k.t.Fatal(err)
	}
}

// another is a coordinator on the same store and clock.
func (k *kit) another() *Coordinator {
	k.t.Helper()
	c, err := New(Config{Store: k.store, Clock: func() time.Time { return k.time }})
	if err != nil {
		k.t.Fatal(err)
	}
	return c
}

func (k *kit) mustBeFrozen(err error) {
	k.t.Helper()
	_ = k.frozen(err)
}

func (k *kit) frozen(err error) *HeldError {
	k.t.Helper()
	held, ok := errors.AsType[*HeldError](err)
	if !ok || held.Freeze == nil {
		k.t.Fatalf("error %v, want a freeze", err)
	}
	return held
}

// While a freeze is in force, no write grants the lock: not an acquire, nor a write that frees it, of whatever kind. Holders go on. When the freeze ends,
// the waiters are granted in their order.
func TestRuleFrozenLockIsGrantedToNobody(t *testing.T) {
	for name, free := range map[string]func(k *kit) error{
		"release": func(k *kit) error { return k.release("a") },
		"force-release": func(k *kit) error {
			_, err := k.ForceRelease(t.Context(), ForceReleaseRequest{Lock: lockName})
			return err
		},
		"timer": func(k *kit) error { k.pass(ttl + skew); _, err := k.fire("a", k.holder("a").Fence); return err },
		"task gone": func(k *kit) error {
			h := k.holder("a")
			return k.EndTask(t.Context(), GrantRef{lockName, KeyOf(lockName, "a"), h.Fence}, h, "test")
		},
		"end of an execution": func(k *kit) error {
			return k.EndPlace(t.Context(), Binding{Lock: lockName, Key: KeyOf(lockName, "a")}, "e")
		},
		"another acquire": func(k *kit) error { k.pass(ttl + skew); _, err := k.acquire("c"); k.mustBeFrozen(err); return nil },
		"a waiter's poll": func(k *kit) error {
			k.pass(ttl + skew)
			_, err := k.acquire("b", placeFor(time.Hour))
			k.mustBeFrozen(err)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKit(t)
			if name == "end of an execution" {
				k.must("a", boundTo("e"))
			} else {
				k.must("a")
			}
			k.waits("b")
			k.freeze("a", time.Hour/2)
			k.pass(NoRulesPeriod)
			if err := free(k); err != nil {
				t.Fatal(err)
			}
			k.want(k.Settle(t.Context(), lockName), nil)
			k.holds(nil, []string{"b"})
			_, err := k.acquire("d")
			k.mustBeFrozen(err)
			_, err = k.acquire("e", withToken("t"))
			if held := k.frozen(err); held.Position != 2 {
				t.Errorf("a task that comes during the freeze: %+v", held)
			}
			k.holds(nil, []string{"b", "e"})
			k.pass(time.Hour / 2)
			k.must("b", placeFor(time.Hour))
			k.holds([]string{"b"}, []string{"e"})
		})
	}
}

// The answer names the freeze, and the holders and the place beside it.
func TestAnswerOfAFrozenLock(t *testing.T) {
	k := newKit(t)
	k.freeze("", time.Hour)
	k.freeze("a", 2*time.Hour)
	k.freeze("ab", 3*time.Hour)
	_, err := k.acquire("x")
	held := k.frozen(err)
	want := Freeze{Prefix: "a", Until: k.time.Add(2 * time.Hour).UnixMilli(), Reason: "audit", By: "arn:op", At: k.time.UnixMilli()}
	if *held.Freeze != want || held.RetryAfter != 2*time.Hour || held.Position != 0 || len(held.Holders) != 0 {
		t.Errorf("%+v, freeze %+v", held, held.Freeze)
	}
	s, err := k.Status(t.Context(), lockName)
	if err != nil || s.Freeze == nil || *s.Freeze != want {
		t.Errorf("status %+v, %v", s, err)
	}
	if k.waits("x") != 1 {
		t.Error("a waiter found no place")
	}
	k.unfreeze("a")
	k.pass(NoRulesPeriod)
	_, err = k.acquire("x", placeFor(time.Hour))
	if f := k.frozen(err).Freeze; f.Prefix != "" {
		t.Errorf("after one freeze ended: %+v", f)
	}
	k.unfreeze("")
	k.pass(NoRulesPeriod)
	k.must("x", placeFor(time.Hour))
	k.pass(4 * time.Hour) // the rule of ab has no end by hand
	if s, err := k.Status(t.Context(), "abc"); err != nil || s.Freeze != nil {
		t.Errorf("status after the end of a freeze: %+v, %v", s.Freeze, err)
	}
}

// Holders of a frozen lock renew, release and ask for their lease again, and a waiter that was granted before claims its grant.
func TestRuleHoldersOfAFrozenLockGoOn(t *testing.T) {
	k := newKit(t)
	k.freeze("other", time.Hour)
	k.must("a")
	k.waits("b")
	k.want(k.release("a"), nil)
	k.freeze("a", time.Hour)
	k.pass(RulePeriod)
	b := k.must("b", placeFor(time.Hour))
	if k.holder("b").Unclaimed || b.Lease.ExpiresAt != k.time.Add(ttl).UnixMilli() {
		t.Errorf("claim %+v", k.holder("b"))
	}
	_, err := k.renew("b", ttl)
	k.want(err, nil)
	k.must("b")
	k.want(k.release("b"), nil)
	k.holds(nil, nil)
}

// A poll of a frozen lock is one read, keeps the place, and settles nothing. The first poll after the end grants the lock to the waiter at the head.
func TestPollsOfAFrozenLock(t *testing.T) {
	k := newKit(t)
	k.must("a")
	_, err := k.acquire("b", placeFor(time.Minute))
	ticket := k.frozenOr(err).Ticket
	k.freeze("a", 100*time.Second)
	k.pass(NoRulesPeriod)
	k.want(k.release("a"), nil)
	poll := func(r *AcquireRequest) { r.Wait, r.Ticket = time.Minute, ticket }
	writes := 0
	for range 8 {
		k.pass(10 * time.Second)
		k.store.reset()
		_, err := k.acquire("b", poll)
		if held := k.frozen(err); held.Position != 1 || held.Ticket != ticket {
			t.Fatalf("%+v", held)
		}
		if k.store.polls != 1 || k.store.requests() > 2 {
			t.Errorf("%d requests", k.store.requests())
		}
		writes += len(k.store.applied)
	}
	if writes < 2 || writes > 4 {
		t.Errorf("%d writes kept the place", writes)
	}
	k.holds(nil, []string{"b"})
	k.pass(10 * time.Second)
	k.must("b", poll)
}

func (k *kit) frozenOr(err error) *HeldError {
	k.t.Helper()
	held, ok := errors.AsType[*HeldError](err)
	if !ok {
		k.t.Fatal(err)
	}
	return held
}

// No coordinator grants a lock one period after a freeze of it was stored, whatever it had read before; the period of a table without rules is
// longer. Within the period, an acquire is one request.
func TestFreezeIsInForceAfterOnePeriod(t *testing.T) {
	for _, period := range []time.Duration{NoRulesPeriod, RulePeriod} {
		k := newKit(t)
		if period == RulePeriod {
			k.freeze("other", time.Hour)
			k.pass(ruleLanding + NoRulesPeriod)
		}
		k.must("a", func(r *AcquireRequest) { r.Lock = "warm" }) // reads the rules
		rule := k.freeze("a", time.Hour)
		status, err := k.another().SetRule(t.Context(), RuleRequest{Prefix: "a", Principal: "arn:op", Set: RuleParts{Freeze: &Freeze{Until: k.time.Add(time.Hour).UnixMilli(), Reason: "audit"}}})
		if err != nil || status.Rev != rule.Rev || status.InForceAt-rule.At > period.Milliseconds() {
			t.Errorf("repetition: %+v, %v", status, err)
		}
		k.pass(period - ms)
		k.store.reset()
		k.must("a")
		if k.store.requests() != 1 {
			t.Errorf("%d requests", k.store.requests())
		}
		k.want(k.release("a"), nil)
		k.pass(ms)
		_, err = k.acquire("b")
		k.mustBeFrozen(err)
	}
}

// The answer to a change says when it is in force everywhere: a period after it was stored. Until the table has had a rule for long enough, that is the
// period of a table without rules: a coordinator that read before goes by it.
func TestInForceAt(t *testing.T) {
	k := newKit(t)
	freeze := func(prefix string) RuleRequest {
		return RuleRequest{Prefix: prefix, Set: RuleParts{Freeze: &Freeze{Until: k.time.Add(time.Hour).UnixMilli(), Reason: "r"}}}
	}
	set := func(what string, q RuleRequest, want time.Duration) {
		t.Helper()
		if s, err := k.SetRule(t.Context(), q); err != nil || s.InForceAt != k.time.Add(want).UnixMilli() {
			t.Errorf("%s: in force after %v, %v; want %v", what, time.UnixMilli(s.InForceAt).Sub(k.time), err, want)
		}
	}
	set("the first rule of a table", freeze("0"), NoRulesPeriod)
	set("the second at once", freeze("1"), NoRulesPeriod)
	k.pass(ruleLanding + 5*time.Second)
	set("the third before all have read the first", freeze("2"), NoRulesPeriod-5*time.Second)
	k.pass(5 * time.Second)
	set("another", freeze("3"), RulePeriod)
	q := freeze("4")
	set("a change", q, RulePeriod)
	set("its repetition", q, RulePeriod)
	k.pass(time.Second)
	set("a late repetition", q, RulePeriod)
	k.pass(30 * time.Minute)
	set("a repetition after long", q, ruleLanding+NoRulesPeriod-30*time.Minute-time.Second) // that is over, and late enough for any table
	for i := range 5 {
		k.unfreeze(fmt.Sprint(i))
	}
	k.pass(ruleLanding + NoRulesPeriod)
	set("after all rules were removed", freeze("0"), RulePeriod)
	k.store.put = func() bool { k.store.put = nil; k.pass(3 * time.Second); return false }
	set("a write that takes long", freeze("5"), RulePeriod)
}

// Nothing is granted from the time on that the answer to a freeze named, whatever another coordinator had read before.
func TestRuleNothingIsGrantedOnceInForce(t *testing.T) {
	for name, freeze := range map[string]func(k *kit) RuleStatus{
		"the second rule of a table": func(k *kit) RuleStatus {
			k.freeze("other", time.Hour)
			return k.frozenAt("a")
		},
		"a write that takes long": func(k *kit) RuleStatus {
			k.freeze("other", time.Hour)
			k.pass(ruleLanding + NoRulesPeriod)
			k.store.putting = func() { k.pass(3 * time.Second); _, _ = k.freshRules(k.t.Context()) }
			return k.frozenAt("a")
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKit(t)
			if _, err := k.freshRules(t.Context()); err != nil {
				t.Fatal(err)
			}
			status := freeze(k)
			k.pass(max(time.UnixMilli(status.InForceAt).Sub(k.time), 0))
			_, err := k.acquire("b")
			k.mustBeFrozen(err)
		})
	}
}

func (k *kit) frozenAt(prefix string) RuleStatus {
	k.t.Helper()
	s, err := k.another().SetRule(k.t.Context(), RuleRequest{Prefix: prefix, Set: RuleParts{Freeze: &Freeze{Until: k.time.Add(time.Hour).UnixMilli(), Reason: "r"}}})
	if err != nil {
		k.t.Fatal(err)
	}
	return s
}

// Rules are read again if either clock says that they are old, or that they are of the future.
func TestClockStepsDoNotKeepRules(t *testing.T) {
	var k ruleCache
	real := time.Now()
	k.put([]PrefixRule{{Prefix: "a"}}, real, 0)
	fresh := func(now time.Time) bool { _, ok := k.get(now); return ok }
	if !fresh(real) || !fresh(real.Add(RulePeriod-ms)) || fresh(real.Add(RulePeriod)) || fresh(real.Add(-ms)) {
		t.Error("without a step")
	}
	stepped := real.Round(0) // without the monotonic clock, the wall clock alone counts
	if !fresh(stepped.Add(RulePeriod/2)) || fresh(stepped.Add(2*time.Hour)) || fresh(stepped.Add(-time.Hour)) {
		t.Error("after a step")
	}
}

// While the rules cannot be read, nothing is granted, and everything else goes on.
func TestRuleUnreadableRulesGrantNothing(t *testing.T) {
	k := newKit(t)
	k.must("a")
	_, err := k.acquire("b", placeFor(time.Hour))
	ticket := k.frozenOr(err).Ticket
	k.store.noRules = &StoreError{Kind: ErrThrottled, What: "test"}
	k.pass(NoRulesPeriod)
	k.want(k.release("a"), ErrThrottled) // to be repeated
	k.want(k.Settle(t.Context(), lockName), ErrThrottled)
	k.store.reset()
	_, err = k.acquire("c")
	k.want(err, ErrThrottled)
	if k.store.requests() > 0 {
		t.Errorf("%d requests", k.store.requests())
	}
	_, err = k.renew("a", ttl)
	k.want(err, nil)
	k.store.noRules = &StoreError{Kind: ErrMisconfigured, What: "test"}
	k.want(k.release("a"), nil)
	k.holds(nil, []string{"b"})
	_, err = k.acquire("b", func(r *AcquireRequest) { r.Wait, r.Ticket = time.Hour, ticket })
	if held := k.frozenOr(err); held.Position != 1 || held.Freeze != nil {
		t.Errorf("poll: %+v", held)
	}
	if !Unsettled(k.record()) {
		t.Error("the stream's consumer would not settle the lock")
	}
	k.store.noRules = nil
	k.want(k.Settle(t.Context(), lockName), nil)
	k.holds([]string{"b"}, nil)
}

// The stream's consumer settles a lock by no freeze that has been ended since: the job for the end of the freeze may have looked at the lock before. A lock whose row was made
// by a waiter counts as free.
func TestRuleNobodyIsForgottenAfterAFreeze(t *testing.T) {
	k := newKit(t)
	k.freeze("a", time.Hour)
	var writes []Write
	changed := k.store.Changed
	k.store.Changed = func(name string, before, after Record) {
		changed(name, before, after)
		writes = append(writes, Write{Lock: name, Before: before, After: after})
	}
	_, err := k.acquire("b", withToken("t")) // by the freeze, which it reads now
	k.mustBeFrozen(err)
	if len(writes) != 1 || !writes[0].OfQueue() || !writes[0].Effects(false).Unsettled {
		t.Errorf("the stream's consumer would not settle the lock after %+v", writes)
	}
	k.unfreeze("a")
	k.want(k.Settle(t.Context(), lockName), nil)
	k.holds([]string{"b"}, nil)

	k.freeze("a", time.Hour)
	k.pass(RulePeriod)
	_, err = k.acquire("c", placeFor(time.Hour)) // reads the rules
	k.mustBeFrozen(err)
	k.store.noRules = &StoreError{Kind: ErrThrottled, What: "test"}
	k.want(k.Settle(t.Context(), lockName), ErrThrottled) // to be repeated, since it goes by no freeze that it remembers
}

// One request reads the rules for all that need them at the same time. One that waits for it gives up with its context.
func TestOneRequestReadsTheRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		finish := make(chan struct{})
		k.store.ruleRead = func() { <-finish }
		var group sync.WaitGroup
		for range 10 {
			group.Go(func() {
				if _, err := k.freshRules(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait() // one reads, nine wait
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := k.freshRules(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		close(finish)
		group.Wait()
		if k.store.ruleReads != 1 {
			t.Errorf("%d reads", k.store.ruleReads)
		}
	})
}

// A hold ends with its freeze, also between the read of the rules and the decision; that of rules that cannot be read does not end by itself.
func TestHoldEndsWithItsFreeze(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	frozen, unreadable := Record{hold: &hold{freeze: &Freeze{Until: now.UnixMilli()}}}, Record{hold: &hold{err: ErrThrottled}}
	if frozen.heldBack(now.Add(-ms)) == nil || frozen.heldBack(now) != nil || unreadable.heldBack(now) == nil {
		t.Error("a hold of the wrong length")
	}
}

// Rules that were read before the cache was dropped are not kept.
func TestDroppedRulesAreReadAgain(t *testing.T) {
	k := newKit(t)
	k.store.ruleRead = func() { k.store.ruleRead = nil; k.cache.drop() }
	if _, err := k.freshRules(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, fresh := k.cache.get(k.time); fresh {
		t.Error("they were kept")
	}
}
