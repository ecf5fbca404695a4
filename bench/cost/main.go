// Command cost measures what waiting for a lock costs, how long a hand-off takes, what a semaphore's writes cost, and how much the
// client adds to a bare conditional write. It compares lockclient/direct with a bare loop of conditional writes and with dynamolock,
// in one run on DynamoDB Local at HOLDFAST_DYNAMODB_ENDPOINT. Its module is one of its own, so that dynamolock is no dependency of the
// project.
//
//	cost -commit NAME -out FILE.json      measures, and writes the figures; -only PART measures one part, and keeps the file's others
//	cost -report DIR                      writes DIR/figures.md and DIR/*.svg from DIR/before.json and DIR/after.json
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// A Run has the figures of one run.
type Run struct {
	Commit   string
	Date     string // in UTC
	Machine  string
	Waiting  []Waiting
	Handoffs []Handoff
	Holders  []Holders
	Overhead []Overhead
}

func main() {
	out := flag.String("out", "", "measure, and write the figures to this `file`")
	commit := flag.String("commit", "", "the `name` of the commit that is measured")
	only := flag.String("only", "waiting,handoff,holders,overhead", "the `parts` to measure")
	folder := flag.String("report", "", "write the report about before.json and after.json of this `folder`")
	flag.Parse()
	err := errors.New("give -out or -report")
	switch {
	case *folder != "":
		err = report(*folder)
	case *out != "":
		err = measure(context.Background(), *out, *commit, *only)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cost:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, file, commit, only string) error {
	endpoint := os.Getenv("HOLDFAST_DYNAMODB_ENDPOINT")
	if endpoint == "" {
		return errors.New("HOLDFAST_DYNAMODB_ENDPOINT is not set: run scripts/with-dynamodb.sh")
	}
	r := Run{
		Commit: commit, Date: time.Now().UTC().Format("2006-01-02 15:04"),
		Machine: fmt.Sprintf("%d cores, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version()),
	}
	if data, err := os.ReadFile(file); err == nil { //nolint:gosec // the caller's own
		var earlier Run
		if err := json.Unmarshal(data, &earlier); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if earlier.Commit == r.Commit {
			r.Waiting, r.Handoffs, r.Holders, r.Overhead = earlier.Waiting, earlier.Handoffs, earlier.Holders, earlier.Overhead
		}
	}
	parts := []struct {
		name string
		do   func(context.Context, string, *Run) error
	}{{"overhead", measureOverhead}, {"holders", measureHolders}, {"handoff", measureHandoffs}, {"waiting", measureWaiting}}
	for _, part := range parts {
		if !strings.Contains(only, part.name) {
			continue
		}
		start := time.Now()
		if err := part.do(ctx, endpoint, &r); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		if err := r.write(file); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "cost: %s took %v\n", part.name, time.Since(start).Round(time.Second))
	}
	return nil
}

func (r Run) write(file string) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644) //nolint:gosec // to be read by all
}

func measureOverhead(ctx context.Context, endpoint string, r *Run) error {
	r.Overhead = nil
	for _, clients := range []int{1, 16} {
		list, err := overhead(ctx, endpoint, clients)
		if err != nil {
			return err
		}
		r.Overhead = append(r.Overhead, list...)
	}
	return nil
}

func measureHolders(ctx context.Context, endpoint string, r *Run) error {
	r.Holders = nil
	for _, holders := range []int{1, 10, 100} {
		h, err := semaphore(ctx, endpoint, holders)
		if err != nil {
			return err
		}
		r.Holders = append(r.Holders, h)
	}
	return nil
}

func measureHandoffs(ctx context.Context, endpoint string, r *Run) error {
	r.Handoffs = nil
	for _, interval := range []time.Duration{0, 10 * time.Millisecond} {
		list, err := handoffs(ctx, endpoint, interval)
		if err != nil {
			return err
		}
		r.Handoffs = append(r.Handoffs, list...)
	}
	return nil
}

// measureWaiting takes the most waiters last, since the engine needs time to recover from them.
func measureWaiting(ctx context.Context, endpoint string, r *Run) error {
	r.Waiting = nil
	for _, waiters := range []int{1, 10, 100, 500} {
		for _, kind := range []string{bare, other, ours} {
			w, err := waiting(ctx, kind, endpoint, waiters)
			if err != nil {
				return err
			}
			r.Waiting = append(r.Waiting, w)
		}
	}
	return nil
}
