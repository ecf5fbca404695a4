//go:build unix

package supervise

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A fakeProcess is one of a fakeTree. The first is the command.
type fakeProcess struct {
	name       string
	deaf       bool // ignores SIGTERM
	denied     bool // may not be signalled
	unkillable bool // does not end after SIGKILL
	forks      int  // how often another takes its place when it is killed
	dead       bool
}

// A fakeTree is a tree without processes. It logs signals with their times.
type fakeTree struct {
	mu        sync.Mutex
	start     time.Time
	processes []*fakeProcess
	ended     *status
	stopped   syscall.Signal
	log       []string
	polls     int
	changes   chan os.Signal
}

func newFakeTree(processes ...*fakeProcess) *fakeTree {
	return &fakeTree{start: time.Now(), processes: processes, changes: make(chan os.Signal, 1)}
}

func (t *fakeTree) poll() (syscall.Signal, *status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.polls++
	stopped := t.stopped
	t.stopped = 0
	return stopped, t.ended
}

func (t *fakeTree) empty() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !slices.ContainsFunc(t.processes, func(p *fakeProcess) bool { return !p.dead })
}

func (t *fakeTree) signal(n syscall.Signal) (reached, denied []Process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n != 0 {
		t.log = append(t.log, fmt.Sprintf("%v %v", time.Since(t.start), n))
	}
	for i, p := range t.processes {
		told := Process{PID: i + 1, Name: p.name}
		switch {
		case p.dead:
		case p.denied:
			denied = append(denied, told)
		default:
			reached = append(reached, told)
			if n == syscall.SIGKILL && !p.unkillable || n == syscall.SIGTERM && !p.deaf {
				t.die(i, &status{Signal: n})
			}
		}
	}
	return reached, denied
}

func (t *fakeTree) signalGroup(n syscall.Signal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.log = append(t.log, fmt.Sprintf("%v group %v", time.Since(t.start), n))
}

func (t *fakeTree) die(i int, how *status) {
	p := t.processes[i]
	if p.forks > 0 {
		p.forks--
		return
	}
	p.dead = true
	if i == 0 {
		t.ended = how
	}
	t.change()
}

func (t *fakeTree) change() {
	select {
	case t.changes <- syscall.SIGCHLD:
	default:
	}
}

// end makes a process end by itself.
func (t *fakeTree) end(i, code int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.die(i, &status{Code: code})
}

func (t *fakeTree) stop(n syscall.Signal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = n
	t.change()
}

const (
	testGrace = 5 * time.Second
	testLease = 60 * time.Second
)

// A guarded is a guard that runs on a fake tree, in a synctest bubble.
type guarded struct {
	*fakeTree
	orders  chan order
	done    chan time.Duration // when the guard ended
	reports []report
}

func startGuarded(processes ...*fakeProcess) *guarded {
	g := &guarded{fakeTree: newFakeTree(processes...), orders: make(chan order), done: make(chan time.Duration, 1)}
	start := time.Now()
	now := func() time.Duration { return time.Since(start) }
	guard := &guard{tree: g.fakeTree, grace: testGrace, now: now, until: testLease, report: func(r report) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.reports = append(g.reports, r)
	}}
	go func() {
		guard.run(g.orders, g.changes)
		g.done <- now()
	}()
	synctest.Wait()
	return g
}

// at runs f at a time after the start.
func (g *guarded) at(at time.Duration, f func()) {
	time.Sleep(at - time.Since(g.start))
	synctest.Wait()
	f()
	synctest.Wait()
}

// check waits for the guard's end, and compares.
func (g *guarded) check(t *testing.T, ended time.Duration, signals, reports string) {
	t.Helper()
	if at := <-g.done; at != ended {
		t.Errorf("the guard ended after %v, want %v", at, ended)
	}
	if got := strings.Join(g.log, ", "); got != signals {
		t.Errorf("signals:\n  got  %s\n  want %s", got, signals)
	}
	var texts []string
	for _, r := range g.reports {
		var text strings.Builder
		text.WriteString(string(r.Event))
		if r.Reason != "" {
			text.WriteString(" " + string(r.Reason))
		}
		if r.Signal != 0 {
			text.WriteString(" " + r.Signal.String())
		}
		if r.Status != nil {
			fmt.Fprintf(&text, " %d/%d", r.Status.Code, r.Status.Signal)
		}
		for _, p := range r.Processes {
			text.WriteString(" " + p.String())
		}
		texts = append(texts, text.String())
	}
	if got := strings.Join(texts, ", "); got != reports {
		t.Errorf("reports:\n  got  %s\n  want %s", got, reports)
	}
}

func obedient(name string) *fakeProcess { return &fakeProcess{name: name} }
func deaf(name string) *fakeProcess     { return &fakeProcess{name: name, deaf: true} }
func denied(name string) *fakeProcess   { return &fakeProcess{name: name, denied: true} }
func stuck(name string) *fakeProcess    { return &fakeProcess{name: name, deaf: true, unkillable: true} }

// Each case lists the signals and reports of the guard with their exact times.
func TestGuard(t *testing.T) {
	const ms = time.Millisecond
	for name, test := range map[string]struct {
		processes []*fakeProcess
		do        func(g *guarded)
		ended     time.Duration
		signals   string
		reports   string
	}{
		"the command ends": {
			[]*fakeProcess{obedient("a")},
			func(g *guarded) { g.at(time.Second, func() { g.end(0, 7) }) },
			time.Second, "", "ended 7/0",
		},
		"the lease is not renewed: SIGTERM in time for the grace": {
			[]*fakeProcess{obedient("a")},
			func(*guarded) {},
			55 * time.Second, "55s terminated, 55s continued", "stopping expiring, ended 0/15",
		},
		"the lease is not renewed: SIGKILL at its end": {
			[]*fakeProcess{deaf("a"), deaf("b")},
			func(*guarded) {},
			60 * time.Second, "55s terminated, 55s continued, 1m0s killed", "stopping expiring, ended 0/9",
		},
		"the lease is renewed: nothing happens": {
			[]*fakeProcess{deaf("a")},
			func(g *guarded) {
				for n := range 100 {
					at := time.Duration(n) * 20 * time.Second
					g.at(at, func() { g.orders <- order{Until: at + testLease} })
				}
				g.at(2000*time.Second, func() { g.end(0, 0) })
			},
			2000 * time.Second, "", "ended 0/0",
		},
		"the renewal comes at the last moment": {
			[]*fakeProcess{obedient("a")},
			func(g *guarded) {
				g.at(55*time.Second-time.Millisecond, func() { g.orders <- order{Until: 100 * time.Second} })
			},
			95 * time.Second, "1m35s terminated, 1m35s continued", "stopping expiring, ended 0/15",
		},
		"a clock that was set back makes the lease end sooner": {
			[]*fakeProcess{obedient("a")},
			func(g *guarded) { g.at(10*time.Second, func() { g.orders <- order{Until: 20 * time.Second} }) },
			15 * time.Second, "15s terminated, 15s continued", "stopping expiring, ended 0/15",
		},
		"the renewal comes too late: what was begun is finished": {
			[]*fakeProcess{deaf("a")},
			func(g *guarded) {
				g.at(56*time.Second, func() { g.orders <- order{Until: 100 * time.Second} })
			},
			60 * time.Second, "55s terminated, 55s continued, 1m0s killed", "stopping expiring, ended 0/9",
		},
		"the lease is lost: SIGTERM": {
			[]*fakeProcess{obedient("a"), obedient("b")},
			func(g *guarded) { g.at(10*time.Second, func() { g.orders <- order{Stop: Lost} }) },
			10 * time.Second, "10s terminated, 10s continued", "stopping lost, ended 0/15",
		},
		"the lease is lost: SIGKILL after the grace": {
			[]*fakeProcess{obedient("a"), deaf("b")},
			func(g *guarded) { g.at(10*time.Second, func() { g.orders <- order{Stop: Lost} }) },
			15 * time.Second, "10s terminated, 10s continued, 15s killed", "stopping lost, ended 0/15",
		},
		"the lease is lost: SIGKILL before its end": {
			[]*fakeProcess{deaf("a")},
			func(g *guarded) {
				g.at(10*time.Second, func() { g.orders <- order{Until: 12 * time.Second, Stop: Lost} })
			},
			12 * time.Second, "10s terminated, 10s continued, 12s killed", "stopping lost, ended 0/9",
		},
		"the parent is gone": {
			[]*fakeProcess{deaf("a")},
			func(g *guarded) { g.at(10*time.Second, func() { g.orders <- order{Stop: Orphaned} }) },
			15 * time.Second, "10s terminated, 10s continued, 15s killed", "stopping orphaned, ended 0/9",
		},
		"told twice: once is enough": {
			[]*fakeProcess{deaf("a")},
			func(g *guarded) {
				g.at(10*time.Second, func() { g.orders <- order{Stop: Lost} })
				g.at(12*time.Second, func() { g.orders <- order{Stop: Lost} })
			},
			15 * time.Second, "10s terminated, 10s continued, 15s killed", "stopping lost, ended 0/9",
		},
		"the supervisor is gone": {
			[]*fakeProcess{deaf("a")},
			func(g *guarded) { g.at(10*time.Second, func() { close(g.orders) }) },
			15 * time.Second, "10s terminated, 10s continued, 15s killed", "ended 0/9",
		},
		"processes are left behind": {
			[]*fakeProcess{obedient("a"), obedient("b"), deaf("c")},
			func(g *guarded) { g.at(10*time.Second, func() { g.end(0, 3) }) },
			15 * time.Second, "10s terminated, 10s continued, 15s killed", "ended 3/0",
		},
		"processes are left behind, and the lease is nearly over": {
			[]*fakeProcess{obedient("a"), deaf("b")},
			func(g *guarded) {
				g.at(54*time.Second, func() { g.orders <- order{Until: 60 * time.Second} })
				g.at(54*time.Second, func() { g.end(0, 3) })
				g.at(54*time.Second, func() { g.orders <- order{Until: 56 * time.Second} }) // too late to change what is due
			},
			59 * time.Second, "54s terminated, 54s continued, 59s killed", "ended 3/0",
		},
		"a process forks while it is killed": {
			[]*fakeProcess{{name: "a", deaf: true, forks: 3}},
			func(g *guarded) { g.at(10*time.Second, func() { g.orders <- order{Stop: Lost} }) },
			15*time.Second + 15*ms,
			"10s terminated, 10s continued, 15s killed, 15.005s killed, 15.01s killed, 15.015s killed", "stopping lost, ended 0/9",
		},
		"the lease is lost and nothing may be signalled: no point in waiting": {
			[]*fakeProcess{denied("sudo")},
			func(g *guarded) { g.at(10*time.Second, func() { g.orders <- order{Stop: Lost} }) },
			10 * time.Second, "10s terminated, 10s continued, 10s killed",
			"stopping lost, denied 1 (sudo), ended 1 (sudo)",
		},
		"the lease is lost and one may not be signalled": {
			[]*fakeProcess{deaf("a"), denied("sudo")},
			func(g *guarded) { g.at(10*time.Second, func() { g.orders <- order{Stop: Lost} }) },
			15*time.Second + 5*ms, "10s terminated, 10s continued, 15s killed, 15.005s killed",
			"stopping lost, denied 2 (sudo), ended 0/9 2 (sudo)",
		},
		"a process that is left behind may not be signalled: the lease is kept until it ends": {
			[]*fakeProcess{obedient("a"), denied("daemon")},
			func(g *guarded) {
				g.at(10*time.Second, func() { g.end(0, 0) })
				g.at(50*time.Second, func() { g.orders <- order{Until: 110 * time.Second} })
				g.at(50*time.Second, func() { g.log = nil }) // SIGKILL was tried every second
				g.at(50*time.Second, func() { g.end(1, 0) })
			},
			50 * time.Second, "", "denied 2 (daemon), ended 0/0",
		},
		"the supervisor is gone and nothing may be signalled": {
			[]*fakeProcess{denied("sudo")},
			func(g *guarded) { g.at(10*time.Second, func() { close(g.orders) }) },
			10 * time.Second, "10s terminated, 10s continued, 10s killed", "denied 1 (sudo), ended 1 (sudo)",
		},
		"signals are passed on to all, Ctrl-Z and its end to the group": {
			[]*fakeProcess{deaf("a")},
			func(g *guarded) {
				g.at(time.Second, func() { g.orders <- order{Signal: syscall.SIGHUP} })
				g.at(2*time.Second, func() { g.orders <- order{Signal: syscall.SIGTSTP} })
				g.at(2*time.Second, func() { g.stop(syscall.SIGTSTP) })
				g.at(3*time.Second, func() { g.orders <- order{Resume: true} })
				g.at(4*time.Second, func() { g.end(0, 0) })
			},
			4 * time.Second, "1s hangup, 2s group stopped, 3s group continued", "stopped stopped, ended 0/0",
		},
		"a signal that may not be passed on is told once": {
			[]*fakeProcess{denied("sudo")},
			func(g *guarded) {
				g.at(time.Second, func() { g.orders <- order{Signal: syscall.SIGINT} })
				g.at(2*time.Second, func() { g.orders <- order{Signal: syscall.SIGINT} })
				g.at(4*time.Second, func() { g.end(0, 2) })
			},
			4 * time.Second, "1s interrupt, 2s interrupt", "denied 1 (sudo), ended 2/0",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := startGuarded(test.processes...)
				test.do(g)
				g.check(t, test.ended, test.signals, test.reports)
			})
		})
	}
}

// The guard waits for processes that do not end after SIGKILL until the lease ends, repeating SIGKILL at a bounded
// rate, and then gives them up.
func TestGuardWaitsForTheUnkillable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startGuarded(obedient("a"), stuck("nfs"))
		g.at(10*time.Second, func() { g.end(0, 0) })
		for n := range 180 { // an hour
			at := 10*time.Second + time.Duration(n)*20*time.Second
			g.at(at, func() { g.orders <- order{Until: at + testLease} })
		}
		over := 10*time.Second + 179*20*time.Second + testLease
		if at := <-g.done; at < over || at > over+lookEvery {
			t.Errorf("gave up after %v, the lease was over after %v", at, over)
		}
		if kills := len(g.log); kills < 3000 || kills > 4000 {
			t.Errorf("%d signals in an hour", kills)
		}
		if g.polls > 5000 {
			t.Errorf("looked %d times in an hour", g.polls)
		}
		if last := g.reports[len(g.reports)-1]; last.Event != eventEnded || len(last.Processes) != 1 || last.Processes[0].Name != "nfs" {
			t.Errorf("last report %+v", last)
		}
	})
}

// The guard gives up a process that it may not signal within a second after the end of the lease.
func TestGuardGivesUpTheDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startGuarded(obedient("a"), denied("daemon"))
		g.at(10*time.Second, func() { g.end(0, 0) })
		if at := <-g.done; at < testLease || at > testLease+lookEvery {
			t.Errorf("gave up after %v", at)
		}
	})
}

// After a lost lease the guard gives up a process that does not end, though not before killFor has passed.
func TestGuardGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startGuarded(stuck("nfs"))
		g.at(10*time.Second, func() { g.orders <- order{Stop: Lost} })
		if at := <-g.done; at != 15*time.Second+killFor {
			t.Errorf("gave up after %v", at)
		}
		if kills := len(g.log) - 2; kills < 100 || kills > 250 {
			t.Errorf("SIGKILL %d times", kills)
		}
	})
}

// The guard notices the time during which the machine was suspended, which its clock counts and its timers do not.
func TestGuardSeesASuspendedMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tree := newFakeTree(obedient("a"))
		var mu sync.Mutex
		var slept time.Duration
		start := time.Now()
		g := &guard{tree: tree, grace: testGrace, until: testLease, report: func(report) {}, now: func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return time.Since(start) + slept
		}}
		done := make(chan bool)
		go func() {
			g.run(make(chan order), tree.changes)
			close(done)
		}()
		synctest.Wait()
		mu.Lock()
		slept = time.Hour
		mu.Unlock()
		<-done
		if took := time.Since(start); took > lookEvery {
			t.Errorf("noticed after %v", took)
		}
	})
}

func TestGuardIsStartedByRun(t *testing.T) {
	if err := Guard(0); err == nil || !strings.Contains(err.Error(), "started by exec") {
		t.Errorf("%v", err)
	}
}
