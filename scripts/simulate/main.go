// Command simulate runs the simulation of package sim with many seeds, on all CPUs, and prints the sum of the figures. It ends with the first
// run that fails, after the replay that this run prints; with -all, it prints that and goes on with other seeds.
//
//	go run ./scripts/simulate -ops 10000000
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

func main() {
	ops := flag.Int("ops", 2000000, "the number of operations to simulate")
	from := flag.Int("from", 1, "the first seed")
	size := flag.Int("size", 1500, "the number of operations of a run")
	procs := flag.Int("procs", runtime.NumCPU(), "the number of processes")
	most := flag.Duration("for", 0, "stop after this time; 0: never")
	all := flag.Bool("all", false, "go on after a run that fails")
	progress := flag.Duration("progress", time.Minute, "how often to print the sum so far")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := simulate(ctx, *ops, *from, *size, *procs, *most, *progress, *all); err != nil {
		fmt.Fprintln(os.Stderr, "simulate:", err)
		os.Exit(1)
	}
}

// maxFailed is how many processes may fail before -all stops, too.
const maxFailed = 20

// part is how many operations a process simulates before it reports.
const part = 300000

// A sum is the sum of the figures of all processes.
type sum struct {
	mu                                                     sync.Mutex
	began                                                  time.Time
	ops, runs, writes, events, timers, crashes, sets, next int
	failed                                                 int // processes
	cpu                                                    time.Duration
}

func (s *sum) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	took := time.Since(s.began)
	return fmt.Sprintf("%d operations in %d runs, %d writes, %d events, %d timers and jobs, %d crashes, %d sets granted; %v, %.0f operations a minute, %.0f a minute of a CPU's time",
		s.ops, s.runs, s.writes, s.events, s.timers, s.crashes, s.sets, took.Round(time.Second), float64(s.ops)/took.Minutes(), float64(s.ops)/max(s.cpu.Minutes(), 1e-9))
}

func simulate(ctx context.Context, ops, from, size, procs int, most, progress time.Duration, all bool) error {
	dir, err := os.MkdirTemp("", "simulate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	binary := filepath.Join(dir, "sim.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", binary, "./internal/sim") //nolint:gosec // a path of its own
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	if most > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, most)
		defer cancel()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &sum{began: time.Now(), next: from}
	var work sync.WaitGroup
	for range procs {
		work.Go(func() {
			for ctx.Err() == nil && s.left(ops) {
				switch err := s.part(ctx, binary, size); {
				case err != nil && all:
					s.fail(err)
				case err != nil:
					cancel(err)
				}
			}
		})
	}
	go s.show(ctx, progress)
	work.Wait()
	fmt.Printf("simulation: %v\n", s)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	if s.ops == 0 {
		return fmt.Errorf("no process of %d operations ended within %v: give -for more time", part, most)
	}
	if s.failed > 0 {
		return fmt.Errorf("%d processes had a run that failed, beside %d operations without a violation", s.failed, s.ops)
	}
	fmt.Printf("simulation: 0 violations in %d operations of %d that were asked for\n", s.ops, ops)
	return nil
}

// fail prints why a process failed. Its operations do not count.
func (s *sum) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed++
	fmt.Printf("simulation: failure %d: %v\n", s.failed, err)
}

func (s *sum) left(ops int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ops < ops && s.failed < maxFailed
}

func (s *sum) show(ctx context.Context, every time.Duration) {
	for {
		select {
		case <-time.After(every):
			fmt.Printf("so far: %v\n", s)
		case <-ctx.Done():
			return
		}
	}
}

// part runs one process with seeds of its own.
func (s *sum) part(ctx context.Context, binary string, size int) error {
	s.mu.Lock()
	from := s.next
	s.next += part/size + 10 // a run has a few operations more than its size
	s.mu.Unlock()
	cmd := exec.CommandContext(ctx, binary, "-test.run", "^TestSimulation$", "-sim.ops", strconv.Itoa(part), //nolint:gosec // the binary that was built above
		"-sim.from", strconv.Itoa(from), "-sim.size", strconv.Itoa(size))
	cmd.Env = append(os.Environ(), "GODEBUG=adaptivestackstart=1") // most goroutines grow their stacks: a tenth of the time
	out, err := cmd.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		return nil //nolint:nilerr // cut short: it does not count
	case err != nil:
		return fmt.Errorf("seeds from %d on: %w\n%s", from, err, out)
	}
	return s.add(string(out), cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
}

// add adds the figures that a process printed.
func (s *sum) add(out string, cpu time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for line := range strings.Lines(out) {
		var ops, runs, writes, events, timers, crashes, sets int
		n, _ := fmt.Sscanf(line, "simulation: %d operations in %d runs, %d writes, %d events, %d timers and jobs, %d crashes, %d sets granted",
			&ops, &runs, &writes, &events, &timers, &crashes, &sets)
		if n == 7 {
			s.ops, s.runs, s.writes, s.events, s.timers, s.crashes, s.cpu = s.ops+ops, s.runs+runs, s.writes+writes, s.events+events, s.timers+timers, s.crashes+crashes, s.cpu+cpu
			s.sets += sets
			return nil
		}
	}
	return fmt.Errorf("a process printed no figures: %s", out)
}
