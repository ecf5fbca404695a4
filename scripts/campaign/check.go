package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/history"
	"github.com/holdfast-lock/holdfast/internal/wirefault"
)

// A summary is what a round did and found.
type summary struct {
	Plan       plan             `json:"plan"`
	Ops        map[string]int   `json:"ops"` // by kind and result
	Clients    map[string]int   `json:"clients"`
	Faults     map[string]int64 `json:"faults"` // by kind
	Beliefs    int              `json:"beliefs"`
	Guarded    int              `json:"guarded"`
	Stale      int              `json:"stale"` // writes that the guarded resource refused
	Rows       int              `json:"rows"`
	Events     int              `json:"events"`
	Repeated   int              `json:"repeated_events"`
	Tasks      int              `json:"tasks"`
	Sets       int              `json:"sets"`   // leases of sets of locks that were granted
	Rules      int              `json:"rules"`  // changes of prefix rules
	Frozen     int              `json:"frozen"` // acquires that a freeze refused
	Rated      int              `json:"rated"`  // acquires that a rate refused
	StreamKill int              `json:"stream_kills"`
	Secrets    int              `json:"secrets"`            // of leases, that were searched for
	Versions   map[string]int   `json:"versions,omitempty"` // with two versions: processes and operations of each
	Kills      killResult       `json:"kills"`
	Violations []string         `json:"violations"`
	Undecided  []string         `json:"undecided"`
}

func (s summary) operations() (n int) {
	for _, count := range s.Ops {
		n += count
	}
	return n
}

func (s summary) failed() bool { return len(s.Violations) > 0 || len(s.Undecided) > 0 }

// checkConfig is what the checks must know: a copy of a request may be late at the proxy before the coordinators, then be handled for as
// long as a function runs, and its last write may be late at the proxy before DynamoDB; a process may be stopped meanwhile.
func checkConfig(start int64) history.Config {
	cfg := history.Holdfast()
	cfg.Late = maxLate + functionTimeout + maxLate + 2*time.Second
	cfg.Stable, cfg.Recorded = true, true
	cfg.Start, cfg.RuleRead, cfg.Flight = start, ruleRead, ruleFlight
	return cfg
}

// summarize collects the history, writes it to the round's directory, and checks it.
func (r *round) summarize() (summary, error) {
	h, err := r.history()
	if err != nil {
		return summary{}, err
	}
	s := summary{
		Plan: r.plan, Ops: map[string]int{}, Clients: map[string]int{}, Faults: map[string]int64{}, Beliefs: len(h.Beliefs), Guarded: len(h.Guarded),
		Rows: len(h.Rows), Rules: len(h.Rules), Events: len(h.Events), StreamKill: r.killCount, Kills: r.kills, Violations: []string{}, Undecided: []string{}, Versions: map[string]int{},
	}
	for _, o := range h.Ops {
		s.Ops[string(o.Op)+" "+string(o.Result)]++
		s.Clients[kindOf(o.Client)]++
		if o.Frozen != 0 {
			s.Frozen++
		}
		if o.Rated {
			s.Rated++
		}
	}
	sets := map[string]bool{} // by lease
	for _, o := range h.Ops {
		if o.Set != "" && o.Op == history.Acquire && o.Result == history.Granted {
			sets[o.Lease] = true
		}
	}
	s.Sets = len(sets)
	for _, g := range h.Guarded {
		if !g.OK {
			s.Stale++
		}
	}
	for _, n := range r.services.seen {
		s.Repeated += n - 1
	}
	for name, p := range map[string]*wirefault.Proxy{"api": r.api, "dynamodb": r.dynamo, "services": r.aws} {
		for kind, n := range p.Stats().Faults {
			s.Faults[name+" "+string(kind)] = n
		}
	}
	maps.Copy(s.Faults, r.injected)
	report := history.Check(h, checkConfig(r.truth.start))
	for _, v := range report.Violations {
		s.Violations = append(s.Violations, v.String())
	}
	s.Undecided = append(s.Undecided, report.Undecided...)
	for _, text := range r.refused {
		s.Violations = append(s.Violations, "refused: "+text)
	}
	for _, list := range [][]string{r.complaints, r.taskViolations(&s), r.truth.poison, r.truth.stuck(), r.kills.violations(), r.mixedViolations(h, &s)} {
		s.Violations = append(s.Violations, list...)
	}
	return s, nil
}

// history puts the round's history together, and writes it.
func (r *round) history() (*history.History, error) {
	h := &history.History{}
	files, err := filepath.Glob(filepath.Join(r.dir, "ops-*.jsonl"))
	if err != nil {
		return nil, err
	}
	end := now()
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "ops-"), ".jsonl")
		died, killed := r.died[name]
		if !killed {
			died = end
		}
		refused, err := readLines(file, died, h)
		if err != nil {
			return nil, err
		}
		r.refused = append(r.refused, refused...)
		if err := os.Remove(file); err != nil { // it is in the history
			return nil, err
		}
	}
	var untold []string
	h.Rules, untold = r.rules()
	r.complaints = append(r.complaints, untold...)
	h.Guarded, h.Rows, h.Events = r.guarded, r.truth.rows, r.services.events
	out, err := os.Create(filepath.Join(r.dir, "history.jsonl"))
	if err != nil {
		return nil, err
	}
	buffered := bufio.NewWriterSize(out, 1<<20)
	err = h.WriteTo(history.NewWriter(buffered))
	return h, errors.Join(err, buffered.Flush(), out.Close())
}

// readLines reads the file of a recorder whose process ended at a time. It returns the errors that say that no retry can help.
func readLines(file string, died int64, h *history.History) (refused []string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	latest := map[int64]line{}
	var order []int64
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var l line
		if json.Unmarshal(lines.Bytes(), &l) != nil {
			continue // the process was killed while it wrote the line
		}
		if _, known := latest[l.Number]; !known {
			order = append(order, l.Number)
		}
		latest[l.Number] = l
	}
	for _, n := range order {
		l := latest[n]
		switch {
		case l.Op != nil:
			if l.Op.Ended == 0 {
				l.Op.Ended = max(died, l.Op.Began)
			}
			h.Ops = append(h.Ops, *l.Op)
		case l.Belief != nil:
			l.Belief.Until = min(l.Belief.Until, died)
			h.Beliefs = append(h.Beliefs, *l.Belief)
		case l.Refused != "":
			refused = append(refused, l.Refused)
		}
	}
	return refused, lines.Err()
}

// taskViolations compares the callbacks with the stream: each grant to a task is told, each wait of a task that ended is told, and no
// task is told of a grant that was not made.
func (r *round) taskViolations(s *summary) (found []string) {
	for _, token := range slices.Sorted(maps.Keys(r.truth.granted)) {
		s.Tasks++
		if t := r.services.tasks[token]; t == nil || t.status == "" {
			found = append(found, "tasks: a lease was granted to the task "+token+", and it was not told")
		}
	}
	for _, token := range slices.Sorted(maps.Keys(r.truth.ended)) {
		if t := r.services.tasks[token]; t == nil || t.status == "" {
			found = append(found, "tasks: the wait of the task "+token+" ended, and it was not told")
		}
	}
	for _, token := range slices.Sorted(maps.Keys(r.services.tasks)) {
		told := r.services.tasks[token].status == "succeeded"
		if told && !r.truth.granted[token] {
			found = append(found, "tasks: the task "+token+" was told of a grant, and there was none")
		}
		// A late copy of the acquire may have made another grant after the lease's end, which nobody waits for.
		if told && r.services.tasks[token].fence == r.truth.gone[token] {
			found = append(found, "tasks: the task "+token+" was told of its grant, and its lease was ended as that of a task that is gone")
		}
	}
	return found
}

// dump writes the table's items, the dead letters and the events to the round's directory.
func (r *round) dump() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := dynamodb.NewFromConfig(awsConfig(r.engine))
	var items []any
	var start map[string]types.AttributeValue
	for range 10_000 {
		out, err := client.Scan(ctx, &dynamodb.ScanInput{TableName: aws.String(tableName), ExclusiveStartKey: start})
		if err != nil {
			return fmt.Errorf("dump of the table: %w", err)
		}
		for _, it := range out.Items {
			items = append(items, plain(&types.AttributeValueMemberM{Value: it}))
		}
		if start = out.LastEvaluatedKey; start == nil {
			break
		}
	}
	r.services.mu.Lock()
	defer r.services.mu.Unlock()
	list := []any{}
	for _, e := range r.services.events {
		list = append(list, e)
	}
	dead := []any{}
	for _, body := range r.services.deadBody {
		dead = append(dead, body)
	}
	return errors.Join(r.lines("items.jsonl", items), r.lines("events.jsonl", list), r.lines("dead-letters.jsonl", dead))
}

func (r *round) lines(name string, list []any) error {
	f, err := os.Create(filepath.Join(r.dir, name))
	if err != nil {
		return err
	}
	buffered := bufio.NewWriter(f)
	encoder := json.NewEncoder(buffered)
	for _, v := range list {
		err = errors.Join(err, encoder.Encode(v))
	}
	return errors.Join(err, buffered.Flush(), f.Close())
}

// plain is a value of an item without DynamoDB's types.
func plain(v types.AttributeValue) any {
	switch v := v.(type) {
	case *types.AttributeValueMemberS:
		return v.Value
	case *types.AttributeValueMemberN:
		return json.Number(v.Value)
	case *types.AttributeValueMemberM:
		m := map[string]any{}
		for name, e := range v.Value {
			m[name] = plain(e)
		}
		return m
	case *types.AttributeValueMemberL:
		list := []any{}
		for _, e := range v.Value {
			list = append(list, plain(e))
		}
		return list
	}
	return nil
}
