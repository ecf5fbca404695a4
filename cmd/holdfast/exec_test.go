//go:build unix

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// With --no-wait, exec does not wait for a coordinator that is unreachable.
func TestExecNoWaitWithoutCoordinator(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	out, err := holdfast(t, server.URL, "exec", "a", "--no-wait", "--timeout=100ms", "--", "echo", "ran").CombinedOutput()
	if exitOf(err) != exitFailed || !strings.Contains(string(out), "refused") || strings.Contains(string(out), "ran\n") {
		t.Errorf("exit code %d: %s", exitOf(err), out)
	}
}

// --at-least keeps the lock for its time, also when a signal ends exec before.
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

// The command gets its lock and fence, exec exits with its exit code, and the lock is free afterwards.
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
		{[]string{"exec", "--lock", "b/20", "--lock", "a", "--", "sh", "-c", `echo "$HOLDFAST_LOCK ${HOLDFAST_FENCE:-none} ${HOLDFAST_FENCES:+fenced}"`}, 0, "a,b none fenced\n"},
		{[]string{"exec", "--no-wait", "--lock", "a", "--lock", "b/20/2", "--", "echo", "--lock"}, 0, "--lock\n"},
		{[]string{"exec", "--lock", "a", "--", "true"}, 0, ""},
		{[]string{"exec", "--lock", "a", "--lock", "a", "--", "true"}, exitFailed, ""},
		{[]string{"exec", "--lock", "a", "--lock", "b/0", "--", "true"}, exitFailed, ""},
		{[]string{"exec", "--lock", "a", "--lock", "b/2/3", "--", "true"}, exitFailed, ""},
		{[]string{"exec", "--lock", "a,b", "--", "true"}, exitFailed, ""},
		{[]string{"exec", "--lock", "a", "--capacity", "2", "--", "true"}, exitFailed, ""},
		{[]string{"exec", "--lock", "a", "--lock", "b", "--write", "--", "true"}, exitFailed, ""},
		{[]string{"exec", "--lock", "a", "--lock", "b"}, exitFailed, ""},
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

// A signal to holdfast is passed on to the command; the lock is released when the command has ended.
func TestExecForwardsSignals(t *testing.T) {
	s := newService(t)
	l := startExec(t, s, "a", `exec 3>"$1"; trap 'exit 42' TERM; echo up >&3; while :; do sleep 0.01; done`)
	if err := l.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	l.died(t)
	if code := exitOf(l.wait()); code != 42 {
		t.Errorf("exit code %d: %s", code, l.stderr)
	}
	if status, err := s.coordinator.Status(t.Context(), "a"); err != nil || len(status.Holders) > 0 {
		t.Errorf("afterwards %+v, %v", status, err)
	}
}

// A waiter reports the holder, and gets the lock next; contention has an exit code of its own.
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
	_ = l.wait()
	// A waiter that is interrupted leaves the queue.
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
	_ = holder.wait()
}
