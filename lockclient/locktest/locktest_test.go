package locktest_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/locktest"
)

func TestControls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		locks := locktest.New(t)
		c := locks.Client("me")
		l, err := c.Acquire(t.Context(), "a", lockclient.Options{TTL: 30 * time.Second})
		if err != nil || locks.Holder("a") != "me" {
			t.Fatal(err, locks.Holder("a"))
		}
		locks.FailNext("renew", 2, nil)
		if err := l.Renew(t.Context()); err != nil || locks.Requests("renew") != 3 {
			t.Errorf("%v after %d requests", err, locks.Requests("renew"))
		}
		locks.LoseNextAnswer("release", 1)
		if err := l.Release(t.Context()); err != nil || locks.Holder("a") != "" {
			t.Errorf("%v, held by %q", err, locks.Holder("a"))
		}

		l, err = c.Acquire(t.Context(), "a", lockclient.Options{TTL: 30 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		fence := locks.Steal("a", "thief")
		if fence <= l.Fence() || locks.Holder("a") != "thief" {
			t.Errorf("stolen with fence %d after %d, by %q", fence, l.Fence(), locks.Holder("a"))
		}
		<-l.Context().Done() // at its next renewal
		if !errors.Is(context.Cause(l.Context()), lockclient.ErrLost) {
			t.Error(context.Cause(l.Context()))
		}

		m, err := c.Acquire(t.Context(), "b", lockclient.Options{})
		if err != nil {
			t.Fatal(err)
		}
		locks.Expire("b")
		if err := m.Renew(t.Context()); !errors.Is(err, lockclient.ErrLost) {
			t.Errorf("renewal of an expired lease: %v", err)
		}
		if _, err = c.Acquire(t.Context(), "c", lockclient.Options{ManualRenew: true}); err != nil {
			t.Fatal(err)
		}
		locks.Advance(2 * time.Minute)
		if h := locks.Holder("c"); h != "" {
			t.Errorf("after two minutes c is held by %q", h)
		}
		locks.FailNext("", 1, locktest.Problem("capacity_mismatch"))
		_, err = c.TryAcquire(t.Context(), "d", lockclient.Options{})
		if !errors.Is(err, lockclient.ErrRefused) || !strings.Contains(err.Error(), "capacity_mismatch") {
			t.Error(err)
		}
		locks.FailNext("", 1000, nil)
		if _, err = c.TryAcquire(t.Context(), "d", lockclient.Options{}); !errors.Is(err, lockclient.ErrUnavailable) {
			t.Error(err)
		}
		locks.Heal()
		if _, err = c.TryAcquire(t.Context(), "d", lockclient.Options{}); err != nil {
			t.Error(err)
		}
	})
}
