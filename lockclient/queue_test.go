package lockclient_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// Clients that wait take turns in the order in which they came; one that went away, and one that gave up, are passed over.
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

// A waiter that dies costs those behind it seconds, whenever it dies.
func TestDeadWaiterIsPassedOver(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		for _, dies := range []time.Duration{time.Second, time.Minute} { // before the release by so long
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
			if waited := time.Since(released); waited > 12*time.Second || dies == time.Minute && waited > 2*time.Second {
				t.Errorf("a waiter dead for %v cost %v", dies, waited)
			}
			_ = l.Release(t.Context())
			_ = dying.Close(t.Context())
		}
	})
}

// untilDead is a network that is cut when a process dies.
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
