// Package locktest has a lock coordinator for tests of code that uses package lockclient. It runs in the test's process, stores the
// locks in memory, and can inject the faults of production.
//
//	locks := locktest.New(t)
//	client := locks.Client("me")
//	...
//	locks.Expire("report:daily") // the lock's leases expire now
//
// The coordinator and the client are the real ones; only the network between them is replaced. They work in a testing/synctest
// bubble, where a lease expires without real time passing. A client that waits polls every few seconds, and is answered at once
// when the lock's holders change.
package locktest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// ErrInjected is the error of the requests that [Coordinator.FailNext] and [Coordinator.LoseNextAnswer] make fail.
var ErrInjected = errors.New("locktest: injected failure")

// A Coordinator is a lock coordinator of a test. It implements [lockclient.Transport], on which it injects faults. It is safe for
// concurrent use.
type Coordinator struct {
	t       testing.TB
	api     *api.API
	admin   *lockclient.Client
	changes changes

	mu       sync.Mutex
	ahead    time.Duration
	faults   []fault
	requests map[string]int
	informed map[string]bool // the leases of waiters that had the answer that the lock is held
}

// A fault is what is to happen to the next requests of an operation.
type fault struct {
	op    string // empty means every operation
	n     int    // the number of requests
	err   error
	after bool // the request takes effect, and its answer is lost
}

// New makes a coordinator without locks. The clients that it makes are closed at the end of the test. It does not check that all
// locks were released.
func New(t testing.TB) *Coordinator {
	t.Helper()
	c := &Coordinator{t: t, requests: map[string]int{}, informed: map[string]bool{}}
	coordinator, err := lock.New(lock.Config{Store: &lock.Memory{Changed: c.changes.wrote}, Clock: c.now})
	if err != nil {
		t.Fatal(err)
	}
	if c.api, err = api.New(api.Config{Coordinator: coordinator, Log: slog.New(slog.DiscardHandler), MinTTL: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	if c.admin, err = lockclient.New(lockclient.Config{Transport: sound{c.api}, Owner: "locktest"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.admin.Close(context.WithoutCancel(t.Context())) })
	return c
}

func (c *Coordinator) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

// Client makes a client whose locks have the given owner. It is closed at the end of the test. Its RetryDelay is 20 ms; change may
// alter that and the rest of its configuration.
func (c *Coordinator) Client(owner string, change ...func(*lockclient.Config)) *lockclient.Client {
	c.t.Helper()
	cfg := lockclient.Config{Transport: c, Owner: owner, RetryDelay: 20 * time.Millisecond}
	for _, f := range change {
		f(&cfg)
	}
	client, err := lockclient.New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = client.Close(context.WithoutCancel(c.t.Context())) })
	return client
}

// sound is a transport to the coordinator on which no faults are injected.
type sound struct{ api *api.API }

func (s sound) RoundTrip(ctx context.Context, r lockclient.Request) (lockclient.Response, error) {
	answer, problem := s.api.Call(ctx, wire.Op(r.Op), r.Lock, r.Body)
	if problem != nil {
		return lockclient.Response{Status: problem.Status, Answer: problem}, nil
	}
	return lockclient.Response{Status: http.StatusOK, Answer: answer}, nil
}

// RoundTrip implements [lockclient.Transport].
func (c *Coordinator) RoundTrip(ctx context.Context, r lockclient.Request) (lockclient.Response, error) {
	f := c.fault(r.Op)
	if f != nil && !f.after {
		return lockclient.Response{}, f.err
	}
	resp, err := c.serve(ctx, r)
	if f != nil {
		return lockclient.Response{}, f.err
	}
	if ctx.Err() != nil {
		return lockclient.Response{}, ctx.Err()
	}
	return resp, err
}

func (c *Coordinator) fault(op string) *fault {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests[op]++
	for i := range c.faults {
		if f := &c.faults[i]; f.n > 0 && (f.op == "" || f.op == op) {
			f.n--
			return f
		}
	}
	return nil
}

// Requests returns the number of requests of an operation ("acquire", "renew", "release", "force-release", "status" or "list")
// that clients have sent.
func (c *Coordinator) Requests(op string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requests[op]
}

// FailNext makes the next n requests of an operation fail before they reach the coordinator; an empty op means every operation. A
// nil err means [ErrInjected]. The client retries them, unless err is a [*lockclient.RefusedError] (see [Problem]).
func (c *Coordinator) FailNext(op string, n int, err error) { c.inject(op, n, err, false) }

// LoseNextAnswer makes the next n requests of an operation take effect and lose their answers; an empty op means every operation.
func (c *Coordinator) LoseNextAnswer(op string, n int) { c.inject(op, n, nil, true) }

func (c *Coordinator) inject(op string, n int, err error, after bool) {
	c.t.Helper()
	if op != "" && !slices.Contains(wire.Ops(), wire.Op(op)) {
		c.t.Fatalf("locktest: there is no operation %q; give one of %v", op, wire.Ops())
	}
	if err == nil {
		err = ErrInjected
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, fault{op, n, err, after})
}

// Heal removes the faults that are still to be injected.
func (c *Coordinator) Heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = nil
}

// Expire ends all leases of a lock, as if they had expired now. Their holders learn of it at their next renewal.
func (c *Coordinator) Expire(name string) {
	c.t.Helper()
	if _, err := c.admin.ForceRelease(c.t.Context(), name, "locktest: expired", 0); err != nil {
		c.t.Fatal(err)
	}
}

// Steal ends all leases of a lock and acquires it for owner for an hour, as happens to a holder that was paused for longer than its
// lease. It returns the fencing token of the new lease.
func (c *Coordinator) Steal(name, owner string) int64 {
	c.t.Helper()
	c.Expire(name)
	lease, err := c.admin.TryAcquire(c.t.Context(), name, lockclient.Options{Owner: owner, TTL: time.Hour, ManualRenew: true})
	if err != nil {
		c.t.Fatal(err)
	}
	return lease.Fence()
}

// Advance sets the coordinator's clock forward by d, but not those of the clients. Leases that expire within d are then expired.
func (c *Coordinator) Advance(d time.Duration) {
	c.mu.Lock()
	c.ahead += d
	c.mu.Unlock()
	c.changes.all()
}

// Holder returns the owner of a lock's holder, or the first of them; it is empty if the lock is free.
func (c *Coordinator) Holder(name string) string {
	c.t.Helper()
	s, err := c.admin.Status(context.WithoutCancel(c.t.Context()), name)
	if err != nil {
		c.t.Fatal(err)
	}
	if len(s.Holders) == 0 {
		return ""
	}
	return s.Holders[0].Owner
}

// Problem returns a coordinator's refusal with a code of the API, such as "capacity_mismatch" (see docs/openapi.yaml), for
// [Coordinator.FailNext].
func Problem(code string) error {
	return &lockclient.RefusedError{Code: code, Status: wire.Code(code).Status(), Detail: fmt.Sprintf("locktest: %s", http.StatusText(wire.Code(code).Status()))}
}
