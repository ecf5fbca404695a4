//go:build unix

package supervise

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

const (
	// lookEvery is the longest time between two checks of the guard and of the supervisor. Timers stop while the
	// machine is suspended, and the clock of now does not.
	lookEvery = time.Second
	// killEvery is the pause before SIGKILL is repeated, for processes that were forked meanwhile.
	killEvery = 5 * time.Millisecond
	// killFor is the time after the first SIGKILL until the guard gives up processes that have not ended, if the lease
	// is over.
	killFor = time.Second
)

// A tree is a command and all processes that it started.
type tree interface {
	// poll reaps ended processes. It returns the signal that has stopped the command since the last call, or 0, and how
	// the command ended, or nil while it runs.
	poll() (stopped syscall.Signal, ended *status)
	// signal sends a signal to all processes. It returns those that it reached, and those that it may not signal.
	signal(syscall.Signal) (reached, denied []Process)
	// signalGroup sends a signal to the command's process group.
	signalGroup(syscall.Signal)
	// empty reports whether the command has ended and no process is left.
	empty() bool
}

// A guard runs one command.
type guard struct {
	tree   tree
	grace  time.Duration
	now    func() time.Duration
	report func(report)

	until    time.Duration // the end of the lease
	ended    *status       // how the command ended; nil while it runs
	ending   bool          // SIGTERM was sent
	killAt   time.Duration // when SIGKILL is due, once ending
	killedAt time.Duration // when SIGKILL was first sent; 0: not yet
	stuck    bool          // the system refused SIGKILL for all remaining processes
	over     bool          // the lease is lost, or the supervisor that renews it has ended
	told     bool          // eventDenied was reported
}

// Guard is the main function of the guard's process, which [Run] starts. fd is the file descriptor of the connection to
// Run.
func Guard(fd int) error {
	if fd < 3 {
		return errors.New("guard is started by exec, with the descriptor of its connection")
	}
	syscall.CloseOnExec(fd)
	conn := os.NewFile(uintptr(fd), "supervisor")
	orders := receive[order](conn)
	first, ok := <-orders
	if !ok || first.Start == nil {
		return errors.New("guard is started by exec: its first order is the command")
	}
	signal.Notify(make(chan os.Signal, 1), deafTo()...) // caught and not ignored, since the command would inherit ignored signals
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, syscall.SIGCHLD)
	runtime.LockOSThread() // Pdeathsig counts the end of the thread that started the command as the parent's end
	tree, err := startTree(*first.Start, now() < first.Until-first.Start.Grace)
	switch {
	case errors.Is(err, errTooLate):
		send(conn, report{Event: eventEnded, Reason: Expiring})
		return nil
	case err != nil:
		send(conn, report{Event: eventFailed, Error: err.Error()})
		return nil //nolint:nilerr // the supervisor reports it
	}
	g := &guard{tree: tree, grace: first.Start.Grace, now: now, until: first.Until, report: func(r report) { send(conn, r) }}
	send(conn, report{Event: eventStarted, PID: tree.main})
	g.run(orders, changes)
	return nil
}

// errTooLate is returned by startTree if less than the grace is left of the lease.
var errTooLate = errors.New("the lease is over")

// deafTo are the signals that must not end or stop the guard. Signals that are ignored already stay ignored, also in
// the command.
func deafTo() (list []os.Signal) {
	for _, n := range []os.Signal{
		syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU,
		syscall.SIGPIPE, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM,
	} {
		if !signal.Ignored(n) {
			list = append(list, n)
		}
	}
	return list
}

// run executes orders until no process is left, or none that can be ended.
func (g *guard) run(orders <-chan order, changes <-chan os.Signal) {
	timer := time.NewTimer(g.pause())
	defer timer.Stop()
	for !g.act() {
		timer.Reset(g.pause())
		select {
		case o, ok := <-orders:
			if !ok {
				orders = nil
				g.over = true
				g.end(deserted)
				continue
			}
			g.obey(o)
		case <-changes:
		case <-timer.C:
		}
	}
}

func (g *guard) obey(o order) {
	if o.Until != 0 {
		g.until = o.Until
	}
	if o.Signal == syscall.SIGTSTP {
		g.tree.signalGroup(o.Signal)
	} else if o.Signal != 0 {
		_, denied := g.tree.signal(o.Signal)
		g.tell(denied)
	}
	if o.Resume {
		g.tree.signalGroup(syscall.SIGCONT)
	}
	if o.Stop != "" {
		g.over = g.over || o.Stop == Lost
		g.end(o.Stop)
	}
}

// act does what is due, and reports whether the guard's work is done.
func (g *guard) act() bool {
	stopped, ended := g.tree.poll()
	if stopped != 0 {
		g.report(report{Event: eventStopped, Signal: stopped})
	}
	if ended != nil {
		g.ended = ended
		if g.tree.empty() {
			g.report(report{Event: eventEnded, Status: ended})
			return true
		}
		g.end(leftover)
	}
	if !g.ending && g.now() >= g.until-g.grace {
		g.end(Expiring)
	}
	if g.ending && g.now() >= g.killAt {
		g.kill()
	}
	if g.hopeless() {
		reached, denied := g.tree.signal(0)
		g.report(report{Event: eventEnded, Status: g.ended, Processes: append(reached, denied...)})
		return true
	}
	return false
}

// end begins to end all processes: SIGTERM now, with SIGCONT for stopped processes; SIGKILL after the grace, and at the
// latest at the end of the lease.
func (g *guard) end(why Reason) {
	if g.ending {
		return
	}
	g.ending = true
	if why != leftover && why != deserted {
		g.report(report{Event: eventStopping, Reason: why})
	}
	reached, denied := g.tree.signal(syscall.SIGTERM)
	g.tree.signal(syscall.SIGCONT)
	g.killAt = min(g.now()+g.grace, g.until)
	if len(reached) == 0 { // no process to wait for
		g.killAt = g.now()
	}
	g.tell(denied)
}

// kill sends SIGKILL to all processes.
func (g *guard) kill() {
	reached, denied := g.tree.signal(syscall.SIGKILL)
	if g.killedAt == 0 {
		g.killedAt = g.now()
	}
	g.stuck = len(reached) == 0 && len(denied) > 0
	g.tell(denied)
	g.killAt = g.now() + killEvery
	if g.now() >= g.killedAt+killFor {
		g.killAt = g.now() + lookEvery
	}
}

// hopeless reports whether to give up: the lease is over, and the remaining processes cannot be signalled, or have not
// ended after SIGKILL. As long as the lease can be renewed, the guard waits for them.
func (g *guard) hopeless() bool {
	if g.killedAt == 0 || !g.over && g.now() < g.until {
		return false
	}
	return g.stuck || g.now() >= g.killedAt+killFor
}

// tell reports processes that the guard may not signal; only the first time.
func (g *guard) tell(denied []Process) {
	if len(denied) > 0 && !g.told {
		g.told = true
		g.report(report{Event: eventDenied, Processes: denied})
	}
}

// pause is the time until something is due.
func (g *guard) pause() time.Duration {
	due := g.until - g.grace
	if g.ending {
		due = g.killAt
	}
	return max(min(due-g.now(), lookEvery, pollEvery(g.ending)), time.Millisecond)
}

// String formats a process for people: its id and name.
func (p Process) String() string { return fmt.Sprintf("%d (%s)", p.PID, p.Name) }
