// Command figures runs `go test -json` and shows a digest of its output: the figures that tests print ("name: ..." at
// the start of a line) and the results of packages at once, the running tests after a while without output, and the
// whole output of a package that fails.
//
//	go run ./scripts/figures go test -json ./...
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// quiet is the time without output after which the running tests are shown.
const quiet = 15 * time.Second

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "figures: give a command, like: go test -json ./...")
		os.Exit(2)
	}
	signal.Ignore(os.Interrupt)                     // the command gets it too, and its end ends this process
	cmd := exec.Command(os.Args[1], os.Args[2:]...) //nolint:gosec,noctx // it runs the command that it is given
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "figures:", err)
		os.Exit(1)
	}
	show(out, os.Stdout, time.NewTicker(quiet/3).C, time.Now)
	os.Exit(code(cmd.Wait()))
}

// code is a command's exit code, as in a shell: 128 plus the signal's number if a signal ended it.
func code(err error) int {
	failed, ok := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return 0
	case !ok:
		return 1
	}
	if state, ok := failed.Sys().(syscall.WaitStatus); ok && state.Signaled() {
		return 128 + int(state.Signal())
	}
	return failed.ExitCode()
}

// An event is a line of test2json.
type event struct {
	Action, Package, Test, Output string
}

// figure matches the lines that are shown at once.
var figure = regexp.MustCompile(`^([a-z][a-z0-9-]*: |ok  )`)

// A viewer keeps the state of the tests.
type viewer struct {
	out     io.Writer
	now     func() time.Time
	log     map[string]*strings.Builder // the output of each package
	tests   []string                    // the running tests, the latest last
	since   map[string]time.Time
	shownAt time.Time
}

// show reads events until they end. At each tick it shows the running tests if it has shown nothing for [quiet].
func show(events io.Reader, out io.Writer, tick <-chan time.Time, now func() time.Time) {
	v := &viewer{out: out, now: now, log: map[string]*strings.Builder{}, since: map[string]time.Time{}, shownAt: now()}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for in := bufio.NewReader(events); ; {
			line, err := in.ReadString('\n')
			if line != "" {
				lines <- line
			}
			if err != nil {
				return
			}
		}
	}()
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				return
			}
			v.line(line)
		case <-tick:
			v.progress()
		}
	}
}

func (v *viewer) line(line string) {
	var e event
	if json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
		v.print(line) // not of test2json: the compiler's, or a wrapper's
		return
	}
	name := path.Base(e.Package) + " " + e.Test
	switch e.Action {
	case "output", "build-output":
		if v.log[e.Package] == nil {
			v.log[e.Package] = &strings.Builder{}
		}
		_, _ = v.log[e.Package].WriteString(e.Output)
		if figure.MatchString(e.Output) || e.Action == "build-output" {
			v.print(e.Output)
		}
	case "run":
		v.tests, v.since[name] = append(v.tests, name), v.now()
	case "pass", "fail", "skip":
		for i, t := range v.tests {
			if t == name {
				v.tests = append(v.tests[:i:i], v.tests[i+1:]...)
				break
			}
		}
		if e.Action == "fail" && e.Test == "" && v.log[e.Package] != nil {
			v.print(v.log[e.Package].String())
		}
	}
}

func (v *viewer) print(text string) {
	_, _ = io.WriteString(v.out, text)
	v.shownAt = v.now()
}

// progress shows the running tests.
func (v *viewer) progress() {
	if len(v.tests) == 0 || v.now().Sub(v.shownAt) < quiet {
		return
	}
	test := v.tests[len(v.tests)-1]
	more := ""
	if n := len(v.tests) - 1; n > 0 {
		more = fmt.Sprintf(", and %d more", n)
	}
	v.print(fmt.Sprintf("... %s for %v%s\n", test, v.now().Sub(v.since[test]).Round(time.Second), more))
}
