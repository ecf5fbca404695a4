package lockclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// Waiting clients are granted the lock in the order in which they came. Those that died or gave up are passed over.
func TestTurns(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		holder := w.acquire(w.client(), lockclient.Options{TTL: 10 * time.Minute})
		var mu sync.Mutex
		var order []int
		var work sync.WaitGroup
		for i := range 5 {
			c := w.client()
			work.Go(func() {
				opts := lockclient.Options{}
				if i == 3 {
					opts.Wait = 2 * time.Second // it gives up
				}
				l, err := c.Acquire(t.Context(), "a", opts)
				if err != nil {
					wantIs(t, err, lockclient.ErrHeld)
					return
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				time.Sleep(time.Second)
				if err := l.Release(t.Context()); err != nil {
					t.Error(err)
				}
			})
			time.Sleep(500 * time.Millisecond)
			synctest.Wait()
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		s, err := w.client().Status(t.Context(), "a")
		if err != nil || s.Waiting != 4 {
			t.Errorf("status %+v, %v", s, err)
		}
		if _, err := w.client().TryAcquire(t.Context(), "a", lockclient.Options{}); err == nil {
			t.Error("a newcomer overtook")
		}
		if err := holder.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := w.client().TryAcquire(t.Context(), "a", lockclient.Options{}); err == nil {
			t.Error("a newcomer overtook")
		}
		work.Wait()
		if fmt.Sprint(order) != "[0 1 2 4]" {
			t.Errorf("order %v", order)
		}
		if w.locked() {
			t.Error("still locked")
		}
	})
}

// Queue names the waiters: who waits, since when, and for what.
func TestQueueNamesWaiters(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		holder := w.acquire(w.client(), lockclient.Options{TTL: 10 * time.Minute, Capacity: 5, Permits: 5})
		waiter, began := w.client(), time.Now()
		var work sync.WaitGroup
		work.Go(func() {
			l, err := waiter.Acquire(t.Context(), "a", lockclient.Options{Owner: "waiter", Capacity: 5, Permits: 2})
			if err != nil {
				t.Error(err)
				return
			}
			if err := l.Release(t.Context()); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(time.Second)
		s, err := w.client().Queue(t.Context(), "a", 10)
		if err != nil || len(s.Queue) != 1 || len(s.Holders) != 1 || s.Waiting != 1 {
			t.Fatalf("%+v, %v", s, err)
		}
		if q := s.Queue[0]; q.Position != 1 || q.Owner != "waiter" || q.Permits != 2 || !q.JoinedAt.Equal(began) || q.Task || q.Set != nil {
			t.Errorf("%+v", q)
		}
		if s, err := w.client().Status(t.Context(), "a"); err != nil || s.Queue != nil {
			t.Errorf("%+v, %v", s, err)
		}
		for _, limit := range []int{0, 101} {
			_, err := w.client().Queue(t.Context(), "a", limit)
			wantIs(t, err, lockclient.ErrRefused, lockclient.ErrStatus)
		}
		if err := holder.Release(t.Context()); err != nil {
			t.Error(err)
		}
		work.Wait()
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
		if n := w.count("acquire"); n > 20 {
			t.Errorf("%d requests in 20 s of waiting", n)
		}
		if err := second.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A waiter polls soon after the expiry of a dead holder's lease.
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

// A waiter knows the owners of a semaphore's leases to the end, although the answers to its polls do not name them: DynamoDB keeps them apart.
func TestWaiterKnowsTheHolders(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.breakWith(nil, func(op string, n int, resp *http.Response) (*http.Response, error) {
			if op == "acquire" && n > 4 { // polls
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					return nil, err
				}
				for _, owner := range []string{"first", "second"} {
					body = bytes.ReplaceAll(body, []byte(owner), nil)
				}
				resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			}
			return resp, nil
		})
		for _, owner := range []string{"first", "second"} {
			l := w.acquire(w.client(), lockclient.Options{TTL: time.Hour, Capacity: 2, Owner: owner})
			defer func() { _ = l.Release(t.Context()) }()
		}
		_, err := w.client().Acquire(t.Context(), "a", lockclient.Options{Capacity: 2, Wait: 30 * time.Second})
		held, ok := errors.AsType[*lockclient.HeldError](err)
		if !ok || len(held.Holders) != 2 || held.Holders[0].Owner != "first" || held.Holders[1].Owner != "second" {
			t.Errorf("%v: %+v", err, held)
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

// A client that gives up while a grant may be on its way releases it.
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

// Acquire waits for a lock that is in use with another capacity, or whose record is full. TryAcquire does not.
func TestWaitForAnotherCapacity(t *testing.T) {
	for _, code := range []string{"capacity_mismatch", "lock_full"} {
		run(t, func(t *testing.T, w *world) {
			refusal := func(op string, _ int, r *http.Request) (*http.Response, error) {
				if op == "acquire" {
					return answer(409, nil, `{"code":"`+code+`","status":409,"detail":"the lock is in use with capacity 3"}`)(), nil
				}
				return nil, nil
			}
			c := w.client()
			w.breakWith(refusal, nil)
			_, err := c.TryAcquire(t.Context(), "a", lockclient.Options{Capacity: 5})
			wantIs(t, err, lockclient.ErrRefused)
			if w.count("acquire") != 1 {
				t.Errorf("%d requests", w.count("acquire"))
			}
			start := time.Now()
			_, err = c.Acquire(t.Context(), "a", lockclient.Options{Capacity: 5, Wait: 10 * time.Second})
			wantIs(t, err, lockclient.ErrRefused)
			refused, ok := errors.AsType[*lockclient.RefusedError](err)
			if took := time.Since(start); took != 10*time.Second || !ok || refused.Code != code {
				t.Errorf("%v after %v", err, took)
			}
			time.AfterFunc(time.Minute, func() { w.breakWith(nil, nil) })
			l := w.acquire(c, lockclient.Options{Capacity: 5})
			if n := w.count("acquire"); n > 3 {
				t.Errorf("%d requests after the lock came free", n)
			}
			_ = l.Release(t.Context())
		})
	}
}

// A waiter that dies delays those behind it by seconds at most.
func TestDeadWaiterIsPassedOver(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		for _, dies := range []time.Duration{time.Second, time.Minute} { // the time from its death to the release
			holder := w.acquire(w.client(), lockclient.Options{TTL: time.Hour})
			dead := make(chan struct{})
			dying, err := lockclient.New(lockclient.Config{Endpoint: "http://holdfast.test", HTTPClient: &http.Client{Transport: untilDead{w, dead}}})
			if err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = dying.Acquire(t.Context(), "a", lockclient.Options{}) }()
			time.Sleep(time.Second)
			got := make(chan *lockclient.Lease)
			go func() {
				l, err := w.client().Acquire(t.Context(), "a", lockclient.Options{})
				if err != nil {
					t.Error(err)
				}
				got <- l
			}()
			time.Sleep(5 * time.Second)
			close(dead)
			time.Sleep(dies)
			released := time.Now()
			if err := holder.Release(t.Context()); err != nil {
				t.Fatal(err)
			}
			l := <-got
			if waited := time.Since(released); waited > 12*time.Second || dies == time.Minute && waited > 5*time.Second {
				t.Errorf("a waiter dead for %v cost %v", dies, waited)
			}
			_ = l.Release(t.Context())
			_ = dying.Close(t.Context())
		}
	})
}

// untilDead is a network that fails from the death of a process on.
type untilDead struct {
	http.RoundTripper
	dead chan struct{}
}

func (u untilDead) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-u.dead:
		return nil, errCut
	default:
		return u.RoundTripper.RoundTrip(r)
	}
}
