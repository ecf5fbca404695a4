package lockclient_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// slowly delays the answers to an operation by d.
func slowly(which string, d time.Duration) func(string, int, *http.Response) (*http.Response, error) {
	return func(op string, _ int, resp *http.Response) (*http.Response, error) {
		if op == which {
			time.Sleep(d)
		}
		return resp, nil
	}
}

// A lease's life counts from before the request was sent, less a thousandth for the rate of clocks, both for a grant and for a renewal.
func TestLifeCountsFromTheRequest(t *testing.T) {
	const ttl = 20 * time.Second
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		opts := lockclient.Options{TTL: ttl, ManualRenew: true}
		check := func(what string, l *lockclient.Lease, sent time.Time) {
			t.Helper()
			if got, want := l.ExpiresAt().Sub(sent), ttl-ttl/1000; got != want {
				t.Errorf("%s: proved for %v from the request, want %v", what, got, want)
			}
		}
		w.breakWith(nil, slowly("acquire", 2*time.Second))
		sent := time.Now()
		l := w.acquire(c, opts)
		check("acquire", l, sent)
		w.breakWith(nil, slowly("renew", 2*time.Second))
		sent = time.Now()
		if err := l.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		check("renew", l, sent)
		sent = time.Now()
		adopted, err := c.Adopt(t.Context(), "a", l.Secret(), lockclient.Options{ManualRenew: true})
		if err != nil {
			t.Fatal(err)
		}
		check("adopt", adopted, sent)
		w.breakWith(nil, func(op string, n int, resp *http.Response) (*http.Response, error) {
			if n == 1 { // the request that was answered counts
				time.Sleep(time.Second)
				return nil, errCut
			}
			sent = time.Now()
			return resp, nil
		})
		if err := l.Renew(t.Context()); err != nil {
			t.Fatal(err)
		}
		check("a repeated renewal", l, sent)
		time.Sleep(time.Until(l.ExpiresAt()) - time.Nanosecond)
		synctest.Wait()
		if l.Err() != nil || l.Context().Err() != nil {
			t.Errorf("over before its time: %v", l.Err())
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		wantIs(t, l.Err(), lockclient.ErrLost)
		wantIs(t, context.Cause(l.Context()), lockclient.ErrLost)
		w.breakWith(nil, nil)
		_ = c.Close(t.Context())
	})
}

// A grant whose first answers were lost is renewed within the rest of its life.
func TestLateGrantIsRenewedInTime(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.breakWith(func(op string, n int, r *http.Request) (*http.Response, error) {
			if op == "acquire" && n == 1 {
				w.handler.ServeHTTP(httptest.NewRecorder(), r)
				<-r.Context().Done() // until the client's time-out of 5 s
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

// An answer that arrives after the deadline does not revive a lease, although the coordinator renewed it: the lease was not proved for
// a moment, and work may have stopped.
func TestLateRenewalRevivesNothing(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		l := w.acquire(c, lockclient.Options{TTL: 4 * time.Second, ManualRenew: true})
		time.Sleep(2 * time.Second)
		w.breakWith(nil, slowly("renew", 3*time.Second))
		wantIs(t, l.Renew(t.Context()), lockclient.ErrLost, lockclient.ErrRenew)
		wantIs(t, l.Err(), lockclient.ErrLost)
		wantIs(t, context.Cause(l.Context()), lockclient.ErrLost)
		if !w.locked() {
			t.Error("the renewal was not carried out: not much of a test")
		}
		_ = c.Close(t.Context())
	})
}

// An answer that proves less than an earlier one changes nothing.
func TestEarlierProofChangesNothing(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		l := w.acquire(c, lockclient.Options{TTL: 10 * time.Second, ManualRenew: true})
		expires := l.ExpiresAt()
		w.breakWith(nil, func(_ string, _ int, resp *http.Response) (*http.Response, error) {
			body, _ := io.ReadAll(resp.Body)
			resp.Body = io.NopCloser(strings.NewReader(strings.Replace(string(body), `"remaining_ms":10000`, `"remaining_ms":5000`, 1)))
			return resp, nil
		})
		if err := l.Renew(t.Context()); err != nil || !l.ExpiresAt().Equal(expires) {
			t.Errorf("%v: expires %v, then %v", err, expires, l.ExpiresAt())
		}
		w.breakWith(nil, nil)
		_ = c.Close(t.Context())
	})
}

func TestAnswerThatComesTooLateIsNotBelieved(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.breakWith(nil, func(op string, n int, resp *http.Response) (*http.Response, error) {
			if op == "acquire" && n == 1 {
				time.Sleep(4 * time.Second) // less than RequestTimeout, and longer than the lease
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
