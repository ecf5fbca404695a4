package ui

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A fake is a coordinator whose locks a test sets.
type fake struct {
	mu       sync.Mutex
	locks    map[string]wire.Status
	failure  error
	calls    []string
	released wire.ForceReleaseRequest
	asked    wire.HistoryRequest
}

func (f *fake) call(format string, args ...any) error {
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
	return f.failure
}

func (f *fake) hold(name, owner string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.locks[name] = held(name, owner)
}

func (f *fake) free(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.locks, name)
}

func held(name, owner string) wire.Status {
	return wire.Status{Lock: name, Locked: true, Capacity: 1, ServerTime: wire.At(time.Now().UnixMilli()), Holders: []wire.Holder{{Owner: owner, Fence: 7, AcquiredAt: wire.At(1000), ExpiresAt: wire.At(61_000)}}}
}

func (f *fake) List(_ context.Context, prefix string, all bool) iter.Seq2[wire.Status, error] {
	return func(yield func(wire.Status, error) bool) {
		f.mu.Lock()
		err := f.call("list %s %v", prefix, all)
		list := slices.Collect(maps.Values(f.locks))
		f.mu.Unlock()
		if err != nil {
			yield(wire.Status{}, err)
			return
		}
		for _, s := range list {
			if !yield(s, nil) {
				return
			}
		}
	}
}

func (f *fake) Status(_ context.Context, name string, _ int) (wire.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.call("status %s", name)
	s, ok := f.locks[name]
	if !ok {
		s = wire.Status{Lock: name, Capacity: 1, Available: 1}
	}
	return s, err
}

func (f *fake) History(_ context.Context, name string, r wire.HistoryRequest) (wire.History, error) {
	f.asked = r
	return wire.History{Lock: name, Entries: []wire.HistoryEntry{{Owner: "bob"}}, NextCursor: "next"}, f.call("history %s", name)
}

func (f *fake) Rules(context.Context) ([]wire.Rule, error) { return nil, f.call("rules") }

func (f *fake) ForceRelease(_ context.Context, name string, r wire.ForceReleaseRequest) (wire.ForceReleased, error) {
	f.released = r
	return wire.ForceReleased{Lock: name, Released: []wire.Holder{{Owner: "bob", Fence: r.Fence}}}, f.call("force-release %s", name)
}

const address = "127.0.0.1:4321"

func newPage(t *testing.T, cfg Config) (*Page, *fake) {
	t.Helper()
	source := &fake{locks: map[string]wire.Status{}}
	cfg.Source, cfg.Where, cfg.Log = source, "here", slog.New(slog.DiscardHandler)
	if cfg.Every == 0 {
		cfg.Every = time.Hour
	}
	p, err := New(cfg, address)
	if err != nil {
		t.Fatal(err)
	}
	return p, source
}

// request makes a request as the page's own script does, and changes it.
func request(p *Page, method, target, body string, change func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://"+address+target, strings.NewReader(body))
	r.Header.Set(tokenHeader, p.token)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if method == http.MethodPost {
		r.Header.Set("Origin", "http://"+address)
		r.Header.Set("Content-Type", "application/json")
	}
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w
}

const release = `{"name":"deploy:prod","reason":"gone","fence":7}`

// Only the page's own script gets anything about locks: with the token of this process, this server's name in Host, and no other origin.
func TestOnlyThePageIsServed(t *testing.T) {
	p, source := newPage(t, Config{})
	for name, test := range map[string]struct {
		change func(*http.Request)
		code   string // of the failure; empty: the request passes
		posts  string // the same for a change
	}{
		"the page":             {nil, "", ""},
		"as localhost":         {func(r *http.Request) { r.Host = "localhost:4321"; r.Header.Set("Origin", "http://localhost:4321") }, "", ""},
		"without a token":      {func(r *http.Request) { r.Header.Del(tokenHeader) }, "wrong_token", "wrong_token"},
		"another token":        {func(r *http.Request) { r.Header.Set(tokenHeader, p.token+"x") }, "wrong_token", "wrong_token"},
		"half a token":         {func(r *http.Request) { r.Header.Set(tokenHeader, p.token[:13]) }, "wrong_token", "wrong_token"},
		"a token in the query": {func(r *http.Request) { r.Header.Del(tokenHeader); r.URL.RawQuery = "token=" + p.token }, "wrong_token", "wrong_token"},
		"a rebound name":       {func(r *http.Request) { r.Host = "evil.example:4321" }, "wrong_host", "wrong_host"},
		"another port":         {func(r *http.Request) { r.Host = "127.0.0.1:80" }, "wrong_host", "wrong_host"},
		"another origin":       {func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }, "wrong_origin", "wrong_origin"},
		"another local port":   {func(r *http.Request) { r.Header.Set("Origin", "http://127.0.0.1:1") }, "wrong_origin", "wrong_origin"},
		"a null origin":        {func(r *http.Request) { r.Header.Set("Origin", "null") }, "wrong_origin", "wrong_origin"},
		"another site":         {func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, "wrong_origin", "wrong_origin"},
		"a navigation":         {func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "none") }, "wrong_origin", "wrong_origin"},
		"without an origin":    {func(r *http.Request) { r.Header.Del("Origin") }, "", "wrong_origin"},
		"a form":               {func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, "", "wrong_origin"},
	} {
		for _, try := range []struct{ method, target, body, code string }{
			{"GET", "/api/rules", "", test.code}, {"POST", "/api/force-release", release, test.posts},
		} {
			source.calls = nil
			w := request(p, try.method, try.target, try.body, test.change)
			var f Failure
			_ = json.Unmarshal(w.Body.Bytes(), &f)
			if f.Code != try.code || (w.Code == http.StatusOK) != (try.code == "") {
				t.Errorf("%s: %s %s: %d %s, want %q", name, try.method, try.target, w.Code, w.Body, try.code)
			}
			if try.code != "" && len(source.calls) > 0 {
				t.Errorf("%s: it asked the coordinator: %v", name, source.calls)
			}
		}
	}
}

// The page's files say nothing about locks. They are served without the token, which only the script knows, but to this host alone; and
// every answer has the policy.
func TestFilesAndHeaders(t *testing.T) {
	p, source := newPage(t, Config{})
	plain := func(r *http.Request) { r.Header = http.Header{} }
	for target, want := range map[string]string{"/": "text/html", "/app.js": "javascript", "/style.css": "text/css", "/icon.svg": "image/svg"} {
		w := request(p, "GET", target, "", plain)
		if w.Code != http.StatusOK || !strings.Contains(w.Header().Get("Content-Type"), want) || strings.Contains(w.Body.String(), p.token) {
			t.Errorf("%s: %d %v", target, w.Code, w.Header())
		}
		if w := request(p, "GET", target, "", func(r *http.Request) { r.Host = "evil.example" }); w.Code != http.StatusForbidden {
			t.Errorf("%s under another name: %d", target, w.Code)
		}
	}
	for _, w := range []*httptest.ResponseRecorder{request(p, "GET", "/", "", plain), request(p, "GET", "/api/rules", "", plain), request(p, "GET", "/api/rules", "", nil)} {
		for name, want := range map[string]string{
			"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
			"Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin", "Access-Control-Allow-Origin": "",
		} {
			if w.Header().Get(name) != want {
				t.Errorf("%s is %q", name, w.Header().Get(name))
			}
		}
	}
	for _, word := range []string{"unsafe-inline", "unsafe-eval", "http:", "https:", "*"} {
		if strings.Contains(policy, word) {
			t.Errorf("the policy has %s", word)
		}
	}
	for _, try := range [][2]string{{"GET", "/api/acquire"}, {"POST", "/"}, {"DELETE", "/api/rules"}, {"GET", "/api/force-release"}, {"GET", "/../ui.go"}, {"GET", "/nothing"}} {
		if w := request(p, try[0], try[1], "", nil); w.Code != http.StatusNotFound && w.Code != http.StatusMethodNotAllowed {
			t.Errorf("%v: %d", try, w.Code)
		}
	}
	if len(source.calls) != 1 {
		t.Errorf("it asked %v", source.calls)
	}
}

// The files have no inline script or style, no address of another server, and make no markup of texts.
func TestFilesKeepToThePolicy(t *testing.T) {
	list, err := web.ReadDir("web")
	if err != nil || len(list) < 10 {
		t.Fatalf("%d files, %v", len(list), err)
	}
	bad := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|<script>|<style|style="|\son[a-z]+="|https?://`)
	for _, file := range list {
		text, err := web.ReadFile("web/" + file.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range bad.FindAllString(strings.ReplaceAll(string(text), "http://www.w3.org/2000/svg", ""), -1) {
			t.Errorf("%s has %q", file.Name(), found)
		}
	}
}

// Requests are forwarded as they are, and failures reach the page with their code and text.
func TestForwarding(t *testing.T) {
	p, source := newPage(t, Config{Prefix: "deploy:"})
	source.hold("deploy:prod", "bob")
	for _, test := range []struct {
		method, target, body string
		status               int
		says, calls          string
	}{
		{"GET", "/api/lock?name=deploy:prod", "", 200, `"owner":"bob"`, "status deploy:prod"},
		{"GET", "/api/lock?name=deploy:none", "", 200, `"holders":[]`, "status deploy:none"},
		{"GET", "/api/lock?name=other", "", 404, "only the locks whose names begin with deploy:", ""},
		{"GET", "/api/lock?name=a%20b", "", 400, "name ", ""},
		{"GET", "/api/history?name=deploy:prod&from=1700000000000&cursor=abc", "", 200, `"next_cursor":"next"`, "history deploy:prod"},
		{"GET", "/api/history?name=deploy:prod&from=x", "", 400, "from is no time", ""},
		{"GET", "/api/rules", "", 200, `{"rules":[]}`, "rules"},
		{"POST", "/api/force-release", release, 200, `"fence":7`, "force-release deploy:prod, status deploy:prod"},
		{"POST", "/api/force-release", `{"name":"deploy:prod","reason":" ","fence":7}`, 400, "reason is empty", ""},
		{"POST", "/api/force-release", `{"name":"deploy:prod","reason":"x"}`, 400, "fence is missing", ""},
		{"POST", "/api/force-release", `{"name":"other","reason":"x","fence":7}`, 404, "only the locks", ""},
		{"POST", "/api/force-release", `x`, 400, "no JSON object", ""},
		{"POST", "/api/force-release", `{"reason":"` + strings.Repeat("x", maxBody) + `"}`, 400, "too large", ""},
	} {
		source.calls = nil
		w := request(p, test.method, test.target, test.body, nil)
		if w.Code != test.status || !strings.Contains(w.Body.String(), test.says) || strings.Join(source.calls, ", ") != test.calls {
			t.Errorf("%s %s: %d %s; it asked %v", test.method, test.target, w.Code, w.Body, source.calls)
		}
	}
	if source.released != (wire.ForceReleaseRequest{Reason: "gone", Fence: 7}) || source.asked.Cursor != "abc" || source.asked.From.UnixMilli() != 1_700_000_000_000 {
		t.Errorf("it sent %+v, %+v", source.released, source.asked)
	}
	for _, test := range []struct {
		err    error
		status int
		says   string
	}{
		{fmt.Errorf("x: %w", &Failure{409, "lock_changed", "no live lease"}), 409, `{"status":409,"code":"lock_changed","detail":"no live lease"}`},
		{&Failure{0, "unavailable", "no answer"}, 502, `"status":0,"code":"unavailable"`},
		{context.DeadlineExceeded, 502, "did not answer in time"}, {errors.New("broken"), 502, "broken"},
	} {
		source.failure = test.err
		if w := request(p, "POST", "/api/force-release", release, nil); w.Code != test.status || !strings.Contains(w.Body.String(), test.says) {
			t.Errorf("%v: %d %s", test.err, w.Code, w.Body)
		}
	}
}

// serve runs the page at a port of its own until the test ends, and returns a function that opens a tab.
func serve(t *testing.T, p *Page) (open func(query string) *tab) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.hosts = []string{listener.Addr().String()}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- p.Serve(ctx, listener) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return func(query string) *tab {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // a message that never comes fails the test
		t.Cleanup(cancel)
		r, err := http.NewRequestWithContext(ctx, "GET", "http://"+listener.Addr().String()+"/api/live"+query, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set(tokenHeader, p.token)
		resp, err := new(http.Transport).RoundTrip(r)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp, err)
		}
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 16<<20)
		return &tab{t, resp.Body, lines, map[string]string{}, message{}}
	}
}

// A tab applies messages as the page does.
type tab struct {
	t     *testing.T
	body  io.Closer
	lines *bufio.Scanner
	locks map[string]string // the owners
	last  message
}

// until reads messages until a condition is true. It returns the number of locks that they had.
func (b *tab) until(what string, is func() bool) (sent int) {
	b.t.Helper()
	for !is() {
		if !b.lines.Scan() {
			b.t.Fatalf("the stream ended before %s: %v", what, b.lines.Err())
		}
		text, ok := strings.CutPrefix(b.lines.Text(), "data: ")
		if !ok {
			continue
		}
		b.last = message{}
		if err := json.Unmarshal([]byte(text), &b.last); err != nil {
			b.t.Fatal(err)
		}
		if b.last.Reset {
			clear(b.locks)
		}
		for _, raw := range b.last.Locks {
			var l line
			if err := json.Unmarshal(raw, &l); err != nil {
				b.t.Fatal(err)
			}
			sent++
			b.locks[l.Name] = ""
			if l.Count > 0 {
				b.locks[l.Name] = l.Holders[0].Owner
			}
		}
		for _, name := range b.last.Gone {
			delete(b.locks, name)
		}
	}
	return sent
}

// A tab gets all locks, and then what changes; the lists serve all tabs, and there are none without a tab.
func TestTabsGetDifferences(t *testing.T) {
	changed := make(chan string)
	p, source := newPage(t, Config{Changed: changed})
	for i := range 50 {
		source.hold(fmt.Sprintf("bulk:%d", i), "worker")
	}
	go func() { changed <- "bulk:1" }()
	p.readChanged(t.Context(), <-changed) // nobody looks
	if len(source.calls) > 0 {
		t.Errorf("without a tab it asked %v", source.calls)
	}
	open := serve(t, p)
	one := open("")
	if sent := one.until("the list", func() bool { return one.last.Listed > 0 }); sent != 50 || len(one.locks) != 50 {
		t.Errorf("sent %d, shown %d", sent, len(one.locks))
	}
	if one.last.Where != "here" || one.last.Failure != nil || one.last.Every != time.Hour.Milliseconds() {
		t.Errorf("%+v", one.last.state)
	}
	source.hold("bulk:7", "next")
	changed <- "bulk:7"
	if sent := one.until("the new holder", func() bool { return one.locks["bulk:7"] == "next" }); sent != 1 {
		t.Errorf("a change sent %d locks", sent)
	}
	source.free("bulk:8")
	changed <- "bulk:8"
	one.until("the end of a lease", func() bool { return one.locks["bulk:8"] == "" })
	two := open("") // whose list also finds what no event told
	source.mu.Lock()
	lists := slices.DeleteFunc(slices.Clone(source.calls), func(c string) bool { return c != "list  false" })
	statuses := len(source.calls) - len(lists)
	source.mu.Unlock()
	two.until("the same", func() bool { return len(two.locks) == 49 && two.locks["bulk:7"] == "next" })
	one.until("the removal", func() bool { return len(one.locks) == 49 })
	if len(lists) > 2 || statuses != 2 {
		t.Errorf("%d lists and %d statuses", len(lists), statuses)
	}
	_ = one.body.Close()
	_ = two.body.Close()
}

// A list that fails leaves what is known, and says why; a tab that shows free locks has them listed.
func TestListsThatFailAndListsOfAll(t *testing.T) {
	p, source := newPage(t, Config{Every: minPause})
	source.hold("a", "bob")
	open := serve(t, p)
	b := open("?all=true")
	b.until("the list", func() bool { return b.last.Listed > 0 })
	listed := b.last.Listed
	source.mu.Lock()
	source.failure = &Failure{403, "forbidden", "not allowed"}
	source.mu.Unlock()
	b.until("the failure", func() bool { return b.last.Failure != nil })
	if b.last.Failure.Detail != "not allowed" || b.locks["a"] != "bob" || b.last.Listed < listed {
		t.Errorf("%+v %v", b.last.state, b.locks)
	}
	source.mu.Lock()
	source.failure = nil
	source.mu.Unlock()
	b.until("the recovery", func() bool { return b.last.Failure == nil })
	source.mu.Lock()
	defer source.mu.Unlock()
	if !slices.Contains(source.calls, "list  true") {
		t.Errorf("it asked %v", source.calls)
	}
}

// The pauses between lists grow with what a list takes, and with failures.
func TestPauses(t *testing.T) {
	p, _ := newPage(t, Config{Every: 5 * time.Second})
	for _, test := range []struct {
		took     time.Duration
		failures int
		want     time.Duration
	}{
		{0, 0, 5 * time.Second}, {time.Second, 0, 9 * time.Second}, {2 * time.Minute, 0, maxPause}, {0, 1, 10 * time.Second}, {0, 2, 20 * time.Second}, {0, 100, maxFailing}, {10 * time.Second, 1, 90 * time.Second},
	} {
		if got := p.pauseAfter(test.took, test.failures); got != test.want {
			t.Errorf("after %v and %d failures: %v, want %v", test.took, test.failures, got, test.want)
		}
	}
	if _, err := New(Config{Every: time.Millisecond}, address); err == nil {
		t.Error("a page that lists each millisecond")
	}
}
