// Command race compares Holdfast with other lock clients for DynamoDB, each in its own language, on one engine and in one run: a bare
// conditional write, dynamolock, the awslabs client, python-dynamodb-lock, chainsaws and @deliveryhero/dynamodb-lock. bench/install.sh
// installs them and builds their drivers, which all speak one protocol (bench/driver/main.go), so that each scenario is the same code for
// all of them. Faults come from internal/wirefault; what the clients believed is checked by internal/history.
//
//	race -drivers DIR -commit NAME -out FILE.json   runs the race on DynamoDB Local at HOLDFAST_DYNAMODB_ENDPOINT; -only and -peers choose a part
//	race -report FILE.json -page PAGE.md            writes the tables into the page, and the plots beside the file
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Run has the figures of one run.
type Run struct {
	Commit     string
	Date       string // in UTC
	Machine    string
	Load       map[string]string // the load averages of 1, 5 and 15 minutes when a part began
	Minutes    float64
	Cycles     []Cycle
	Speeds     []Speed
	Waiters    []Waiter
	Handoffs   []Handoff
	Faults     []Faults
	Exclusions []Exclusion
	Failed     []string // parts of a peer that could not be measured
}

type options struct {
	drivers, out, commit, only, chosen string
	short                              bool
	report, page                       string
}

func main() {
	var o options
	flag.StringVar(&o.drivers, "drivers", "dist/peers", "the `folder` of the drivers")
	flag.StringVar(&o.out, "out", "", "run the race, and write the figures to this `file`")
	flag.StringVar(&o.commit, "commit", "", "the `name` of the commit that is measured")
	flag.StringVar(&o.only, "only", "", "the `parts` to run: cost, speed, waiting, handoff, faults, exclusion; all if empty")
	flag.StringVar(&o.chosen, "peers", "", "the `kinds` of peers, separated by commas; all if empty")
	flag.BoolVar(&o.short, "short", false, "few samples: to try whether everything runs")
	flag.StringVar(&o.report, "report", "", "write the report about the figures of this `file`")
	flag.StringVar(&o.page, "page", "", "the `page` that the report's tables are written into")
	flag.Parse()
	err := errors.New("give -out or -report")
	switch {
	case o.report != "":
		err = report(o.report, o.page)
	case o.out != "":
		err = o.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "race:", err)
		os.Exit(1)
	}
}

// load is the machine's load averages.
func load() string {
	data, err := os.ReadFile("/proc/loadavg")
	if fields := strings.Fields(string(data)); err == nil && len(fields) >= 3 {
		return strings.Join(fields[:3], " ")
	}
	return "unknown"
}

func (o *options) run() error {
	w := &world{dir: o.drivers, engine: os.Getenv("HOLDFAST_DYNAMODB_ENDPOINT")}
	if w.engine == "" {
		return errors.New("HOLDFAST_DYNAMODB_ENDPOINT is not set: run scripts/with-dynamodb.sh")
	}
	for _, p := range peers {
		if o.chosen == "" || slices.Contains(strings.Split(o.chosen, ","), p.kind) {
			w.peers = append(w.peers, p)
		}
	}
	if err := w.prepare(); err != nil {
		return err
	}
	r := &Run{
		Commit: o.commit, Date: time.Now().UTC().Format("2006-01-02 15:04"), Load: map[string]string{},
		Machine: fmt.Sprintf("%d cores, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version()),
	}
	began := time.Now()
	for _, part := range o.parts(w, r) {
		if o.only != "" && !slices.Contains(strings.Split(o.only, ","), part.name) {
			continue
		}
		start := time.Now()
		r.Load[part.name] = load()
		part.do()
		r.Minutes = time.Since(began).Minutes()
		if err := r.write(o.out); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "race: %s took %v\n", part.name, time.Since(start).Round(time.Second))
	}
	for _, f := range r.Failed {
		fmt.Fprintln(os.Stderr, "race: not measured:", f)
	}
	return nil
}

func (r *Run) write(file string) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644) //nolint:gosec // to be read by all
}

type part struct {
	name string
	do   func()
}

// parts are the scenarios. Where times are compared, one peer is measured at a time, or all in turn; where waiting or faults are, all at once.
func (o *options) parts(w *world, r *Run) []part {
	rounds, samples, pairs, runs, length := 5, 160, 8, 3, 12*time.Second
	faults := exclusionFaults
	if o.short {
		rounds, samples, pairs, runs, length = 1, 16, 2, 1, 5*time.Second
	}
	var mu sync.Mutex
	failed := func(what, kind string, err error) bool {
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			r.Failed = append(r.Failed, what+" of "+kind+": "+err.Error())
		}
		return err != nil
	}
	return []part{
		{"cost", func() {
			r.Cycles = each(w.peers, false, func(p peer) (Cycle, bool) { c, err := w.cost(p); return c, !failed("cost", p.kind, err) })
		}},
		{"speed", func() {
			for _, clients := range []int{1, 16} {
				list, err := w.speeds(clients, rounds, samples)
				if !failed("speed", fmt.Sprint(clients, " clients"), err) {
					r.Speeds = append(r.Speeds, list...)
				}
			}
		}},
		{"waiting", func() {
			r.Waiters = each(w.peers, true, func(p peer) (Waiter, bool) { c, err := w.waiter(p); return c, !failed("waiting", p.kind, err) })
		}},
		{"handoff", func() {
			r.Handoffs = each(w.peers, true, func(p peer) (Handoff, bool) {
				h, err := w.handoffs(p, 0, pairs, 2, time.Second)
				return h, !failed("hand-off", p.kind, err)
			})
			r.Handoffs = append(r.Handoffs, each(w.peers, false, func(p peer) (Handoff, bool) {
				h, err := w.handoffs(p, p.fastest, 4, 5, 300*time.Millisecond)
				return h, !failed("fast hand-off", p.kind, err)
			})...)
		}},
		{"faults", func() { r.Faults = each(w.peers, true, func(p peer) (Faults, bool) { return w.faults(p, runs), true }) }},
		{"exclusion", func() {
			lists := each(w.peers, true, func(p peer) ([]Exclusion, bool) {
				list, err := w.exclusion(p, faults, length)
				failed("exclusion", p.kind, err)
				return list, true
			})
			r.Exclusions = slices.Concat(lists...)
		}},
	}
}

// each calls do for each peer, for all at once or one after the other, and returns the results that are good, in the order of the peers.
func each[T any](list []peer, atOnce bool, do func(peer) (T, bool)) (results []T) {
	got, good := make([]T, len(list)), make([]bool, len(list))
	var work sync.WaitGroup
	for i, p := range list {
		work.Go(func() { got[i], good[i] = do(p) })
		if !atOnce {
			work.Wait()
		}
	}
	work.Wait()
	for i := range list {
		if good[i] {
			results = append(results, got[i])
		}
	}
	return results
}
