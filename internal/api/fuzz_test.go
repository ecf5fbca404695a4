package api_test

import (
	"encoding/json"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/aws/aws-lambda-go/events"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

func fuzzAPI(f *testing.F) *api.API {
	f.Helper()
	c, err := lock.New(lock.Config{Store: &lock.Memory{}})
	if err != nil {
		f.Fatal(err)
	}
	a, err := api.New(api.Config{Coordinator: c, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	return a
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9._:@+=-]{1,255}$`)

// A name is accepted if and only if it matches the pattern of the contract, and is none that URLs cannot carry.
func FuzzName(f *testing.F) {
	for _, s := range []string{"a", "deploy:prod", "a/b", "a%2Fb", "ä", "", "a\x00", strings.Repeat("n", 255), strings.Repeat("n", 256)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if accepted := wire.CheckName(name) == ""; accepted != (namePattern.MatchString(name) && name != "." && name != "..") {
			t.Errorf("%q: accepted %v", name, accepted)
		}
	})
}

// A body is accepted only if an independent check against the contract accepts it. Every body has an answer.
func FuzzAcquireBody(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"lease":"my-secret-lease-0001","owner":"me","ttl_ms":1000,"metadata":{"a":[1,{"b":null}]},"capacity":3,"permits":2}`,
		`{"ttl_ms":1e3}`, `{"ttl_ms":null}`, `{"owner":"a","owner":"b"}`, `{"metadata":{"a":1,"a":2}}`, `{} {}`, `[`, `{"a":`, "\xff", `{"owner":"\ud800"}`,
	} {
		f.Add([]byte(s))
	}
	a := fuzzAPI(f)
	handler := a.Handler(wire.OpAcquire)
	event := events.APIGatewayV2HTTPRequest{
		Version: "2.0", Headers: map[string]string{"content-type": "application/json"}, PathParameters: map[string]string{"name": "a"},
		RequestContext: events.APIGatewayV2HTTPRequestContext{HTTP: events.APIGatewayV2HTTPRequestContextHTTPDescription{Method: "POST"}},
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if !utf8.Valid(body) {
			return // such a body can only arrive in base64, since the event is JSON
		}
		event.Body = string(body)
		payload, err := json.Marshal(event)
		if err != nil {
			t.Fatal(err)
		}
		out, err := handler.Invoke(t.Context(), payload)
		if err != nil {
			t.Fatal(err)
		}
		var resp events.APIGatewayV2HTTPResponse
		if err := json.Unmarshal(out, &resp); err != nil || !json.Valid([]byte(resp.Body)) {
			t.Fatalf("answer %s", out)
		}
		if resp.StatusCode == 500 {
			t.Errorf("answer %s", resp.Body)
		}
		if accepted := resp.StatusCode != 400 && resp.StatusCode != 413; accepted && !wellFormed(body) {
			t.Errorf("accepted %s", body)
		}
	})
}

// textBars matches the characters that an owner may not have. loneSurrogate matches a text that is an escape for half of a surrogate
// pair.
var (
	textBars      = regexp.MustCompile(`[\x00-\x1f\x7f-\x{9f}\x{2028}-\x{202e}\x{2066}-\x{2069}]`)
	loneSurrogate = regexp.MustCompile(`^"\\u[dD][89a-fA-F][0-9a-fA-F]{2}"$`)
)

// wellFormed checks a body against the contract, and shares no code with the package.
func wellFormed(body []byte) bool {
	if len(body) > 16384 || !json.Valid(body) {
		return false
	}
	d := json.NewDecoder(strings.NewReader(string(body)))
	d.DisallowUnknownFields()
	var v struct {
		Lease    *json.RawMessage `json:"lease"`
		Owner    *json.RawMessage `json:"owner"`
		TTL      *json.RawMessage `json:"ttl_ms"`
		Metadata *json.RawMessage `json:"metadata"`
		Capacity *json.RawMessage `json:"capacity"`
		Permits  *json.RawMessage `json:"permits"`
	}
	if d.Decode(&v) != nil {
		return false
	}
	if v.Lease != nil {
		var s string
		if json.Unmarshal(*v.Lease, &s) != nil || !regexp.MustCompile(`^[A-Za-z0-9_-]{16,128}$`).MatchString(s) {
			return false
		}
	}
	if v.Owner != nil {
		var s string
		if json.Unmarshal(*v.Owner, &s) != nil || len(s) > 256 || textBars.MatchString(s) || loneSurrogate.Match(*v.Owner) {
			return false
		}
	}
	number := func(raw *json.RawMessage, least, most int64) (int64, bool) {
		if raw == nil {
			return least, true
		}
		var n int64
		return n, json.Unmarshal(*raw, &n) == nil && string(*raw) != "null" && n >= least && n <= most
	}
	_, ok := number(v.TTL, 1000, 86400000)
	n, ok2 := number(v.Capacity, 1, 100)
	p, ok3 := number(v.Permits, 1, 100)
	if !ok || !ok2 || !ok3 || p > n {
		return false
	}
	if v.Metadata != nil {
		var m map[string]any
		if json.Unmarshal(*v.Metadata, &m) != nil || m == nil || len(*v.Metadata) > 2048 || depth(m) > 8 {
			return false
		}
	}
	return true
}

func depth(v any) int {
	most := 0
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			most = max(most, depth(e))
		}
	case []any:
		for _, e := range v {
			most = max(most, depth(e))
		}
	default:
		return 0
	}
	return most + 1
}
