package lock

import (
	"errors"
	"testing"
	"time"
)

func setToken(text string) func(*SetRequest) {
	return func(r *SetRequest) { r.Token = task(text) }
}

// grantOf names the grant of a set in its first lock.
func (k *kit) grantOf(secret string, names []string) (GrantRef, Lease) {
	k.t.Helper()
	key := SetKey(names, secret)
	h, held := k.at(names[0]).Holders[key]
	if !held {
		k.t.Fatalf("%s does not hold %v", secret, names)
	}
	return GrantRef{Lock: names[0], Key: key, Fence: h.Fence}, h
}

// The leases of a set whose task is gone stay if anybody else may use them: a caller without a token that asked for the lease, before the grant or after
// it, one that renewed it, or another task.
func TestRuleOnlyTheDeadTasksSetEnds(t *testing.T) {
	for name, test := range map[string]struct {
		before, after func(k *kit) error
		ends          bool
	}{
		"nobody else": {ends: true},
		"a poll before the grant": {before: func(k *kit) error {
			_, err := k.set("s", ab, setWaits)
			return err
		}},
		"a poll after the grant": {after: func(k *kit) error {
			_, err := k.set("s", ab)
			return err
		}},
		"a renewal": {after: func(k *kit) error {
			_, err := k.RenewAll(t.Context(), SetRenewRequest{Locks: ab, Secret: "s"})
			return err
		}},
		"another token": {after: func(k *kit) error {
			_, err := k.set("s", ab, setToken("u"))
			return err
		}},
	} {
		k := newKit(t)
		k.mustSet("holder", ab)
		_ = k.waitSet("s", ab, setToken("t"))
		if test.before != nil {
			k.want(test.before(k), ErrLockHeld)
		}
		k.pass(time.Second)
		k.want(k.releaseSet("holder", ab...), nil)
		ref, l := k.grantOf("s", ab)
		k.pass(time.Second)
		if test.after != nil {
			k.want(test.after(k), nil)
		}
		k.want(k.EndTask(t.Context(), ref, l, "gone"), nil)
		for _, lock := range ab {
			if n := len(k.at(lock).Holders); (n == 0) != test.ends {
				t.Errorf("%s: %d hold %s", name, n, lock)
			}
		}
	}
}

// The secret of a set whose task was gone may be used again, by a task; that of a set that ended otherwise may not.
func TestSecretOfADeadTasksSet(t *testing.T) {
	k := newKit(t)
	if _, err := k.set("s", ab, setWaits, setToken("t")); err != nil {
		t.Fatal(err)
	}
	ref, l := k.grantOf("s", ab)
	k.want(k.EndTask(t.Context(), ref, l, "gone"), nil)
	_, err := k.set("s", ab)
	k.want(err, ErrLeaseLost)
	if _, err := k.set("s", ab, setWaits, setToken("u")); err != nil {
		t.Error(err)
	}
	k.want(k.releaseSet("s", ab...), nil)
	_, err = k.set("s", ab, setWaits, setToken("v"))
	k.want(err, ErrLeaseLost)
}

// A set that is refused, or waits with its tickets, asks again for the overdue check of the execution that holds one of its locks.
func TestSetAsksForOverdueChecks(t *testing.T) {
	for name, ask := range map[string]func(k *kit, tickets []int64) error{
		"a try": func(k *kit, _ []int64) error { _, err := k.set("try", ab); return err },
		"a poll": func(k *kit, tickets []int64) error {
			_, err := k.set("s", ab, setWaits, func(r *SetRequest) { r.Tickets = tickets })
			return err
		},
		"a task": func(k *kit, _ []int64) error { _, err := k.set("task", ab, setWaits, setToken("t")); return err },
	} {
		k := newKit(t)
		k.must("bound", boundTo("x"), func(r *AcquireRequest) { r.Lock = "b" })
		tickets := k.waitSet("s", ab, func(r *SetRequest) { r.Wait = time.Hour }).Tickets
		k.pass(ttl + RecheckAfter + time.Second)
		k.want(ask(k, tickets), ErrLockHeld)
		r := k.at("b")
		h := r.Holders[KeyOf("b", "bound")]
		if h.CheckAt != k.time.UnixMilli() {
			t.Errorf("%s: the check is due since %v", name, time.UnixMilli(h.CheckAt))
		}
		if r.Cause.Quiet() {
			t.Errorf("%s: the stream's consumer does not see a write with the cause %s", name, r.Cause)
		}
	}
}

// The leases of a set that belong to an execution end with it, also if its first lock is lost. Places end too. What is of another execution stays.
func TestEndOfASetsExecution(t *testing.T) {
	bound := func(r *SetRequest) { r.Execution = "x" }
	k := newKit(t)
	k.mustSet("s", ab, bound)
	_ = k.waitSet("w", ab, bound)
	_ = k.waitSet("other", ab, func(r *SetRequest) { r.Execution = "y" })
	if _, err := k.ForceRelease(t.Context(), ForceReleaseRequest{Lock: "a", Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	end := func(execution string) {
		t.Helper()
		list, err := k.store.Bound(t.Context(), execution)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range list {
			if b.Lock != "a" || b.Set != "a,b" {
				t.Errorf("%+v", b)
			}
			k.want(k.EndPlace(t.Context(), b, execution), nil)
		}
	}
	end("x")
	for _, lock := range ab {
		if r := k.at(lock); len(r.Holders) != 1 || r.Waiting != 0 {
			t.Errorf("%s: %+v", lock, r)
		}
	}
	ref, l := k.grantOf("other", ab)
	if !l.Unclaimed {
		t.Error("a caller that polls has claimed its grant")
	}
	end("x")
	end("y")
	for _, lock := range ab {
		if r := k.at(lock); len(r.Holders) != 0 {
			t.Errorf("%s: %+v", lock, r)
		}
	}
	if _, err := k.MarkChecked(t.Context(), ref, "a,b", time.Hour); err != nil {
		t.Error(err)
	}
	if _, err := k.LeasesOfSet(t.Context(), "a,b", ref.Key); !errors.Is(err, ErrLeaseLost) {
		t.Error(err)
	}
}

// The stream's consumer sees the grant of a set that needs it, whoever listens: of the first lock for the callback, of each for the checks.
func TestStreamSeesTheGrantOfASet(t *testing.T) {
	for _, test := range []struct {
		change func(*SetRequest)
		sees   [2]bool
	}{
		{func(*SetRequest) {}, [2]bool{false, false}},
		{func(r *SetRequest) { r.Token, r.Wait = task("t"), time.Minute }, [2]bool{true, false}},
		{func(r *SetRequest) { r.Execution = "x" }, [2]bool{true, true}},
	} {
		k := newKit(t)
		k.mustSet("s", ab, test.change)
		for i, lock := range ab {
			if w := (Write{Lock: lock, After: k.at(lock)}); w.OfQueue() != test.sees[i] {
				t.Errorf("%s: cause %s", lock, w.After.Cause)
			}
		}
	}
}
