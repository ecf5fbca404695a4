package lockclient

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A Want is what a set of locks asks of one of them. Zero Permits are 1. Zero Capacity is that of a limit of the lock's prefix, if there is one, and otherwise 1.
type Want struct {
	Lock     string
	Capacity int
	Permits  int
}

// setSeparator is between the names of a set's locks, where they are shown and kept as one text. No lock's name contains it.
const setSeparator = ","

// AcquireAll acquires several locks, up to 10, all at once or none. While others hold any of them, it waits in the queues of all, and holds
// none meanwhile; so sets that share locks cannot deadlock, in whatever order they are named. The lease is one: it is renewed, lost and
// released as a whole. [Lease.Name] is then all names, with commas between, and [Lease.Fences] has the fencing token of each lock.
//
// Options.Capacity, Options.Permits and Options.Mode must be zero: each [Want] has its own capacity and permits. A set waits by polling, also if Config.Notify is set. The errors
// are those of [Client.Acquire]; HeldError.Lock names the lock that holds the set up.
//
// In each queue a set keeps its turn: those behind it wait too, also if its other locks are not free yet. So keep sets small, and give a set
// that waits for long a limit by Options.Wait.
func (c *Client) AcquireAll(ctx context.Context, locks []Want, opts Options) (*Lease, error) {
	return c.acquireAll(ctx, locks, opts, true)
}

// TryAcquireAll acquires several locks if all are free now; compare [Client.TryAcquire].
func (c *Client) TryAcquireAll(ctx context.Context, locks []Want, opts Options) (*Lease, error) {
	return c.acquireAll(ctx, locks, opts, false)
}

// DoAll acquires several locks, all at once, and runs fn while it holds them; compare [Client.Do].
func (c *Client) DoAll(ctx context.Context, locks []Want, opts Options, fn func(ctx context.Context, lease *Lease) error) error {
	lease, err := c.AcquireAll(ctx, locks, opts)
	if err != nil {
		return err
	}
	return c.holding(ctx, lease, fn)
}

func (c *Client) acquireAll(ctx context.Context, locks []Want, opts Options, wait bool) (*Lease, error) {
	name, set, err := setOf(locks, opts)
	if err != nil {
		return nil, &OpError{ErrAcquire, name, err}
	}
	if len(set) == 1 {
		opts.Capacity, opts.Permits = int(set[0].Capacity), int(set[0].Permits)
		return c.acquire(ctx, name, opts, wait)
	}
	return c.acquireAs(ctx, acquisition{client: c, name: name, set: set, opts: opts, wait: wait})
}

// setOf checks the locks of a set, and returns their names as one text and what the set asks of each, in the order of the names.
func setOf(locks []Want, opts Options) (name string, set []wire.SetLock, err error) {
	var names []string
	for _, w := range locks {
		names = append(names, w.Lock)
		set = append(set, wire.SetLock{Name: w.Lock, Capacity: int64(w.Capacity), Permits: int64(w.Permits)})
	}
	slices.Sort(names)
	slices.SortFunc(set, func(a, b wire.SetLock) int { return strings.Compare(a.Name, b.Name) })
	name = strings.Join(names, setSeparator)
	switch {
	case len(set) == 0 || len(set) > wire.MaxSet:
		return name, nil, refused("locks", "there are %d locks in the set; give 1 to %d", len(set), wire.MaxSet)
	case len(slices.Compact(names)) < len(set):
		return name, nil, refused("locks", "a lock is in the set twice; name each once")
	case opts.Mode != "":
		return name, nil, refused("mode", "Options.Mode is set; a set of locks has no modes: give a reader's Want the capacity %d, and a writer's as many permits", wire.ModeCapacity)
	case opts.Capacity != 0 || opts.Permits != 0:
		return name, nil, refused("capacity", "Options.Capacity or Options.Permits is set; set them in the Want of each lock")
	}
	for _, w := range set {
		if problem := wire.CheckName(w.Name); problem != "" {
			return name, nil, refused("locks", "name %s", problem)
		}
		if w.Capacity < 0 || w.Capacity > wire.MaxCapacity || w.Permits < 0 || w.Permits > cmp.Or(w.Capacity, wire.MaxCapacity) {
			return name, nil, refused("locks", "%s has the capacity %d and the permits %d; give a capacity of 1 to %d, and 1 to as many permits", w.Name, w.Capacity, w.Permits, wire.MaxCapacity)
		}
	}
	return name, set, nil
}

// namesIn are the locks in the name of a set; nil for the name of a single lock.
func namesIn(name string) []string {
	if !strings.Contains(name, setSeparator) {
		return nil
	}
	return strings.Split(name, setSeparator)
}

// sendSet sends the acquire of a set. It returns the answer in the form of a single lock's, and the fencing tokens.
func (a *acquisition) sendSet(ctx context.Context, answer *wire.Lease) (map[string]int64, error) {
	r := a.request
	request := wire.AcquireSetRequest{
		Locks: a.set, Lease: r.Lease, Owner: r.Owner, TTL: r.TTL, Metadata: r.Metadata, Wait: r.Wait, Tickets: a.tickets, Traceparent: r.Traceparent,
	}
	return a.client.sendSet(ctx, wire.OpAcquireSet, a.name, request, answer)
}

func (c *Client) sendSet(ctx context.Context, op wire.Op, name string, request any, answer *wire.Lease) (map[string]int64, error) {
	names := namesIn(name)
	var set wire.SetLease
	if err := c.send(ctx, op, wire.SetScope(names), request, &set); err != nil {
		return nil, err
	}
	fences := map[string]int64{}
	for _, m := range set.Locks {
		fences[m.Lock] = m.Fence
	}
	if !slices.Equal(slices.Sorted(maps.Keys(fences)), names) {
		return nil, notCoordinator(http.StatusOK, "an answer about other locks than the set's")
	}
	*answer = wire.Lease{
		Lock: name, Lease: set.Lease, Fence: fences[names[0]], Owner: set.Owner, AcquiredAt: set.AcquiredAt, RenewedAt: set.RenewedAt,
		ExpiresAt: set.ExpiresAt, EndsAt: set.EndsAt, TTL: set.TTL, Remaining: set.Remaining, Waited: set.Waited, Metadata: set.Metadata,
	}
	return fences, nil
}

// sendRenew sends one try of a renewal, of a lock or of a set.
func (c *Client) sendRenew(ctx context.Context, name string, r wire.RenewRequest, answer *wire.Lease) (map[string]int64, error) {
	if names := namesIn(name); names != nil {
		return c.sendSet(ctx, wire.OpRenewSet, name, wire.RenewSetRequest{Locks: names, Lease: r.Lease, TTL: r.TTL, Metadata: r.Metadata}, answer)
	}
	return nil, c.send(ctx, wire.OpRenew, name, r, answer)
}

// sendRelease sends one try of a release, of a lock or of a set.
func (c *Client) sendRelease(ctx context.Context, name, secret string) error {
	names := namesIn(name)
	if names == nil {
		var answer wire.Released
		if err := c.send(ctx, wire.OpRelease, name, wire.ReleaseRequest{Lease: secret}, &answer); err != nil {
			return err
		}
		return checkLock(answer.Lock, name)
	}
	var answer wire.SetReleased
	if err := c.send(ctx, wire.OpReleaseSet, wire.SetScope(names), wire.ReleaseSetRequest{Locks: names, Lease: secret}, &answer); err != nil {
		return err
	}
	for _, r := range answer.Locks {
		if !slices.Contains(names, r.Lock) {
			return checkLock(r.Lock, name)
		}
	}
	return nil
}

// Fences returns the fencing token of each lock of the lease: of one lock, or of all of a set (see [Client.AcquireAll]).
func (l *Lease) Fences() map[string]int64 {
	if l.fences == nil {
		return map[string]int64{l.name: l.fence}
	}
	return maps.Clone(l.fences)
}

// checkFences checks that a renewal's answer has the fencing tokens of the grant. If one is higher, the lease had ended, the lock forgot it, and a
// copy of its acquire that came late got the lock again: others may have held it between. No coordinator answers with a lower one.
func (l *Lease) checkFences(fence int64, fences map[string]int64) error {
	for name, granted := range l.Fences() {
		answered := fence
		if l.fences != nil {
			answered = fences[name]
		}
		switch {
		case answered > granted:
			return ErrLost
		case answered < granted:
			return notCoordinator(http.StatusOK, "an answer with a lower fence than this lease's")
		}
	}
	return nil
}

// describe names what a lease holds, for [Lease.String].
func (l *Lease) describe() string {
	if l.fences == nil {
		return fmt.Sprintf("lease of %s, fence %d", l.name, l.fence)
	}
	return fmt.Sprintf("lease of the set %s, fences %v", l.name, l.fences)
}
