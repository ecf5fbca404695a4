package lock

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

const minute = int64(60_000)

// limit stores limits of a prefix as another coordinator does. They are in force at once.
func (k *kit) limit(prefix string, l Limits) {
	k.t.Helper()
	req := RuleRequest{Prefix: prefix, Principal: "arn:op", Set: RuleParts{Limits: &l}}
	if l == (Limits{}) {
		req = RuleRequest{Prefix: prefix, Remove: []RulePart{PartLimits}}
	}
	if _, err := k.another().SetRule(k.t.Context(), req); err != nil {
		k.t.Fatal(err)
	}
	k.cache.drop()
}

// limited checks that an error is of a limit, and returns it.
func (k *kit) limited(err error, name LimitName, value int64, prefix string) *LimitError {
	k.t.Helper()
	e, ok := errors.AsType[*LimitError](err)
	if !ok || e.Limit != (Limit{name, value, prefix}) || !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), string(name)) {
		k.t.Fatalf("error %v, want the limit %s %d of %q", err, name, value, prefix)
	}
	return e
}

func from(principal string) func(*AcquireRequest) {
	return func(r *AcquireRequest) { r.Principal = principal }
}

// The locks below a prefix have the capacity of its rule: a caller that names none gets it, and another is refused, whether it waits or not.
func TestRuleCapacityOfAPrefix(t *testing.T) {
	k := newKit(t)
	k.limit("", Limits{Capacity: 5})
	k.limit("a", Limits{Capacity: 3})
	k.limit("ab", Limits{Capacity: 1})
	for _, c := range []int64{1, 2, 4, 5} {
		for _, wait := range []time.Duration{0, time.Hour} {
			_, err := k.acquire("x", of(c, 1), placeFor(wait))
			if e := k.limited(err, LimitCapacity, 3, "a"); e.Passes || e.Asked != c || e.Field != "capacity" {
				t.Errorf("%+v", e)
			}
		}
	}
	_, err := k.acquire("x", of(0, 4))
	if e := k.limited(err, LimitCapacity, 3, "a"); e.Field != "permits" || e.Asked != 4 {
		t.Errorf("%+v", e)
	}
	if k.record().Rev != 0 {
		t.Error("a refused request was written")
	}
	k.store.reset()
	if l := k.must("one", of(0, 1)); l.Capacity != 3 || k.store.requests() != 1 {
		t.Errorf("%+v by %d requests", l, k.store.requests())
	}
	k.must("two", of(3, 2))
	k.holds([]string{"one", "two"}, nil)
	if l := k.must("other", of(0, 1), func(r *AcquireRequest) { r.Lock = "ab" }); l.Capacity != 1 {
		t.Errorf("the strictest rule does not count: %+v", l)
	}
	k.limit("a", Limits{})
	_, err = k.acquire("x", of(0, 2), func(r *AcquireRequest) { r.Lock = "b" })
	k.want(err, nil) // by the rule of all locks
	k.limit("", Limits{})
	_, err = k.acquire("x", of(0, 2), func(r *AcquireRequest) { r.Lock = "c" })
	if e, ok := errors.AsType[*PermitsError](err); !ok || *e != (PermitsError{2, 1}) {
		t.Errorf("without a rule: %v", err)
	}
}

// A rule that changes the capacity of a lock in use changes nothing for its holders. Who waits is granted the lock when the permits fit both capacities; who does not
// wait is told who named the other capacity, and which rule the new one.
func TestRuleCapacityOfALockInUse(t *testing.T) {
	k := newKit(t)
	k.must("old")
	k.limit("a", Limits{Capacity: 2})
	if _, err := k.acquire("old"); err != nil {
		t.Error("a repetition:", err)
	}
	_, err := k.acquire("new", of(0, 1))
	if e, ok := errors.AsType[*CapacityError](err); !ok || *e != (CapacityError{1, 2, "old", Limit{LimitCapacity, 2, "a"}}) {
		t.Errorf("%v, %+v", err, e)
	}
	if k.waits("one", of(0, 1)) != 1 || k.waits("two", of(2, 1)) != 2 {
		t.Error("no place")
	}
	k.want(k.release("old"), nil)
	k.holds([]string{"one", "two"}, nil)
	if k.record().Capacity != 2 {
		t.Errorf("%+v", k.record())
	}
}

// A longer TTL than the limit is refused, at an acquire and at a renewal. A caller that names none gets a shorter one.
func TestRuleTTLLimit(t *testing.T) {
	k := newKit(t)
	k.limit("a", Limits{MaxTTL: minute / 2})
	_, err := k.acquire("x")
	if e := k.limited(err, LimitTTL, minute/2, "a"); e.Asked != minute || e.Field != "ttl_ms" || e.Passes {
		t.Errorf("%+v", e)
	}
	l := k.must("x", func(r *AcquireRequest) { r.AnyTTL = true })
	if l.Lease.TTL != minute/2 || l.Remaining != 30*time.Second {
		t.Errorf("%+v", l)
	}
	k.store.reset()
	for _, ttl := range []time.Duration{0, 10 * time.Second, 30 * time.Second} {
		k.pass(time.Second)
		if _, err := k.renew("x", ttl); err != nil {
			t.Errorf("%v: %v", ttl, err)
		}
	}
	if k.store.ruleReads > 3 {
		t.Errorf("renewals read the rules: %d", k.store.ruleReads)
	}
	_, err = k.renew("x", 31*time.Second)
	if e := k.limited(err, LimitTTL, minute/2, "a"); e.Asked != 31_000 {
		t.Errorf("%+v", e)
	}
	if h := k.holder("x"); h.TTL != minute/2 {
		t.Errorf("%+v", h)
	}
	k.limit("a", Limits{}) // the lease keeps its limit
	_, err = k.renew("x", time.Minute)
	_ = k.limited(err, LimitTTL, minute/2, "a")
	k.want(k.release("x"), nil)
	k.must("y")
	k.limit("a", Limits{MaxTTL: 1000}) // and one that was granted before the limit has none
	if _, err := k.renew("y", time.Hour); err != nil {
		t.Error(err)
	}
	k.must("of an execution", boundTo("x"), func(r *AcquireRequest) { r.Lock = "a2" }) // its TTL is the time between two checks
}

// No renewal makes a lease last longer than its maximum hold. The one that would is carried out to there; one after it is refused with the reason.
func TestRuleHoldLimit(t *testing.T) {
	for name, get := range map[string]func(k *kit) int64{
		"acquired": func(k *kit) int64 { k.must("x"); return k.time.UnixMilli() },
		"granted while waiting": func(k *kit) int64 {
			k.must("before")
			k.waits("x")
			k.pass(5 * time.Second)
			k.limit("a", Limits{}) // the place keeps the limit
			k.want(k.release("before"), nil)
			granted := k.time.UnixMilli()
			k.pass(5 * time.Second)
			k.must("x", placeFor(time.Hour))
			return granted
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKit(t)
			k.limit("a", Limits{MaxHold: 5 * minute})
			end := get(k) + 5*minute
			renewals := 0
			for ; k.time.UnixMilli() < end-ttl.Milliseconds(); k.pass(20 * time.Second) {
				k.store.reset()
				if l, err := k.renew("x", 0); err != nil || l.Remaining != ttl || k.store.requests() != 1 {
					t.Fatalf("%+v, %v, %d requests", l, err, k.store.requests())
				}
				renewals++
			}
			for ; k.time.UnixMilli() < end; k.pass(20 * time.Second) {
				l, err := k.renew("x", 0)
				if err != nil || l.Lease.ExpiresAt != end || l.Lease.EndsAt != end {
					t.Fatalf("%+v, %v", l, err)
				}
				if _, err = k.renew("x", time.Hour); err != nil || k.holder("x").ExpiresAt != end {
					t.Fatalf("%+v, %v", k.holder("x"), err)
				}
			}
			if renewals < 10 {
				t.Errorf("%d renewals", renewals)
			}
			_, err := k.renew("x", 0)
			_ = k.limited(err, LimitHold, 5*minute, "a")
			k.want(err, ErrLeaseLost)
			k.pass(skew)
			k.must("next")
			_, err = k.renew("x", 0)
			k.want(err, ErrLeaseLost)
		})
	}
}

// A waiter that claims its grant gets what is left of the time from the grant on.
func TestRuleHoldLimitOfAClaim(t *testing.T) {
	k := newKit(t)
	k.limit("a", Limits{MaxHold: 15_000})
	k.must("before")
	k.waits("x")
	k.want(k.release("before"), nil)
	k.pass(5 * time.Second)
	if l := k.must("x", placeFor(time.Hour)); l.Remaining != 10*time.Second || l.Lease.ExpiresAt != l.Lease.EndsAt {
		t.Errorf("%+v", l)
	}
}

// The lease of an execution ends when it may last no longer, although the execution runs: its timer comes for that, and asks nobody.
func TestRuleHoldLimitOfAnExecution(t *testing.T) {
	k := newKit(t)
	k.limit("a", Limits{MaxHold: 90_000})
	l := k.must("x", boundTo("e"))
	end := k.time.UnixMilli() + 90_000
	if l.Lease.ExpiresAt != end || l.Lease.EndsAt != end || l.Lease.CheckAt != end-30_000 {
		t.Fatalf("%+v", l.Lease)
	}
	k.pass(time.Minute)
	_, err := k.fire("x", l.Lease.Fence)
	if _, due := errors.AsType[*ExecutionError](err); !due {
		t.Error("not checked:", err)
	}
	ref := GrantRef{lockName, KeyOf(lockName, "x"), l.Lease.Fence}
	for range 2 {
		rev := k.record().Rev
		if again, err := k.MarkChecked(t.Context(), ref, "", time.Minute); err != nil || again.UnixMilli() != end {
			t.Errorf("again at %v, %v", again, err)
		}
		if k.store.reset(); k.record().Rev > rev+1 {
			t.Error("checked twice")
		}
	}
	k.pass(30 * time.Second)
	again, err := k.fire("x", l.Lease.Fence)
	if err != nil || again.UnixMilli() != end+skew.Milliseconds() {
		t.Errorf("at the end: %v, %v", again, err)
	}
	k.pass(skew)
	_, err = k.fire("x", l.Lease.Fence)
	k.want(err, nil)
	k.holds(nil, nil)
}

// A queue that is as long as its limit takes nobody more. Who is in it stays, whatever the limit becomes.
func TestRuleQueueLimit(t *testing.T) {
	k := newKit(t)
	k.must("holder")
	k.limit("", Limits{MaxQueue: 2})
	k.waits("one")
	k.waits("two")
	_, err := k.acquire("three", placeFor(time.Hour))
	if e := k.limited(err, LimitQueue, 2, ""); !e.Passes || e.Asked != 3 {
		t.Errorf("%+v", e)
	}
	k.want(err, ErrQueueFull)
	_, err = k.acquire("four")
	k.want(err, ErrLockHeld)
	k.limit("", Limits{MaxQueue: 1})
	if k.waits("two") != 2 {
		t.Error("a poll lost its place")
	}
	k.freeze("a", time.Minute)
	k.cache.drop()
	_, err = k.acquire("three", placeFor(time.Hour))
	if held := k.frozen(err); !held.Full || held.Position != 0 {
		t.Errorf("%+v", held)
	}
}

// What one principal holds and waits for is limited together: of all sessions of a role, also behind the head of the queue and in leases that were granted before the
// limit. Repetitions, polls and claims are no new leases.
func TestRulePrincipalLimit(t *testing.T) {
	const role = "arn:aws:sts::1:assumed-role/deployer"
	k := newKit(t)
	k.must("a1", of(3, 1), from(role+"/one"))
	k.limit("a", Limits{MaxPerPrincipal: 2})
	k.must("b1", of(3, 2), from("arn:aws:iam::1:user/b"))
	if k.waits("a2", of(3, 1), from(role+"/two")) != 1 {
		t.Error("no place")
	}
	for _, change := range []func(*AcquireRequest){placeFor(0), placeFor(time.Hour)} {
		_, err := k.acquire("a3", of(3, 1), from(role+"/three"), change)
		if e := k.limited(err, LimitPrincipal, 2, "a"); !e.Passes || e.Asked != 3 {
			t.Errorf("%+v", e)
		}
	}
	_, err := k.acquire("b2", of(3, 3), from("arn:aws:iam::1:user/b"))
	if e := k.limited(err, LimitPrincipal, 2, "a"); e.Passes || e.Field != "permits" {
		t.Errorf("it can never be granted: %+v", e)
	}
	for i := range QueueHead + 2 {
		if k.waits(fmt.Sprint("other", i), of(3, 1), from(fmt.Sprint("arn:", i))) != int64(i+2) {
			t.Fatal("no place")
		}
	}
	if k.waits("c", of(3, 2), from("arn:c")) != QueueHead+4 {
		t.Error("no place")
	}
	_, err = k.acquire("c2", of(3, 1), from("arn:c"), placeFor(time.Hour))
	_ = k.limited(err, LimitPrincipal, 2, "a")
	for range 3 {
		k.waits("nobody knows", of(3, 1), from(""), func(r *AcquireRequest) { r.Secret += fmt.Sprint(k.record().Waiting) }) // direct invocations name nobody
	}
	k.limit("a", Limits{MaxPerPrincipal: 1})
	k.must("b1", of(3, 2), from("arn:aws:iam::1:user/b"))
	if k.waits("c", of(3, 2), from("arn:c")) == 0 {
		t.Error("a poll lost its place")
	}
	k.want(k.release("a1"), nil)
	k.must("a2", of(3, 1), from(role+"/two"), placeFor(time.Hour))
}

// A principal that asks twice at the same time gets the limit once.
func TestRulePrincipalLimitAtTheSameTime(t *testing.T) {
	k := newKit(t)
	k.limit("a", Limits{MaxPerPrincipal: 1})
	k.must("holder", of(2, 1), from("arn:other"))
	k.store.before = func(c Command) error {
		if c.Kind == Swap {
			k.store.before = nil
			k.must("first", of(2, 1), from("arn:p"))
		}
		return nil
	}
	_, err := k.acquire("second", of(2, 1), from("arn:p"))
	_ = k.limited(err, LimitPrincipal, 1, "a")
	k.holds([]string{"holder", "first"}, nil)
}

func TestAccountable(t *testing.T) {
	for principal, want := range map[string]string{
		"": "", "arn:aws:iam::1:user/alice": "arn:aws:iam::1:user/alice", "arn:aws:iam::1:user/team/alice": "arn:aws:iam::1:user/team/alice",
		"arn:aws:sts::1:assumed-role/r/s": "arn:aws:sts::1:assumed-role/r", "arn:aws-cn:sts::1:assumed-role/r/s/t": "arn:aws-cn:sts::1:assumed-role/r",
		"arn:aws:sts::1:assumed-role/r": "arn:aws:sts::1:assumed-role/r", "arn:aws:sts::1:federated-user/f": "arn:aws:sts::1:federated-user/f",
	} {
		if got := accountable(principal); got != want {
			t.Errorf("%s: %s", principal, got)
		}
	}
}

// A limit that is set later refuses no repetition of a request whose reply was lost, and no waiter's claim.
func TestRuleLaterLimitRefusesNoRepetition(t *testing.T) {
	k := newKit(t)
	k.must("x", of(2, 2))
	k.waits("y", of(2, 1))
	k.limit("a", Limits{Capacity: 1, MaxTTL: 1000, MaxQueue: 1, MaxPerPrincipal: 1, MaxHold: 10_000})
	k.store.reset()
	k.must("x", of(2, 2))
	if k.waits("y", of(2, 1)) != 1 {
		t.Error("the place is lost")
	}
	k.want(k.release("x"), nil)
	k.must("y", of(2, 1), placeFor(time.Hour))
	if _, err := k.renew("y", time.Hour); err != nil {
		t.Error(err)
	}
	if _, err := k.release("y"), k.release("y"); err != nil {
		t.Error(err)
	}
	_, err := k.acquire("z", of(2, 1), lasting(time.Second))
	_ = k.limited(err, LimitCapacity, 1, "a")
}

// By the rules that a coordinator has read, an acquire of a free lock is one request, whatever limits there are.
func TestRuleLimitsCostNoRequest(t *testing.T) {
	k := newKit(t)
	k.limit("a", Limits{Capacity: 3, MaxTTL: minute, MaxQueue: 5, MaxPerPrincipal: 1, MaxHold: 10 * minute})
	k.must("first", of(3, 1))
	k.want(k.release("first"), nil)
	k.pass(time.Millisecond)
	k.store.reset()
	reads := k.store.ruleReads
	k.must("x", of(3, 1))
	if _, err := k.renew("x", 0); err != nil {
		t.Error(err)
	}
	k.want(k.release("x"), nil)
	if k.store.requests() != 3 || k.store.ruleReads != reads {
		t.Errorf("%d requests, %d reads of rules", k.store.requests(), k.store.ruleReads-reads)
	}
}

// While the rules cannot be read, a request that may be refused by them makes neither a lease nor a place.
func TestRuleLimitsThatCannotBeRead(t *testing.T) {
	k := newKit(t)
	k.must("holder")
	k.pass(NoRulesPeriod)
	k.store.noRules = &StoreError{Kind: ErrMisconfigured}
	_, err := k.acquire("x", placeFor(time.Hour))
	k.want(err, ErrMisconfigured)
	_, err = k.acquire("x", placeFor(time.Hour), func(r *AcquireRequest) { r.Ticket = 7 })
	k.want(err, ErrMisconfigured)
	k.store.polled = func() { k.store.noRules = nil } // they can be read again after the limits were looked for
	_, err = k.acquire("x", placeFor(time.Hour), func(r *AcquireRequest) { r.Ticket = 7 })
	k.want(err, ErrMisconfigured)
	k.holds([]string{"holder"}, nil)
}
