package locktest

import (
	"context"
	"encoding/json"
	"maps"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// A waiter's polls are answered when the lock's holders have changed, or after a while, so that a test in which much time passes
// needs few requests. Its first request is answered at once, so that it learns who holds the lock.

// patience is how long a poll is kept without an answer if it has no deadline; otherwise half of the time until its deadline.
const patience = 2 * time.Second

// glance is the shortest pause between two tries of a poll that is kept.
const glance = 50 * time.Millisecond

// changes lets a poll wait until the holders of a lock change.
type changes struct {
	mu   sync.Mutex
	next map[string]chan struct{} // by the lock's name; closed at its next change
}

// of returns a channel that is closed at the next change of a lock's holders.
func (c *changes) of(name string) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == nil {
		c.next = map[string]chan struct{}{}
	}
	if c.next[name] == nil {
		c.next[name] = make(chan struct{})
	}
	return c.next[name]
}

// wrote is called by the store after each write. Renewals and polls are no changes.
func (c *changes) wrote(name string, before, after lock.Record) {
	same := func(a, b lock.Lease) bool { return a.Fence == b.Fence }
	if maps.EqualFunc(before.Holders, after.Holders, same) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch := c.next[name]; ch != nil {
		close(ch)
		delete(c.next, name)
	}
}

// all wakes every poll. It is called when the clock has been set forward.
func (c *changes) all() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.next {
		close(ch)
	}
	clear(c.next)
}

// serve serves a request. It keeps a waiter's poll until there is something to answer.
func (c *Coordinator) serve(ctx context.Context, r lockclient.Request) (lockclient.Response, error) {
	most := patience
	if deadline, ok := ctx.Deadline(); ok {
		most = time.Until(deadline) / 2
	}
	until := time.Now().Add(most)
	for first := true; ; first = false {
		changed := c.changes.of(r.Lock)
		// A real coordinator does not learn that the sender has given up.
		resp, err := sound{c.api}.RoundTrip(context.WithoutCancel(ctx), r)
		pause, waits := c.waits(r, resp, first)
		if left := time.Until(until); err != nil || !waits || left <= 0 {
			return resp, err
		} else if pause > left {
			pause = left
		}
		timer := time.NewTimer(pause)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return lockclient.Response{}, ctx.Err()
		}
	}
}

// waits reports whether a request is a repeated poll of a waiter, and the lock is still held, and how long it is until a lease's
// expiry may change that.
func (c *Coordinator) waits(r lockclient.Request, resp lockclient.Response, first bool) (time.Duration, bool) {
	var request wire.AcquireRequest
	p, _ := resp.Answer.(*wire.Problem)
	if wire.Op(r.Op) != wire.OpAcquire || p == nil || p.Code != wire.LockHeld || json.Unmarshal(r.Body, &request) != nil || request.Wait == 0 {
		return 0, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	informed := c.informed[request.Lease]
	c.informed[request.Lease] = true
	return max(time.Duration(p.RetryAfter)*time.Millisecond, glance), informed || !first
}
