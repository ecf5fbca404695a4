// Command mutants plants small bugs in the core packages, one at a time, and reports those that no test catches. It
// runs gremlins (https://gremlins.dev), and compares the survivors with scripts/mutants/equivalent.txt, which lists the
// equivalent mutants, those that no test can detect, with their reasons.
//
//	mutants [-diff REVISION] [-minutes N] [-least PERCENT] [PACKAGE...]
//
// It fails if a mutant survives that is not listed, or if a listed one is caught or no longer exists; with -least, only
// if less than that percentage of the tested mutants is caught.
package main

import (
	"bufio"
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A target is a package whose tests run against mutants.
type target struct {
	pkg  string
	skip string // a regular expression of the tests that are too slow to run for each mutant
}

// targets are the packages of the protocol, its stores and its interfaces. Packages that only start programs or print
// are not listed.
var targets = []target{
	{"internal/lock", "^(TestExplore|TestMutants|TestQueueMutants|TestModelMutants|TestLimitMutants)"},
	{"internal/wire", ""},
	{"internal/scope", ""},
	{"internal/api", ""},
	{"internal/stream", ""},
	{"internal/eventbridge", "^TestOutbox$"},
	{"internal/sqs", ""},
	{"internal/tasks", ""},
	{"internal/poller", "^TestStreamOfDynamoDBLocal$"},
	{"internal/dynamo", ""},
	{"internal/reach", ""},
	{"lockclient", "^(TestCyclesLeakNothing|TestTransports|TestDeadConnections|TestUnreachableAsSetUp|TestCloseThroughAThrottle)$"},
}

// operators are the kinds of mutants that gremlins does not make by default.
var operators = []string{
	"--invert-logical", "--invert-loopctrl", "--invert-assignments", "--invert-bitwise", "--remove-self-assignments",
}

// A mutant is one planted bug.
type mutant struct {
	file   string
	kind   string
	text   string // the source line, trimmed
	column int    // in text, from 1
}

func (m mutant) String() string {
	return fmt.Sprintf("%s | %s@%d | %s", m.file, m.kind, m.column, m.text)
}

// A result is the outcome of a package's mutants.
type result struct {
	killed, timedOut, equivalent int
	survivors                    []mutant
	seen                         map[mutant]bool
	whole                        bool // all mutants were tested
}

func main() {
	diff := flag.String("diff", "", "only mutants in files that changed since this revision")
	minutes := flag.Int("minutes", 0, "end after about this many minutes, divided among the packages; 0: no limit")
	least := flag.Float64("least", 100, "the percentage of mutants that must be caught")
	list := flag.String("equivalent", "scripts/mutants/equivalent.txt", "the file of the mutants that no test can catch")
	flag.Parse()
	ok, err := run(*diff, time.Duration(*minutes)*time.Minute, *least, *list, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

func run(diff string, limit time.Duration, least float64, list string, pkgs []string) (bool, error) {
	equivalent, err := readEquivalent(list)
	if err != nil {
		return false, err
	}
	todo := slices.DeleteFunc(slices.Clone(targets), func(t target) bool { return len(pkgs) > 0 && !slices.Contains(pkgs, t.pkg) })
	end, fresh, caught, tried := time.Now().Add(limit), true, 0, 0
	for i, t := range todo {
		var share time.Duration // of the remaining time
		if limit > 0 {
			share = max(time.Until(end)/time.Duration(len(todo)-i), time.Second)
		}
		r, err := try(t, diff, share, equivalent)
		if err != nil {
			return false, fmt.Errorf("%s: %w", t.pkg, err)
		}
		r.print(t.pkg)
		caught, tried = caught+r.killed+r.timedOut, tried+r.total()
		if diff == "" && r.whole {
			fresh = r.stale(t.pkg, equivalent) && fresh
		}
	}
	percent := percentage(caught, tried)
	fmt.Printf("mutants: %-16s %d of %d caught (%.1f%%); at least %v%% must be\n", "in all", caught, tried, percent, least)
	return percent >= least && (fresh || least < 100), nil
}

func (r result) total() int { return r.killed + r.timedOut + len(r.survivors) }

func percentage(part, whole int) float64 {
	if whole == 0 {
		return 100
	}
	return 100 * float64(part) / float64(whole)
}

func (r result) print(pkg string) {
	fmt.Printf("mutants: %-16s %d of %d caught (%.1f%%), %d of them by a time-out; %d more are listed as equivalent\n",
		pkg, r.killed+r.timedOut, r.total(), percentage(r.killed+r.timedOut, r.total()), r.timedOut, r.equivalent)
	if !r.whole {
		fmt.Printf("mutants: %-16s the time ended before all were tested: make mutants PKG=%s tests all\n", pkg, pkg)
	}
	for _, m := range r.survivors {
		fmt.Printf("survives: %v\n", m)
	}
}

// stale prints the package's mutants that are listed as equivalent and did not survive, and reports whether there are
// none.
func (r result) stale(pkg string, equivalent map[mutant]bool) bool {
	ok := true
	for m := range equivalent {
		if filepath.Dir(m.file) == pkg && !r.seen[m] {
			fmt.Printf("listed as equivalent, but caught or no longer there: %v\n", m)
			ok = false
		}
	}
	return ok
}

// readEquivalent reads the list. Each line is a mutant as [mutant.String] writes it; the lines above it that begin with
// "#" give the reason, up to an empty line.
func readEquivalent(path string) (map[mutant]bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	found, reason := map[mutant]bool{}, ""
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		switch {
		case line == "":
			reason = ""
			continue
		case strings.HasPrefix(line, "#"):
			reason = line
			continue
		case reason == "":
			return nil, fmt.Errorf("%s:%d: a mutant without a reason", path, n)
		}
		parts := strings.SplitN(line, " | ", 3)
		if len(parts) != 3 {
			return nil, fmt.Errorf("%s:%d: not FILE | KIND@COLUMN | LINE", path, n)
		}
		m := mutant{file: parts[0], text: parts[2]}
		kind, column, _ := strings.Cut(parts[1], "@")
		if _, err := fmt.Sscan(column, &m.column); err != nil {
			return nil, fmt.Errorf("%s:%d: %q is no KIND@COLUMN", path, n, parts[1])
		}
		m.kind = kind
		found[m] = true
	}
	return found, lines.Err()
}

// A found is a mutant and its outcome, as gremlins prints it.
type found struct {
	status, kind, file string
	line, column       int
}

var outcome = regexp.MustCompile(`^\s*(KILLED|LIVED|NOT COVERED|TIMED OUT|NOT VIABLE) (\w+) at (\S+):(\d+):(\d+)$`)

func try(t target, diff string, limit time.Duration, equivalent map[mutant]bool) (result, error) {
	out, whole, err := unleash(t, diff, limit)
	if err != nil {
		return result{}, err
	}
	r := result{seen: map[mutant]bool{}, whole: whole}
	sources := map[string][]string{} // the lines of each file
	for _, f := range out {
		path := filepath.Join(t.pkg, f.file)
		if sources[path] == nil {
			data, err := os.ReadFile(path)
			if err != nil {
				return result{}, err
			}
			sources[path] = strings.Split(string(data), "\n")
		}
		m := mutantAt(sources[path], f, path)
		switch f.status {
		case "KILLED":
			r.killed++
		case "TIMED OUT":
			r.timedOut++
		case "LIVED", "NOT COVERED":
			if equivalent[m] {
				r.equivalent++
				r.seen[m] = true
			} else {
				r.survivors = append(r.survivors, m)
			}
		}
	}
	slices.SortFunc(r.survivors, func(a, b mutant) int { return cmp.Compare(a.String(), b.String()) })
	return r, nil
}

// unleash runs gremlins on one package; gremlins runs the package's tests for each mutant. It returns the mutants that
// were tested within the limit, and whether these are all.
func unleash(t target, diff string, limit time.Duration) (list []found, whole bool, err error) {
	ctx := context.Background()
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	dir, err := prepare(ctx)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	args := append([]string{"unleash", "./" + t.pkg, "--timeout-coefficient", "3"}, operators...)
	if diff != "" { // gremlins' own --diff finds no changes when it is given one package
		same, all, err := unchanged(ctx, diff, t.pkg)
		if err != nil {
			return nil, false, err
		}
		if len(same) == all {
			return nil, true, nil
		}
		for _, name := range same {
			args = append(args, "--exclude-files", "^"+regexp.QuoteMeta(name)+"$")
		}
	}
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "gremlins"), args...) //nolint:gosec // fixed arguments, and a revision of the caller's
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	flags := os.Getenv("GOFLAGS") + " -vet=off -count=1" // a cached run would make the time-out too short
	if t.skip != "" {
		flags += " -skip=" + t.skip
	}
	cmd.Env = append(os.Environ(), "PATH="+dir+string(os.PathListSeparator)+os.Getenv("PATH"), "GOFLAGS="+strings.TrimSpace(flags))
	text, err := cmd.CombinedOutput()
	if err != nil && ctx.Err() == nil {
		return nil, false, fmt.Errorf("gremlins: %w\n%s", err, text)
	}
	for line := range strings.Lines(string(text)) {
		if m := outcome.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			row, _ := strconv.Atoi(m[4])
			column, _ := strconv.Atoi(m[5])
			list = append(list, found{m[1], m[2], m[3], row, column})
		}
	}
	return list, ctx.Err() == nil, nil
}

// unchanged lists the source files of a package that have not changed since a revision, as paths in the package, and
// returns the number of all source files.
func unchanged(ctx context.Context, revision, pkg string) (same []string, all int, err error) {
	out, err := exec.CommandContext(ctx, "git", "diff", "--name-only", revision, "--", pkg).Output() //nolint:gosec // a revision of the caller's
	if err != nil {
		return nil, 0, fmt.Errorf("changes since %q: %w", revision, err)
	}
	changed := strings.Fields(string(out))
	err = filepath.WalkDir(pkg, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		all++
		if !slices.Contains(changed, path) {
			name, err := filepath.Rel(pkg, path)
			same = append(same, name)
			return err
		}
		return nil
	})
	return same, all, err
}

// coverAll is a go command that marks every file as covered in each coverage profile. Gremlins makes no mutants of code
// that the profile does not list, and Go's profiles do not list the conditions of case clauses, constants and
// variables. The pause lengthens the run from which gremlins derives the time-out of a mutant: it must suffice for
// compiling a mutant, which takes seconds.
const coverAll = `#!/usr/bin/env bash
set -uo pipefail
"%s" "$@" || exit
while [ $# -gt 1 ]; do
  if [ "$1" = -coverprofile ]; then
    sed -nE 's/^(.*\.go):.*/\1/p' "$2" | sort -u | sed 's/$/:1.1,1000000.1 1 1/' >"$2.all"
    cat "$2.all" >>"$2"
    sleep 10
  fi
  shift
done
`

// prepare makes a folder with gremlins, and with coverAll as the go command.
func prepare(ctx context.Context) (string, error) {
	real, err := exec.LookPath("go")
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return "", err
	}
	build := exec.CommandContext(ctx, real, "build", "-modfile=tools.mod", "-o", dir, "github.com/go-gremlins/gremlins/cmd/gremlins") //nolint:gosec // fixed words
	if out, err := build.CombinedOutput(); err != nil {
		_ = os.RemoveAll(dir)
		return "", fmt.Errorf("building gremlins: %w\n%s", err, out)
	}
	return dir, os.WriteFile(filepath.Join(dir, "go"), fmt.Appendf(nil, coverAll, real), 0o700) //nolint:gosec // it is a command
}

// mutantAt finds the source line of a mutant.
func mutantAt(lines []string, f found, path string) mutant {
	text := lines[f.line-1]
	trimmed := strings.TrimSpace(text)
	return mutant{file: path, kind: f.kind, text: trimmed, column: f.column - strings.Index(text, trimmed)}
}
