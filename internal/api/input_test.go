package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

const ownFunction = "arn:aws:lambda:eu-west-1:123456789012:function:acquire"

// invokeAs invokes a function directly, in Lambda, by an ARN of it.
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

func machines(list ...string) func(*system, *api.Config) {
	return func(_ *system, c *api.Config) { c.Machines = list }
}

// A lease is bound to executions of the machines that are listed, in the coordinator's own account and region, and to those that
// a Distributed Map of theirs started.
func TestExecutions(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	for _, test := range []struct{ execution, says string }{
		{"arn:aws:states:eu-west-1:123456789012:execution:Deploy:run-1", ""},
		{"arn:aws:states:eu-west-1:123456789012:execution:Deploy/Map1:4f2a9c1e-0000-4000-8000-000000000001", ""},
		{"arn:aws:states:eu-west-1:123456789012:execution:Deploy/ProcessFiles:run:2", "send the ARN"},
		{"arn:aws:states:eu-west-1:123456789012:execution:Batch:x", ""},
		{"arn:aws:states:eu-west-1:123456789012:execution:BatchNightly/Label:x", ""},
		{"arn:aws:states:eu-west-1:123456789012:execution:DeployX:run-1", `state machine "DeployX", to which`},
		{"arn:aws:states:eu-west-1:123456789012:execution:Deplo:run-1", "StateMachines"},
		{"arn:aws:states:eu-west-1:123456789012:execution:DeployX/Map1:run-1", `state machine "DeployX", to which`},
		{"arn:aws:states:eu-west-1:123456789012:execution:Other/Deploy:run-1", `state machine "Other", to which`},
		{"arn:aws:states:eu-west-1:123456789012:execution:Deploy/:run-1", "send the ARN"},
		{"arn:aws:states:eu-west-1:123456789012:execution:/Map1:run-1", "send the ARN"},
		{"arn:aws:states:eu-west-1:123456789012:execution:Deploy/a/b:run-1", "send the ARN"},
		{"arn:aws:states:eu-west-1:123456789012:execution:Deploy/Map*:run-1", "send the ARN"},
		{"arn:aws:states:eu-west-1:123456789012:execution::run-1", "send the ARN"},
		{"arn:aws:states:eu-west-1:123456789012:execution:Batch*:run-1", "send the ARN"},
		{"arn:aws:states:eu-west-1:123456789012:execution:Batch 1:run-1", "send the ARN"},
		{"arn:aws:states:eu-west-1:123456789012:execution:Batch\u0085:run-1", "send the ARN"},
		{"arn:aws:states:eu-west-1:123456789012:execution:Deploy:", "send the ARN"},
		{"arn:aws:states:eu-west-1:123456789012:execution:Deploy:run/1", "send the ARN"},
		{"arn:aws:states:eu-west-1:123456789012:execution:Deploy:run*", "send the ARN"},
		{"arn:aws:states:eu-west-1:123456789012:execution:Deploy:" + long(80), ""},
		{"arn:aws:states:eu-west-1:123456789012:execution:Deploy:" + long(81), "send the ARN"},
		{"arn:aws:states:eu-west-1:123456789012:execution:Batch" + long(75) + ":a", ""},
		{"arn:aws:states:eu-west-1:123456789012:execution:Batch" + long(76) + ":a", "send the ARN"},
		{"arn:aws:states:eu-west-1:123456789012:execution:Deploy:" + long(300), "at most 256"},
		{"arn:aws:states:eu-west-1:123456789012:execution:Deploy", "send the ARN"},
		{"arn:aws:states:eu-west-1:123456789012:stateMachine:Deploy:run-1", "send the ARN"},
		{"arn:aws:lambda:eu-west-1:123456789012:execution:Deploy:run-1", "send the ARN"},
		{"urn:aws:states:eu-west-1:123456789012:execution:Deploy:run-1", "send the ARN"},
		{"", "send the ARN"},
		{"arn:aws:states:eu-west-2:123456789012:execution:Deploy:run-1", `region "eu-west-2", account "123456789012"; its end`},
		{"arn:aws:states:eu-west-1:999999999999:execution:Deploy:run-1", `account "999999999999"`},
		{"arn:aws-cn:states:eu-west-1:123456789012:execution:Deploy:run-1", `partition "aws-cn"`},
		{"arn:aws:states:eu-west-1:123456789012:express:Deploy:run-1:x", "Standard workflow"},
		{"arn:aws:states:eu-west-1:123456789012:express:Deploy/Map1:run-1", "Standard workflow"},
	} {
		s := newSystem(t, machines("Deploy", "Batch*"))
		payload, _ := json.Marshal(map[string]string{"name": "a", "lease": secret, "execution": test.execution})
		_, p := s.invokeAs(ownFunction, "acquire", string(payload))
		if test.says != "" {
			if p == nil || p.Code != wire.InvalidRequest || p.Field != "execution" || !strings.Contains(p.Detail, test.says) {
				t.Errorf("%s: %+v", test.execution, p)
			}
			continue
		}
		r, err := s.store.Get(t.Context(), "a")
		if p != nil || err != nil || len(r.After.Holders) != 1 {
			t.Errorf("%s: %+v, %v", test.execution, p, err)
		}
		for _, h := range r.After.Holders {
			if h.Execution != test.execution {
				t.Errorf("stored %q", h.Execution)
			}
		}
	}
	// Outside Lambda nobody knows the coordinator's own account: any is taken.
	s := newSystem(t, machines("*"))
	resp := s.call("acquire", "a", `{"execution":"arn:aws:states:us-east-1:000000000000:execution:Deploy:run-1"}`)
	if resp.StatusCode != 200 {
		t.Error(resp.Body)
	}
	// With no machine listed there is nothing to bind to.
	s = newSystem(t)
	if p := s.problem(s.call("acquire", "a", `{"execution":"arn:aws:states:us-east-1:000000000000:execution:Deploy:run-1"}`)); p.Field != "execution" {
		t.Errorf("%+v", p)
	}
}

// What people write is kept as they wrote it.
func TestTextsAreKept(t *testing.T) {
	for _, owner := range []string{"👩\u200d👩\u200d👧", "می\u200cخواهم", "10\u00a0000", "a<b>&\"c\\", "\u05e9\u200f", ""} {
		s := newSystem(t)
		body, _ := json.Marshal(map[string]string{"owner": owner, "lease": secret})
		resp := s.call("acquire", "a", string(body))
		var got wire.Lease
		if err := json.Unmarshal([]byte(resp.Body), &got); err != nil || got.Owner != owner {
			t.Errorf("%q: %s, %v", owner, resp.Body, err)
		}
		var status wire.Status
		if err := json.Unmarshal([]byte(s.call("status", "a", "").Body), &status); err != nil || status.Holders[0].Owner != owner {
			t.Errorf("%q: %+v, %v", owner, status, err)
		}
	}
	for _, reason := range []string{"Revert \"x\"\n\nIt broke:\n\t- the build\r\n\t- 👩\u200d👩\u200d👧", "می\u200cخواهم"} {
		s := newSystem(t)
		s.call("acquire", "a", `{}`)
		body, _ := json.Marshal(map[string]string{"reason": reason})
		if resp := s.call("force-release", "a", string(body)); resp.StatusCode != 200 {
			t.Errorf("%q: %s", reason, resp.Body)
		}
		if r, _ := s.store.Get(t.Context(), "a"); r.After.Reason != reason {
			t.Errorf("stored %q", r.After.Reason)
		}
	}
}

// What would act on whoever reads it is refused, and so is half a character.
func TestTextsThatAreRefused(t *testing.T) {
	for _, test := range []struct{ op, body, field, says string }{
		{"acquire", `{"owner":"a\nb"}`, "owner", "U+000A"},
		{"acquire", `{"owner":"a\u009b31m"}`, "owner", "U+009B"},
		{"acquire", "{\"owner\":\"a\u009b31m\"}", "owner", "U+009B"},
		{"acquire", `{"owner":"a\u0000"}`, "owner", "U+0000"},
		{"acquire", `{"owner":"a\u202egnp"}`, "owner", "U+202E"},
		{"acquire", `{"owner":"a\u2028b"}`, "owner", "U+2028"},
		{"force-release", `{"reason":"a\u001b[2J"}`, "reason", "U+001B"},
		{"force-release", `{"reason":"a\rb"}`, "reason", "U+000D"},
		{"force-release", `{"reason":"a\u0085b"}`, "reason", "U+0085"},
		{"force-release", `{"reason":"\u2067b"}`, "reason", "U+2067"},
		{"force-release", `{"reason":""}`, "reason", "reason is empty; say why"},
		{"force-release", `{"reason":"\u00a0\u200b\n"}`, "reason", "reason is empty; say why"},
		{"acquire", `{"owner":"\ud800"}`, "owner", `\ud800, half of a surrogate pair`},
		{"acquire", `{"owner":"\uDC00x"}`, "owner", `\uDC00`},
		{"acquire", `{"owner":"\ud83d\ud83d\ude00"}`, "owner", `\ud83d`},
		{"acquire", `{"owner":"\ud83d\u0041"}`, "owner", `\ud83d`},
		{"acquire", `{"owner":"\ud83d\\ude00"}`, "owner", `\ud83d`},
		{"acquire", `{"owner":"\ud83d\n"}`, "owner", `\ud83d`},
		{"acquire", `{"owner":"\ud83dxude00"}`, "owner", `\ud83d`},
		{"acquire", `{"owner":"\ud83d\tde00de00"}`, "owner", `\ud83d`},
		{"acquire", `{"owner":"\ude00\ud83d"}`, "owner", `\ude00`},
		{"acquire", `{"metadata":{"a":["\udfff"]}}`, "metadata", `\udfff`},
		{"acquire", `{"metadata":{"\ud800":1}}`, "metadata", `\ud800`},
		{"force-release", `{"reason":"\udbff"}`, "reason", `\udbff`},
		{"acquire", `{"lease":"\ud8000123456789abcdef"}`, "lease", `\ud800`},
		{"acquire", `{"\ud800":"x"}`, "\ufffd", "unknown"},
	} {
		s := newSystem(t)
		p := s.problem(s.call(test.op, "a", test.body))
		if p.Code != wire.InvalidRequest || p.Field != test.field || !strings.Contains(p.Detail, test.says) {
			t.Errorf("%s: %+v", test.body, p)
		}
	}
	for _, body := range []string{
		`{"owner":"\ud83d\ude00"}`, `{"owner":"\uD83D\uDE00\uD83D\uDE00"}`, `{"owner":"\\ud800"}`, `{"owner":"\\\\ud800 \"\ud83d\ude00"}`, `{"owner":"\ud7ff\ue000"}`,
		`{"metadata":{"\ud83d\ude00":"\u0000\\\ud83d\ude00"}}`,
	} {
		s := newSystem(t)
		if resp := s.call("acquire", "a", body); resp.StatusCode != 200 {
			t.Errorf("%s: %s", body, resp.Body)
		}
	}
}

// A name that a URL spelled in a way that gateways read differently is refused, and the text says how to spell it.
func TestSpellingOfNames(t *testing.T) {
	s := newSystem(t)
	for name, says := range map[string]string{"a b": "spell it %2B", "a%2Bb": "once, not twice", "a b%20": "spell it %2B"} {
		if p := s.problem(s.call("acquire", name, `{}`)); p.Field != "name" || !strings.Contains(p.Detail, says) {
			t.Errorf("%q: %+v", name, p)
		}
		if p := s.problem(s.call("list", "", "", query("prefix", name))); p.Field != "prefix" || !strings.Contains(p.Detail, says) {
			t.Errorf("prefix %q: %+v", name, p)
		}
		payload, _ := json.Marshal(map[string]string{"name": name})
		if _, p := s.invokeAs(ownFunction, "acquire", string(payload)); p == nil || p.Field != "name" || strings.Contains(p.Detail, says) {
			t.Errorf("directly, %q: %+v", name, p)
		}
	}
	if p := s.problem(s.call("acquire", "a/b", `{}`)); strings.Contains(p.Detail, "spell") || strings.Contains(p.Detail, "twice") {
		t.Errorf("%+v", p)
	}
	if resp := s.call("acquire", "a+b", `{}`); resp.StatusCode != 200 {
		t.Error(resp.Body)
	}
}

// A TTL goes from a second to what the deployment allows: a day unless it says otherwise, seven at most.
func TestTTLLimits(t *testing.T) {
	for _, test := range []struct {
		least, most time.Duration
		ttl         int64
		says        string
	}{
		{0, 0, 1000, ""}, {0, 0, 999, "from 1000 to 86400000 milliseconds"}, {0, 0, 86_400_000, ""}, {0, 0, 86_400_001, "from 1000 to 86400000"},
		{0, 7 * 24 * time.Hour, 604_800_000, ""}, {0, 7 * 24 * time.Hour, 604_800_001, "from 1000 to 604800000"},
		{0, time.Minute, 60_000, ""}, {0, time.Minute, 60_001, "from 1000 to 60000"},
		{100 * time.Millisecond, 0, 100, ""}, {100 * time.Millisecond, 0, 99, "from 100 to"},
	} {
		s := newSystem(t, func(_ *system, c *api.Config) { c.MinTTL, c.MaxTTL = test.least, test.most })
		resp := s.call("acquire", "a", fmt.Sprintf(`{"lease":"%s","ttl_ms":%d}`, secret, test.ttl))
		if test.says != "" {
			if p := s.problem(resp); p.Field != "ttl_ms" || !strings.Contains(p.Detail, test.says) {
				t.Errorf("%+v: %+v", test, p)
			}
			continue
		}
		var l wire.Lease
		if err := json.Unmarshal([]byte(resp.Body), &l); err != nil || l.TTL != test.ttl || l.Remaining != test.ttl {
			t.Errorf("%+v: %s, %v", test, resp.Body, err)
		}
	}
	c, _ := lock.New(lock.Config{Store: &lock.Memory{}})
	for _, test := range []struct {
		least, most time.Duration
		ok          bool
	}{
		{time.Millisecond, 0, true}, {time.Millisecond - 1, 0, false}, {wire.DefaultTTL, 0, true}, {wire.DefaultTTL + 1, 0, false},
		{0, wire.DefaultTTL, true}, {0, wire.DefaultTTL - 1, false}, {0, wire.MaxTTL, true}, {0, wire.MaxTTL + 1, false},
	} {
		_, err := api.New(api.Config{Coordinator: c, Log: slog.New(slog.DiscardHandler), MinTTL: test.least, MaxTTL: test.most})
		if (err == nil) != test.ok {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

// Over HTTP a waiter polls: it is told its place, keeps it, and leaves by a release.
func TestWaitingOverHTTP(t *testing.T) {
	s := newSystem(t)
	s.call("acquire", "a", `{"lease":"`+secret+`","owner":"first"}`)
	if p := s.problem(s.call("acquire", "a", `{}`)); p.Position != 0 || p.Waiting != 0 || p.Detail != "the lock is held; the next permit is free in 60250 ms at the latest, unless its lease is renewed" {
		t.Errorf("%+v", p)
	}
	second := `{"lease":"second-second-second","wait_ms":1000}`
	p := s.problem(s.call("acquire", "a", second))
	if p.Code != wire.LockHeld || p.Position != 1 || p.Waiting != 1 || p.Holders[0].Owner != "first" || !strings.Contains(p.Detail, "place 1 of 1") {
		t.Errorf("%+v", p)
	}
	if p := s.problem(s.call("acquire", "a", `{"wait_ms":1000}`)); p.Field != "lease" || !strings.Contains(p.Detail, "with wait_ms choose it yourself") {
		t.Errorf("a place that nobody could come back to: %+v", p)
	}
	if p := s.problem(s.call("acquire", "a", `{}`)); p.Position != 0 || p.Waiting != 1 || !strings.Contains(p.Detail, "send wait_ms to join") {
		t.Errorf("%+v", p)
	}
	w, err := s.store.Waiters(t.Context(), "a", 10)
	if err != nil || len(w) != 1 || w[0].Until != s.now.UnixMilli()+1000 || !w[0].Tokens.Empty() {
		t.Errorf("waiters %+v, %v", w, err)
	}
	s.call("release", "a", `{"lease":"`+secret+`"}`)
	if resp := s.call("acquire", "a", second); resp.StatusCode != 200 {
		t.Error(resp.Body)
	}
}

// Durable waiting is for direct invocations: the answer is a place in the queue, and a callback tells of the grant.
func TestTokens(t *testing.T) {
	const lease = `"name":"a","lease":"` + secret + `"`
	for _, test := range []struct{ payload, field, says string }{
		{`{"name":"a","task_token":"AAAA"}`, "lease", "with task_token choose it yourself"},
		{`{"name":"a","callback_id":"AAAA"}`, "lease", "with callback_id choose it yourself"},
		{`{` + lease + `,"task_token":""}`, "task_token", "task_token is empty"},
		{`{` + lease + `,"callback_id":""}`, "callback_id", "callback_id is empty"},
		{`{` + lease + `,"task_token":"A","callback_id":"A"}`, "callback_id", "give the one that waits"},
		{`{` + lease + `,"task_token":"A\nB"}`, "task_token", "no token has"},
		{`{` + lease + `,"task_token":"` + strings.Repeat("t", 2049) + `"}`, "task_token", "at most 2048"},
		{`{` + lease + `,"task_token":"A","wait_ms":999}`, "wait_ms", "from 1000 to 31622400000"},
		{`{` + lease + `,"task_token":"A","wait_ms":31622400001}`, "wait_ms", "from 1000 to 31622400000"},
		{`{` + lease + `,"wait_ms":900001}`, "wait_ms", "from 1000 to 900000"},
	} {
		s := newSystem(t)
		if _, p := s.invokeAs(ownFunction, "acquire", test.payload); p == nil || p.Field != test.field || !strings.Contains(p.Detail, test.says) {
			t.Errorf("%s: %+v", test.payload, p)
		}
	}
	for _, field := range []string{"task_token", "callback_id"} {
		s := newSystem(t)
		if p := s.problem(s.call("acquire", "a", `{"lease":"`+secret+`","`+field+`":"AAAA"}`)); p.Field != field || !strings.Contains(p.Detail, "over HTTP send wait_ms and poll") {
			t.Errorf("%+v", p)
		}
	}
	const year = 366 * 24 * time.Hour
	for _, test := range []struct {
		fields, token string
		wait          time.Duration
	}{
		{`"task_token":"AAAA"`, "task:AAAA", year},
		{`"callback_id":"AAAA"`, "callback:AAAA", year},
		{`"task_token":"AAAA","wait_ms":1000`, "task:AAAA", time.Second},
		{`"task_token":"AAAA","wait_ms":31622400000`, "task:AAAA", year},
		{`"task_token":"` + strings.Repeat("t", 2048) + `"`, "task:" + strings.Repeat("t", 2048), year},
	} {
		s := newSystem(t)
		s.call("acquire", "a", `{}`)
		answer, p := s.invokeAs(ownFunction, "acquire", `{`+lease+`,`+test.fields+`}`)
		if p != nil || answer != `{"lock":"a","queued":true,"position":1,"waiting":1}` {
			t.Errorf("%s: %s, %+v", test.fields, answer, p)
		}
		w, err := s.store.Waiters(t.Context(), "a", 10)
		if err != nil || len(w) != 1 || w[0].Tokens[0] != test.token || w[0].Until != s.now.Add(test.wait).UnixMilli() {
			t.Errorf("%s: waiters %+v, %v", test.fields, w, err)
		}
	}
}

// Who has no place in the queue is not told that it waits: nobody would ever call it back.
func TestNoPlaceIsNotQueued(t *testing.T) {
	for _, test := range []struct {
		fields string
		err    error
		code   wire.Code
		queued bool
	}{
		{`,"task_token":"A"`, &lock.HeldError{Waiting: 3}, wire.LockHeld, false},
		{`,"callback_id":"A"`, &lock.HeldError{Waiting: 3}, wire.LockHeld, false},
		{`,"task_token":"A"`, lock.ErrQueueFull, wire.QueueFull, false},
		{`,"wait_ms":1000`, &lock.HeldError{Position: 2, Waiting: 3}, wire.LockHeld, false},
		{`,"task_token":"A"`, &lock.HeldError{Position: 2, Waiting: 3}, "", true},
		{`,"task_token":"A"`, fmt.Errorf("wrapped: %w", &lock.HeldError{Position: 2, Waiting: 3}), "", true},
	} {
		s := newSystem(t, func(s *system, _ *api.Config) { s.store = failing{test.err} })
		answer, p := s.invokeAs(ownFunction, "acquire", `{"name":"a","lease":"`+secret+`"`+test.fields+`}`)
		if test.queued != strings.Contains(answer, `"queued":true,"position":2,"waiting":3`) || !test.queued && (p == nil || p.Code != test.code) {
			t.Errorf("%+v: %s, %+v", test, answer, p)
		}
	}
}
