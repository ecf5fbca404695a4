package lockclient_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// Watch gives changes and nothing else, soon after they happen and with few requests.
func TestWatch(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		ctx, cancel := context.WithCancel(t.Context())
		var seen []string
		var last time.Time
		done := make(chan struct{})
		start := time.Now()
		go func() {
			defer close(done)
			for s, err := range c.Watch(ctx, "a") {
				if err != nil {
					seen = append(seen, fmt.Sprint(err))
					continue
				}
				who := "free"
				if s.Locked {
					who = s.Holders[0].Owner
				}
				last = time.Now()
				seen = append(seen, fmt.Sprintf("%s by %ds", who, int((time.Since(start)+29*time.Second)/(30*time.Second))*30))
			}
		}()
		time.Sleep(65 * time.Second)
		l := w.acquire(w.client(), lockclient.Options{TTL: 30 * time.Second, Owner: "one"})
		time.Sleep(10 * time.Minute) // 60 renewals
		w.breakWith(nil, nil)
		time.Sleep(time.Hour)
		if n := w.count("a"); n < 300 || n > 1000 {
			t.Errorf("%d looks in an hour of nothing", n)
		}
		if err := l.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		// The end of a dead holder's lease is seen at its expiry, and not a pause later.
		two, taken := w.acquire(w.client(), lockclient.Options{TTL: 25 * time.Second, Owner: "two", ManualRenew: true}), time.Now()
		time.Sleep(time.Minute)
		cancel()
		<-done
		want := fmt.Sprint([]string{"free by 0s", "one by 90s", "free by 4290s", "two by 4350s", "free by 4350s", "lockclient: watch: a: context canceled"})
		if got := fmt.Sprint(seen); got != want {
			t.Errorf("saw %v\nwant %v", got, want)
		}
		if late := last.Sub(taken) - 25*time.Second; late < 0 || late > time.Second {
			t.Errorf("seen to be free %v after the lease ran out", late)
		}
		_ = two.Release(t.Context())
		_ = c.Close(t.Context())
	})
}

// Watch gives the error of an outage and continues. It ends after a refusal.
func TestWatchThroughFailures(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		w.breakWith(cutAll, nil)
		var errs, looks int
		for _, err := range c.Watch(t.Context(), "a") {
			if err == nil {
				looks++
				break
			}
			wantIs(t, err, lockclient.ErrUnavailable)
			if errs++; errs == 2 {
				w.breakWith(nil, nil)
			}
		}
		if errs != 2 || looks != 1 {
			t.Errorf("%d errors, %d looks", errs, looks)
		}
		var last error
		for _, err := range c.Watch(t.Context(), "a/b") {
			last = err
		}
		wantIs(t, last, lockclient.ErrRefused)
		_ = c.Close(t.Context())
	})
}

// WatchPrefix gives each lock that is held at first, and then each change: a lock that is acquired, one that comes free, another holder. It gives no renewal, and no lock of
// other names.
func TestWatchPrefix(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		hold := func(name string) *lockclient.Lease {
			l, err := c.Acquire(t.Context(), name, lockclient.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		first := hold("a:1")
		_ = hold("b:1")
		seen := make(chan string)
		ctx, stop := context.WithCancel(t.Context())
		go func() {
			for s, err := range c.WatchPrefix(ctx, "a:") {
				switch {
				case errors.Is(err, context.Canceled):
					close(seen)
					return
				case err != nil:
					t.Error(err)
				default:
					seen <- fmt.Sprintf("%s %v %d", s.Lock, s.Locked, len(s.Holders))
				}
			}
		}()
		want := func(lines ...string) {
			t.Helper()
			for _, line := range lines {
				if got := <-seen; got != line {
					t.Errorf("got %s, want %s", got, line)
				}
			}
		}
		want("a:1 true 1")
		time.Sleep(5 * time.Minute) // of renewals
		second := hold("a:2")
		want("a:2 true 1")
		if err := errors.Join(first.Release(t.Context()), second.Release(t.Context())); err != nil {
			t.Error(err)
		}
		want("a:1 false 0", "a:2 false 0")
		_ = hold("a:1")
		want("a:1 true 1")
		stop()
		if _, more := <-seen; more {
			t.Error("the iterator went on")
		}
		_ = c.Close(t.Context())
	})
}

// WatchPrefix gives a frozen lock that is waited for once, and again when its waiter is granted it.
func TestWatchPrefixOfWaiters(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		if _, err := c.Freeze(t.Context(), "a", time.Now().Add(10*time.Minute), "audit"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		ctx, stop := context.WithCancel(t.Context())
		seen := make(chan string, 100)
		go func() {
			defer close(seen)
			for s, err := range c.WatchPrefix(ctx, "a") {
				if err == nil {
					seen <- fmt.Sprintf("%v %d", s.Locked, s.Waiting)
				}
			}
		}()
		lease, err := w.client().Acquire(t.Context(), "a", lockclient.Options{TTL: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		stop()
		var all []string
		for line := range seen {
			all = append(all, line)
		}
		if fmt.Sprint(all) != "[false 1 true 0]" {
			t.Errorf("seen %v", all)
		}
		if err := errors.Join(lease.Release(t.Context()), c.Close(t.Context())); err != nil {
			t.Error(err)
		}
	})
}

// A failure is given, and the changes that were made meanwhile after it. A coordinator that refuses ends the iterator.
func TestWatchPrefixThroughFailures(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		if _, err := c.Acquire(t.Context(), "a", lockclient.Options{}); err != nil {
			t.Fatal(err)
		}
		n := 0
		for s, err := range c.WatchPrefix(t.Context(), "a") {
			switch n++; n {
			case 1:
				if err != nil || s.Lock != "a" {
					t.Errorf("%+v, %v", s, err)
				}
				w.breakWith(cutAll, nil)
			case 2:
				wantIs(t, err, lockclient.ErrWatch)
				w.breakWith(nil, nil)
				if _, err := c.ForceRelease(t.Context(), "a", "test", 0); err != nil {
					t.Error(err)
				}
			default:
				if err != nil || s.Lock != "a" || s.Locked {
					t.Errorf("%+v, %v", s, err)
				}
			}
			if n == 3 {
				break
			}
		}
		for _, err := range c.WatchPrefix(t.Context(), "a/b") {
			wantIs(t, err, lockclient.ErrRefused)
		}
		_ = c.Close(t.Context())
	})
}
