package lock

import (
	"errors"
	"testing"
	"time"
)

// limitedIn checks that an error is of a limit of one lock of a set, and that the set was not granted and does not wait.
func (k *kit) limitedIn(name string, err error, limit LimitName, value int64, prefix, secret string) *LimitError {
	k.t.Helper()
	if e, ok := errors.AsType[*SetError](err); !ok || e.Lock != name {
		k.t.Fatalf("error %v, want one of %s", err, name)
	}
	k.holdsSet(secret, ab, false, false)
	return k.limited(err, limit, value, prefix)
}

func anyCapacity(r *SetRequest) {
	for i := range r.Locks {
		r.Locks[i].Capacity = 0
	}
}

// Each lock of a set has the limits of its own prefixes. One that refuses its lock refuses the set, also if it would wait.
func TestRuleLimitsOfASet(t *testing.T) {
	k := newKit(t)
	k.limit("b", Limits{Capacity: 3, MaxTTL: minute})
	for _, wait := range []func(*SetRequest){func(*SetRequest) {}, setWaits} {
		_, err := k.set("s", ab, wait)
		_ = k.limitedIn("b", err, LimitCapacity, 3, "b", "s")
		_, err = k.set("s", ab, wait, anyCapacity, func(r *SetRequest) { r.Locks[1].Permits = 4 })
		_ = k.limitedIn("b", err, LimitCapacity, 3, "b", "s")
		_, err = k.set("s", ab, wait, anyCapacity, func(r *SetRequest) { r.TTL = time.Hour })
		_ = k.limitedIn("b", err, LimitTTL, minute, "b", "s")
	}
	_, err := k.set("s", ab, anyCapacity, func(r *SetRequest) { r.Locks[0].Permits = 2 })
	if e, ok := errors.AsType[*PermitsError](err); !ok || *e != (PermitsError{2, 1}) {
		t.Errorf("without a rule: %v", err)
	}
	s := k.mustSet("s", ab, anyCapacity, func(r *SetRequest) { r.TTL, r.AnyTTL = time.Hour, true })
	if s.Leases[0].Capacity != 1 || s.Leases[1].Capacity != 3 || s.Remaining != time.Minute || s.Leases[0].Lease.TTL != minute {
		t.Errorf("granted %+v", s)
	}
	_, err = k.RenewAll(t.Context(), SetRenewRequest{Locks: ab, Secret: "s", TTL: time.Hour})
	if e, ok := errors.AsType[*SetError](err); !ok || e.Lock != "b" {
		t.Errorf("renewed for longer: %v", err)
	}
	_ = k.limited(err, LimitTTL, minute, "b")
	_ = k.waitSet("next", ab, anyCapacity, setWaits, func(r *SetRequest) { r.TTL = time.Minute })
	k.limit("b", Limits{Capacity: 2})
	_ = k.waitSet("next", ab, anyCapacity, setWaits) // what is there stays
	k.mustSet("s", ab)
	k.want(k.releaseSet("s", ab...), nil)
	if s := k.mustSet("next", ab, setWaits); s.Leases[1].Capacity != 3 {
		t.Errorf("a place does not keep its capacity: %+v", s)
	}
}

// The lease of a set lasts no longer than the limit of each of its locks. Where it ends in one of them, it is lost as a whole.
func TestRuleHoldLimitOfASet(t *testing.T) {
	k := newKit(t)
	k.limit("b", Limits{MaxHold: minute + 30_000})
	k.mustSet("s", ab)
	k.pass(45 * time.Second)
	s, err := k.RenewAll(t.Context(), SetRenewRequest{Locks: ab, Secret: "s"})
	if err != nil || s.Remaining != 45*time.Second || s.Leases[0].Remaining != time.Minute {
		t.Errorf("renewed %+v, %v", s, err)
	}
	k.pass(45 * time.Second)
	_, err = k.RenewAll(t.Context(), SetRenewRequest{Locks: ab, Secret: "s"})
	if _ = k.limited(err, LimitHold, minute+30_000, "b"); !errors.Is(err, ErrLeaseLost) {
		t.Error(err)
	}
	k.want(k.releaseSet("s", ab...), ErrLeaseLost)
	if r := k.at("a"); len(r.Holders) != 0 {
		t.Errorf("a is %+v", r)
	}
	k.pass(skew)
	k.must("holder")
	_ = k.waitSet("t", ab)
	k.want(k.release("holder"), nil)
	if s := k.mustSet("t", ab, setWaits); s.Leases[1].Lease.EndsAt != k.time.UnixMilli()+minute+30_000 || s.Leases[0].Lease.EndsAt != 0 {
		t.Errorf("granted after a wait: %+v", s)
	}
}

// A set joins no queue if one of the queues is as long as it may be.
func TestRuleQueueLimitOfASet(t *testing.T) {
	k := newKit(t)
	k.limit("b", Limits{MaxQueue: 1})
	k.mustSet("s", ab)
	_ = k.waitSet("first", ab)
	_, err := k.set("second", ab, setWaits)
	if _ = k.limitedIn("b", err, LimitQueue, 1, "b", "second"); !errors.Is(err, ErrQueueFull) {
		t.Error(err)
	}
	k.waits("single") // of a
	_ = k.waitSet("first", ab)
}

// The permits of a principal are counted in each lock of a set, over all leases and places.
func TestRulePrincipalLimitOfASet(t *testing.T) {
	k := newKit(t)
	ask := func(secret, principal string, change ...func(*SetRequest)) error {
		_, err := k.set(secret, ab, append(change, func(r *SetRequest) {
			r.Principal = principal
			r.Locks[0].Capacity, r.Locks[1].Capacity = 20, 20
		})...)
		return err
	}
	k.limit("b", Limits{MaxPerPrincipal: 2})
	err := ask("s", "p", func(r *SetRequest) { r.Locks[1].Permits = 3 })
	if e := k.limitedIn("b", err, LimitPrincipal, 2, "b", "s"); e.Passes || e.Asked != 3 {
		t.Errorf("%+v", e)
	}
	k.want(ask("1", "p"), nil)
	k.want(ask("2", "p"), nil)
	if e := k.limitedIn("b", ask("3", "p"), LimitPrincipal, 2, "b", "3"); !e.Passes || e.Asked != 3 {
		t.Errorf("%+v", e)
	}
	k.want(ask("2", "p"), nil) // a repetition
	k.want(ask("big", "q", func(r *SetRequest) { r.Locks[0].Permits = 18 }), nil)
	for i := range QueueHead + 2 { // so that the last place is not at the head of the queue
		k.want(ask("other"+string(rune('a'+i)), "q"+string(rune('a'+i)), setWaits), ErrLockHeld)
	}
	k.want(k.releaseSet("2", ab...), nil)
	k.want(ask("waits", "p", setWaits), ErrLockHeld)
	_ = k.limitedIn("b", ask("4", "p", setWaits), LimitPrincipal, 2, "b", "4")
	k.want(ask("waits", "p", setWaits), ErrLockHeld)
	k.want(ask("5", "", setWaits), ErrLockHeld) // a caller without a name
}

// The TTL of a set that belongs to an execution is the time between two checks, which no limit makes shorter.
func TestRuleTTLLimitOfASetOfAnExecution(t *testing.T) {
	k := newKit(t)
	k.limit("b", Limits{MaxTTL: minute})
	s := k.mustSet("s", ab, func(r *SetRequest) { r.TTL, r.AnyTTL, r.Execution = time.Hour, true, "e" })
	for _, l := range s.Leases {
		if l.Lease.TTL != time.Hour.Milliseconds() {
			t.Errorf("%+v", l)
		}
	}
}

// A lease of a set that has expired is none, although its record still has it.
func TestLeasesOfASetThatHaveExpired(t *testing.T) {
	k := newKit(t)
	k.limit("b", Limits{MaxHold: 30_000})
	k.mustSet("s", ab)
	if list, err := k.LeasesOfSet(t.Context(), "a,b", SetKey(ab, "s")); err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
	k.pass(30 * time.Second)
	_, err := k.LeasesOfSet(t.Context(), "a,b", SetKey(ab, "s"))
	k.want(err, ErrLeaseLost)
}
