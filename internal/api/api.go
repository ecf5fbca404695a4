// Package api stands between the wire and the coordinator: it decodes a request strictly, asks the coordinator, and
// answers, for API Gateway's HTTP API (payload format 2.0) and for direct invocation of a function alike.
package api

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/scope"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// Config is what an [API] is made of.
type Config struct {
	Coordinator *lock.Coordinator // required
	Log         *slog.Logger      // required
	MinTTL      time.Duration     // least that a request may ask for; zero: wire.MinTTL
	MaxTTL      time.Duration     // most that a request may ask for, at most wire.MaxTTL; zero: wire.DefaultMaxTTL
	NewLease    func() string     // makes secrets for callers that choose none; nil: crypto/rand.Text
	Machines    []string          // names of the state machines to whose executions leases may belong; a "*" at the end of one means any rest
	Metrics     string            // CloudWatch namespace of the metrics that log records carry; empty: none
}

// An API makes handlers. All are safe for concurrent use.
type API struct {
	coordinator *lock.Coordinator
	log         *slog.Logger
	minTTL      time.Duration
	maxTTL      time.Duration
	newLease    func() string
	machines    []string
	metrics     string
}

// New makes an API.
func New(cfg Config) (*API, error) {
	if cfg.MinTTL == 0 {
		cfg.MinTTL = wire.MinTTL
	}
	if cfg.MaxTTL == 0 {
		cfg.MaxTTL = wire.DefaultMaxTTL
	}
	if cfg.NewLease == nil {
		cfg.NewLease = rand.Text
	}
	switch {
	case cfg.Coordinator == nil:
		return nil, errors.New("api: Config.Coordinator is nil")
	case cfg.Log == nil:
		return nil, errors.New("api: Config.Log is nil")
	case cfg.MinTTL < time.Millisecond || cfg.MinTTL > wire.DefaultTTL:
		return nil, fmt.Errorf("api: MinTTL is %v; it must be from 1ms to %v, the default of a request", cfg.MinTTL, wire.DefaultTTL)
	case cfg.MaxTTL > wire.MaxTTL || cfg.MaxTTL < wire.DefaultTTL:
		return nil, fmt.Errorf("api: MaxTTL is %v; it must be from %v, the default of a request, to %v", cfg.MaxTTL, wire.DefaultTTL, wire.MaxTTL)
	}
	return &API{cfg.Coordinator, cfg.Log, cfg.MinTTL, cfg.MaxTTL, cfg.NewLease, cfg.Machines, cfg.Metrics}, nil
}

// Acquire handles POST /v1/locks/{name}/acquire.
func (a *API) Acquire() lambda.Handler { return &handler{api: a, name: "acquire", named: a.acquire} }

// Renew handles POST /v1/locks/{name}/renew.
func (a *API) Renew() lambda.Handler { return &handler{api: a, name: "renew", named: a.renew} }

// Release handles POST /v1/locks/{name}/release.
func (a *API) Release() lambda.Handler { return &handler{api: a, name: "release", named: a.release} }

// ForceRelease handles POST /v1/locks/{name}/force-release.
func (a *API) ForceRelease() lambda.Handler {
	return &handler{api: a, name: "force-release", named: a.forceRelease}
}

// Status handles GET /v1/locks/{name} and GET /v1/locks; invoked directly, "op" is "status" or "list".
func (a *API) Status() lambda.Handler {
	return &handler{api: a, name: "status", named: a.status, list: a.list}
}

// A handler is one function. It takes what API Gateway sends as well as the same request as a plain object.
type handler struct {
	api   *API
	name  string
	named operation // on one lock
	list  operation // on many; nil where the function has none
}

// answerMargin is the part of the time that Lambda gives which is kept for answering.
const answerMargin = 250 * time.Millisecond

// Invoke implements [lambda.Handler].
func (h *handler) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-answerMargin))
		defer cancel()
	}
	lc, ok := lambdacontext.FromContext(ctx)
	if !ok {
		lc = &lambdacontext.LambdaContext{}
	}
	id := cmp.Or(lc.AwsRequestID, rand.Text())
	if event, ok := asHTTP(payload); ok {
		return h.http(ctx, event, lc.InvokedFunctionArn, id)
	}
	return h.direct(ctx, payload, lc.InvokedFunctionArn, id)
}

// An httpEvent is what is read of API Gateway's payload format 2.0 (events.APIGatewayV2HTTPRequest). Leaving out the rest
// halves the time that a request spends here.
type httpEvent struct {
	Version string `json:"version"`
	Headers struct {
		ContentType string `json:"content-type"` // names come in lower case
	} `json:"headers"`
	QueryStringParameters map[string]string `json:"queryStringParameters"`
	PathParameters        struct {
		Name *string `json:"name"`
	} `json:"pathParameters"`
	RequestContext struct {
		RequestID  string `json:"requestId"`
		Authorizer struct {
			IAM struct {
				UserARN string `json:"userArn"`
			} `json:"iam"`
		} `json:"authorizer"`
		HTTP struct {
			Method string `json:"method"`
		} `json:"http"`
	} `json:"requestContext"`
	Body            string `json:"body"`
	IsBase64Encoded bool   `json:"isBase64Encoded"`
}

// asHTTP tells an HTTP API's event from a direct invocation.
func asHTTP(payload []byte) (*httpEvent, bool) {
	if !bytes.Contains(payload, []byte(`"requestContext"`)) {
		return nil, false
	}
	var event httpEvent
	err := json.Unmarshal(payload, &event)
	return &event, err == nil && event.Version == "2.0" && event.RequestContext.HTTP.Method != ""
}

// http answers an HTTP API's event. What the event says about its caller is believed only of API Gateway, which invokes the
// function itself: anybody who may invoke an alias can send an event of this shape there, and admit refuses it.
func (h *handler) http(ctx context.Context, event *httpEvent, function, id string) ([]byte, error) {
	c := &call{function: function}
	if !scope.Qualified(function) {
		c.principal = event.RequestContext.Authorizer.IAM.UserARN
		id = cmp.Or(event.RequestContext.RequestID, id)
	}
	if event.PathParameters.Name != nil {
		c.lock = *event.PathParameters.Name
	}
	op, err := h.named, error(nil)
	switch {
	case h.list == nil:
		c.fields, err = bodyObject(event)
	case event.PathParameters.Name != nil:
		c.fields = queryObject(event.QueryStringParameters)
	default:
		op, c.listing, c.fields = h.list, true, queryObject(event.QueryStringParameters)
	}
	return h.respond(h.run(ctx, op, c, err, id))
}

// direct answers a direct invocation. Nothing in its payload names the caller: Lambda does not tell who invokes.
func (h *handler) direct(ctx context.Context, payload []byte, function, id string) ([]byte, error) {
	c, op := &call{function: function, direct: true}, h.named
	fields, err := parseObject(payload)
	if err == nil {
		c.fields = fields
		if h.list != nil {
			switch which, _ := fields.str("op"); which {
			case "status":
			case "list":
				op, c.listing = h.list, true
			default:
				fields.fail("op", `op is %q; it must be "status" or "list"`, brief([]byte(which)))
			}
		}
		if !c.listing {
			var given bool
			if c.lock, given = fields.str("name"); !given {
				fields.fail("name", "name is missing; give the lock's")
			}
		}
		err = fields.err
	}
	answer, problem := h.run(ctx, op, c, err, id)
	if problem != nil {
		return nil, messages.InvokeResponse_Error{Type: problem.Code.ErrorType(), Message: string(encode(problem))}
	}
	return encode(answer), nil
}

// run answers a call, or a problem, and logs it. bad is what was wrong with the request before it became a call.
func (h *handler) run(ctx context.Context, op operation, c *call, bad error, requestID string) (answer any, problem *wire.Problem) {
	start := time.Now()
	var fence int64
	defer func() {
		if p := recover(); p != nil {
			h.api.log.LogAttrs(ctx, slog.LevelError, "panic", slog.String("op", h.name), slog.String("lock", c.lock),
				slog.String("request_id", requestID), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
			answer, problem = nil, h.api.problem(c.lock, requestID, fmt.Errorf("panic: %v", p))
		}
	}()
	err := bad
	if err == nil {
		err = c.admit()
	}
	if err == nil {
		answer, fence, err = op(ctx, c)
	}
	level, code := slog.LevelInfo, "ok"
	attrs := []slog.Attr{slog.String("op", h.name), slog.String("lock", c.lock), slog.String("principal", c.principal)}
	if err != nil {
		answer, problem = nil, h.api.problem(c.lock, requestID, err)
		code = string(problem.Code)
		if problem.Status >= 500 {
			level = slog.LevelError
			attrs = append(attrs, slog.Any("error", err))
			if clock, ok := errors.AsType[*lock.ClockError](err); ok {
				attrs = append(attrs, slog.Int64("clock_offset_ms", clock.Offset.Milliseconds()))
			}
		}
	}
	if l, ok := answer.(wire.Lease); ok {
		attrs = append(attrs, slog.String("owner", l.Owner))
	}
	if fence != 0 {
		attrs = append(attrs, slog.Int64("fence", fence))
	}
	took := time.Since(start)
	attrs = append(attrs, slog.String("code", code), slog.String("request_id", requestID), slog.Float64("latency_ms", float64(took.Microseconds())/1000))
	if h.api.metrics != "" {
		attrs = append(attrs, h.measure(c.lock, answer, err)...)
	}
	h.api.log.LogAttrs(ctx, level, "request", attrs...)
	return answer, problem
}

// admit says why a call is refused whatever it asks for, or nil.
func (c *call) admit() error {
	what := wire.CheckName(c.lock)
	switch {
	case what != "" && !c.listing && !c.direct:
		return invalid("name", "name %s%s", what, spelling(c.lock))
	case what != "" && !c.listing:
		return invalid("name", "name %s", what)
	case !scope.Allows(c.function, c.lock) && c.listing:
		return invalid("op", `op is "list"; this alias of the function serves single locks only`)
	case !scope.Allows(c.function, c.lock):
		return invalid("name", "name is %q; this alias of the function serves other locks only", c.lock)
	case !c.direct && scope.Qualified(c.function):
		return invalid("requestContext", "the payload is an API Gateway event, and an alias or version was invoked, which API Gateway does not do; "+
			"send the request as a plain object with the lock's name, such as {\"name\": \"deploy:prod\"}")
	}
	return nil
}

// spelling explains a name that came out wrong because of how a URL spelled it.
func spelling(name string) string {
	switch {
	case strings.Contains(name, " "):
		return "; a + in a URL may arrive as a space: spell it %2B"
	case strings.Contains(name, "%"):
		return "; percent-encode a name once, not twice"
	}
	return ""
}

// problem turns an error into the answer that a caller gets. What a caller cannot use stays in the log.
func (a *API) problem(name, requestID string, err error) *wire.Problem {
	p := &wire.Problem{RequestID: requestID}
	if wire.CheckName(name) == "" {
		p.Lock = name
	}
	if bad, ok := errors.AsType[*badInput](err); ok {
		p.Code, p.Field, p.Detail = bad.code, bad.field, bad.detail
	} else if held, ok := errors.AsType[*lock.HeldError](err); ok {
		p.Code, p.RetryAfter, p.Position, p.Waiting = wire.LockHeld, max(held.RetryAfter.Milliseconds(), 1), held.Position, held.Waiting
		p.Detail = fmt.Sprintf("the lock is held; the next permit is free in %d ms at the latest, unless its lease is renewed", p.RetryAfter)
		switch {
		case held.Position > 0:
			p.Detail = fmt.Sprintf("the lock is held, and place %d of %d in its queue is yours; send the same request again to keep it", held.Position, held.Waiting)
		case held.Waiting > 0:
			p.Detail = fmt.Sprintf("the lock is held, and %d wait for it; send wait_ms to join them", held.Waiting)
		}
		for _, h := range held.Holders {
			p.Holders = append(p.Holders, wire.ProblemHolder{
				Owner: h.Owner, Fence: h.Fence, ExpiresAt: wire.At(h.ExpiresAt), Remaining: max(h.ExpiresAt-held.Now, 0),
			})
		}
	} else {
		switch {
		case errors.Is(err, lock.ErrLeaseLost):
			p.Code, p.Detail = wire.LeaseLost, "the lease has expired, was released or forced out, or never was; acquire with a new one"
		case errors.Is(err, lock.ErrCapacityMismatch):
			p.Code, p.Detail = wire.CapacityMismatch, err.Error()+"; use that, or wait until it is free"
		case errors.Is(err, lock.ErrQueueFull):
			p.Code, p.RetryAfter = wire.QueueFull, 5000
			p.Detail = fmt.Sprintf("%d wait for the lock already; come back later", lock.MaxQueue)
		case errors.Is(err, lock.ErrLockFull):
			p.Code, p.RetryAfter, p.Detail = wire.LockFull, 5000, full(err)
		case errors.Is(err, lock.ErrLockChanged):
			p.Code, p.Detail = wire.LockChanged, "no holder has the fence given any more; look at the lock again"
		case errors.Is(err, lock.ErrBadCursor):
			p.Code, p.Field, p.Detail = wire.InvalidRequest, "cursor", "cursor is not one that a list answered; start without one"
		case errors.Is(err, lock.ErrMisconfigured):
			p.Code, p.Detail = wire.Misconfigured, misconfigured(err)
		case errors.Is(err, lock.ErrThrottled):
			p.Code, p.RetryAfter, p.Detail = wire.Throttled, 1000, "too many writes at once; it is not known whether this one happened: send the same request again"
		case errors.Is(err, lock.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
			p.Code, p.RetryAfter, p.Detail = wire.StoreUnavailable, 1000, "the store cannot be used just now; it is not known whether the write happened: send the same request again"
		default:
			p.Code, p.Detail = wire.Internal, "this is a bug; the log has more under this request_id"
		}
	}
	p.Type, p.Title, p.Status = wire.ProblemType(p.Code), p.Code.Title(), p.Code.Status()
	return p
}

// full is the detail of a request that does not fit the lock's record.
func full(err error) string {
	const fix = "send less metadata, or come back when others have left"
	if e, ok := errors.AsType[*lock.FullError](err); ok {
		return fmt.Sprintf("the lock's record would have %d bytes with this request; at most %d are allowed: %s", e.Size, e.Most, fix)
	}
	return "the lock's record is full: " + fix
}

// misconfigured is the detail of a fault that lasts until a person mends the set-up. The cause stays in the log.
func misconfigured(err error) string {
	fault, ok := errors.AsType[*lock.StoreError](err)
	if !ok {
		return "the store can never work as it is set up; the log has more under this request_id"
	}
	if fault.Fix == "" {
		return fault.What
	}
	return fault.What + "; " + fault.Fix
}

// respond makes API Gateway's answer.
func (h *handler) respond(answer any, problem *wire.Problem) ([]byte, error) {
	resp := events.APIGatewayV2HTTPResponse{
		StatusCode: 200, Body: string(encode(answer)),
		Headers: map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store"},
	}
	if problem != nil {
		resp.StatusCode, resp.Body = problem.Status, string(encode(problem))
		resp.Headers["Content-Type"] = "application/problem+json"
		if problem.RetryAfter > 0 {
			resp.Headers["Retry-After"] = strconv.FormatInt((problem.RetryAfter+999)/1000, 10)
		}
	}
	return encode(resp), nil
}

// encode writes JSON without escaping <, > and &: an owner is told as it was sent.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // only plain types get here
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// bodyObject makes fields of a request's body. It has no query: a field there would be one that nobody reads.
func bodyObject(event *httpEvent) (*object, error) {
	if query := queryObject(event.QueryStringParameters).done(); query != nil {
		return nil, query
	}
	data, err := httpBody(event.Headers.ContentType, event.Body, event.IsBase64Encoded)
	if err != nil {
		return nil, err
	}
	return parseObject(data)
}

// queryObject makes fields of a query, so that it is checked as a body is. A signature may be part of the query, too.
func queryObject(query map[string]string) *object {
	o := &object{fields: map[string]json.RawMessage{}, taken: map[string]bool{}, where: "query parameter"}
	for k, v := range query {
		if strings.HasPrefix(strings.ToLower(k), "x-amz-") {
			continue
		}
		o.fields[k] = encode(v)
		if n, err := strconv.ParseInt(v, 10, 64); k == "limit" && err == nil && strconv.FormatInt(n, 10) == v {
			o.fields[k] = json.RawMessage(v)
		}
	}
	return o
}
