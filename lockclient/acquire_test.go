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

// A second acquire by the same client waits as any other does.
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

// Do releases the lock in the foreground although its context has ended, and adds no error for that. The context of its function ends
// with the lease, and has the lease's cause.
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

// One client and one lease are used by many goroutines at the same time.
func TestConcurrentUse(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		inside := 0
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 5 {
					err := c.Do(t.Context(), "a", lockclient.Options{}, func(_ context.Context, l *lockclient.Lease) error {
						inside++ // protected by the lock only; the race detector checks it
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

// A grant of another lease than the one that was asked for is not accepted, and the lease that may have been granted is released.
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

// A grant whose answer took longer than the lease's life is lost. The next try uses a new secret.
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

// An answer that is not a grant is not retried.
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
