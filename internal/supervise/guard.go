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
	// lookEvery is the longest that the guard and the supervisor sleep. Timers do not count the time in which the machine is
	// suspended, and now does.
	lookEvery = time.Second
	// killEvery is the pause before SIGKILL is sent again, to processes that were forked in the meantime.
	killEvery = 5 * time.Millisecond
	// killFor is how long processes may take to end after SIGKILL, before they are given up if the lease is over.
	killFor = time.Second
)

// A tree is a command and everything that it started.
type tree interface {
	// poll buries dead processes. It answers the signal that stopped the command, if one did since the last call, and how the
	// command ended, if it has ended.
	poll() (stopped syscall.Signal, ended *status)
	// signal sends a signal to all processes. It answers which it reached, and which it may not signal.
	signal(syscall.Signal) (reached, denied []Process)
	// signalGroup sends a signal to the command's process group.
	signalGroup(syscall.Signal)
	// empty tells whether the command has ended and no process is left.
	empty() bool
}

// A guard runs one command.
type guard struct {
	tree   tree
	grace  time.Duration
	now    func() time.Duration
	report func(report)

	until    time.Duration // the end of the lease
	ended    *status       // how the command ended; nil: it runs
	ending   bool          // SIGTERM was sent
	killAt   time.Duration // when SIGKILL is due, once ending
	killedAt time.Duration // when SIGKILL was first sent; 0: not yet
	stuck    bool          // SIGKILL was refused for all that is left
	over     bool          // the lease is lost, or nobody is left to renew it
	told     bool          // eventDenied was reported
}

// Guard is the main function of the guard's process, which [Run] starts. fd is the descriptor of its connection.
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
	signal.Notify(make(chan os.Signal, 1), deafTo()...) // not ignored: the command would inherit that
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, syscall.SIGCHLD)
	runtime.LockOSThread() // the end of the thread that starts the command would count as its parent's
	tree, err := startTree(*first.Start, now() < first.Until-first.Start.Grace)
	switch {
	case errors.Is(err, errTooLate):
		send(conn, report{Event: eventEnded, Reason: Expiring})
		return nil
	case err != nil:
		send(conn, report{Event: eventFailed, Error: err.Error()})
		return nil //nolint:nilerr // exec is told, and reports it
	}
	g := &guard{tree: tree, grace: first.Start.Grace, now: now, until: first.Until, report: func(r report) { send(conn, r) }}
	send(conn, report{Event: eventStarted, PID: tree.main})
	g.run(orders, changes)
	return nil
}

// errTooLate is the answer of startTree when the lease is as good as over.
var errTooLate = errors.New("the lease is over")

// deafTo are the signals that must not end or stop the guard. Those that are ignored already stay so, for the command, too.
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

// run obeys orders until no process is left, or none that can be ended.
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

// act does what is due, and answers whether that was all.
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

// end begins to end all processes: SIGTERM now, also to those that are stopped; SIGKILL after the grace, and before the end of
// the lease.
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
	if len(reached) == 0 { // nobody to wait for
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

// hopeless tells whether it makes no sense to wait any longer: the lease is over, and the processes that are left cannot be
// signalled, or do not end after SIGKILL. While the lease can be renewed, they are waited for.
func (g *guard) hopeless() bool {
	if g.killedAt == 0 || !g.over && g.now() < g.until {
		return false
	}
	return g.stuck || g.now() >= g.killedAt+killFor
}

// tell reports, once, processes that the guard may not signal.
func (g *guard) tell(denied []Process) {
	if len(denied) > 0 && !g.told {
		g.told = true
		g.report(report{Event: eventDenied, Processes: denied})
	}
}

// pause is how long nothing is due.
func (g *guard) pause() time.Duration {
	due := g.until - g.grace
	if g.ending {
		due = g.killAt
	}
	return max(min(due-g.now(), lookEvery, pollEvery(g.ending)), time.Millisecond)
}

// String tells a process to people.
func (p Process) String() string { return fmt.Sprintf("%d (%s)", p.PID, p.Name) }
