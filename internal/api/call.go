package api

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/scope"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A call is one request, in the form that the adapters and [API.Call] bring it into.
type call struct {
	op        wire.Op
	lock      string      // the lock's name, or the prefix of a rule; empty for list and rules; of a set, all names, with commas between
	scope     string      // of a set over HTTP: the pattern that includes the names; empty: all names
	wants     []lock.Want // of a set
	fields    *object     // of the body, of the direct invocation's payload, or of the query; nil if they are malformed
	malformed error       // why the request could not be read, if it could not
	requestID string
	principal string // the caller, as API Gateway's authorizer names it; empty for other requests
	function  string // the ARN by which the function was invoked; empty outside Lambda
	trace     string // the HTTP header traceparent
	http      bool   // the request has the form of API Gateway's events
	forged    bool   // it has, but API Gateway cannot have sent it
}

// An operation carries out a call. It returns the answer and, for the log, a fencing token, or 0 for none.
type operation func(a *API, ctx context.Context, c *call) (answer any, fence int64, err error)

var operations = map[wire.Op]operation{
	wire.OpAcquire: (*API).acquire, wire.OpRenew: (*API).renew, wire.OpRelease: (*API).release,
	wire.OpForceRelease: (*API).forceRelease, wire.OpStatus: (*API).status, wire.OpList: (*API).list, wire.OpHistory: (*API).history,
	wire.OpRules: (*API).rules, wire.OpRule: (*API).rule, wire.OpPutRule: (*API).putRule, wire.OpDeleteRule: (*API).deleteRule,
	wire.OpAcquireSet: (*API).acquireSet, wire.OpRenewSet: (*API).renewSet, wire.OpReleaseSet: (*API).releaseSet,
}

// answerMargin is how long before the context's deadline an operation is given up, so that there is time for an answer.
const answerMargin = 250 * time.Millisecond

// serve carries out a call and logs it. It returns the operation's answer, or a problem.
func (a *API) serve(ctx context.Context, c *call) (answer any, problem *wire.Problem) {
	start := time.Now()
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-answerMargin))
		defer cancel()
	}
	defer func() {
		if p := recover(); p != nil {
			a.log.LogAttrs(ctx, slog.LevelError, "panic", slog.String("op", string(c.op.Function())), slog.String("lock", c.lock),
				slog.String("request_id", c.requestID), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			answer, problem = nil, newProblem(c, fmt.Errorf("panic: %v", p))
		}
	}()
	var fence int64
	err := c.admit()
	if err == nil {
		answer, fence, err = operations[c.op](a, ctx, c)
	}
	if err != nil {
		answer, problem = nil, newProblem(c, err)
	}
	a.record(ctx, c, result{answer, fence, err, problem, time.Since(start)})
	return answer, problem
}

// admit returns why a call is refused before its operation looks at it, or nil.
func (c *call) admit() error {
	if c.malformed != nil {
		return c.malformed
	}
	wrong, listing := wire.CheckName(c.lock), c.op == wire.OpList
	switch {
	case operations[c.op] == nil:
		return invalid("op", `op is %q; there is no such operation`, brief([]byte(c.op)))
	case c.op.IsSet() && !c.forged:
		return c.admitSet()
	case c.op.OfRules() && !c.forged:
		return c.admitRules()
	case c.op.IsSet(), c.op.OfRules():
	case wrong != "" && !listing && c.http:
		return invalid("name", "name %s%s", wrong, spelling(c.lock))
	case wrong != "" && !listing:
		return invalid("name", "name %s", wrong)
	case !scope.Allows(c.function, c.lock) && listing:
		return invalid("op", `op is "list"; this alias of the function serves single locks only`)
	case !scope.Allows(c.function, c.lock):
		return invalid("name", "name is %q; this alias of the function serves other locks only", c.lock)
	}
	if c.forged {
		return invalid("requestContext", "the payload is an API Gateway event, and API Gateway did not send it: the alias or version that was invoked is not the API's, or there is no API; "+
			"send the request as a plain object with the lock's name, such as {\"name\": \"deploy:prod\"}")
	}
	return nil
}

// spelling returns a hint at the mistake in a URL that may have led to an invalid name, or "".
func spelling(name string) string {
	switch {
	case strings.Contains(name, " "):
		return "; a + in a URL may arrive as a space: spell it %2B"
	case strings.Contains(name, "%"):
		return "; percent-encode a name once, not twice"
	}
	return ""
}
