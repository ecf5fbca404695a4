// Command suite is the behaviour suite of the clients. It runs each scenario against a coordinator in memory, through a front that loses,
// delays and replaces answers as the scenario says, with a client in a process of its own: its driver. A driver reads commands on its standard
// input and writes answers and events to its standard output, as README.md describes.
//
//	go run ./clients/suite -name go -driver .bin/godriver
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	var o options
	flag.StringVar(&o.driver, "driver", "", "the command that starts a driver, with its arguments, separated by spaces")
	flag.StringVar(&o.name, "name", "client", "the name of the client in the report")
	only := flag.String("only", "", "run only the scenarios whose names match this regular expression")
	list := flag.Bool("list", false, "list the scenarios, and run none")
	flag.BoolVar(&o.verbose, "v", false, "print each scenario, and the transcript of those that fail")
	flag.IntVar(&o.parallel, "parallel", 8, "how many scenarios to run at a time")
	flag.DurationVar(&o.patience, "patience", 30*time.Second, "how long to wait for an answer, an event or a request before a scenario fails")
	flag.Parse()
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		fail(fmt.Errorf("-only is %q: %w", *only, err))
	}
	if *list {
		for _, c := range scenarios {
			fmt.Printf("%-28s %s\n", c.name, c.about)
		}
		return
	}
	if o.driver == "" {
		fail(errors.New("-driver is empty; give the command that starts the driver of a client, such as -driver 'python driver.py'"))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		stop()
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "suite:", err)
	os.Exit(1)
}

type options struct {
	driver, name string
	only         *regexp.Regexp
	verbose      bool
	parallel     int
	patience     time.Duration
}

// A scenario is a course of events that a client must live through. It ends with its function, or with a failure.
type scenario struct {
	name, about string
	skew        time.Duration // the coordinator's skew allowance; 0: its default
	run         func(*stage)
}

// run runs the scenarios, and reports their outcomes. The error says how many failed.
func run(ctx context.Context, o options) error {
	var todo []scenario
	for _, c := range scenarios {
		if o.only.MatchString(c.name) {
			todo = append(todo, c)
		}
	}
	if len(todo) == 0 {
		return fmt.Errorf("no scenario matches -only %q; -list lists them", o.only)
	}
	idle := play(ctx, o, scenario{run: func(s *stage) { s.driver("idle") }})
	if idle.failure != "" {
		return fmt.Errorf("a driver that gets no command does not start and end: %s", idle.failure)
	}
	outcomes := make([]outcome, len(todo))
	slots := make(chan struct{}, max(o.parallel, 1))
	var work sync.WaitGroup
	for i, c := range todo {
		slots <- struct{}{}
		work.Go(func() {
			defer func() { <-slots }()
			outcomes[i] = play(ctx, o, c)
			if o.verbose {
				fmt.Printf("%-28s %s (%v)\n", c.name, outcomes[i].word(), outcomes[i].took.Round(time.Millisecond))
			}
		})
	}
	work.Wait()
	return report(o, todo, outcomes)
}

func report(o options, todo []scenario, outcomes []outcome) error {
	var failed, skipped []string
	for i, c := range todo {
		switch out := outcomes[i]; {
		case out.failure != "":
			failed = append(failed, c.name)
			fmt.Printf("FAILED %s (%s): %s\n", c.name, c.about, out.failure)
			if o.verbose || o.only.String() != "" {
				fmt.Println(indent(out.transcript))
			}
		case out.notRun != "":
			skipped = append(skipped, fmt.Sprintf("%s not run: %s", c.name, out.notRun))
		}
	}
	var text strings.Builder
	fmt.Fprintf(&text, "suite: %s: %d of %d scenarios passed", o.name, len(todo)-len(failed)-len(skipped), len(todo))
	for _, s := range skipped {
		text.WriteString("; " + s)
	}
	fmt.Println(text.String())
	if len(failed) > 0 {
		return fmt.Errorf("%s: %d scenarios failed: %s; -v -only NAME shows what the driver and the coordinator said", o.name, len(failed), strings.Join(failed, ", "))
	}
	return nil
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n    ")
}

// An outcome is how a scenario ended.
type outcome struct {
	failure    string // empty: it passed, or was not run
	notRun     string // why the client cannot run it
	transcript string // what went over the lines and the front, and the drivers' standard errors
	took       time.Duration
}

func (o outcome) word() string {
	switch {
	case o.failure != "":
		return "FAILED"
	case o.notRun != "":
		return "not run: " + o.notRun
	}
	return "passed"
}
