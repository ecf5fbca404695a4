package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

const secret = "secret-of-the-first-lease"

const ownFunction = "arn:aws:lambda:eu-west-1:123456789012:function:acquire"

// A system is the API over the memory store, with a clock that only the test moves.
type system struct {
	*api.API
	t     *testing.T
	now   time.Time
	log   bytes.Buffer
	store lock.Store
}

func newSystem(t *testing.T, change ...func(*system, *api.Config)) *system {
	s := &system{t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 123_456_000, time.UTC), store: &lock.Memory{}}
	cfg := api.Config{Log: slog.New(slog.NewJSONHandler(&s.log, nil))}
	for _, c := range change {
		c(s, &cfg)
	}
	coordinator, err := lock.New(lock.Config{Store: s.store, Clock: func() time.Time { return s.now }})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Coordinator = coordinator
	if s.API, err = api.New(cfg); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *system) handler(op string) lambda.Handler { return s.Handler(wire.Op(op)) }

type change func(*events.APIGatewayV2HTTPRequest)

// call sends a request in the form of API Gateway's event.
func (s *system) call(op, name, body string, changes ...change) events.APIGatewayV2HTTPResponse {
	s.t.Helper()
	e := events.APIGatewayV2HTTPRequest{
		Version: "2.0", Headers: map[string]string{"content-type": "application/json"},
		PathParameters: map[string]string{"name": name}, Body: body,
		RequestContext: events.APIGatewayV2HTTPRequestContext{
			RequestID: "request-1",
			HTTP:      events.APIGatewayV2HTTPRequestContextHTTPDescription{Method: "POST"},
			Authorizer: &events.APIGatewayV2HTTPRequestContextAuthorizerDescription{
				IAM: &events.APIGatewayV2HTTPRequestContextAuthorizerIAMDescription{UserARN: "arn:aws:iam::123456789012:user/alice"},
			},
		},
	}
	switch op {
	case "status":
		e.RequestContext.HTTP.Method, e.Headers = "GET", nil
	case "rule", "put-rule", "delete-rule":
		e.RequestContext.HTTP.Method, _ = wire.Op(op).Route()
		e.PathParameters = map[string]string{"prefix": name}
	case "list", "rules":
		e.RequestContext.HTTP.Method, e.Headers, e.PathParameters = "GET", nil, nil
	}
	for _, c := range changes {
		c(&e)
	}
	payload, err := json.Marshal(e)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.invoke(op, payload)
}

func (s *system) invoke(op string, payload []byte) (resp events.APIGatewayV2HTTPResponse) {
	s.t.Helper()
	out, err := s.handler(op).Invoke(s.t.Context(), payload)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := json.Unmarshal(out, &resp); err != nil {
		s.t.Fatal(err)
	}
	if resp.Headers["Cache-Control"] != "no-store" {
		s.t.Errorf("headers %v", resp.Headers)
	}
	return resp
}

// invokeAs invokes a function directly by an ARN.
func (s *system) invokeAs(function, op, payload string) (string, *wire.Problem) {
	s.t.Helper()
	ctx := lambdacontext.NewContext(s.t.Context(), &lambdacontext.LambdaContext{AwsRequestID: "direct-1", InvokedFunctionArn: function})
	out, err := s.handler(op).Invoke(ctx, []byte(payload))
	if err == nil {
		return string(out), nil
	}
	failed, ok := errors.AsType[messages.InvokeResponse_Error](err)
	var p wire.Problem
	if !ok || json.Unmarshal([]byte(failed.Message), &p) != nil || failed.Type != p.Code.ErrorType() {
		s.t.Fatalf("error %#v", err)
	}
	return "", &p
}

func (s *system) problem(resp events.APIGatewayV2HTTPResponse) (p wire.Problem) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(resp.Body), &p); err != nil {
		s.t.Fatal(err)
	}
	if resp.Headers["Content-Type"] != "application/problem+json" || p.Status != resp.StatusCode || p.RequestID != "request-1" {
		s.t.Errorf("headers %v, problem %+v", resp.Headers, p)
	}
	return p
}

// records returns the records of the log, and empties it.
func (s *system) records() (list []map[string]any) {
	s.t.Helper()
	for line := range strings.Lines(s.log.String()) {
		var r map[string]any
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			s.t.Fatal(err)
		}
		list = append(list, r)
	}
	s.log.Reset()
	return list
}

// holder returns the stored lease of a lock that has one holder.
func (s *system) holder(name string) (h lock.Lease) {
	s.t.Helper()
	r, err := s.store.Get(s.t.Context(), name)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, h = range r.After.Holders {
	}
	return h
}

func query(kv ...string) change {
	return func(e *events.APIGatewayV2HTTPRequest) {
		e.QueryStringParameters = map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			e.QueryStringParameters[kv[i]] = kv[i+1]
		}
	}
}

func contentType(v string) change {
	return func(e *events.APIGatewayV2HTTPRequest) {
		e.Headers = map[string]string{}
		if v != "" {
			e.Headers["content-type"] = v
		}
	}
}

func encoded(e *events.APIGatewayV2HTTPRequest) { e.IsBase64Encoded = true }

func machines(list ...string) func(*system, *api.Config) {
	return func(_ *system, c *api.Config) { c.Machines = list }
}

// failing is a store whose calls fail with err; if err is nil, writes panic.
type failing struct{ err error }

func (f failing) Get(context.Context, string) (lock.Reply, error) { return lock.Reply{}, f.err }

func (f failing) Apply(context.Context, string, lock.Command) (lock.Reply, error) {
	if f.err == nil {
		panic("the innards")
	}
	return lock.Reply{}, f.err
}

func (f failing) Waiters(context.Context, string, int) ([]lock.Waiter, error) { return nil, f.err }

func (f failing) Bound(context.Context, string) ([]lock.Binding, error) { return nil, f.err }

func (f failing) Unbind(context.Context, string, []lock.Binding) error { return f.err }

func (f failing) List(context.Context, lock.ListQuery) (lock.Page, error) { return lock.Page{}, f.err }

func (f failing) Texts(context.Context, string, []int64) (map[int64]lock.Texts, error) {
	return nil, f.err
}

func (f failing) PutHistory(context.Context, string, []lock.HistoryEntry, time.Duration) error {
	return f.err
}

func (f failing) History(context.Context, lock.HistoryQuery) ([]lock.HistoryEntry, bool, error) {
	return nil, false, f.err
}

func (f failing) PrefixRules(context.Context) ([]lock.PrefixRule, error) { return nil, nil }

func (f failing) PutPrefixRule(context.Context, lock.PrefixRule) error { return f.err }

func (f failing) ApplyAll(context.Context, []lock.Part) (time.Duration, error) { return 0, f.err }

func (f failing) Read(context.Context, []lock.Ask) ([]lock.Seen, time.Duration, error) {
	return nil, 0, f.err
}

func (f failing) Place(context.Context, string, lock.LeaseKey) (lock.Waiter, error) {
	return lock.Waiter{}, f.err
}

func (f failing) Poll(context.Context, string, int64) (lock.Reply, lock.Waiter, error) {
	return lock.Reply{}, lock.Waiter{}, f.err
}

// fixed is a store with one record.
type fixed struct {
	failing
	r lock.Record
}

func (f fixed) Get(context.Context, string) (lock.Reply, error) { return lock.Reply{After: f.r}, nil }
