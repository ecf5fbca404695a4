package lockclient_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// A lease is not held while its release is in progress, nor after the release failed.
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

// A release waits for a renewal in progress, so that the coordinator gets them in order.
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
				time.Sleep(2 * time.Second) // ignores its context
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

// A release whose context has ended takes effect nevertheless.
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

// A release whose context ends is sent once more in the background, within 5 s, but not after Close.
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

// A second Release during the first one ends with its own context.
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

// A release succeeds if its first try took effect without an answer and the lock has forgotten the lease since.
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
