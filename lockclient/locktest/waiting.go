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

// A waiter that asks again gets its answer when something has changed, or after a while, rather than at once: so a test in
// which much time passes needs few requests. Its first request is answered at once, so that it learns who is in the way.

// patience is how long a waiter is kept without an answer, if its request has no deadline; else half of what is left.
const patience = 2 * time.Second

// glance is the shortest pause between two looks on a waiter's behalf.
const glance = 50 * time.Millisecond

// changes lets waiters wait until the holders of a lock change.
type changes struct {
	mu   sync.Mutex
	next map[string]chan struct{} // by lock's name; closed at its next change
}

// of is closed when the holders of a lock change from now on.
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

// wrote is the store's callback. Renewals, and waiters that keep their places, are no change.
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

// all wakes everyone, after the clock was moved.
func (c *changes) all() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.next {
		close(ch)
	}
	clear(c.next)
}

// serve carries out a request, and keeps a waiter's until it is worth an answer.
func (c *Coordinator) serve(ctx context.Context, r lockclient.Request) (lockclient.Response, error) {
	most := patience
	if deadline, ok := ctx.Deadline(); ok {
		most = time.Until(deadline) / 2
	}
	until := time.Now().Add(most)
	for first := true; ; first = false {
		changed := c.changes.of(r.Lock)
		// Whoever serves a request knows nothing of its sender's context.
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

// waits tells whether a request is a waiter's who was told before that the lock is held, and still is, and how long until that
// may end by itself.
func (c *Coordinator) waits(r lockclient.Request, resp lockclient.Response, first bool) (time.Duration, bool) {
	var request wire.AcquireRequest
	var p wire.Problem
	if wire.Op(r.Op) != wire.OpAcquire || json.Unmarshal(r.Body, &request) != nil || request.Wait == 0 ||
		json.Unmarshal(resp.Body, &p) != nil || p.Code != wire.LockHeld {
		return 0, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	told := c.told[request.Lease]
	c.told[request.Lease] = true
	return max(time.Duration(p.RetryAfter)*time.Millisecond, glance), told || !first
}
