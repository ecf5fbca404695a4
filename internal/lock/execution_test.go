package lock

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// The end of an execution ends its leases and places on all locks, and nothing else.
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
		k.want(k.EndPlace(t.Context(), Binding{Lock: lockName, Key: KeyOf(lockName, secret)}, "x"), nil)
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
	again, err := k.MarkChecked(t.Context(), req, "", 5*time.Minute)
	if h := k.holder("a"); err != nil || !again.Equal(k.time.Add(5*time.Minute)) || h.CheckAt != again.UnixMilli() || h.ExpiresAt != l.Lease.ExpiresAt || h.Attempted {
		t.Errorf("%v, %v, %+v", again, err, h)
	}
	rev := k.record().Rev
	if _, err = k.MarkChecked(t.Context(), req, "", 5*time.Minute); err != nil || k.record().Rev != rev { // another timer did it
		t.Errorf("%v, rev %d", err, k.record().Rev)
	}
	req.Fence++
	if again, err = k.MarkChecked(t.Context(), req, "", ttl); err != nil || !again.IsZero() {
		t.Errorf("of another grant: %v, %v", again, err)
	}
}

// One write asks for a limited number of overdue checks, oldest grants first; the next refused caller asks for others.
func TestOverdueChecksAreAskedForInTurn(t *testing.T) {
	k := newKit(t)
	const n = 2*maxRechecks + 1
	for i := range n {
		k.must(fmt.Sprint(i), of(n, 1), boundTo("x"))
		k.pass(ms)
	}
	k.pass(ttl + RecheckAfter)
	for _, want := range []int{maxRechecks, 2 * maxRechecks, n, n} {
		_, err := k.acquire("other", of(n, 1))
		k.want(err, ErrLockHeld)
		asked := 0
		for i := range n {
			if again := k.holder(fmt.Sprint(i)).CheckAt == k.time.UnixMilli(); again != (i < want) {
				t.Errorf("check of %d: %v after %d", i, again, want)
			} else if again {
				asked++
			}
		}
		if asked != want {
			t.Errorf("%d are asked for, want %d", asked, want)
		}
	}
}
