package lock

import (
	"errors"
	"slices"
	"testing"
	"time"
)

// set is a request for locks of one permit each.
func (k *kit) set(secret string, names []string, change ...func(*SetRequest)) (SetStatus, error) {
	req := SetRequest{Secret: secret, Owner: secret, Principal: "p", TTL: ttl}
	for _, name := range names {
		req.Locks = append(req.Locks, Want{Lock: name, Capacity: 1, Permits: 1})
	}
	for _, c := range change {
		c(&req)
	}
	return k.AcquireAll(k.t.Context(), req)
}

func (k *kit) mustSet(secret string, names []string, change ...func(*SetRequest)) SetStatus {
	k.t.Helper()
	s, err := k.set(secret, names, change...)
	if err != nil {
		k.t.Fatalf("acquire of %v by %s: %v", names, secret, err)
	}
	return s
}

// waitSet joins the queues, and returns the answer.
func (k *kit) waitSet(secret string, names []string, change ...func(*SetRequest)) *HeldError {
	k.t.Helper()
	_, err := k.set(secret, names, append([]func(*SetRequest){setWaits}, change...)...)
	held, ok := errors.AsType[*HeldError](err)
	if !ok {
		k.t.Fatalf("%s waits for %v: %v", secret, names, err)
	}
	return held
}

func setWaits(r *SetRequest) { r.Wait = time.Minute }

func (k *kit) releaseSet(secret string, names ...string) error {
	_, err := k.ReleaseAll(k.t.Context(), SetReleaseRequest{Locks: names, Secret: secret})
	return err
}

func (k *kit) at(name string) Record {
	k.t.Helper()
	r, err := k.store.Get(k.t.Context(), name)
	if err != nil {
		k.t.Fatal(err)
	}
	r.After.Queue, _ = k.store.Waiters(k.t.Context(), name, MaxQueue)
	return r.After
}

var ab = []string{"a", "b"}

func TestSetIsGrantedAndReleasedAsOne(t *testing.T) {
	k := newKit(t)
	k.store.reset()
	s := k.mustSet("s", []string{"b", "a"})
	if len(s.Leases) != 2 || s.Leases[0].Lock != "a" || s.Leases[1].Lock != "b" || s.Remaining != ttl {
		t.Fatalf("granted %+v", s)
	}
	for i, name := range ab {
		if h := k.at(name).Holders[SetKey(ab, "s")]; h != s.Leases[i].Lease || h.Set != "a,b" || h.Unclaimed {
			t.Errorf("%s has %+v, told %+v", name, h, s.Leases[i].Lease)
		}
	}
	again := k.mustSet("s", ab)
	if !slices.Equal(again.Leases, s.Leases) {
		t.Errorf("again %+v", again)
	}
	if _, err := k.set("other", []string{"b", "c"}); !errors.Is(err, ErrLockHeld) || k.at("c").Rev != 0 {
		t.Errorf("a set of which one lock is held: %v, and c is %+v", err, k.at("c"))
	}
	k.pass(ttl / 2)
	renewed, err := k.RenewAll(t.Context(), SetRenewRequest{Locks: ab, Secret: "s"})
	if err != nil || renewed.Remaining != ttl || renewed.Leases[1].Lease.ExpiresAt != k.time.Add(ttl).UnixMilli() {
		t.Errorf("renewed %+v, %v", renewed, err)
	}
	if err := k.releaseSet("s", "b", "a"); err != nil {
		t.Fatal(err)
	}
	if err := k.releaseSet("s", "a", "b"); err != nil {
		t.Errorf("a repeated release: %v", err)
	}
	if _, err := k.set("s", ab); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("a late duplicate: %v", err)
	}
	k.mustSet("next", ab)
}

func TestSetOfOneIsALock(t *testing.T) {
	k := newKit(t)
	k.store.reset()
	k.mustSet("secret", []string{"a"})
	if k.store.requests() != 1 {
		t.Errorf("%d requests", k.store.requests())
	}
	if _, err := k.Renew(t.Context(), RenewRequest{Lock: "a", Secret: "secret"}); err != nil {
		t.Errorf("renewed as a lock: %v", err)
	}
	if held := k.waitSet("other", []string{"a"}); held.Lock != "a" || len(held.Tickets) != 1 || held.Position != 1 {
		t.Errorf("waits: %+v", held)
	}
	if err := k.releaseSet("secret", "a"); err != nil {
		t.Error(err)
	}
	k.mustSet("other", []string{"a"}, setWaits)
}

func TestSetWaitsInAllQueuesAndHoldsNothing(t *testing.T) {
	k := newKit(t)
	k.must("a-holder") // of lock "a"
	held := k.waitSet("s", ab)
	if held.Lock != "a" || held.Position != 1 || len(held.Tickets) != 2 {
		t.Errorf("waits: %+v", held)
	}
	if r := k.at("b"); len(r.Holders) != 0 || r.Waiting != 1 {
		t.Errorf("b is %+v", r)
	}
	if _, err := k.acquire("x", func(r *AcquireRequest) { r.Lock = "b" }); !errors.Is(err, ErrLockHeld) {
		t.Errorf("one that comes later: %v", err)
	}
	k.store.reset()
	if again := k.waitSet("s", ab, func(r *SetRequest) { r.Tickets = held.Tickets }); again.Position != 1 || k.store.requests() != 0 {
		t.Errorf("a poll: %+v, %d other requests", again, k.store.requests())
	}
	if _, err := k.Release(t.Context(), ReleaseRequest{Lock: "a", Secret: "a-holder"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range ab {
		if h := k.at(name).Holders[SetKey(ab, "s")]; !h.Unclaimed || k.at(name).Waiting != 0 {
			t.Errorf("the release left %s as %+v", name, k.at(name))
		}
	}
	if s := k.mustSet("s", ab, setWaits, func(r *SetRequest) { r.Tickets = held.Tickets }); s.Remaining != ttl {
		t.Errorf("claimed: %+v", s)
	}
}

// Two sets in opposite order, and a third: each gets its turn in the order of arrival.
func TestSetsTakeTurns(t *testing.T) {
	k := newKit(t)
	k.mustSet("1", ab)
	_ = k.waitSet("2", []string{"b", "a"})
	_ = k.waitSet("3", ab)
	for _, step := range []struct{ ends, next string }{{"1", "2"}, {"2", "3"}} {
		if err := k.releaseSet(step.ends, ab...); err != nil {
			t.Fatal(err)
		}
		for _, name := range ab {
			if _, has := k.at(name).Holders[SetKey(ab, step.next)]; !has {
				t.Fatalf("after the release of %s, %s is %+v", step.ends, name, k.at(name))
			}
		}
		k.mustSet(step.next, ab, setWaits)
	}
}

func TestSetOfWhichOnePartEnded(t *testing.T) {
	k := newKit(t)
	k.mustSet("s", ab)
	if _, err := k.ForceRelease(t.Context(), ForceReleaseRequest{Lock: "a", Reason: "r"}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.set("s", ab); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("acquired again: %v", err)
	}
	if _, err := k.RenewAll(t.Context(), SetRenewRequest{Locks: ab, Secret: "s"}); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("renewed: %v", err)
	}
	if err := k.releaseSet("s", ab...); !errors.Is(err, ErrLeaseLost) || len(k.at("b").Holders) != 0 {
		t.Errorf("released: %v, and b is %+v", err, k.at("b"))
	}
	if _, err := k.set("s", ab); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("a late duplicate: %v", err)
	}
}

func TestSetLeavesItsQueues(t *testing.T) {
	k := newKit(t)
	k.must("holder")
	_ = k.waitSet("s", ab)
	_ = k.waitSet("t", []string{"b", "c"})
	if err := k.releaseSet("s", ab...); err != nil {
		t.Fatal(err)
	}
	if k.at("a").Waiting != 0 {
		t.Errorf("a is %+v", k.at("a"))
	}
	for _, name := range []string{"b", "c"} {
		if _, has := k.at(name).Holders[SetKey([]string{"b", "c"}, "t")]; !has {
			t.Errorf("the set behind was not granted: %s is %+v", name, k.at(name))
		}
	}
}

// What is left of a set of which one place is gone is removed by the settling of its lock, and by its own next request, which joins again.
func TestSetOfWhichOnePlaceIsGone(t *testing.T) {
	for _, by := range []string{"settling", "its own request"} {
		k := newKit(t)
		k.must("holder")
		_ = k.waitSet("s", ab)
		r := k.at("b")
		to := r.withoutPlace(r.Queue[0])
		if _, err := k.store.Apply(t.Context(), "b", k.rules.swap(k.time, r, to, CauseQueue, "", "")); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Release(t.Context(), ReleaseRequest{Lock: "a", Secret: "holder"}); err != nil {
			t.Fatal(err)
		}
		if by == "settling" {
			if r := k.at("a"); r.Waiting != 0 || len(r.Holders) != 0 {
				t.Errorf("a is %+v", r)
			}
		}
		k.mustSet("s", ab, setWaits)
		if r := k.at("a"); r.Waiting != 0 || len(r.Holders) != 1 {
			t.Errorf("%s: a is %+v", by, r)
		}
	}
}

func TestSetBadRequests(t *testing.T) {
	k := newKit(t)
	eleven := make([]string, MaxSet+1)
	for i := range eleven {
		eleven[i] = string(rune('a' + i))
	}
	for _, names := range [][]string{nil, eleven, {"a", "b", "a"}} {
		if _, err := k.set("s", names); err == nil || errors.Is(err, ErrLockHeld) {
			t.Errorf("acquire of %v: %v", names, err)
		}
		if err := k.releaseSet("s", names...); err == nil {
			t.Errorf("release of %v", names)
		}
		if _, err := k.RenewAll(t.Context(), SetRenewRequest{Locks: names, Secret: "s"}); err == nil {
			t.Errorf("renewal of %v", names)
		}
	}
}

func TestSetOnASemaphore(t *testing.T) {
	k := newKit(t)
	api := func(secret, customer string, change ...func(*SetRequest)) (SetStatus, error) {
		return k.set(secret, []string{customer, "api"}, append(change, func(r *SetRequest) { r.Locks[1].Capacity = 2 })...)
	}
	for _, customer := range []string{"c1", "c2"} {
		if _, err := api(customer, customer); err != nil {
			t.Fatal(err)
		}
	}
	_, err := api("c3", "c3", setWaits)
	if held, ok := errors.AsType[*HeldError](err); !ok || held.Lock != "api" || len(held.Holders) != 2 {
		t.Fatalf("the third: %v", err)
	}
	if _, err := k.set("other", []string{"c9", "api"}, func(r *SetRequest) { r.Locks[1].Capacity = 3 }); !errors.Is(err, ErrCapacityMismatch) {
		t.Errorf("another capacity: %v", err)
	}
	if err := k.releaseSet("c1", "c1", "api"); err != nil {
		t.Fatal(err)
	}
	if _, err := api("c3", "c3", setWaits); err != nil {
		t.Error(err)
	}
}

// A lock that nobody has held has the capacity that its first waiter names. A request that does not wait is then refused because of the others, and not because of the capacity.
func TestRuleALockThatWasNeverHeldHasTheCapacityOfItsFirstWaiter(t *testing.T) {
	three := func(r *AcquireRequest) { r.Lock, r.Capacity = "b", 3 }
	k := newKit(t)
	k.must("holder")
	k.freeze("b", time.Minute)
	k.pass(NoRulesPeriod)
	_, _ = k.acquire("first", three, placeFor(time.Hour))
	_ = k.waitSet("s", ab, func(r *SetRequest) { r.Locks[1].Capacity, r.Wait = 3, time.Hour })
	k.mustRelease("b", "first")
	k.pass(30 * time.Second)
	k.want(second(k.renew("holder", 0)), nil)
	k.pass(30 * time.Second)
	k.want(second(k.acquire("x", three)), ErrLockHeld) // the set is first, and waits for the other lock
	k.want(second(k.acquire("y", func(r *AcquireRequest) { r.Lock, r.Capacity = "b", 2 })), ErrCapacityMismatch)
}

// A write that only removes an abandoned waiter before a set brings the set to the head. If the writer dies then, the stream's consumer must
// see that write, whose cause would else be a quiet one.
func TestTurnOfASetIsSeenByTheStream(t *testing.T) {
	k := newKit(t)
	three := func(permits int64, wait time.Duration) func(*AcquireRequest) {
		return func(r *AcquireRequest) { r.Lock, r.Capacity, r.Permits, r.Wait = "b", 3, permits, wait }
	}
	k.must("holder", three(2, 0))
	if _, err := k.acquire("dead", three(2, time.Second)); !errors.Is(err, ErrLockHeld) {
		t.Fatal(err)
	}
	_ = k.waitSet("s", ab, func(r *SetRequest) { r.Locks[1].Capacity = 3 })
	k.pass(2 * time.Second)
	k.store.after = func(c Command) error {
		k.store.after = nil
		return &StoreError{Kind: ErrUnavailable, What: "the writer dies"}
	}
	if _, err := k.acquire("joiner", three(2, time.Minute)); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	r := k.at("b")
	if r.Cause != CauseTurn || len(r.Queue) != 2 || !(Write{Lock: "b", Before: r, After: r}).OfQueue() {
		t.Fatalf("b is %+v", r)
	}
	if err := k.Settle(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	for _, name := range ab {
		if _, has := k.at(name).Holders[SetKey(ab, "s")]; !has {
			t.Errorf("%s is %+v", name, k.at(name))
		}
	}
}

// A set that waits for another lock is nothing to mend; one whose writer died is.
func TestFindingOfASet(t *testing.T) {
	k := newKit(t)
	k.must("holder")
	_ = k.waitSet("s", ab, func(r *SetRequest) { r.Wait = 10 * time.Minute })
	examine := func() []Finding {
		t.Helper()
		list, _, err := k.Examine(t.Context(), "b", false)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	if list := examine(); len(list) != 0 {
		t.Errorf("while a is held: %+v", list)
	}
	r := k.at("a")
	if _, err := k.store.Apply(t.Context(), "a", k.rules.swap(k.time, r, r.withoutHolder(KeyOf("a", "holder")), CauseRelease, "", "")); err != nil {
		t.Fatal(err)
	}
	if list := examine(); len(list) != 1 || list[0].Kind != FindingUnsettled {
		t.Errorf("after a is free and nobody settled it: %+v", list)
	}
}
