package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
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

var update = flag.Bool("update", false, "write the golden files anew")

const secret = "secret-of-the-first-lease"

// system is the API over the memory store, on a clock that only the test moves.
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

// call sends a request as API Gateway does.
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
	case "list":
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

// madeLease is a lease that the API chose, as rand.Text writes it.
var madeLease = regexp.MustCompile(`"lease": "[A-Z2-7]{26,}"`)

// Every answer, byte by byte.
func TestGolden(t *testing.T) {
	s := newSystem(t)
	acquire := `{"lease":"` + secret + `","owner":"worker <1> & co","ttl_ms":30000,"metadata":{"build": 7, "big": 12345678901234567890}}`
	for _, step := range []struct {
		name, op, lock, body string
		advance              time.Duration
		changes              []change
	}{
		{name: "acquire", op: "acquire", lock: "deploy:prod", body: acquire},
		{name: "acquire repeated", op: "acquire", lock: "deploy:prod", body: acquire, advance: time.Second},
		{name: "acquire defaults", op: "acquire", lock: "deploy:test", body: `{}`},
		{name: "acquire held", op: "acquire", lock: "deploy:prod", body: `{}`},
		{name: "acquire other capacity", op: "acquire", lock: "deploy:prod", body: `{"capacity":2}`},
		{name: "acquire permits", op: "acquire", lock: "pool", body: `{"capacity":3,"permits":2}`},
		{name: "renew", op: "renew", lock: "deploy:prod", body: `{"lease":"` + secret + `"}`, advance: time.Second},
		{name: "renew unknown lease", op: "renew", lock: "deploy:prod", body: `{"lease":"another-secret-lease"}`},
		{name: "status", op: "status", lock: "deploy:prod", advance: time.Second},
		{name: "status of a lock never seen", op: "status", lock: "nothing"},
		{name: "list", op: "list", changes: []change{query("prefix", "deploy:", "limit", "1")}},
		{name: "release", op: "release", lock: "deploy:prod", body: `{"lease":"` + secret + `"}`},
		{name: "release repeated", op: "release", lock: "deploy:prod", body: `{"lease":"` + secret + `"}`, advance: time.Second},
		{name: "release of another lock", op: "release", lock: "deploy:test", body: `{"lease":"` + secret + `"}`},
		{name: "force-release", op: "force-release", lock: "deploy:test", body: `{"reason":"stuck since noon"}`},
		{name: "force-release of a free lock", op: "force-release", lock: "deploy:test", body: `{"reason":"again"}`},
		{name: "force-release of another fence", op: "force-release", lock: "pool", body: `{"reason":"stuck","fence":1}`},
		{name: "bad input", op: "acquire", lock: "deploy:prod", body: `{"ttl_ms":0}`},
	} {
		t.Run(step.name, func(t *testing.T) {
			s.t = t
			s.now = s.now.Add(step.advance)
			resp := s.call(step.op, step.lock, step.body, step.changes...)
			conforms(t, step.op, step.body, resp)
			var body bytes.Buffer
			if err := json.Indent(&body, []byte(resp.Body), "", "  "); err != nil {
				t.Fatal(err)
			}
			headers, _ := json.Marshal(resp.Headers)
			got := madeLease.ReplaceAllString(body.String(), `"lease": "made-by-the-server"`)
			got += "\n" + string(headers) + "\n"
			file := filepath.Join("testdata", strings.ReplaceAll(step.name, " ", "-")+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
	if strings.Contains(s.log.String(), secret) {
		t.Error("the log has a lease secret")
	}
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

// Bad input gets a problem that names the field and says what would be right, and changes nothing.
func TestBadInput(t *testing.T) {
	const lease = `"lease":"` + secret + `"`
	deep := strings.Repeat(`{"a":`, 8) + "1" + strings.Repeat("}", 8)
	for name, test := range map[string]struct {
		op, lock, body string
		changes        []change
		code           wire.Code
		field, says    string
	}{
		"name empty":             {op: "acquire", lock: "", body: `{}`, field: "name", says: "1 to 255"},
		"name too long":          {op: "acquire", lock: strings.Repeat("n", 256), body: `{}`, field: "name", says: "at most 255"},
		"name with a slash":      {op: "acquire", lock: "a/b", body: `{}`, field: "name", says: `'/'`},
		"name with a percent":    {op: "status", lock: "a%2Fb", field: "name", says: `'%'`},
		"name with a space":      {op: "renew", lock: "a b", body: `{` + lease + `}`, field: "name", says: `' '`},
		"name with a control":    {op: "release", lock: "a\nb", body: `{` + lease + `}`, field: "name", says: `'\n'`},
		"name beyond ASCII":      {op: "force-release", lock: "ä", body: `{"reason":"x"}`, field: "name", says: `'ä'`},
		"body empty":             {op: "acquire", lock: "a", body: "", field: "body", says: "{} at least"},
		"body not JSON":          {op: "acquire", lock: "a", body: `{"ttl_ms":}`, field: "body", says: "not JSON"},
		"body cut off":           {op: "acquire", lock: "a", body: `{"ttl_ms":1000`, field: "body", says: "ends too soon"},
		"body not an object":     {op: "acquire", lock: "a", body: `[1]`, field: "body", says: "not a JSON object"},
		"body null":              {op: "acquire", lock: "a", body: `null`, field: "body", says: "not a JSON object"},
		"body of two values":     {op: "acquire", lock: "a", body: `{} {}`, field: "body", says: "one value only"},
		"body with a stray end":  {op: "acquire", lock: "a", body: `{}}`, field: "body", says: "one value only"},
		"body not UTF-8":         {op: "acquire", lock: "a", body: "eyJvd25lciI6Iv8ifQ==", changes: []change{encoded}, field: "body", says: "UTF-8"},
		"body not base64":        {op: "acquire", lock: "a", body: `{}`, changes: []change{encoded}, field: "body", says: "base64"},
		"body too large":         {op: "acquire", lock: "a", body: `{"owner":"` + strings.Repeat("o", wire.MaxBody) + `"}`, code: wire.PayloadTooLarge, field: "body", says: "16384"},
		"duplicate key":          {op: "acquire", lock: "a", body: `{"owner":"a","owner":"b"}`, field: "owner", says: "twice"},
		"unknown field":          {op: "acquire", lock: "a", body: `{"ttl":1000}`, field: "ttl", says: "unknown"},
		"field in other case":    {op: "acquire", lock: "a", body: `{"TTL_MS":1000}`, field: "TTL_MS", says: "unknown"},
		"wait too short":         {op: "acquire", lock: "a", body: `{"wait_ms":10}`, field: "wait_ms", says: "1000 to 900000"},
		"wait too long":          {op: "acquire", lock: "a", body: `{"wait_ms":900001}`, field: "wait_ms", says: "1000 to 900000"},
		"token over HTTP":        {op: "acquire", lock: "a", body: `{"task_token":"x"}`, field: "task_token", says: "direct invocations"},
		"not an execution":       {op: "acquire", lock: "a", body: `{"execution":"x"}`, field: "execution", says: "$$.Execution.Id"},
		"an Express execution":   {op: "acquire", lock: "a", body: `{"execution":"arn:aws:states:r:1:express:m:n:o"}`, field: "execution", says: "Standard"},
		"another's execution":    {op: "acquire", lock: "a", body: `{"execution":"arn:aws:states:r:1:execution:m:n"}`, field: "execution", says: "StateMachines"},
		"content type missing":   {op: "acquire", lock: "a", body: `{}`, changes: []change{contentType("")}, field: "content-type", says: "application/json"},
		"content type of a form": {op: "acquire", lock: "a", body: `{}`, changes: []change{contentType("application/x-www-form-urlencoded")}, field: "content-type", says: "application/json"},
		"charset":                {op: "acquire", lock: "a", body: `{}`, changes: []change{contentType("application/json; charset=latin1")}, field: "content-type", says: "UTF-8"},
		"TTL 0":                  {op: "acquire", lock: "a", body: `{"ttl_ms":0}`, field: "ttl_ms", says: "from 1000 to 86400000"},
		"TTL negative":           {op: "renew", lock: "a", body: `{` + lease + `,"ttl_ms":-1}`, field: "ttl_ms", says: "from 1000"},
		"TTL too large":          {op: "acquire", lock: "a", body: `{"ttl_ms":86400001}`, field: "ttl_ms", says: "86400000"},
		"TTL huge":               {op: "acquire", lock: "a", body: `{"ttl_ms":99999999999999999999}`, field: "ttl_ms", says: "86400000"},
		"TTL a float":            {op: "acquire", lock: "a", body: `{"ttl_ms":1000.0}`, field: "ttl_ms", says: "without fraction"},
		"TTL with an exponent":   {op: "acquire", lock: "a", body: `{"ttl_ms":6e4}`, field: "ttl_ms", says: "exponent"},
		"TTL a string":           {op: "acquire", lock: "a", body: `{"ttl_ms":"1000"}`, field: "ttl_ms", says: "a string"},
		"TTL null":               {op: "acquire", lock: "a", body: `{"ttl_ms":null}`, field: "ttl_ms", says: "null"},
		"owner too long":         {op: "acquire", lock: "a", body: `{"owner":"` + strings.Repeat("o", 257) + `"}`, field: "owner", says: "256"},
		"owner not printable":    {op: "acquire", lock: "a", body: `{"owner":"a\u0007"}`, field: "owner", says: "printed"},
		"owner a number":         {op: "acquire", lock: "a", body: `{"owner":1}`, field: "owner", says: "must be a string"},
		"metadata too large":     {op: "acquire", lock: "a", body: `{"metadata":{"a":"` + strings.Repeat("m", 2041) + `"}}`, field: "metadata", says: "2048"},
		"metadata too deep":      {op: "acquire", lock: "a", body: `{"metadata":{"a":` + deep + `}}`, field: "metadata", says: "8 levels"},
		"metadata an array":      {op: "acquire", lock: "a", body: `{"metadata":[]}`, field: "metadata", says: "must be an object"},
		"metadata key twice":     {op: "renew", lock: "a", body: `{` + lease + `,"metadata":{"a":{"b":1,"b":2}}}`, field: "metadata", says: "twice"},
		"capacity 0":             {op: "acquire", lock: "a", body: `{"capacity":0}`, field: "capacity", says: "1 to 100"},
		"capacity too large":     {op: "acquire", lock: "a", body: `{"capacity":101}`, field: "capacity", says: "1 to 100"},
		"permits over capacity":  {op: "acquire", lock: "a", body: `{"capacity":2,"permits":3}`, field: "permits", says: "the capacity, which is 2"},
		"lease missing":          {op: "release", lock: "a", body: `{}`, field: "lease", says: "missing"},
		"lease too short":        {op: "acquire", lock: "a", body: `{"lease":"short"}`, field: "lease", says: "16 to 128"},
		"lease malformed":        {op: "renew", lock: "a", body: `{"lease":"sixteen bytes, ok"}`, field: "lease", says: "not allowed"},
		"reason missing":         {op: "force-release", lock: "a", body: `{}`, field: "reason", says: "say why"},
		"reason blank":           {op: "force-release", lock: "a", body: `{"reason":" "}`, field: "reason", says: "say why"},
		"reason too long":        {op: "force-release", lock: "a", body: `{"reason":"` + strings.Repeat("r", 513) + `"}`, field: "reason", says: "512"},
		"fence 0":                {op: "force-release", lock: "a", body: `{"reason":"x","fence":0}`, field: "fence", says: "from 1"},
		"limit 0":                {op: "list", changes: []change{query("limit", "0")}, field: "limit", says: "1 to 100"},
		"limit not a number":     {op: "list", changes: []change{query("limit", "ten")}, field: "limit", says: "whole number"},
		"limit twice":            {op: "list", changes: []change{query("limit", "1,2")}, field: "limit", says: "whole number"},
		"state unknown":          {op: "list", changes: []change{query("state", "free")}, field: "state", says: "held or all"},
		"prefix":                 {op: "list", changes: []change{query("prefix", "a/")}, field: "prefix", says: `'/'`},
		"cursor":                 {op: "list", changes: []change{query("cursor", "!")}, field: "cursor", says: "start without one"},
		"query unknown":          {op: "status", lock: "a", changes: []change{query("verbose", "1")}, field: "verbose", says: "unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSystem(t)
			if test.code == "" {
				test.code = wire.InvalidRequest
			}
			p := s.problem(s.call(test.op, test.lock, test.body, test.changes...))
			if p.Code != test.code || p.Field != test.field || !strings.Contains(p.Detail, test.says) {
				t.Errorf("problem %+v", p)
			}
			if strings.Contains(s.log.String(), `"level":"ERROR"`) {
				t.Errorf("a caller's mistake is logged as an error: %s", s.log.String())
			}
			if page, _ := s.store.List(t.Context(), lock.ListQuery{Limit: 1}); len(page.Entries) > 0 {
				t.Errorf("something was stored: %+v", page)
			}
		})
	}
}

// What is at a limit is still accepted.
func TestLimitsAreInclusive(t *testing.T) {
	s := newSystem(t)
	deep := strings.Repeat(`{"a":`, 7) + "{}" + strings.Repeat("}", 7)
	pad := wire.MaxMetadata - len(`{"a":""}`)
	for _, body := range []string{
		`{"ttl_ms":1000}`, `{"ttl_ms":86400000}`, `{"capacity":100,"permits":100}`, `{"metadata":` + deep + `}`,
		`{"metadata":{"a":"` + strings.Repeat("m", pad) + `"}}`, `{"owner":"` + strings.Repeat("o", 256) + `"}`,
		`{"lease":"0123456789abcdef"}`, `{"lease":"` + strings.Repeat("l", 128) + `"}`, ` { } `,
	} {
		name := strings.Repeat("n", 254) + string(rune('a'+len(body)%26))
		if resp := s.call("acquire", name, body); resp.StatusCode != 200 {
			t.Errorf("%.60s: %s", body, resp.Body)
		}
		s.call("force-release", name, `{"reason":"next"}`)
	}
	if resp := s.call("acquire", "b64", "e30=", encoded, contentType("application/json; charset=UTF-8")); resp.StatusCode != 200 {
		t.Errorf("base64: %s", resp.Body)
	}
}

// failing is a store whose every call fails; without an error, writes panic.
type failing struct{ err error }

func (f failing) Get(context.Context, string) (lock.Reply, error) { return lock.Reply{}, f.err }
func (f failing) Apply(context.Context, string, lock.Command) (lock.Reply, error) {
	if f.err == nil {
		panic("the innards")
	}
	return lock.Reply{}, f.err
}
func (f failing) Waiters(context.Context, string, int) ([]lock.Waiter, error) { return nil, f.err }
func (f failing) Bound(context.Context, string) ([]lock.Binding, error)       { return nil, f.err }
func (f failing) Unbind(context.Context, string, []lock.Binding) error        { return f.err }
func (f failing) List(context.Context, lock.ListQuery) (lock.Page, error)     { return lock.Page{}, f.err }

// Faults say that nothing is known and when to come back; the inside stays in the log.
func TestFaults(t *testing.T) {
	for name, test := range map[string]struct {
		err   error
		code  wire.Code
		retry string
	}{
		"throttled":   {&lock.StoreError{Kind: lock.ErrThrottled, What: "the innards"}, wire.Throttled, "1"},
		"unavailable": {&lock.StoreError{Kind: lock.ErrUnavailable, What: "the innards"}, wire.StoreUnavailable, "1"},
		"misconfigured": {
			&lock.StoreError{Kind: lock.ErrMisconfigured, What: `table "locks" does not exist`, Fix: "create it", Err: errors.New("the innards")},
			wire.Misconfigured, "",
		},
		"misconfigured, no more known": {fmt.Errorf("the innards: %w", lock.ErrMisconfigured), wire.Misconfigured, ""},
		"clock off":                    {&lock.ClockError{Offset: 10 * time.Second}, wire.StoreUnavailable, "1"},
		"context ended":                {context.DeadlineExceeded, wire.StoreUnavailable, "1"},
		"something else":               {errors.New("the innards"), wire.Internal, ""},
		"panics, in fact":              {nil, wire.Internal, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSystem(t, func(s *system, _ *api.Config) { s.store = failing{test.err} })
			resp := s.call("acquire", "a", `{}`)
			p := s.problem(resp)
			if p.Code != test.code || resp.Headers["Retry-After"] != test.retry || strings.Contains(resp.Body, "innards") {
				t.Errorf("%s, headers %v", resp.Body, resp.Headers)
			}
			if !strings.Contains(s.log.String(), `"level":"ERROR"`) || name != "context ended" && name != "clock off" && !strings.Contains(s.log.String(), "innards") {
				t.Errorf("log %s", s.log.String())
			}
			if name == "misconfigured" && (p.Status != 500 || p.Detail != `table "locks" does not exist; create it`) {
				t.Errorf("problem %+v", p)
			}
			if name == "clock off" && !strings.Contains(s.log.String(), `"clock_offset_ms":10000`) {
				t.Errorf("log %s", s.log.String())
			}
		})
	}
}

// Limits that pass when others leave say so, with the number and a time to come back, and are no faults.
func TestFullIsAnAnswer(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		code wire.Code
		says string
	}{
		"queue":             {lock.ErrQueueFull, wire.QueueFull, "500 wait"},
		"record":            {&lock.FullError{Size: 301_000, Most: 300_000}, wire.LockFull, "would have 301000 bytes with this request; at most 300000"},
		"record, no number": {lock.ErrLockFull, wire.LockFull, "less metadata"},
	} {
		s := newSystem(t, func(s *system, _ *api.Config) { s.store = failing{test.err} })
		resp := s.call("acquire", "a", `{}`)
		p := s.problem(resp)
		if p.Code != test.code || p.Status != 429 || resp.Headers["Retry-After"] != "5" || p.RetryAfter != 5000 || !strings.Contains(p.Detail, test.says) {
			t.Errorf("%s: %s, headers %v", name, resp.Body, resp.Headers)
		}
		if strings.Contains(s.log.String(), `"level":"ERROR"`) {
			t.Errorf("%s: log %s", name, s.log.String())
		}
	}
}

// Contention and lost leases are answers: logged, never as errors.
func TestContentionIsNoError(t *testing.T) {
	s := newSystem(t)
	s.call("acquire", "a", `{}`)
	s.call("acquire", "a", `{}`)
	s.call("release", "a", `{"lease":"`+secret+`"}`)
	if log := s.log.String(); strings.Contains(log, "ERROR") || strings.Contains(log, "WARN") || !strings.Contains(log, "lock_held") {
		t.Errorf("log %s", log)
	}
}

func TestPrincipalIsRecordedAndShown(t *testing.T) {
	s := newSystem(t)
	s.call("acquire", "a", `{}`)
	if resp := s.call("status", "a", ""); !strings.Contains(resp.Body, `"principal":"arn:aws:iam::123456789012:user/alice"`) {
		t.Error(resp.Body)
	}
	s.call("acquire", "b", `{}`, func(e *events.APIGatewayV2HTTPRequest) { e.RequestContext.Authorizer = nil })
	if resp := s.call("status", "b", ""); strings.Contains(resp.Body, "principal") {
		t.Error(resp.Body)
	}
	if !strings.Contains(s.log.String(), `"principal":""`) {
		t.Error("the log does not show that there is no caller")
	}
}

// A direct invocation is the same request with the name in it, and fails with Lambda errors.
func TestDirectInvocation(t *testing.T) {
	s := newSystem(t)
	ctx := lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{AwsRequestID: "direct-1"})
	for _, step := range []struct{ op, payload, want, errorType string }{
		{"acquire", `{"name":"a","lease":"` + secret + `","owner":"me"}`, `"lease":"` + secret + `"`, ""},
		{"acquire", `{"name":"a"}`, `"code":"lock_held"`, "LockHeld"},
		{"acquire", `{"name":"a","capacity":2}`, `"code":"capacity_mismatch"`, "CapacityMismatch"},
		{"acquire", `{}`, `"field":"name"`, "InvalidRequest"},
		{"acquire", `{"name":"a b"}`, `"field":"name"`, "InvalidRequest"},
		{"acquire", `{"name":"a","requestContext":{}}`, `"field":"requestContext"`, "InvalidRequest"},
		{"renew", `{"name":"a","lease":"` + secret + `"}`, `"remaining_ms":60000`, ""},
		{"renew", `{"name":"a","lease":"another-secret-lease"}`, `"code":"lease_lost"`, "LeaseLost"},
		{"status", `{"op":"status","name":"a"}`, `"locked":true`, ""},
		{"status", `{"op":"list","limit":5}`, `"locks":[{`, ""},
		{"status", `{"name":"a"}`, `"field":"op"`, "InvalidRequest"},
		{"status", `{"op":"list","name":"a"}`, `"field":"name"`, "InvalidRequest"},
		{"force-release", `{"name":"a","reason":"x","fence":5}`, `"code":"lock_changed"`, "LockChanged"},
		{"release", `{"name":"a","lease":"` + secret + `"}`, `"released_at"`, ""},
		{"release", `not JSON`, `"field":"body"`, "InvalidRequest"},
	} {
		out, err := s.handler(step.op).Invoke(ctx, []byte(step.payload))
		if step.errorType == "" {
			if err != nil || !strings.Contains(string(out), step.want) {
				t.Errorf("%s %s: %s, %v", step.op, step.payload, out, err)
			}
			continue
		}
		lambdaErr, ok := err.(messages.InvokeResponse_Error) //nolint:errorlint // by value, outermost: else Lambda loses the type
		if !ok || lambdaErr.Type != step.errorType || !strings.Contains(lambdaErr.Message, step.want) {
			t.Errorf("%s %s: %#v", step.op, step.payload, err)
			continue
		}
		if !strings.Contains(lambdaErr.Message, `"request_id":"direct-1"`) || !json.Valid([]byte(lambdaErr.Message)) {
			t.Errorf("message %s", lambdaErr.Message)
		}
	}
}

// An alias that carries a pattern serves its locks alone.
func TestAliasServesItsLocks(t *testing.T) {
	s := newSystem(t)
	ctx := lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{
		InvokedFunctionArn: "arn:aws:lambda:eu-west-1:123456789012:function:f:only-ZGVwbG95Oio", // deploy:*
	})
	for _, test := range []struct {
		op, payload string
		served      bool
	}{
		{"acquire", `{"name":"deploy:x"}`, true},
		{"acquire", `{"name":"billing:x"}`, false},
		{"status", `{"op":"status","name":"deploy:x"}`, true},
		{"status", `{"op":"list"}`, false},
	} {
		out, err := s.handler(test.op).Invoke(ctx, []byte(test.payload))
		said := string(out)
		if err != nil {
			said = err.Error()
		}
		if strings.Contains(said, "this alias") == test.served {
			t.Errorf("%s %s: %s", test.op, test.payload, said)
		}
	}
	if r, _ := s.store.Get(t.Context(), "billing:x"); r.After.Rev != 0 {
		t.Errorf("it was written: %+v", r.After)
	}
}

// An event of API Gateway's shape is believed only where API Gateway sends it: to the function itself. Through an alias or a
// version, which callers are allowed to invoke, it changes nothing, and what it says of its caller is not even logged.
func TestOnlyTheGatewaySaysWhoCalls(t *testing.T) {
	const function = "arn:aws:lambda:eu-west-1:123456789012:function:f"
	const forger = "arn:aws:iam::123456789012:user/other"
	bodies := map[string]string{
		"acquire": `{"owner":"x"}`, "renew": `{"lease":"` + secret + `"}`, "release": `{"lease":"` + secret + `"}`,
		"force-release": `{"reason":"x"}`, "status": "", "list": "",
	}
	for qualifier, believed := range map[string]bool{
		"": true, ":only-ZGVwbG95Oio": false, ":only-Kg": false, ":live": false, ":$LATEST": false, ":7": false, // deploy:* and *
	} {
		for op, body := range bodies {
			s := newSystem(t)
			event := events.APIGatewayV2HTTPRequest{
				Version: "2.0", Headers: map[string]string{"content-type": "application/json"}, Body: body,
				RequestContext: events.APIGatewayV2HTTPRequestContext{
					RequestID: "forged-id", HTTP: events.APIGatewayV2HTTPRequestContextHTTPDescription{Method: "POST"},
					Authorizer: &events.APIGatewayV2HTTPRequestContextAuthorizerDescription{
						IAM: &events.APIGatewayV2HTTPRequestContextAuthorizerIAMDescription{UserARN: forger},
					},
				},
			}
			if op != "list" {
				event.PathParameters = map[string]string{"name": "deploy:prod"}
			}
			payload, err := json.Marshal(event)
			if err != nil {
				t.Fatal(err)
			}
			ctx := lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{AwsRequestID: "lambda-id", InvokedFunctionArn: function + qualifier})
			var resp events.APIGatewayV2HTTPResponse
			if out, err := s.handler(op).Invoke(ctx, payload); err != nil || json.Unmarshal(out, &resp) != nil {
				t.Fatalf("%s, %v", out, err)
			}
			what := fmt.Sprintf("%s through %q: %d %s, log %s", op, qualifier, resp.StatusCode, resp.Body, s.log.String())
			if believed {
				if resp.StatusCode == 400 || !strings.Contains(s.log.String(), forger) || !strings.Contains(s.log.String(), "forged-id") {
					t.Error(what)
				}
				continue
			}
			if resp.StatusCode != 400 || !strings.Contains(resp.Body, `"code":"invalid_request"`) || !strings.Contains(resp.Body, `"request_id":"lambda-id"`) {
				t.Error(what)
			}
			if strings.Contains(s.log.String(), forger) || strings.Contains(s.log.String(), "forged-id") || !strings.Contains(s.log.String(), "lambda-id") {
				t.Error(what)
			}
			if r, _ := s.store.Get(t.Context(), "deploy:prod"); r.After.Rev != 0 {
				t.Errorf("%s; stored %+v", what, r.After)
			}
		}
	}
}

// Every answer has a request id, also where neither API Gateway nor Lambda gives one.
func TestRequestIDIsNeverEmpty(t *testing.T) {
	s := newSystem(t)
	resp := s.call("renew", "a", `{}`, func(e *events.APIGatewayV2HTTPRequest) { e.RequestContext.RequestID = "" })
	_, err := s.Handler(wire.OpRenew).Invoke(t.Context(), []byte(`{"name":"a"}`))
	failed, _ := errors.AsType[messages.InvokeResponse_Error](err)
	ids := map[string]bool{}
	for _, body := range []string{resp.Body, failed.Message} {
		var p wire.Problem
		if err := json.Unmarshal([]byte(body), &p); err != nil || len(p.RequestID) < 16 || ids[p.RequestID] {
			t.Errorf("%s, %v", body, err)
		}
		ids[p.RequestID] = true
		if !strings.Contains(s.log.String(), p.RequestID) {
			t.Errorf("%s is not in the log", p.RequestID)
		}
	}
}

// A request's log record is its metrics too, in CloudWatch's embedded metric format, with few dimensions.
func TestMetrics(t *testing.T) {
	s := newSystem(t, func(_ *system, c *api.Config) { c.Metrics = "Holdfast/test" })
	s.call("acquire", "deploy:prod", `{"lease":"`+secret+`"}`)
	s.now = s.now.Add(3 * time.Second)
	s.call("release", "deploy:prod", `{"lease":"`+secret+`"}`)
	var records []map[string]any
	for line := range strings.Lines(s.log.String()) {
		var r map[string]any
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		records = append(records, r)
	}
	release := records[1]
	if release["hold_ms"] != 3000.0 || release["group"] != "deploy" || release["op"] != "release" || release["code"] != "ok" {
		t.Errorf("record %v", release)
	}
	for _, r := range records {
		aws, ok := r["_aws"].(map[string]any)
		if !ok || aws["Timestamp"] == nil {
			t.Fatalf("record %v", r)
		}
		for _, d := range aws["CloudWatchMetrics"].([]any) {
			directive := d.(map[string]any)
			if directive["Namespace"] != "Holdfast/test" {
				t.Errorf("directive %v", directive)
			}
			for _, m := range directive["Metrics"].([]any) {
				if _, ok := r[m.(map[string]any)["Name"].(string)].(float64); !ok {
					t.Errorf("%v is no number in the record", m)
				}
			}
			for _, dimension := range directive["Dimensions"].([]any)[0].([]any) {
				if v, ok := r[dimension.(string)].(string); !ok || v == "deploy:prod" {
					t.Errorf("dimension %v is %v", dimension, r[dimension.(string)])
				}
			}
		}
	}
}

// The events that the functions come with are API Gateway's, and are answered.
func TestFunctionEvents(t *testing.T) {
	for dir, op := range map[string]string{
		"acquire": "acquire", "renew": "renew", "release": "release", "status": "status", "forcerelease": "force-release",
	} {
		event, err := os.ReadFile(filepath.Join("..", "..", "functions", dir, "event.json"))
		if err != nil {
			t.Fatal(err)
		}
		s := newSystem(t)
		s.call("acquire", "deploy:prod", `{"lease":"my-secret-lease-0001"}`)
		if resp := s.invoke(op, event); resp.StatusCode != 200 {
			t.Errorf("%s: %d %s", dir, resp.StatusCode, resp.Body)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	c, _ := lock.New(lock.Config{Store: &lock.Memory{}})
	log := slog.New(slog.DiscardHandler)
	for _, cfg := range []api.Config{
		{Log: log}, {Coordinator: c}, {Coordinator: c, Log: log, MaxTTL: time.Second}, {Coordinator: c, Log: log, MaxTTL: wire.MaxTTL + 1},
		{Coordinator: c, Log: log, MinTTL: -1},
	} {
		if _, err := api.New(cfg); err == nil {
			t.Errorf("accepted %+v", cfg)
		}
	}
}

func BenchmarkAcquireRelease(b *testing.B) {
	c, _ := lock.New(lock.Config{Store: &lock.Memory{}})
	a, err := api.New(api.Config{Coordinator: c, Log: slog.New(slog.NewJSONHandler(nowhere{}, nil))})
	if err != nil {
		b.Fatal(err)
	}
	event := func(dir string) []byte {
		data, err := os.ReadFile(filepath.Join("..", "..", "functions", dir, "event.json"))
		if err != nil {
			b.Fatal(err)
		}
		return data
	}
	acquire, release := event("acquire"), event("release")
	acquireHandler, releaseHandler := a.Handler(wire.OpAcquire), a.Handler(wire.OpRelease)
	b.ReportAllocs()
	n := 0
	for b.Loop() { // each round a lease of its own, as a lease is used once
		n++
		lease := fmt.Appendf(nil, "secret-lease-%020d", n)
		for _, call := range []struct {
			h lambda.Handler
			e []byte
		}{{acquireHandler, acquire}, {releaseHandler, release}} {
			out, err := call.h.Invoke(b.Context(), bytes.ReplaceAll(call.e, []byte("my-secret-lease-0001"), lease))
			if err != nil || !bytes.Contains(out, []byte(`"statusCode":200`)) {
				b.Fatalf("%s, %v", out, err)
			}
		}
	}
}

// nowhere takes log lines, which are made in full, as in a function.
type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
