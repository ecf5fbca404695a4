//go:build unix

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// A life is a command under exec that starts another process. Both hold a pipe open, so that its end shows when both
// have ended.
type life struct {
	service *service
	cmd     *exec.Cmd
	fifo    string // the named pipe
	stderr  *bytes.Buffer
	dead    chan time.Time // when the last of its processes was gone
	ended   chan struct{}  // closed when cmd has ended
	err     error          // of cmd, after that
}

// Scripts that hold the named pipe open, start another process, write "up", and run without end.
const (
	obedient = `exec 3>"$1"; sleep 1000 & echo up >&3; wait`
	stubborn = `exec 3>"$1"; trap "" TERM INT; sh -c 'trap "" TERM INT; while :; do sleep 0.01; done' & echo up >&3; while :; do sleep 0.01; done`
)

func startExec(t *testing.T, s *service, name, script string, flags ...string) *life {
	t.Helper()
	return startExecBy(t, s, nil, name, script, flags...)
}

// startExecBy starts a command under exec by another command. On a machine that is too busy, a lease may be over before the command
// starts, and another attempt is made.
func startExecBy(t *testing.T, s *service, by []string, name, script string, flags ...string) *life {
	t.Helper()
	for range 20 {
		l := tryExec(t, s, by, name, script, flags...)
		if l.up(t, script) {
			return l
		}
		t.Logf("the command did not start: %s", l.stderr)
	}
	t.Fatal("the command did not start in 20 attempts")
	return nil
}

func tryExec(t *testing.T, s *service, by []string, name, script string, flags ...string) *life {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "alive")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"exec", name}, flags...)
	l := &life{
		service: s, cmd: holdfast(t, s.url, append(args, "--", "sh", "-c", script, "sh", fifo)...), fifo: fifo,
		stderr: &bytes.Buffer{}, dead: make(chan time.Time, 1), ended: make(chan struct{}),
	}
	if len(by) > 0 {
		env := l.cmd.Env
		l.cmd = exec.CommandContext(t.Context(), by[0], append(by[1:], l.cmd.Args...)...)
		l.cmd.Env = env
	}
	l.cmd.Stderr = l.stderr
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		l.err = l.cmd.Wait()
		close(l.ended)
	}()
	return l
}

// up reports whether the command and what it starts have started. If not, holdfast has ended.
func (l *life) up(t *testing.T, script string) bool {
	t.Helper()
	up := make(chan bool, 1)
	go func() {
		pipe, err := os.Open(l.fifo) // waits for the command
		if err != nil {
			up <- false
			return
		}
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
	select {
	case said := <-up:
		if !said {
			<-l.ended
		}
		return said
	case <-l.ended:
		for { // the reader may still wait for a command that never comes
			select {
			case said := <-up:
				return said
			case <-time.After(time.Millisecond):
			}
			if pipe, err := os.OpenFile(l.fifo, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
				_ = pipe.Close()
			}
		}
	}
}

// wait waits until the command of the life has ended.
func (l *life) wait() error {
	<-l.ended
	return l.err
}

// died waits until all processes have ended.
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

func (l *life) signal(t *testing.T, n syscall.Signal) {
	t.Helper()
	if err := l.cmd.Process.Signal(n); err != nil {
		t.Fatal(err)
	}
}

// deaths are the ways in which a running command loses its lock. Each returns the time from the loss until all
// processes had ended, which must be before another may hold the lock.
var deaths = map[string]func(t *testing.T) time.Duration{
	"forced out, TERM does": func(t *testing.T) time.Duration {
		s := newService(t)
		l := startExec(t, s, "a", obedient, "--ttl=1s")
		s.force(t, "a")
		at := l.died(t)
		if code := exitOf(l.wait()); code != exitLost {
			t.Errorf("exit code %d: %s", code, l.stderr)
		}
		return at.Sub(time.Unix(0, s.refused.Load()))
	},
	"forced out, KILL after 100 ms": func(t *testing.T) time.Duration {
		s := newService(t)
		l := startExec(t, s, "a", stubborn, "--ttl=1s", "--grace=100ms")
		s.force(t, "a")
		at := l.died(t)
		if code := exitOf(l.wait()); code != exitLost {
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
		if code := exitOf(l.wait()); code != exitLost {
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
		_ = l.wait()
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
		if code := exitOf(l.wait()); code != exitLost {
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
		_ = l.wait()
		if expiry := s.expiry(t, "a"); at.After(expiry) {
			t.Errorf("the command lived until %v after the lease's end", at.Sub(expiry))
		}
		return at.Sub(killed)
	},
}

// A command and all processes that it started end with its lock.
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

// Processes that left the command's process group end with the lock, too.
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
			if code := exitOf(l.wait()); code != test.code {
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
	if code := exitOf(l.wait()); code != exitLost {
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
	_ = forced.wait()
	if text := forced.stderr.String(); strings.Count(text, "the lock is lost") != 1 || strings.Count(text, "\n") != 2 {
		t.Errorf("told %q", text)
	}
}

// If the command was stopped because the lease could not be renewed, exec ends with the lease, even if the coordinator
// does not answer the release.
func TestExecEndsWithItsLease(t *testing.T) {
	s := newService(t)
	l := startExec(t, s, "a", obedient, "--ttl=2s", "--grace=50ms", "--timeout=20s")
	s.hangs.Store(true)
	expiry := s.expiry(t, "a") // no renewal moves it any more
	l.died(t)
	code, late := exitOf(l.wait()), time.Since(expiry)
	if code != exitLost || late > 10*time.Second {
		t.Errorf("exit code %d, %v after the lease: %s", code, late, l.stderr)
	}
}

// With --with-parent, the command ends when the shell that started holdfast is killed.
func TestExecWithParent(t *testing.T) {
	s := newService(t)
	l := startExecBy(t, s, []string{"sh", "-c", `"$@"; :`, "sh"}, "a", stubborn, "--with-parent", "--ttl=1s")
	l.signal(t, syscall.SIGKILL) // the shell alone
	l.died(t)
	_ = l.wait()
}

// Processes that the command leaves behind are stopped before the lock is released.
func TestExecStopsWhatIsLeft(t *testing.T) {
	s := newService(t)
	l := startExec(t, s, "a", `exec 3>"$1"; sleep 1000 & echo up >&3; exit 3`)
	l.died(t)
	if code := exitOf(l.wait()); code != 3 {
		t.Errorf("exit code %d", code)
	}
}
