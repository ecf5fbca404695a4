package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A stage is what one scenario runs on: a coordinator, the front through which clients reach it, and the drivers that the scenario started. Its
// methods end the scenario at the first failure.
type stage struct {
	ctx     context.Context
	options options
	*coordinator
	front *front

	mu      sync.Mutex
	drivers []*driver
	log     strings.Builder
	started time.Time
	outcome outcome
}

// play runs one scenario.
func play(ctx context.Context, o options, c scenario) outcome {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &stage{ctx: ctx, options: o, started: time.Now()}
	ended := make(chan struct{})
	go func() { // a failure ends this goroutine
		defer close(ended)
		defer func() {
			if r := recover(); r != nil {
				s.outcome.failure = fmt.Sprintf("the scenario has a bug: %v\n%s", r, debug.Stack())
			}
		}()
		var err error
		if s.coordinator, err = newCoordinator(c.skew); err != nil {
			s.failf("coordinator: %v", err)
		}
		if s.front, err = newFront(ctx, s); err != nil {
			s.failf("front: %v", err)
		}
		c.run(s)
		s.end()
	}()
	<-ended
	for _, d := range s.drivers {
		d.kill()
		s.logf("standard error of %s:\n%s", d.name, d.stderr.String())
	}
	if s.front != nil {
		s.front.close()
	}
	s.outcome.took, s.outcome.transcript = time.Since(s.started), s.transcript()
	return s.outcome
}

// end ends the drivers of a scenario that passed: each must end by itself, with exit code 0, when its standard input is closed.
func (s *stage) end() {
	for _, d := range s.drivers {
		if err := d.end(); err != nil {
			s.failf("driver %s: %v", d.name, err)
		}
	}
}

// failf ends the scenario.
func (s *stage) failf(format string, args ...any) {
	s.outcome.failure = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// notRun ends the scenario: the client cannot run it.
func (s *stage) notRun(why string) {
	s.outcome.notRun = why
	runtime.Goexit()
}

// check fails the scenario if ok is false.
func (s *stage) check(ok bool, format string, args ...any) {
	if !ok {
		s.failf(format, args...)
	}
}

// logf adds a line to the transcript.
func (s *stage) logf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(&s.log, "%7.3f %s\n", time.Since(s.started).Seconds(), fmt.Sprintf(format, args...))
}

// transcript returns the lines so far. A request that is still served may add one.
func (s *stage) transcript() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// until waits for a condition, which is checked every few milliseconds. what says what is waited for.
func (s *stage) until(what string, ok func() bool) {
	for deadline := time.Now().Add(s.options.patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.failf("%s did not happen in %v", what, s.options.patience)
		}
		if s.ctx.Err() != nil {
			s.failf("interrupted while waiting for: %s", what)
		}
	}
}

// monotonic is CLOCK_MONOTONIC in milliseconds, the clock of deadline_ms.
func monotonic() float64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err)
	}
	return float64(t.Nano()) / 1e6
}
