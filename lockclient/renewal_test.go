package lockclient_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// A lease that is held for an hour is renewed at a third of its TTL, and no more often.
func TestBackgroundRenewal(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		l := w.acquire(w.client(), lockclient.Options{TTL: 30 * time.Second})
		time.Sleep(time.Hour)
		synctest.Wait()
		if l.Err() != nil || !w.locked() {
			t.Errorf("lease %v", l.Err())
		}
		if n := w.count("renew"); n != 360 && n != 359 {
			t.Errorf("%d renewals in an hour", n)
		}
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestManualRenewal(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		l := w.acquire(w.client(), lockclient.Options{TTL: 10 * time.Second, ManualRenew: true})
		time.Sleep(9 * time.Second)
		if err := l.Renew(t.Context()); err != nil || time.Until(l.ExpiresAt()) < 9*time.Second {
			t.Errorf("renew: %v, expires %v", err, l.ExpiresAt())
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		wantIs(t, context.Cause(l.Context()), lockclient.ErrLost, lockclient.ErrRenew)
		wantIs(t, l.Renew(t.Context()), lockclient.ErrLost, lockclient.ErrRenew)
		wantIs(t, l.Release(t.Context()), lockclient.ErrLost, lockclient.ErrRelease)
		if n := w.count("renew"); n != 1 {
			t.Errorf("%d renewals", n)
		}
	})
}

// A renewal by hand that gets no answer ends with the lease, however long its context lasts.
func TestManualRenewalEndsWithTheLease(t *testing.T) {
	for name, renew := range map[string]func(context.Context, *lockclient.Lease) error{
		"Renew": func(ctx context.Context, l *lockclient.Lease) error { return l.Renew(ctx) },
		"SetMetadata": func(ctx context.Context, l *lockclient.Lease) error {
			return l.SetMetadata(ctx, map[string]int{"a": 1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, w *world) {
				l := w.acquire(w.client(), lockclient.Options{TTL: 10 * time.Second, ManualRenew: true})
				w.breakWith(func(_ string, _ int, r *http.Request) (*http.Response, error) { // requests hang
					<-r.Context().Done()
					return nil, r.Context().Err()
				}, nil)
				time.Sleep(9 * time.Second)
				wantIs(t, renew(t.Context(), l), lockclient.ErrLost, lockclient.ErrRenew)
				if late := time.Since(l.ExpiresAt()); late > 10*time.Millisecond {
					t.Errorf("it ended %v after the lease", late)
				}
			})
		})
	}
}

// Renewals are as frequent as Options.Heartbeat says.
func TestHeartbeat(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		l := w.acquire(w.client(), lockclient.Options{TTL: time.Minute, Heartbeat: 5 * time.Second})
		time.Sleep(10*time.Minute + time.Second)
		if n := w.count("renew"); n != 120 {
			t.Errorf("%d renewals in 10 minutes", n)
		}
		_ = l.Release(t.Context())
	})
}

// The heartbeat of an adopted lease is a third of its TTL if none is given, or if the one given does not fit.
func TestHeartbeatOfAnAdoptedLease(t *testing.T) {
	for _, heartbeat := range []time.Duration{0, 9 * time.Second, time.Minute} {
		run(t, func(t *testing.T, w *world) {
			c := w.client()
			l := w.acquire(c, lockclient.Options{TTL: 9 * time.Second, ManualRenew: true})
			adopted, err := c.Adopt(t.Context(), "a", l.Secret(), lockclient.Options{Heartbeat: heartbeat})
			if err != nil {
				t.Fatal(err)
			}
			w.breakWith(nil, nil)
			time.Sleep(30 * time.Second)
			if n := w.count("renew"); n != 10 && n != 9 || adopted.Err() != nil {
				t.Errorf("heartbeat %v: %d renewals, %v", heartbeat, n, adopted.Err())
			}
			_ = c.Close(t.Context())
		})
	}
}

// A lease survives a short outage.
func TestRenewalSurvivesAnOutage(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		l := w.acquire(w.client(), lockclient.Options{TTL: 30 * time.Second})
		w.breakWith(func(_ string, _ int, r *http.Request) (*http.Response, error) { // requests hang
			<-r.Context().Done()
			return nil, r.Context().Err()
		}, nil)
		time.Sleep(18 * time.Second)
		w.breakWith(nil, nil)
		time.Sleep(time.Minute)
		if l.Err() != nil {
			t.Errorf("lease %v", l.Err())
		}
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A holder that is cut off considers its lease lost before the coordinator grants the lock to another client.
func TestCutOffHolderStopsInTime(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		l := w.acquire(c, lockclient.Options{TTL: 9 * time.Second})
		time.Sleep(4 * time.Second) // one renewal
		w.breakWith(cutAll, nil)
		<-l.Context().Done()
		wantIs(t, context.Cause(l.Context()), lockclient.ErrLost)
		s, err := w.coordinator.Status(t.Context(), "a")
		if err != nil || len(s.Holders) != 1 {
			t.Fatalf("status %+v, %v", s, err)
		}
		left := s.Holders[0].ExpiresAt - time.Now().UnixMilli()
		if left < 0 || left > 1000 {
			t.Errorf("the client stopped %d ms before the coordinator's expiry", left)
		}
		w.breakWith(nil, nil)
		wantIs(t, l.Release(t.Context()), lockclient.ErrLost)
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestForcedOutHolderIsTold(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		l := w.acquire(w.client(), lockclient.Options{TTL: 30 * time.Second})
		if _, err := w.coordinator.ForceRelease(t.Context(), lock.ForceReleaseRequest{Lock: "a", Reason: "x"}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		<-l.Context().Done()
		wantIs(t, context.Cause(l.Context()), lockclient.ErrLost)
		if took := time.Since(start); took > 11*time.Second {
			t.Errorf("told after %v", took)
		}
		wantIs(t, l.Release(t.Context()), lockclient.ErrLost)
	})
}

// The error of a lost lease says why it was lost.
func TestLossSaysWhy(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		for what, test := range map[string]struct {
			opts  lockclient.Options
			cause func()
			says  string
		}{
			"cut off": {lockclient.Options{TTL: 9 * time.Second}, func() { w.breakWith(cutAll, nil) }, "connection reset by peer"},
			"forced out": {lockclient.Options{TTL: 9 * time.Second}, func() {
				_, _ = w.coordinator.ForceRelease(t.Context(), lock.ForceReleaseRequest{Lock: "a", Reason: "x"})
			}, "forced out"},
			"not renewed": {lockclient.Options{TTL: 9 * time.Second, ManualRenew: true}, func() {}, "time ran out"},
		} {
			w.breakWith(nil, nil)
			l := w.acquire(c, test.opts)
			test.cause()
			<-l.Context().Done()
			cause := context.Cause(l.Context())
			wantIs(t, cause, lockclient.ErrLost)
			if !strings.Contains(cause.Error(), test.says) {
				t.Errorf("%s: %v", what, cause)
			}
			w.breakWith(nil, nil)
			time.Sleep(time.Minute)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A renewal that hangs leaves time for further tries, for every TTL and heartbeat.
func TestHungRenewal(t *testing.T) {
	for _, opts := range []lockclient.Options{
		{TTL: 3 * time.Second}, {TTL: 12 * time.Second}, {TTL: time.Minute}, {TTL: 10 * time.Minute},
		{TTL: 12 * time.Second, Heartbeat: 8 * time.Second}, {TTL: 12 * time.Second, Heartbeat: time.Second},
	} {
		run(t, func(t *testing.T, w *world) {
			c := w.client()
			l := w.acquire(c, opts)
			w.breakWith(func(op string, n int, r *http.Request) (*http.Response, error) {
				if op == "renew" && n == 1 {
					return hangs(op, n, r)
				}
				return nil, nil
			}, nil)
			time.Sleep(3 * opts.TTL)
			if l.Err() != nil || w.count("renew") < 2 {
				t.Errorf("%+v: %v after %d renewals", opts, l.Err(), w.count("renew"))
			}
			if err := l.Release(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A renewal that finds another grant of its lease tells of the loss at once: the lease ended, others held the lock, the lock forgot the lease,
// and a late copy of its acquire got the lock again.
func TestRenewalOfALateCopy(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		l := w.acquire(w.client(), lockclient.Options{TTL: 30 * time.Second})
		if _, err := w.coordinator.ForceRelease(t.Context(), lock.ForceReleaseRequest{Lock: "a"}); err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{"another", l.Secret()} {
			request := lock.AcquireRequest{Lock: "a", Secret: secret, TTL: 30 * time.Second, Capacity: 1, Permits: 1}
			if _, err := w.coordinator.Acquire(t.Context(), request); err != nil {
				t.Fatal(err)
			}
			if secret == "another" {
				if _, err := w.coordinator.Release(t.Context(), lock.ReleaseRequest{Lock: "a", Secret: secret}); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		wantIs(t, l.Err(), lockclient.ErrLost, lockclient.ErrRenew)
		_ = l.Release(t.Context())
		if n := w.count("renew"); n != 1 || w.locked() {
			t.Errorf("%d renewals, locked %t", n, w.locked())
		}
	})
}

// The answer to a renewal proves nothing if the process was frozen past the deadline meanwhile, even if no timer has run yet; nor if
// the lease was released meanwhile.
func TestRenewalOfALeaseThatEndedMeanwhile(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		f := &frozen{start: time.Now()}
		lockclient.SetClock(c, f.now)
		l := w.acquire(c, lockclient.Options{TTL: 30 * time.Second, ManualRenew: true})
		expires := l.ExpiresAt()
		w.breakWith(nil, func(op string, _ int, resp *http.Response) (*http.Response, error) {
			if op == "renew" {
				f.move(31*time.Second, 31*time.Second)
			}
			return resp, nil
		})
		wantIs(t, l.Renew(t.Context()), lockclient.ErrLost, lockclient.ErrRenew)
		if !l.ExpiresAt().Equal(expires) {
			t.Errorf("revived until %v", l.ExpiresAt())
		}
		_ = l.Release(t.Context())
		_ = c.Close(t.Context())
	})
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		l := w.acquire(c, lockclient.Options{TTL: 30 * time.Second, ManualRenew: true})
		w.breakWith(nil, slowly("renew", 2*time.Second))
		renewed := make(chan error)
		go func() { renewed <- l.Renew(t.Context()) }()
		time.Sleep(time.Second)
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
		wantIs(t, <-renewed, lockclient.ErrLost, lockclient.ErrRenew)
		_ = c.Close(t.Context())
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
		time.Sleep(20 * time.Second) // renewals do not change it
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

// OnRenewal is called once when renewals begin to fail, with the time until which the lease is proved, and once when they succeed again.
func TestOnRenewal(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		var list []string
		var mu sync.Mutex // OnRenewal runs in another goroutine than the test
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
		time.Sleep(3500 * time.Millisecond) // a renewal is in progress
		err := l.Release(t.Context())
		if got := told(); err != nil || len(got) != 0 {
			t.Errorf("neither a loss nor a release is to be told: %q, %v", got, err)
		}
		_ = c.Close(t.Context())
	})
}
