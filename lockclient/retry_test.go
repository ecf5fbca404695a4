package lockclient_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

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

// hangs is a network on which requests have no answer until their contexts end.
func hangs(_ string, _ int, r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// TryAcquire ends after its tries if the coordinator hangs. It does not join the queue, and leaves no grant behind.
func TestTryAcquireIsBounded(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		var told []error
		w.breakWith(func(op string, n int, r *http.Request) (*http.Response, error) {
			if hasField(r, "wait_ms") {
				t.Error("asked for a place in the queue")
			}
			return nil, nil
		}, func(op string, n int, resp *http.Response) (*http.Response, error) {
			if op == "acquire" { // it takes effect and has no answer
				time.Sleep(time.Minute)
			}
			return resp, nil
		})
		_, err := c.TryAcquire(t.Context(), "a", lockclient.Options{Wait: time.Hour, OnUnavailable: func(err error) { told = append(told, err) }})
		wantIs(t, err, lockclient.ErrUnavailable, lockclient.ErrAcquire)
		if n := w.count("acquire"); n != 4 || len(told) != 3 {
			t.Errorf("%d requests, told %d times", n, len(told))
		}
		for _, err := range told {
			wantIs(t, err, lockclient.ErrUnavailable)
		}
		time.Sleep(time.Second) // the release in the background
		synctest.Wait()
		if w.locked() || w.count("release") != 1 {
			t.Errorf("locked %v, %d releases", w.locked(), w.count("release"))
		}
		_ = c.Close(t.Context())
	})
}

func TestTryAcquireAgainstSilence(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		w.breakWith(hangs, nil)
		start := time.Now()
		_, err := c.TryAcquire(t.Context(), "a", lockclient.Options{})
		wantIs(t, err, lockclient.ErrUnavailable)
		if took := time.Since(start); took < 20*time.Second || took > 22*time.Second {
			t.Errorf("took %v", took)
		}
		_ = c.Close(t.Context())
	})
}

// OnUnavailable is called for each try without an answer, and the lock is acquired after the outage.
func TestOutageWhileAcquiring(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		w.breakWith(cutAll, nil)
		time.AfterFunc(time.Minute, func() { w.breakWith(nil, nil) })
		told := 0
		l := w.acquire(c, lockclient.Options{OnUnavailable: func(err error) {
			told++
			wantIs(t, err, lockclient.ErrUnavailable)
			if !strings.Contains(err.Error(), errCut.Error()) {
				t.Errorf("%v", err)
			}
		}})
		if told < 60 || told > 150 {
			t.Errorf("told %d times in a minute", told)
		}
		_ = l.Release(t.Context())
	})
}

// A wait that ends without an answer is an ErrUnavailable and the context's error. If the caller ended it, it is the caller's error. If
// others held the lock at the last answer, it is an ErrHeld.
func TestWaitAgainstSilence(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		w.breakWith(hangs, nil)
		start := time.Now()
		_, err := c.Acquire(t.Context(), "a", lockclient.Options{Wait: 200 * time.Millisecond})
		wantIs(t, err, lockclient.ErrUnavailable, context.DeadlineExceeded, lockclient.ErrAcquire)
		if took := time.Since(start); took != 200*time.Millisecond {
			t.Errorf("took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		for sentinel, operate := range map[error]func() error{
			lockclient.ErrStatus:  func() error { _, err := c.Status(ctx, "a"); return err },
			lockclient.ErrRelease: func() error { return c.Release(ctx, "a", aSecret) },
		} {
			wantIs(t, operate(), lockclient.ErrUnavailable, context.DeadlineExceeded, sentinel)
		}
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err = c.Acquire(ctx, "a", lockclient.Options{})
		wantIs(t, err, context.Canceled)
		if errors.Is(err, lockclient.ErrUnavailable) {
			t.Errorf("given up: %v", err)
		}
		w.breakWith(nil, nil)
		time.Sleep(10 * time.Second)
		l := w.acquire(w.client(), lockclient.Options{})
		w.breakWith(func(op string, n int, r *http.Request) (*http.Response, error) {
			if op == "acquire" && n > 1 {
				return hangs(op, n, r)
			}
			return nil, nil
		}, nil)
		_, err = c.Acquire(t.Context(), "a", lockclient.Options{Wait: 3 * time.Second}) // the wait ends during a try
		wantIs(t, err, lockclient.ErrHeld)
		w.breakWith(nil, nil)
		_ = l.Release(t.Context())
		_ = c.Close(t.Context())
	})
}

func hasField(r *http.Request, field string) bool {
	body, err := r.GetBody()
	if err != nil {
		return false
	}
	data, _ := io.ReadAll(body)
	return strings.Contains(string(data), field)
}
