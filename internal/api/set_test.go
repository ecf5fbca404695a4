package api_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/events"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/scope"
)

// inScope makes a request one of a set.
func inScope(pattern string) change {
	return func(e *events.APIGatewayV2HTTPRequest) { e.PathParameters = map[string]string{"scope": pattern} }
}

const setSecret = "0123456789abcdef"

func TestSets(t *testing.T) {
	s := newSystem(t)
	acquire := `{"locks":[{"name":"deploy:b"},{"name":"deploy:a","capacity":3,"permits":2}],"lease":"` + setSecret + `","owner":"me"}`
	resp := s.call("acquire", "", acquire, inScope("deploy:*"))
	if resp.StatusCode != 200 || !strings.Contains(resp.Body, `"locks":[{"lock":"deploy:a","fence":`) || !strings.Contains(resp.Body, `"capacity":3,"permits":2`) {
		t.Fatalf("acquire: %d %s", resp.StatusCode, resp.Body)
	}
	if r := s.records()[0]; r["op"] != "acquire" || r["lock"] != "deploy:a,deploy:b" {
		t.Errorf("logged %v", r)
	}
	other := s.problem(s.call("acquire", "", `{"locks":[{"name":"deploy:b"},{"name":"deploy:c"}],"lease":"fedcba9876543210","wait_ms":1000}`, inScope("deploy:*")))
	if other.Code != "lock_held" || other.Lock != "deploy:b" || other.Position != 1 || len(other.Tickets) != 2 || len(other.Holders) != 1 {
		t.Errorf("a set of which one lock is held: %+v", other)
	}
	names := `{"locks":["deploy:a","deploy:b"],"lease":"` + setSecret + `"}`
	if resp := s.call("renew", "", names, inScope("*")); resp.StatusCode != 200 || !strings.Contains(resp.Body, `"remaining_ms":60000`) {
		t.Errorf("renew: %d %s", resp.StatusCode, resp.Body)
	}
	for range 2 {
		if resp := s.call("release", "", names, inScope("deploy:*")); resp.StatusCode != 200 || strings.Count(resp.Body, "released_at") != 2 {
			t.Errorf("release: %d %s", resp.StatusCode, resp.Body)
		}
	}
	if p := s.problem(s.call("renew", "", names, inScope("deploy:*"))); p.Code != "lease_lost" {
		t.Errorf("renewed after the release: %+v", p)
	}
}

// The answer about a set of which one lock is frozen names that lock and the freeze.
func TestFrozenSet(t *testing.T) {
	s := newSystem(t)
	s.rule("put-rule", "deploy:b", `{"freeze":{"until":"2026-03-01T18:00:00Z","reason":"the audit"}}`)
	p := s.problem(s.call("acquire", "", `{"locks":[{"name":"deploy:a"},{"name":"deploy:b"}]}`, inScope("deploy:*")))
	if p.Code != "frozen" || p.Lock != "deploy:b" || p.Freeze == nil || p.Freeze.Prefix != "deploy:b" ||
		!strings.Contains(p.Detail, "deploy:b: the lock is frozen until 2026-03-01T18:00:00Z") || !strings.Contains(p.Detail, "the audit") {
		t.Errorf("%+v", p)
	}
}

// Every name must be within the scope of the path, and within the alias of a direct invocation.
func TestSetsAreKeptWithinTheirScope(t *testing.T) {
	s := newSystem(t)
	body := `{"locks":[{"name":"deploy:a"},{"name":"report"}]}`
	for _, pattern := range []string{"deploy:*", "deploy:a", "report"} {
		if p := s.problem(s.call("acquire", "", body, inScope(pattern))); p.Field != "locks" || !strings.Contains(p.Detail, "does not include") {
			t.Errorf("scope %s: %+v", pattern, p)
		}
	}
	alias, err := scope.Alias("deploy:*")
	if err != nil {
		t.Fatal(err)
	}
	function := "arn:aws:lambda:eu-west-1:123456789012:function:acquire:" + alias
	if _, p := s.invokeAs(function, "acquire", body); p == nil || p.Field != "locks" || !strings.Contains(p.Detail, "report") {
		t.Errorf("through the alias: %+v", p)
	}
	if out, p := s.invokeAs(function, "acquire", `{"locks":[{"name":"deploy:a"},{"name":"deploy:b"}]}`); p != nil || !strings.Contains(out, "deploy:b") {
		t.Errorf("through the alias: %s %+v", out, p)
	}
}

func TestBadSets(t *testing.T) {
	s := newSystem(t)
	for _, test := range []struct{ op, body, scope, field, detail string }{
		{"acquire", `{}`, "*", "locks", "missing"},
		{"acquire", `{"locks":{}}`, "*", "locks", "must be an array"},
		{"acquire", `{"locks":[]}`, "*", "locks", "name 1 to 10"},
		{"acquire", `{"locks":["a"]}`, "*", "locks", "must be an object"},
		{"acquire", `{"locks":[{"name":"a"},{"name":"a"}]}`, "*", "locks", "each lock once"},
		{"acquire", `{"locks":[{"name":"a,b"}]}`, "*", "locks", "character"},
		{"acquire", `{"locks":[{"name":"a","permits":2}]}`, "*", "locks", "locks[0]: permits is 2"},
		{"acquire", `{"locks":[{"name":"a","size":2}]}`, "*", "locks", "unknown"},
		{"acquire", `{"locks":[{"name":"a"}]}`, "a**", "scope", "scope"},
		{"acquire", `{"locks":[{"name":"a"},{"name":"b"}],"wait_ms":1000}`, "*", "lease", "choose it yourself"},
		{"acquire", `{"locks":[{"name":"a"},{"name":"b"}],"lease":"0123456789abcdef","tickets":[1,2]}`, "*", "tickets", "without wait_ms"},
		{"acquire", `{"locks":[{"name":"a"},{"name":"b"}],"lease":"0123456789abcdef","wait_ms":1000,"tickets":[1]}`, "*", "tickets", "one ticket for each"},
		{"acquire", `{"locks":[{"name":"a"},{"name":"b"}],"execution":"x"}`, "*", "execution", "send the ARN"},
		{"acquire", `{"locks":[{"name":"a"},{"name":"b"}],"lease":"0123456789abcdef","task_token":"t"}`, "*", "task_token", "direct invocations"},
		{"acquire", `{"locks":[{"name":"a"},{"name":"b"}],"lease":"0123456789abcdef","notify":{}}`, "*", "notify", "unknown"},
		{"acquire", `{"locks":[{"name":"a"},{"name":"b"}],"lease":"0123456789abcdef","wait_ms":900001}`, "*", "wait_ms", "wait_ms"},
		{"renew", `{"locks":[{"name":"a"}],"lease":"0123456789abcdef"}`, "*", "locks", "must be a string"},
		{"release", `{"locks":["a","b"]}`, "*", "lease", "missing"},
	} {
		p := s.problem(s.call(test.op, "", test.body, inScope(test.scope)))
		if p.Code != "invalid_request" || p.Field != test.field || !strings.Contains(p.Detail, test.detail) {
			t.Errorf("%s %s: %+v", test.op, test.body, p)
		}
	}
}

// A direct invocation lets a task wait for a set, which belongs to its execution. The answer says that it waits and for which lock, or has the lease.
func TestSetOfATask(t *testing.T) {
	s := newSystem(t, machines("Deploy"))
	arn := "arn:aws:states:eu-west-1:123456789012:execution:Deploy:run-1"
	payload := func(locks, lease, token string) string {
		return `{"locks":` + locks + `,"lease":"` + lease + `","owner":"o","task_token":"` + token + `","execution":"` + arn + `"}`
	}
	two := `[{"name":"b"},{"name":"a","capacity":3,"permits":2}]`
	out, p := s.invokeAs(ownFunction, "acquire", payload(two, setSecret, "t1"))
	if p != nil || !strings.HasPrefix(out, `{"locks":[{"lock":"a","fence":`) || !strings.Contains(out, `"ttl_ms":3600000`) {
		t.Fatalf("%s %+v", out, p)
	}
	out, p = s.invokeAs(ownFunction, "acquire", payload(`[{"name":"c"},{"name":"b"}]`, "fedcba9876543210", "t2"))
	if want := `{"locks":["b","c"],"queued":true,"lock":"b","position":1,"waiting":1,"tickets":[1,1]}`; p != nil || out != want {
		t.Errorf("%s %+v, want %s", out, p, want)
	}
	s.rule("put-rule", "d", `{"freeze":{"until":"2026-03-01T18:00:00Z","reason":"the audit"}}`)
	out, p = s.invokeAs(ownFunction, "acquire", payload(`[{"name":"d"},{"name":"e"}]`, "0000000000000000", "t3"))
	if p != nil || !strings.Contains(out, `"lock":"d"`) || !strings.Contains(out, `"freeze":{"prefix":"d"`) {
		t.Errorf("%s %+v", out, p)
	}
	out, p = s.invokeAs(ownFunction, "acquire", payload(`[{"name":"b"}]`, "1111111111111111", "t4"))
	if p != nil || !strings.Contains(out, `"locks":["b"],"queued":true,"lock":"b"`) {
		t.Errorf("a set of one: %s %+v", out, p)
	}
	for name, key := range map[string]lock.LeaseKey{"a": lock.SetKey([]string{"a", "b"}, setSecret), "b": lock.SetKey([]string{"a", "b"}, setSecret)} {
		r, err := s.store.Get(t.Context(), name)
		if h := r.After.Holders[key]; err != nil || h.Execution != arn || h.Tokens.Empty() != (name == "b") {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
	for _, test := range []struct{ fields, field, detail string }{
		{`"task_token":"t"`, "lease", "with task_token choose it yourself"},
		{`"lease":"` + setSecret + `","task_token":"t","callback_id":"c"`, "callback_id", "both there"},
		{`"lease":"` + setSecret + `","task_token":""`, "task_token", "empty"},
		{`"lease":"` + setSecret + `","execution":"arn:aws:states:eu-west-1:123456789012:execution:Other:run-1"`, "execution", "StateMachines"},
	} {
		if _, p := s.invokeAs(ownFunction, "acquire", `{"locks":`+two+`,`+test.fields+`}`); p == nil || p.Field != test.field || !strings.Contains(p.Detail, test.detail) {
			t.Errorf("%s: %+v", test.fields, p)
		}
	}
}
