package sim

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/internal/history"
)

var (
	seedFlag   = flag.Uint64("sim.seed", 0, "replay the run with this seed, and look for a smaller one if it fails")
	paramsFlag = flag.String("sim.params", "", "replay the run with these parameters, as a failure prints them")
	opsFlag    = flag.Int("sim.ops", 60000, "the number of operations to simulate, in runs with seeds from -sim.from on")
	fromFlag   = flag.Uint64("sim.from", 1, "the first seed")
	stepFlag   = flag.Uint64("sim.step", 1, "the difference between two seeds")
	sizeFlag   = flag.Int("sim.size", 1500, "the number of operations of a run")
	outFlag    = flag.String("sim.out", "", "write the history of the last run to this file, as JSON lines")
	shrinkFlag = flag.Bool("sim.shrink", true, "look for a smaller run that fails as well")
	stopFlag   = flag.Duration("sim.stop", 0, "stop after this time, at the end of a run; 0: never")
)

func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(600) // runs make much garbage and keep little; 200 and 1600 took longer
	os.Exit(m.Run())
}

// run makes a run in a bubble, on one CPU.
func run(t *testing.T, p Params) *Run {
	t.Helper()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var r *Run
	synctest.Test(t, func(*testing.T) { r = Simulate(p) })
	return r
}

// TestSimulation makes runs with one seed after another. It fails with the first that fails, made as small as possible.
func TestSimulation(t *testing.T) {
	start := time.Now()
	var sum totals
	switch {
	case *paramsFlag != "":
		var p Params
		if err := json.Unmarshal([]byte(*paramsFlag), &p); err != nil {
			t.Fatalf("-sim.params: %v", err)
		}
		sum.add(check(t, p))
	case *seedFlag != 0:
		sum.add(check(t, Random(*seedFlag, *sizeFlag)))
	default:
		for seed := *fromFlag; sum.ops < *opsFlag && !t.Failed() && (*stopFlag == 0 || time.Since(start) < *stopFlag); seed += *stepFlag {
			sum.add(check(t, Random(seed, *sizeFlag)))
		}
	}
	fmt.Printf("simulation: %v, %.1f s\n", sum, time.Since(start).Seconds())
}

type totals struct{ runs, ops, rows, events, timers, crashes, sets, waited, tasks, rules, frozen, rated, downgrades int }

func (s *totals) add(r *Run) {
	s.runs, s.ops, s.rows, s.events = s.runs+1, s.ops+len(r.History.Ops), s.rows+len(r.History.Rows), s.events+len(r.History.Events)
	s.timers, s.crashes, s.rules = s.timers+r.Fired, s.crashes+r.Crashes, s.rules+len(r.History.Rules)
	waits, granted := map[string]bool{}, map[string]bool{} // sets, by lease
	for _, o := range r.History.Ops {
		if o.Frozen != 0 {
			s.frozen++
		}
		if o.Rated {
			s.rated++
		}
		switch {
		case o.Op == history.Downgrade && o.Result == history.OK:
			s.downgrades++
		case o.Set == "" || o.Op != history.Acquire:
		case o.Ticket != 0:
			waits[o.Lease] = true
		case o.Result == history.Granted:
			granted[o.Lease] = true
		}
	}
	s.sets += len(granted)
	for lease := range granted {
		if waits[lease] {
			s.waited++
		}
		if strings.HasPrefix(lease, "machine-") {
			s.tasks++
		}
	}
}

func (s totals) String() string {
	return fmt.Sprintf("%d operations in %d runs, %d writes, %d events, %d timers and jobs, %d crashes, %d sets granted, %d of them after a wait, %d to tasks, %d changes of rules, %d acquires refused by a freeze, %d by a rate, %d downgrades",
		s.ops, s.runs, s.rows, s.events, s.timers, s.crashes, s.sets, s.waited, s.tasks, s.rules, s.frozen, s.rated, s.downgrades)
}

// check makes a run and checks it. A failure says how to replay it.
func check(t *testing.T, p Params) *Run {
	t.Helper()
	r := run(t, p)
	report := r.Check()
	if *outFlag != "" {
		write(t, r)
	}
	if report.Err() == nil {
		return r
	}
	text := func(p Params) string {
		params, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("go test ./internal/sim -run TestSimulation -sim.params '%s'", params)
	}
	t.Errorf("%v\n%v\nreplay: %s", p, report.Err(), text(p))
	if !*shrinkFlag {
		return r
	}
	small := Shrink(p, func(q Params) bool { return run(t, q).Check().Err() != nil }, 150)
	t.Errorf("smaller: %v\n%v\nreplay: %s", small, run(t, small).Check().Err(), text(small))
	return r
}

func write(t *testing.T, r *Run) {
	t.Helper()
	f, err := os.Create(*outFlag)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.History.WriteTo(history.NewWriter(f)), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// A seed decides everything.
func TestRepeats(t *testing.T) {
	for seed := uint64(1); seed <= 8; seed++ {
		p := Random(seed, 700)
		if a, b := run(t, p).Hash(), run(t, p).Hash(); a != b {
			t.Errorf("seed %d: two runs have the hashes %x and %x", seed, a, b)
		}
	}
}

// beyond is a world whose clocks differ by more than the allowance, and by too little for the coordinators to notice. That must break
// mutual exclusion, and the checks must see it.
func beyond(seed uint64) Params {
	return Params{Seed: seed, Clients: 3, Sessions: 2, Locks: 1, Coordinators: 3, Ops: 1500, Level: 1, ClockError: 900 * time.Millisecond, Faults: []Fault{Clocks, ClientCrash, LostReply}}
}

func TestClocksBeyondTheAllowance(t *testing.T) {
	for seed := uint64(1); seed < 50; seed++ {
		p := beyond(seed)
		err := run(t, p).Check().Err()
		if err == nil || !strings.Contains(err.Error(), "beliefs: ") {
			continue
		}
		small := Shrink(p, func(q Params) bool { return run(t, q).Check().Err() != nil }, 60)
		if small.Ops >= p.Ops {
			t.Errorf("the run was not made shorter: %v", small)
		}
		if len(small.Faults) >= len(p.Faults) && small.Clients >= p.Clients {
			continue // this run needs all of them
		}
		if !strings.Contains(small.String(), string(Clocks)) {
			t.Errorf("the smaller run does not need the clocks: %v", small)
		}
		return
	}
	t.Error("no two holders at once, in a run that can be made smaller, in 50 runs with clocks that differ by up to 1.8 s")
}

// Every kind of fault happens.
func TestFaultsHappen(t *testing.T) {
	seen := map[Fault]int{}
	for seed := uint64(1); seed <= 40 && len(seen) < len(Faults); seed++ {
		p := Random(seed, 500)
		p.Faults, p.Level, p.Tasks = Faults, 3, 2
		for f, n := range run(t, p).Faults {
			seen[f] += n
		}
	}
	for _, f := range Faults {
		if seen[f] == 0 {
			t.Errorf("the fault %s never happened", f)
		}
	}
}
