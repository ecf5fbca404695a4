package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/loopback"
)

// A front stands between the clients and the coordinator. It passes requests on, unless the scenario has given it a trick for them, and records
// them.
type front struct {
	s      *stage
	url    string
	server *http.Server
	over   context.Context // ends with the scenario

	mu     sync.Mutex
	seen   []*request
	next   map[string][]trick // by operation: what happens to its next requests
	always map[string]trick   // by operation: what happens to the others
}

// A request is one that arrived at the front.
type request struct {
	op, lock string
	at       float64 // when it arrived, on CLOCK_MONOTONIC in milliseconds
	secret   string
	wait     int64 // milliseconds
	fields   map[string]any
	answered bool

	status    int   // of the coordinator's answer; 0 if it was not asked
	remaining int64 // of the lease, in milliseconds, in the coordinator's answer
}

// A trick is what the front does to a request: first, then the coordinator if pass is set, then last. A trick without an answer passes on the
// coordinator's.
type trick struct {
	what   string
	before <-chan struct{} // not nil: the request waits for it
	pass   bool            // the coordinator gets the request
	after  <-chan struct{} // not nil: the answer waits for it
	lose   bool            // the connection is closed without an answer
	answer *answer         // takes the place of the coordinator's
	change func(map[string]any)
}

// An answer is one that the front gives.
type answer struct {
	status int
	header map[string]string
	body   string
}

// The tricks.
var (
	lose   = trick{what: "takes effect, and its answer is lost", pass: true, lose: true}
	cut    = trick{what: "is lost", lose: true}
	passes = trick{pass: true}
)

// instead answers a request that does not take effect.
func instead(status int, body string, header ...string) trick {
	return trick{what: "is answered by the front", answer: newAnswer(status, body, header)}
}

// afterwards answers a request that has taken effect.
func afterwards(status int, body string, header ...string) trick {
	return trick{what: "takes effect, and is answered by the front", pass: true, answer: newAnswer(status, body, header)}
}

func newAnswer(status int, body string, header []string) *answer {
	a := &answer{status, map[string]string{"Content-Type": "application/json"}, body}
	for i := 0; i+1 < len(header); i += 2 {
		a.header[header[i]] = header[i+1]
	}
	return a
}

// outage is the answer of a coordinator whose store cannot be used.
const outage = `{"type":"urn:holdfast:problem:store_unavailable","title":"The store cannot be used","status":503,"code":"store_unavailable","detail":"suite"}`

// held keeps an answer back until the gate is open.
func held(gate <-chan struct{}) trick {
	return trick{what: "takes effect, and its answer is kept back", pass: true, after: gate}
}

// silent never answers.
func silent() trick {
	return trick{what: "gets no answer", before: make(chan struct{})}
}

// changed changes the coordinator's answer.
func changed(what string, change func(map[string]any)) trick {
	return trick{what: what, pass: true, change: change}
}

func newFront(ctx context.Context, s *stage) (*front, error) {
	f := &front{s: s, over: ctx, next: map[string][]trick{}, always: map[string]trick{}}
	listener, err := loopback.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f.url = "http://" + listener.Addr().String()
	f.server = &http.Server{Handler: f, ReadHeaderTimeout: time.Minute}
	go func() { _ = f.server.Serve(listener) }()
	return f, nil
}

func (f *front) close() { _ = f.server.Close() }

// then gives tricks to the next requests of an operation, one each.
func (f *front) then(op string, tricks ...trick) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next[op] = append(f.next[op], tricks...)
}

// all gives a trick to all requests of an operation that have none by then.
func (f *front) all(op string, t trick) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.always[op] = t
}

// heal takes all tricks of an operation away, or of all if op is empty.
func (f *front) heal(op string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range []string{"acquire", "renew", "release", "status", "force-release"} {
		if op == "" || op == m {
			delete(f.next, m)
			delete(f.always, m)
		}
	}
}

// requests returns the requests of an operation for a lock so far, in the order of their arrival.
func (f *front) requests(op, lock string) (list []*request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.seen {
		if r.op == op && r.lock == lock {
			copied := *r
			list = append(list, &copied)
		}
	}
	return list
}

// await waits until n requests of an operation for the lock a have arrived.
func (f *front) await(op string, n int) {
	f.s.until(sprint("%d requests to %s a", n, op), func() bool { return len(f.requests(op, "a")) >= n })
}

// awaitAnswers waits until n requests of an operation for a lock have been answered, or their answers lost.
func (f *front) awaitAnswers(op, lock string, n int) {
	f.s.until(sprint("%d answers to %s %s", n, op, lock), func() bool { return f.answers(op, lock) >= n })
}

// awaitServed waits until the coordinator has served a request of an operation for a lock, whether or not the front has passed on its answer.
func (f *front) awaitServed(op, lock string) {
	f.s.until(sprint("a request to %s %s that the coordinator serves", op, lock), func() bool {
		return slices.ContainsFunc(f.requests(op, lock), func(r *request) bool { return r.status != 0 })
	})
}

func (f *front) answers(op, lock string) (n int) {
	for _, r := range f.requests(op, lock) {
		if r.answered {
			n++
		}
	}
	return n
}

// ServeHTTP implements [http.Handler].
func (f *front) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	body, err := io.ReadAll(hr.Body)
	if err != nil {
		return // the client has gone
	}
	r, t := f.arrived(hr, body)
	defer func() {
		f.mu.Lock()
		r.answered = true
		f.mu.Unlock()
	}()
	if t.what != "" {
		f.s.logf("front: %s %s %s", r.op, r.lock, t.what)
	}
	if !f.pause(t.before) {
		return
	}
	var rec *httptest.ResponseRecorder
	if t.pass {
		rec = httptest.NewRecorder()
		again := hr.Clone(f.over)
		again.Body = io.NopCloser(bytes.NewReader(body))
		f.s.gateway.ServeHTTP(rec, again)
		f.served(r, rec)
		f.s.logf("front: %s %s: %d %s", r.op, r.lock, rec.Code, strings.TrimSpace(rec.Body.String()))
	}
	if !f.pause(t.after) {
		return
	}
	switch {
	case t.lose:
		panic(http.ErrAbortHandler)
	case t.answer != nil:
		for k, v := range t.answer.header {
			w.Header().Set(k, v)
		}
		w.WriteHeader(t.answer.status)
		_, _ = io.WriteString(w, strings.ReplaceAll(t.answer.body, "SECRET", r.secret))
	default:
		maps.Copy(w.Header(), rec.Header())
		text := rec.Body.Bytes()
		if t.change != nil {
			text = changeBody(text, t.change)
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(text)
	}
}

// served records the coordinator's answer.
func (f *front) served(r *request, rec *httptest.ResponseRecorder) {
	var known struct {
		Remaining int64 `json:"remaining_ms"`
	}
	_ = json.Unmarshal(rec.Body.Bytes(), &known) // those without a lease have no such member
	f.mu.Lock()
	defer f.mu.Unlock()
	r.status, r.remaining = rec.Code, known.Remaining
}

func changeBody(text []byte, change func(map[string]any)) []byte {
	fields := map[string]any{}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber() // fencing tokens have more digits than a float64 keeps
	if err := decoder.Decode(&fields); err != nil {
		panic(err)
	}
	change(fields)
	text, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return text
}

// pause waits for a gate. It returns false if the scenario ends first.
func (f *front) pause(gate <-chan struct{}) bool {
	if gate == nil {
		return true
	}
	select {
	case <-gate:
		return true
	case <-f.over.Done():
		return false
	}
}

// arrived records a request, and returns the trick for it.
func (f *front) arrived(hr *http.Request, body []byte) (*request, trick) {
	r := &request{at: monotonic(), fields: map[string]any{}}
	parts := strings.Split(strings.Trim(hr.URL.EscapedPath(), "/"), "/")
	if len(parts) > 2 {
		r.lock, _ = url.PathUnescape(parts[2])
		r.op = "status"
	}
	if len(parts) > 3 {
		r.op = parts[3]
	}
	var known struct {
		Lease string `json:"lease"`
		Wait  int64  `json:"wait_ms"`
	}
	_ = json.Unmarshal(body, &known) // the coordinator refuses what is not JSON
	_ = json.Unmarshal(body, &r.fields)
	r.secret, r.wait = known.Lease, known.Wait
	f.s.logf("front: %s %s %s", hr.Method, hr.URL.EscapedPath(), body)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, r)
	if list := f.next[r.op]; len(list) > 0 {
		f.next[r.op] = list[1:]
		return r, list[0]
	}
	if t, ok := f.always[r.op]; ok {
		return r, t
	}
	return r, passes
}
