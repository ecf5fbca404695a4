package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/local"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// binary builds the command once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "holdfast-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "holdfast")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// A service is a coordinator on a port, with switches for its failures.
type service struct {
	memory      lock.Memory
	coordinator *lock.Coordinator
	url         string
	cut         atomic.Bool  // no request is answered any more
	hangs       atomic.Bool  // nor is its connection closed
	refused     atomic.Int64 // when a renewal was first answered that the lease is lost, in Unix nanoseconds
	requests    atomic.Int64
	lists       atomic.Int64 // answered
}

func newService(t *testing.T) *service {
	s := &service{}
	var err error
	if s.coordinator, err = lock.New(lock.Config{Store: &s.memory}); err != nil {
		t.Fatal(err)
	}
	a, err := api.New(api.Config{Coordinator: s.coordinator, Log: slog.New(slog.DiscardHandler), MinTTL: minDevTTL})
	if err != nil {
		t.Fatal(err)
	}
	g := local.NewGateway(a, slog.New(slog.DiscardHandler))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		if s.hangs.Load() {
			_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the client has gone
			<-r.Context().Done()
		}
		if s.cut.Load() {
			panic(http.ErrAbortHandler)
		}
		rec := httptest.NewRecorder()
		g.ServeHTTP(rec, r)
		maps.Copy(w.Header(), rec.Header())
		if rec.Code == http.StatusGone && strings.HasSuffix(r.URL.Path, "/renew") {
			s.refused.CompareAndSwap(0, time.Now().UnixNano())
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes())
		if r.URL.Path == "/v1/locks" {
			s.lists.Add(1)
		}
	}))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// holdfast makes a command line of the built command.
func holdfast(t *testing.T, url string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append(os.Environ(), "HOLDFAST_ENDPOINT="+url)
	return cmd
}

// commands makes this the coordinator of all commands, and returns a function that runs one, whose arguments stand between bars, and checks its exit code and what it says.
func (s *service) commands(t *testing.T) (want func(args, says string, code int)) {
	t.Helper()
	t.Setenv("HOLDFAST_ENDPOINT", s.url)
	return func(args, says string, wantCode int) {
		t.Helper()
		code, out, errs := call(t.Context(), strings.Split(args, "|")...)
		if code != wantCode || !strings.Contains(out+errs, says) {
			t.Errorf("%s: exit code %d\n%s%s\nwant %d and %q", args, code, out, errs, wantCode, says)
		}
	}
}

// withOldRule stores a rule that was removed an hour ago. Without one, the first rule is in force after ten seconds, not one.
func (s *service) withOldRule(t *testing.T) {
	t.Helper()
	old := lock.PrefixRule{Prefix: "gone:", Rev: 1, At: time.Now().Add(-time.Hour).UnixMilli()}
	if err := s.memory.PutPrefixRule(t.Context(), old); err != nil {
		t.Fatal(err)
	}
}

// refuseToGuard ends this process if exec has started the test binary as its guard, because a test ran exec within its own process and got the lock. The binary
// would run the tests again, and they exec, without end. Use [holdfast] for an exec that runs a command.
func refuseToGuard() {
	if len(os.Args) > 1 && os.Args[1] == "guard" {
		_, _ = fmt.Fprintln(os.Stderr, "exec was run within a test's process; run the built binary with the helper holdfast")
		os.Exit(exitCannot)
	}
}

func exitOf(err error) int {
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		return failed.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

func (s *service) expiry(t *testing.T, name string) time.Time {
	t.Helper()
	status, err := s.coordinator.Status(t.Context(), name)
	if err != nil || len(status.Holders) != 1 {
		t.Fatalf("status %+v, %v", status, err)
	}
	return time.UnixMilli(status.Holders[0].ExpiresAt)
}

func (s *service) force(t *testing.T, name string) {
	t.Helper()
	if _, err := s.coordinator.ForceRelease(t.Context(), lock.ForceReleaseRequest{Lock: name, Reason: "test"}); err != nil {
		t.Fatal(err)
	}
}
