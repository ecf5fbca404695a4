package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A campaign is rounds, each over an engine of its own: DynamoDB Local becomes slower with what it has stored.
type campaign struct {
	Seed        uint64  `help:"Seed of the first round; the next one has the next number. 0: chosen by the time."`
	Ops         int     `placeholder:"N" help:"Go on until N operations were checked."`
	Minutes     float64 `placeholder:"N" help:"Go on for N minutes."`
	Seconds     float64 `help:"How long the clients of a round work. By default 30, and 300 with --ops or --minutes."`
	Workers     int     `help:"Clients in a process. More than the engine can serve make every request late. By default 3, and 8 with --ops or --minutes."`
	Kills       int     `default:"-1" help:"Kill N holders and measure when others get their locks; nothing else."`
	StreamKills int     `default:"-1" help:"Kill the stream's process N times; nothing else."`
	Plan        string  `help:"Replay the plan in this file: one round."`
	Holdfast    string  `required:"" help:"Path of the command holdfast."`
	Dir         string  `default:"dist/campaign" help:"For what the rounds leave: histories, logs, items, events."`
	Base        string  `placeholder:"DIR" help:"Directory with the programs campaign and holdfast of another version: half of the processes are of that version."`
	Engine      string  `default:"scripts/with-dynamodb.sh" help:"Command that runs another one with DynamoDB Local."`
	Planted     bool    `help:"Plant bugs, one at a time, and look for each; nothing else. Runs in the repository."`
	Only        string  `placeholder:"TEXT" help:"With --planted: only the bugs whose names have this text."`
	NoShrink    bool    `help:"Do not look for a smaller plan when a round fails."`

	total summary // of all rounds but those with a clock past the allowance
	began time.Time
	n     int    // rounds
	past  string // a violation that a clock past the allowance made
}

func (c *campaign) run(began time.Time) error {
	c.began = began
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return err
	}
	c.Dir = dir
	if c.Seed == 0 {
		c.Seed = uint64(began.UnixNano()) % 1_000_000
	}
	c.defaults()
	c.total = summary{Ops: map[string]int{}, Faults: map[string]int64{}, Clients: map[string]int{}, Versions: map[string]int{}}
	if c.Planted {
		return c.planted()
	}
	plans, err := c.plans()
	if err != nil {
		return err
	}
	for c.more(len(plans)) {
		p := plans[c.n%len(plans)]
		if c.Plan == "" {
			p.Seed = c.Seed + uint64(c.n)
		}
		c.n++
		if err := c.roundOf(p); err != nil {
			c.report()
			return err
		}
		if c.Ops > 0 || c.Minutes > 0 {
			fmt.Fprintf(os.Stderr, "campaign: %d operations checked so far in %.0f s\n", c.total.operations(), time.Since(c.began).Seconds())
		}
	}
	c.report()
	return nil
}

// defaults sets how long a round is and how many clients it has. Rounds of a long campaign are long, since the engine takes a minute to compile what it runs and is half
// as fast until then; and they have so many clients that the CPUs of a machine with two of them are busy.
func (c *campaign) defaults() {
	seconds, workers := 30.0, 3
	if c.Ops > 0 || c.Minutes > 0 {
		seconds, workers = 300, 8
	}
	c.Seconds, c.Workers = cmp.Or(c.Seconds, seconds), cmp.Or(c.Workers, workers)
}

// locksPerWorker is how many locks a plan has for each client of a process, so that plans with more clients have as much contention for a lock.
const locksPerWorker = 4

// more reports whether another round is to be run.
func (c *campaign) more(plans int) bool {
	switch {
	case c.n == 0:
		return true
	case c.Ops > 0:
		return c.total.operations() < c.Ops
	case c.Minutes > 0:
		return time.Since(c.began) < time.Duration(c.Minutes*float64(time.Minute))
	}
	return c.n < plans
}

// everything is the plan of a round with all faults under which Holdfast keeps its guarantees.
func (c *campaign) everything() plan {
	return plan{
		Seconds: c.Seconds, Coordinators: 3, HTTP: 2, Invoke: 2, Direct: 2, CLI: 1, Workers: c.Workers, Locks: locksPerWorker * c.Workers, Epoch: 10, Sets: true, Rules: true, Families: safeFamilies,
	}
}

// plans are those of the rounds, which repeat in this order.
func (c *campaign) plans() ([]plan, error) {
	all := c.everything()
	kills, stream, past := all, all, all
	kills.Seconds, kills.HTTP, kills.Invoke, kills.Direct, kills.CLI, kills.Kills, kills.Families, kills.Rules = 0, 0, 0, 0, 0, max(c.Kills, 12), []string{}, false
	stream.StreamKills, stream.Direct, stream.CLI, stream.Invoke, stream.Seconds = max(c.StreamKills, 20), 1, 0, 3, 5
	stream.Families = []string{famAPI, famDynamo, famServices, famPartition, famPause, famKillClient}
	past.Seconds, past.CLI, past.Locks, past.Families, past.Rules = 12, 0, 3, []string{famAPI, famClockPast}, false
	switch {
	case c.Plan != "":
		var p plan
		text, err := os.ReadFile(c.Plan)
		if err == nil {
			err = json.Unmarshal(text, &p)
		}
		return []plan{p}, err
	case c.Base != "":
		return []plan{c.mixed()}, nil
	case c.Kills > 0:
		return parts(kills, func(p *plan) *int { return &p.Kills }, 250), nil
	case c.StreamKills > 0:
		return parts(stream, func(p *plan) *int { return &p.StreamKills }, 200), nil
	case c.Ops > 0 || c.Minutes > 0: // the command starts three processes for each lease, so it is in one round of four
		without := all
		without.CLI = 0
		return []plan{all, without, without, without}, nil
	}
	return []plan{all, stream, kills, past}, nil
}

// parts are plans that together have the count of one plan, each at most so many.
func parts(p plan, count func(*plan) *int, most int) (list []plan) {
	for left := *count(&p); left > 0; left -= most {
		q := p
		*count(&q) = min(left, most)
		list = append(list, q)
	}
	return list
}

// roundOf runs a round, and looks for a smaller plan if it fails.
func (c *campaign) roundOf(p plan) error {
	fmt.Fprintf(os.Stderr, "campaign: round %d: %v\n", c.n, p)
	if p.has(famClockPast) {
		return c.seesPast(p)
	}
	s, dir, err := c.round(p)
	if err != nil {
		return fmt.Errorf("%w; replay with make campaign SEED=%d", err, p.Seed)
	}
	c.add(s)
	if !s.failed() {
		return c.tidy(dir)
	}
	c.explain(s, dir)
	if !c.NoShrink && c.Plan == "" {
		c.shrink(p)
	}
	return fmt.Errorf("a round failed; replay it with make campaign PLAN=%s/plan.json", dir)
}

// pastRounds is how many rounds have a clock past the allowance until a check sees it. It is seen when the coordinator with that clock takes
// over a lease that its holder still believes in, which not every short round has.
const pastRounds = 5

// seesPast runs rounds with a clock past the allowance until a check sees what it did.
func (c *campaign) seesPast(p plan) error {
	var dir string
	for try := range pastRounds {
		q := p
		q.Seed += 1000 * uint64(try)
		s, d, err := c.round(q)
		if err != nil {
			return fmt.Errorf("%w; replay with make campaign SEED=%d", err, q.Seed)
		}
		dir = d
		if seen := slices.IndexFunc(s.Violations, twoHolders); seen >= 0 {
			c.past = s.Violations[seen]
			return os.RemoveAll(dir)
		}
	}
	return fmt.Errorf("no check found a coordinator's clock that is %v ahead in %d rounds; see %s", pastOffset, pastRounds, dir)
}

// twoHolders reports whether a violation is one that a clock past the allowance makes: two holders at once.
func twoHolders(violation string) bool {
	return strings.HasPrefix(violation, "beliefs: ") || strings.HasPrefix(violation, "order: ")
}

// tidy removes what an earlier round left, if the campaign is long: the last round's directory stays.
func (c *campaign) tidy(dir string) error {
	if c.Ops == 0 && c.Minutes == 0 {
		return nil
	}
	old, err := filepath.Glob(filepath.Join(c.Dir, fmt.Sprintf("round-%d-*", os.Getpid())))
	for _, d := range old {
		if d != dir {
			err = errors.Join(err, os.RemoveAll(d))
		}
	}
	return err
}

// round runs a round in a process of its own, with an engine of its own.
func (c *campaign) round(p plan) (s summary, dir string, err error) {
	self, err := os.Executable()
	if err != nil {
		return s, "", err
	}
	return c.roundWith(p, self, c.Holdfast)
}

// roundWith runs a round with the programs campaign and holdfast, and with those of the other version if there is one.
func (c *campaign) roundWith(p plan, self, command string) (s summary, dir string, err error) {
	programs, err := versions(self, command, c.Base)
	if err != nil {
		return s, "", err
	}
	dir = filepath.Join(c.Dir, fmt.Sprintf("round-%d-%d", os.Getpid(), time.Now().UnixNano()/1e6))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return s, dir, err
	}
	text, _ := json.Marshal(p) // numbers and texts
	if err := os.WriteFile(filepath.Join(dir, "plan.json"), text, 0o600); err != nil {
		return s, dir, err
	}
	cfg, _ := json.Marshal(roundConfig{Plan: p, Dir: dir, Secrets: dir + ".secrets", Versions: programs})
	var out bytes.Buffer
	cmd := exec.Command(c.Engine, self, "round", string(cfg)) //nolint:gosec,noctx // this program; the round has limits of its own
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, os.Stderr, lean(os.Environ())
	if err := cmd.Run(); err != nil {
		return s, dir, fmt.Errorf("the round did not end well: %w; see %s", err, dir)
	}
	return s, dir, json.Unmarshal(out.Bytes(), &s)
}

func (c *campaign) add(s summary) {
	for k, n := range s.Ops {
		c.total.Ops[k] += n
	}
	for k, n := range s.Clients {
		c.total.Clients[k] += n
	}
	for k, n := range s.Versions {
		c.total.Versions[k] += n
	}
	for k, n := range s.Faults {
		c.total.Faults[k] += n
	}
	t := &c.total
	t.Beliefs, t.Guarded, t.Stale, t.Rows, t.Events = t.Beliefs+s.Beliefs, t.Guarded+s.Guarded, t.Stale+s.Stale, t.Rows+s.Rows, t.Events+s.Events
	t.Repeated, t.Tasks, t.StreamKill, t.Secrets = t.Repeated+s.Repeated, t.Tasks+s.Tasks, t.StreamKill+s.StreamKill, t.Secrets+s.Secrets
	t.Sets, t.Rules, t.Frozen, t.Rated = t.Sets+s.Sets, t.Rules+s.Rules, t.Frozen+s.Frozen, t.Rated+s.Rated
	t.Kills.Took, t.Kills.Control = append(t.Kills.Took, s.Kills.Took...), append(t.Kills.Control, s.Kills.Control...)
	t.Violations, t.Undecided = append(t.Violations, s.Violations...), append(t.Undecided, s.Undecided...)
}

// explain prints what a round found.
func (c *campaign) explain(s summary, dir string) {
	for _, list := range [][]string{s.Violations, s.Undecided} {
		for _, v := range list[:min(len(list), 10)] {
			fmt.Fprintln(os.Stderr, "campaign:", v)
		}
	}
	fmt.Fprintf(os.Stderr, "campaign: %d violations, %d spans undecided; the round left %s\n", len(s.Violations), len(s.Undecided), dir)
}

// maxTries bounds the rounds that look for a smaller plan.
const maxTries = 16

// shrink looks for a smaller plan that fails too, and prints the smallest that it found.
func (c *campaign) shrink(p plan) {
	tries := 0
	for progress := true; progress && tries < maxTries; {
		progress = false
		for _, q := range p.smaller() {
			if tries++; tries > maxTries {
				break
			}
			fmt.Fprintf(os.Stderr, "campaign: does it fail without that, too? %v\n", q)
			s, dir, err := c.round(q)
			if err == nil && s.failed() {
				p, progress = q, true
				break
			}
			_ = os.RemoveAll(dir)
		}
	}
	text, _ := json.Marshal(p) // numbers and texts
	fmt.Fprintf(os.Stderr, "campaign: the smallest plan that failed: %s\n", text)
}

// report prints the figures.
func (c *campaign) report() {
	t := c.total
	fmt.Printf("campaign: %d rounds from seed %d, %.0f s: %d operations checked (%s), %d beliefs, %d guarded writes of which %d were stale, %d rows, %d events (%d repeated), %d tasks, %d sets of locks granted, %d changes of rules, %d acquires refused by a freeze, %d by a rate, %d secrets searched for; %d violations\n",
		c.n, c.Seed, time.Since(c.began).Seconds(), t.operations(), counts(t.Ops), t.Beliefs, t.Guarded, t.Stale, t.Rows, t.Events, t.Repeated, t.Tasks, t.Sets, t.Rules, t.Frozen, t.Rated, t.Secrets, len(t.Violations))
	fmt.Printf("campaign: faults: %s; stream's process killed %d times; operations by client: %s\n", counts(t.Faults), t.StreamKill, counts(t.Clients))
	if c.Base != "" {
		fmt.Printf("campaign: two versions on one table: %s\n", counts(t.Versions))
	}
	if c.past != "" {
		first, _, _ := strings.Cut(c.past, "\n")
		fmt.Printf("campaign: a coordinator's clock %v ahead was seen in a round of its own: %.200s\n", pastOffset, first)
	}
	if len(t.Kills.Took) > 0 {
		measured, corrected := t.Kills.late()
		fmt.Printf("campaign: %d holders killed: others had the lock after %s (control %s); later than %.0f ms: %d by the clock, %d after the control is taken off\n",
			len(t.Kills.Took), percentiles(t.Kills.Took), percentiles(t.Kills.Control), t.Kills.bound(), measured, corrected)
	}
}

func counts[N int | int64](m map[string]N) string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, fmt.Sprintf("%s %d", k, m[k]))
	}
	return strings.Join(list, ", ")
}
