package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A call is one request, wherever it came from.
type call struct {
	lock      string
	listing   bool    // about many locks; lock is empty
	function  string  // the ARN that was invoked, in Lambda
	direct    bool    // a direct invocation, not an HTTP request
	fields    *object // of the body, of a direct invocation, or of the query
	principal string  // the caller, where an authorizer knows; "" elsewhere
}

// An operation answers a call with what goes on the wire. fence is for the log; 0: none.
type operation func(ctx context.Context, c *call) (answer any, fence int64, err error)

func (a *API) acquire(ctx context.Context, c *call) (any, int64, error) {
	req := lock.AcquireRequest{Lock: c.lock, Principal: c.principal, Capacity: 1, Permits: 1}
	lease, given := c.fields.str("lease")
	if given {
		c.fields.checkLease(lease)
	} else {
		lease = a.newLease()
	}
	req.Secret = lease
	req.Owner, _ = c.fields.str("owner")
	if problem := wire.CheckText(req.Owner, wire.MaxOwner, false); problem != "" {
		c.fields.fail("owner", "owner %s", problem)
	}
	if ttl, given := a.ttl(c.fields); given {
		req.TTL = ttl
	}
	req.Metadata, _ = c.fields.metadata()
	if n, given := c.fields.integer("capacity", 1, wire.MaxCapacity, ""); given {
		req.Capacity = n
	}
	if n, given := c.fields.integer("permits", 1, wire.MaxCapacity, ""); given {
		req.Permits = n
		if n > req.Capacity {
			c.fields.fail("permits", "permits is %d; it must be from 1 to the capacity, which is %d", n, req.Capacity)
		}
	}
	a.queueing(c, &req, given)
	if req.TTL == 0 {
		req.TTL = a.defaultTTL(req.Execution != "")
	}
	if err := c.fields.done(); err != nil {
		return nil, 0, err
	}
	l, err := a.coordinator.Acquire(ctx, req)
	if held, ok := errors.AsType[*lock.HeldError](err); ok && req.Token != "" && held.Position > 0 {
		return wire.Queued{Lock: c.lock, Queued: true, Position: held.Position, Waiting: held.Waiting}, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	return leaseAnswer(l, lease), l.Lease.Fence, nil
}

// queueing takes the fields of an acquire that waits, or that belongs to an execution.
func (a *API) queueing(c *call, req *lock.AcquireRequest, ownLease bool) {
	token, isTask := c.fields.str("task_token")
	id, isCallback := c.fields.str("callback_id")
	field, most := "task_token", wire.MaxWait
	switch {
	case isTask && isCallback:
		c.fields.fail("callback_id", "task_token and callback_id are both there; give the one that waits")
	case isTask:
		req.Token = wire.TaskPrefix + token
	case isCallback:
		field, token, req.Token = "callback_id", id, wire.DurablePrefix+id
	}
	if isTask || isCallback {
		most = wire.MaxTokenWait
		req.Wait = most
		problem := wire.CheckToken(token)
		switch {
		case !c.direct:
			c.fields.fail(field, "%s is for direct invocations of the function, as a state machine makes them; over HTTP send wait_ms and poll", field)
		case !ownLease:
			c.fields.fail("lease", "lease is missing; with %s choose it yourself (States.UUID() makes one), since the callback does not carry it", field)
		case token == "":
			c.fields.fail(field, "%s is empty; send what the waiting task was given", field)
		case problem != "":
			c.fields.fail(field, "%s %s", field, problem)
		}
	}
	if n, given := c.fields.integer("wait_ms", wire.MinWait.Milliseconds(), most.Milliseconds(), " milliseconds"); given {
		req.Wait = time.Duration(n) * time.Millisecond
		if !ownLease {
			c.fields.fail("lease", "lease is missing; with wait_ms choose it yourself, since the place in the queue is kept, and the grant found, by the same lease")
		}
	}
	if execution, given := c.fields.str("execution"); given {
		req.Execution = execution
		if problem := a.checkExecution(execution, c.function); problem != "" {
			c.fields.fail("execution", "execution %s", problem)
		}
	}
}

// checkExecution says what is wrong with an execution that a lease is to belong to, or "". Whoever may acquire may bind a lease
// to any execution of the state machines that the deployment lists, and to no other. The child executions of a Distributed Map
// are those of its state machine: their ARN has NAME/LABEL where others have NAME.
func (a *API) checkExecution(arn, function string) string {
	parts, own := strings.Split(arn, ":"), strings.Split(function, ":")
	if len(arn) > wire.MaxExecution {
		return fmt.Sprintf("is %d bytes long; at most %d are allowed: send the ARN of an execution ($$.Execution.Id)", len(arn), wire.MaxExecution)
	}
	if len(parts) > 5 && parts[2] == "states" && parts[5] == "express" {
		return "is one of an Express workflow, whose end nobody can look up; use a Standard workflow, or a TTL"
	}
	if len(parts) != 8 || parts[0] != "arn" || parts[2] != "states" || parts[5] != "execution" || !isResourceName(parts[7]) {
		return fmt.Sprintf("is %q; send the ARN of an execution ($$.Execution.Id)", brief([]byte(arn)))
	}
	machine, label, child := strings.Cut(parts[6], "/")
	if !isResourceName(machine) || child && !isResourceName(label) {
		return fmt.Sprintf("is %q; send the ARN of an execution ($$.Execution.Id)", brief([]byte(arn)))
	}
	if len(own) > 4 && (parts[1] != own[1] || parts[3] != own[3] || parts[4] != own[4]) {
		return fmt.Sprintf("is in partition %q, region %q, account %q; its end is heard of only in the coordinator's own: %q, %q, %q",
			parts[1], parts[3], parts[4], own[1], own[3], own[4])
	}
	if !slices.ContainsFunc(a.machines, func(pattern string) bool { return matches(pattern, machine) }) {
		return fmt.Sprintf("is of the state machine %q, to which this deployment binds no leases; list it in StateMachines", machine)
	}
	return ""
}

// matches tells whether a state machine's name is one that a pattern means: the pattern itself, or any that begins with what is
// before a "*" at its end.
func matches(pattern, machine string) bool {
	prefix, open := strings.CutSuffix(pattern, "*")
	return pattern == machine || open && strings.HasPrefix(machine, prefix)
}

// isResourceName tells whether a text can name a state machine, a Map state's label or an execution.
func isResourceName(s string) bool {
	const bars = " <>{}[]?*\"#%\\^|~`$&,;:/"
	return s != "" && utf8.RuneCountInString(s) <= 80 && !strings.ContainsAny(s, bars) &&
		!strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) })
}

func (a *API) renew(ctx context.Context, c *call) (any, int64, error) {
	req := lock.RenewRequest{Lock: c.lock, Principal: c.principal, Secret: c.fields.lease()}
	req.TTL, _ = a.ttl(c.fields)
	if metadata, given := c.fields.metadata(); given {
		req.Metadata = &metadata
	}
	if err := c.fields.done(); err != nil {
		return nil, 0, err
	}
	l, err := a.coordinator.Renew(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	return leaseAnswer(l, req.Secret), l.Lease.Fence, nil
}

func (a *API) release(ctx context.Context, c *call) (any, int64, error) {
	req := lock.ReleaseRequest{Lock: c.lock, Principal: c.principal, Secret: c.fields.lease()}
	if err := c.fields.done(); err != nil {
		return nil, 0, err
	}
	r, err := a.coordinator.Release(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	return wire.Released{Lock: r.Lock, Fence: r.Fence, ReleasedAt: wire.At(r.At)}, r.Fence, nil
}

func (a *API) forceRelease(ctx context.Context, c *call) (any, int64, error) {
	req := lock.ForceReleaseRequest{Lock: c.lock, Principal: c.principal}
	reason, given := c.fields.str("reason")
	problem := wire.CheckText(reason, wire.MaxReason, true)
	switch {
	case !given:
		c.fields.fail("reason", "reason is missing; say why, in 1 to %d bytes", wire.MaxReason)
	case wire.Blank(reason):
		c.fields.fail("reason", "reason is empty; say why, in 1 to %d bytes", wire.MaxReason)
	case problem != "":
		c.fields.fail("reason", "reason %s", problem)
	}
	req.Reason = reason
	req.Fence, _ = c.fields.integer("fence", 1, 1<<53-1, "")
	if err := c.fields.done(); err != nil {
		return nil, 0, err
	}
	ended, err := a.coordinator.ForceRelease(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	answer := wire.ForceReleased{Lock: c.lock, Released: holders(ended, math.MaxInt64)}
	fence := req.Fence
	if len(ended) > 0 {
		fence = ended[len(ended)-1].Fence
	}
	return answer, fence, nil
}

func (a *API) status(ctx context.Context, c *call) (any, int64, error) {
	if err := c.fields.done(); err != nil {
		return nil, 0, err
	}
	s, err := a.coordinator.Status(ctx, c.lock)
	if err != nil {
		return nil, 0, err
	}
	return statusAnswer(s), s.Fence, nil
}

func (a *API) list(ctx context.Context, c *call) (any, int64, error) {
	req := lock.ListRequest{Limit: wire.DefaultPage}
	req.Prefix, _ = c.fields.str("prefix")
	if problem := wire.CheckPrefix(req.Prefix); problem != "" {
		c.fields.fail("prefix", "prefix %s%s", problem, spelling(req.Prefix))
	}
	if n, given := c.fields.integer("limit", 1, wire.MaxPage, ""); given {
		req.Limit = int(n)
	}
	req.Cursor, _ = c.fields.str("cursor")
	switch state, given := c.fields.str("state"); {
	case state == "all":
		req.All = true
	case given && state != "held":
		c.fields.fail("state", "state is %q; it must be held or all", brief([]byte(state)))
	}
	if err := c.fields.done(); err != nil {
		return nil, 0, err
	}
	list, next, err := a.coordinator.List(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	answer := wire.List{Locks: []wire.Status{}, NextCursor: next}
	for _, s := range list {
		answer.Locks = append(answer.Locks, statusAnswer(s))
	}
	return answer, 0, nil
}

// ttl takes ttl_ms, within what this deployment allows.
func (a *API) ttl(o *object) (time.Duration, bool) {
	n, given := o.integer("ttl_ms", a.minTTL.Milliseconds(), a.maxTTL.Milliseconds(), " milliseconds")
	return time.Duration(n) * time.Millisecond, given
}

// defaultTTL is the ttl_ms of an acquire that gives none: for a lease that belongs to an execution, how often to look whether that runs.
func (a *API) defaultTTL(bound bool) time.Duration {
	if bound {
		return min(wire.DefaultCheck, a.maxTTL)
	}
	return wire.DefaultTTL
}

// lease takes a lease secret that must be there.
func (o *object) lease() string {
	lease, given := o.str("lease")
	if !given {
		o.fail("lease", "lease is missing; send the one that the lock was acquired with")
		return ""
	}
	o.checkLease(lease)
	return lease
}

func (o *object) checkLease(lease string) {
	if problem := wire.CheckLease(lease); problem != "" {
		o.fail("lease", "lease %s", problem)
	}
}

func leaseAnswer(l lock.LeaseStatus, secret string) wire.Lease {
	h := l.Lease
	return wire.Lease{
		Lock: l.Lock, Lease: secret, Fence: h.Fence, Owner: h.Owner, AcquiredAt: wire.At(h.AcquiredAt),
		RenewedAt: wire.At(h.RenewedAt), ExpiresAt: wire.At(h.ExpiresAt), TTL: h.TTL, Remaining: l.Remaining.Milliseconds(),
		Capacity: l.Capacity, Permits: h.Permits, Metadata: metadata(h.Metadata),
	}
}

func statusAnswer(s lock.Status) wire.Status {
	return wire.Status{
		Lock: s.Lock, Locked: len(s.Holders) > 0, Capacity: s.Capacity, Available: s.Available, Fence: s.Fence,
		Holders: holders(s.Holders, s.Now), Waiting: s.Waiting, ServerTime: wire.At(s.Now),
	}
}

// metadata is what a record says, if it is JSON: something else may have written it.
func metadata(s string) json.RawMessage {
	if !json.Valid([]byte(s)) {
		return nil
	}
	return json.RawMessage(s)
}

// holders shows leases as they are at now, in Unix milliseconds; what ended has nothing left.
func holders(list []lock.Lease, now int64) []wire.Holder {
	out := make([]wire.Holder, len(list))
	for i, h := range list {
		out[i] = wire.Holder{
			Owner: h.Owner, Fence: h.Fence, Permits: h.Permits, AcquiredAt: wire.At(h.AcquiredAt), RenewedAt: wire.At(h.RenewedAt),
			ExpiresAt: wire.At(h.ExpiresAt), Remaining: max(h.ExpiresAt-now, 0), Metadata: metadata(h.Metadata), Principal: h.Principal,
		}
	}
	return out
}
