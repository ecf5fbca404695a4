// Package locktest is a lock coordinator for tests of code that uses locks: in process, in memory, and with controls for what
// goes wrong in production.
//
//	locks := locktest.New(t)
//	client := locks.Client("me")
//	...
//	locks.Expire("report:daily") // the lease that anyone has on it runs out now
//
// It is the real coordinator and the real client, with the network between them replaced. It works inside a testing/synctest
// bubble, where leases run out in no time at all. A client that waits is woken when the lock changes hands, and asks every
// few seconds otherwise.
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

// ErrInjected is what [Coordinator.FailNext] and [Coordinator.LoseNextAnswer] fail with, unless told otherwise.
var ErrInjected = errors.New("locktest: injected failure")

// A Coordinator is a lock coordinator of a test. It is a [lockclient.Transport], and safe for use by any number of
// goroutines.
type Coordinator struct {
	t       testing.TB
	api     *api.API
	admin   *lockclient.Client
	changes changes

	mu       sync.Mutex
	ahead    time.Duration
	faults   []fault
	requests map[string]int
	told     map[string]bool // by lease: a waiter that was told that the lock is held
}

// A fault is what happens to the next requests of an operation.
type fault struct {
	op    string // empty: any
	n     int
	err   error
	after bool // the request is carried out first
}

// New makes a coordinator with no locks. It checks nothing at the end of the test; its clients are closed there.
func New(t testing.TB) *Coordinator {
	t.Helper()
	c := &Coordinator{t: t, requests: map[string]int{}, told: map[string]bool{}}
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

// Client makes a client that holds locks as owner. It is closed when the test ends. Its pauses between tries are short; change
// alters them, or anything else of its configuration.
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
	answer := s.api.Call(ctx, wire.Op(r.Op), r.Lock, r.Body)
	return lockclient.Response{Status: answer.Status, Body: answer.Body}, nil
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

// Requests is how many requests of an operation ("acquire", "renew", "release", "force-release", "status", "list") came.
func (c *Coordinator) Requests(op string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requests[op]
}

// FailNext makes the next n requests of an operation fail before they reach the coordinator; an empty op means any. A nil
// err is [ErrInjected]; the client tries again, unless err is a [*lockclient.RefusedError].
func (c *Coordinator) FailNext(op string, n int, err error) { c.inject(op, n, err, false) }

// LoseNextAnswer carries the next n requests of an operation out, and loses their answers; an empty op means any.
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

// Heal ends all faults.
func (c *Coordinator) Heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = nil
}

// Expire ends the leases of a lock as if their time were over: holders find out at their next renewal or check.
func (c *Coordinator) Expire(name string) {
	c.t.Helper()
	if _, err := c.admin.ForceRelease(c.t.Context(), name, "locktest: expired", 0); err != nil {
		c.t.Fatal(err)
	}
}

// Steal takes a lock from whoever holds it, for owner, for an hour: what becomes of a holder that was paused for longer than
// its lease. It answers the new holder's fencing token, which is higher.
func (c *Coordinator) Steal(name, owner string) int64 {
	c.t.Helper()
	c.Expire(name)
	lease, err := c.admin.TryAcquire(c.t.Context(), name, lockclient.Options{Owner: owner, TTL: time.Hour, ManualRenew: true})
	if err != nil {
		c.t.Fatal(err)
	}
	return lease.Fence()
}

// Advance moves the coordinator's clock on; clients' stand. So leases that are not renewed run out.
func (c *Coordinator) Advance(d time.Duration) {
	c.mu.Lock()
	c.ahead += d
	c.mu.Unlock()
	c.changes.all()
}

// Holder is who holds a lock; empty: nobody.
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

// Problem is a refusal as a coordinator answers it, with a code of the API (see docs/openapi.yaml), for FailNext.
func Problem(code string) error {
	return &lockclient.RefusedError{Code: code, Status: wire.Code(code).Status(), Detail: fmt.Sprintf("locktest: %s", http.StatusText(wire.Code(code).Status()))}
}
