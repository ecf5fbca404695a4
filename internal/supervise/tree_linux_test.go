package supervise

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

func TestParseProcess(t *testing.T) {
	const rest = " 10 11 12 34816 12 4194304 1 0 0 0 0 0 0 0 20 0 1 0 9876 1 2 3"
	for line, want := range map[string]process{
		"7 (sh) S" + rest:           {pid: 7, parent: 10, group: 11, session: 12, name: "sh", began: "9876"},
		"7 (a) R (b) c) Z" + rest:   {pid: 7, parent: 10, group: 11, session: 12, name: "a) R (b) c", dead: true, began: "9876"},
		"7 (x y\n) X" + rest + "\n": {pid: 7, parent: 10, group: 11, session: 12, name: "x y\n", dead: true, began: "9876"},
		"":                          {},
		"7":                         {},
		"(sh) S" + rest:             {},
		"7 )sh( S" + rest:           {},
		"7 (sh) S 10 11 12":         {},
		"x (sh) S" + rest:           {},
		"7 (sh) S x 11 12" + rest:   {},
		"7 (sh) S 10 x 12" + rest:   {},
		"7 (sh) S 10 11 12 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1": {},
	} {
		got, err := parseProcess([]byte(line))
		if want.pid == 0 {
			if err == nil {
				t.Errorf("%q: %+v", line, got)
			}
		} else if err != nil || got != want {
			t.Errorf("%q: got %+v, %v; want %+v", line, got, err, want)
		}
	}
	own, err := readProcess(os.Getpid())
	if err != nil || own.pid != os.Getpid() || own.parent != os.Getppid() || own.group != syscall.Getpgrp() || own.dead {
		t.Errorf("%+v, %v", own, err)
	}
	if _, err := readProcess(1 << 30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// A process that has got the id of an ended one is not signalled.
func TestReusedIDIsNotSignalled(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := readProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	other := p
	other.began = "1"
	if err := other.signal(syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("another process: %v", err)
	}
	if err := p.signal(0); err != nil {
		t.Errorf("the process itself: %v", err)
	}
	if err := p.signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGTERM {
		t.Errorf("ended by %v", cmd.ProcessState)
	}
	if err := p.signal(syscall.SIGKILL); err == nil {
		t.Error("a process that is gone was signalled")
	}
}

// The clock advances, and is the same in all processes.
func TestNow(t *testing.T) {
	a := now()
	time.Sleep(time.Millisecond)
	if b := now(); b-a < time.Millisecond || a <= 0 {
		t.Errorf("%v, then %v", a, b)
	}
}
