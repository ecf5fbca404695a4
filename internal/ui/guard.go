package ui

import (
	"crypto/subtle"
	"encoding/json"
	"mime"
	"net/http"
	"slices"
	"strings"
)

// policy lets the page load its own files and ask its own server, and nothing else. Trusted types make the browser refuse any text that would
// become markup.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; " +
	"frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// tokenHeader carries the token of the page's requests. A page of another origin cannot set it: the browser would ask this server first.
const tokenHeader = "X-Holdfast-Token" //nolint:gosec // a name, no credentials

// ServeHTTP implements [http.Handler]. The page's files are the same for everybody and are served to any browser on this machine; everything
// about locks takes the token.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	if failure := p.refusal(r); failure != nil {
		fail(w, failure)
		return
	}
	if route, ok := routes[r.URL.Path]; ok {
		route.serve(p, w, r)
		return
	}
	if strings.HasPrefix(r.URL.Path, "/api/") || r.Method != http.MethodGet {
		fail(w, &Failure{http.StatusNotFound, "not_found", "the page has no such route"})
		return
	}
	p.files.ServeHTTP(w, r)
}

// refusal returns why a request is refused before anything is done for it; nil if it is not.
func (p *Page) refusal(r *http.Request) *Failure {
	origin, site := r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Site")
	asks := strings.HasPrefix(r.URL.Path, "/api/")
	switch {
	case !slices.Contains(p.hosts, strings.ToLower(r.Host)): // DNS rebinding: a web page whose name resolves to this machine
		return &Failure{http.StatusForbidden, "wrong_host", "the Host header is not that of this page; open the link as it was printed"}
	case origin != "" && origin != "http://"+strings.ToLower(r.Host):
		return &Failure{http.StatusForbidden, "wrong_origin", "the request is that of another web page"}
	case asks && site != "" && site != "same-origin":
		return &Failure{http.StatusForbidden, "wrong_origin", "the request is that of another web page"}
	case asks && subtle.ConstantTimeCompare([]byte(r.Header.Get(tokenHeader)), []byte(p.token)) != 1:
		return &Failure{http.StatusUnauthorized, "wrong_token", "the token is missing or belongs to a process that has ended; open the link that the running one printed"}
	}
	route, ok := routes[r.URL.Path]
	switch media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); {
	case !ok:
	case r.Method != route.method:
		return &Failure{http.StatusMethodNotAllowed, "method_not_allowed", "use " + route.method}
	case route.method == http.MethodPost && (origin == "" || media != "application/json"):
		return &Failure{http.StatusForbidden, "wrong_origin", "a change takes the Origin header, which browsers send, and a body in application/json"}
	}
	return nil
}

func fail(w http.ResponseWriter, f *Failure) {
	status := f.Status
	if status < 400 || status > 599 {
		status = http.StatusBadGateway
	}
	answer(w, status, f)
}

func answer(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}
