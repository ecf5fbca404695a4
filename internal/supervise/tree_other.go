//go:build unix && !linux

package supervise

import (
	"errors"
	"syscall"
	"time"
)

// processTree is the command's process group. Processes that leave the group cannot be found on this system.
type processTree struct {
	main  int
	ended *status
}

// now is the time by the wall clock, which is the same in all processes.
func now() time.Duration { return time.Duration(time.Now().UnixNano()) }

// pollEvery is the interval at which the guard must poll: no signal announces the end of a grandchild.
func pollEvery(ending bool) time.Duration {
	if ending {
		return 10 * time.Millisecond
	}
	return lookEvery
}

func adopt() error { return nil }

func startTree(s start, inTime bool) (*processTree, error) {
	if !inTime {
		return nil, errTooLate
	}
	pid, err := startProcess(s, &syscall.SysProcAttr{Setpgid: true})
	if err != nil {
		return nil, err
	}
	return &processTree{main: pid}, nil
}

func (t *processTree) poll() (stopped syscall.Signal, ended *status) {
	if t.ended != nil {
		return 0, t.ended
	}
	var s syscall.WaitStatus
	pid, err := syscall.Wait4(t.main, &s, syscall.WUNTRACED|syscall.WNOHANG, nil)
	switch {
	case err != nil || pid != t.main:
	case s.Stopped():
		return s.StopSignal(), nil
	case s.Signaled():
		t.ended = &status{Signal: s.Signal()}
	case s.Exited():
		t.ended = &status{Code: s.ExitStatus()}
	}
	return 0, t.ended
}

func (t *processTree) empty() bool {
	return t.ended != nil && errors.Is(syscall.Kill(-t.main, 0), syscall.ESRCH)
}

func (t *processTree) signal(n syscall.Signal) (reached, denied []Process) {
	group := []Process{{PID: t.main, Name: "the command"}}
	switch err := syscall.Kill(-t.main, n); {
	case err == nil:
		return group, nil
	case errors.Is(err, syscall.EPERM):
		return nil, group
	}
	return nil, nil
}

func (t *processTree) signalGroup(n syscall.Signal) { _ = syscall.Kill(-t.main, n) }
