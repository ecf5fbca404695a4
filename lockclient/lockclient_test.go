package lockclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/local"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// world is a coordinator in process, reached through a network that a test breaks. It lives in a synctest bubble, so all
// of its time is the bubble's.
type world struct {
	t           *testing.T
	coordinator *lock.Coordinator
	handler     http.Handler

	mu     sync.Mutex
	seen   []string                                                        // "op" of each request
	before func(op string, n int, r *http.Request) (*http.Response, error) // n counts requests of an op, from 1
	after  func(op string, n int, resp *http.Response) (*http.Response, error)
}

func newWorld(t *testing.T) *world {
	c, err := lock.New(lock.Config{Store: &lock.Memory{}})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	a, err := api.New(api.Config{Coordinator: c, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, coordinator: c, handler: local.NewGateway(a, log)}
}

func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	op := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	w.mu.Lock()
	w.seen = append(w.seen, op)
	n := w.countLocked(op)
	before, after := w.before, w.after
	w.mu.Unlock()
	if before != nil {
		if resp, err := before(op, n, r); resp != nil || err != nil {
			return resp, err
		}
	}
	rec := httptest.NewRecorder()
	if r.Body == nil { // a server's requests have one
		r.Body = http.NoBody
	}
	w.handler.ServeHTTP(rec, r.WithContext(context.WithoutCancel(r.Context()))) // a server knows nothing of a client's context
	resp, err := rec.Result(), error(nil)
	if after != nil {
		resp, err = after(op, n, resp)
	}
	if ctxErr := r.Context().Err(); ctxErr != nil { // as a network's transport does
		return nil, ctxErr
	}
	return resp, err
}

func (w *world) countLocked(op string) (n int) {
	for _, s := range w.seen {
		if s == op {
			n++
		}
	}
	return n
}

func (w *world) count(op string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.countLocked(op)
}

func (w *world) breakWith(before func(op string, n int, r *http.Request) (*http.Response, error), after func(op string, n int, resp *http.Response) (*http.Response, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen, w.before, w.after = nil, before, after
}

func (w *world) client() *lockclient.Client {
	c, err := lockclient.New(lockclient.Config{Endpoint: "http://holdfast.test", HTTPClient: &http.Client{Transport: w}, Owner: "tester"})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) acquire(c *lockclient.Client, opts lockclient.Options) *lockclient.Lease {
	w.t.Helper()
	l, err := c.Acquire(w.t.Context(), "a", opts)
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

func (w *world) locked() bool {
	w.t.Helper()
	s, err := w.coordinator.Status(w.t.Context(), "a")
	if err != nil {
		w.t.Fatal(err)
	}
	return len(s.Holders) > 0
}

var errCut = errors.New("connection reset by peer")

func cutAll(string, int, *http.Request) (*http.Response, error) { return nil, errCut }

// loseReply loses the answers to the first n requests of an op.
func loseReply(which string, upTo int) func(string, int, *http.Response) (*http.Response, error) {
	return func(op string, n int, resp *http.Response) (*http.Response, error) {
		if op == which && n <= upTo {
			return nil, errCut
		}
		return resp, nil
	}
}

func run(t *testing.T, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) { test(t, newWorld(t)) })
}

func wantIs(t *testing.T, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Errorf("error %v is not %v", err, target)
		}
	}
}

func TestAcquireStatusRelease(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		l := w.acquire(c, lockclient.Options{Metadata: map[string]int{"build": 7}, TTL: 10 * time.Second})
		s, err := c.Status(t.Context(), "a")
		if err != nil || !s.Locked || len(s.Holders) != 1 || s.Holders[0].Fence != l.Fence() || s.Holders[0].Owner != "tester" || string(s.Holders[0].Metadata) != `{"build":7}` {
			t.Errorf("status %+v, %v", s, err)
		}
		for _, text := range []string{fmt.Sprint(l), fmt.Sprintf("%+v", l), fmt.Sprintf("%#v", l)} {
			if !strings.HasPrefix(text, "lease of a, fence ") {
				t.Errorf("printed as %s", text)
			}
		}
		if l.Err() != nil || l.Context().Err() != nil || l.Name() != "a" {
			t.Errorf("lease %v", l.Err())
		}
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
		wantIs(t, context.Cause(l.Context()), lockclient.ErrReleased)
		wantIs(t, l.Err(), lockclient.ErrReleased)
		if err := l.Release(t.Context()); err != nil {
			t.Errorf("a second release: %v", err)
		}
		if w.locked() || w.count("release") != 1 {
			t.Errorf("locked %v after %d releases", w.locked(), w.count("release"))
		}
		next := w.acquire(c, lockclient.Options{})
		if next.Fence() <= l.Fence() {
			t.Errorf("fence went from %d to %d", l.Fence(), next.Fence())
		}
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A lease held for an hour is renewed at a third of its TTL, and no more.
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

// A holder that is cut off stops believing before the coordinator gives its lock to anyone.
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

// Renewals that bring no answer for a while lose nothing.
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

// A host that does not exist is not asked for forever.
func TestNoSuchHost(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.breakWith(func(string, int, *http.Request) (*http.Response, error) {
			return nil, &net.DNSError{Err: "no such host", Name: "holdfast.test", IsNotFound: true}
		}, nil)
		c := w.client()
		_, err := c.Acquire(t.Context(), "a", lockclient.Options{})
		wantIs(t, err, lockclient.ErrRefused)
		if !strings.Contains(err.Error(), "no host holdfast.test") {
			t.Errorf("error %v", err)
		}
		_ = c.Close(t.Context())
	})
}

// A loss says why.
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

// A grant that was long in coming, because its first replies were lost, is renewed in what is left of its life.
func TestLateGrantIsRenewedInTime(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.breakWith(func(op string, n int, r *http.Request) (*http.Response, error) {
			if op == "acquire" && n == 1 {
				w.handler.ServeHTTP(httptest.NewRecorder(), r)
				<-r.Context().Done() // the client's time-out, 5 s
				return nil, r.Context().Err()
			}
			return nil, nil
		}, nil)
		l := w.acquire(w.client(), lockclient.Options{TTL: 7 * time.Second})
		time.Sleep(time.Minute)
		if l.Err() != nil {
			t.Errorf("lease %v", l.Err())
		}
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A release whose context has ended is carried out all the same.
func TestReleaseAfterItsContextEnded(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		l := w.acquire(c, lockclient.Options{TTL: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		wantIs(t, l.Release(ctx), lockclient.ErrRelease, context.Canceled)
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if w.locked() {
			t.Error("the lock is still held")
		}
	})
}

// Close does not outlast its context.
func TestCloseKeepsToItsContext(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		w.acquire(c, lockclient.Options{TTL: time.Hour})
		w.breakWith(func(_ string, _ int, r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		start := time.Now()
		wantIs(t, c.Close(ctx), context.DeadlineExceeded)
		if took := time.Since(start); took > time.Second {
			t.Errorf("took %v", took)
		}
		time.Sleep(time.Minute) // what is left behind ends by itself
	})
}

// A server that answers what is no grant is not asked again and again.
func TestAnswerThatIsNoGrant(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.breakWith(func(string, int, *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{}`))}, nil
		}, nil)
		c := w.client()
		_, err := c.Acquire(t.Context(), "a", lockclient.Options{})
		wantIs(t, err, lockclient.ErrRefused)
		if n := w.count("acquire"); n != 1 {
			t.Errorf("%d requests", n)
		}
		_ = c.Close(t.Context())
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

func TestLostReplies(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.breakWith(nil, loseReply("acquire", 2))
		l := w.acquire(w.client(), lockclient.Options{TTL: 30 * time.Second})
		if n := w.count("acquire"); n != 3 {
			t.Errorf("%d requests", n)
		}
		if left := time.Until(l.ExpiresAt()); left > 30*time.Second {
			t.Errorf("proved for %v", left)
		}
		w.breakWith(nil, loseReply("renew", 1))
		time.Sleep(time.Minute)
		if l.Err() != nil {
			t.Errorf("after a renewal's lost reply: %v", l.Err())
		}
		w.breakWith(nil, loseReply("release", 1))
		if err := l.Release(t.Context()); err != nil || w.count("release") != 2 {
			t.Errorf("release: %v after %d requests", err, w.count("release"))
		}
		if w.locked() {
			t.Error("still locked")
		}
	})
}

// A release whose first try was carried out unheard, and whose lease the lock has forgotten, is done all the same.
func TestRepeatedReleaseOfAForgottenLease(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		l := w.acquire(w.client(), lockclient.Options{})
		w.breakWith(nil, func(op string, n int, resp *http.Response) (*http.Response, error) {
			if op == "release" && n == 1 {
				for _, lease := range []string{"b", "c"} {
					if _, err := w.coordinator.Acquire(t.Context(), lock.AcquireRequest{Lock: "a", Secret: lease, TTL: time.Minute, Capacity: 1, Permits: 1}); err != nil {
						t.Error(err)
					}
					if _, err := w.coordinator.Release(t.Context(), lock.ReleaseRequest{Lock: "a", Secret: lease}); err != nil {
						t.Error(err)
					}
				}
				return nil, errCut
			}
			return resp, nil
		})
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestAnswerThatComesTooLateIsNotBelieved(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.breakWith(nil, func(op string, n int, resp *http.Response) (*http.Response, error) {
			if op == "acquire" && n == 1 {
				time.Sleep(4 * time.Second) // within the time for a request, beyond the lease
			}
			return resp, nil
		})
		l := w.acquire(w.client(), lockclient.Options{TTL: 3 * time.Second})
		if l.Err() != nil || w.count("acquire") < 2 {
			t.Errorf("lease %v after %d requests", l.Err(), w.count("acquire"))
		}
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestWaiterGetsTheLockWhenItIsReleased(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		first := w.acquire(w.client(), lockclient.Options{})
		time.AfterFunc(20*time.Second, func() {
			if err := first.Release(t.Context()); err != nil {
				t.Error(err)
			}
		})
		start := time.Now()
		second := w.acquire(w.client(), lockclient.Options{})
		if took := time.Since(start); took < 20*time.Second || took > 26*time.Second {
			t.Errorf("waited %v", took)
		}
		if n := w.count("acquire"); n > 170 { // the next in turn: between an eighth of a RetryDelay and a quarter apart
			t.Errorf("%d requests in 20 s of waiting", n)
		}
		if err := second.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A waiter does not sleep past the expiry of a dead holder's lease.
func TestWaiterTakesOverFromADeadHolder(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		if _, err := w.coordinator.Acquire(t.Context(), lock.AcquireRequest{Lock: "a", Secret: "dead", TTL: 20 * time.Second, Capacity: 1, Permits: 1}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		l := w.acquire(w.client(), lockclient.Options{})
		if took := time.Since(start); took > 20*time.Second+lock.DefaultSkew+time.Second {
			t.Errorf("took over after %v", took)
		}
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestGivingUp(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		holder, c := w.acquire(w.client(), lockclient.Options{}), w.client()
		start := time.Now()
		_, err := c.TryAcquire(t.Context(), "a", lockclient.Options{})
		wantIs(t, err, lockclient.ErrHeld, lockclient.ErrAcquire)
		held, ok := errors.AsType[*lockclient.HeldError](err)
		if !ok || len(held.Holders) != 1 || held.Holders[0].Owner != "tester" || held.Holders[0].Fence != holder.Fence() || held.RetryAfter <= 0 {
			t.Errorf("held %+v", held)
		}
		if time.Since(start) != 0 {
			t.Errorf("a try took %v", time.Since(start))
		}
		_, err = c.Acquire(t.Context(), "a", lockclient.Options{Wait: 7 * time.Second})
		wantIs(t, err, lockclient.ErrHeld, lockclient.ErrAcquire)
		if took := time.Since(start); took != 7*time.Second {
			t.Errorf("gave up after %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err = c.Acquire(ctx, "a", lockclient.Options{})
		wantIs(t, err, lockclient.ErrHeld, context.DeadlineExceeded)
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("obeyed its context after %v", took)
		}
		if err := holder.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// Whoever gives up while a grant may be on its way gives it back.
func TestGivingUpUnheardReleases(t *testing.T) {
	for name, opts := range map[string]lockclient.Options{"context": {}, "wait": {Wait: 2 * time.Second}} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, w *world) {
				w.breakWith(nil, func(op string, _ int, resp *http.Response) (*http.Response, error) {
					if op == "acquire" {
						time.Sleep(3 * time.Second)
					}
					return resp, nil
				})
				ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
				defer cancel()
				c := w.client()
				if l, err := c.Acquire(ctx, "a", opts); err == nil {
					t.Errorf("acquired %v", l)
				}
				if err := c.Close(t.Context()); err != nil { // waits for what runs in the background
					t.Error(err)
				}
				if w.locked() {
					t.Error("a lease that nobody knows of is left")
				}
			})
		})
	}
}

func TestOutage(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		w.breakWith(cutAll, nil)
		_, err := c.TryAcquire(t.Context(), "a", lockclient.Options{})
		wantIs(t, err, lockclient.ErrUnavailable, lockclient.ErrAcquire)
		if n := w.count("acquire"); n != 4 { // and Config.Retries
			t.Errorf("%d tries", n)
		}
		_, err = c.Status(t.Context(), "a")
		wantIs(t, err, lockclient.ErrUnavailable)
		time.AfterFunc(30*time.Second, func() { w.breakWith(nil, nil) })
		l := w.acquire(c, lockclient.Options{})
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A gateway's own answers are told apart: 5xx and 429 may be tried again, others not.
func TestGatewayAnswers(t *testing.T) {
	for status, target := range map[int]error{
		502: lockclient.ErrUnavailable, 503: lockclient.ErrUnavailable, 429: lockclient.ErrUnavailable,
		403: lockclient.ErrRefused, 404: lockclient.ErrRefused,
	} {
		run(t, func(t *testing.T, w *world) {
			w.breakWith(func(string, int, *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{"message":"from the gateway"}`))}, nil
			}, nil)
			c := w.client()
			_, err := c.TryAcquire(t.Context(), "a", lockclient.Options{})
			wantIs(t, err, target)
			if !strings.Contains(err.Error(), "from the gateway") {
				t.Errorf("error %v", err)
			}
			_ = c.Close(t.Context())
		})
	}
}

func TestBadInputIsRefusedWithoutARequest(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		for _, test := range []struct {
			name string
			opts lockclient.Options
			says string
		}{
			{"", lockclient.Options{}, "name is empty"},
			{"a/b", lockclient.Options{}, `'/'`},
			{"a", lockclient.Options{TTL: -1}, "Options.TTL"},
			{"a", lockclient.Options{TTL: 8 * 24 * time.Hour}, "Options.TTL"},
			{"a", lockclient.Options{Wait: -1}, "Options.Wait"},
			{"a", lockclient.Options{Permits: 2}, "Options.Permits"},
			{"a", lockclient.Options{Metadata: func() {}}, "json"},
			{"a", lockclient.Options{Metadata: []int{1}}, "no JSON object"},
			{"a", lockclient.Options{Metadata: map[string]string{"x": strings.Repeat("y", 2048)}}, "2056 bytes"},
			{"a", lockclient.Options{MinHold: -1}, "Options.MinHold"},
			{"a", lockclient.Options{Heartbeat: -1}, "Options.Heartbeat"},
			{"a", lockclient.Options{Heartbeat: time.Minute}, "Options.Heartbeat"},
			{"a", lockclient.Options{Heartbeat: 9 * time.Second, TTL: 9 * time.Second}, "Options.Heartbeat"},
		} {
			_, err := c.Acquire(t.Context(), test.name, test.opts)
			wantIs(t, err, lockclient.ErrRefused, lockclient.ErrAcquire)
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("%+v: %v", test, err)
			}
		}
		if len(w.seen) != 0 {
			t.Errorf("sent %v", w.seen)
		}
		_, err := c.Acquire(t.Context(), "a", lockclient.Options{TTL: time.Millisecond}) // only the coordinator knows
		refused, ok := errors.AsType[*lockclient.RefusedError](err)
		if !ok || refused.Field != "ttl_ms" || refused.Status != 400 || refused.Code != "invalid_request" {
			t.Errorf("error %v", err)
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	creds := credentials.NewStaticCredentialsProvider("a", "b", "")
	for _, test := range []struct {
		cfg  lockclient.Config
		says string
	}{
		{lockclient.Config{}, "Endpoint is empty"},
		{lockclient.Config{Endpoint: "holdfast.test"}, "give a URL"},
		{lockclient.Config{Endpoint: "ftp://holdfast.test"}, "give a URL"},
		{lockclient.Config{Endpoint: "http://holdfast.test", Credentials: creds}, "Region"},
		{lockclient.Config{Endpoint: "http://holdfast.test", RequestTimeout: -1}, "RequestTimeout"},
		{lockclient.Config{Endpoint: "http://holdfast.test", Owner: strings.Repeat("o", 257)}, "Owner"},
	} {
		if _, err := lockclient.New(test.cfg); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%+v: %v", test.cfg, err)
		}
	}
}

func TestRequestsAreSigned(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		var auth []string
		w.breakWith(func(_ string, _ int, r *http.Request) (*http.Response, error) {
			auth = append(auth, r.Header.Get("Authorization"))
			return nil, nil
		}, nil)
		c, err := lockclient.New(lockclient.Config{
			Endpoint: "http://holdfast.test/", Region: "eu-west-1", HTTPClient: &http.Client{Transport: w},
			Credentials: credentials.NewStaticCredentialsProvider("AKID", "secret", ""),
		})
		if err != nil {
			t.Fatal(err)
		}
		l := w.acquire(c, lockclient.Options{})
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
		for _, a := range auth {
			if !strings.HasPrefix(a, "AWS4-HMAC-SHA256 Credential=AKID/") || !strings.Contains(a, "/eu-west-1/execute-api/aws4_request") {
				t.Errorf("authorization %q", a)
			}
		}
	})
}

func TestDo(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		boom := errors.New("boom")
		err := c.Do(t.Context(), "a", lockclient.Options{}, func(ctx context.Context, l *lockclient.Lease) error {
			if !w.locked() || ctx.Err() != nil || l.Fence() == 0 {
				t.Error("not held inside")
			}
			return boom
		})
		wantIs(t, err, boom)
		if w.locked() {
			t.Error("still locked after an error")
		}
		func() {
			defer func() { _ = recover() }()
			_ = c.Do(t.Context(), "a", lockclient.Options{}, func(context.Context, *lockclient.Lease) error { panic("at the holder") })
		}()
		if w.locked() {
			t.Error("still locked after a panic")
		}
		err = c.Do(t.Context(), "a", lockclient.Options{TTL: 9 * time.Second}, func(ctx context.Context, _ *lockclient.Lease) error {
			w.breakWith(cutAll, nil)
			<-ctx.Done()
			w.breakWith(nil, nil)
			return context.Cause(ctx)
		})
		wantIs(t, err, lockclient.ErrLost, lockclient.ErrRelease)
		ctx, cancel := context.WithCancel(t.Context())
		err = c.Do(ctx, "a", lockclient.Options{}, func(ctx context.Context, _ *lockclient.Lease) error {
			cancel()
			<-ctx.Done()
			return ctx.Err()
		})
		wantIs(t, err, context.Canceled)
		if w.locked() {
			t.Error("still locked after a cancelled context")
		}
	})
}

func TestClose(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		var leases []*lockclient.Lease
		for _, name := range []string{"a", "b", "c"} {
			l, err := c.Acquire(t.Context(), name, lockclient.Options{})
			if err != nil {
				t.Fatal(err)
			}
			leases = append(leases, l)
		}
		w.breakWith(func(_ string, _ int, r *http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			if strings.Contains(r.URL.Path, "/b/") {
				return nil, errCut
			}
			return nil, nil
		}, nil)
		start := time.Now()
		err := c.Close(t.Context())
		wantIs(t, err, lockclient.ErrRelease, lockclient.ErrUnavailable)
		if took := time.Since(start); took > 5*time.Second { // three tries of b; a and c meanwhile
			t.Errorf("took %v", took)
		}
		for i, want := range []bool{false, true, false} {
			s, err := w.coordinator.Status(t.Context(), leases[i].Name())
			if err != nil || (len(s.Holders) > 0) != want {
				t.Errorf("%s: %+v, %v", leases[i].Name(), s, err)
			}
		}
		_, err = c.Acquire(t.Context(), "d", lockclient.Options{})
		wantIs(t, err, lockclient.ErrClosed, lockclient.ErrAcquire)
	})
}

// One lease and one client, used from everywhere at once.
// Close ends what is being acquired, and leaves nothing of it held.
func TestCloseEndsAcquisitions(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		holder := w.acquire(w.client(), lockclient.Options{})
		c := w.client()
		errs := make(chan error, 2)
		go func() {
			_, err := c.Acquire(t.Context(), "a", lockclient.Options{}) // it waits
			errs <- err
		}()
		go func() {
			_, err := c.Acquire(t.Context(), "b", lockclient.Options{}) // its grant is on the way
			errs <- err
		}()
		w.breakWith(nil, func(op string, _ int, resp *http.Response) (*http.Response, error) {
			if op == "acquire" {
				time.Sleep(2 * time.Second)
			}
			return resp, nil
		})
		time.Sleep(time.Second)
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
		for range 2 {
			wantIs(t, <-errs, lockclient.ErrClosed, lockclient.ErrAcquire)
		}
		if s, err := w.coordinator.Status(t.Context(), "b"); err != nil || len(s.Holders) > 0 {
			t.Errorf("after Close %+v, %v", s, err)
		}
		_ = holder.Release(t.Context())
	})
}

func TestConcurrentUse(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		inside := 0
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 5 {
					err := c.Do(t.Context(), "a", lockclient.Options{}, func(_ context.Context, l *lockclient.Lease) error {
						inside++ // unprotected but for the lock: the race detector watches
						time.Sleep(10 * time.Millisecond)
						inside--
						return l.Renew(t.Context())
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		l := w.acquire(c, lockclient.Options{})
		for range 8 {
			wg.Go(func() {
				_, _, _ = l.Fence(), l.ExpiresAt(), l.Err()
				_ = l.Renew(t.Context())
				if err := l.Release(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if inside != 0 || w.locked() {
			t.Errorf("inside %d, locked %v", inside, w.locked())
		}
	})
}

// Not reentrant: a second acquire by the same client waits like anyone's.
func TestNotReentrant(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		l := w.acquire(c, lockclient.Options{})
		_, err := c.TryAcquire(t.Context(), "a", lockclient.Options{})
		wantIs(t, err, lockclient.ErrHeld)
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestSemaphore(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		two := lockclient.Options{Capacity: 2}
		w.acquire(c, two)
		w.acquire(c, two)
		_, err := c.TryAcquire(t.Context(), "a", two)
		wantIs(t, err, lockclient.ErrHeld)
		_, err = c.TryAcquire(t.Context(), "a", lockclient.Options{Capacity: 3})
		wantIs(t, err, lockclient.ErrRefused)
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if w.locked() {
			t.Error("still locked")
		}
	})
}
