//go:build unix

package supervise

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// These tests run real processes. The supervisor and its guard are this test binary, started again, since a supervisor
// becomes a child subreaper and must have no other children.
func TestMain(m *testing.M) {
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "guard":
		var fd int
		if fd, err = strconv.Atoi(os.Args[2]); err == nil {
			err = Guard(fd)
		}
	case len(os.Args) > 3 && os.Args[1] == "run":
		err = runJob()
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A jobLease lasts for a given time from the start, or is renewed without end. It is lost at SIGUSR1.
type jobLease struct {
	done    chan struct{}
	until   time.Time
	renewed bool
}

func (l *jobLease) Done() <-chan struct{} { return l.done }
func (l *jobLease) Remaining() time.Duration {
	if l.renewed {
		return time.Minute
	}
	return time.Until(l.until)
}

// runJob is "run LEASE COMMAND...". It writes the outcome as JSON to descriptor 3, which the command does not inherit.
func runJob() error {
	syscall.CloseOnExec(3)
	life, err := time.ParseDuration(os.Args[2])
	if err != nil {
		return err
	}
	lease := &jobLease{done: make(chan struct{}), until: time.Now().Add(life), renewed: life == 0}
	lose := make(chan os.Signal, 1)
	signal.Notify(lose, syscall.SIGUSR1)
	go func() {
		<-lose
		close(lease.done)
	}()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	outcome, err := Run(Config{
		Path: os.Args[3], Args: os.Args[3:], Env: append(os.Environ(), "GIVEN=1"), Guard: []string{self, "guard"},
		Lease: lease, Grace: 100 * time.Millisecond, CheckEvery: 50 * time.Millisecond, Signals: signals,
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.NewFile(3, "outcome")).Encode(outcome)
}

// A job is a supervised command. Its processes hold a named pipe open, so that the pipe's end shows when all have
// ended.
type job struct {
	cmd     *exec.Cmd
	lines   *bufio.Scanner // what the processes write to the pipe
	outcome *os.File
	fifo    string
	out     bytes.Buffer
}

// startJob runs a shell script, in which descriptor 9 is the pipe.
func startJob(t *testing.T, lease time.Duration, script string) *job {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "alive")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	j := &job{cmd: exec.Command(self, "run", lease.String(), "/bin/bash", "-c", `exec 9>"$1"; `+script, "bash", fifo), outcome: r, fifo: fifo}
	j.cmd.ExtraFiles = []*os.File{w}
	j.cmd.Stdout, j.cmd.Stderr = &j.out, &j.out
	j.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := j.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	pipe, err := os.Open(fifo) // waits for the command
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = pipe.Close(), r.Close() })
	j.lines = bufio.NewScanner(pipe)
	return j
}

// read reads a number of lines from the pipe.
func (j *job) read(t *testing.T, n int) (lines []string) {
	t.Helper()
	for range n {
		if !j.lines.Scan() {
			t.Fatalf("the command ended after %q: %s", lines, &j.out)
		}
		lines = append(lines, j.lines.Text())
	}
	return lines
}

// finish waits until all processes have ended, and returns the outcome.
func (j *job) finish(t *testing.T) (o Outcome, err error) {
	t.Helper()
	for j.lines.Scan() { // until the last process has closed it
	}
	decodeErr := json.NewDecoder(j.outcome).Decode(&o)
	if err := j.cmd.Wait(); err != nil {
		return o, err
	}
	return o, decodeErr
}

func (j *job) signal(t *testing.T, n syscall.Signal) {
	t.Helper()
	if err := j.cmd.Process.Signal(n); err != nil {
		t.Fatal(err)
	}
}

// escapes are ways for a process to leave its process group or to lose its parent. Each writes its name once it has.
var escapes = map[string]string{
	"timeout":     `timeout 1000 sh -c 'echo timeout >&9; sleep 1000; :'`,
	"setsid":      `setsid sh -c 'echo setsid >&9; sleep 1000; :'`,
	"deaf":        `setsid sh -c 'trap "" TERM HUP INT; echo deaf >&9; while :; do sleep 1000; done'`,
	"nohup":       `nohup sh -c 'echo nohup >&9; sleep 1000; :' >/dev/null 2>&1`,
	"bash -m":     `bash -m -c 'sleep 1000 & echo bash -m >&9; wait'`,
	"xargs -P":    `printf '%s\n' 1000 1000 | xargs -P 2 -n 1 sh -c '[ "$0" != 1000 ] || echo xargs -P >&9; sleep 1000; :'`,
	"fork twice":  `sh -c 'setsid sh -c "(echo fork twice >&9; sleep 1000; :) & exit" & exit'`,
	"stopped":     `sh -c 'echo stopped >&9; kill -STOP $$; :'`,
	"keeps fresh": `setsid bash -c 'f() { [ -n "$1" ] || echo keeps fresh >&9; (f again) & }; f'`,
}

// all is a script that starts every escape in the background, and the number of lines that they write.
func all(t *testing.T) (script string, lines int) {
	t.Helper()
	for name, s := range escapes {
		if name == "keeps fresh" { // it has a test of its own
			continue
		}
		script += s + " & "
		lines++
	}
	return script, lines + 1 // xargs starts two
}

// All processes that the command started end, however the command ends.
func TestNothingEscapes(t *testing.T) {
	script, lines := all(t)
	for name, test := range map[string]struct {
		lease  time.Duration
		then   string // what the command does after having started the others
		do     func(t *testing.T, j *job)
		want   Outcome
		killed bool // the supervisor is
	}{
		"lease lost": {0, "wait", func(t *testing.T, j *job) { j.signal(t, syscall.SIGUSR1) }, Outcome{Code: 143, Signal: syscall.SIGTERM, Stopped: Lost}, false},
		"SIGTERM":    {0, "wait", func(t *testing.T, j *job) { j.signal(t, syscall.SIGTERM) }, Outcome{Code: 143, Signal: syscall.SIGTERM}, false},
		"left behind": {0, `until [ -e "$1.go" ]; do sleep 0.01; done; exit 7`, func(t *testing.T, j *job) {
			if err := os.WriteFile(j.fifo+".go", nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, Outcome{Code: 7}, false},
		"supervisor dies": {0, "wait", func(t *testing.T, j *job) { j.signal(t, syscall.SIGKILL) }, Outcome{}, true},
		"its group dies": {0, "wait", func(t *testing.T, j *job) {
			if err := syscall.Kill(-j.cmd.Process.Pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}, Outcome{}, true},
		"guard dies": {0, "wait", func(t *testing.T, j *job) {
			if err := syscall.Kill(childOf(t, j.cmd.Process.Pid), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}, Outcome{Code: -1, Stopped: Unguarded}, false},
		"supervisor hangs": {3 * time.Second, "wait", func(t *testing.T, j *job) {
			j.signal(t, syscall.SIGSTOP)
			for j.lines.Scan() { // until all are gone
			}
			j.signal(t, syscall.SIGCONT)
		}, Outcome{Code: 143, Signal: syscall.SIGTERM, Stopped: Expiring}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := startJob(t, test.lease, script+test.then)
			j.read(t, lines)
			test.do(t, j)
			got, err := j.finish(t)
			if test.killed {
				if err == nil {
					t.Errorf("the supervisor ended by itself: %+v", got)
				}
				return
			}
			if test.lease != 0 { // it may hear of the loss first
				got.Stopped = test.want.Stopped
			}
			if err != nil || !equal(got, test.want) {
				t.Errorf("got %+v, want %+v; %v, %s", got, test.want, err, &j.out)
			}
		})
	}
}

// A chain of processes, each of which forks the next in the same process group and ends, is killed with its group at
// once.
func TestForkChain(t *testing.T) {
	j := startJob(t, 0, `trap "" TERM; f() { (f) & }; f; echo up >&9; sleep 1000`)
	j.read(t, 1)
	j.signal(t, syscall.SIGUSR1)
	if got, err := j.finish(t); err != nil || got.Stopped != Lost || len(got.Left) > 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

func childOf(t *testing.T, pid int) int {
	t.Helper()
	out, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, task := range tasks(t, pid) { // the child of any thread
		if len(bytes.Fields(out)) > 0 || err != nil {
			break
		}
		out, err = os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task))
	}
	fields := bytes.Fields(out)
	if err != nil || len(fields) != 1 {
		t.Fatalf("children of %d: %q, %v", pid, out, err)
	}
	child, err := strconv.Atoi(string(fields[0]))
	if err != nil {
		t.Fatal(err)
	}
	return child
}

func tasks(t *testing.T, pid int) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// The outcome is that of the command, and the command's environment is as without a supervisor.
func TestRun(t *testing.T) {
	for script, want := range map[string]Outcome{
		"exit 0":           {},
		"exit 42":          {Code: 42},
		"kill -9 $$":       {Code: 137, Signal: syscall.SIGKILL},
		"kill -INT $$":     {Code: 130, Signal: syscall.SIGINT},
		`[ "$GIVEN" = 1 ]`: {},
		// It leads a process group of its own, without the guard, which is its parent, and without the supervisor.
		`group() { ps -o pgid= -p "$1"; }; g=$(ps -o ppid= -p $$); s=$(ps -o ppid= -p $g)
		 [ $(group $$) -eq $$ ] && [ $(group $g) -eq $g ] && [ $(group $s) -ne $g ] && [ $(group $s) -ne $$ ]`: {},
		// It inherits none of the supervisor's descriptors.
		`for f in /proc/$$/fd/*; do case $(readlink "$f") in socket:*) exit 1;; esac; done`: {},
		`kill -TERM $$; exit 3`: {Code: 143, Signal: syscall.SIGTERM}, // signals have their default effect; HUP may be ignored, as under nohup
	} {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			j := startJob(t, 0, script)
			if got, err := j.finish(t); err != nil || !equal(got, want) {
				t.Errorf("%s: got %+v, want %+v; %v, %s", script, got, want, err, &j.out)
			}
		})
	}
	t.Run("no such program", func(t *testing.T) {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), self, "run", "0s", "/nonexistent", "x").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "no such file") {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// The command ignores the signals that the supervisor ignores, as under nohup.
func TestIgnoredSignalsStayIgnored(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = r.Close(), w.Close() }()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `trap "" HUP; exec "$@"`, "sh", self, "run", "0s", "/bin/sh", "-c", "kill -HUP $$; exit 5")
	cmd.ExtraFiles = []*os.File{w}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var o Outcome
	if err := json.NewDecoder(r).Decode(&o); err != nil || o.Code != 5 {
		t.Errorf("%+v, %v", o, err)
	}
}
