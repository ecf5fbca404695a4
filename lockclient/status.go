package lockclient

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A Status is the state of a lock, as all callers may see it.
type Status struct {
	Lock      string // the lock's name
	Locked    bool   // at least one lease is live
	Capacity  int    // the capacity that the holders gave; 1 if the lock is free
	Available int    // the permits that are free
	Fence     int64  // the highest fencing token ever granted; 0 if there was no grant
	Holders   []StatusHolder
	Waiting   int       // the number of waiters in the queue
	Queue     []Waiter  // the first waiters, in their order; of [Client.Queue] only
	Frozen    *Freeze   // nil if the lock is not frozen; List leaves it out
	NextGrant time.Time // when a rate of the lock's prefix allows the next grant, if that is later than At; else zero, as in List
	At        time.Time // when the coordinator answered, by its clock
}

// A StatusHolder is a live lease in a [Status].
type StatusHolder struct {
	Holder
	Permits    int             // of the lock's capacity
	AcquiredAt time.Time       // the time of the grant
	RenewedAt  time.Time       // the time of the last renewal
	Metadata   json.RawMessage // a JSON object; nil if there is none
	Principal  string          // the caller's ARN, as API Gateway's authorizer gave it; empty for other transports
}

// A Waiter is a place in a lock's queue in a [Status].
type Waiter struct {
	Position  int       // from 1
	Owner     string    // its name for itself; see Config.Owner
	Principal string    // the caller's ARN; empty if it is not known
	Permits   int       // that it waits for
	JoinedAt  time.Time // by the coordinator's clock; zero if it is not known
	Task      bool      // a task of a state machine waits, not a client
	Set       []string  // the names of the locks that it acquires together, in order; nil: this one alone
}

// Queue reads a lock as [Client.Status] does, with the first limit waiters of its queue, 1 to 100. The waiters are read after the lock, and may be newer.
// They take one more read of the table, of about 1 kB a waiter. Callers need the permission of Status. A coordinator of an older version refuses the request,
// with the field "waiters".
func (c *Client) Queue(ctx context.Context, name string, limit int) (Status, error) {
	if limit < 1 || limit > wire.MaxPage {
		return Status{}, &OpError{ErrStatus, name, refused("waiters", "limit is %d; give 1 to %d", limit, wire.MaxPage)}
	}
	s, err := c.status(ctx, name, limit)
	if err != nil {
		return Status{}, &OpError{ErrStatus, name, err}
	}
	return s, nil
}

// Status reads a lock. A lock that was never acquired is a free lock.
func (c *Client) Status(ctx context.Context, name string) (Status, error) {
	s, err := c.status(ctx, name, 0)
	if err != nil {
		return Status{}, &OpError{ErrStatus, name, err}
	}
	return s, nil
}

func (c *Client) status(ctx context.Context, name string, waiters int) (Status, error) {
	if problem := wire.CheckName(name); problem != "" {
		return Status{}, refused("name", "name %s", problem)
	}
	var request any
	if waiters > 0 {
		request = wire.StatusRequest{Waiters: waiters}
	}
	var s wire.Status
	if err := c.retry(ctx, func() error { return c.send(ctx, wire.OpStatus, name, request, &s) }); err != nil {
		return Status{}, err
	}
	return newStatus(s), checkLock(s.Lock, name)
}

// checkLock returns an error if an answer is about another lock than the request.
func checkLock(answered, name string) error {
	if answered != name {
		return notCoordinator(http.StatusOK, "an answer that is not about this lock")
	}
	return nil
}

func newStatus(s wire.Status) Status {
	out := Status{
		Lock: s.Lock, Locked: s.Locked, Capacity: int(s.Capacity), Available: int(s.Available), Fence: s.Fence,
		Waiting: int(s.Waiting), Frozen: newFreeze(s.Freeze), NextGrant: timeOf(s.NextGrant), At: s.ServerTime.Time,
	}
	for _, w := range s.Queue {
		out.Queue = append(out.Queue, Waiter{position(w.Position), w.Owner, w.Principal, int(w.Permits), timeOf(w.JoinedAt), w.Task, w.Set})
	}
	for _, h := range s.Holders {
		out.Holders = append(out.Holders, StatusHolder{
			Holder:  Holder{h.Owner, h.Fence, h.ExpiresAt.Time, time.Duration(h.Remaining) * time.Millisecond, h.Traceparent},
			Permits: int(h.Permits), AcquiredAt: h.AcquiredAt.Time, RenewedAt: h.RenewedAt.Time, Metadata: h.Metadata, Principal: h.Principal,
		})
	}
	return out
}

// timeOf is a time of an answer; zero if the answer has none.
func timeOf(t *wire.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.Time
}

// List returns an iterator over the locks whose names begin with prefix, in pages of 100: those that are held, and those that are waited for
// although nobody holds them (they are frozen, or at their rate). If all is true, it includes the free ones, as long as the coordinator remembers them. An error is the iterator's last element. List reads the whole table: it
// is meant for people and not for frequent use by programs.
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

// ForceRelease ends leases of a lock without their holders' consent: all of them if fence is 0, or else only the one with that
// fencing token. It is for an operator who knows that the holder is dead. The coordinator records the reason (1 to 512 bytes) and
// the caller. ForceRelease returns the leases that it ended; there are none if the lock was free. If no live lease has the fencing
// token, the error is an [ErrRefused] with the code lock_changed.
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
