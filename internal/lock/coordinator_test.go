package lock

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

func TestNewChecksItsConfig(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("no store")
	}
	for rules, good := range map[Rules]bool{
		{}: true, {Skew: -1}: false, {Skew: MaxClockOffset}: true, {Skew: MaxClockOffset + 1}: false,
		{Retention: MaxFenceLead}: false, {Retention: MaxFenceLead + 1}: true,
	} {
		if _, err := New(Config{Store: &Memory{}, Rules: rules}); (err == nil) != good {
			t.Errorf("%+v: %v", rules, err)
		}
	}
}

// A lease's key is of one lock, and of one secret.
func TestKeyOf(t *testing.T) {
	if a := KeyOf("a", "s"); a == KeyOf("b", "s") || a == KeyOf("a", "t") || a != KeyOf("a", "s") || len(a) != 22 || KeyOf("ab", "c") == KeyOf("a", "bc") {
		t.Errorf("key %s", a)
	}
}

// A holder is shown, and listed, as long as it bars others.
func TestStatusAndListKeepTheSkew(t *testing.T) {
	for _, c := range []struct {
		after time.Duration
		shown bool
	}{{ttl, true}, {ttl + skew - ms, true}, {ttl + skew, false}} {
		k := newKit(t)
		l := k.must("a", of(3, 2))
		k.pass(c.after)
		s, err := k.Status(t.Context(), lockName)
		available := int64(3)
		if c.shown {
			available = 1
		}
		if err != nil || len(s.Holders) == 1 != c.shown || s.Available != available || s.Capacity != 3 || s.Fence != l.Lease.Fence || s.Now != k.time.UnixMilli() {
			t.Errorf("%v after the grant: %+v, %v", c.after, s, err)
		}
		list, next, err := k.List(t.Context(), ListRequest{Limit: 10})
		if err != nil || next != "" || len(list) == 1 != c.shown {
			t.Errorf("%v after the grant: %+v, %v", c.after, list, err)
		}
		if list, _, err = k.List(t.Context(), ListRequest{Limit: 10, All: true}); err != nil || len(list) != 1 {
			t.Errorf("all: %+v, %v", list, err)
		}
	}
}

// An execution that ends takes what is its own, and nothing else, wherever that is.
func TestEndExecution(t *testing.T) {
	k := newKit(t)
	k.must("a", of(4, 1), boundTo("x"))
	k.must("other", of(4, 1), boundTo("y"))
	k.must("plain", of(4, 2))
	k.waits("waits", of(4, 1), boundTo("x"))
	k.waits("waits too", of(4, 1), boundTo("y"))
	asked := 0
	over := func(is bool) func(context.Context) (bool, error) {
		return func(context.Context) (bool, error) { asked++; return is, nil }
	}
	k.want(k.EndExecution(t.Context(), "unknown", over(true)), nil)
	if asked != 0 {
		t.Error("asked about an execution that has nothing")
	}
	rev := k.record().Rev
	k.want(k.EndExecution(t.Context(), "x", over(false)), nil) // it runs again
	if k.record().Rev != rev || len(k.store.unbound) != 0 {
		t.Errorf("an execution that runs lost %v", k.store.unbound)
	}
	fault := errors.New("no answer")
	k.want(k.EndExecution(t.Context(), "x", func(context.Context) (bool, error) { return true, fault }), fault)
	for _, secret := range []string{"other", "plain", "waits too", "never"} {
		k.want(k.EndPlace(t.Context(), lockName, KeyOf(lockName, secret), "x"), nil)
	}
	if k.record().Rev != rev {
		t.Errorf("another's lease was ended: %+v", k.record())
	}
	k.want(k.EndExecution(t.Context(), "x", over(true)), nil)
	k.holds([]string{"other", "plain", "waits too"}, nil)
	if r := k.record(); r.Cause != CauseExecutionEnd || r.By != "x" || len(k.store.unbound["x"]) != 2 {
		t.Errorf("record %+v, forgotten %v", r, k.store.unbound)
	}
}

func TestAttempts(t *testing.T) {
	k := newKit(t)
	k.waits("a", withToken("t"))
	h := k.holder("a")
	req := GrantRef{Lock: lockName, Key: KeyOf(lockName, "a"), Fence: h.Fence}
	other := req
	other.Fence++
	if _, err := k.MarkAttempt(t.Context(), other, Tokens{"t"}, Record{}); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("of another grant: %v", err)
	}
	k.store.reads = 0
	for _, want := range []bool{true, false} {
		if first, err := k.MarkAttempt(t.Context(), req, Tokens{"t"}, k.record()); first != want || err != nil {
			t.Errorf("first %v, %v", first, err)
		}
	}
	if k.store.reads != 1 { // the record as it was last heard of spares one
		t.Errorf("%d reads", k.store.reads)
	}
	if r := k.record(); r.Cause != CauseAttempt {
		t.Errorf("cause %s", r.Cause)
	}
	k.pass(ttl) // over, though nobody took the lock
	if _, err := k.MarkAttempt(t.Context(), req, Tokens{"t"}, Record{}); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("of an expired grant: %v", err)
	}
}

func TestEndOfATask(t *testing.T) {
	k := newKit(t)
	k.waits("a", withToken("t"))
	req := GrantRef{Lock: lockName, Key: KeyOf(lockName, "a"), Fence: k.holder("a").Fence}
	other := req
	other.Fence++
	k.want(k.EndTask(t.Context(), other, Tokens{"t"}, "gone"), nil)
	k.want(k.EndTask(t.Context(), req, Tokens{"another"}, "gone"), nil)
	k.holds([]string{"a"}, nil)
	k.want(k.EndTask(t.Context(), req, Tokens{"t"}, "gone"), nil)
	k.holds(nil, nil)
	if r := k.record(); r.Cause != CauseTaskGone || r.By != "gone" || r.Retired.Cause != CauseTaskGone || r.Retired.Fence != req.Fence {
		t.Errorf("record %+v", r)
	}
	_, err := k.acquire("a") // only the task, tried again, may use the secret again
	k.want(err, ErrLeaseLost)
	if p := k.waits("a", withToken("u")); p != 0 {
		t.Errorf("place %d", p)
	}
}

func TestChecked(t *testing.T) {
	k := newKit(t)
	l := k.must("a", boundTo("x"))
	req := GrantRef{Lock: lockName, Key: KeyOf(lockName, "a"), Fence: l.Lease.Fence}
	if again, err := k.fire("a", l.Lease.Fence); err != nil || again.UnixMilli() != l.Lease.CheckAt {
		t.Errorf("early: %v, %v", again, err)
	}
	k.pass(ttl)
	_, err := k.fire("a", l.Lease.Fence)
	if e, ok := errors.AsType[*ExecutionError](err); !ok || e.Execution != "x" || e.Every != ttl {
		t.Errorf("due: %v", err)
	}
	again, err := k.MarkChecked(t.Context(), req, 5*time.Minute)
	if h := k.holder("a"); err != nil || !again.Equal(k.time.Add(5*time.Minute)) || h.CheckAt != again.UnixMilli() || h.ExpiresAt != l.Lease.ExpiresAt || h.Attempted {
		t.Errorf("%v, %v, %+v", again, err, h)
	}
	rev := k.record().Rev
	if _, err = k.MarkChecked(t.Context(), req, 5*time.Minute); err != nil || k.record().Rev != rev { // another timer did it
		t.Errorf("%v, rev %d", err, k.record().Rev)
	}
	req.Fence++
	if again, err = k.MarkChecked(t.Context(), req, ttl); err != nil || !again.IsZero() {
		t.Errorf("of another grant: %v, %v", again, err)
	}
}

// What is read of a queue is of the record, or the record is read again; a queue that somebody changed by hand is believed.
func TestQueuesThatMoved(t *testing.T) {
	k := newKit(t)
	k.must("a")
	k.waits("b")
	k.waits("c")
	// One waiter was deleted by hand, another added.
	r := k.record()
	r.Queue = r.Queue[1:]
	r.Queue = append(slices.Clone(r.Queue), Waiter{Ticket: 9, Key: "d", Terms: Terms{Owner: "d", Permits: 1, Capacity: 1, TTL: 1000}, Until: k.time.Add(time.Hour).UnixMilli()})
	k.store.records[lockName] = r
	k.want(k.release("a"), nil)
	k.holds([]string{"c"}, []string{"d"})
	if r := k.record(); r.NextTicket != 9 {
		t.Errorf("next ticket %d", r.NextTicket)
	}
}

func TestContentionEnds(t *testing.T) {
	k := newKit(t)
	k.must("a")
	writes := 0
	k.store.before = func(Command) error { // somebody else is always first
		writes++
		r := k.record()
		r.Rev++
		k.store.records[lockName] = r
		return nil
	}
	_, err := k.acquire("b", placeFor(time.Hour))
	k.want(err, ErrThrottled)
	if writes != maxTries && writes != maxTries+1 {
		t.Errorf("%d writes", writes)
	}
}

// A store's answer that takes longer than the lease lasts is no lease.
func TestSlowAnswer(t *testing.T) {
	for _, c := range []struct {
		slow time.Duration
		lost bool
	}{{ttl - ms, false}, {ttl, true}} {
		k := newKit(t)
		k.store.after = func(Command) error { k.pass(c.slow); return nil }
		if _, err := k.acquire("a"); errors.Is(err, ErrLeaseLost) != c.lost || !c.lost && err != nil {
			t.Errorf("after %v: %v", c.slow, err)
		}
	}
}

func TestForceRelease(t *testing.T) {
	k := newKit(t)
	force := func(fence int64) ([]Lease, error) {
		return k.ForceRelease(t.Context(), ForceReleaseRequest{Lock: lockName, Principal: "op", Reason: "r", Fence: fence})
	}
	if ended, err := force(0); err != nil || ended != nil {
		t.Errorf("of a lock never seen: %v, %v", ended, err)
	}
	_, err := force(7)
	k.want(err, ErrLockChanged)
	a, b := k.must("a", of(3, 1)), k.must("b", of(3, 1))
	k.must("c", of(3, 1))
	if ended, err := force(b.Lease.Fence); err != nil || !slices.Equal(ended, []Lease{b.Lease}) {
		t.Errorf("%v, %v", ended, err)
	}
	k.holds([]string{"a", "c"}, nil)
	if ended, err := force(b.Lease.Fence); err != nil || ended != nil {
		t.Errorf("repeated: %v, %v", ended, err)
	}
	_, err = force(a.Lease.Fence - 1)
	k.want(err, ErrLockChanged)
	if ended, err := force(0); err != nil || len(ended) != 2 || ended[0] != a.Lease {
		t.Errorf("%v, %v", ended, err)
	}
	if r := k.record(); r.Cause != CauseForceRelease || r.By != "op" || r.Reason != "r" {
		t.Errorf("record %+v", r)
	}
}

// Who waits with another capacity is granted at once what fits both.
func TestAnotherCapacityWithRoom(t *testing.T) {
	k := newKit(t)
	k.must("a", of(3, 1))
	if p := k.waits("b", of(5, 2)); p != 0 || k.record().Capacity != 3 {
		t.Errorf("place %d, capacity %d", p, k.record().Capacity)
	}
}

// A release that meets a lease that is over tells that one as expired.
func TestChangesOfARelease(t *testing.T) {
	before := Record{Rev: 1, Holders: map[LeaseKey]Lease{"a": {Fence: 1}, "over": {Fence: 2}}}
	after := Record{Rev: 2, Cause: CauseRelease, Retired: Retired{Key: "a", Fence: 1}, Holders: map[LeaseKey]Lease{"new": {Fence: 3}}}
	want := []Change{{LeaseReleased, "a", Lease{Fence: 1}}, {LeaseExpired, "over", Lease{Fence: 2}}, {LeaseAcquired, "new", Lease{Fence: 3}}}
	if got := Changes(before, after); !slices.Equal(got, want) {
		t.Errorf("changes %+v, want %+v", got, want)
	}
}
