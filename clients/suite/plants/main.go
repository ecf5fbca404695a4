// Command plants plants faults in the clients, one at a time, each in a copy of the client, and requires that the behaviour suite or the client's own
// tests fail. The files beside it list the faults: NAME.json for the client NAME.
//
//	go run ./clients/suite/plants [-client NAME] [-only REGEXP]
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A client is a file of faults.
type client struct {
	Client string   `json:"client"` // its name
	Dir    string   `json:"dir"`    // the directory that is copied, from the root of the repository
	Link   []string `json:"link"`   // names in dir that the copy has as links, or not at all if they are not there
	Build  string   `json:"build"`  // run in the copy; empty if there is nothing to build
	Driver string   `json:"driver"` // the driver's command, in which {dir} is the copy
	Tests  string   `json:"tests"`  // run in the copy: the client's own tests
	Plants []plant  `json:"plants"`
}

// A plant is a fault: the text Old of a file, which occurs once, becomes New.
type plant struct {
	Name string `json:"name"`
	File string `json:"file"`
	Old  string `json:"old"`
	New  string `json:"new"`
	Only string `json:"only"` // the scenarios that have to notice it, as of the suite's -only; empty: the client's own tests have to
}

const (
	listed  = "clients/suite/plants/*.json"
	program = ".bin/suite"
	// limit is the time after which a suite or a test run counts as failed: a fault may make a client wait forever.
	limit = 5 * time.Minute
)

func main() {
	name := flag.String("client", "", "only the faults of this client")
	only := flag.String("only", "", "only the faults whose names match this regular expression")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *name, *only)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "plants:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, name, only string) error {
	match, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("-only is %q: %w", only, err)
	}
	clients, err := read(name)
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "./clients/suite").CombinedOutput(); err != nil {
		return fmt.Errorf("the suite does not build: %w\n%s", err, out)
	}
	missed := 0
	for _, c := range clients {
		n, err := c.tryAll(ctx, match)
		if err != nil {
			return fmt.Errorf("%s: %w", c.Client, err)
		}
		missed += n
	}
	if missed > 0 {
		return fmt.Errorf("%d faults were not noticed", missed)
	}
	return nil
}

// read reads the files of faults: all, or that of one client.
func read(name string) ([]client, error) {
	files, err := filepath.Glob(listed)
	if err != nil {
		return nil, err
	}
	var list []client
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var c client
		d := json.NewDecoder(bytes.NewReader(data))
		d.DisallowUnknownFields()
		if err := d.Decode(&c); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if name == "" || c.Client == name {
			list = append(list, c)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("there is no client %q in %s; run this at the root of the repository", name, listed)
	}
	return list, nil
}

// tryAll plants each fault, and returns how many were not noticed.
func (c client) tryAll(ctx context.Context, match *regexp.Regexp) (missed int, err error) {
	root, err := os.MkdirTemp("", "holdfast-plants-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(root) }()
	dir := filepath.Join(root, c.Dir) // as deep as the original, for paths to other parts of the repository
	if err := c.copy(root, dir); err != nil {
		return 0, err
	}
	tried, scenarios := 0, 0
	for _, p := range c.Plants {
		if !match.MatchString(p.Name) {
			continue
		}
		by, err := c.try(ctx, dir, p)
		switch {
		case err != nil:
			return missed, fmt.Errorf("%s: %w", p.Name, err)
		case by == "":
			missed++
			fmt.Printf("NOT NOTICED: %s: %s\n", c.Client, p.Name)
		case p.Only != "":
			scenarios++
		}
		if by != "" {
			fmt.Printf("%-12s %-52s noticed by %s\n", c.Client, p.Name, by)
		}
		tried++
	}
	if tried == 0 {
		return 0, errors.New("no fault matches -only")
	}
	fmt.Printf("plants: %s: %d of %d faults noticed, %d of them by the suite\n", c.Client, tried-missed, tried, scenarios)
	return missed, nil
}

// copy copies the client, and makes links of what is not copied. The rest of the repository is there as links.
func (c client) copy(root, dir string) error {
	above := strings.Split(filepath.Clean(c.Dir), "/")
	for n := range above {
		from := filepath.Join(above[:n]...)
		if err := linkOthers(from, filepath.Join(root, from), []string{above[n]}); err != nil {
			return err
		}
	}
	for _, name := range c.Link {
		if err := link(filepath.Join(c.Dir, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	source := os.DirFS(c.Dir)
	return fs.WalkDir(source, ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case slices.Contains(c.Link, path) || slices.Contains(made, d.Name()):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return os.MkdirAll(filepath.Join(dir, path), 0o700)
		}
		data, err := fs.ReadFile(source, path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, path), data, 0o600)
	})
}

// made are the directories that tools make, which are not copied.
var made = []string{".bin", "dist", "node_modules", ".venv", "__pycache__"}

// linkOthers makes links to everything in a directory except some names.
func linkOthers(from, to string, except []string) error {
	entries, err := os.ReadDir(filepath.Join(".", from))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if slices.Contains(except, e.Name()) {
			continue
		}
		if err := link(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func link(from, to string) error {
	if _, err := os.Stat(from); err != nil {
		return nil //nolint:nilerr // what is not there needs no link
	}
	target, err := filepath.Abs(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	return os.Symlink(target, to)
}

// try plants one fault, removes it again, and returns what noticed it; "" if nothing did.
func (c client) try(ctx context.Context, dir string, p plant) (by string, err error) {
	file := filepath.Join(dir, p.File)
	before, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(before), p.Old); n != 1 {
		return "", fmt.Errorf("%s has the text %q %d times; the list needs one that occurs once", p.File, p.Old, n)
	}
	after := strings.Replace(string(before), p.Old, p.New, 1)
	if err := os.WriteFile(file, []byte(after), 0o600); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.WriteFile(file, before, 0o600)) }()
	if c.Build != "" {
		if out, failed := shell(ctx, dir, c.Build); failed != nil {
			return "", fmt.Errorf("with the fault the client does not build: %w\n%s", failed, out)
		}
	}
	if p.Only == "" {
		out, failed := shell(ctx, dir, c.Tests)
		return noticed(ctx, out, failed, "its own tests")
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	//nolint:gosec // the list is part of the repository
	suite := exec.CommandContext(ctx, program, "-name", c.Client, "-patience", "10s", "-only", p.Only, "-driver", strings.ReplaceAll(c.Driver, "{dir}", dir))
	out, failed := suite.CombinedOutput()
	return noticed(ctx, out, failed, strings.Join(failures(out), ", "))
}

// noticed returns what noticed a fault, by the outcome of a run.
func noticed(ctx context.Context, out []byte, failed error, by string) (string, error) {
	if _, ended := errors.AsType[*exec.ExitError](failed); failed != nil && !ended {
		return "", failed
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return "", ctx.Err()
	}
	switch {
	case failed == nil:
		return "", nil
	case by == "":
		return "", fmt.Errorf("the suite failed without a scenario:\n%s", out)
	}
	return by, nil
}

var failedScenario = regexp.MustCompile(`(?m)^FAILED (.*?) \(`)

// failures are the scenarios that failed, from the suite's output.
func failures(out []byte) (names []string) {
	for _, m := range failedScenario.FindAllSubmatch(out, -1) {
		names = append(names, string(m[1]))
	}
	return names
}

// shell runs a command with the time limit.
func shell(ctx context.Context, dir, command string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", command) //nolint:gosec // the list is part of the repository
	cmd.Dir = dir
	cmd.WaitDelay = time.Second
	return cmd.CombinedOutput()
}
