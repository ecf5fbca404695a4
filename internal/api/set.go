package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/scope"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// admitSet reads the locks of a set, and refuses a call whose names are not valid or not within its scope. IAM sees the scope, which is a
// part of the path, and not the names, so each name must match it. Of a direct invocation IAM sees the alias.
func (c *call) admitSet() error {
	if problem := scope.CheckPattern(c.scope); c.http && problem != "" {
		return invalid("scope", "scope %s%s", problem, spelling(c.scope))
	}
	if err := c.readLocks(); err != nil {
		return err
	}
	for i, w := range c.wants {
		switch problem := wire.CheckName(w.Lock); {
		case problem != "":
			return invalid("locks", "locks[%d]: name %s", i, problem)
		case slices.ContainsFunc(c.wants[:i], func(other lock.Want) bool { return other.Lock == w.Lock }):
			return invalid("locks", "locks[%d]: name is %q, which is there before; name each lock once", i, w.Lock)
		case c.scope != "" && !scope.Matches(c.scope, w.Lock):
			return invalid("locks", "locks[%d]: name is %q, which the scope %q does not include; use a scope that includes every lock of the set", i, w.Lock, c.scope)
		case !scope.Allows(c.function, w.Lock):
			return invalid("locks", "locks[%d]: name is %q; this alias of the function serves other locks only", i, w.Lock)
		}
	}
	return nil
}

// readLocks reads the field locks: objects in an acquire, and else names.
func (c *call) readLocks() error {
	raw := c.fields.raw("locks")
	if raw == nil {
		return invalid("locks", "locks is missing; name the 1 to %d locks of the set", wire.MaxSet)
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		return invalid("locks", "locks is %s; it must be an array", kind(raw))
	}
	if len(list) == 0 || len(list) > wire.MaxSet {
		return invalid("locks", "locks has %d elements; name 1 to %d locks", len(list), wire.MaxSet)
	}
	for i, raw := range list {
		want, err := c.readWant(raw)
		if err != nil {
			return invalid("locks", "locks[%d]: %v", i, err)
		}
		c.wants = append(c.wants, want)
	}
	c.lock = strings.Join(slices.Sorted(slices.Values(c.names())), ",")
	return nil
}

func (c *call) readWant(raw json.RawMessage) (w lock.Want, err error) {
	if c.op != wire.OpAcquireSet {
		if raw[0] != '"' {
			return w, fmt.Errorf("the element is %s; it must be a string, the lock's name", kind(raw))
		}
		err = json.Unmarshal(raw, &w.Lock)
		return w, err
	}
	if raw[0] != '{' {
		return w, fmt.Errorf(`the element is %s; it must be an object, such as {"name": "deploy:prod"}`, kind(raw))
	}
	o, err := parseObject(raw)
	if err != nil {
		return w, err
	}
	w.Lock, _ = o.str("name")
	w.Capacity, w.Permits, _ = o.permits()
	o.checkPermits(w.Capacity, w.Permits)
	return w, o.done()
}

func (c *call) names() (list []string) {
	for _, w := range c.wants {
		list = append(list, w.Lock)
	}
	return list
}

func (a *API) acquireSet(ctx context.Context, c *call) (any, int64, error) {
	want := a.newLease(ctx, c)
	var one lock.AcquireRequest
	a.waiting(c, &one, nil, want.chosen)
	req := lock.SetRequest{
		Locks: c.wants, Principal: c.principal, Secret: want.secret, Owner: want.owner, TTL: cmp.Or(want.ttl, a.defaultTTL(one.Execution != "")), AnyTTL: want.ttl == 0,
		Metadata: want.metadata, Wait: one.Wait, Token: one.Token, Execution: one.Execution, Trace: want.trace,
	}
	req.Tickets = c.tickets(req.Wait > 0)
	if err := c.fields.done(); err != nil {
		return nil, 0, err
	}
	s, err := a.coordinator.AcquireAll(ctx, req)
	if held, ok := errors.AsType[*lock.HeldError](err); ok && req.Token.OfTask() && held.Position > 0 {
		return setQueued(held, slices.Sorted(slices.Values(c.names()))), 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	return setAnswer(s, want.secret), 0, nil
}

func setQueued(held *lock.HeldError, names []string) wire.SetQueued {
	return wire.SetQueued{
		Locks: names, Queued: true, Lock: held.Lock, Position: held.Position, Waiting: held.Waiting, Tickets: held.Tickets, Freeze: freezeAnswer(held.Freeze),
		NextGrant: nextGrant(held),
	}
}

// tickets reads the tickets of a poll.
func (c *call) tickets(waits bool) (list []int64) {
	raw := c.fields.raw("tickets")
	if raw == nil {
		return nil
	}
	valid := json.Unmarshal(raw, &list) == nil && raw[0] == '[' && len(list) == len(c.wants)
	for _, ticket := range list {
		valid = valid && ticket >= 1 && ticket <= wire.MaxTicket
	}
	switch {
	case !valid:
		c.fields.fail("tickets", "tickets is %s; it must be the array of the last answer to the same request, one ticket for each lock", brief(raw))
	case !waits:
		c.fields.fail("tickets", "tickets is given without wait_ms; send both, as in the request that the tickets were an answer to")
	}
	return list
}

func (a *API) renewSet(ctx context.Context, c *call) (any, int64, error) {
	req := lock.SetRenewRequest{Locks: c.names(), Principal: c.principal, Secret: c.fields.lease()}
	req.TTL = a.ttl(c.fields)
	if metadata, given := c.fields.metadata(); given {
		req.Metadata = &metadata
	}
	if err := c.fields.done(); err != nil {
		return nil, 0, err
	}
	s, err := a.coordinator.RenewAll(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	return setAnswer(s, req.Secret), 0, nil
}

func (a *API) releaseSet(ctx context.Context, c *call) (any, int64, error) {
	req := lock.SetReleaseRequest{Locks: c.names(), Principal: c.principal, Secret: c.fields.lease()}
	if err := c.fields.done(); err != nil {
		return nil, 0, err
	}
	list, err := a.coordinator.ReleaseAll(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	answer := wire.SetReleased{}
	for _, r := range list {
		answer.Locks = append(answer.Locks, wire.Released{Lock: r.Lock, Fence: r.Fence, ReleasedAt: wire.At(r.At)})
	}
	return answer, 0, nil
}

func setAnswer(s lock.SetStatus, secret string) wire.SetLease {
	first := s.Leases[0].Lease
	answer := wire.SetLease{Lease: secret, Owner: first.Owner, TTL: first.TTL, Remaining: s.Remaining.Milliseconds(), Waited: first.Waited(), Metadata: metadata(first.Metadata)}
	expires, renewed, ends := first.ExpiresAt, first.RenewedAt, int64(0)
	for _, l := range s.Leases {
		answer.Locks = append(answer.Locks, wire.SetMember{Lock: l.Lock, Fence: l.Lease.Fence, Capacity: l.Capacity, Permits: l.Lease.Permits})
		expires, renewed = min(expires, l.Lease.ExpiresAt), min(renewed, l.Lease.RenewedAt)
		if l.Lease.EndsAt > 0 && (ends == 0 || l.Lease.EndsAt < ends) {
			ends = l.Lease.EndsAt
		}
	}
	answer.AcquiredAt, answer.RenewedAt, answer.ExpiresAt = wire.At(first.AcquiredAt), wire.At(renewed), wire.At(expires)
	answer.EndsAt = wire.AtOrNone(ends)
	return answer
}

// setDetail is the detail of a set that was not granted.
func setDetail(held *lock.HeldError) string {
	switch {
	case held.Freeze != nil && held.Position > 0:
		return fmt.Sprintf("the set waits for %s: %s; send the same request again, with the tickets, to keep its places", held.Lock, freezeText(held.Freeze))
	case held.Freeze != nil && held.Full:
		return fmt.Sprintf("the set needs %s: %s; %d wait for it already", held.Lock, freezeText(held.Freeze), held.Waiting)
	case held.Freeze != nil:
		return fmt.Sprintf("the set needs %s: %s; send wait_ms to join the queues of all its locks", held.Lock, freezeText(held.Freeze))
	case held.Rate != nil && held.Position > 0:
		return fmt.Sprintf("the set waits for %s: %s; send the same request again, with the tickets, to keep its places", held.Lock, rateText(held.Rate))
	case held.Rate != nil:
		return fmt.Sprintf("the set needs %s: %s; send wait_ms to join the queues of all its locks", held.Lock, rateText(held.Rate))
	case held.Position > 0:
		return fmt.Sprintf("the set waits for %s, at place %d; send the same request again, with the tickets, to keep its places", held.Lock, held.Position)
	case held.Waiting > 0:
		return fmt.Sprintf("%s is held, and %d wait for it; send wait_ms to join the queues of all locks of the set", held.Lock, held.Waiting)
	}
	return fmt.Sprintf("%s is held; none of the set was granted", held.Lock)
}
