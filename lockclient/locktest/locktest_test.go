package locktest_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/locktest"
)

func TestControls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		locks := locktest.New(t)
		c := locks.Client("me")
		l, err := c.Acquire(t.Context(), "a", lockclient.Options{TTL: 30 * time.Second})
		if err != nil || locks.Holder("a") != "me" {
			t.Fatal(err, locks.Holder("a"))
		}
		locks.FailNext("renew", 2, nil)
		if err := l.Renew(t.Context()); err != nil || locks.Requests("renew") != 3 {
			t.Errorf("%v after %d requests", err, locks.Requests("renew"))
		}
		locks.LoseNextAnswer("release", 1)
		if err := l.Release(t.Context()); err != nil || locks.Holder("a") != "" {
			t.Errorf("%v, held by %q", err, locks.Holder("a"))
		}

		l, err = c.Acquire(t.Context(), "a", lockclient.Options{TTL: 30 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		fence := locks.Steal("a", "thief")
		if fence <= l.Fence() || locks.Holder("a") != "thief" {
			t.Errorf("stolen with fence %d after %d, by %q", fence, l.Fence(), locks.Holder("a"))
		}
		<-l.Context().Done() // at its next renewal
		if !errors.Is(context.Cause(l.Context()), lockclient.ErrLost) {
			t.Error(context.Cause(l.Context()))
		}

		m, err := c.Acquire(t.Context(), "b", lockclient.Options{})
		if err != nil {
			t.Fatal(err)
		}
		locks.Expire("b")
		if err := m.Renew(t.Context()); !errors.Is(err, lockclient.ErrLost) {
			t.Errorf("renewal of an expired lease: %v", err)
		}
		if _, err = c.Acquire(t.Context(), "c", lockclient.Options{ManualRenew: true}); err != nil {
			t.Fatal(err)
		}
		locks.Advance(2 * time.Minute)
		if h := locks.Holder("c"); h != "" {
			t.Errorf("after two minutes c is held by %q", h)
		}
		locks.FailNext("", 1, locktest.Problem("capacity_mismatch"))
		_, err = c.TryAcquire(t.Context(), "d", lockclient.Options{})
		if !errors.Is(err, lockclient.ErrRefused) || !strings.Contains(err.Error(), "capacity_mismatch") {
			t.Error(err)
		}
		locks.FailNext("", 1000, nil)
		if _, err = c.TryAcquire(t.Context(), "d", lockclient.Options{}); !errors.Is(err, lockclient.ErrUnavailable) {
			t.Error(err)
		}
		locks.Heal()
		if _, err = c.TryAcquire(t.Context(), "d", lockclient.Options{}); err != nil {
			t.Error(err)
		}
	})
}

// A wait of minutes takes few requests, and ends at once after a release, an expiry, or a change of the clock.
func TestWaitingIsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		locks := locktest.New(t)
		me, others := locks.Client("me"), locks.Client("others")
		for what, test := range map[string]struct {
			opts     lockclient.Options
			free     func(*lockclient.Lease)
			at, late time.Duration
		}{
			"release":    {lockclient.Options{}, func(l *lockclient.Lease) { _ = l.Release(t.Context()) }, 7 * time.Minute, 100 * time.Millisecond},
			"expiry":     {lockclient.Options{TTL: 7 * time.Minute, ManualRenew: true}, func(*lockclient.Lease) {}, 7 * time.Minute, 400 * time.Millisecond},
			"clock":      {lockclient.Options{TTL: time.Hour, ManualRenew: true}, func(*lockclient.Lease) { locks.Advance(2 * time.Hour) }, 7 * time.Minute, 400 * time.Millisecond},
			"forced out": {lockclient.Options{}, func(l *lockclient.Lease) { locks.Expire(l.Name()) }, 7 * time.Minute, 100 * time.Millisecond},
		} {
			name := strings.ReplaceAll(what, " ", "-")
			held, err := others.Acquire(t.Context(), name, test.opts)
			if err != nil {
				t.Fatal(err)
			}
			before, start, told := locks.Requests("acquire"), time.Now(), 0
			time.AfterFunc(test.at, func() { test.free(held) })
			var first time.Duration
			l, err := me.Acquire(t.Context(), name, lockclient.Options{OnWait: func(*lockclient.HeldError) {
				if told++; told == 1 {
					first = time.Since(start)
				}
			}})
			if err != nil {
				t.Fatal(err)
			}
			took, requests := time.Since(start), locks.Requests("acquire")-before
			if took < test.at || took > test.at+test.late || requests > 300 || told < 1 || first != 0 {
				t.Errorf("%s: %v after %d requests; told %d times, first after %v", what, took, requests, told, first)
			}
			if err := l.Release(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}

// Many waiters take their turns with few requests.
func TestManyWaitersAreQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		locks := locktest.New(t)
		var work sync.WaitGroup
		const clients = 20
		for range clients {
			c := locks.Client("one of many")
			work.Go(func() {
				err := c.Do(t.Context(), "a", lockclient.Options{}, func(context.Context, *lockclient.Lease) error {
					time.Sleep(20 * time.Second)
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		start := time.Now()
		work.Wait()
		if took, n := time.Since(start), locks.Requests("acquire"); took > clients*21*time.Second || n > 5000 {
			t.Errorf("%v, %d requests", took, n)
		}
	})
}

// A poll that is kept ends with its context. TryAcquire is never kept.
func TestWaitingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		locks := locktest.New(t)
		held, err := locks.Client("other").Acquire(t.Context(), "a", lockclient.Options{})
		if err != nil {
			t.Fatal(err)
		}
		me := locks.Client("me", func(c *lockclient.Config) { c.RetryDelay = 10 * time.Second })
		start := time.Now()
		_, err = me.Acquire(t.Context(), "a", lockclient.Options{Wait: 90 * time.Second})
		if took := time.Since(start); !errors.Is(err, lockclient.ErrHeld) || took != 90*time.Second || locks.Requests("acquire") > 50 {
			t.Errorf("%v after %v, %d requests", err, took, locks.Requests("acquire"))
		}
		start = time.Now()
		for range 3 {
			if _, err = me.TryAcquire(t.Context(), "a", lockclient.Options{}); !errors.Is(err, lockclient.ErrHeld) || time.Since(start) != 0 {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		}
		_ = held.Release(t.Context())
	})
}
