package api_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

const leaseField = `"lease":"` + secret + `"`

// tooDeep is a JSON object with eight levels of nesting; metadata has one more around it.
var tooDeep = strings.Repeat(`{"a":`, 8) + "1" + strings.Repeat("}", 8)

// badInputs are requests that are not valid, by what is wrong with them.
var badInputs = map[string]struct {
	op, lock, body string
	changes        []change
	code           wire.Code
	field, says    string
}{
	"name empty":             {op: "acquire", lock: "", body: `{}`, field: "name", says: "1 to 255"},
	"name too long":          {op: "acquire", lock: strings.Repeat("n", 256), body: `{}`, field: "name", says: "at most 255"},
	"name with a slash":      {op: "acquire", lock: "a/b", body: `{}`, field: "name", says: `'/'`},
	"name with a percent":    {op: "status", lock: "a%2Fb", field: "name", says: `'%'`},
	"name with a space":      {op: "renew", lock: "a b", body: `{` + leaseField + `}`, field: "name", says: `' '`},
	"name with a control":    {op: "release", lock: "a\nb", body: `{` + leaseField + `}`, field: "name", says: `'\n'`},
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
	"TTL negative":           {op: "renew", lock: "a", body: `{` + leaseField + `,"ttl_ms":-1}`, field: "ttl_ms", says: "from 1000"},
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
	"metadata too deep":      {op: "acquire", lock: "a", body: `{"metadata":{"a":` + tooDeep + `}}`, field: "metadata", says: "8 levels"},
	"metadata an array":      {op: "acquire", lock: "a", body: `{"metadata":[]}`, field: "metadata", says: "must be an object"},
	"metadata key twice":     {op: "renew", lock: "a", body: `{` + leaseField + `,"metadata":{"a":{"b":1,"b":2}}}`, field: "metadata", says: "twice"},
	"capacity 0":             {op: "acquire", lock: "a", body: `{"capacity":0}`, field: "capacity", says: "1 to 100"},
	"capacity too large":     {op: "acquire", lock: "a", body: `{"capacity":101}`, field: "capacity", says: "1 to 100"},
	"release for writing":    {op: "release", lock: "a", body: `{"lease":"my-secret-lease-0001","mode":"write"}`, field: "mode", says: `a release takes "read" only`},
	"permits over capacity":  {op: "acquire", lock: "a", body: `{"capacity":2,"permits":3}`, field: "permits", says: "the capacity, which is 2"},
	"lease missing":          {op: "release", lock: "a", body: `{}`, field: "lease", says: "missing"},
	"lease too short":        {op: "acquire", lock: "a", body: `{"lease":"short"}`, field: "lease", says: "16 to 128"},
	"lease malformed":        {op: "renew", lock: "a", body: `{"lease":"sixteen bytes, ok"}`, field: "lease", says: "not allowed"},
	"reason missing":         {op: "force-release", lock: "a", body: `{}`, field: "reason", says: "say why"},
	"reason blank":           {op: "force-release", lock: "a", body: `{"reason":" "}`, field: "reason", says: "say why"},
	"reason too long":        {op: "force-release", lock: "a", body: `{"reason":"` + strings.Repeat("r", 513) + `"}`, field: "reason", says: "512"},
	"fence 0":                {op: "force-release", lock: "a", body: `{"reason":"x","fence":0}`, field: "fence", says: "from 1"},
	"waiters 0":              {op: "status", lock: "a", changes: []change{query("waiters", "0")}, field: "waiters", says: "1 to 100"},
	"waiters not a number":   {op: "status", lock: "a", changes: []change{query("waiters", "all")}, field: "waiters", says: "whole number"},
	"limit 0":                {op: "list", changes: []change{query("limit", "0")}, field: "limit", says: "1 to 100"},
	"limit not a number":     {op: "list", changes: []change{query("limit", "ten")}, field: "limit", says: "whole number"},
	"limit twice":            {op: "list", changes: []change{query("limit", "1,2")}, field: "limit", says: "whole number"},
	"state unknown":          {op: "list", changes: []change{query("state", "free")}, field: "state", says: "held or all"},
	"prefix":                 {op: "list", changes: []change{query("prefix", "a/")}, field: "prefix", says: `'/'`},
	"cursor":                 {op: "list", changes: []change{query("cursor", "!")}, field: "cursor", says: "start without one"},
	"query unknown":          {op: "status", lock: "a", changes: []change{query("verbose", "1")}, field: "verbose", says: "unknown"},
}

// A request that is not valid gets a problem that names the field and says what would be valid. It changes nothing.
func TestBadInput(t *testing.T) {
	for name, test := range badInputs {
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

// A value at a limit is accepted.
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

// Texts of people are stored as they were sent.
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

// Texts that would affect a reader's terminal, or that have half of a surrogate pair, are refused.
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

// A name whose spelling in a URL is ambiguous is refused, and the text says how to spell it.
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

// A TTL is from a second to the maximum of the deployment, which is a day by default and seven days at most.
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

// The default TTL is a minute, and an hour for a lease of an execution.
func TestDefaultTTL(t *testing.T) {
	const execution = `{"execution":"arn:aws:states:eu-west-1:123456789012:execution:Deploy:n"%s}`
	for _, test := range []struct {
		body   string
		maxTTL time.Duration
		want   time.Duration
	}{
		{`{}`, 0, wire.DefaultTTL},
		{fmt.Sprintf(execution, ""), 0, wire.DefaultCheck},
		{fmt.Sprintf(execution, ""), 10 * time.Minute, 10 * time.Minute},
		{fmt.Sprintf(execution, `,"ttl_ms":30000`), 0, 30 * time.Second},
	} {
		s := newSystem(t, func(_ *system, c *api.Config) { c.Machines, c.MaxTTL = []string{"Deploy"}, test.maxTTL })
		resp := s.call("acquire", "a", test.body)
		if h := s.holder("a"); resp.StatusCode != 200 || h.TTL != test.want.Milliseconds() {
			t.Errorf("%s, at most %v: %d, ttl %d ms", test.body, test.maxTTL, resp.StatusCode, h.TTL)
		}
	}
}

// Limits that wire and lock both define, since neither imports the other, are equal.
func TestLimitsAgree(t *testing.T) {
	if wire.MaxMetadata != lock.MaxMetadata {
		t.Errorf("metadata: %d bytes on the wire, %d in a record", wire.MaxMetadata, lock.MaxMetadata)
	}
	if wire.MaxTokenWait >= lock.ExecutionLife {
		t.Errorf("a task may wait for %v, and an execution's row is kept for %v", wire.MaxTokenWait, lock.ExecutionLife)
	}
	if wire.SkewAllowance != lock.DefaultSkew {
		t.Errorf("skew allowance: %v on the wire, %v in the protocol", wire.SkewAllowance, lock.DefaultSkew)
	}
}
