package lockclient_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// invocation returns the context of a Lambda invocation with a time limit.
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

// In an invocation a lease lasts a little longer than the invocation may. It is not renewed, and its owner is the invocation.
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

// A TTL that is given is used, and the lease is renewed; nothing of it runs after the invocation.
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

// A lease that nobody uses is released before the handler returns, and not in the background.
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

// In an invocation Do releases its lease before the deadline, and returns the error if it cannot.
func TestDoInAnInvocation(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		ctx, cancel := invocation(t, 10*time.Second)
		defer cancel()
		c := w.lambdaClient()
		start := time.Now()
		err := c.Do(ctx, "a", lockclient.Options{}, func(context.Context, *lockclient.Lease) error {
			w.breakWith(hangs, nil)
			time.Sleep(8 * time.Second)
			return nil
		})
		wantIs(t, err, lockclient.ErrRelease, lockclient.ErrUnavailable)
		if took := time.Since(start); took != 9500*time.Millisecond {
			t.Errorf("took %v", took)
		}
		w.breakWith(nil, nil)
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

		w.breakWith(cutAll, nil)
		_, err = handler(ctx, order{"7"})
		wantIs(t, err, lockclient.ErrUnavailable)
		if n := w.count("acquire"); n != 4 { // one and Config.Retries
			t.Errorf("%d requests with the coordinator away", n)
		}
		w.breakWith(nil, nil)
		_ = c.Close(t.Context())
	})
}

// If others hold the lock, the handler does not run, and the invocation fails at once or after Options.Wait.
func TestExclusiveWhileOthersHold(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.lambdaClient()
		ctx, cancel := invocation(t, time.Minute)
		defer cancel()
		runs := 0
		handler := lockclient.Exclusive(c, orderName, func(context.Context, order) (int, error) { runs++; return 0, nil })
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
		if !ok || held.Holders[0].Owner != "tester" || runs != 0 || time.Since(start) > 0 {
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
		_ = c.Close(t.Context())
	})
}

// The release after a handler ends before the invocation does, and its failure is not the handler's.
func TestExclusiveEndsInTime(t *testing.T) {
	for _, left := range []time.Duration{3 * time.Second, 400 * time.Millisecond, 20 * time.Second} {
		run(t, func(t *testing.T, w *world) {
			ctx, cancel := invocation(t, 30*time.Second)
			defer cancel()
			c := w.lambdaClient()
			w.breakWith(func(op string, n int, r *http.Request) (*http.Response, error) {
				if op == "release" {
					return hangs(op, n, r)
				}
				return nil, nil
			}, nil)
			start := time.Now()
			var done time.Time
			handler := lockclient.Exclusive(c, orderName, func(context.Context, order) (string, error) {
				time.Sleep(30*time.Second - left)
				done = time.Now()
				return "done", nil
			})
			out, err := handler(ctx, order{"7"})
			after := time.Since(start)
			if out != "done" || err != nil {
				t.Errorf("with %v left: %q, %v", left, out, err)
			}
			if most := 30*time.Second - min(500*time.Millisecond, left/2); after > most || time.Since(done) == 0 || time.Since(done) > 10*time.Second {
				t.Errorf("with %v left: returned after %v, %v after the handler", left, after, time.Since(done))
			}
			w.breakWith(nil, nil)
			_ = c.Close(t.Context())
		})
	}
}

// The handler's error is returned whatever the release does. A lease that was lost meanwhile is an error too.
func TestExclusiveErrors(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		ctx, cancel := invocation(t, time.Minute)
		defer cancel()
		c := w.lambdaClient()
		handler := lockclient.Exclusive(c, func(s string) string { return "a" }, func(ctx context.Context, what string) (string, error) {
			switch what {
			case "forced":
				_, _ = c.ForceRelease(ctx, "a", "test", 0)
			case "fails":
				return what, errCut
			case "holds":
				return what, &lockclient.HeldError{}
			}
			return what, nil
		})
		cutRelease := func(op string, _ int, _ *http.Request) (*http.Response, error) {
			if op == "release" {
				return answer(400, nil, `{"code":"invalid_request","detail":"no"}`)(), nil
			}
			return nil, nil
		}
		w.breakWith(cutRelease, nil)
		if out, err := handler(ctx, "fails"); out != "fails" || err != errCut { //nolint:errorlint // it alone
			t.Errorf("%q, %v", out, err)
		}
		w.breakWith(nil, nil)
		if _, err := c.ForceRelease(ctx, "a", "test", 0); err != nil {
			t.Fatal(err)
		}
		out, err := handler(ctx, "forced")
		wantIs(t, err, lockclient.ErrLost, lockclient.ErrRelease)
		if out != "forced" {
			t.Errorf("%q", out)
		}
		if _, err := handler(ctx, "holds"); err == nil || strings.Contains(err.Error(), "acquire failed") {
			t.Errorf("%v", err)
		}
		_ = c.Close(t.Context())
	})
}
