package lockclient_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// invocation is the context of a Lambda invocation that may take so long.
func invocation(t *testing.T, most time.Duration) (context.Context, context.CancelFunc) {
	t.Setenv("AWS_LAMBDA_FUNCTION_NAME", "reports")
	ctx := lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{AwsRequestID: "req-1"})
	return context.WithTimeout(ctx, most)
}

// lambdaClient is a client as functions make it: with no owner of its own.
func (w *world) lambdaClient() *lockclient.Client {
	c, err := lockclient.New(lockclient.Config{Endpoint: "http://holdfast.test", HTTPClient: &http.Client{Transport: w}})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

type order struct{ ID string }

func orderName(o order) string { return "order:" + o.ID }

// In an invocation the lease lasts a little longer than the invocation may, nothing renews it, and it is the invocation's.
func TestLeaseOfAnInvocation(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		ctx, cancel := invocation(t, 5*time.Minute)
		defer cancel()
		c := w.lambdaClient()
		time.Sleep(time.Minute)
		l, err := c.Acquire(ctx, "a", lockclient.Options{})
		if err != nil {
			t.Fatal(err)
		}
		left := time.Until(l.ExpiresAt())
		if left < 4*time.Minute || left > 4*time.Minute+2*time.Second {
			t.Errorf("lasts %v with 4 minutes left", left)
		}
		s, _ := c.Status(ctx, "a")
		if s.Holders[0].Owner != "reports/req-1" {
			t.Errorf("owner %q", s.Holders[0].Owner)
		}
		time.Sleep(4*time.Minute - time.Second)
		synctest.Wait()
		if l.Err() != nil || w.count("renew") != 0 {
			t.Errorf("before the deadline: %v, %d renewals", l.Err(), w.count("renew"))
		}
		time.Sleep(time.Second + time.Millisecond) // the invocation is killed
		synctest.Wait()
		wantIs(t, context.Cause(l.Context()), lockclient.ErrLost)
		start := time.Now()
		other := w.acquire(w.client(), lockclient.Options{})
		if waited := time.Since(start); waited > 3*time.Second {
			t.Errorf("the lock of a killed invocation came free %v after its deadline", waited)
		}
		_ = other.Release(t.Context())
		_ = c.Close(t.Context())
	})
}

// A TTL that is given is kept, and renewed; but nothing of it outlives the invocation.
func TestNothingOutlivesTheHandler(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		ctx, cancel := invocation(t, 5*time.Minute)
		c := w.lambdaClient()
		l, err := c.Acquire(ctx, "a", lockclient.Options{TTL: 9 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if w.count("renew") != 3 || l.Err() != nil {
			t.Errorf("%d renewals, %v", w.count("renew"), l.Err())
		}
		cancel() // Lambda does so when the handler returns
		synctest.Wait()
		wantIs(t, l.Err(), lockclient.ErrLost)
		if !strings.Contains(l.Err().Error(), "invocation is over") {
			t.Errorf("%v", l.Err())
		}
		time.Sleep(time.Hour)
		if w.count("renew") != 3 {
			t.Errorf("%d renewals", w.count("renew"))
		}
		wantIs(t, l.Release(t.Context()), lockclient.ErrLost)
		if w.locked() {
			t.Error("still locked")
		}
	})
}

// A lease that nobody will use is given back before the handler returns, not in the background.
func TestGivingUpInAnInvocationReleasesAtOnce(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		ctx, cancel := invocation(t, time.Minute)
		defer cancel()
		c := w.lambdaClient()
		w.breakWith(nil, loseReply("acquire", 100))
		_, err := c.Acquire(ctx, "a", lockclient.Options{Wait: 10 * time.Second})
		wantIs(t, err, lockclient.ErrUnavailable)
		if w.locked() || w.count("release") != 1 {
			t.Errorf("locked %v, %d releases", w.locked(), w.count("release"))
		}
		_ = c.Close(t.Context())
	})
}

func TestExclusive(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.lambdaClient()
		runs := 0
		handler := lockclient.Exclusive(c, orderName, func(ctx context.Context, o order) (string, error) {
			runs++
			l := lockclient.LeaseFrom(ctx)
			if l == nil || l.Name() != "order:7" || l.Fence() < 1 {
				t.Errorf("lease %v", l)
			}
			if _, err := c.TryAcquire(ctx, "order:7", lockclient.Options{}); !errors.Is(err, lockclient.ErrHeld) {
				t.Errorf("inside: %v", err)
			}
			if o.ID != "7" {
				return "", errors.New("another order")
			}
			return "done", ctx.Err()
		})
		ctx, cancel := invocation(t, time.Minute)
		defer cancel()
		out, err := handler(ctx, order{"7"})
		if out != "done" || err != nil || runs != 1 {
			t.Fatalf("%q, %v, %d runs", out, err, runs)
		}
		s, _ := w.coordinator.Status(ctx, "order:7")
		if len(s.Holders) != 0 {
			t.Errorf("held after the handler: %+v", s)
		}
		if w.count("acquire") != 2 || w.count("release") != 1 || w.count("renew") != 0 {
			t.Errorf("requests %v", w.seen)
		}

		// Held by others: the handler does not run, and the invocation fails at once, or after the wait it was allowed.
		l, err := w.client().Acquire(ctx, "order:7", lockclient.Options{})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, err = handler(ctx, order{"7"})
		held, ok := errors.AsType[*lockclient.HeldError](err)
		if bare, direct := err.(*lockclient.HeldError); !direct { //nolint:errorlint // Lambda names an error by its own type
			t.Errorf("the error is a %T, %v", err, bare)
		}
		if !ok || held.Holders[0].Owner != "tester" || runs != 1 || time.Since(start) > 0 {
			t.Errorf("%v after %v, %d runs", err, time.Since(start), runs)
		}
		patient := lockclient.Exclusive(c, orderName, func(context.Context, order) (int, error) { return 42, nil }, lockclient.Options{Wait: 5 * time.Second})
		_, err = patient(ctx, order{"7"})
		wantIs(t, err, lockclient.ErrHeld)
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("waited %v", took)
		}
		if err := l.Release(ctx); err != nil {
			t.Fatal(err)
		}
		if n, err := patient(ctx, order{"7"}); n != 42 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		w.breakWith(cutAll, nil)
		_, err = handler(ctx, order{"7"})
		wantIs(t, err, lockclient.ErrUnavailable)
		if n := w.count("acquire"); n != 4 { // and Config.Retries
			t.Errorf("%d requests with the coordinator away", n)
		}
		w.breakWith(nil, nil)
		_ = c.Close(t.Context())
	})
}

// frozen is a pair of clocks of which a test stops and moves either.
type frozen struct {
	mu              sync.Mutex
	start           time.Time
	monotonic, wall time.Duration // by how much each is off
}

func (f *frozen) move(monotonic, wall time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.monotonic, f.wall = f.monotonic+monotonic, f.wall+wall
}

func (f *frozen) now() (time.Duration, time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	return now.Sub(f.start) + f.monotonic, now.Add(f.wall).Round(0)
}

// A lease is judged by real elapsed time: after a thaw, when the monotonic clock stood still, by the wall clock; and when the
// wall clock was set back, by the monotonic one.
func TestClocksThatStandStill(t *testing.T) {
	for what, step := range map[string]struct{ monotonic, wall time.Duration }{
		"frozen: the monotonic clock stood still":         {0, 30 * time.Second},
		"frozen: both went on":                            {30 * time.Second, 30 * time.Second},
		"the wall clock was set back while it was paused": {30 * time.Second, -time.Hour},
	} {
		t.Run(what, func(t *testing.T) {
			run(t, func(t *testing.T, w *world) {
				c := w.client()
				f := &frozen{start: time.Now()}
				lockclient.SetClock(c, f.now)
				l := w.acquire(c, lockclient.Options{TTL: 30 * time.Second, ManualRenew: true})
				if l.Err() != nil {
					t.Fatal(l.Err())
				}
				f.move(step.monotonic, step.wall)
				wantIs(t, l.Err(), lockclient.ErrLost) // at the first instruction after the thaw
				time.Sleep(time.Second)                // and its context within a second
				synctest.Wait()
				wantIs(t, context.Cause(l.Context()), lockclient.ErrLost)
				wantIs(t, l.Renew(t.Context()), lockclient.ErrLost)
				if w.count("renew") != 0 {
					t.Error("a renewal was sent for a lease that was over")
				}
				_ = c.Close(t.Context())
			})
		})
	}
}

// A wall clock that is set back does not lengthen a lease, nor end it.
func TestWallClockSetBack(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		f := &frozen{start: time.Now()}
		lockclient.SetClock(c, f.now)
		l := w.acquire(c, lockclient.Options{TTL: 30 * time.Second})
		f.move(0, -time.Hour)
		time.Sleep(time.Hour)
		if l.Err() != nil {
			t.Error(l.Err())
		}
		w.breakWith(cutAll, nil)
		start := time.Now()
		<-l.Context().Done()
		if took := time.Since(start); took > 31*time.Second {
			t.Errorf("believed for %v", took)
		}
		w.breakWith(nil, nil)
		_ = c.Close(t.Context())
	})
}
