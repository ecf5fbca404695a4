package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

func (a *API) acquire(ctx context.Context, c *call) (any, int64, error) {
	want := a.newLease(ctx, c)
	req := lock.AcquireRequest{Lock: c.lock, Principal: c.principal, Secret: want.secret, Owner: want.owner, TTL: want.ttl, Metadata: want.metadata, Trace: want.trace}
	c.fields.share(&req)
	a.queueing(c, &req, want.chosen)
	if req.TTL == 0 {
		req.TTL, req.AnyTTL = a.defaultTTL(req.Execution != ""), true
	}
	if err := c.fields.done(); err != nil {
		return nil, 0, err
	}
	l, err := a.coordinator.Acquire(ctx, req)
	if held, ok := errors.AsType[*lock.HeldError](err); ok && req.Token.OfTask() && held.Position > 0 {
		return wire.Queued{Lock: c.lock, Queued: true, Position: held.Position, Waiting: held.Waiting, Ticket: held.Ticket,
			Freeze: freezeAnswer(held.Freeze), NextGrant: nextGrant(held)}, 0, nil
	}
	if limit, ok := errors.AsType[*lock.LimitError](err); ok && limit.Field != "" && limit.Field != "ttl_ms" && req.SameCapacity {
		limit.Field = "mode" // which stands for a capacity and permits
	}
	if err != nil {
		return nil, 0, err
	}
	return leaseAnswer(l, want.secret), l.Lease.Fence, nil
}

// A newLease is what a caller asks for of the lease itself, of one lock or of a set.
type newLease struct {
	secret          string
	chosen          bool // the secret, by the caller
	owner, metadata string
	trace           string
	ttl             time.Duration // 0: the default
}

func (a *API) newLease(ctx context.Context, c *call) (l newLease) {
	if l.secret, l.chosen = c.fields.str("lease"); l.chosen {
		c.fields.checkLease(l.secret)
	} else {
		l.secret = rand.Text()
	}
	l.owner, _ = c.fields.str("owner")
	if problem := wire.CheckText(l.owner, wire.MaxOwner, false); problem != "" {
		c.fields.fail("owner", "owner %s", problem)
	}
	l.ttl = a.ttl(c.fields)
	l.metadata, _ = c.fields.metadata()
	if l.trace = c.traceparent(); l.trace == "" && a.traceparent != nil {
		l.trace = wire.Traceparent(a.traceparent(ctx))
	}
	return l
}

// traceparent is the trace context of an acquire: that of its field, or else that of the HTTP header. One that is malformed is left out, as W3C asks
// for: no lock fails for its trace.
func (c *call) traceparent() string {
	text, _ := c.fields.str("traceparent")
	return cmp.Or(wire.Traceparent(text), wire.Traceparent(c.trace))
}

// share reads how much of the lock an acquire asks for.
func (o *object) share(req *lock.AcquireRequest) {
	var given bool
	req.Capacity, req.Permits, given = o.permits()
	mode, hasMode := o.str("mode")
	if hasMode {
		req.Capacity, req.Permits, req.SameCapacity = wire.ModeCapacity, wire.Mode(mode).Permits(), true
		switch {
		case req.Permits == 0:
			o.fail("mode", "mode is %q; give \"read\" or \"write\", or leave it out for a lock that is not shared between readers", brief([]byte(mode)))
		case given:
			o.fail("mode", "mode is there with capacity or permits; give mode alone: a reader takes 1 of %d permits, and a writer all", wire.ModeCapacity)
		}
		return
	}
	o.checkPermits(req.Capacity, req.Permits)
}

// permits reads capacity, which is 0 if it is absent, since a limit may set it, and permits, which are 1 then. given reports whether one of them is there.
func (o *object) permits() (capacity, permits int64, given bool) {
	permits = 1
	if n, ok := o.integer("capacity", 1, wire.MaxCapacity, ""); ok {
		capacity, given = n, true
	}
	if n, ok := o.integer("permits", 1, wire.MaxCapacity, ""); ok {
		permits, given = n, true
	}
	return capacity, permits, given
}

func (o *object) checkPermits(capacity, permits int64) {
	if capacity > 0 && permits > capacity {
		o.fail("permits", "%v", &lock.PermitsError{Permits: permits, Capacity: capacity})
	}
}

// queueing reads the fields of an acquire that may join the queue, or whose lease belongs to an execution. ownLease is whether the
// caller chose the lease's secret.
func (a *API) queueing(c *call, req *lock.AcquireRequest, ownLease bool) {
	notify := a.notification(c)
	a.waiting(c, req, notify, ownLease)
	if n, given := c.fields.integer("ticket", 1, wire.MaxTicket, ""); given {
		if req.Ticket = n; req.Wait == 0 {
			c.fields.fail("ticket", "ticket is given without wait_ms; send both, as in the request that the ticket was an answer to")
		}
	}
}

// waiting reads the fields of an acquire, of one lock or of a set, that say who waits and for how long, and with which execution the lease ends.
func (a *API) waiting(c *call, req *lock.AcquireRequest, notify *wire.Notify, ownLease bool) {
	token, isTask := c.fields.str("task_token")
	id, isCallback := c.fields.str("callback_id")
	field, most := "task_token", wire.MaxWait
	switch {
	case isTask && isCallback:
		c.fields.fail("callback_id", "task_token and callback_id are both there; give the one that waits")
	case isTask:
		req.Token = lock.Token{Kind: lock.TaskToken, Text: token}
	case isCallback:
		field, token, req.Token = "callback_id", id, lock.Token{Kind: lock.CallbackToken, Text: id}
	}
	if isTask || isCallback {
		most = wire.MaxTokenWait
		req.Wait = most
		problem := wire.CheckToken(token)
		switch {
		case c.http:
			c.fields.fail(field, "%s is for direct invocations of the function, as a state machine makes them; over HTTP send wait_ms and poll", field)
		case !ownLease:
			c.fields.fail("lease", "lease is missing; with %s choose it yourself (States.UUID() makes one), since the callback does not carry it", field)
		case token == "":
			c.fields.fail(field, "%s is empty; send what the waiting task was given", field)
		case problem != "":
			c.fields.fail(field, "%s %s", field, problem)
		}
	}
	if notify != nil {
		most = wire.MaxTokenWait
		if isTask || isCallback {
			c.fields.fail("notify", "notify and %s are both there; a task gets its callback, so leave notify out", field)
		}
		req.Token = lock.Token{Kind: lock.NotifyToken, Text: string(encode(notify))}
	}
	if n, given := c.fields.integer("wait_ms", wire.MinWait.Milliseconds(), most.Milliseconds(), " milliseconds"); given {
		req.Wait = time.Duration(n) * time.Millisecond
		if !ownLease {
			c.fields.fail("lease", "lease is missing; with wait_ms choose it yourself, since the place in the queue is kept, and the grant found, by the same lease")
		}
	} else if notify != nil {
		c.fields.fail("wait_ms", "wait_ms is missing; with notify say how long the place in the queue is kept after this request")
	}
	if execution, given := c.fields.str("execution"); given {
		req.Execution = execution
		if problem := a.checkExecution(execution, c.function); problem != "" {
			c.fields.fail("execution", "execution %s", problem)
		}
	}
}

// defaultTTL returns the TTL of an acquire without ttl_ms. If the lease is bound to an execution, the TTL is the interval of the
// checks whether the execution still runs.
func (a *API) defaultTTL(bound bool) time.Duration {
	if bound {
		return min(wire.DefaultCheck, a.maxTTL)
	}
	return wire.DefaultTTL
}
