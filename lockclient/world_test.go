package lockclient_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/local"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// A world is a coordinator in the test's process, reached through a network that the test can break. It runs in a synctest bubble.
type world struct {
	t           *testing.T
	coordinator *lock.Coordinator
	handler     http.Handler

	mu     sync.Mutex
	seen   []string                                                        // "op" of each request
	before func(op string, n int, r *http.Request) (*http.Response, error) // n counts requests of an op, from 1
	after  func(op string, n int, resp *http.Response) (*http.Response, error)
}

func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	op := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	w.mu.Lock()
	w.seen = append(w.seen, op)
	n := w.countLocked(op)
	before, after := w.before, w.after
	w.mu.Unlock()
	if before != nil {
		if resp, err := before(op, n, r); resp != nil || err != nil {
			return resp, err
		}
	}
	rec := httptest.NewRecorder()
	if r.Body == nil { // a server's requests have a body
		r.Body = http.NoBody
	}
	w.handler.ServeHTTP(rec, r.WithContext(context.WithoutCancel(r.Context()))) // a server does not learn that the client's context has ended
	resp, err := rec.Result(), error(nil)
	if after != nil {
		resp, err = after(op, n, resp)
	}
	if ctxErr := r.Context().Err(); ctxErr != nil { // as http.Transport does
		return nil, ctxErr
	}
	return resp, err
}

func (w *world) countLocked(op string) (n int) {
	for _, s := range w.seen {
		if s == op {
			n++
		}
	}
	return n
}

func (w *world) count(op string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.countLocked(op)
}

func (w *world) breakWith(before func(op string, n int, r *http.Request) (*http.Response, error), after func(op string, n int, resp *http.Response) (*http.Response, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen, w.before, w.after = nil, before, after
}

func (w *world) client() *lockclient.Client {
	c, err := lockclient.New(lockclient.Config{Endpoint: "http://holdfast.test", HTTPClient: &http.Client{Transport: w}, Owner: "tester"})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) acquire(c *lockclient.Client, opts lockclient.Options) *lockclient.Lease {
	w.t.Helper()
	l, err := c.Acquire(w.t.Context(), "a", opts)
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

func (w *world) locked() bool {
	w.t.Helper()
	s, err := w.coordinator.Status(w.t.Context(), "a")
	if err != nil {
		w.t.Fatal(err)
	}
	return len(s.Holders) > 0
}

func newWorld(t *testing.T) *world {
	c, err := lock.New(lock.Config{Store: &lock.Memory{}})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	a, err := api.New(api.Config{Coordinator: c, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, coordinator: c, handler: local.NewGateway(a, log)}
}

var errCut = errors.New("connection reset by peer")

func cutAll(string, int, *http.Request) (*http.Response, error) { return nil, errCut }

// loseReply loses the answers to the first upTo requests of an operation.
func loseReply(which string, upTo int) func(string, int, *http.Response) (*http.Response, error) {
	return func(op string, n int, resp *http.Response) (*http.Response, error) {
		if op == which && n <= upTo {
			return nil, errCut
		}
		return resp, nil
	}
}

func run(t *testing.T, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) { test(t, newWorld(t)) })
}

func wantIs(t *testing.T, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Errorf("error %v is not %v", err, target)
		}
	}
}
