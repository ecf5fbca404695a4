// Command plants plants bugs in the protocol, the client and the stream's consumer, one at a time, and runs the simulation with each. It
// prints which are caught and by which check, and names those that survive. The work tree stays as it is: the bugs are in overlays of the Go
// command. It fails if a bug's text is no longer in the source.
//
//	go run ./scripts/plants -ops 100000
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A plant is a bug: the text old in a file, which is there once, becomes text new.
type plant struct {
	name, file, old, new string
	survives             string // why the simulation cannot catch it; empty: it must
}

func main() {
	ops := flag.Int("ops", 100000, "the number of operations to simulate with each bug")
	only := flag.String("only", "", "plant only the bugs whose names contain this")
	procs := flag.Int("procs", 2, "how many bugs to plant at a time")
	flag.Parse()
	if err := run(*ops, *only, *procs); err != nil {
		fmt.Fprintln(os.Stderr, "plants:", err)
		os.Exit(1)
	}
}

func run(ops int, only string, procs int) error {
	var todo []plant
	for _, p := range plants {
		text, err := os.ReadFile(p.file)
		if err != nil {
			return err
		}
		if n := bytes.Count(text, []byte(p.old)); n != 1 {
			return fmt.Errorf("%s: the text %q is %d times in %s; it must be there once: correct the table", p.name, p.old, n, p.file)
		}
		if strings.Contains(p.name, only) {
			todo = append(todo, p)
		}
	}
	dir, err := os.MkdirTemp("", "plants")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	var mu sync.Mutex
	var failed error
	killed, excused := 0, 0
	next := make(chan int, len(todo))
	for i := range todo {
		next <- i
	}
	close(next)
	var work sync.WaitGroup
	for range procs {
		work.Go(func() {
			for i := range next {
				p := todo[i]
				result, err := try(p, filepath.Join(dir, strconv.Itoa(i)), ops)
				mu.Lock()
				switch {
				case err != nil:
					failed = errors.Join(failed, fmt.Errorf("%s: %w", p.name, err))
				case result != "":
					killed++
					fmt.Printf("killed    %-55s %s\n", p.name, result)
				case p.survives != "":
					excused++
					fmt.Printf("survived  %-55s %s\n", p.name, p.survives)
				default:
					failed = errors.Join(failed, fmt.Errorf("%s: the simulation does not notice it in %d operations", p.name, ops))
					fmt.Printf("SURVIVED  %s\n", p.name)
				}
				mu.Unlock()
			}
		})
	}
	work.Wait()
	fmt.Printf("plants: %d of %d killed, %d survived with a reason\n", killed, len(todo), excused)
	return failed
}

// tryTimeout limits the simulation with one bug.
const tryTimeout = 10 * time.Minute

var found = regexp.MustCompile(`(?m)^ +((?:order|beliefs|fences|guarded|queue|refusals|rows|sets|events|freezes|rates|heads|forgotten|downgrades|simulation): .{0,90})`)

var needed = regexp.MustCompile(`(?m)^simulation: (\d+) operations`)

// try runs the simulation with a bug. It returns what noticed the bug, or "" if nothing did.
func try(p plant, dir string, ops int) (string, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	text, err := os.ReadFile(p.file)
	if err != nil {
		return "", err
	}
	path, err := filepath.Abs(p.file)
	if err != nil {
		return "", err
	}
	bad, overlay, binary := filepath.Join(dir, "planted.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "sim.test")
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{path: bad}})
	if err != nil {
		return "", err
	}
	err = errors.Join(os.WriteFile(bad, bytes.Replace(text, []byte(p.old), []byte(p.new), 1), 0o600), os.WriteFile(overlay, replace, 0o600))
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), tryTimeout)
	defer cancel()
	build := exec.CommandContext(ctx, "go", "test", "-c", "-overlay", overlay, "-o", binary, "./internal/sim") //nolint:gosec // paths of its own
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("it does not compile: %s", out)
	}
	cmd := exec.CommandContext(ctx, binary, "-test.run", "^TestSimulation$", "-sim.ops", strconv.Itoa(ops), "-sim.shrink=false") //nolint:gosec // the binary that was built above
	out, err := cmd.CombinedOutput()
	switch m := found.FindSubmatch(out); {
	case err == nil:
		return "", nil
	case ctx.Err() != nil:
		return "", fmt.Errorf("the simulation does not end within %v", tryTimeout)
	case m != nil:
		if n := needed.FindSubmatch(out); n != nil {
			return fmt.Sprintf("after %s operations: %s", n[1], m[1]), nil
		}
		return string(m[1]), nil
	}
	return "", fmt.Errorf("the simulation fails without a violation: %.300s", bytes.TrimSpace(out))
}
