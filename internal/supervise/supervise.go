//go:build unix

package supervise

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Lease is the lease under which a command runs.
type Lease interface {
	// Done is closed when the lease is lost.
	Done() <-chan struct{}
	// Remaining is the time for which the lease is proved to last from now on; 0 or less if it has expired.
	Remaining() time.Duration
}

// Config is what [Run] runs, and how. All fields but Signals, Orphaned and Notify are required.
type Config struct {
	Path  string   // of the executable
	Args  []string // with the command's name
	Env   []string
	Guard []string // the command line that runs [Guard]; Run adds the descriptor as the last argument

	Lease Lease
	// Grace is the time between SIGTERM and SIGKILL.
	Grace time.Duration
	// CheckEvery is the interval at which the lease is read and its end is sent to the guard. At most 1 s.
	CheckEvery time.Duration
	// Signals are passed on to the command and all processes that it started.
	Signals <-chan os.Signal
	// Orphaned ends the command when it is closed: the process that started the supervisor has ended. See [ParentGone].
	Orphaned <-chan struct{}
	// Notify is called with what happens. It must return soon, since Run waits for it.
	Notify func(Notice)
}

// A Notice is an event to report to people while the command runs.
type Notice struct {
	Stopping  Reason    // the command is being stopped, for this reason
	Denied    []Process // these may not be signalled
	Suspended bool      // the command was stopped from the terminal; the supervisor is about to stop as well
}

// An Outcome is how a command ended.
type Outcome struct {
	// Code is the command's exit code, or 128 plus the number of the signal that ended it, as in shells. It is -1 if
	// the command has not ended.
	Code int
	// Signal is the signal that ended the command, or 0.
	Signal syscall.Signal
	// HadTerminal reports whether the command was the terminal's foreground, so that the terminal's keys signalled it
	// alone.
	HadTerminal bool
	// Stopped is why the command was stopped, or "" if it ended by itself.
	Stopped Reason
	// Left are processes that may still run, because they may not be signalled or did not end after SIGKILL.
	Left []Process
}

// Run runs a command under a lease until the command and all processes that it started have ended. An error means that
// the command was not started. A process may make one call at a time, and must have no other children.
func Run(cfg Config) (Outcome, error) {
	if over(cfg.Lease) {
		if cfg.Notify != nil {
			cfg.Notify(Notice{Stopping: Lost})
		}
		return Outcome{Code: -1, Stopped: Lost}, nil
	}
	if err := adopt(); err != nil {
		return Outcome{}, err
	}
	// A child that Ctrl-Z stops between fork and exec would block this process, which waits for the exec. The command
	// itself is started in the background of the terminal, where Ctrl-Z does not reach it.
	signal.Ignore(syscall.SIGTSTP)
	conn, cmd, err := startGuard(cfg)
	if err != nil {
		return Outcome{}, fmt.Errorf("starting the guard: %w", err)
	}
	defer func() { _ = conn.Close() }()
	tty := controllingTerminal()
	defer tty.close()
	s := &supervisor{
		cfg: cfg, send: func(o order) { send(conn, o) }, now: now, terminal: tty,
		killGuard: func() { _ = cmd.Process.Kill() },
	}
	stops := make(chan os.Signal, 4)
	signal.Notify(stops, syscall.SIGTSTP, syscall.SIGCONT)
	defer signal.Stop(stops)
	s.stops, s.controlled = stops, controlled
	s.suspend = func() {
		suspend()
		signal.Notify(stops, syscall.SIGTSTP)
	}
	outcome, err := s.run(receive[report](conn))
	_ = conn.Close()
	_ = cmd.Wait()
	if outcome.Stopped == Unguarded {
		outcome.Left = killOrphans(&processTree{main: s.command}, now)
	}
	return outcome, err
}

func over(l Lease) bool {
	select {
	case <-l.Done():
		return true
	default:
		return l.Remaining() <= 0
	}
}

// startGuard starts the guard, and returns the connection to it.
func startGuard(cfg Config) (*os.File, *exec.Cmd, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, err
	}
	ours := os.NewFile(uintptr(pair[0]), "guard")
	syscall.CloseOnExec(pair[0])
	defer func() { _ = unix.Close(pair[1]) }()
	syscall.CloseOnExec(pair[1])
	theirs, err := unix.FcntlInt(uintptr(pair[1]), unix.F_DUPFD, minControlFD) // the child inherits it under this number
	if errors.Is(err, unix.EINVAL) {
		// The limit of descriptors (ulimit -n) is lower.
		theirs, err = unix.FcntlInt(uintptr(pair[1]), unix.F_DUPFD, 3)
	}
	if err != nil {
		_ = ours.Close()
		return nil, nil, err
	}
	defer func() { _ = unix.Close(theirs) }()
	args := append(cfg.Guard[1:len(cfg.Guard):len(cfg.Guard)], strconv.Itoa(theirs))
	cmd := exec.Command(cfg.Guard[0], args...) //nolint:gosec,noctx // this program; it ends with its connection
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = os.Stdin, os.Stdout, os.Stderr, cfg.Env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // signals to this process group must not end the guard
	if err := cmd.Start(); err != nil {
		_ = ours.Close()
		return nil, nil, err
	}
	return ours, cmd, nil
}

// A foreground is the controlling terminal as the supervisor uses it.
type foreground interface {
	is() bool            // this process has one
	isInput() bool       // it is standard input and output
	ours() bool          // its foreground is the supervisor's process group
	of(group int) bool   // its foreground is this process group
	give(group int) bool // makes a process group the foreground
	take()               // makes the supervisor's process group the foreground
}

// A supervisor is the part of [Run] that talks to the guard.
type supervisor struct {
	cfg      Config
	send     func(order)
	now      func() time.Duration
	terminal foreground
	stops    <-chan os.Signal // SIGTSTP and SIGCONT

	controlled func() bool // a shell with job control can resume this process
	suspend    func()      // stops this process and its group until a SIGCONT
	killGuard  func()

	command int    // the command's process id and group
	stopped Reason // why the command is being stopped
	asked   bool   // SIGTSTP was passed on to the command

	wantsTerminal bool // the command reads from the terminal, or is expected to
	hasTerminal   bool // the command is the terminal's foreground

	overdue time.Duration // when a guard that was ordered to stop the command is killed; 0: no such order was sent
}

// guardPatience is the time that a guard may take to stop the command beyond the grace and killFor, before it is
// killed.
const guardPatience = 2 * time.Second

func (s *supervisor) run(reports <-chan report) (Outcome, error) {
	s.wantsTerminal = s.terminal.isInput()
	s.send(order{Start: newStart(s.cfg.Path, s.cfg.Args, s.cfg.Grace), Until: s.until()})
	defer s.takeTerminal()
	tick := time.NewTicker(max(min(s.cfg.CheckEvery, lookEvery), time.Millisecond))
	defer tick.Stop()
	lost, orphaned := s.cfg.Lease.Done(), s.cfg.Orphaned
	for {
		select {
		case r, ok := <-reports:
			switch {
			case !ok:
				return s.outcome(report{Reason: Unguarded}), nil
			case r.Event == eventFailed:
				return Outcome{}, fmt.Errorf("%s", r.Error)
			case r.Event == eventEnded:
				if r.Reason != "" {
					s.stopping(r.Reason)
				}
				return s.outcome(r), nil
			}
			s.hear(r)
		case <-lost:
			lost = nil
			s.stop(Lost)
		case <-orphaned:
			orphaned = nil
			s.stop(Orphaned)
		case sig := <-s.cfg.Signals:
			s.pass(sig)
		case sig := <-s.stops:
			s.pass(sig)
		case <-tick.C:
			if !over(s.cfg.Lease) {
				s.send(order{Until: s.until()})
			}
			if s.overdue != 0 && s.now() > s.overdue {
				s.killGuard() // the guard hangs
			}
		}
	}
}

// until is the end of the lease on the guard's clock. The clock is read first, so that a pause between the two readings
// yields an earlier end.
func (s *supervisor) until() time.Duration {
	at := s.now()
	return at + s.cfg.Lease.Remaining()
}

// hear handles a report of a running command.
func (s *supervisor) hear(r report) {
	switch r.Event {
	case eventStarted:
		s.command = r.PID
		s.giveTerminal()
	case eventStopping:
		s.stopping(r.Reason)
	case eventDenied:
		s.notify(Notice{Denied: r.Processes})
	case eventStopped:
		s.commandStopped(r.Signal)
	}
}

// stop orders the guard to stop the command.
func (s *supervisor) stop(why Reason) {
	s.stopping(why)
	s.overdue = s.now() + s.cfg.Grace + killFor + guardPatience
	s.send(order{Stop: why})
}

// stopping notifies of the first reason for which the command is being stopped.
func (s *supervisor) stopping(why Reason) {
	if s.stopped == "" {
		s.stopped = why
		s.notify(Notice{Stopping: why})
	}
}

func (s *supervisor) notify(n Notice) {
	if s.cfg.Notify != nil {
		s.cfg.Notify(n)
	}
}

// pass passes a signal on to the command.
func (s *supervisor) pass(sig os.Signal) {
	n, ok := sig.(syscall.Signal)
	switch {
	case !ok:
	case n == syscall.SIGCONT: // a shell may have put this process group into the foreground
		s.resume()
	default:
		s.asked = s.asked || n == syscall.SIGTSTP
		s.send(order{Signal: n})
	}
}

// commandStopped handles a command that a signal has stopped. If the command needs the terminal and this process group
// has it, the command gets it. Otherwise this process stops as well, so that the shell sees a stopped job; when the
// shell resumes it, it resumes the command. Without a shell with job control, a command that Ctrl-Z stopped is resumed,
// as Ctrl-Z has no effect there. A command that was stopped in another way, by a debugger for example, stays stopped
// and keeps its lease.
func (s *supervisor) commandStopped(by syscall.Signal) {
	asksForTerminal := by == syscall.SIGTTIN || by == syscall.SIGTTOU
	s.wantsTerminal = s.wantsTerminal || asksForTerminal
	switch {
	case asksForTerminal && (s.terminal.ours() || s.terminal.of(s.command)): // it asked just before it was given the terminal
		s.resume()
	case s.controlled() && (s.asked || s.terminal.is()):
		s.takeTerminal()
		s.notify(Notice{Suspended: true})
		s.suspend()
		s.resume()
	case by == syscall.SIGTSTP:
		s.resume()
	}
	s.asked = false
}

// resume resumes the command, with the terminal if the command needs it and this process group has it.
func (s *supervisor) resume() {
	if s.command == 0 {
		return
	}
	s.giveTerminal()
	s.send(order{Resume: true})
}

// giveTerminal makes the command's process group the terminal's foreground, if the command needs that and this process
// group is it.
func (s *supervisor) giveTerminal() {
	if s.wantsTerminal && s.terminal.ours() {
		s.hasTerminal = s.terminal.give(s.command)
	}
}

// takeTerminal makes this process group the terminal's foreground again, if the command's is.
func (s *supervisor) takeTerminal() {
	if s.hasTerminal {
		s.hasTerminal = false
		s.terminal.take()
	}
}

// outcome translates the last report.
func (s *supervisor) outcome(last report) Outcome {
	o := Outcome{Code: -1, Stopped: s.stopped, Left: last.Processes, HadTerminal: s.hasTerminal}
	if last.Reason == Unguarded {
		o.Stopped = Unguarded
	}
	if last.Status != nil {
		o.Code, o.Signal = last.Status.Code, last.Status.Signal
		if o.Signal != 0 {
			o.Code = 128 + int(o.Signal)
		}
	}
	return o
}

// killOrphans kills the processes that this process has inherited from a killed guard, and returns those that did not
// end.
func killOrphans(t tree, now func() time.Duration) []Process {
	for end := now() + killFor; ; time.Sleep(killEvery) {
		t.poll()
		if t.empty() {
			return nil
		}
		reached, denied := t.signal(syscall.SIGKILL)
		if now() >= end || len(reached) == 0 && len(denied) > 0 {
			return append(reached, denied...)
		}
	}
}

// interruptLead is the time in which a shell learns of an interrupt before its child dies of it. Bash ends its script only if it has seen SIGINT when it sees the
// child's death. If both reach a shell that the kernel has not run in between, it handles the death first, and the script goes on.
const interruptLead = 100 * time.Millisecond

// Interrupt ends this process and its process group by SIGINT. Ctrl-C signals only the terminal's foreground, which was
// the command; with Interrupt, a script that runs this process ends as if it had run the command itself.
func Interrupt() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT) // which the first one does not end
	_ = syscall.Kill(0, syscall.SIGINT)
	time.Sleep(interruptLead)
	signal.Reset(syscall.SIGINT)
	_ = syscall.Kill(syscall.Getpid(), syscall.SIGINT)
	time.Sleep(time.Second) // until the signal arrives
}
