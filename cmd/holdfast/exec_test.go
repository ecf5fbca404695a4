package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
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
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/gateway"
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

// A service is a coordinator on a port, and what a test does to it.
type service struct {
	coordinator *lock.Coordinator
	url         string
	cut         atomic.Bool  // no request is answered any more
	hangs       atomic.Bool  // nor is its connection closed
	refused     atomic.Int64 // when a renewal was first answered that the lease is lost, in Unix nanoseconds
	requests    atomic.Int64
}

func newService(t *testing.T) *service {
	s := &service{}
	var err error
	if s.coordinator, err = lock.New(lock.Config{Store: &lock.Memory{}}); err != nil {
		t.Fatal(err)
	}
	a, err := api.New(api.Config{Coordinator: s.coordinator, Log: slog.New(slog.DiscardHandler), MinTTL: minDevTTL})
	if err != nil {
		t.Fatal(err)
	}
	g := gateway.New(a, slog.New(slog.DiscardHandler))
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

func exitOf(err error) int {
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		return failed.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

// A life is a command under exec that starts another process, whose common end a pipe tells.
type life struct {
	service *service
	cmd     *exec.Cmd
	stderr  *bytes.Buffer
	dead    chan time.Time // when the last of its processes was gone
}

// Scripts that hold the named pipe open, start another process, say that they run, and go on for ever.
const (
	obedient = `exec 3>"$1"; sleep 1000 & echo up >&3; wait`
	stubborn = `exec 3>"$1"; trap "" TERM INT; sh -c 'trap "" TERM INT; while :; do sleep 0.01; done' & echo up >&3; while :; do sleep 0.01; done`
)

func startExec(t *testing.T, s *service, name, script string, flags ...string) *life {
	t.Helper()
	return startExecBy(t, s, nil, name, script, flags...)
}

// startExecBy starts a command under exec by another command.
func startExecBy(t *testing.T, s *service, by []string, name, script string, flags ...string) *life {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "alive")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"exec", name}, flags...)
	l := &life{service: s, cmd: holdfast(t, s.url, append(args, "--", "sh", "-c", script, "sh", fifo)...), stderr: &bytes.Buffer{}, dead: make(chan time.Time, 1)}
	if len(by) > 0 {
		env := l.cmd.Env
		l.cmd = exec.CommandContext(t.Context(), by[0], append(by[1:], l.cmd.Args...)...)
		l.cmd.Env = env
	}
	l.cmd.Stderr = l.stderr
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.Open(fifo) // waits for the command
	if err != nil {
		t.Fatal(err)
	}
	up := make(chan bool)
	go func() {
		defer func() { _ = pipe.Close() }()
		lines := bufio.NewReader(pipe)
		said := true
		for range strings.Count(script, "echo up") {
			_, err := lines.ReadString('\n')
			said = said && err == nil
		}
		up <- said
		buf := make([]byte, 16)
		for {
			if n, err := pipe.Read(buf); n == 0 || err != nil {
				l.dead <- time.Now()
				return
			}
		}
	}()
	if !<-up {
		t.Fatalf("the command did not start: %s", l.stderr)
	}
	return l
}

// died waits until every process is gone.
func (l *life) died(t *testing.T) time.Time {
	t.Helper()
	select {
	case at := <-l.dead:
		return at
	case <-time.After(30 * time.Second):
		t.Fatal("processes live on")
		return time.Time{}
	}
}

func (s *service) expiry(t *testing.T, name string) time.Time {
	t.Helper()
	status, err := s.coordinator.Status(t.Context(), name)
	if err != nil || len(status.Holders) != 1 {
		t.Fatalf("status %+v, %v", status, err)
	}
	return time.UnixMilli(status.Holders[0].ExpiresAt)
}

func (l *life) signal(t *testing.T, n syscall.Signal) {
	t.Helper()
	if err := l.cmd.Process.Signal(n); err != nil {
		t.Fatal(err)
	}
}

func (s *service) force(t *testing.T, name string) {
	t.Helper()
	if _, err := s.coordinator.ForceRelease(t.Context(), lock.ForceReleaseRequest{Lock: name, Reason: "test"}); err != nil {
		t.Fatal(err)
	}
}

// deaths are the ways in which a lock is lost under a running command. Each answers how long all its processes lived on; what
// they must not do is live when another may hold the lock.
var deaths = map[string]func(t *testing.T) time.Duration{
	"forced out, TERM does": func(t *testing.T) time.Duration {
		s := newService(t)
		l := startExec(t, s, "a", obedient, "--ttl=1s")
		s.force(t, "a")
		at := l.died(t)
		if code := exitOf(l.cmd.Wait()); code != exitLost {
			t.Errorf("exit code %d: %s", code, l.stderr)
		}
		return at.Sub(time.Unix(0, s.refused.Load()))
	},
	"forced out, KILL after 100 ms": func(t *testing.T) time.Duration {
		s := newService(t)
		l := startExec(t, s, "a", stubborn, "--ttl=1s", "--grace=100ms")
		s.force(t, "a")
		at := l.died(t)
		if code := exitOf(l.cmd.Wait()); code != exitLost {
			t.Errorf("exit code %d: %s", code, l.stderr)
		}
		return at.Sub(time.Unix(0, s.refused.Load()))
	},
	"cut off": func(t *testing.T) time.Duration {
		s := newService(t)
		l := startExec(t, s, "a", stubborn, "--ttl=1s", "--grace=100ms")
		s.cut.Store(true)
		at := l.died(t)
		expiry := s.expiry(t, "a")
		if code := exitOf(l.cmd.Wait()); code != exitLost {
			t.Errorf("exit code %d: %s", code, l.stderr)
		}
		return at.Sub(expiry.Add(lock.DefaultSkew)) // since it could be taken: before that
	},
	"holdfast killed": func(t *testing.T) time.Duration {
		s := newService(t)
		l := startExec(t, s, "a", obedient, "--ttl=10s")
		killed := time.Now()
		if err := l.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		at := l.died(t)
		_ = l.cmd.Wait()
		return at.Sub(killed)
	},
	"holdfast stopped": func(t *testing.T) time.Duration {
		s := newService(t)
		l := startExec(t, s, "a", stubborn, "--ttl=1s")
		if err := l.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		expiry := s.expiry(t, "a")
		at := l.died(t)
		_ = l.cmd.Process.Signal(syscall.SIGCONT)
		if code := exitOf(l.cmd.Wait()); code != exitLost {
			t.Errorf("exit code %d: %s", code, l.stderr)
		}
		return at.Sub(expiry.Add(lock.DefaultSkew)) // since it could be taken: before that
	},
	"holdfast killed, command stubborn": func(t *testing.T) time.Duration {
		s := newService(t)
		l := startExec(t, s, "a", stubborn, "--ttl=10s", "--grace=100ms")
		killed := time.Now()
		if err := l.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		at := l.died(t)
		_ = l.cmd.Wait()
		if expiry := s.expiry(t, "a"); at.After(expiry) {
			t.Errorf("the command lived until %v after the lease's end", at.Sub(expiry))
		}
		return at.Sub(killed)
	},
}

// A command does not outlive its lock, nor does anything that it started.
func TestExecDeaths(t *testing.T) {
	for name, death := range deaths {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			var took []time.Duration
			for range execRuns {
				t.Run("", func(t *testing.T) {
					t.Parallel()
					d := death(t)
					mu.Lock()
					defer mu.Unlock()
					took = append(took, d)
				})
			}
			t.Cleanup(func() { // when all have run
				if len(took) == 0 {
					return
				}
				slices.Sort(took)
				at := func(percent int) time.Duration {
					return took[min(len(took)*percent/100, len(took)-1)].Round(100 * time.Microsecond)
				}
				fmt.Printf("exec: %s: p50 %v, p99 %v, max %v over %d runs, no process left\n", name, at(50), at(99), at(100), len(took))
				if execStrict && (name == "cut off" || name == "holdfast stopped") && at(100) > 0 {
					t.Errorf("a command lived %v into the time when another may hold the lock", at(100))
				}
			})
		})
	}
}

// escaping starts processes that leave the command's process group.
const escaping = `exec 3>"$1"
timeout 1000 sh -c 'echo up >&3; sleep 1000; :' &
setsid sh -c 'echo up >&3; sleep 1000; :' &
setsid sh -c 'trap "" TERM; echo up >&3; while :; do sleep 1000; done' &
nohup sh -c 'echo up >&3; sleep 1000; :' >/dev/null 2>&1 &
bash -m -c 'sleep 1000 & echo up >&3; wait' &
echo 1000 | xargs -P 2 -n 1 sh -c 'echo up >&3; sleep "$0"; :' &
sh -c 'setsid sh -c "(echo up >&3; sleep 1000; :) & exit" & exit'
echo up >&3; wait`

// Nor does anything that left the command's process group.
func TestExecEscapes(t *testing.T) {
	for name, test := range map[string]struct {
		do   func(t *testing.T, s *service, l *life)
		code int
	}{
		"forced out": {func(t *testing.T, s *service, _ *life) { s.force(t, "a") }, exitLost},
		"cut off":    {func(_ *testing.T, s *service, _ *life) { s.cut.Store(true) }, exitLost},
		"cancelled":  {func(t *testing.T, _ *service, l *life) { l.signal(t, syscall.SIGTERM) }, 128 + int(syscall.SIGTERM)},
		"killed":     {func(t *testing.T, _ *service, l *life) { l.signal(t, syscall.SIGKILL) }, -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newService(t)
			l := startExec(t, s, "a", escaping, "--ttl=3s", "--grace=100ms")
			test.do(t, s, l)
			l.died(t)
			if code := exitOf(l.cmd.Wait()); code != test.code {
				t.Errorf("exit code %d: %s", code, l.stderr)
			}
		})
	}
}

// exec reports a failing renewal at once, with the time until which the lease is proved, and reports the loss once.
func TestExecTellsOfAnOutage(t *testing.T) {
	s := newService(t)
	l := startExec(t, s, "a", obedient, "--ttl=2s", "--grace=50ms")
	s.cut.Store(true)
	l.died(t)
	if code := exitOf(l.cmd.Wait()); code != exitLost {
		t.Errorf("exit code %d", code)
	}
	text := l.stderr.String()
	failing, stopping := strings.Index(text, "renewal is failing; the lease of a is proved until "), strings.Index(text, "stopping the command")
	if failing < 0 || stopping < failing || strings.Count(text, "renewal is failing") != 1 || strings.Count(text, "\n") != 3 {
		t.Errorf("told %q", text)
	}
	forced := startExec(t, newService(t), "a", obedient, "--ttl=1s")
	forced.service.force(t, "a")
	forced.died(t)
	_ = forced.cmd.Wait()
	if text := forced.stderr.String(); strings.Count(text, "the lock is lost") != 1 || strings.Count(text, "\n") != 2 {
		t.Errorf("told %q", text)
	}
}

// When the command was ended because the lease could not be renewed, exec ends with the lease, whether or not the coordinator
// answers the release.
func TestExecEndsWithItsLease(t *testing.T) {
	s := newService(t)
	l := startExec(t, s, "a", obedient, "--ttl=2s", "--grace=50ms", "--timeout=20s")
	s.hangs.Store(true)
	expiry := s.expiry(t, "a") // no renewal moves it any more
	l.died(t)
	code, late := exitOf(l.cmd.Wait()), time.Since(expiry)
	if code != exitLost || late > 10*time.Second {
		t.Errorf("exit code %d, %v after the lease: %s", code, late, l.stderr)
	}
}

// A command that gives up says what it waits for, and a second interrupt ends it at once.
func TestGivingUpIsTold(t *testing.T) {
	s := newService(t)
	s.hangs.Store(true)
	cmd := holdfast(t, s.url, "acquire", "a", "--timeout=1m")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() && !strings.Contains(lines.Text(), "coordinator unreachable") {
	}
	_ = cmd.Process.Signal(os.Interrupt)
	for lines.Scan() && !strings.Contains(lines.Text(), "giving up; releasing a first") {
	}
	told := lines.Text()
	_ = cmd.Process.Signal(os.Interrupt)
	_ = cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGINT {
		t.Errorf("%v after %q", cmd.ProcessState, told)
	}
}

// Nothing waits for a coordinator that is not there, when it is not to wait.
func TestExecNoWaitWithoutCoordinator(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	out, err := holdfast(t, server.URL, "exec", "a", "--no-wait", "--timeout=100ms", "--", "echo", "ran").CombinedOutput()
	if exitOf(err) != exitFailed || !strings.Contains(string(out), "refused") || strings.Contains(string(out), "ran\n") {
		t.Errorf("exit code %d: %s", exitOf(err), out)
	}
}

// The lock is kept for as long as was asked for, also when a signal ends the wait.
func TestExecAtLeast(t *testing.T) {
	s := newService(t)
	start := time.Now()
	if out, err := holdfast(t, s.url, "exec", "a", "--at-least=300ms", "--", "true").CombinedOutput(); err != nil || time.Since(start) < 300*time.Millisecond {
		t.Errorf("%v after %v: %s", err, time.Since(start), out)
	}
	if status, err := s.coordinator.Status(t.Context(), "a"); err != nil || len(status.Holders) > 0 {
		t.Errorf("afterwards %+v, %v", status, err)
	}
	for name, flags := range map[string][]string{"b": {"--at-least=1h"}, "c": {"--at-least=1m", "--ttl=1h"}} {
		cmd := holdfast(t, s.url, append(append([]string{"exec", name, "--json"}, flags...), "--", "sh", "-c", "exit 3")...)
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(stderr)
		for lines.Scan() && !strings.Contains(lines.Text(), "keeping "+name+" until") {
		}
		if code := exitOf(holdfast(t, s.url, "exec", name, "--no-wait", "--", "true").Run()); code != exitHeld {
			t.Errorf("another host: exit code %d", code)
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		var kept struct {
			Message string    `json:"message"`
			Expires time.Time `json:"expires_at"`
		}
		for lines.Scan() && !strings.Contains(kept.Message, name+" stays held until its lease runs out at") {
			_ = json.Unmarshal(lines.Bytes(), &kept)
		}
		if code := exitOf(cmd.Wait()); code != 3 {
			t.Errorf("exit code %d", code)
		}
		if expiry := s.expiry(t, name); time.Until(expiry) < 59*time.Minute || expiry.Sub(kept.Expires).Abs() > 10*time.Second {
			t.Errorf("%v: held until %v, and %q says %v", flags, expiry, kept.Message, kept.Expires)
		}
	}
}

// exec reports a command that it cannot run once, and works with few file descriptors as well.
func TestExecCannotRun(t *testing.T) {
	s := newService(t)
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("echo ran\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for command, says := range map[string]string{
		script:                     "exec format error; if it is a script, let it begin with a line such as #!/bin/sh\n",
		"./holdfast-no-such":       "cannot run ./holdfast-no-such: stat ./holdfast-no-such: no such file or directory\n",
		"holdfast-no-such-command": "cannot run holdfast-no-such-command: executable file not found in $PATH\n",
	} {
		if out, err := holdfast(t, s.url, "exec", "a", "--", command).CombinedOutput(); err == nil || !strings.HasSuffix(string(out), says) {
			t.Errorf("%s: %v: %s", command, err, out)
		}
	}
	cmd := holdfast(t, s.url, "exec", "a", "--", "echo", "ran")
	cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", `ulimit -n 32; exec "$0" "$@"`}, cmd.Args...)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "ran\n") {
		t.Errorf("32 descriptors: %v: %s", err, out)
	}
}

// With --with-parent, a job whose shell was killed ends.
func TestExecWithParent(t *testing.T) {
	s := newService(t)
	l := startExecBy(t, s, []string{"sh", "-c", `"$@"; :`, "sh"}, "a", stubborn, "--with-parent", "--ttl=1s")
	l.signal(t, syscall.SIGKILL) // the shell alone
	l.died(t)
	_ = l.cmd.Wait()
}

func TestParentGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var parent atomic.Int64
		parent.Store(7)
		gone := parentGone(ctx, func() int { return int(parent.Load()) }, time.Second)
		time.Sleep(time.Hour)
		select {
		case <-gone:
			t.Error("the parent is there")
		default:
		}
		at := time.Now()
		parent.Store(1)
		if <-gone; time.Since(at) > time.Second {
			t.Errorf("noticed after %v", time.Since(at))
		}
		never := parentGone(ctx, func() int { return 1 }, time.Second)
		cancel()
		synctest.Wait() // it ends with ctx
		select {
		case <-never:
			t.Error("the parent is there")
		default:
		}
	})
}

func TestExecGrace(t *testing.T) {
	for _, test := range []struct {
		ttl, grace, want time.Duration // grace of -1: not given
		ok               bool
	}{
		{time.Minute, -1, 5 * time.Second, true},
		{30 * time.Second, -1, 5 * time.Second, true},
		{12 * time.Second, -1, 2 * time.Second, true},
		{time.Second, -1, time.Second / 6, true},
		{time.Minute, 0, 0, true},
		{time.Minute, 10 * time.Second, 10 * time.Second, true},
		{time.Minute, 10*time.Second + 1, 0, false},
		{time.Minute, -2, 0, false},
	} {
		c := execCmd{taking: taking{TTL: test.ttl}, Command: []string{"true"}}
		if test.grace != -1 {
			c.Grace = &test.grace
		}
		if err := c.check(); (err == nil) != test.ok || test.ok && c.grace() != test.want {
			t.Errorf("--ttl %v --grace %v: %v, %v", test.ttl, test.grace, c.grace(), err)
		}
	}
}

// Notices come in order, and nobody waits for a reader that is not there.
func TestNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		n := newNotices(&streams{err: w})
		for i := range 100 { // more than are kept
			n.say("x", fmt.Sprint(i))
		}
		start := time.Now()
		n.drain(time.Second)
		n.flush()
		n.flush()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("waited %v for a reader", took)
		}
		lines := bufio.NewScanner(r)
		for i := range 60 {
			if !lines.Scan() || lines.Text() != fmt.Sprintf("holdfast: %d", i) {
				t.Fatalf("line %d is %q", i, lines.Text())
			}
		}
		_ = r.Close()
	})
}

// The command's exit code, its lock and its fence go through, and the lock comes free.
func TestExec(t *testing.T) {
	s := newService(t)
	for _, test := range []struct {
		args []string
		code int
		out  string
	}{
		{[]string{"exec", "a", "--", "sh", "-c", `echo "$HOLDFAST_LOCK ${HOLDFAST_FENCE:+fenced} $HOLDFAST_LEASE"`}, 0, "a fenced \n"},
		{[]string{"exec", "a", "--", "sh", "-c", "exit 7"}, 7, ""},
		{[]string{"exec", "a", "--", "sh", "-c", "kill -9 $$"}, 137, ""},
		{[]string{"exec", "a", "--", "holdfast-no-such-command"}, exitMissing, ""},
		{[]string{"exec", "a", "--", "/"}, exitCannot, ""},
		{[]string{"exec", "a", "--"}, exitFailed, ""},
		{[]string{"exec", "a b", "--", "true"}, exitFailed, ""},
		{[]string{"exec", "a", "--metadata", "[]", "--", "true"}, exitFailed, ""},
		{[]string{"exec", "a", "--wait", "1s", "--no-wait", "--", "true"}, exitFailed, ""},
		{[]string{"exec", "a", "--tll", "5s", "--", "true"}, exitFailed, ""},
		{[]string{"exec", "a", "--grace", "10s", "--", "true"}, 0, ""},
		{[]string{"exec", "a", "--grace", "10001ms", "--", "true"}, exitFailed, ""},
		{[]string{"exec", "a", "--grace=-1s", "--", "true"}, exitFailed, ""},
		{[]string{"exec", "a", "--at-least=-1s", "--", "true"}, exitFailed, ""},
		{[]string{"exec", "a", "--ttl", "0", "--", "true"}, exitFailed, ""},
		{[]string{"exec", "a", "--", "echo", "--no-wait"}, 0, "--no-wait\n"},
		{[]string{"exec", "a", "--", "printf", "%s", "not UTF-8: \xff\xfe <\u2028>&", ""}, 0, "not UTF-8: \xff\xfe <\u2028>&"},
	} {
		cmd := holdfast(t, s.url, test.args...)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if exitOf(err) != test.code || string(out) != test.out {
			t.Errorf("%v: exit code %d, out %q, %s", test.args, exitOf(err), out, &errs)
		}
		if status, err := s.coordinator.Status(t.Context(), "a"); err != nil || len(status.Holders) > 0 {
			t.Errorf("%v: afterwards %+v, %v", test.args, status, err)
		}
	}
}

// What a command leaves in its process group when it ends is stopped before the lock is given back.
func TestExecStopsWhatIsLeft(t *testing.T) {
	s := newService(t)
	l := startExec(t, s, "a", `exec 3>"$1"; sleep 1000 & echo up >&3; exit 3`)
	l.died(t)
	if code := exitOf(l.cmd.Wait()); code != 3 {
		t.Errorf("exit code %d", code)
	}
}

// A signal to holdfast is the command's, which decides; the lock is given back when it has ended.
func TestExecForwardsSignals(t *testing.T) {
	s := newService(t)
	l := startExec(t, s, "a", `exec 3>"$1"; trap 'exit 42' TERM; echo up >&3; while :; do sleep 0.01; done`)
	if err := l.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	l.died(t)
	if code := exitOf(l.cmd.Wait()); code != 42 {
		t.Errorf("exit code %d: %s", code, l.stderr)
	}
	if status, err := s.coordinator.Status(t.Context(), "a"); err != nil || len(status.Holders) > 0 {
		t.Errorf("afterwards %+v, %v", status, err)
	}
}

// A waiter says who is in the way, gets its turn, and contention has a code of its own.
func TestExecWaits(t *testing.T) {
	s := newService(t)
	l := startExec(t, s, "a", obedient, "--owner=first")
	out, err := holdfast(t, s.url, "exec", "a", "--no-wait", "--", "true").CombinedOutput()
	if exitOf(err) != exitHeld || !strings.Contains(string(out), "first") {
		t.Errorf("exit code %d: %s", exitOf(err), out)
	}
	out, err = holdfast(t, s.url, "--json", "exec", "a", "--wait=300ms", "--", "true").CombinedOutput()
	if exitOf(err) != exitHeld || !strings.Contains(string(out), `"event":"waiting"`) {
		t.Errorf("exit code %d: %s", exitOf(err), out)
	}
	second := holdfast(t, s.url, "exec", "a", "--", "echo", "mine")
	var errs bytes.Buffer
	second.Stderr = &errs
	time.AfterFunc(500*time.Millisecond, func() { _ = l.cmd.Process.Signal(syscall.SIGTERM) })
	if out, err := second.Output(); err != nil || string(out) != "mine\n" || !strings.Contains(errs.String(), "held by first until") {
		t.Errorf("%v: %s %s", err, out, &errs)
	}
	l.died(t)
	_ = l.cmd.Wait()
	// A waiter that is interrupted leaves nothing.
	holder := startExec(t, s, "b", obedient)
	waiter := holdfast(t, s.url, "exec", "b", "--", "true")
	before := s.requests.Load()
	if err := waiter.Start(); err != nil {
		t.Fatal(err)
	}
	for s.requests.Load() == before { // until it waits
		time.Sleep(5 * time.Millisecond)
	}
	_ = waiter.Process.Signal(syscall.SIGINT)
	if code := exitOf(waiter.Wait()); code != exitSignal {
		t.Errorf("an interrupted waiter: exit code %d", code)
	}
	_ = holder.cmd.Process.Signal(syscall.SIGTERM)
	holder.died(t)
	_ = holder.cmd.Wait()
}

// No list of processes and no environment of a child has a lease's secret.
func TestSecretsStayOut(t *testing.T) {
	s := newService(t)
	file := filepath.Join(t.TempDir(), "lease")
	out, err := holdfast(t, s.url, "acquire", "a", "--lease-file", file).Output()
	if err != nil || strings.Contains(string(out), "HOLDFAST_LEASE") {
		t.Fatalf("%v: %s", err, out)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	for _, op := range []string{"renew", "release"} {
		if out, err := holdfast(t, s.url, op, "a", "--lease-file", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", op, err, out)
		}
	}
	for _, wait := range []string{"--wait=1m", "--no-wait"} { // the second is refused, and leaves the first one's secret
		err := holdfast(t, s.url, "acquire", "b", "--lease-file", file, wait).Run()
		if want := map[string]int{"--wait=1m": 0, "--no-wait": exitHeld}[wait]; exitOf(err) != want {
			t.Errorf("%s: %v", wait, err)
		}
	}
	if out, err := holdfast(t, s.url, "release", "b", "--lease-file", file).CombinedOutput(); err != nil {
		t.Errorf("release: %v: %s", err, out)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	cmd := holdfast(t, s.url, "release", "a")
	cmd.Env = append(cmd.Env, "HOLDFAST_LEASE=another-secret-0123")
	if code := exitOf(cmd.Run()); code != exitLost {
		t.Errorf("release of a lease that never was: exit code %d", code)
	}
	if code := exitOf(holdfast(t, s.url, "release", "a").Run()); code != exitFailed {
		t.Errorf("release without a secret: exit code %d", code)
	}
}
