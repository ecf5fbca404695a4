package api_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"

	"github.com/holdfast-lock/holdfast/internal/scope"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

const alice = "arn:aws:iam::123456789012:user/alice"

func (s *system) rule(op, prefix, body string) (r wire.Rule) {
	s.t.Helper()
	resp := s.call(op, prefix, body)
	if err := json.Unmarshal([]byte(resp.Body), &r); err != nil || resp.StatusCode != 200 {
		s.t.Fatalf("%d %s", resp.StatusCode, resp.Body)
	}
	conforms(s.t, op, body, resp)
	return r
}

// A rule is set, read, listed and removed. The caller is recorded.
func TestRules(t *testing.T) {
	s := newSystem(t)
	now := s.now.Truncate(time.Millisecond)
	body := `{"freeze":{"until":"2026-03-01T18:00:00Z","reason":"the audit"}}`
	r := s.rule("put-rule", "deploy:", body)
	if r.Prefix != "deploy:" || r.Rev != 1 || r.By != alice || r.Freeze.By != alice || r.Freeze.Reason != "the audit" || r.Freeze.Until.Hour() != 18 ||
		!r.InForceAt.Equal(now.Add(10*time.Second)) || !r.ChangedAt.Equal(now) {
		t.Errorf("%+v, %+v", r, r.Freeze)
	}
	if again := s.rule("put-rule", "deploy:", body); again.Rev != 1 {
		t.Errorf("a repetition: %+v", again)
	}
	if all := s.rule("put-rule", "*", body); all.Prefix != "*" || all.Freeze.Prefix != "*" || !all.InForceAt.Equal(now.Add(10*time.Second)) {
		t.Errorf("%+v", all)
	}
	resp := s.call("put-rule", "deploy:", strings.Replace(body, `{"freeze"`, `{"rev":7,"freeze"`, 1))
	conforms(t, "put-rule", body, resp)
	if p := s.problem(resp); p.Code != wire.RuleChanged || p.Lock != "" {
		t.Errorf("%+v", p)
	}
	var list wire.Rules
	resp = s.call("rules", "", "")
	conforms(t, "rules", "", resp)
	if err := json.Unmarshal([]byte(resp.Body), &list); err != nil || len(list.Rules) != 2 || list.Rules[0].Prefix != "*" || list.Rules[1].Freeze == nil {
		t.Errorf("%s", resp.Body)
	}
	if r := s.rule("delete-rule", "deploy:", ""); r.Rev != 2 || r.Freeze != nil || r.InForceAt == nil {
		t.Errorf("%+v", r)
	}
	if r := s.rule("rule", "deploy:", ""); r.Rev != 2 || r.Freeze != nil {
		t.Errorf("%+v", r)
	}
	s.rule("put-rule", "deploy:", body)
	part := func(name string) change {
		return func(e *events.APIGatewayV2HTTPRequest) { e.QueryStringParameters = map[string]string{"part": name} }
	}
	if resp := s.call("delete-rule", "deploy:", "", part("freeze")); !strings.Contains(resp.Body, `"rev":4,"by"`) {
		t.Errorf("%s", resp.Body)
	}
	if p := s.problem(s.call("delete-rule", "deploy:", "", part("thaw"))); p.Field != "part" || !strings.Contains(p.Detail, `it must be "freeze"`) {
		t.Errorf("%+v", p)
	}
	if r := s.rule("rule", "never", ""); r.Rev != 0 || r.Freeze != nil || r.ChangedAt != nil {
		t.Errorf("%+v", r)
	}
}

// Who asks for a frozen lock is told why, by whom and until when; a task that waits is queued, and told so too.
func TestFrozenProblem(t *testing.T) {
	s := newSystem(t)
	s.rule("put-rule", "deploy:", `{"freeze":{"until":"2026-03-01T18:00:00Z","reason":"the audit"}}`)
	resp := s.call("acquire", "deploy:prod", `{}`)
	conforms(t, "acquire", `{}`, resp)
	if p := s.problem(resp); p.Code != wire.Frozen || p.Freeze == nil || p.Freeze.Reason != "the audit" || p.Freeze.By != alice || p.Freeze.Prefix != "deploy:" || p.RetryAfter < 5*3600_000 ||
		!strings.Contains(p.Detail, "until 2026-03-01T18:00:00Z by "+alice) || !strings.Contains(p.Detail, "below deploy:: the audit; send wait_ms") {
		t.Errorf("%+v", p)
	}
	p := s.problem(s.call("acquire", "deploy:prod", `{"lease":"`+secret+`","wait_ms":60000}`))
	if p.Code != wire.Frozen || p.Position != 1 || p.Ticket == 0 || !strings.Contains(p.Detail, "place 1 of 1") {
		t.Errorf("%+v", p)
	}
	out, problem := s.invokeAs(ownFunction, "acquire", `{"name":"deploy:prod","lease":"another-secret-0001","task_token":"token"}`)
	var queued wire.Queued
	if problem != nil || json.Unmarshal([]byte(out), &queued) != nil || queued.Position != 2 || queued.Freeze == nil || queued.Freeze.Reason != "the audit" {
		t.Errorf("%s, %+v", out, problem)
	}
	resp = s.call("status", "deploy:prod", "")
	conforms(t, "status", "", resp)
	var status wire.Status
	if err := json.Unmarshal([]byte(resp.Body), &status); err != nil || status.Freeze == nil || status.Locked || status.Waiting != 2 {
		t.Errorf("%s", resp.Body)
	}
	if resp := s.call("acquire", "other", `{}`); resp.StatusCode != 200 {
		t.Errorf("another lock: %s", resp.Body)
	}
}

// A wrong request says which field is wrong, and why.
func TestBadRules(t *testing.T) {
	s := newSystem(t)
	const reason = `,"reason":"r"`
	freeze := func(fields string) string { return `{"freeze":{` + fields + `}}` }
	ends := func(at string) string { return freeze(`"until":"` + at + `"` + reason) }
	for _, test := range []struct{ prefix, body, field, says string }{
		{"a/b", `{}`, "prefix", "only A-Z"},
		{"", `{}`, "prefix", `"*" for all`},
		{"..", `{}`, "prefix", "URLs"},
		{"a*", `{}`, "prefix", "only A-Z"},
		{"a", `{}`, "freeze", "no part of a rule"},
		{"a", `{"freeze":7}`, "freeze", "must be an object"},
		{"a", `{"freeze":null}`, "freeze", "must be an object"},
		{"a", freeze(`"reason":"r"`), "freeze", `until of freeze is ""`},
		{"a", ends("18:00"), "freeze", "RFC 3339"},
		{"a", ends("2026-03-01T12:00:00Z"), "freeze", "is over"},
		{"a", ends("2027-03-03T12:00:00Z"), "freeze", "366 days"},
		{"a", freeze(`"until":"2026-03-02T12:00:00Z"`), "freeze", "reason of freeze is missing"},
		{"a", freeze(`"until":"2026-03-02T12:00:00Z","reason":" "`), "freeze", "reason of freeze is missing"},
		{"a", freeze(`"until":"2026-03-02T12:00:00Z","reason":"` + strings.Repeat("x", 513) + `"`), "freeze", "513 bytes"},
		{"a", freeze(`"until":"2026-03-02T12:00:00Z","why":1` + reason), "freeze", `"why" is unknown`},
		{"a", `{"rev":-1,` + ends("2026-03-02T12:00:00Z")[1:], "rev", "must be from 0"},
		{"a", `{"limit":1,` + ends("2026-03-02T12:00:00Z")[1:], "limit", "unknown"},
	} {
		p := s.problem(s.call("put-rule", test.prefix, test.body))
		if p.Code != wire.InvalidRequest || p.Field != test.field || !strings.Contains(p.Detail, test.says) {
			t.Errorf("%q %s: %+v", test.prefix, test.body, p)
		}
	}
}

// An alias with a pattern serves only rules all of whose locks are of the pattern.
func TestRulesThroughAnAlias(t *testing.T) {
	s := newSystem(t)
	prefixes := []string{"deploy:", "deploy:prod", "deploy", "*", "x"}
	for pattern, allowed := range map[string][]string{"deploy:*": {"deploy:", "deploy:prod"}, "deploy:prod": nil, "*": prefixes} {
		alias, err := scope.Alias(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, prefix := range prefixes {
			_, problem := s.invokeAs(ownFunction+":"+alias, "rules", `{"op":"rule","prefix":"`+prefix+`"}`)
			if (problem == nil) != slices.Contains(allowed, prefix) {
				t.Errorf("%s through %s: %+v", prefix, pattern, problem)
			}
		}
		if _, problem := s.invokeAs(ownFunction+":"+alias, "rules", `{"op":"rules"}`); (problem == nil) != (pattern == "*") {
			t.Errorf("all rules through %s: %+v", pattern, problem)
		}
	}
	for payload, says := range map[string]string{
		`{}`:                            `it must be "rules", "rule", "put-rule" or "delete-rule"`,
		`{"op":"rule"}`:                 "prefix is missing",
		`{"op":"acquire","prefix":"a"}`: "it must be",
	} {
		if _, problem := s.invokeAs(ownFunction, "rules", payload); problem == nil || !strings.Contains(problem.Detail, says) {
			t.Errorf("%s: %+v", payload, problem)
		}
	}
}
