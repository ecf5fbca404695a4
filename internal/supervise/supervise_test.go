//go:build unix

package supervise

import (
	"errors"
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

// A fakeLease lasts until a time, and may be lost.
type fakeLease struct {
	mu    sync.Mutex
	until time.Time
	done  chan struct{}
}

func newFakeLease() *fakeLease {
	return &fakeLease{until: time.Now().Add(testLease), done: make(chan struct{})}
}

func (l *fakeLease) Done() <-chan struct{} { return l.done }

func (l *fakeLease) Remaining() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Until(l.until)
}

func (l *fakeLease) renew() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = time.Now().Add(testLease)
}

// A fakeTerminal logs its calls in the log of a supervised.
type fakeTerminal struct {
	s            *supervised
	there, input bool
	foreground   bool // is ours
	given        bool // to the command
	refuses      bool
}

func (t *fakeTerminal) is() bool      { return t.there }
func (t *fakeTerminal) isInput() bool { return t.input }
func (t *fakeTerminal) ours() bool    { return t.foreground }
func (t *fakeTerminal) of(group int) bool {
	return group == 42 && t.given
}
func (t *fakeTerminal) take() { t.s.note("take"); t.foreground, t.given = true, false }
func (t *fakeTerminal) give(group int) bool {
	t.s.note("give %d", group)
	t.foreground, t.given = t.refuses, !t.refuses
	return !t.refuses
}

// A supervised is a supervisor that runs with a fake guard, in a synctest bubble.
type supervised struct {
	mu       sync.Mutex
	log      []string
	start    time.Time
	until    time.Duration // as the guard was told last
	lease    *fakeLease
	terminal *fakeTerminal
	reports  chan report
	signals  chan os.Signal
	stops    chan os.Signal
	orphaned chan struct{}
	shell    bool // controls us
	outcome  Outcome
	err      error
	done     chan struct{}
}

func (s *supervised) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

func (s *supervised) taken() string {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	log := strings.Join(s.log, ", ")
	s.log = nil
	return log
}

func (s *supervised) want(t *testing.T, log string) {
	t.Helper()
	if got := s.taken(); got != log {
		t.Errorf("got  %q\nwant %q", got, log)
	}
}

// told is the end of the lease in the last order to the guard.
func (s *supervised) told() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.until
}

func (s *supervised) order(o order) {
	s.mu.Lock()
	if o.Until != 0 {
		s.until = o.Until
	}
	s.mu.Unlock()
	switch {
	case o.Start != nil:
		s.note("start %s %s, grace %v", o.Start.Path, o.Start.Args, o.Start.Grace)
	case o.Stop != "":
		s.note("stop %s", o.Stop)
	case o.Signal != 0:
		s.note("signal %v", o.Signal)
	case o.Resume:
		s.note("resume")
	}
}

func startSupervised(prepare func(*supervised)) *supervised {
	s := &supervised{
		start: time.Now(), lease: newFakeLease(), reports: make(chan report), signals: make(chan os.Signal), stops: make(chan os.Signal),
		orphaned: make(chan struct{}), done: make(chan struct{}),
	}
	s.terminal = &fakeTerminal{s: s}
	if prepare != nil {
		prepare(s)
	}
	v := &supervisor{
		cfg: Config{
			Path: "/bin/x", Args: []string{"x", "y"}, Lease: s.lease, Grace: testGrace, CheckEvery: time.Second, Signals: s.signals, Orphaned: s.orphaned,
			Notify: func(n Notice) {
				if n.Stopping != "" {
					s.note("notice %s", n.Stopping)
				}
				if n.Suspended {
					s.note("notice suspended")
				}
				if len(n.Denied) > 0 {
					s.note("notice denied %v", n.Denied)
				}
			},
		},
		send: s.order, now: func() time.Duration { return time.Since(s.start) }, terminal: s.terminal, stops: s.stops,
		controlled: func() bool { return s.shell }, suspend: func() { s.note("suspend") },
		killGuard: func() { s.note("kill guard at %v", time.Since(s.start)); close(s.reports) },
	}
	go func() {
		s.outcome, s.err = v.run(s.reports)
		close(s.done)
	}()
	synctest.Wait()
	return s
}

func (s *supervised) end(code int, n syscall.Signal) {
	s.reports <- report{Event: eventEnded, Status: &status{Code: code, Signal: n}}
	<-s.done
}

// Each renewal moves the guard's deadline, at the latest after CheckEvery.
func TestSupervisorTellsOfRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startSupervised(nil)
		s.want(t, "start /bin/x [x y], grace 5s")
		if until := s.told(); until != testLease {
			t.Errorf("the lease ends at %v", until)
		}
		for range 10 {
			time.Sleep(20 * time.Second)
			synctest.Wait()
			s.lease.renew()
			renewed := time.Since(s.start)
			time.Sleep(time.Second)
			synctest.Wait()
			if until := s.told(); until != renewed+testLease {
				t.Errorf("after %v the guard knows of %v", renewed, until)
			}
		}
		s.end(3, 0)
		if !equal(s.outcome, Outcome{Code: 3}) || s.err != nil {
			t.Errorf("%+v, %v", s.outcome, s.err)
		}
	})
}

func equal(a, b Outcome) bool {
	left := slices.Equal(a.Left, b.Left)
	a.Left, b.Left = nil, nil
	return left && a.Code == b.Code && a.Signal == b.Signal && a.HadTerminal == b.HadTerminal && a.Stopped == b.Stopped
}

// A lost lease is ordered and notified once, whether the supervisor or the guard notices it first, and the deadline is
// not sent again.
func TestSupervisorStops(t *testing.T) {
	for name, test := range map[string]struct {
		do      func(s *supervised)
		log     string
		stopped Reason
	}{
		"lost":      {func(s *supervised) { close(s.lease.done) }, "notice lost, stop lost", Lost},
		"parent":    {func(s *supervised) { close(s.orphaned) }, "notice orphaned, stop orphaned", Orphaned},
		"expiring":  {func(s *supervised) { s.reports <- report{Event: eventStopping, Reason: Expiring} }, "notice expiring", Expiring},
		"lost late": {func(s *supervised) { s.reports <- report{Event: eventStopping, Reason: Expiring}; close(s.lease.done) }, "notice expiring, stop lost", Expiring},
		"both": {func(s *supervised) {
			close(s.lease.done)
			synctest.Wait()
			s.reports <- report{Event: eventStopping, Reason: Lost}
		}, "notice lost, stop lost", Lost},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := startSupervised(nil)
				s.taken()
				test.do(s)
				s.want(t, test.log)
				if test.stopped != Orphaned { // of a lease that is over the guard hears nothing more
					s.lease.mu.Lock()
					s.lease.until = time.Now()
					s.lease.mu.Unlock()
					was := s.told()
					time.Sleep(2 * time.Second)
					synctest.Wait()
					if until := s.told(); until != was {
						t.Errorf("the guard was told of %v", until)
					}
				}
				s.reports <- report{Event: eventEnded, Status: &status{Signal: syscall.SIGTERM}, Processes: []Process{{1, "sudo"}}}
				<-s.done
				if want := (Outcome{Code: 143, Signal: syscall.SIGTERM, Stopped: test.stopped, Left: []Process{{1, "sudo"}}}); !equal(s.outcome, want) {
					t.Errorf("got %+v, want %+v", s.outcome, want)
				}
			})
		})
	}
}

func TestSupervisorOutcomes(t *testing.T) {
	for name, test := range map[string]struct {
		last report
		want Outcome
		err  string
	}{
		"not started": {report{Event: eventFailed, Error: "no such thing"}, Outcome{}, "no such thing"},
		"too late":    {report{Event: eventEnded, Reason: Expiring}, Outcome{Code: -1, Stopped: Expiring}, ""},
		"not ended":   {report{Event: eventEnded, Processes: []Process{{7, "nfs"}}}, Outcome{Code: -1, Left: []Process{{7, "nfs"}}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := startSupervised(nil)
				s.reports <- test.last
				<-s.done
				if said := s.taken(); strings.Contains(said, "notice expiring") != (test.want.Stopped == Expiring) {
					t.Errorf("said %q", said)
				}
				if got := fmt.Sprint(s.err); !equal(s.outcome, test.want) || test.err == "" && s.err != nil || test.err != "" && got != test.err {
					t.Errorf("%+v, %v", s.outcome, s.err)
				}
			})
		})
	}
}

// The guard is killed, or hangs after the order to stop the command.
func TestSupervisorWithoutGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startSupervised(nil)
		close(s.reports)
		<-s.done
		if s.outcome.Stopped != Unguarded || s.outcome.Code != -1 {
			t.Errorf("%+v", s.outcome)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := startSupervised(nil)
		s.taken()
		time.Sleep(10*time.Second + time.Millisecond)
		close(s.lease.done)
		<-s.done
		s.want(t, "notice lost, stop lost, kill guard at 19s") // 10.001 s, grace, time for SIGKILL, patience; at the next look
		if s.outcome.Stopped != Unguarded {
			t.Errorf("%+v", s.outcome)
		}
	})
}

func TestSupervisorPassesSignals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startSupervised(nil)
		s.reports <- report{Event: eventStarted, PID: 42}
		s.taken()
		for _, n := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
			s.signals <- n
			s.want(t, "signal "+n.String())
		}
		s.stops <- syscall.SIGTSTP
		s.want(t, "signal stopped")
		s.stops <- syscall.SIGCONT
		s.want(t, "resume")
		s.reports <- report{Event: eventDenied, Processes: []Process{{7, "sudo"}}}
		s.want(t, "notice denied [7 (sudo)]")
		s.end(0, syscall.SIGINT)
		if want := (Outcome{Code: 130, Signal: syscall.SIGINT}); !equal(s.outcome, want) {
			t.Errorf("%+v", s.outcome)
		}
	})
}

// Job control depends on the signal that stopped the command, and on whether a shell can resume it.
func TestSupervisorJobControl(t *testing.T) {
	foreground := func(s *supervised) {
		s.terminal.there, s.terminal.input, s.terminal.foreground, s.shell = true, true, true, true
	}
	background := func(s *supervised) { s.terminal.there, s.terminal.input, s.shell = true, true, true }
	inPipeline := func(s *supervised) { s.terminal.there, s.terminal.foreground, s.shell = true, true, true }
	fromCron := func(*supervised) {}
	noJobControl := func(s *supervised) { s.terminal.there, s.terminal.input, s.terminal.foreground = true, true, true }
	for name, test := range map[string]struct {
		prepare func(s *supervised)
		asked   bool
		by      syscall.Signal
		started bool // the command has the terminal from the start
		log     string
		has     bool // the command has the terminal in the end
	}{
		"Ctrl-Z in the foreground":                {foreground, false, syscall.SIGTSTP, true, "take, notice suspended, suspend, give 42, resume", true},
		"SIGSTOP in the foreground":               {foreground, false, syscall.SIGSTOP, true, "take, notice suspended, suspend, give 42, resume", true},
		"reads the terminal in the background":    {background, false, syscall.SIGTTIN, false, "notice suspended, suspend, resume", false},
		"reads the terminal in a pipeline":        {inPipeline, false, syscall.SIGTTIN, false, "give 42, resume", true},
		"writes to the terminal in a pipeline":    {inPipeline, false, syscall.SIGTTOU, false, "give 42, resume", true},
		"Ctrl-Z in a pipeline":                    {inPipeline, true, syscall.SIGTSTP, false, "notice suspended, suspend, resume", false},
		"read the terminal just before it got it": {foreground, false, syscall.SIGTTIN, true, "resume", true},
		"no shell controls us":                    {noJobControl, false, syscall.SIGTSTP, true, "resume", true},
		"stopped by somebody, no terminal":        {fromCron, false, syscall.SIGSTOP, false, "", false},
		"SIGTSTP, no terminal":                    {fromCron, true, syscall.SIGTSTP, false, "resume", false},
		"SIGTSTP, a shell but no terminal": {func(s *supervised) { s.shell = true }, true, syscall.SIGTSTP, false,
			"notice suspended, suspend, resume", false},
		"SIGSTOP, a shell but no terminal": {func(s *supervised) { s.shell = true }, false, syscall.SIGSTOP, false, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := startSupervised(test.prepare)
				s.taken()
				s.reports <- report{Event: eventStarted, PID: 42}
				s.want(t, map[bool]string{true: "give 42", false: ""}[test.started])
				if test.asked {
					s.stops <- syscall.SIGTSTP
					s.want(t, "signal stopped")
				}
				s.reports <- report{Event: eventStopped, Signal: test.by}
				s.want(t, test.log)
				s.end(0, 0)
				if s.outcome.HadTerminal != test.has {
					t.Errorf("the command had the terminal: %v", s.outcome.HadTerminal)
				}
				if want := map[bool]string{true: "take", false: ""}[test.has]; s.taken() != want {
					t.Errorf("the terminal was not taken back")
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) { // asked once is stopped once
		s := startSupervised(func(s *supervised) { s.shell = true })
		s.reports <- report{Event: eventStarted, PID: 42}
		s.stops <- syscall.SIGTSTP
		s.reports <- report{Event: eventStopped, Signal: syscall.SIGTSTP}
		s.taken()
		s.reports <- report{Event: eventStopped, Signal: syscall.SIGSTOP}
		s.want(t, "")
		s.end(0, 0)
	})
	synctest.Test(t, func(t *testing.T) { // before the command runs, and with a terminal that cannot be given
		s := startSupervised(foreground)
		s.taken()
		s.stops <- syscall.SIGCONT
		s.want(t, "")
		s.terminal.refuses = true
		s.reports <- report{Event: eventStarted, PID: 42}
		s.want(t, "give 42")
		s.stops <- syscall.SIGCONT
		s.want(t, "give 42, resume")
		s.end(0, 0)
		if s.outcome.HadTerminal {
			t.Error("a terminal that was refused counts as given")
		}
	})
}

// A command is not started under a lease that has ended.
func TestLostLeaseStartsNothing(t *testing.T) {
	lost := newFakeLease()
	close(lost.done)
	for _, lease := range []Lease{lost, &fakeLease{until: time.Now(), done: make(chan struct{})}} {
		var said []Notice
		outcome, err := Run(Config{
			Path: "/bin/true", Args: []string{"true"}, Guard: []string{"/nonexistent"}, Lease: lease,
			Notify: func(n Notice) { said = append(said, n) },
		})
		if err != nil || len(said) != 1 || said[0].Stopping != Lost || !equal(outcome, Outcome{Code: -1, Stopped: Lost}) {
			t.Errorf("%+v, %v", outcome, err)
		}
	}
	if _, err := Run(Config{Guard: []string{"/nonexistent"}, Lease: newFakeLease()}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no guard: %v", err)
	}
}

// The processes of a killed guard are killed at once, including those forked meanwhile, and given up if they cannot be
// killed.
func TestKillOrphans(t *testing.T) {
	for name, test := range map[string]struct {
		processes []*fakeProcess
		took      time.Duration
		left      int
	}{
		"none":       {nil, 0, 0},
		"deaf":       {[]*fakeProcess{deaf("a"), {name: "b", deaf: true, forks: 2}}, 15 * time.Millisecond, 0},
		"denied":     {[]*fakeProcess{denied("a")}, 0, 1},
		"unkillable": {[]*fakeProcess{stuck("a"), denied("b")}, killFor, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tree := newFakeTree(test.processes...)
				left := killOrphans(tree, func() time.Duration { return time.Since(tree.start) })
				if took := time.Since(tree.start); took != test.took || len(left) != test.left {
					t.Errorf("took %v, left %v", took, left)
				}
			})
		})
	}
}
