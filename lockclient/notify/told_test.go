package notify

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/local"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// A world is a coordinator in the test's process that sends to a fake SQS, and its clients.
type world struct {
	t           *testing.T
	sqs         *fakeSQS
	coordinator *lock.Coordinator
	handler     http.Handler

	mu       sync.Mutex
	acquires int
	down     bool
	lose     bool          // messages are lost
	delay    time.Duration // of messages
	twice    bool
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, sqs: newFake(t)}
	log := slog.New(slog.DiscardHandler)
	var err error
	if w.coordinator, err = lock.New(lock.Config{Store: &lock.Memory{}, Granted: stream.AtOnce(nil, w, log, "")}); err != nil {
		t.Fatal(err)
	}
	a, err := api.New(api.Config{Coordinator: w.coordinator, Log: log, NotifyPrefix: testPrefix})
	if err != nil {
		t.Fatal(err)
	}
	w.handler = local.NewGateway(a, log)
	return w
}

// Notify implements [stream.Notifications].
func (w *world) Notify(_ context.Context, queue string, message []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lose {
		return nil
	}
	send := func() { w.sqs.send(queue, string(message)) }
	time.AfterFunc(w.delay, send)
	if w.twice {
		time.AfterFunc(w.delay+time.Second, send)
	}
	return nil
}

func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	if strings.HasSuffix(r.URL.Path, "/acquire") {
		w.acquires++
	}
	down := w.down
	w.mu.Unlock()
	if down {
		return nil, errLost
	}
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, r.WithContext(context.WithoutCancel(r.Context())))
	return rec.Result(), r.Context().Err()
}

func (w *world) setDown(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = down
}

func (w *world) count() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, w.acquires = w.acquires, 0
	return n
}

// client returns a client with a notifier of its own, as of a process.
func (w *world) client() (*lockclient.Client, *Notifier) {
	w.t.Helper()
	p, err := parsePrefix(Config{Prefix: testPrefix})
	if err != nil {
		w.t.Fatal(err)
	}
	n := newNotifier(w.sqs, p, func() {})
	c, err := lockclient.New(lockclient.Config{Endpoint: "http://holdfast.test", HTTPClient: &http.Client{Transport: w}, Notify: n})
	if err != nil {
		w.t.Fatal(err)
	}
	return c, n
}

func together(t *testing.T, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		test(t, w)
		if left := w.sqs.urls(); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

func acquire(t *testing.T, c *lockclient.Client, opts lockclient.Options) *lockclient.Lease {
	t.Helper()
	l, err := c.Acquire(t.Context(), "a", opts)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closeAll(t *testing.T, clients ...*lockclient.Client) {
	t.Helper()
	for _, c := range clients {
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// Waits of two processes get the lock in their order, each as soon as it is released, whether their messages come once or twice.
func TestHandOff(t *testing.T) {
	for _, twice := range []bool{false, true} {
		together(t, func(t *testing.T, w *world) {
			w.twice = twice
			holder, _ := w.client()
			first, _ := w.client()
			second, _ := w.client()
			lease := acquire(t, holder, lockclient.Options{})
			var order []string
			var work sync.WaitGroup
			released := time.Now()
			for i := range 6 {
				work.Go(func() {
					l := acquire(t, []*lockclient.Client{first, second}[i%2], lockclient.Options{})
					if took := time.Since(released); took != 0 {
						t.Errorf("the hand-off took %v", took)
					}
					order = append(order, fmt.Sprint(i))
					time.Sleep(5 * time.Second)
					released = time.Now()
					if err := l.Release(t.Context()); err != nil {
						t.Error(err)
					}
				})
				time.Sleep(time.Second)
			}
			w.count()
			time.Sleep(10 * time.Minute)
			if n := w.count(); n > 60 { // of two processes
				t.Errorf("%d acquires in 10 minutes of waiting", n)
			}
			released = time.Now()
			if err := lease.Release(t.Context()); err != nil {
				t.Error(err)
			}
			work.Wait()
			if !slices.Equal(order, []string{"0", "1", "2", "3", "4", "5"}) {
				t.Errorf("order %v", order)
			}
			closeAll(t, holder, first, second)
		})
	}
}

// A message that is late is believed as little as any: the wait asks. One that is lost costs the wait its turn, since the grant ends
// unclaimed; its keep-alive gets it the lock, or a new place.
func TestLateAndLostMessages(t *testing.T) {
	for _, lost := range []bool{false, true} {
		together(t, func(t *testing.T, w *world) {
			w.delay, w.lose = 5*time.Second, lost
			holder, _ := w.client()
			waiting, _ := w.client()
			lease := acquire(t, holder, lockclient.Options{TTL: time.Hour})
			result := make(chan time.Time, 1)
			go func() {
				acquire(t, waiting, lockclient.Options{})
				result <- time.Now()
			}()
			time.Sleep(30 * time.Second)
			released := time.Now()
			if err := lease.Release(t.Context()); err != nil {
				t.Error(err)
			}
			took := (<-result).Sub(released)
			if !lost && took != w.delay || took > 60*time.Second {
				t.Errorf("lost %v: the hand-off took %v", lost, took)
			}
			closeAll(t, holder, waiting)
		})
	}
}

// A message about another lease, such as one of an earlier wait or of a lease that was forced out, grants nothing.
func TestMessageOfAnotherLease(t *testing.T) {
	together(t, func(t *testing.T, w *world) {
		holder, _ := w.client()
		waiting, n := w.client()
		acquire(t, holder, lockclient.Options{TTL: time.Hour})
		result := make(chan error, 1)
		go func() {
			_, err := waiting.Acquire(t.Context(), "a", lockclient.Options{Wait: time.Minute})
			result <- err
		}()
		synctest.Wait()
		var id string
		n.mu.Lock()
		for id = range n.listeners {
		}
		n.mu.Unlock()
		w.sqs.send(w.sqs.urls()[0], granted(id)) // in its name, but it is not granted
		w.sqs.send(w.sqs.urls()[0], granted("of an earlier wait"))
		if err := <-result; err == nil {
			t.Error("acquired a lock that is held")
		}
		closeAll(t, holder, waiting)
	})
}

// A process is killed while it waits. Its place is kept for up to 2.5 minutes; if its turn comes within that time, the grant ends
// after ten seconds, and the next waiter gets the lock. Its queue is left, and a sweep deletes it.
func TestKilledWhileItWaits(t *testing.T) {
	together(t, func(t *testing.T, w *world) {
		holder, _ := w.client()
		dying, dead := w.client()
		waiting, _ := w.client()
		lease := acquire(t, holder, lockclient.Options{TTL: time.Hour})
		ctx, kill := context.WithCancel(t.Context())
		go func() {
			_, _ = dying.Acquire(ctx, "a", lockclient.Options{})
		}()
		time.Sleep(time.Second)
		result := make(chan time.Time, 1)
		go func() {
			acquire(t, waiting, lockclient.Options{})
			result <- time.Now()
		}()
		time.Sleep(time.Second)
		w.setDown(true) // what the dying process still sends is lost
		kill()
		dead.end()
		time.Sleep(10 * time.Second)
		w.setDown(false)
		released := time.Now()
		if err := lease.Release(t.Context()); err != nil {
			t.Error(err)
		}
		if took := (<-result).Sub(released); took < 10*time.Second || took > 80*time.Second {
			t.Errorf("the next waiter got the lock after %v", took)
		}
		closeAll(t, holder, waiting)
		if left := w.sqs.urls(); len(left) != 1 {
			t.Errorf("left behind: %v", left)
		}
		time.Sleep(aliveFor + sweepMargin + time.Minute)
		if done, err := sweep(t.Context(), w.sqs, dead.prefix, true); err != nil || len(done.Deleted) != 1 {
			t.Errorf("swept %+v, %v", done, err)
		}
	})
}

// A coordinator that notifies nobody, and a queue that it does not send to: the wait polls.
func TestCoordinatorRefuses(t *testing.T) {
	for _, prefix := range []string{"", "https://sqs.eu-west-1.amazonaws.com/123456789012/Other-notify-"} {
		together(t, func(t *testing.T, w *world) {
			a, err := api.New(api.Config{Coordinator: w.coordinator, Log: slog.New(slog.DiscardHandler), NotifyPrefix: prefix})
			if err != nil {
				t.Fatal(err)
			}
			w.handler = local.NewGateway(a, slog.New(slog.DiscardHandler))
			holder, _ := w.client()
			waiting, _ := w.client()
			lease := acquire(t, holder, lockclient.Options{})
			time.AfterFunc(10*time.Second, func() { _ = lease.Release(t.Context()) })
			var reasons []error
			began := time.Now()
			acquire(t, waiting, lockclient.Options{OnPolling: func(err error) { reasons = append(reasons, err) }})
			if took := time.Since(began); len(reasons) != 1 || took > 12*time.Second {
				t.Errorf("reasons %v, %v", reasons, took)
			}
			closeAll(t, holder, waiting)
		})
	}
}
