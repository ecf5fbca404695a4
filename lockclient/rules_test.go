package lockclient_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// A client that waits for a frozen lock goes on waiting, is told for what, and gets the lock when the freeze ends: at its end, or when it is removed. One
// that does not wait gets an error that says so.
func TestFreeze(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		operator, deployer := w.client(), w.client()
		until := time.Now().Add(10 * time.Minute).Truncate(time.Millisecond)
		rule, err := operator.Freeze(t.Context(), "a", until, "the audit")
		if err != nil || !rule.Frozen.Until.Equal(until) || rule.InForceAt.Sub(rule.ChangedAt) != 10*time.Second {
			t.Fatalf("%+v, %v", rule, err)
		}
		_, err = deployer.TryAcquire(t.Context(), "a", lockclient.Options{})
		wantIs(t, err, lockclient.ErrFrozen)
		wantIs(t, err, lockclient.ErrHeld)
		held, ok := errors.AsType[*lockclient.HeldError](err)
		if !ok || held.Frozen.Reason != "the audit" || held.Frozen.Prefix != "a" || held.RetryAfter > 10*time.Minute || !strings.Contains(err.Error(), "lock is frozen until") {
			t.Errorf("%v", err)
		}
		var seen *lockclient.Freeze
		opts := lockclient.Options{OnWait: func(h *lockclient.HeldError) { seen = h.Frozen }}
		start := time.Now()
		l := w.acquire(deployer, opts)
		if took := time.Since(start); seen == nil || took < 10*time.Minute-time.Second || took > 10*time.Minute+4*time.Second {
			t.Errorf("granted after %v, waited for %+v", took, seen)
		}
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := operator.Freeze(t.Context(), "a", time.Now().Add(time.Hour), "again"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		time.AfterFunc(time.Minute, func() {
			if r, err := operator.Unfreeze(t.Context(), "a"); err != nil || r.Frozen != nil {
				t.Errorf("%+v, %v", r, err)
			}
		})
		start = time.Now()
		l = w.acquire(deployer, opts)
		if took := time.Since(start); took < time.Minute || took > time.Minute+5*time.Second {
			t.Errorf("granted after %v", took)
		}
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
		list, err := operator.Rules(t.Context())
		if err != nil || len(list) != 0 {
			t.Errorf("%+v, %v", list, err)
		}
	})
}
