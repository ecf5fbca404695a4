package lockclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// slowly makes the answers to an op take so long.
func slowly(which string, d time.Duration) func(string, int, *http.Response) (*http.Response, error) {
	return func(op string, _ int, resp *http.Response) (*http.Response, error) {
		if op == which {
			time.Sleep(d)
		}
		return resp, nil
	}
}

// However a lease is got or kept, its life counts from before the request was sent, less a thousandth for the rate of clocks.
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
			if n == 1 { // the request that counts is the one that was answered
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

// Nothing is believed while a release is under way, nor when it failed.
func TestNoBeliefWhileReleasing(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		l := w.acquire(c, lockclient.Options{TTL: 10 * time.Second})
		var during, cause error
		w.breakWith(func(op string, _ int, _ *http.Request) (*http.Response, error) {
			if op == "release" {
				during, cause = l.Err(), context.Cause(l.Context())
			}
			return nil, errCut
		}, nil)
		wantIs(t, l.Release(t.Context()), lockclient.ErrUnavailable, lockclient.ErrRelease)
		wantIs(t, during, lockclient.ErrReleased)
		wantIs(t, cause, lockclient.ErrReleased)
		wantIs(t, l.Err(), lockclient.ErrReleased)
		wantIs(t, l.Renew(t.Context()), lockclient.ErrLost)
		if w.count("renew") != 0 {
			t.Error("renewed after its release")
		}
		w.breakWith(nil, nil)
		_ = c.Close(t.Context())
	})
}

// An answer that comes after the deadline does not revive a lease, though the coordinator renewed it: for a moment it was not
// proved, and work that stopped then must not go on.
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

// An answer that proves less than is known takes nothing away.
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

// A renewal that hangs leaves time for others, at every TTL and heartbeat.
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

// A release waits for a renewal that is under way, so that the two cannot overtake each other.
func TestReleaseAfterRenewal(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		l := w.acquire(c, lockclient.Options{TTL: 9 * time.Second})
		var mu sync.Mutex
		var events []string
		note := func(event string) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, event)
		}
		w.breakWith(func(op string, _ int, _ *http.Request) (*http.Response, error) {
			note(op)
			if op == "renew" {
				time.Sleep(2 * time.Second) // deaf to its context
				note("renewed")
			}
			return nil, nil
		}, nil)
		time.Sleep(4 * time.Second)
		if err := l.Release(t.Context()); err != nil || fmt.Sprint(events) != "[renew renewed release]" || w.locked() {
			t.Errorf("%v, %v, locked %v", err, events, w.locked())
		}
		_ = c.Close(t.Context())
	})
}

// A grant that is not of the lease that was asked for is not believed, and what may have been granted is given back.
func TestGrantOfAnother(t *testing.T) {
	for what, change := range map[string][2]string{
		"lock":  {`"lock":"a"`, `"lock":"b"`},
		"lease": {`"lease":"`, `"lease":"0`},
		"fence": {`"fence":9`, `"fence":-9`},
		"ttl":   {`"ttl_ms":60000`, `"ttl_ms":0`},
	} {
		run(t, func(t *testing.T, w *world) {
			w.breakWith(nil, func(op string, _ int, resp *http.Response) (*http.Response, error) {
				if op == "acquire" {
					body, _ := io.ReadAll(resp.Body)
					resp.Body = io.NopCloser(strings.NewReader(strings.Replace(string(body), change[0], change[1], 1)))
				}
				return resp, nil
			})
			c := w.client()
			_, err := c.Acquire(t.Context(), "a", lockclient.Options{})
			wantIs(t, err, lockclient.ErrRefused, lockclient.ErrAcquire)
			time.Sleep(time.Second)
			synctest.Wait()
			if w.locked() || w.count("acquire") != 1 || w.count("release") != 1 {
				t.Errorf("%s: locked %v, %v", what, w.locked(), w.seen)
			}
			_ = c.Close(t.Context())
		})
	}
}

// A grant whose answer took longer than the lease lasts is over; the next has a secret of its own.
func TestGrantThatCameTooLate(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.breakWith(nil, func(op string, n int, resp *http.Response) (*http.Response, error) {
			if op == "acquire" && n <= 2 {
				time.Sleep(3 * time.Second)
			}
			return resp, nil
		})
		c := w.client()
		for _, acquire := range []func() (*lockclient.Lease, error){
			func() (*lockclient.Lease, error) {
				return c.Acquire(t.Context(), "a", lockclient.Options{TTL: 2 * time.Second})
			},
			func() (*lockclient.Lease, error) {
				return c.TryAcquire(t.Context(), "b", lockclient.Options{TTL: 2 * time.Second})
			},
		} {
			l, err := acquire()
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(l.ExpiresAt()); left < time.Second {
				t.Errorf("%v left", left)
			}
			if err := l.Release(t.Context()); err != nil {
				t.Error(err)
			}
		}
		always := slowly("acquire", 3*time.Second)
		w.breakWith(nil, always)
		_, err := c.TryAcquire(t.Context(), "c", lockclient.Options{TTL: 2 * time.Second})
		wantIs(t, err, lockclient.ErrLost, lockclient.ErrAcquire)
		if n := w.count("acquire"); n != 4 {
			t.Errorf("%d requests", n)
		}
		w.breakWith(nil, nil)
		_ = c.Close(t.Context())
	})
}

// Do releases though its context has ended, in the foreground, and adds no error of it; its function's context ends with the
// lease, whose cause it has.
func TestDoReleasesAfterItsContextEnded(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		ctx, cancel := context.WithCancel(t.Context())
		err := c.Do(ctx, "a", lockclient.Options{}, func(ctx context.Context, l *lockclient.Lease) error {
			if lockclient.LeaseFrom(ctx) != l || lockclient.LeaseFrom(l.Context()) != l {
				t.Error("the lease is not in its contexts")
			}
			cancel()
			<-ctx.Done()
			return ctx.Err()
		})
		if !errors.Is(err, context.Canceled) || errors.Is(err, lockclient.ErrRelease) || w.locked() || w.count("release") != 1 {
			t.Errorf("%v, locked %v, %d releases", err, w.locked(), w.count("release"))
		}
		start := time.Now()
		err = c.Do(t.Context(), "a", lockclient.Options{}, func(context.Context, *lockclient.Lease) error {
			w.breakWith(hangs, nil)
			return nil
		})
		wantIs(t, err, lockclient.ErrRelease, lockclient.ErrUnavailable)
		if took := time.Since(start); took != 10*time.Second { // twice RequestTimeout
			t.Errorf("took %v", took)
		}
		w.breakWith(nil, nil)
		_ = c.Close(t.Context())
	})
}

// A release whose context ends is sent once more in the background, within 5 s; after Close it is not.
func TestReleaseGoesOnInTheBackground(t *testing.T) {
	for _, closed := range []bool{false, true} {
		run(t, func(t *testing.T, w *world) {
			c := w.client()
			l := w.acquire(c, lockclient.Options{TTL: time.Hour})
			w.breakWith(func(op string, n int, r *http.Request) (*http.Response, error) {
				if n == 1 {
					return hangs(op, n, r)
				}
				return nil, nil
			}, nil)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if closed {
				wantIs(t, c.Close(ctx), lockclient.ErrRelease, context.DeadlineExceeded)
			} else {
				wantIs(t, l.Release(ctx), lockclient.ErrRelease, context.DeadlineExceeded)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if w.locked() != closed {
				t.Errorf("closed %v, locked %v, %v", closed, w.locked(), w.seen)
			}
			_ = c.Close(t.Context())
		})
	}
}

// A second Release, while the first is under way, waits no longer than its own context.
func TestSecondReleaseHasItsOwnContext(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		l := w.acquire(c, lockclient.Options{TTL: time.Hour})
		w.breakWith(nil, slowly("release", 3*time.Second))
		first := make(chan error)
		go func() { first <- l.Release(t.Context()) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wantIs(t, l.Release(ctx), context.DeadlineExceeded, lockclient.ErrRelease)
		if err := <-first; err != nil {
			t.Error(err)
		}
		if err := l.Release(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		_ = c.Close(t.Context())
	})
}

// A heartbeat that does not fit the TTL of an adopted lease is a third of it; so is none.
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

// A renewal that was under way when the process was frozen past the deadline proves nothing, though no timer has run yet;
// neither does one that was under way when the lease was released.
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

// An owner is text of any script, with emoji and joiners; not what commands a terminal.
func TestOwnerIsText(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		for _, owner := range []string{"\U0001F468\u200d\U0001F4BB on call", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "a\u00a0b"} {
			c := w.client()
			l := w.acquire(c, lockclient.Options{Owner: owner})
			if s, err := c.Status(t.Context(), "a"); err != nil || s.Holders[0].Owner != owner {
				t.Errorf("%+v, %v", s, err)
			}
			if err := l.Release(t.Context()); err != nil {
				t.Error(err)
			}
		}
		_, err := w.client().TryAcquire(t.Context(), "a", lockclient.Options{Owner: "a\x1b[2Jb"})
		refused, ok := errors.AsType[*lockclient.RefusedError](err)
		if !ok || refused.Field != "owner" {
			t.Errorf("%v", err)
		}
	})
	for _, owner := range []string{"a\u009bb", strings.Repeat("o", 257)} {
		if err := (lockclient.Config{Endpoint: "http://a", Owner: owner}).Validate(); err == nil || !strings.Contains(err.Error(), "Config.Owner") {
			t.Errorf("%q: %v", owner, err)
		}
	}
}
