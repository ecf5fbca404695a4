package local

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// Requests of programs pass. Those of web pages do not, neither under a name that resolves to this machine nor from another site.
func TestGuard(t *testing.T) {
	for _, test := range []struct {
		host    string
		headers map[string]string
		field   string // the field of the problem; empty if the request passes
	}{
		{"127.0.0.1:7420", nil, ""},
		{"localhost:7420", nil, ""},
		{"LOCALHOST", nil, ""},
		{"localhost.:7420", nil, ""},
		{"x.localhost:7420", nil, ""},
		{"[::1]:7420", nil, ""},
		{"[::1]", nil, ""},
		{"192.168.1.7:7420", nil, ""}, // DNS rebinding needs a name
		{"holdfast:7420", nil, ""},    // in hosts
		{"Holdfast.:1", nil, ""},
		{"evil.example:7420", nil, "host"},
		{"evil.example", nil, "host"},
		{"notlocalhost", nil, "host"},
		{"localhost.evil.example", nil, "host"},
		{"127.0.0.1.evil.example", nil, "host"},
		{"", nil, "host"},
		{"localhost:7420", map[string]string{"Origin": "http://localhost:7420"}, ""},
		{"localhost:7420", map[string]string{"Origin": "http://LOCALHOST:7420"}, ""},
		{"localhost:7420", map[string]string{"Origin": "http://evil.example"}, "origin"},
		{"localhost:7420", map[string]string{"Origin": "http://localhost:3000"}, "origin"},
		{"localhost:7420", map[string]string{"Origin": "null"}, "origin"},
		{"localhost:7420", map[string]string{"Origin": "%"}, "origin"},
		{"localhost:7420", map[string]string{"Sec-Fetch-Site": "cross-site"}, "sec-fetch-site"},
		{"localhost:7420", map[string]string{"Sec-Fetch-Site": "same-site"}, "sec-fetch-site"},
		{"localhost:7420", map[string]string{"Sec-Fetch-Site": "same-origin"}, ""},
		{"localhost:7420", map[string]string{"Sec-Fetch-Site": "none"}, ""},
		{"localhost:7420", map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, ""}, // a link
	} {
		passed := false
		g := guard{hosts: []string{"holdfast"}, next: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed = true })}
		r := httptest.NewRequest(http.MethodGet, "/v1/locks", http.NoBody)
		r.Host = test.host
		for k, v := range test.headers {
			r.Header.Set(k, v)
		}
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		var p wire.Problem
		_ = json.Unmarshal(w.Body.Bytes(), &p)
		if passed != (test.field == "") || p.Field != test.field {
			t.Errorf("%s %v: passed %v, %s", test.host, test.headers, passed, w.Body)
		}
		if test.field != "" && (w.Code != http.StatusBadRequest || p.Code != wire.InvalidRequest || p.RequestID == "" || p.Detail == "") {
			t.Errorf("%s %v: %d %s", test.host, test.headers, w.Code, w.Body)
		}
	}
}

// The route of the events exists, and is listed, only if there are events.
func TestEventsRoute(t *testing.T) {
	g := newGateway(t)
	get := func(method, path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		g.ServeHTTP(w, httptest.NewRequest(method, path, http.NoBody))
		return w
	}
	if w := get("GET", "/v1/events"); w.Code != http.StatusNotFound || contains(w, "routes are /v1/events") {
		t.Errorf("without events: %d %s", w.Code, w.Body)
	}
	g.live = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	if w := get("GET", "/v1/events"); w.Code != http.StatusTeapot {
		t.Errorf("events: %d %s", w.Code, w.Body)
	}
	if w := get("POST", "/v1/events"); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != http.MethodGet {
		t.Errorf("POST: %d %v", w.Code, w.Header())
	}
	if w := get("GET", "/v1/other"); w.Code != http.StatusNotFound || !contains(w, "/v1/events, /v1/locks") {
		t.Errorf("another: %d %s", w.Code, w.Body)
	}
}
