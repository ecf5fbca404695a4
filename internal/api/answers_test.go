package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A problem's code, detail and times follow from the error, and the same ones come with the header.
func TestProblems(t *testing.T) {
	holders := []lock.Lease{{Terms: lock.Terms{Owner: "x"}, Fence: 7, ExpiresAt: 5000}, {Terms: lock.Terms{Owner: "gone"}, Fence: 8, ExpiresAt: 900}}
	for name, test := range map[string]struct {
		err    error
		want   wire.Problem // without what all have in common
		header string
	}{
		"held": {
			&lock.HeldError{Holders: holders, Now: 1000, RetryAfter: 4001 * time.Millisecond},
			wire.Problem{
				Code: wire.LockHeld, Status: 409, Title: "The lock is held", RetryAfter: 4001,
				Detail:  "the lock is held; the next permit is free in 4001 ms at the latest, unless its lease is renewed",
				Holders: []wire.ProblemHolder{{Owner: "x", Fence: 7, ExpiresAt: wire.At(5000), Remaining: 4000}, {Owner: "gone", Fence: 8, ExpiresAt: wire.At(900)}},
			}, "5",
		},
		"held, free any moment": {
			&lock.HeldError{RetryAfter: -time.Second},
			wire.Problem{Code: wire.LockHeld, Status: 409, Title: "The lock is held", RetryAfter: 1, Detail: "the lock is held; the next permit is free in 1 ms at the latest, unless its lease is renewed"}, "1",
		},
		"a place in the queue": {
			&lock.HeldError{RetryAfter: time.Second, Position: 1, Waiting: 2},
			wire.Problem{Code: wire.LockHeld, Status: 409, Title: "The lock is held", RetryAfter: 1000, Position: 1, Waiting: 2, Detail: "the lock is held, and place 1 of 2 in its queue is yours; send the same request again to keep it"}, "1",
		},
		"others wait": {
			&lock.HeldError{RetryAfter: 1999 * time.Millisecond, Waiting: 1},
			wire.Problem{Code: wire.LockHeld, Status: 409, Title: "The lock is held", RetryAfter: 1999, Waiting: 1, Detail: "the lock is held, and 1 wait for it; send wait_ms to join them"}, "2",
		},
		"lost":    {lock.ErrLeaseLost, wire.Problem{Code: wire.LeaseLost, Status: 410, Title: "The lease is over", Detail: "the lease has expired, was released or forced out, or never was; acquire with a new one"}, ""},
		"changed": {fmt.Errorf("x: %w", lock.ErrLockChanged), wire.Problem{Code: wire.LockChanged, Status: 409, Title: "The lock has changed hands", Detail: "no holder has the fence given any more; look at the lock again"}, ""},
		"cursor":  {lock.ErrBadCursor, wire.Problem{Code: wire.InvalidRequest, Status: 400, Title: "The request is not valid", Field: "cursor", Detail: "cursor is not one that a list answered; start without one"}, ""},
		"canceled": {
			context.Canceled,
			wire.Problem{Code: wire.StoreUnavailable, Status: 503, Title: "The store cannot be used", RetryAfter: 1000, Detail: "the store cannot be used just now; it is not known whether the write happened: send the same request again"}, "1",
		},
		"misconfigured, no fix known": {
			&lock.StoreError{Kind: lock.ErrMisconfigured, What: "the table is odd", Err: errors.New("inside")},
			wire.Problem{Code: wire.Misconfigured, Status: 500, Title: "The coordinator is not set up right", Detail: "the table is odd"}, "",
		},
	} {
		s := newSystem(t, func(s *system, _ *api.Config) { s.store = failing{test.err} })
		resp := s.call("acquire", "a", `{}`)
		test.want.Type, test.want.Lock, test.want.RequestID = "urn:holdfast:problem:"+string(test.want.Code), "a", "request-1"
		want, _ := json.Marshal(test.want)
		if resp.Body != strings.NewReplacer(`\u003c`, "<", `\u003e`, ">").Replace(string(want)) || resp.Headers["Retry-After"] != test.header {
			t.Errorf("%s: %s, Retry-After %q; want %s", name, resp.Body, resp.Headers["Retry-After"], want)
		}
		if level := strings.Contains(s.log.String(), `"level":"ERROR"`); level != (test.want.Status >= 500) {
			t.Errorf("%s: log %s", name, s.log.String())
		}
	}
}

// hanging is a store that answers when the request's time is up.
type hanging struct{ failing }

func (hanging) Apply(ctx context.Context, _ string, _ lock.Command) (lock.Reply, error) {
	<-ctx.Done()
	return lock.Reply{}, context.Cause(ctx)
}

// A function answers before Lambda ends it.
func TestAnswersBeforeTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(t, func(s *system, _ *api.Config) { s.store = hanging{} })
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		_, err := s.Handler(wire.OpAcquire).Invoke(ctx, []byte(`{"name":"a"}`))
		if took := time.Since(start); took != 9750*time.Millisecond || err == nil || !strings.Contains(err.Error(), "store_unavailable") {
			t.Errorf("%v after %v", err, took)
		}
		if latency := s.records()[0]["latency_ms"]; latency != 9750.0 {
			t.Errorf("latency_ms is %v", latency)
		}
	})
}

// What is not API Gateway's event of format 2.0 is a direct invocation, and strict.
func TestWhatIsAnEvent(t *testing.T) {
	for payload, says := range map[string]string{
		`{"version":"1.0","requestContext":{"http":{"method":"POST"}}}`:   `"field":"name"`,
		`{"version":"2.0","requestContext":{}}`:                           `"field":"name"`,
		`{"version":2.0,"requestContext":{"http":{"method":"POST"}}}`:     `"field":"name"`,
		`{"name":"a","version":"2.0"}`:                                    `"field":"version"`,
		`{"name":"a","metadata":{"requestContext":{}}}`:                   ``,
		`{"name":"a","owner":"\"requestContext\""}`:                       ``,
		`{"name":"a","principal":"arn:aws:iam::123456789012:user/other"}`: `"field":"principal"`,
		`{"name":"a","request_id":"mine"}`:                                `"field":"request_id"`,
		`{"name":"a","op":"acquire"}`:                                     `"field":"op"`,
		`[]`:                                                              `"field":"body"`,
		``:                                                                `"field":"body"`,
	} {
		s := newSystem(t)
		ctx := lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{AwsRequestID: "direct-1", InvokedFunctionArn: ownFunction})
		out, err := s.Handler(wire.OpAcquire).Invoke(ctx, []byte(payload))
		if says == "" {
			if err != nil || !strings.Contains(string(out), `"lock":"a"`) {
				t.Errorf("%s: %s, %v", payload, out, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), strings.ReplaceAll(says, `"`, `\"`)) && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %s, %v", payload, out, err)
		}
	}
}

// records are the log's.
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

// The log says who did what to which lease, and never a secret.
func TestLog(t *testing.T) {
	s := newSystem(t)
	s.call("acquire", "a", `{"lease":"`+secret+`","owner":"me","metadata":{"x":1}}`)
	s.call("acquire", "a", `{"lease":"`+secret+`2"}`)
	s.call("renew", "a", `{"lease":"`+secret+`"}`)
	s.call("status", "a", "")
	s.call("force-release", "a", `{"reason":"stuck","fence":5}`)
	s.call("force-release", "a", `{"reason":"stuck"}`)
	s.call("force-release", "a", `{"reason":"stuck"}`)
	s.call("release", "a", `{"lease":"`+secret+`"}`)
	s.call("list", "", "")
	const fence = 1772366400123456.0
	alice := "arn:aws:iam::123456789012:user/alice"
	records := s.records()
	for i, want := range []map[string]any{
		{"op": "acquire", "code": "ok", "owner": "me", "fence": fence},
		{"op": "acquire", "code": "lock_held", "owner": nil, "fence": nil},
		{"op": "renew", "code": "ok", "owner": "me", "fence": fence},
		{"op": "status", "code": "ok", "owner": nil, "fence": fence},
		{"op": "force-release", "code": "lock_changed", "owner": nil, "fence": nil},
		{"op": "force-release", "code": "ok", "owner": nil, "fence": fence},
		{"op": "force-release", "code": "ok", "owner": nil, "fence": nil},
		{"op": "release", "code": "lease_lost", "owner": nil, "fence": nil},
		{"op": "status", "code": "ok", "lock": "", "fence": nil},
	} {
		r := records[i]
		for k, v := range want {
			if r[k] != v {
				t.Errorf("record %d: %s is %v, want %v", i, k, r[k], v)
			}
		}
		if r["level"] != "INFO" || r["request_id"] != "request-1" || r["principal"] != alice || r["latency_ms"].(float64) < 0 || r["_aws"] != nil || i < 8 && r["lock"] != "a" {
			t.Errorf("record %d: %v", i, r)
		}
		if text := fmt.Sprint(r); strings.Contains(text, secret) {
			t.Errorf("record %d has the secret", i)
		}
	}
}

// A lease's life is counted when it is given back, and only then; a wrong clock is counted.
func TestWhatIsMeasured(t *testing.T) {
	withMetrics := func(_ *system, c *api.Config) { c.Metrics = "Holdfast/test" }
	names := func(r map[string]any) string {
		var list []string
		for _, d := range r["_aws"].(map[string]any)["CloudWatchMetrics"].([]any) {
			for _, m := range d.(map[string]any)["Metrics"].([]any) {
				list = append(list, fmt.Sprint(m.(map[string]any)["Name"], d.(map[string]any)["Dimensions"]))
			}
		}
		return strings.Join(list, " ")
	}
	s := newSystem(t, withMetrics)
	s.call("acquire", "g:a", `{"lease":"`+secret+`"}`)
	s.call("acquire", "g:a", `{"lease":"`+secret+`2","wait_ms":1000}`)
	s.call("release", "g:a", `{"lease":"`+secret+`2"}`) // leaves the queue
	s.now = s.now.Add(1500 * time.Millisecond)
	s.call("release", "g:a", `{"lease":"`+secret+`"}`)
	const latency = "latency_ms[[op]] latency_ms[[op code]]"
	records := s.records()
	for i, want := range []string{latency, latency, latency, latency + " hold_ms[[group]]"} {
		if got := names(records[i]); got != want {
			t.Errorf("record %d: %s, want %s", i, got, want)
		}
	}
	if r := records[3]; r["hold_ms"] != 1500.0 || r["group"] != "g" || records[2]["hold_ms"] != nil {
		t.Errorf("%v", records)
	}
	s = newSystem(t, withMetrics, func(s *system, _ *api.Config) { s.store = failing{&lock.ClockError{Offset: -10 * time.Second}} })
	s.call("acquire", "a", `{}`)
	r := s.records()[0]
	if names(r) != latency+" clock_guard[[]]" || r["clock_guard"] != 1.0 || r["clock_offset_ms"] != -10000.0 || r["level"] != "ERROR" {
		t.Errorf("%v", r)
	}
}

// Who asked is recorded with every write: the caller over HTTP, nobody for a direct invocation.
func TestWhoAskedIsRecorded(t *testing.T) {
	const alice = "arn:aws:iam::123456789012:user/alice"
	s := newSystem(t)
	by := func(what, want string) {
		t.Helper()
		s.now = s.now.Add(time.Second)
		if r, err := s.store.Get(t.Context(), "a"); err != nil || r.After.By != want {
			t.Errorf("%s: by %q, %v", what, r.After.By, err)
		}
	}
	lease := `"lease":"` + secret + `"`
	s.call("acquire", "a", `{`+lease+`}`)
	by("acquire", alice)
	s.invokeAs(ownFunction, "renew", `{"name":"a",`+lease+`}`)
	by("direct renew", "")
	s.call("renew", "a", `{`+lease+`,"ttl_ms":90000,"metadata":{"n":1}}`)
	by("renew", alice)
	r, _ := s.store.Get(t.Context(), "a")
	for _, h := range r.After.Holders {
		if h.TTL != 90000 || h.Metadata != `{"n":1}` || h.Principal != alice {
			t.Errorf("renewed to %+v", h)
		}
	}
	s.invokeAs(ownFunction, "release", `{"name":"a",`+lease+`}`)
	by("direct release", "")
	s.call("acquire", "a", `{"lease":"`+secret+`1"}`)
	s.call("release", "a", `{"lease":"`+secret+`1"}`)
	by("release", alice)
	s.invokeAs(ownFunction, "acquire", `{"name":"a"}`)
	by("direct acquire", "")
	s.call("force-release", "a", `{"reason":"stuck"}`)
	by("force-release", alice)
}

// What a lease has left is what is told; what ended has nothing left.
func TestRemaining(t *testing.T) {
	s := newSystem(t)
	s.call("acquire", "a", `{"lease":"`+secret+`","ttl_ms":10000,"capacity":3,"permits":2,"metadata":{"x": 1}}`)
	s.now = s.now.Add(4 * time.Second)
	var l wire.Lease
	if err := json.Unmarshal([]byte(s.call("acquire", "a", `{"lease":"`+secret+`","ttl_ms":10000,"capacity":3,"permits":2}`).Body), &l); err != nil || l.Remaining != 6000 {
		t.Errorf("%+v, %v", l, err)
	}
	var status wire.Status
	if err := json.Unmarshal([]byte(s.call("status", "a", "").Body), &status); err != nil {
		t.Fatal(err)
	}
	h := status.Holders[0]
	if h.Remaining != 6000 || h.Permits != 2 || string(h.Metadata) != `{"x":1}` || status.Available != 1 || status.Capacity != 3 || !status.Locked || status.ServerTime.UnixMilli() != s.now.UnixMilli() {
		t.Errorf("%+v", status)
	}
	var forced wire.ForceReleased
	if err := json.Unmarshal([]byte(s.call("force-release", "a", `{"reason":"x"}`).Body), &forced); err != nil || len(forced.Released) != 1 || forced.Released[0].Remaining != 0 || forced.Released[0].Fence != h.Fence {
		t.Errorf("%+v, %v", forced, err)
	}
	// A record that something else wrote is shown without what is no JSON.
	odd := lock.Lease{Terms: lock.Terms{Owner: "odd", Permits: 1, Metadata: "{"}, Fence: 9, ExpiresAt: s.now.Add(time.Minute).UnixMilli()}
	s = newSystem(t, func(s *system, _ *api.Config) {
		s.store = fixed{r: lock.Record{Capacity: 1, Rev: 1, Fence: 9, Holders: map[lock.LeaseKey]lock.Lease{"k": odd}}}
	})
	if resp := s.call("status", "a", ""); resp.StatusCode != 200 || strings.Contains(resp.Body, "metadata") || !strings.Contains(resp.Body, `"owner":"odd"`) {
		t.Error(resp.Body)
	}
}

// fixed is a store with one record.
type fixed struct {
	failing
	r lock.Record
}

func (f fixed) Get(context.Context, string) (lock.Reply, error) { return lock.Reply{After: f.r}, nil }

// A caller that chooses no lease gets a new one each time, from the system's randomness if nothing else is configured.
func TestLeasesAreMade(t *testing.T) {
	c, err := lock.New(lock.Config{Store: &lock.Memory{}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := api.New(api.Config{Coordinator: c, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i := range 3 {
		out, err := a.Handler(wire.OpAcquire).Invoke(t.Context(), fmt.Appendf(nil, `{"name":"a%d"}`, i))
		var l wire.Lease
		if err != nil || json.Unmarshal(out, &l) != nil || wire.CheckLease(l.Lease) != "" || seen[l.Lease] {
			t.Errorf("%s, %v", out, err)
		}
		seen[l.Lease] = true
	}
}
