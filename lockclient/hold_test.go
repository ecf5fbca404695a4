package lockclient_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// lockedUntil waits until the lock is free, and tells when that is after start.
func (w *world) lockedUntil(start time.Time) time.Duration {
	for w.locked() {
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
	}
	return time.Since(start)
}

// A lock that is released early stays held for MinHold, whatever its TTL is, and is released then; Release does not wait.
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

// Work that took longer than MinHold releases at once.
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

// Close waits for no MinHold: such leases, released or not, expire by themselves, and not earlier.
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

// In an invocation nothing runs on after the handler: the lease is left to expire.
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

// A MinHold that cannot be seen to is said; a lease that was lost is lost.
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

// The periodic job of several hosts, whose clocks differ, runs once a period.
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

func TestSetMetadata(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		shown := func() string {
			s, err := c.Status(t.Context(), "a")
			if err != nil || len(s.Holders) != 1 {
				t.Fatalf("%+v, %v", s, err)
			}
			return string(s.Holders[0].Metadata)
		}
		l := w.acquire(c, lockclient.Options{TTL: 9 * time.Second, Metadata: map[string]int{"build": 7}})
		w.breakWith(nil, loseReply("renew", 2))
		time.Sleep(2 * time.Second)
		if err := l.SetMetadata(t.Context(), map[string]int{"build": 8}); err != nil || shown() != `{"build":8}` || w.count("renew") != 3 {
			t.Errorf("%v, %s, %v", err, shown(), w.seen)
		}
		if left := time.Until(l.ExpiresAt()); left < 8*time.Second {
			t.Errorf("not renewed: %v left", left)
		}
		time.Sleep(20 * time.Second) // renewals leave it
		if shown() != `{"build":8}` {
			t.Errorf("%s", shown())
		}
		if err := l.SetMetadata(t.Context(), nil); err != nil || shown() != `{}` {
			t.Errorf("%v, %s", err, shown())
		}
		n := w.count("renew")
		for _, bad := range []any{func() {}, []int{1}, map[string]string{"x": strings.Repeat("y", 2048)}} {
			wantIs(t, l.SetMetadata(t.Context(), bad), lockclient.ErrRefused, lockclient.ErrRenew)
		}
		if w.count("renew") != n {
			t.Error("sent what it refused")
		}
		other, err := w.client().Adopt(t.Context(), "a", l.Secret(), lockclient.Options{ManualRenew: true, Metadata: map[string]int{"build": 9}})
		if err != nil || shown() != `{"build":9}` {
			t.Errorf("%v, %s", err, shown())
		}
		_, err = w.client().Adopt(t.Context(), "a", l.Secret(), lockclient.Options{Metadata: 7})
		wantIs(t, err, lockclient.ErrRefused, lockclient.ErrRenew)
		if err := other.Release(t.Context()); err != nil {
			t.Error(err)
		}
		wantIs(t, l.SetMetadata(t.Context(), nil), lockclient.ErrLost, lockclient.ErrRenew)
		wantIs(t, l.SetMetadata(t.Context(), nil), lockclient.ErrLost)
		_ = c.Close(t.Context())
	})
}

// The first failed try of a renewal is told, with the time until which the lease is proved, and that it works again; once each.
func TestOnRenewal(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		var list []string
		var mu sync.Mutex // the renewals' goroutine tells, and time alone orders it with the test
		tell := func(what string) {
			mu.Lock()
			defer mu.Unlock()
			list = append(list, what)
		}
		told := func() []string {
			mu.Lock()
			defer mu.Unlock()
			was := list
			list = nil
			return was
		}
		start := time.Now()
		l := w.acquire(c, lockclient.Options{TTL: 60 * time.Second, OnRenewal: func(err error, proved time.Time) {
			if err != nil {
				wantIs(t, err, lockclient.ErrUnavailable)
			}
			tell(fmt.Sprintf("%t at %v until %v", err == nil, time.Since(start).Round(time.Second), proved.Sub(start).Round(time.Second)))
		}})
		time.AfterFunc(30*time.Second, func() { w.breakWith(cutAll, nil) })
		time.AfterFunc(59*time.Second, func() { w.breakWith(nil, nil) })
		time.Sleep(100 * time.Second)
		if got := told(); len(got) != 2 || got[0] != "false at 40s until 1m20s" || !strings.HasPrefix(got[1], "true at ") {
			t.Errorf("told %q", got)
		}
		w.breakWith(hangs, nil)
		<-l.Context().Done()
		wantIs(t, context.Cause(l.Context()), lockclient.ErrLost)
		if got := told(); len(got) != 1 || !strings.HasPrefix(got[0], "false at") {
			t.Errorf("told %q", got)
		}
		w.breakWith(nil, nil)
		l = w.acquire(c, lockclient.Options{TTL: 9 * time.Second, OnRenewal: func(err error, _ time.Time) { tell(fmt.Sprint(err)) }})
		time.Sleep(10 * time.Second)
		if _, err := c.ForceRelease(t.Context(), "a", "test", 0); err != nil {
			t.Fatal(err)
		}
		<-l.Context().Done()
		l = w.acquire(c, lockclient.Options{TTL: 9 * time.Second, OnRenewal: func(err error, _ time.Time) { tell(fmt.Sprint(err)) }})
		w.breakWith(func(op string, n int, r *http.Request) (*http.Response, error) {
			if op == "renew" {
				return hangs(op, n, r)
			}
			return nil, nil
		}, nil)
		time.Sleep(3500 * time.Millisecond) // a renewal is under way
		err := l.Release(t.Context())
		if got := told(); err != nil || len(got) != 0 {
			t.Errorf("neither a loss nor a release is to be told: %q, %v", got, err)
		}
		_ = c.Close(t.Context())
	})
}

// Several thousand leases are given back through a store that takes a thousand writes a second: all of them, a few at a time.
func TestCloseThroughAThrottle(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		const leases = 3000
		c := w.client()
		for i := range leases {
			if _, err := c.Acquire(t.Context(), fmt.Sprintf("a:%d", i), lockclient.Options{TTL: time.Hour}); err != nil {
				t.Fatal(err)
			}
		}
		var under, most atomic.Int32
		var used atomic.Int64
		start := time.Now()
		w.breakWith(func(string, int, *http.Request) (*http.Response, error) {
			n := under.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Millisecond)
			defer under.Add(-1)
			if used.Add(1) > 1000+time.Since(start).Milliseconds() {
				used.Add(-1)
				return answer(503, nil, `{"code":"throttled","status":503,"detail":"slow down","retry_after_ms":100}`)(), nil
			}
			return nil, nil
		}, nil)
		err := c.Close(t.Context())
		w.breakWith(nil, nil)
		page, listErr := w.coordinator.Status(t.Context(), "a:0")
		if err != nil || listErr != nil || len(page.Holders) > 0 || most.Load() > 64 {
			t.Errorf("%v, %v, %+v; %d at a time", err, listErr, page, most.Load())
		}
		left := 0
		for _, err := range w.client().List(t.Context(), "a:", false) {
			if err != nil {
				t.Fatal(err)
			}
			left++
		}
		if took := time.Since(start); left != 0 || took > 20*time.Second {
			t.Errorf("%d left after %v", left, took)
		}
		fmt.Printf("close: %d leases at 1,000 writes a second in %v, %d at a time\n", leases, time.Since(start).Round(time.Millisecond), most.Load())
	})
}

// Against a coordinator that is gone, or hangs, Close ends as soon as one release would, and counts what it left.
func TestCloseCountsWhatItLeaves(t *testing.T) {
	for name, fault := range map[string]func(string, int, *http.Request) (*http.Response, error){"gone": cutAll, "hangs": hangs} {
		run(t, func(t *testing.T, w *world) {
			const leases = 500
			c := w.client()
			var lost *lockclient.Lease
			for i := range leases {
				l, err := c.Acquire(t.Context(), fmt.Sprintf("a:%d", i), lockclient.Options{TTL: time.Hour})
				if err != nil {
					t.Fatal(err)
				}
				lost = l
			}
			w.breakWith(fault, nil)
			start := time.Now()
			err := c.Close(t.Context())
			closed, ok := errors.AsType[*lockclient.CloseError](err)
			if !ok || closed.Left != leases || closed.Total != leases || len(closed.Errs) != leases || !strings.Contains(err.Error(), "500 of 500 leases were not released") || len(err.Error()) > 300 {
				t.Errorf("%s: %v", name, err)
			}
			wantIs(t, err, lockclient.ErrRelease, lockclient.ErrUnavailable)
			wantIs(t, lost.Err(), lockclient.ErrReleased)
			if took := time.Since(start); took > 23*time.Second {
				t.Errorf("%s: took %v", name, took)
			}
			if n := w.count("release"); n > 4*32 {
				t.Errorf("%s: %d requests", name, n)
			}
		})
	}
}

// What was lost before is told, but is not left; and a context that ends ends Close.
func TestCloseErrors(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		w.acquire(c, lockclient.Options{TTL: time.Hour})
		if _, err := c.ForceRelease(t.Context(), "a", "test", 0); err != nil {
			t.Fatal(err)
		}
		err := c.Close(t.Context())
		closed, ok := errors.AsType[*lockclient.CloseError](err)
		if !ok || closed.Left != 0 || closed.Total != 1 || strings.Contains(err.Error(), "not released") {
			t.Errorf("%v", err)
		}
		wantIs(t, err, lockclient.ErrLost)

		c = w.client()
		w.acquire(c, lockclient.Options{TTL: time.Hour})
		w.breakWith(hangs, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		err = c.Close(ctx)
		if closed, ok := errors.AsType[*lockclient.CloseError](err); !ok || closed.Left != 1 || time.Since(start) > 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		wantIs(t, err, context.DeadlineExceeded)
	})
}
