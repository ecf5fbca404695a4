package api_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/events"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// Limits are set beside a freeze, shown, and removed by themselves.
func TestLimitsAreAPartOfARule(t *testing.T) {
	s := newSystem(t)
	s.rule("put-rule", "deploy:", `{"freeze":{"until":"2026-03-01T18:00:00Z","reason":"the audit"}}`)
	body := `{"limits":{"capacity":3,"max_ttl_ms":300000,"max_hold_ms":7200000,"max_queue":100,"max_per_principal":1,"rate":{"grants":10,"period_ms":3600000}}}`
	want := wire.LimitsRequest{Capacity: 3, MaxTTL: 300000, MaxHold: 7200000, MaxQueue: 100, MaxPerPrincipal: 1, Rate: wire.Rate{Grants: 10, Period: 3600000}}
	r := s.rule("put-rule", "deploy:", body)
	if r.Rev != 2 || r.Freeze == nil || r.Limits == nil || r.Limits.LimitsRequest != want || r.Limits.By != alice || r.InForceAt == nil {
		t.Errorf("%+v, %+v", r, r.Limits)
	}
	if again := s.rule("put-rule", "deploy:", body); again.Rev != 2 {
		t.Errorf("a repetition: %+v", again)
	}
	if r := s.rule("put-rule", "deploy:", `{"limits":{"capacity":2}}`); r.Rev != 3 || r.Freeze == nil || r.Limits.LimitsRequest != (wire.LimitsRequest{Capacity: 2}) {
		t.Errorf("others: %+v, %+v", r, r.Limits)
	}
	remove := func(part string) change {
		return func(e *events.APIGatewayV2HTTPRequest) { e.QueryStringParameters = map[string]string{"part": part} }
	}
	var left wire.Rule
	if resp := s.call("delete-rule", "deploy:", "", remove("limits")); json.Unmarshal([]byte(resp.Body), &left) != nil || left.Freeze == nil || left.Limits != nil {
		t.Errorf("%s", resp.Body)
	}
	s.rule("put-rule", "deploy:", body)
	left = wire.Rule{}
	if resp := s.call("delete-rule", "deploy:", "", remove("freeze")); json.Unmarshal([]byte(resp.Body), &left) != nil || left.Freeze != nil || left.Limits == nil {
		t.Errorf("%s", resp.Body)
	}
	if r := s.rule("delete-rule", "deploy:", ""); r.Limits != nil {
		t.Errorf("%+v", r)
	}
}

// Each refusal names its limit, the value, and the prefix of the rule, and says what to do. Those that may pass say when to come back.
func TestLimitProblems(t *testing.T) {
	s := newSystem(t)
	s.rule("put-rule", "*", `{"limits":{"max_queue":1}}`)
	s.rule("put-rule", "d:", `{"limits":{"capacity":2,"max_ttl_ms":30000,"max_hold_ms":60000,"max_per_principal":2}}`)
	lease := func(n string) string { return `"lease":"my-secret-lease-000` + n + `"` }
	other := func(e *events.APIGatewayV2HTTPRequest) {
		e.RequestContext.Authorizer.IAM.UserARN = "arn:aws:iam::123456789012:user/bob"
	}
	for _, test := range []struct {
		body   string
		as     change
		code   wire.Code
		limit  string
		field  string
		retry  bool
		prefix string
		says   string
	}{
		{`{"capacity":3}`, other, wire.LimitExceeded, "capacity", "capacity", false, "d:", "the limit capacity is 2 for locks below d:: capacity is 3; leave capacity out"},
		{`{"permits":3}`, other, wire.LimitExceeded, "capacity", "permits", false, "d:", "at most 2 permits"},
		{`{"ttl_ms":30001}`, other, wire.LimitExceeded, "max_ttl_ms", "ttl_ms", false, "d:", "ask for at most 30000, and renew"},
		{`{` + lease("1") + `,"permits":2}`, nil, "", "", "", false, "", ""},
		{`{` + lease("2") + `}`, nil, wire.LimitExceeded, "max_per_principal", "", true, "d:", "hold and wait for 3 permits"},
		{`{` + lease("3") + `,"wait_ms":60000}`, other, wire.LockHeld, "", "", true, "", "place 1"},
		{`{` + lease("4") + `,"wait_ms":60000}`, other, wire.QueueFull, "max_queue", "", true, "*", "the limit max_queue is 1 for all locks: 1 wait already"},
		{`{` + lease("1") + `,"permits":2}`, nil, "", "", "", false, "", ""}, // again
	} {
		as := test.as
		if as == nil {
			as = func(*events.APIGatewayV2HTTPRequest) {}
		}
		resp := s.call("acquire", "d:a", test.body, as)
		conforms(t, "acquire", test.body, resp)
		if test.code == "" {
			var l wire.Lease
			if err := json.Unmarshal([]byte(resp.Body), &l); err != nil || l.Capacity != 2 || l.TTL != 30000 || l.EndsAt == nil || l.EndsAt.Sub(l.AcquiredAt.Time).Seconds() != 60 {
				t.Errorf("%s: %s", test.body, resp.Body)
			}
			continue
		}
		p := s.problem(resp)
		if p.Code != test.code || p.Limit != test.limit || p.Field != test.field || (p.RetryAfter > 0) != test.retry || p.Prefix != test.prefix || !strings.Contains(p.Detail, test.says) {
			t.Errorf("%s: %+v", test.body, p)
		}
	}
	body := `{` + lease("1") + `,"ttl_ms":60000}`
	if p := s.problem(s.call("renew", "d:a", body)); p.Code != wire.LimitExceeded || p.Limit != "max_ttl_ms" || p.Prefix != "d:" {
		t.Errorf("%+v", p)
	}
	s.now = s.now.Add(60_000_000_000)
	resp := s.call("renew", "d:a", `{`+lease("1")+`}`)
	conforms(t, "renew", body, resp)
	if p := s.problem(resp); p.Code != wire.LeaseLost || p.Limit != "max_hold_ms" || p.Value != 60000 || p.Prefix != "d:" || !strings.Contains(p.Detail, "its time is over") {
		t.Errorf("%+v", p)
	}
	_, problem := s.invokeAs(ownFunction, "acquire", `{"name":"d:b","capacity":1}`)
	if problem == nil || problem.Code.ErrorType() != "LimitExceeded" {
		t.Errorf("%+v", problem)
	}
	if p := s.problem(s.call("acquire", "e", `{"permits":2}`)); p.Code != wire.InvalidRequest || p.Field != "permits" || !strings.Contains(p.Detail, "from 1 to the capacity, which is 1") {
		t.Errorf("%+v", p)
	}
}

// A wrong limit is refused with its name and range.
func TestBadLimits(t *testing.T) {
	s := newSystem(t)
	for limits, says := range map[string]string{
		`7`: "must be an object", `{}`: "limits is empty; give one limit", `{"capacity":0}`: "capacity is 0; it must be from 1 to 100", `{"capacity":101}`: "from 1 to 100",
		`{"max_ttl_ms":999}`: "from 1000 to 604800000 milliseconds", `{"max_hold_ms":9999}`: "from 10000 to 31622400000", `{"max_queue":501}`: "from 1 to 500",
		`{"max_per_principal":"1"}`: "must be a whole number", `{"rate":1}`: "rate is a number; it must be an object", `{"other":1}`: `"other" is unknown`,
		`{"rate":{"grants":1}}`: "grants or period_ms is missing", `{"rate":{"period_ms":1000}}`: "grants or period_ms is missing", `{"rate":{"grants":101,"period_ms":1000}}`: "from 1 to 100",
		`{"rate":{"grants":1,"period_ms":86400001}}`: "from 1000 to 86400000", `{"rate":{"grants":1,"period_ms":1000,"x":1}}`: `"x" is unknown`,
	} {
		p := s.problem(s.call("put-rule", "a", `{"limits":`+limits+`}`))
		if p.Code != wire.InvalidRequest || p.Field != "limits" || !strings.Contains(p.Detail, says) {
			t.Errorf("%s: %+v", limits, p)
		}
	}
}

// Of a set, a refusal names the lock whose limit it is. The answer has the first end that a limit sets. A capacity that a limit sets allows no modes, and the refusal says so.
func TestLimitsOfSetsAndModes(t *testing.T) {
	s := newSystem(t)
	s.rule("put-rule", "d:b", `{"limits":{"capacity":2,"max_ttl_ms":30000,"max_hold_ms":60000}}`)
	s.rule("put-rule", "d:a", `{"limits":{"max_hold_ms":90000}}`)
	for body, want := range map[string]wire.Problem{
		`{"locks":[{"name":"d:a"},{"name":"d:b","capacity":3}]}`:   {Code: wire.LimitExceeded, Lock: "d:b", Field: "locks", Limit: "capacity", Value: 2, Prefix: "d:b", Detail: "locks[1]: the limit capacity is 2"},
		`{"locks":[{"name":"d:b","permits":3},{"name":"d:c"}]}`:    {Code: wire.LimitExceeded, Lock: "d:b", Field: "locks", Limit: "capacity", Value: 2, Prefix: "d:b", Detail: "locks[0]: "},
		`{"locks":[{"name":"d:a"},{"name":"d:b"}],"ttl_ms":30001}`: {Code: wire.LimitExceeded, Lock: "d:b", Field: "ttl_ms", Limit: "max_ttl_ms", Value: 30000, Prefix: "d:b", Detail: "at most 30000"},
		`{"locks":[{"name":"d:c","permits":2},{"name":"d:a"}]}`:    {Code: wire.InvalidRequest, Lock: "d:c", Field: "locks", Detail: "locks[0]: permits is 2"},
		`{"locks":[{"name":"d:b","capacity":1}]}`:                  {Code: wire.LimitExceeded, Lock: "d:b", Field: "locks", Limit: "capacity", Value: 2, Prefix: "d:b", Detail: "locks[0]: "},
	} {
		resp := s.call("acquire", "", body, inScope("d:*"))
		if want.Code != wire.InvalidRequest { // a rule between fields, which the document's schema cannot say
			conforms(t, "acquire-set", body, resp)
		}
		p := s.problem(resp)
		if p.Code != want.Code || p.Lock != want.Lock || p.Field != want.Field || p.Limit != want.Limit || p.Value != want.Value || p.Prefix != want.Prefix || !strings.Contains(p.Detail, want.Detail) {
			t.Errorf("%s: %+v", body, p)
		}
	}
	body := `{"locks":[{"name":"d:a"},{"name":"d:b"}]}`
	resp := s.call("acquire", "", body, inScope("d:*"))
	conforms(t, "acquire-set", body, resp)
	var l wire.SetLease
	if err := json.Unmarshal([]byte(resp.Body), &l); err != nil || l.TTL != 30000 || l.EndsAt == nil || l.EndsAt.Sub(l.AcquiredAt.Time).Seconds() != 60 || l.Locks[1].Capacity != 2 {
		t.Errorf("%s", resp.Body)
	}
	resp = s.call("acquire", "d:b", `{"mode":"read"}`)
	conforms(t, "acquire", `{"mode":"read"}`, resp)
	if p := s.problem(resp); p.Code != wire.LimitExceeded || p.Field != "mode" || !strings.Contains(p.Detail, "mode makes it 100, so readers cannot share these locks") {
		t.Errorf("%+v", p)
	}
	s.rule("put-rule", "m:", `{"limits":{"max_per_principal":5}}`)
	if p := s.problem(s.call("acquire", "m:x", `{"mode":"write"}`)); p.Code != wire.LimitExceeded || p.Field != "mode" || !strings.Contains(p.Detail, "a writer takes all 100 permits; use a lock below another prefix") {
		t.Errorf("%+v", p)
	}
}

// A request that does not wait and that a rate refuses is answered with the time of the next grant. The answer to a waiter has that time, too, as has the status of the lock.
func TestRateProblems(t *testing.T) {
	s := newSystem(t)
	s.rule("put-rule", "d:", `{"limits":{"rate":{"grants":1,"period_ms":60000}}}`)
	lease := func(n string) string { return `{"lease":"my-secret-lease-000` + n + `"` }
	if resp := s.call("acquire", "d:a", lease("1")+`}`); resp.StatusCode != 200 {
		t.Fatal(resp.Body)
	}
	if resp := s.call("release", "d:a", lease("1")+`}`); resp.StatusCode != 200 {
		t.Fatal(resp.Body)
	}
	for body, code := range map[string]wire.Code{lease("2") + `}`: wire.LimitExceeded, lease("3") + `,"wait_ms":60000}`: wire.LockHeld} {
		resp := s.call("acquire", "d:a", body)
		conforms(t, "acquire", body, resp)
		p := s.problem(resp)
		if p.Code != code || p.Limit != "rate" || p.Value != 1 || p.Period != 60000 || p.Prefix != "d:" || p.RetryAfter != 60000 || !strings.Contains(p.Detail, "each lock below d: is granted once in 1m0s at most, and the next grant is possible in 1m0s") {
			t.Errorf("%s: %+v", body, p)
		}
		if code == wire.LimitExceeded && !strings.Contains(p.Detail, "send wait_ms to wait for it in the queue") || code == wire.LockHeld && p.Position != 1 {
			t.Errorf("%s: %+v", body, p)
		}
		s.call("release", "d:a", lease("3")+`}`) // so that the order of the two does not matter
	}
	resp := s.call("status", "d:a", "")
	conforms(t, "status", "", resp)
	var status wire.Status
	if err := json.Unmarshal([]byte(resp.Body), &status); err != nil || status.NextGrant == nil || status.NextGrant.Sub(status.ServerTime.Time).Seconds() != 60 {
		t.Errorf("%s", resp.Body)
	}
	set := `{"locks":[{"name":"d:a"},{"name":"d:b"}]}`
	if p := s.problem(s.call("acquire", "", set, inScope("d:*"))); p.Code != wire.LimitExceeded || p.Lock != "d:a" || p.Limit != "rate" {
		t.Errorf("a set: %+v", p)
	}
	set = `{"locks":[{"name":"d:a"},{"name":"d:b"}],"lease":"my-secret-lease-0004","wait_ms":60000}`
	if p := s.problem(s.call("acquire", "", set, inScope("d:*"))); p.Code != wire.LockHeld || p.Lock != "d:a" || p.Limit != "rate" || !strings.Contains(p.Detail, "the set waits for d:a: each lock below d:") {
		t.Errorf("a set that waits: %+v", p)
	}
	task := `"lease":"my-secret-lease-0005","task_token":"AQCk","locks":[{"name":"d:a"},{"name":"d:b"}]}`
	if out, problem := s.invokeAs(ownFunction, "acquire", `{`+task); problem != nil || !strings.Contains(out, `"queued":true`) || !strings.Contains(out, `"next_grant_at":`) {
		t.Errorf("a task that waits for a set: %s, %+v", out, problem)
	}
	if out, problem := s.invokeAs(ownFunction, "acquire", `{"name":"d:a","lease":"my-secret-lease-0006","task_token":"AQCk"}`); problem != nil || !strings.Contains(out, `"next_grant_at":`) {
		t.Errorf("a task: %s, %+v", out, problem)
	}
	s.now = s.now.Add(60_000_000_000)
	if resp := s.call("status", "d:a", ""); strings.Contains(resp.Body, "next_grant_at") {
		t.Error(resp.Body)
	}
}

// The times of the grants that a rate counts are in a row that no write lets be purged within the longest period.
func TestRatePeriodIsWithinTheRetention(t *testing.T) {
	if wire.MaxRatePeriod > lock.DefaultRetention {
		t.Error(wire.MaxRatePeriod)
	}
}
