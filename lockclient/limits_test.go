package lockclient_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// limit sets limits of the lock "a", which are in force at once.
func limit(t *testing.T, c *lockclient.Client, l lockclient.Limits) {
	t.Helper()
	rule, err := c.SetLimits(t.Context(), "a", l)
	if err != nil || rule.Limits == nil || rule.Limits.Since.IsZero() {
		t.Fatalf("%+v, %v", rule, err)
	}
	if rule.Limits.Since = (time.Time{}); *rule.Limits != l {
		t.Errorf("%+v, want %+v", *rule.Limits, l)
	}
	time.Sleep(10 * time.Second)
}

// What a limit never allows fails at once, with one request, whether the client waits or not; the error names the limit. A caller that names neither a
// capacity nor a TTL gets those of the limits.
func TestLimits(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		limit(t, c, lockclient.Limits{Capacity: 2, MaxTTL: 30 * time.Second, MaxQueue: 1})
		for want, opts := range map[string]lockclient.Options{
			"capacity":   {Capacity: 3},
			"max_ttl_ms": {TTL: time.Minute},
		} {
			for _, acquire := range []func(*testing.T) error{
				func(t *testing.T) error { _, err := c.Acquire(t.Context(), "a", opts); return err },
				func(t *testing.T) error { _, err := c.TryAcquire(t.Context(), "a", opts); return err },
			} {
				n := w.count("acquire")
				err := acquire(t)
				wantIs(t, err, lockclient.ErrLimit)
				wantIs(t, err, lockclient.ErrRefused)
				e, ok := errors.AsType[*lockclient.LimitError](err)
				if !ok || e.Limit != want || e.Prefix != "a" || e.Value == 0 || e.Field == "" || errors.Is(err, lockclient.ErrHeld) || w.count("acquire") != n+1 {
					t.Errorf("%v, %+v", err, e)
				}
			}
		}
		one, two := w.acquire(c, lockclient.Options{Permits: 1}), w.acquire(c, lockclient.Options{})
		if one.Remaining() > 30*time.Second || !two.ExpiresAt().Before(time.Now().Add(31*time.Second)) {
			t.Errorf("%v, %v", one.Remaining(), two.ExpiresAt())
		}
		granted := make(chan error, 1)
		go func() {
			l, err := c.Acquire(t.Context(), "a", lockclient.Options{})
			if err == nil {
				err = l.Release(t.Context())
			}
			granted <- err
		}()
		time.Sleep(5 * time.Second)
		var full *lockclient.LimitError
		began := time.Now()
		_, err := c.Acquire(t.Context(), "a", lockclient.Options{Wait: 20 * time.Second, OnWait: func(h *lockclient.HeldError) { full = h.Limit }})
		wantIs(t, err, lockclient.ErrLimit)
		wantIs(t, err, lockclient.ErrHeld)
		if full == nil || full.Limit != "max_queue" || errors.Is(err, lockclient.ErrRefused) || time.Since(began) < 20*time.Second || !strings.Contains(err.Error(), "the limit max_queue is 1") {
			t.Errorf("after %v: %v, %+v", time.Since(began), err, full)
		}
		if err := errors.Join(one.Release(t.Context()), <-granted, two.Release(t.Context())); err != nil {
			t.Error(err)
		}
		if r, err := c.RemoveLimits(t.Context(), "a"); err != nil || r.Limits != nil {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// A lease that is renewed in the background ends by its limit, before the coordinator grants the lock to another, and says why.
func TestHoldLimit(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		limit(t, c, lockclient.Limits{MaxHold: 5 * time.Minute})
		l := w.acquire(c, lockclient.Options{})
		began := time.Now()
		<-l.Context().Done()
		if held := time.Since(began); held > 5*time.Minute || held < 5*time.Minute-2*time.Second {
			t.Errorf("held for %v", held)
		}
		err := l.Err()
		wantIs(t, err, lockclient.ErrLost)
		wantIs(t, err, lockclient.ErrLimit)
		if !strings.Contains(err.Error(), "ended it 5m0s after its grant") {
			t.Error(err)
		}
		if _, err := c.TryAcquire(t.Context(), "a", lockclient.Options{}); !errors.Is(err, lockclient.ErrHeld) {
			t.Errorf("another gets the lock before the lease's expiry: %v", err)
		}
		time.Sleep(2 * time.Second)
		m := w.acquire(c, lockclient.Options{ManualRenew: true, TTL: 4 * time.Minute})
		time.Sleep(3 * time.Minute)
		if err := m.Renew(t.Context()); err != nil || m.Remaining() > 2*time.Minute {
			t.Errorf("%v, %v left", err, m.Remaining())
		}
		time.Sleep(3 * time.Minute)
		_, err = c.Adopt(t.Context(), "a", m.Secret(), lockclient.Options{})
		wantIs(t, err, lockclient.ErrLost)
		wantIs(t, err, lockclient.ErrLimit)
	})
}

// A caller that waits is granted a lock when its rate allows it; one that does not is told when, by an error that matches ErrHeld and ErrLimit.
func TestRate(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		limit(t, c, lockclient.Limits{Rate: lockclient.Rate{Grants: 1, Period: time.Hour}})
		began := time.Now()
		if err := w.acquire(c, lockclient.Options{}).Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err := c.TryAcquire(t.Context(), "a", lockclient.Options{})
		wantIs(t, err, lockclient.ErrHeld)
		wantIs(t, err, lockclient.ErrLimit)
		held, _ := errors.AsType[*lockclient.HeldError](err)
		want := lockclient.LimitError{Limit: "rate", Value: 1, Period: time.Hour, Prefix: "a"}
		if held == nil || held.Limit == nil || held.RetryAfter > time.Hour || held.RetryAfter < 59*time.Minute {
			t.Fatalf("%+v", err)
		}
		if want.Detail = held.Limit.Detail; *held.Limit != want || !strings.Contains(want.Detail, "is granted once in 1h0m0s at most") {
			t.Errorf("%+v", held.Limit)
		}
		if s, err := c.Status(t.Context(), "a"); err != nil || s.NextGrant.Before(began.Add(59*time.Minute)) {
			t.Errorf("%+v, %v", s, err)
		}
		_, err = c.Acquire(t.Context(), "a", lockclient.Options{Wait: time.Minute})
		if held, ok := errors.AsType[*lockclient.HeldError](err); !ok || held.Position != 1 || held.Limit == nil || held.Limit.Limit != "rate" || !strings.Contains(err.Error(), "each lock below a is granted") {
			t.Errorf("%v", err)
		}
		lease, err := c.Acquire(t.Context(), "a", lockclient.Options{Wait: 2 * time.Hour})
		if took := time.Since(began); err != nil || took < time.Hour || took > time.Hour+5*time.Second {
			t.Fatalf("after %v: %v", took, err)
		}
		if err := lease.Release(t.Context()); err != nil {
			t.Error(err)
		}
		if s, err := c.Status(t.Context(), "b"); err != nil || !s.NextGrant.IsZero() {
			t.Errorf("%+v, %v", s, err)
		}
	})
}
