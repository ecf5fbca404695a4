package lockclient_test

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// A waiter sends back the ticket of the last answer, and sends at most ten requests in its first ten seconds.
func TestWaiterSendsItsTicket(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		holder := w.acquire(w.client(), lockclient.Options{})
		var mu sync.Mutex
		var tickets []int64
		sent := func() []int64 {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(tickets)
		}
		w.breakWith(func(op string, _ int, r *http.Request) (*http.Response, error) {
			if op == "acquire" {
				body, _ := io.ReadAll(r.Body)
				r.Body = io.NopCloser(strings.NewReader(string(body)))
				var request struct{ Ticket int64 }
				_ = json.Unmarshal(body, &request)
				mu.Lock()
				tickets = append(tickets, request.Ticket)
				mu.Unlock()
			}
			return nil, nil
		}, nil)
		time.AfterFunc(10*time.Second, func() {
			if n := len(sent()); n < 6 || n > 10 {
				t.Errorf("%d requests in ten seconds", n)
			}
			_ = holder.Release(t.Context())
		})
		l := w.acquire(w.client(), lockclient.Options{})
		if list := sent(); list[0] != 0 || list[1] == 0 || list[len(list)-1] != list[1] {
			t.Errorf("tickets %v", list)
		}
		_ = l.Release(t.Context())
	})
}

// A client's release wakes its own first waiter for the lock, and no other waiter.
func TestReleaseWakesTheNextWaiter(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		holder := w.acquire(c, lockclient.Options{TTL: time.Hour})
		var work sync.WaitGroup
		var mu sync.Mutex
		var took []time.Duration
		var released time.Time
		for range 3 {
			work.Go(func() {
				l, err := c.Acquire(t.Context(), "a", lockclient.Options{})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				took, released = append(took, time.Since(released)), time.Now()
				mu.Unlock()
				_ = l.Release(t.Context())
			})
			time.Sleep(time.Second)
			synctest.Wait()
		}
		other := make(chan struct{})
		work.Go(func() {
			l, err := c.Acquire(t.Context(), "b", lockclient.Options{})
			if err != nil {
				t.Error(err)
			}
			close(other)
			_ = l.Release(t.Context())
		})
		<-other
		time.Sleep(30 * time.Second)
		synctest.Wait()
		w.breakWith(nil, nil)
		released = time.Now()
		if err := holder.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		work.Wait()
		for i, d := range took {
			if d != 0 {
				t.Errorf("waiter %d waited for %v", i, d)
			}
		}
		if n := w.count("acquire"); n != 3 {
			t.Errorf("%d requests of the waiters", n)
		}
	})
}
