package wire_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// Names with each byte, and with lengths at the limits.
func TestCheckName(t *testing.T) {
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:@+=-"
	for c := range 256 {
		name := "a" + string(rune(c)) + "b"
		ok := strings.ContainsRune(allowed, rune(c))
		problem, prefix := wire.CheckName(name), wire.CheckPrefix(name)
		if (problem == "") != ok || (prefix == "") != ok {
			t.Errorf("%q: %q, as a prefix %q", name, problem, prefix)
		}
		if !ok && (!strings.Contains(problem, "lockclient.EscapeName") || !strings.Contains(problem, "holdfast name")) {
			t.Errorf("%q: the text %q names no helper", name, problem)
		}
	}
	for _, test := range []struct{ name, says string }{
		{"", "is empty; give 1 to 255"},
		{strings.Repeat("n", 255), ""},
		{strings.Repeat("n", 256), "is 256 bytes long; at most 255"},
		{strings.Repeat("ä", 128), "is 256 bytes long"},
		{".", "URLs cannot carry"}, {"..", "holdfast name"}, {"...", ""}, {".a", ""}, {"-", ""},
		{"a\xff", "has the character '\ufffd'"},
	} {
		if got := wire.CheckName(test.name); (got == "") != (test.says == "") || !strings.Contains(got, test.says) {
			t.Errorf("%q: %q", test.name, got)
		}
	}
	for _, test := range []struct{ prefix, says string }{
		{"", ""}, {".", ""}, {"..", ""}, {strings.Repeat("n", 255), ""}, {strings.Repeat("n", 256), "at most 255"},
	} {
		if got := wire.CheckPrefix(test.prefix); (got == "") != (test.says == "") || !strings.Contains(got, test.says) {
			t.Errorf("prefix %q: %q", test.prefix, got)
		}
	}
}

func TestCheckLease(t *testing.T) {
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
	for c := range 256 {
		lease := "0123456789abcdef" + string(rune(c))
		problem := wire.CheckLease(lease)
		if (problem == "") != strings.ContainsRune(allowed, rune(c)) {
			t.Errorf("%q: %q", lease, problem)
		}
		if strings.Contains(problem, "0123456789abcdef") {
			t.Errorf("%q repeats the secret", problem)
		}
	}
	for length, ok := range map[int]bool{0: false, 15: false, 16: true, 128: true, 129: false} {
		if problem := wire.CheckLease(strings.Repeat("l", length)); (problem == "") != ok {
			t.Errorf("%d bytes: %q", length, problem)
		}
	}
}

// Text of every script is accepted. Characters that affect a terminal or reorder the text around them are refused.
func TestCheckText(t *testing.T) {
	for _, test := range []struct {
		text         string
		owner, lines string // what is wrong with the text as one line, and as several lines
	}{
		{"", "", ""},
		{"job 42 <a@b> & \"c\"", "", ""},
		{"👩\u200d👩\u200d👧 deploys", "", ""}, // emoji joined by U+200D
		{"🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f and 🇩🇪 ❤\ufe0f", "", ""}, // tags, and a variation selector
		{"می\u200cخواهم", "", ""},            // Persian, with U+200C
		{"10\u00a0000\u202f€\u3000", "", ""}, // spaces of other kinds
		{"\u05e9\u200f\u061c\u200e", "", ""}, // marks of right-to-left text
		{"a\u200bb\u00adc\ufeff\ufffd\U000e0fff\ue000", "", ""},
		{"e\u0301", "", ""},
		{"two\nlines", "control character U+000A", ""},
		{"two\r\nlines", "control character U+000D", ""},
		{"a\ttab", "control character U+0009", ""},
		{"a lone\rreturn", "U+000D", "U+000D"},
		{"back\n\r", "U+000A", "U+000D"},
		{"two\u2028lines", "line break U+2028", ""},
		{"two\u2029lines", "line break U+2029", ""},
		{"\x00", "U+0000", "U+0000"},
		{"\x1b[31m", "U+001B, which cannot be printed", "U+001B"},
		{"\x7f", "U+007F", "U+007F"},
		{"\u0080", "U+0080", "U+0080"},
		{"\u0085", "U+0085", "U+0085"},
		{"\u009b31m", "U+009B", "U+009B"},
		{"\u009f", "U+009F", "U+009F"},
		{"\xff", "UTF-8", "UTF-8"},
		{"a\xed\xa0\x80", "UTF-8", "UTF-8"}, // a surrogate
		{"a\xc0\x80", "UTF-8", "UTF-8"},     // overlong
	} {
		for i, want := range []string{test.owner, test.lines} {
			if got := wire.CheckText(test.text, 100, i == 1); (got == "") != (want == "") || !strings.Contains(got, want) {
				t.Errorf("%q, lines %v: %q, want %q", test.text, i == 1, got, want)
			}
		}
	}
	for c := rune(0x2000); c < 0x2100; c++ {
		bad := c >= 0x202a && c <= 0x202e || c >= 0x2066 && c <= 0x2069
		if got := wire.CheckText(string(c), 100, true); strings.Contains(got, "bidirectional") != bad || (got != "") != bad {
			t.Errorf("%U: %q", c, got)
		}
	}
	if got := wire.CheckText("ääää", 8, false); got != "" {
		t.Errorf("at the limit: %q", got)
	}
	if got := wire.CheckText("ääääx", 8, false); got != "is 9 bytes long; at most 8 are allowed" {
		t.Errorf("over the limit: %q", got)
	}
}

func TestBlank(t *testing.T) {
	for text, blank := range map[string]bool{
		"": true, " \n\t": true, "\u00a0\u3000": true, "\u200b\u200d\ufeff": true, "x": false, " . ": false, "👍": false, "\U000e0fff": false,
	} {
		if wire.Blank(text) != blank {
			t.Errorf("%q: %v", text, !blank)
		}
	}
}

func TestCheckToken(t *testing.T) {
	for c := range 256 {
		if problem := wire.CheckToken("AAAA" + string(rune(c))); (problem == "") != (c > ' ' && c < 0x7f) || strings.Contains(problem, "AAAA") {
			t.Errorf("%#x: %q", c, problem)
		}
	}
	if problem := wire.CheckToken(strings.Repeat("t", 2048)); problem != "" {
		t.Error(problem)
	}
	if problem := wire.CheckToken(strings.Repeat("t", 2049)); !strings.Contains(problem, "at most 2048") {
		t.Error(problem)
	}
}

// Each code has its own status, title and errorType, except for those that share one by the contract.
func TestCodes(t *testing.T) {
	want := map[wire.Code]struct {
		status    int
		errorType string
	}{
		wire.InvalidRequest: {400, "InvalidRequest"}, wire.NotFound: {404, "InvalidRequest"}, wire.MethodNotAllowed: {405, "InvalidRequest"},
		wire.LockHeld: {409, "LockHeld"}, wire.Frozen: {409, "Frozen"}, wire.RuleChanged: {409, "RuleChanged"}, wire.TooManyRules: {409, "TooManyRules"}, wire.CapacityMismatch: {409, "CapacityMismatch"}, wire.LockChanged: {409, "LockChanged"}, wire.LimitExceeded: {409, "LimitExceeded"}, wire.MorePermits: {409, "MorePermits"},
		wire.LeaseLost: {410, "LeaseLost"}, wire.PayloadTooLarge: {413, "InvalidRequest"}, wire.QueueFull: {429, "QueueFull"},
		wire.LockFull: {429, "LockFull"}, wire.NotifyRefused: {422, "NotifyRefused"}, wire.Throttled: {503, "Throttled"}, wire.StoreUnavailable: {503, "StoreUnavailable"},
		wire.Misconfigured: {500, "Misconfigured"}, wire.Internal: {500, "Internal"},
	}
	titles := map[string]wire.Code{}
	for _, c := range wire.Codes() {
		if c.Status() != want[c].status || c.ErrorType() != want[c].errorType {
			t.Errorf("%s: %d, %s", c, c.Status(), c.ErrorType())
		}
		if other, taken := titles[c.Title()]; taken || c.Title() == "" {
			t.Errorf("%s and %s have the title %q", c, other, c.Title())
		}
		titles[c.Title()] = c
		p := wire.NewProblem(c, "id")
		if p.Type != "urn:holdfast:problem:"+string(c) || p.Title != c.Title() || p.Status != c.Status() || p.Code != c || p.RequestID != "id" {
			t.Errorf("%s: %+v", c, p)
		}
	}
	if len(wire.Codes()) != len(want) {
		t.Errorf("codes %v", wire.Codes())
	}
	for _, c := range wire.Codes() {
		outage := c == wire.Throttled || c == wire.StoreUnavailable || c == wire.Internal
		if p := (&wire.Problem{Code: c, Status: 200}); p.Outage() != outage {
			t.Errorf("%s: outage is %v", c, !outage)
		}
	}
	for status, outage := range map[int]bool{404: false, 409: false, 429: true, 500: true, 503: true} {
		if p := (&wire.Problem{Code: "of a newer version", Status: status}); p.Outage() != outage {
			t.Errorf("an unknown code with status %d: outage is %v", status, !outage)
		}
	}
	unknown := wire.Code("of a newer version")
	if unknown.Status() != 500 || unknown.ErrorType() != "Internal" || unknown.Title() != wire.Internal.Title() {
		t.Errorf("an unknown code: %d, %s, %s", unknown.Status(), unknown.ErrorType(), unknown.Title())
	}
}

func TestTime(t *testing.T) {
	at := wire.At(1772366400123)
	data, err := json.Marshal(at)
	if err != nil || string(data) != `"2026-03-01T12:00:00.123Z"` {
		t.Errorf("%s, %v", data, err)
	}
	var back wire.Time
	if err := json.Unmarshal(data, &back); err != nil || !back.Equal(at.Time) {
		t.Errorf("%v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`"2026-03-01T13:00:00.123+01:00"`), &back); err != nil || !back.Equal(at.Time) {
		t.Errorf("%v, %v", back, err)
	}
	if data, _ := json.Marshal(back); string(data) != `"2026-03-01T12:00:00.123Z"` {
		t.Errorf("in another zone: %s", data)
	}
	if data, _ := json.Marshal(wire.At(0)); string(data) != `"1970-01-01T00:00:00.000Z"` {
		t.Errorf("%s", data)
	}
	if err := json.Unmarshal([]byte(`"yesterday"`), &back); err == nil {
		t.Error("accepted")
	}
}

func TestDirectRequest(t *testing.T) {
	for _, test := range []struct{ op, name, body, want string }{
		{"acquire", "a", `{"ttl_ms":1000}`, `{"name":"a","ttl_ms":1000}`},
		{"renew", "a", `{"name":"forged","lease":"x"}`, `{"lease":"x","name":"a"}`},
		{"status", "a<b", "", `{"name":"a\u003cb","op":"status"}`},
		{"list", "", `{"limit":5}`, `{"limit":5,"op":"list"}`},
		{"list", "ignored", "", `{"op":"list"}`},
	} {
		var body []byte
		if test.body != "" {
			body = []byte(test.body)
		}
		if got, err := wire.DirectRequest(wire.Op(test.op), test.name, body); err != nil || string(got) != test.want {
			t.Errorf("%s: %s, %v; want %s", test.op, got, err, test.want)
		}
	}
	if _, err := wire.DirectRequest("acquire", "a", []byte(`[]`)); err == nil || !strings.Contains(err.Error(), "request") {
		t.Errorf("an array: %v", err)
	}
}

// The limits are those of the contract.
func TestLimits(t *testing.T) {
	got := []any{
		wire.MaxName, wire.MinLease, wire.MaxLease, wire.MaxOwner, wire.MaxMetadata, wire.MaxMetadataDepth, wire.MaxCapacity, wire.MaxReason,
		wire.MaxBody, wire.MaxToken, wire.MaxExecution, wire.MaxPage, wire.DefaultPage,
		wire.MinTTL, wire.MaxTTL, wire.DefaultMaxTTL, wire.DefaultTTL, wire.DefaultCheck, wire.MinWait, wire.MaxWait, wire.MaxTokenWait,
		wire.MaxFreeze, wire.MinKeep, wire.MaxKeep, wire.MinHoldLimit, wire.MaxHoldLimit, wire.MinRatePeriod, wire.MaxRatePeriod, wire.MaxQueue, wire.MaxGrants,
	}
	want := []any{
		255, 16, 128, 256, 2048, 8, 100, 512,
		16384, 2048, 256, 100, 50,
		time.Second, 168 * time.Hour, 24 * time.Hour, time.Minute, time.Hour, time.Second, 15 * time.Minute, 366 * 24 * time.Hour,
		8784 * time.Hour, time.Hour, 9600 * time.Hour, 10 * time.Second, 8784 * time.Hour, time.Second, 24 * time.Hour, 500, 100,
	}
	if !slices.Equal(got, want) {
		t.Errorf("limits\n%v, want\n%v", got, want)
	}
}

// The prefix of a rule is the beginning of names, or "*".
func TestCheckRulePrefix(t *testing.T) {
	for prefix, says := range map[string]string{"*": "", "deploy:": "", "": "is empty; give the beginning", "a*": "'*'", "a/": "'/'"} {
		if got := wire.CheckRulePrefix(prefix); (got == "") != (says == "") || !strings.Contains(got, says) {
			t.Errorf("%q: %q, want %q", prefix, got, says)
		}
	}
}

func TestRateText(t *testing.T) {
	for _, test := range []struct {
		prefix string
		grants int64
		want   string
	}{
		{"*", 1, "each lock is granted once in 1m0s at most, and the next grant is possible in 5s"},
		{"quota:", 3, "each lock below quota: is granted 3 times in 1m0s at most, and the next grant is possible in 5s"},
	} {
		if got := wire.RateText(test.prefix, test.grants, time.Minute, 5*time.Second); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}

// Each operation has its own route and function, except that list and history share the function of status, a set's those of one lock, and the operations
// on rules share one.
func TestOps(t *testing.T) {
	want := map[wire.Op]struct {
		method, path string
		function     wire.Op
	}{
		"acquire": {"POST", "/v1/locks/{name}/acquire", "acquire"}, "renew": {"POST", "/v1/locks/{name}/renew", "renew"},
		"release": {"POST", "/v1/locks/{name}/release", "release"}, "force-release": {"POST", "/v1/locks/{name}/force-release", "force-release"},
		"status": {"GET", "/v1/locks/{name}", "status"}, "list": {"GET", "/v1/locks", "status"},
		"history": {"GET", "/v1/history/{name}", "status"},
		"rules":   {"GET", "/v1/rules", "rules"}, "rule": {"GET", "/v1/rules/{prefix}", "rules"},
		"put-rule": {"PUT", "/v1/rules/{prefix}", "rules"}, "delete-rule": {"DELETE", "/v1/rules/{prefix}", "rules"},
		"acquire-set": {"POST", "/v1/sets/{scope}/acquire", "acquire"}, "renew-set": {"POST", "/v1/sets/{scope}/renew", "renew"},
		"release-set": {"POST", "/v1/sets/{scope}/release", "release"},
	}
	for _, op := range wire.Ops() {
		if method, path := op.Route(); method != want[op].method || path != want[op].path || op.Function() != want[op].function {
			t.Errorf("%s: %s %s, function %s", op, method, path, op.Function())
		}
	}
	if len(wire.Ops()) != len(want) {
		t.Errorf("operations %v", wire.Ops())
	}
	unknown := wire.Op("steal")
	if method, path := unknown.Route(); method != "" || path != "" || unknown.Function() != "" {
		t.Errorf("an unknown operation: %s %s, function %s", method, path, unknown.Function())
	}
}

// The skew allowance is part of the contract: clients compute with it.
func TestSkewAllowance(t *testing.T) {
	if ms := wire.SkewAllowance.Milliseconds(); ms != 250 {
		t.Errorf("%d ms", ms)
	}
}

func TestSetScope(t *testing.T) {
	for want, names := range map[string][]string{
		"a": {"a"}, "*": {"a", "b"}, "deploy:*": {"deploy:a", "deploy:b"}, "deploy:a*": {"deploy:a", "deploy:ab"},
	} {
		if got := wire.SetScope(names); got != want {
			t.Errorf("%v: %q", names, got)
		}
	}
	if wire.OpAcquire.OfSet() != wire.OpAcquireSet || wire.OpStatus.OfSet() != "" || wire.OpAcquire.IsSet() || !wire.OpReleaseSet.IsSet() || wire.Op("x").IsSet() {
		t.Error("the operations on sets")
	}
}
