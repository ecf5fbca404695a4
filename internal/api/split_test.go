package api

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzObject compares parseObject with encoding/json: it takes the same texts, with the same keys and values, but for keys that are there twice and
// halves of surrogate pairs.
func FuzzObject(f *testing.F) {
	for _, s := range []string{
		`{}`, " {\n}\t", `{"a":1}`, ` { "a" : -1.5e3 , "b" : [ 1 , { "c" : "}" } ] , "d" : { } } `, `{"a\"}":"\\","\u0062":"\\\"",":":null}`, `{"a":"]","b":true,"c":false}`,
		`{"a":[],"b":{"a":[[]]},"c":[{},{}]}`, `{"":""}`, `{"a":"\ud83d\ude00"}`, "{\"a\":0\r\n}", "{\"a\":1\t,\"b\":null}", `{"ä":"ö"}`, `{"\ud800":1}`,
		`{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"a":"\ud800"}`, `{"a":{"b":"\udc00"}}`, `[]`, `null`, `1`, `"{}"`, ``, ` `, `{`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{}{}`, `{"a":01}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := parseObject(data)
		var want map[string]json.RawMessage
		if err == nil {
			if json.Unmarshal(data, &want) != nil || !maps.EqualFunc(o.fields, want, func(a, b json.RawMessage) bool { return string(a) == string(b) }) {
				t.Errorf("%s: the fields are %s, and not %s", data, o.fields, want)
			}
			return
		}
		if err.Error() == "the body is not JSON" {
			t.Errorf("%s: no fault was found", data)
		}
		valid := utf8.Valid(data) && json.Unmarshal(data, &want) == nil && want != nil
		if valid && !strings.Contains(err.Error(), "is there twice") && !strings.Contains(err.Error(), "half of a surrogate pair") && !strings.Contains(err.Error(), "at most") {
			t.Errorf("%s: %v", data, err)
		}
	})
}
