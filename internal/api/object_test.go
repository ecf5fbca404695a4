package api_test

import (
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

var (
	longKey  = strings.Repeat("k", 5000)
	briefKey = strings.Repeat("k", 40) + "…"
)

// badBodies are bodies that are not valid, with the field and the text of their problems.
var badBodies = []struct{ body, field, says string }{
	{`{"a" 1}`, "body", "not JSON"},
	{`{1:2}`, "body", "not JSON"},
	{`{"ttl_ms":NaN}`, "body", "not JSON"},
	{`{"ttl_ms":1000,}`, "body", "not JSON"},
	{`{"ttl_ms"`, "body", "ends too soon"},
	{`{"ttl_ms":`, "body", "ends too soon"},
	{`{`, "body", "ends too soon"},
	{`   `, "body", "not a JSON object"},
	{"\ufeff{}", "body", "not a JSON object"},
	{`"{}"`, "body", `send one, like {"ttl_ms": 60000}`},
	{`{"owner":` + strings.Repeat("[", 12000) + `}`, "body", "not JSON"},
	{`{}x`, "body", "after the JSON object"},
	{`{} null`, "body", "after the JSON object"},
	{`{"":1}`, "body", `the field "" is unknown`},
	{`{"` + longKey + `":1}`, briefKey, `the field "` + briefKey + `" is unknown`},
	{`{"` + longKey + `":1,"` + longKey + `":2}`, briefKey, `the field "` + briefKey + `" is there twice`},
	{`{"` + strings.Repeat("k", 39) + `ä":1}`, strings.Repeat("k", 39) + "…", "is unknown"}, // cut between characters
	{`{"` + strings.Repeat("k", 40) + `":1}`, strings.Repeat("k", 40), `"` + strings.Repeat("k", 40) + `" is unknown`},
	{`{"b":1,"a":1}`, "a", "unknown"}, // the first by name, whatever their order
	{`{"ttl_ms":0,"a":1}`, "ttl_ms", "from 1000"},
	{`{"ttl_ms":true}`, "ttl_ms", "ttl_ms is a boolean; it must be a whole number of milliseconds"},
	{`{"ttl_ms":false}`, "ttl_ms", "a boolean"},
	{`{"ttl_ms":{}}`, "ttl_ms", "an object"},
	{`{"ttl_ms":[]}`, "ttl_ms", "an array"},
	{`{"ttl_ms":null}`, "ttl_ms", "ttl_ms is null, which is not the same as leaving it out; it must be a whole number"},
	{`{"ttl_ms":1.5}`, "ttl_ms", "ttl_ms is 1.5; it must be a whole number of milliseconds, without fraction or exponent"},
	{`{"ttl_ms":-0}`, "ttl_ms", "from 1000"},
	{`{"ttl_ms":1` + strings.Repeat("0", 5000) + `}`, "ttl_ms", "0…; it must be from 1000"},
	{`{"capacity":"1"}`, "capacity", "capacity is a string; it must be a whole number"},
	{`{"capacity":2.0}`, "capacity", "capacity is 2.0; it must be a whole number, without"},
	{`{"permits":0}`, "permits", "permits is 0; it must be from 1 to 100"},
	{`{"permits":101,"capacity":100}`, "permits", "from 1 to 100"},
	{`{"permits":2}`, "permits", "from 1 to the capacity, which is 1"},
	{`{"mode":"both"}`, "mode", `mode is "both"; give "read" or "write"`},
	{`{"mode":""}`, "mode", `mode is ""`},
	{`{"mode":1}`, "mode", "mode"},
	{`{"mode":"read","capacity":100}`, "mode", "with capacity or permits"},
	{`{"mode":"write","permits":100}`, "mode", "with capacity or permits"},
	{`{"owner":null}`, "owner", "owner is null"},
	{`{"owner":1}`, "owner", "owner is a number; it must be a string"},
	{`{"lease":["x"]}`, "lease", "lease is an array; it must be a string"},
	{`{"execution":5}`, "execution", "must be a string"},
	{`{"metadata":"{}"}`, "metadata", "metadata is a string; it must be an object"},
	{`{"metadata":null}`, "metadata", "metadata is null"},
	{`{"metadata":{"a":[[[[[[[[]]]]]]]]}}`, "metadata", "nested deeper than 8 levels"},
	{`{"metadata":{"a":[1,{"b":1,"c":"b","b":2}]}}`, "metadata", `has the key "b" twice`},
	{`{"metadata":{"a":{},"a":1}}`, "metadata", `has the key "a" twice`},
	{`{"metadata":{"a":[],"a":1}}`, "metadata", `has the key "a" twice`},
	{`{"metadata":{"a":1e400,"b":{"c":1e400},"a":2}}`, "metadata", `has the key "a" twice`},
	{`{"metadata":{"` + longKey[:500] + `":1,"` + longKey[:500] + `":1}}`, "metadata", `has the key "` + briefKey + `" twice`},
	{`{"metadata":{"a":1,"\u0061":1}}`, "metadata", `has the key "a" twice`},
}

// A problem about a body names the field, and quotes at most 40 bytes.
func TestBodies(t *testing.T) {
	for _, test := range badBodies {
		s := newSystem(t)
		p := s.problem(s.call("acquire", "a", test.body))
		if p.Code != wire.InvalidRequest || p.Field != test.field || !strings.Contains(p.Detail, test.says) || len(p.Detail) > 400 {
			t.Errorf("%.80s: %+v", test.body, p)
		}
	}
	for _, body := range []string{
		`{"metadata":{"a":[[[[[[[]]]]]]]}}`, `{"metadata":{"a":{"a":{"a":1}},"b":{"a":1},"c":["a","a",{"a":1},{"a":1}]}}`,
		`{"metadata":{"a":"a","b":"a"}}`, `{"metadata":{"a":1e400,"b":"\u0000"}}`, `{"metadata":{}}`, "\t{\n}\r ", `{"metadata":{"a":[1,2,[3],{"b":[]}],"b":0}}`,
	} {
		s := newSystem(t)
		if resp := s.call("acquire", "a", body); resp.StatusCode != 200 {
			t.Errorf("%s: %s", body, resp.Body)
		}
	}
}

// The limit of a body counts the decoded bytes, and is inclusive.
func TestBodyLimit(t *testing.T) {
	for size, status := range map[int]int{wire.MaxBody: 200, wire.MaxBody + 1: 413} {
		s := newSystem(t)
		body := `{}` + strings.Repeat(" ", size-2)
		if resp := s.call("acquire", "a", body); resp.StatusCode != status {
			t.Errorf("%d bytes: %d %s", size, resp.StatusCode, resp.Body)
		}
	}
	s := newSystem(t)
	if p := s.problem(s.call("acquire", "a", "////", encoded)); p.Field != "body" || !strings.Contains(p.Detail, "UTF-8") {
		t.Errorf("%+v", p)
	}
}
