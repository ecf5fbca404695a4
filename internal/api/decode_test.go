package api_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// What is wrong with a body is told by field, and quoted no longer than people read.
func TestBodies(t *testing.T) {
	long := strings.Repeat("k", 5000)
	brief := strings.Repeat("k", 40) + "…"
	for _, test := range []struct{ body, field, says string }{
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
		{`{"` + long + `":1}`, brief, `the field "` + brief + `" is unknown`},
		{`{"` + long + `":1,"` + long + `":2}`, brief, `the field "` + brief + `" is there twice`},
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
		{`{"metadata":{"` + long[:500] + `":1,"` + long[:500] + `":1}}`, "metadata", `has the key "` + brief + `" twice`},
		{`{"metadata":{"a":1,"\u0061":1}}`, "metadata", `has the key "a" twice`},
	} {
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

// The body's limit counts what was sent, decoded, and is inclusive.
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

func TestContentTypes(t *testing.T) {
	for media, says := range map[string]string{
		"application/json": "", "APPLICATION/JSON": "", "application/json; charset=utf-8": "", `application/json;charset="UTF-8"`: "", "application/json; v=1": "",
		"application/json; charset": "send application/json", "application/json,application/json": "send application/json", "text/json": "send application/json",
		"application/problem+json": "send application/json", "application/json; charset=utf8": `the charset is "utf8"; send UTF-8`,
		strings.Repeat("x", 5000): `"` + strings.Repeat("x", 40) + `…"; send application/json`,
	} {
		s := newSystem(t)
		resp := s.call("acquire", "a", `{}`, contentType(media))
		if says == "" {
			if resp.StatusCode != 200 {
				t.Errorf("%s: %s", media, resp.Body)
			}
			continue
		}
		if p := s.problem(resp); p.Field != "content-type" || !strings.Contains(p.Detail, says) {
			t.Errorf("%.50s: %+v", media, p)
		}
	}
}

// A query is as strict as a body, and a signature in it is no field.
func TestQueries(t *testing.T) {
	signature := []string{"X-Amz-Algorithm", "AWS4-HMAC-SHA256", "X-Amz-Signature", "0", "x-amz-security-token", "t"}
	for _, test := range []struct {
		op, body    string
		query       []string
		field, says string
	}{
		{op: "list", query: []string{"limit", "007"}, field: "limit", says: `limit is "007"; it must be a whole number`},
		{op: "list", query: []string{"limit", "+5"}, field: "limit", says: `limit is "+5"`},
		{op: "list", query: []string{"limit", ""}, field: "limit", says: `limit is ""`},
		{op: "list", query: []string{"limit", "1,1"}, field: "limit", says: `limit is "1,1"`},
		{op: "list", query: []string{"limit", "-1"}, field: "limit", says: "from 1 to 100"},
		{op: "list", query: []string{"limit", "101"}, field: "limit", says: "from 1 to 100"},
		{op: "list", query: []string{"limit", "99999999999999999999"}, field: "limit", says: "whole number"},
		{op: "list", query: []string{"state", ""}, field: "state", says: "held or all"},
		{op: "list", query: []string{"state", "HELD"}, field: "state", says: "held or all"},
		{op: "list", query: []string{"state", "all", "limit", "100", "prefix", "", "cursor", ""}},
		{op: "list", query: []string{"state", "held", "limit", "1", "prefix", "123"}},
		{op: "list", query: []string{"name", "a"}, field: "name", says: `the query parameter "name" is unknown`},
		{op: "list", query: signature},
		{op: "status", query: signature},
		{op: "status", query: []string{"name", "b"}, field: "name", says: "query parameter"},
		{op: "acquire", body: `{}`, query: signature},
		{op: "acquire", body: `{}`, query: []string{"ttl_ms", "5000"}, field: "ttl_ms", says: `the query parameter "ttl_ms" is unknown`},
		{op: "release", body: `{"lease":"` + secret + `"}`, query: []string{"lease", secret}, field: "lease", says: "query parameter"},
		{op: "force-release", body: `{"reason":"x"}`, query: []string{"fence", "1"}, field: "fence", says: "query parameter"},
	} {
		s := newSystem(t)
		name := "a"
		if test.op == "list" {
			name = ""
		}
		resp := s.call(test.op, name, test.body, query(test.query...))
		if test.says == "" {
			if resp.StatusCode != 200 {
				t.Errorf("%+v: %s", test, resp.Body)
			}
			continue
		}
		if p := s.problem(resp); p.Code != wire.InvalidRequest || p.Field != test.field || !strings.Contains(p.Detail, test.says) {
			t.Errorf("%+v: %+v", test, p)
		}
	}
}

// A query's fields are all read, in whatever order they come beside a signature's.
func TestSignedQueries(t *testing.T) {
	s := newSystem(t)
	kv := []string{"state", "free"}
	for i := range 30 {
		kv = append(kv, fmt.Sprintf("X-Amz-%d", i), "x")
	}
	for range 10 {
		if p := s.problem(s.call("list", "", "", query(kv...))); p.Field != "state" {
			t.Errorf("%+v", p)
		}
	}
}

// A list has 50 locks a page unless it asks for another number, held ones unless it asks for all, and goes on where it ended.
func TestLists(t *testing.T) {
	s := newSystem(t)
	for i := range 60 {
		s.call("acquire", fmt.Sprintf("a:%02d", i), `{"lease":"`+secret+`"}`)
	}
	s.call("release", "a:00", `{"lease":"`+secret+`"}`)
	s.call("acquire", "b", `{}`)
	page := func(kv ...string) (l wire.List) {
		t.Helper()
		if err := json.Unmarshal([]byte(s.call("list", "", "", query(kv...)).Body), &l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	first := page("prefix", "a:")
	second := page("prefix", "a:", "cursor", first.NextCursor)
	if len(first.Locks) != 50 || len(second.Locks) != 9 || second.NextCursor != "" || first.Locks[0].Lock != "a:01" || !first.Locks[0].Locked {
		t.Errorf("%d and %d, then %q; first %+v", len(first.Locks), len(second.Locks), second.NextCursor, first.Locks[0])
	}
	if all := page("prefix", "a:0", "state", "all"); len(all.Locks) != 10 || all.Locks[0].Lock != "a:00" || all.Locks[0].Locked {
		t.Errorf("all: %+v", all)
	}
	if few := page("limit", "2"); len(few.Locks) != 2 {
		t.Errorf("two: %+v", few)
	}
	answer, p := s.invokeAs(ownFunction, "status", `{"op":"list","prefix":"b","limit":100,"state":"all"}`)
	if p != nil || !strings.Contains(answer, `"lock":"b"`) || strings.Contains(answer, `"lock":"a`) {
		t.Errorf("%s, %+v", answer, p)
	}
	for _, test := range []struct{ payload, field, says string }{
		{`{"op":"list","limit":"5"}`, "limit", "limit is a string"},
		{`{"op":"lists"}`, "op", `op is "lists"; it must be "status" or "list"`},
		{`{"op":"` + strings.Repeat("l", 300) + `"}`, "op", strings.Repeat("l", 40) + "…"},
		{`{"op":5,"name":"a"}`, "op", "must be a string"},
		{`{"op":"status"}`, "name", "name is missing"},
		{`{"op":"status","name":5}`, "name", "name is a number"},
	} {
		if _, p := s.invokeAs(ownFunction, "status", test.payload); p == nil || p.Field != test.field || !strings.Contains(p.Detail, test.says) {
			t.Errorf("%.60s: %+v", test.payload, p)
		}
	}
}
