package lockclient_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

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
		if took := time.Since(start); took > 5*time.Second { // three tries of b, and a and c meanwhile
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

// Close ends acquisitions in progress, and releases what they may have been granted.
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
			_, err := c.Acquire(t.Context(), "b", lockclient.Options{}) // its answer is delayed
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

// Close ends when its context does.
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
		time.Sleep(time.Minute) // the leases that are left expire
	})
}

// Thousands of leases are released through a store that takes a thousand writes a second: all of them, a few at a time.
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

// If the coordinator does not answer, Close ends as soon as one release would, and counts the leases that it left.
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

// A lease that had been lost has an error, and does not count as left. Close ends when its context does.
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
