package lockclient

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"net/http"
	"slices"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A Status is what anyone may know of a lock.
type Status struct {
	Lock      string
	Locked    bool
	Capacity  int
	Available int
	Fence     int64 // the highest ever granted
	Holders   []StatusHolder
	Waiting   int
	At        time.Time // by the coordinator's clock
}

// A StatusHolder is a lease as others may see it.
type StatusHolder struct {
	Holder
	Permits    int
	AcquiredAt time.Time
	RenewedAt  time.Time
	Metadata   json.RawMessage // nil: none
	Principal  string          // who the coordinator's authorizer said it is; empty without one
}

// Status reads a lock. A lock that nobody ever took is free.
func (c *Client) Status(ctx context.Context, name string) (Status, error) {
	s, err := c.status(ctx, name)
	if err != nil {
		return Status{}, &OpError{ErrStatus, name, err}
	}
	return s, nil
}

func (c *Client) status(ctx context.Context, name string) (Status, error) {
	if problem := wire.CheckName(name); problem != "" {
		return Status{}, refused("name", "name %s", problem)
	}
	var s wire.Status
	if err := c.retry(ctx, func() error { return c.send(ctx, wire.OpStatus, name, nil, &s) }); err != nil {
		return Status{}, err
	}
	return newStatus(s), checkLock(s.Lock, name)
}

// checkLock sees that an answer is about the lock that was asked for.
func checkLock(answered, name string) error {
	if answered != name {
		return notCoordinator(http.StatusOK, "an answer that is not about this lock")
	}
	return nil
}

func newStatus(s wire.Status) Status {
	out := Status{
		Lock: s.Lock, Locked: s.Locked, Capacity: int(s.Capacity), Available: int(s.Available), Fence: s.Fence,
		Waiting: int(s.Waiting), At: s.ServerTime.Time,
	}
	for _, h := range s.Holders {
		out.Holders = append(out.Holders, StatusHolder{
			Holder:  Holder{h.Owner, h.Fence, h.ExpiresAt.Time, time.Duration(h.Remaining) * time.Millisecond},
			Permits: int(h.Permits), AcquiredAt: h.AcquiredAt.Time, RenewedAt: h.RenewedAt.Time, Metadata: h.Metadata, Principal: h.Principal,
		})
	}
	return out
}

// List goes through the locks whose names begin with a prefix, a page at a time; all also gives those that nobody holds, as
// long as the coordinator remembers them. A failure is the last thing it gives. It reads the whole table: a tool for people,
// not for a program's every minute.
func (c *Client) List(ctx context.Context, prefix string, all bool) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		request := listRequest{Prefix: prefix, Limit: wire.MaxPage, State: "held"}
		if all {
			request.State = "all"
		}
		for {
			var page wire.List
			err := c.retry(ctx, func() error { return c.send(ctx, wire.OpList, "", request, &page) })
			if err == nil && page.Locks == nil {
				err = notCoordinator(http.StatusOK, "an answer that is no list of locks")
			}
			if err != nil {
				yield(Status{}, &OpError{ErrList, prefix, err})
				return
			}
			for _, s := range page.Locks {
				if !yield(newStatus(s), nil) {
					return
				}
			}
			if request.Cursor = page.NextCursor; request.Cursor == "" {
				return
			}
		}
	}
}

type listRequest struct {
	Prefix string `json:"prefix,omitzero"`
	Limit  int    `json:"limit"`
	State  string `json:"state"`
	Cursor string `json:"cursor,omitzero"`
}

// Watch gives a lock's status, and again each time that it changed: who holds it, with what metadata, how many wait.
// Renewals are no change. It asks at most every Config.RetryDelay, and less often, down to a tenth, while nothing changes,
// but never sleeps past the time at which a lease runs out. What came and went between two looks it does not see; events do
// (see docs/events.md).
//
// An error is given in its turn, and watching goes on, except after an [ErrRefused] or when ctx ends. The loop ends with
// ctx, after its error.
func (c *Client) Watch(ctx context.Context, name string) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		var last *Status
		quiet := 0 // looks since something changed
		for {
			s, err := c.status(ctx, name)
			switch {
			case err != nil:
				if !yield(Status{}, &OpError{ErrWatch, name, err}) || errors.Is(err, ErrRefused) || ctx.Err() != nil {
					return
				}
				last = nil // whatever comes after an error is news
			case last == nil || !s.same(*last):
				quiet = 0
				if !yield(s, nil) {
					return
				}
				last = &s
			}
			if err := sleep(ctx, c.watchPause(s, quiet)); err != nil {
				yield(Status{}, &OpError{ErrWatch, name, context.Cause(ctx)})
				return
			}
			quiet++
		}
	}
}

// watchSlack is how long after its expiry a lease is not listed any more: the coordinator's allowance for clocks.
const watchSlack = 300 * time.Millisecond

func (c *Client) watchPause(s Status, quiet int) time.Duration {
	pause := jitter(c.retryDelay * time.Duration(min(1+quiet, 10)))
	for _, h := range s.Holders {
		pause = min(pause, max(h.Remaining+watchSlack, c.retryDelay/10))
	}
	return pause
}

// same tells whether two looks at a lock show the same, renewals aside.
func (s Status) same(o Status) bool {
	return s.Locked == o.Locked && s.Capacity == o.Capacity && s.Fence == o.Fence && s.Waiting == o.Waiting &&
		slices.EqualFunc(s.Holders, o.Holders, func(a, b StatusHolder) bool {
			return a.Fence == b.Fence && string(a.Metadata) == string(b.Metadata)
		})
}

// ForceRelease ends the leases of others on a lock: every one, or, with a fence, only that one. It is an operator's word
// that the holder is gone, and is recorded with the reason and the caller. It answers who was ended: nobody, if nobody held
// the lock. A fence that is no holder's any more is an [ErrRefused] with the code lock_changed.
func (c *Client) ForceRelease(ctx context.Context, name, reason string, fence int64) ([]StatusHolder, error) {
	released, err := c.forceRelease(ctx, name, reason, fence)
	if err != nil {
		return nil, &OpError{ErrForceRelease, name, err}
	}
	return released, nil
}

func (c *Client) forceRelease(ctx context.Context, name, reason string, fence int64) ([]StatusHolder, error) {
	if problem := wire.CheckName(name); problem != "" {
		return nil, refused("name", "name %s", problem)
	}
	var answer wire.ForceReleased
	err := c.retry(ctx, func() error {
		return c.send(ctx, wire.OpForceRelease, name, wire.ForceReleaseRequest{Reason: reason, Fence: fence}, &answer)
	})
	if err != nil {
		return nil, err
	}
	return newStatus(wire.Status{Holders: answer.Released}).Holders, checkLock(answer.Lock, name)
}
