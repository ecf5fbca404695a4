package lockclient_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// A fakeNotifier tells waits when the test says so.
type fakeNotifier struct {
	mu        sync.Mutex
	err       error // of Listen
	queue     string
	listeners []*fakeListener // all there were
	closed    int
}

type fakeListener struct {
	n       *fakeNotifier
	id      string
	wake    chan struct{}
	err     error
	stopped int
}

func (n *fakeNotifier) Listen(context.Context) (lockclient.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err != nil {
		return nil, n.err
	}
	l := &fakeListener{n: n, id: fmt.Sprintf("wait%d", len(n.listeners)), wake: make(chan struct{}, 1)}
	n.listeners = append(n.listeners, l)
	return l, nil
}

func (n *fakeNotifier) Close(context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed++
	return nil
}

func (l *fakeListener) Address() (queue, id string, err error) {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	return l.n.queue, l.id, l.err
}

func (l *fakeListener) Wake() <-chan struct{} { return l.wake }

func (l *fakeListener) Stop() {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	l.stopped++
}

// change changes what a listener's Address returns, and wakes it.
func (n *fakeNotifier) change(f func(l *fakeListener)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.listeners {
		f(l)
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

func (n *fakeNotifier) message() { n.change(func(*fakeListener) {}) }

// A heldLock is the transport to a scripted coordinator, whose locks are held by a holder that renews until the test lets it expire.
// It keeps places as the coordinator does: a poll extends a place of which half is over. A place whose time is over is an error.
type heldLock struct {
	t       *testing.T
	ttl     time.Duration // of the holder, which renews at a third of it
	refusal *wire.Problem // of every acquire with notify

	mu      sync.Mutex
	began   time.Time
	down    bool
	expires time.Time // of a holder that renews no more
	granted bool
	places  map[string]time.Time // by secret
	seen    []seen
}

type seen struct {
	at      time.Time
	request wire.AcquireRequest
}

func (h *heldLock) RoundTrip(_ context.Context, r lockclient.Request) (lockclient.Response, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.Op != "acquire" {
		return lockclient.Response{Status: 200, Body: fmt.Appendf(nil, `{"lock":%q}`, r.Lock)}, nil
	}
	var in wire.AcquireRequest
	if err := json.Unmarshal(r.Body, &in); err != nil {
		h.t.Error(err)
	}
	now := time.Now()
	h.seen = append(h.seen, seen{now, in})
	if h.down {
		return lockclient.Response{}, errCut
	}
	if in.Notify != nil && h.refusal != nil {
		body, _ := json.Marshal(h.refusal)
		return lockclient.Response{Status: h.refusal.Status, Body: body}, nil
	}
	if h.granted || !h.expires.IsZero() && now.After(h.expires) {
		body, _ := json.Marshal(wire.Lease{Lock: r.Lock, Lease: in.Lease, Fence: 9, TTL: 60_000, Remaining: 60_000})
		return lockclient.Response{Status: 200, Body: body}, nil
	}
	until, kept := h.places[in.Lease]
	if kept && now.After(until) {
		h.t.Errorf("a place ended %v before its wait asked again", now.Sub(until))
	}
	if wait := time.Duration(in.Wait) * time.Millisecond; !kept || until.Before(now.Add(wait/2)) {
		h.places[in.Lease] = now.Add(wait)
	}
	left := h.ttl - now.Sub(h.began)%(h.ttl/3)
	if !h.expires.IsZero() {
		left = h.expires.Sub(now)
	}
	body, _ := json.Marshal(wire.Problem{Code: wire.LockHeld, Status: 409, RetryAfter: left.Milliseconds() + 250, Position: 1, Waiting: 1,
		Holders: []wire.ProblemHolder{{Owner: "other", Fence: 7, Remaining: left.Milliseconds()}}})
	return lockclient.Response{Status: 409, Body: body}, nil
}

func (h *heldLock) do(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

// requests returns what was asked since the last call.
func (h *heldLock) requests() (list []seen) {
	h.do(func() { list, h.seen = h.seen, nil })
	return list
}

func runTold(t *testing.T, test func(t *testing.T, h *heldLock, n *fakeNotifier, c *lockclient.Client)) {
	synctest.Test(t, func(t *testing.T) {
		h, n := &heldLock{t: t, ttl: time.Minute, began: time.Now(), places: map[string]time.Time{}}, &fakeNotifier{queue: "https://sqs.test/1/h-notify-a"}
		c, err := lockclient.New(lockclient.Config{Transport: h, Notify: n, Owner: "tester"})
		if err != nil {
			t.Fatal(err)
		}
		test(t, h, n, c)
		if err := c.Close(t.Context()); err != nil || n.closed == 0 {
			t.Errorf("close: %v, the notifier was closed %d times", err, n.closed)
		}
		for _, l := range n.listeners {
			if l.stopped != 1 {
				t.Errorf("%s was stopped %d times", l.id, l.stopped)
			}
		}
	})
}

// start acquires in the background, and returns when the wait is notified or polls.
func start(t *testing.T, c *lockclient.Client, opts lockclient.Options) (result chan error) {
	result = make(chan error, 1)
	go func() {
		_, err := c.Acquire(t.Context(), "a", opts)
		result <- err
	}()
	synctest.Wait()
	return result
}

// Waits that are notified make at most three requests a minute together, whatever their number, and keep their places, while a holder
// renews steadily. With the long polls of the queue that is at most six a minute in a process.
func TestRequestsOfToldWaits(t *testing.T) {
	for _, waits := range []int{1, 3, 10, 100} {
		runTold(t, func(t *testing.T, h *heldLock, n *fakeNotifier, c *lockclient.Client) {
			var results []chan error
			for range waits {
				results = append(results, start(t, c, lockclient.Options{}))
			}
			if first := h.requests(); len(first) != 2*waits {
				t.Errorf("%d waits began with %d requests", waits, len(first))
			}
			most, total := 0, 0
			const hours = 5
			for range hours * 60 {
				time.Sleep(time.Minute)
				synctest.Wait()
				got := len(h.requests())
				most, total = max(most, got), total+got
			}
			fmt.Printf("client: %d notified waits: %d requests in %d hours, at most %d in a minute\n", waits, total, hours, most)
			if most > 3 {
				t.Errorf("%d waits made %d requests in a minute", waits, most)
			}
			h.do(func() { h.granted = true })
			n.message()
			for _, result := range results {
				if err := <-result; err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// A message wakes a wait at once. It is a hint: a wait that is woken and not granted waits on.
func TestMessageWakes(t *testing.T) {
	runTold(t, func(t *testing.T, h *heldLock, n *fakeNotifier, c *lockclient.Client) {
		result := start(t, c, lockclient.Options{})
		asked := h.requests()
		if first, second := asked[0].request, asked[1].request; first.Notify != nil || first.Wait != 20_000 ||
			second.Notify == nil || *second.Notify != (wire.Notify{Queue: n.queue, ID: "wait0"}) || second.Wait != 150_000 || second.Lease != first.Lease {
			t.Errorf("the wait asked %+v, %+v", first, second)
		}
		time.Sleep(10 * time.Second)
		n.message() // late, twice, or of another lease
		synctest.Wait()
		if got := h.requests(); len(got) != 1 || time.Since(got[0].at) != 0 {
			t.Errorf("a message led to %d requests", len(got))
		}
		time.Sleep(10 * time.Second)
		h.do(func() { h.granted = true })
		began := time.Now()
		n.message()
		if err := <-result; err != nil || time.Since(began) != 0 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// A grant whose message is lost is found by the next keep-alive.
func TestMessageLost(t *testing.T) {
	runTold(t, func(t *testing.T, h *heldLock, _ *fakeNotifier, c *lockclient.Client) {
		h.ttl = time.Hour // so that no expiry is awaited
		result := start(t, c, lockclient.Options{})
		h.do(func() { h.granted = true })
		began := time.Now()
		if err := <-result; err != nil || time.Since(began) > 80*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// A wait asks once at the expiry of a holder: a deployment may have no timers. It does not do so again for a holder that has renewed.
func TestToldWaitAtExpiry(t *testing.T) {
	runTold(t, func(t *testing.T, h *heldLock, _ *fakeNotifier, c *lockclient.Client) {
		result := start(t, c, lockclient.Options{})
		h.requests()
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if got := h.requests(); len(got) != 1 || got[0].at.Sub(h.began) < time.Minute {
			t.Errorf("%d requests until the holder's expiry", len(got))
		}
		h.do(func() { h.expires = time.Now().Add(5 * time.Second) })
		began := time.Now()
		if err := <-result; err != nil || time.Since(began) > 20*time.Second { // by the keep-alive, as it happens
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if got := h.requests(); len(got) != 1 {
			t.Errorf("%d requests for a holder that had renewed once", len(got))
		}
	})
}

// A wait polls, and says why, if the coordinator does not notify. Later waits of the client do not ask again for some time.
func TestCoordinatorDoesNotNotify(t *testing.T) {
	for _, refusal := range []wire.Problem{
		{Code: wire.NotifyRefused, Status: 422, Detail: "no"},
		{Code: wire.InvalidRequest, Status: 400, Field: "notify", Detail: "the queue is another deployment's"},
		{Code: wire.InvalidRequest, Status: 400, Field: "notify.queue", Detail: "unknown field"},
	} {
		runTold(t, func(t *testing.T, h *heldLock, n *fakeNotifier, c *lockclient.Client) {
			h.refusal = &refusal
			for i := range 2 {
				var reasons []error
				result := start(t, c, lockclient.Options{OnPolling: func(err error) { reasons = append(reasons, err) }})
				time.Sleep(20 * time.Second)
				synctest.Wait()
				if len(reasons) != 1 || !errors.Is(reasons[0], lockclient.ErrRefused) {
					t.Errorf("reasons %v", reasons)
				}
				asked := h.requests()
				if len(asked) < 8 || asked[2].request.Notify != nil || asked[2].request.Wait != 20_000 {
					t.Errorf("%d requests", len(asked))
				}
				if len(n.listeners) != 1 {
					t.Errorf("wait %d: listened %d times", i, len(n.listeners))
				}
				h.do(func() { h.granted = true })
				if err := <-result; err != nil {
					t.Error(err)
				}
				h.do(func() { h.granted = false })
			}
			time.Sleep(5 * time.Minute)
			h.do(func() { h.refusal = nil })
			h.requests()
			result := start(t, c, lockclient.Options{OnPolling: func(err error) { t.Error(err) }})
			time.Sleep(50 * time.Second)
			if got := h.requests(); len(got) > 3 {
				t.Errorf("%d requests of a wait that could be notified", len(got))
			}
			h.do(func() { h.granted = true })
			if err := <-result; err != nil {
				t.Error(err)
			}
		})
	}
}

// A refusal in the last moment of a wait does not hide that the lock is held.
func TestNotToldAtTheEnd(t *testing.T) {
	runTold(t, func(t *testing.T, h *heldLock, _ *fakeNotifier, c *lockclient.Client) {
		h.refusal = &wire.Problem{Code: wire.NotifyRefused, Status: 422}
		_, err := c.Acquire(t.Context(), "a", lockclient.Options{Wait: time.Second})
		wantIs(t, err, lockclient.ErrHeld)
	})
}

// A wait polls, and says why, if it cannot be heard of, from the start or later.
func TestNotifierFails(t *testing.T) {
	failure := errors.New("no permission")
	for _, later := range []bool{false, true} {
		runTold(t, func(t *testing.T, h *heldLock, n *fakeNotifier, c *lockclient.Client) {
			if !later {
				n.err = failure
			}
			var reasons []error
			result := start(t, c, lockclient.Options{OnPolling: func(err error) { reasons = append(reasons, err) }})
			if later {
				time.Sleep(10 * time.Second)
				n.change(func(l *fakeListener) { l.err = failure })
			}
			h.requests()
			time.Sleep(20 * time.Second)
			synctest.Wait()
			asked := h.requests()
			if len(asked) < 8 || slices.ContainsFunc(asked, func(s seen) bool { return s.request.Notify != nil || s.request.Wait != 20_000 }) {
				t.Errorf("%d requests", len(asked))
			}
			if !slices.Equal(reasons, []error{failure}) {
				t.Errorf("reasons %v", reasons)
			}
			h.do(func() { h.granted = true })
			if err := <-result; err != nil {
				t.Error(err)
			}
		})
	}
}

// A wait asks again when its address has changed, so that the coordinator knows the new one.
func TestAddressChanges(t *testing.T) {
	runTold(t, func(t *testing.T, h *heldLock, n *fakeNotifier, c *lockclient.Client) {
		result := start(t, c, lockclient.Options{})
		h.requests()
		n.change(func(l *fakeListener) { l.n.queue = "https://sqs.test/1/h-notify-b" })
		synctest.Wait()
		if asked := h.requests(); len(asked) != 1 || asked[0].request.Notify.Queue != n.queue {
			t.Errorf("asked %+v", asked)
		}
		h.do(func() { h.granted = true })
		n.message()
		if err := <-result; err != nil {
			t.Error(err)
		}
	})
}

// Close ends a wait that is notified.
func TestCloseWhileTold(t *testing.T) {
	runTold(t, func(t *testing.T, _ *heldLock, _ *fakeNotifier, c *lockclient.Client) {
		result := start(t, c, lockclient.Options{})
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
		wantIs(t, <-result, lockclient.ErrClosed)
	})
}

// The coordinator is unavailable when a wait has to keep its place, and when a message arrives.
func TestOutageWhileTold(t *testing.T) {
	runTold(t, func(t *testing.T, h *heldLock, n *fakeNotifier, c *lockclient.Client) {
		result := start(t, c, lockclient.Options{})
		time.Sleep(55 * time.Second)
		h.do(func() { h.down = true })
		time.Sleep(time.Minute)
		h.do(func() { h.down = false })
		time.Sleep(2 * time.Second) // the place is kept, or heldLock complains
		h.requests()
		time.Sleep(50 * time.Second)
		synctest.Wait()
		if got := h.requests(); len(got) > 1 {
			t.Errorf("%d requests after the outage", len(got))
		}
		h.do(func() { h.down, h.granted = true, true })
		n.message()
		time.Sleep(10 * time.Second)
		h.do(func() { h.down = false })
		began := time.Now()
		if err := <-result; err != nil || time.Since(began) > time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}
