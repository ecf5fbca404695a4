package local

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

func newGateway(t *testing.T) *Gateway {
	c, err := lock.New(lock.Config{Store: &lock.Memory{}})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	a, err := api.New(api.Config{Coordinator: c, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return NewGateway(a, log)
}

// Paths have the form in which API Gateway passes them on.
func TestRawPath(t *testing.T) {
	for path, want := range map[string]string{
		"/v1/locks/a": "/v1/locks/a", "/v1/locks/deploy%3Aprod": "/v1/locks/deploy:prod", "/v1/locks/a%2Bb+c": "/v1/locks/a+b+c",
		"/v1/locks/deploy%253Aprod": "/v1/locks/deploy%253Aprod", "/v1/locks/a%2Fb": "/v1/locks/a/b",
	} {
		if got := rawPath(httptest.NewRequest("GET", path, http.NoBody).URL); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

func TestRoutes(t *testing.T) {
	g := newGateway(t)
	for _, test := range []struct {
		method, target, contentType, body string
		status                            int
		says                              string
	}{
		{"POST", "/v1/locks/a/acquire", "application/json", `{"lease":"my-secret-lease-0001"}`, 200, `"lock":"a"`},
		{"POST", "/v1/locks/a/renew", "application/json", `{"lease":"my-secret-lease-0001"}`, 200, `"lock":"a"`},
		{"GET", "/v1/locks/a", "", "", 200, `"locked":true`},
		{"GET", "/v1/locks?prefix=a&limit=1", "", "", 200, `"locks":[{`},
		{"GET", "/v1/locks?limit=1&limit=2", "", "", 400, `"field":"limit"`},
		{"POST", "/v1/locks/a/release", "application/json", `{"lease":"my-secret-lease-0001"}`, 200, `"released_at"`},
		{"POST", "/v1/locks/a/force-release", "application/json", `{"reason":"x"}`, 200, `"released":[]`},
		{"POST", "/v1/locks/b/acquire", "application/octet-stream", `{}`, 400, `"field":"content-type"`}, // travels in base64
		{"POST", "/v1/locks/b/acquire", "", `{}`, 400, `"field":"content-type"`},
		{"GET", "/v1/locks/deploy%3Aprod", "", "", 200, `"lock":"deploy:prod"`}, // decoded once
		{"GET", "/v1/locks/deploy%253Aprod", "", "", 400, `'%'`},                // and never again
		{"GET", "/v1/locks/a%2Fb", "", "", 400, `'/'`},
		{"GET", "/v1/locks/a+b", "", "", 200, `"lock":"a+b"`},
		{"GET", "/v1/locks/..", "", "", 400, `"field":"name"`}, // URLs are normalised on the way
		{"GET", "/v1/locks/...", "", "", 200, `"lock":"..."`},
		{"POST", "/v1/locks/b/acquire", "application/json", "{\"owner\":\"\xff\xfe\"}", 400, `not valid UTF-8`},
		{"GET", "/v1/locks?limit=1;state=all", "", "", 400, `the query`},
		{"GET", "/v1/locks?limit=%zz", "", "", 400, `the query`},
		{"POST", "/v1/locks/b/acquire?ttl_ms=5000", "application/json", `{}`, 400, `"field":"ttl_ms"`},
		{"GET", "/v1/locks/a/acquire", "", "", 405, `use POST`},
		{"DELETE", "/v1/locks/a", "", "", 405, `"code":"method_not_allowed"`},
		{"POST", "/v1/locks", "", "", 405, `"code":"method_not_allowed"`},
		{"POST", "/v1/locks/a/steal", "", "", 404, `"code":"not_found"`},
		{"GET", "/v1/locks/", "", "", 404, `"code":"not_found"`},
		{"GET", "/", "", "", 404, `"code":"not_found"`},
		{"POST", "/v1/locks/a/acquire", "application/json", strings.Repeat(" ", 1<<20+1), 413, `"code":"payload_too_large"`},
	} {
		r := httptest.NewRequest(test.method, test.target, strings.NewReader(test.body))
		if test.contentType != "" {
			r.Header.Set("Content-Type", test.contentType)
		}
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		if w.Code != test.status || !strings.Contains(w.Body.String(), test.says) {
			t.Errorf("%s %s: %d %s", test.method, test.target, w.Code, w.Body)
		}
		if w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s %s: headers %v", test.method, test.target, w.Header())
		}
		if w.Code >= 400 {
			var p wire.Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.RequestID == "" || w.Header().Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s %s: problem %s", test.method, test.target, w.Body)
			}
		}
	}
}

func contains(w *httptest.ResponseRecorder, text string) bool {
	return strings.Contains(w.Body.String(), text)
}
