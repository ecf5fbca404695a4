package lockclient_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// lockedUntil waits until the lock is free, and returns the time from start to then.
func (w *world) lockedUntil(start time.Time) time.Duration {
	for w.locked() {
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
	}
	return time.Since(start)
}

// A lock that is released early stays held for MinHold, whatever its TTL, and is then released. Release does not wait for that.
func TestMinHold(t *testing.T) {
	for _, test := range []struct {
		ttl      time.Duration
		renewals int
	}{{time.Minute, 0}, {10 * time.Second, 1}, {50 * time.Second, 1}} {
		run(t, func(t *testing.T, w *world) {
			c := w.client()
			start := time.Now()
			l := w.acquire(c, lockclient.Options{TTL: test.ttl, MinHold: 50 * time.Second})
			time.Sleep(time.Second)
			if err := l.Release(t.Context()); err != nil || time.Since(start) != time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
			wantIs(t, l.Err(), lockclient.ErrReleased)
			if w.count("renew") != test.renewals || w.count("release") != 0 {
				t.Errorf("TTL %v: requests %v", test.ttl, w.seen)
			}
			_, err := c.TryAcquire(t.Context(), "a", lockclient.Options{})
			wantIs(t, err, lockclient.ErrHeld)
			if held := w.lockedUntil(start); held < 50*time.Second || held > 50*time.Second+200*time.Millisecond || w.count("release") != 1 {
				t.Errorf("TTL %v: held for %v, %v", test.ttl, held, w.seen)
			}
			if err := c.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// After MinHold a release takes effect at once.
func TestMinHoldThatHasPassed(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		err := c.Do(t.Context(), "a", lockclient.Options{MinHold: 5 * time.Second}, func(context.Context, *lockclient.Lease) error {
			time.Sleep(5 * time.Second)
			return nil
		})
		if err != nil || w.locked() {
			t.Errorf("%v, locked %v", err, w.locked())
		}
	})
}

// Close does not wait for MinHold. The leases expire by themselves, and not before it has passed.
func TestMinHoldAndClose(t *testing.T) {
	for _, releasedFirst := range []bool{true, false} {
		run(t, func(t *testing.T, w *world) {
			c := w.client()
			start := time.Now()
			l := w.acquire(c, lockclient.Options{TTL: 10 * time.Second, MinHold: 50 * time.Second})
			if releasedFirst {
				if err := l.Release(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if err := c.Close(t.Context()); err != nil || time.Since(start) != 0 {
				t.Errorf("%v after %v", err, time.Since(start))
			}
			next := w.acquire(w.client(), lockclient.Options{})
			if held := time.Since(start); held < 50*time.Second || held > 53*time.Second || w.count("release") != 0 {
				t.Errorf("held for %v, %d releases", held, w.count("release"))
			}
			_ = next.Release(t.Context())
		})
	}
}

// In an invocation nothing runs after the handler, so the lease expires by itself.
func TestMinHoldInAnInvocation(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		ctx, cancel := invocation(t, 20*time.Second)
		defer cancel()
		start := time.Now()
		handler := lockclient.Exclusive(w.lambdaClient(), func(int) string { return "a" }, func(context.Context, int) (int, error) { return 7, nil },
			lockclient.Options{MinHold: 50 * time.Second})
		if out, err := handler(ctx, 0); out != 7 || err != nil || time.Since(start) != 0 {
			t.Errorf("%d, %v after %v", out, err, time.Since(start))
		}
		next := w.acquire(w.client(), lockclient.Options{})
		if held := time.Since(start); held < 50*time.Second || held > 53*time.Second || w.count("release") != 0 {
			t.Errorf("held for %v, %d releases", held, w.count("release"))
		}
		_ = next.Release(t.Context())
	})
}

// If MinHold cannot be ensured, Release returns an error. A lost lease is an ErrLost.
func TestMinHoldFailures(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		opts := lockclient.Options{TTL: 10 * time.Second, MinHold: 50 * time.Second}
		l := w.acquire(c, opts)
		w.breakWith(cutAll, nil)
		err := l.Release(t.Context())
		wantIs(t, err, lockclient.ErrRelease, lockclient.ErrUnavailable)
		if !strings.Contains(err.Error(), "Options.MinHold") || w.count("release") != 0 {
			t.Errorf("%v, %v", err, w.seen)
		}
		w.breakWith(nil, nil)
		l = w.acquire(c, opts)
		if _, err := c.ForceRelease(t.Context(), "a", "test", 0); err != nil {
			t.Fatal(err)
		}
		wantIs(t, l.Release(t.Context()), lockclient.ErrRelease, lockclient.ErrLost)
		l = w.acquire(c, lockclient.Options{TTL: 10 * time.Second, MinHold: time.Minute, ManualRenew: true})
		time.Sleep(11 * time.Second)
		wantIs(t, l.Release(t.Context()), lockclient.ErrRelease, lockclient.ErrLost)
		_ = c.Close(t.Context())
	})
}

// A periodic job on several hosts with different clocks runs once a period.
func TestPeriodicJobRunsOnce(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		var runs atomic.Int32
		for period := range 3 {
			for host := range 3 {
				go func() {
					time.Sleep(time.Duration(period)*time.Minute + time.Duration(host)*400*time.Millisecond)
					c := w.client()
					err := c.Do(t.Context(), "a", lockclient.Options{TTL: 50 * time.Second, MinHold: 50 * time.Second, Wait: time.Nanosecond}, func(context.Context, *lockclient.Lease) error {
						runs.Add(1)
						time.Sleep(100 * time.Millisecond)
						return nil
					})
					if err != nil && !errors.Is(err, lockclient.ErrHeld) && !errors.Is(err, context.DeadlineExceeded) {
						t.Error(err)
					}
					_ = c.Close(t.Context())
				}()
			}
		}
		time.Sleep(4 * time.Minute)
		synctest.Wait()
		if n := runs.Load(); n != 3 {
			t.Errorf("%d runs in 3 periods", n)
		}
	})
}
