package supervise

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// processTree is the command, a child of this process, and all other descendants. This process must be a child
// subreaper.
type processTree struct {
	main   int     // the command, which leads a process group
	ended  *status // how it ended
	buried bool    // the command is reaped: another process may get its id
}

// now is the time since the machine was booted, which includes suspended time and is the same in all processes.
func now() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // it exists since Linux 2.6.39
	}
	return time.Duration(t.Nano())
}

// pollEvery is the interval at which the guard must poll for changes that cause no signal. SIGCHLD announces all
// changes.
func pollEvery(bool) time.Duration { return lookEvery }

// adopt makes the descendants of this process its children when their parents end.
func adopt() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// startTree starts a command, if inTime.
func startTree(s start, inTime bool) (*processTree, error) {
	if !inTime {
		return nil, errTooLate
	}
	if _, err := readProcess(os.Getpid()); err != nil {
		return nil, errors.New("/proc is not mounted, and without it the processes of the command cannot be found; mount it")
	}
	if err := adopt(); err != nil {
		return nil, err
	}
	pid, err := startProcess(s, &syscall.SysProcAttr{
		Setpgid:   true,
		Pdeathsig: syscall.SIGTERM, // if the guard and the supervisor are both killed
	})
	if err != nil {
		return nil, err
	}
	return &processTree{main: pid}, nil
}

func (t *processTree) poll() (stopped syscall.Signal, ended *status) {
	if t.ended != nil {
		return 0, t.ended
	}
	if info := waitID(unix.P_PID, t.main, unix.WSTOPPED); info.pid != 0 {
		stopped = syscall.Signal(info.status)
	}
	for { // the command is reaped last, so that no other process gets its id, which is its group's id too
		info := waitID(unix.P_ALL, 0, unix.WEXITED|unix.WNOWAIT)
		switch {
		case info.pid == 0:
			return stopped, nil
		case int(info.pid) == t.main:
			t.ended = &status{Code: int(info.status)}
			if info.code != cldExited {
				t.ended = &status{Signal: syscall.Signal(info.status)}
			}
			return stopped, t.ended
		}
		bury(int(info.pid))
	}
}

func (t *processTree) empty() bool {
	if t.ended == nil {
		return false
	}
	for _, p := range descendants() {
		if !p.dead {
			return false
		}
	}
	for bury(-1) {
	}
	t.buried = true
	_, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
	return errors.Is(err, syscall.ECHILD)
}

func (t *processTree) signal(n syscall.Signal) (reached, denied []Process) {
	grouped := false
	if !t.buried { // at once, so that no process of the group can escape by a fork
		grouped = syscall.Kill(-t.main, n) == nil
	}
	for _, p := range descendants() {
		if p.dead {
			continue
		}
		probe := n
		if grouped && p.group == t.main {
			probe = 0
		}
		switch err := p.signal(probe); {
		case err == nil:
			reached = append(reached, Process{p.pid, p.name})
		case errors.Is(err, syscall.EPERM):
			denied = append(denied, Process{p.pid, p.name})
		}
	}
	return reached, denied
}

func (t *processTree) signalGroup(n syscall.Signal) {
	if !t.buried {
		_ = syscall.Kill(-t.main, n)
	}
}

// bury reaps a child that has ended, or with -1 any such child, and reports whether there was one.
func bury(pid int) bool {
	got, err := syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
	return err == nil && got > 0
}

// cldExited is the si_code of a child that exited; other codes mean that a signal ended it (CLD_EXITED of waitid).
const cldExited = 1

// childInfo is a siginfo_t as waitid fills it.
type childInfo struct{ code, pid, status int32 }

// waitID is waitid with WNOHANG. The pid is 0 if no child has changed its state.
func waitID(kind, id, options int) childInfo {
	var info unix.Siginfo
	if err := unix.Waitid(kind, id, &info, options|unix.WNOHANG, nil); err != nil {
		return childInfo{}
	}
	// After three ints comes a union that is aligned as a pointer is: pid, uid and status, of 32 bits each.
	align := unsafe.Sizeof(uintptr(0))
	union := (3*4 + align - 1) / align * align
	field := func(n uintptr) int32 {
		return *(*int32)(unsafe.Add(unsafe.Pointer(&info), union+4*n)) //nolint:gosec // golang.org/x/sys leaves these fields out
	}
	return childInfo{code: info.Code, pid: field(0), status: field(2)}
}

// A process is one line of /proc.
type process struct {
	pid, parent, group, session int

	name  string
	dead  bool
	began string // its start time, by which it differs from a later process with the same id
}

// descendants are the descendants of this process, from /proc.
func descendants() []process {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer func() { _ = dir.Close() }()
	names, _ := dir.Readdirnames(-1)
	children := map[int][]process{}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, err := readProcess(pid); err == nil {
			children[p.parent] = append(children[p.parent], p)
		}
	}
	list := children[os.Getpid()]
	for n := 0; n < len(list); n++ {
		list = append(list, children[list[n].pid]...)
	}
	return list
}

// readProcess reads /proc/PID/stat: "pid (name) state parent group ...", where the name may hold anything.
func readProcess(pid int) (process, error) {
	line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return process{}, err
	}
	return parseProcess(line)
}

func parseProcess(line []byte) (p process, err error) {
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 1 || end < open {
		return p, errors.New("not a line of /proc/PID/stat")
	}
	rest := bytes.Fields(line[end+1:])
	if len(rest) < 20 {
		return p, errors.New("a line of /proc/PID/stat is too short")
	}
	p.name = string(line[open+1 : end])
	p.dead = rest[0][0] == 'Z' || rest[0][0] == 'X'
	p.began = string(rest[19])
	for _, f := range []struct {
		to   *int
		text []byte
	}{{&p.pid, line[:open-1]}, {&p.parent, rest[1]}, {&p.group, rest[2]}, {&p.session, rest[3]}} {
		if *f.to, err = strconv.Atoi(string(f.text)); err != nil {
			return p, err
		}
	}
	return p, nil
}

// signal sends a signal to the process, and not to another one that has got its id meanwhile.
func (p process) signal(n syscall.Signal) error {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err == nil {
		defer func() { _ = unix.Close(fd) }()
	} else if !errors.Is(err, unix.ENOSYS) { // before Linux 5.3
		return err
	}
	if now, readErr := readProcess(p.pid); readErr != nil || now.began != p.began {
		return os.ErrProcessDone
	}
	if err != nil {
		return syscall.Kill(p.pid, n)
	}
	return unix.PidfdSendSignal(fd, n, nil, 0)
}
