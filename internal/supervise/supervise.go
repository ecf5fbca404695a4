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

// A Lease is what a command may run under.
type Lease interface {
	// Done is closed when the lease is lost.
	Done() <-chan struct{}
	// Remaining is how long the lease is proved from now on; 0 or less: it is over.
	Remaining() time.Duration
}

// Config is what is run, and how. All fields but Signals, Orphaned and Notify are required.
type Config struct {
	Path  string   // of the executable
	Args  []string // with the command's name
	Env   []string
	Guard []string // the command line that runs [Guard], but for the descriptor, which is added as the last argument

	Lease Lease
	// Grace is the time between SIGTERM and SIGKILL.
	Grace time.Duration
	// CheckEvery is how often the lease is looked at, in order to tell the guard that it was renewed. At most 1 s.
	CheckEvery time.Duration
	// Signals are passed on to the command and everything that it started.
	Signals <-chan os.Signal
	// Orphaned, when it is closed, ends the command: whoever started the supervisor is gone.
	Orphaned <-chan struct{}
	// Notify is told what happens. The command is not looked after until it returns.
	Notify func(Notice)
}

// A Notice is something that people should hear of while the command runs.
type Notice struct {
	Stopping  Reason    // the command is being ended, for this reason
	Denied    []Process // these may not be signalled
	Suspended bool      // the command was stopped from the terminal; the supervisor stops as well
}

// An Outcome is how a command ended.
type Outcome struct {
	// Code is the command's exit code, or 128 and the number of the signal that ended it, as shells put it. It is -1 if the
	// command did not end.
	Code int
	// Signal is what ended the command, if a signal did.
	Signal syscall.Signal
	// HadTerminal tells whether the command was the foreground of the terminal, whose keys then signalled it and no other.
	HadTerminal bool
	// Stopped is why the command was ended, or "" if it ended by itself.
	Stopped Reason
	// Left are processes that may run on, because they may not be signalled or because they did not end after SIGKILL.
	Left []Process
}

// Run runs a command under a lease until it and everything that it started has ended. An error means that the command was not
// started. It may be called once at a time in a process, which must have no other children.
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
	// A child that Ctrl-Z stops between fork and exec would block this process, which waits for its exec. (The command itself is
	// started in the background of the terminal, where Ctrl-Z does not reach it.)
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

// startGuard starts the guard, connected by a pair of sockets.
func startGuard(cfg Config) (*os.File, *exec.Cmd, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, err
	}
	ours := os.NewFile(uintptr(pair[0]), "guard")
	syscall.CloseOnExec(pair[0])
	defer func() { _ = unix.Close(pair[1]) }()
	syscall.CloseOnExec(pair[1])
	theirs, err := unix.FcntlInt(uintptr(pair[1]), unix.F_DUPFD, minControlFD) // inherited by number
	if errors.Is(err, unix.EINVAL) {
		// So many descriptors are not allowed (ulimit -n).
		theirs, err = unix.FcntlInt(uintptr(pair[1]), unix.F_DUPFD, 3)
	}
	if err != nil {
		_ = ours.Close()
		return nil, nil, err
	}
	defer func() { _ = unix.Close(theirs) }()
	args := append(cfg.Guard[1:len(cfg.Guard):len(cfg.Guard)], strconv.Itoa(theirs))
	cmd := exec.Command(cfg.Guard[0], args...) //nolint:gosec,noctx // ourselves; it ends with its connection
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = os.Stdin, os.Stdout, os.Stderr, cfg.Env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what is sent to our process group must not end it
	if err := cmd.Start(); err != nil {
		_ = ours.Close()
		return nil, nil, err
	}
	return ours, cmd, nil
}

// A foreground is the controlling terminal as the supervisor uses it.
type foreground interface {
	is() bool            // there is one
	isInput() bool       // it is standard input and output
	ours() bool          // our process group is its foreground
	of(group int) bool   // that process group is its foreground
	give(group int) bool // make a process group the foreground
	take()               // make ours the foreground
}

// A supervisor is the part of [Run] that talks to the guard.
type supervisor struct {
	cfg      Config
	send     func(order)
	now      func() time.Duration
	terminal foreground
	stops    <-chan os.Signal // SIGTSTP and SIGCONT

	controlled func() bool // a shell with job control looks after this process
	suspend    func()      // stops this process and its group until a SIGCONT
	killGuard  func()

	command int    // its process id and group
	stopped Reason // why the command is being ended
	asked   bool   // by SIGTSTP, to stop

	wantsTerminal bool // the command does, or is likely to
	hasTerminal   bool // it is the terminal's foreground

	overdue time.Duration // when a guard that was told to stop the command must have ended; 0: it was not
}

// guardPatience is how much longer than it needs the guard may take to stop the command.
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
				s.killGuard() // it hangs
			}
		}
	}
}

// until is the end of the lease on the guard's clock, which is read first: a pause between the two makes it earlier.
func (s *supervisor) until() time.Duration {
	at := s.now()
	return at + s.cfg.Lease.Remaining()
}

// hear takes note of a report.
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

// stop has the guard end the command.
func (s *supervisor) stop(why Reason) {
	s.stopping(why)
	s.overdue = s.now() + s.cfg.Grace + killFor + guardPatience
	s.send(order{Stop: why})
}

// stopping tells people, once, that the command is being ended.
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

// pass hands a signal on to the command.
func (s *supervisor) pass(sig os.Signal) {
	n, ok := sig.(syscall.Signal)
	switch {
	case !ok:
	case n == syscall.SIGCONT: // a shell put us into the foreground, perhaps
		s.resume()
	default:
		s.asked = s.asked || n == syscall.SIGTSTP
		s.send(order{Signal: n})
	}
}

// commandStopped deals with a command that a signal stopped. If it asks for the terminal and we have it, the command gets it.
// Otherwise we stop as well, so that the shell which controls us sees that; when it resumes us, we resume the command. Without
// such a shell, a command that Ctrl-Z stopped goes on, as a program does there that nobody supervises. A command that was
// stopped in any other way, by a debugger perhaps, keeps its lease.
func (s *supervisor) commandStopped(by syscall.Signal) {
	asksForTerminal := by == syscall.SIGTTIN || by == syscall.SIGTTOU
	s.wantsTerminal = s.wantsTerminal || asksForTerminal
	switch {
	case asksForTerminal && (s.terminal.ours() || s.terminal.of(s.command)): // it asked just before it got it
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

// resume continues the command, with the terminal if it wants it and it is ours to give.
func (s *supervisor) resume() {
	if s.command == 0 {
		return
	}
	s.giveTerminal()
	s.send(order{Resume: true})
}

// giveTerminal makes the command's process group the terminal's foreground, if it wants that and ours is.
func (s *supervisor) giveTerminal() {
	if s.wantsTerminal && s.terminal.ours() {
		s.hasTerminal = s.terminal.give(s.command)
	}
}

// takeTerminal makes our process group the terminal's foreground again, if the command's is.
func (s *supervisor) takeTerminal() {
	if s.hasTerminal {
		s.hasTerminal = false
		s.terminal.take()
	}
}

// outcome is what the last report says.
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

// killOrphans kills the processes that a dead guard has left to us, and answers which did not end.
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

// Interrupt ends this process and its process group by SIGINT. A command that was the terminal's foreground got the interrupt
// of its key alone; so a script that this process is part of ends as it would without this process in between.
func Interrupt() {
	signal.Reset(syscall.SIGINT)
	_ = syscall.Kill(0, syscall.SIGINT)
	time.Sleep(time.Second) // it has time to arrive
}
