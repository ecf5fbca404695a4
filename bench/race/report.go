package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfast-lock/holdfast/internal/meter"
)

// The marks between which the page has the tables.
const (
	beginTables = "<!-- peers: written by make peers -->\n"
	endTables   = "<!-- end of peers -->\n"
)

// report writes the tables of a run into a page, and its plot beside the file. The page "-" is standard output.
func report(file, page string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var r Run
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	tables := r.tables()
	if page == "-" {
		fmt.Print(tables)
		return nil
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "peers.svg"), []byte(plot(r)), 0o644); err != nil { //nolint:gosec // to be read by all
		return err
	}
	text, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	head, rest, begins := strings.Cut(string(text), beginTables)
	_, tail, ends := strings.Cut(rest, endTables)
	if !begins || !ends {
		return errors.New(page + " does not have the marks of the peers' tables")
	}
	return os.WriteFile(page, []byte(head+beginTables+tables+endTables+tail), 0o644) //nolint:gosec // to be read by all
}

// name is a kind's name in the tables.
func name(kind string) string {
	for _, p := range peers {
		if p.kind == kind {
			return p.name
		}
	}
	return "bare conditional write, table with a stream"
}

// find returns the first of a list that a test accepts, or the zero value.
func find[T any](list []T, accept func(T) bool) (none T, found bool) {
	if i := slices.IndexFunc(list, accept); i >= 0 {
		return list[i], true
	}
	return none, false
}

func (r Run) tables() string {
	var b strings.Builder
	var loads []string
	for _, part := range []string{"cost", "speed", "waiting", "handoff", "faults", "exclusion"} {
		if r.Load[part] != "" {
			loads = append(loads, part+" "+r.Load[part])
		}
	}
	fmt.Fprintf(&b, "\nCommit %s, %s UTC, %s; %.0f minutes. Load averages of 1, 5 and 15 minutes when each part began: %s.\n", r.Commit, r.Date, r.Machine, r.Minutes, strings.Join(loads, "; "))
	for _, f := range r.Failed {
		fmt.Fprintf(&b, "\nNot measured: %s.\n", f)
	}
	for _, t := range []struct {
		measured bool
		write    func(*strings.Builder)
	}{
		{len(r.Cycles) > 0, r.costTable}, {len(r.Speeds) > 0, r.speedTable}, {len(r.Handoffs)+len(r.Faults) > 0, r.waitTable},
		{len(r.Faults) > 0, r.faultTable}, {len(r.Exclusions) > 0, r.exclusionTable},
	} {
		if t.measured {
			t.write(&b)
		}
	}
	b.WriteString("\n")
	return b.String()
}

func heading(b *strings.Builder, title, part string, columns ...string) {
	fmt.Fprintf(b, "\n### %s\n\nReproduce with `make peers ONLY=%s`.\n\n| %s |\n|%s\n", title, part, strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
}

func per(c meter.Count, n int) string {
	f := func(v float64) string { return fmt.Sprintf("%.3g", v/float64(n)) }
	return fmt.Sprintf("%s: %s write, %s read", f(float64(c.Requests)), f(c.WriteUnits), f(c.ReadUnits))
}

func (r Run) costTable(b *strings.Builder) {
	heading(b, "Requests and capacity units", "cost,waiting", "client", "a cycle on one name: requests: units", "a cycle on new names", "one waiter in 10 s: requests", "its units: write, read")
	for _, c := range r.Cycles {
		waiting := "not measured | not measured"
		if w, ok := find(r.Waiters, func(w Waiter) bool { return w.Kind == c.Kind }); ok {
			waiting = fmt.Sprintf("%d | %g, %g", w.Total.Requests, w.Total.WriteUnits, w.Total.ReadUnits)
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", name(c.Kind), per(c.SameKey, c.Cycles), per(c.NewKeys, c.Cycles), waiting)
	}
}

func (r Run) speedTable(b *strings.Builder) {
	heading(b, "Times of acquire and release", "speed", "client", "clients", "acquire: p50", "ratio of p50 (least to most of the rounds)", "ratio of p99", "release: p50", "ratio of p50 (least to most)", "ratio of p99")
	for _, s := range r.Speeds {
		text := func(t Timing) string {
			return fmt.Sprintf("%.2f ms | %.2f (%.2f to %.2f) | %.2f", t.P50ms, t.P50Ratio, t.LeastRatio, t.MostRatio, t.P99Ratio)
		}
		fmt.Fprintf(b, "| %s | %d | %s | %s |\n", name(s.Kind), s.Clients, text(s.Acquire), text(s.Release))
	}
}

func seconds(ms float64) string { return fmt.Sprintf("%.2f s", ms/1000) }

// span writes the smallest and the largest of a list of milliseconds, in seconds.
func span(list []float64) string {
	switch {
	case len(list) == 0:
		return "not measured"
	case fmt.Sprintf("%.2f", slices.Min(list)/1000) == fmt.Sprintf("%.2f", slices.Max(list)/1000):
		return seconds(list[0])
	}
	return fmt.Sprintf("%.2f to %.2f s", slices.Min(list)/1000, slices.Max(list)/1000)
}

func (r Run) waitTable(b *strings.Builder) {
	heading(b, "Hand-off and take-over", "handoff,faults", "client", "hand-off, defaults: p50 (most)", "hand-off, polling every 20 ms: p50 (most)", "take-over after kill -9, beyond the lease")
	for _, p := range peers {
		text := func(byDefault bool) string {
			h, ok := find(r.Handoffs, func(h Handoff) bool { return h.Kind == p.kind && (h.Polling == "defaults") == byDefault })
			if !ok || h.Count == 0 {
				return "not measured"
			}
			s := fmt.Sprintf("%.3f (%.3f) s", h.P50ms/1000, h.MaxMS/1000)
			if len(h.Failed) > 0 {
				s += fmt.Sprintf("; %d of %d failed", len(h.Failed), len(h.Failed)+h.Count)
			}
			return s
		}
		f, _ := find(r.Faults, func(f Faults) bool { return f.Kind == p.kind })
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", p.name, text(true), text(false), span(f.TakeOver))
	}
}

func (r Run) faultTable(b *strings.Builder) {
	heading(b, "One fault at a time", "faults", "client", "acquire's reply lost", "renewal's reply lost", "release's reply lost", "cut off: told of the loss", "stopped past its lease: first check")
	for _, f := range r.Faults {
		p, _ := find(peers, func(p peer) bool { return p.kind == f.Kind })
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s |\n", p.name, acquireText(f.Acquire), renewText(p, f.Renew), releaseText(f.Release), cutText(p, f.CutOff), pauseText(p, f.Pause))
	}
	for _, f := range r.Faults {
		for _, e := range f.Errors {
			fmt.Fprintf(b, "\nA run that could not be carried out: %s: %s\n", name(f.Kind), e)
		}
	}
}

func took(list []Outcome) (times []float64) {
	for _, o := range list {
		times = append(times, o.TookMS)
	}
	return times
}

func acquireText(list []Outcome) string {
	if len(list) == 0 {
		return "not measured"
	}
	errs := 0
	for _, o := range list {
		errs += o.Errors
	}
	text := "has the lock after " + span(took(list))
	if errs > 0 {
		text += fmt.Sprintf(", and %d errors in %d runs", errs, len(list))
	}
	return text
}

func releaseText(list []Outcome) string {
	ok := 0
	for _, o := range list {
		if o.OK {
			ok++
		}
	}
	if len(list) == 0 {
		return "not measured"
	}
	return fmt.Sprintf("success in %d of %d; free for others after %s", ok, len(list), span(took(list)))
}

func renewText(p peer, list []Outcome) string {
	if !p.renews {
		return "no renewals"
	}
	kept, lost, silent := 0, 0, 0
	for _, o := range list {
		switch {
		case o.OK:
			kept++
		case o.Told:
			lost++
		default:
			silent++
		}
	}
	return counts(len(list), "keeps the lock", kept, "loses it and is told", lost, "loses it and is not told", silent)
}

// counts writes pairs of a text and a number of runs, without those of no run.
func counts(all int, pairs ...any) string {
	var parts []string
	for i := 0; i < len(pairs); i += 2 {
		switch n := pairs[i+1].(int); {
		case n == all && n > 0:
			parts = append(parts, pairs[i].(string))
		case n > 0:
			parts = append(parts, fmt.Sprintf("%s (%d of %d)", pairs[i], n, all))
		}
	}
	if len(parts) == 0 {
		return "not measured"
	}
	return strings.Join(parts, "; ")
}

func cutText(p peer, list []Outcome) string {
	if !p.checks {
		return "not told: no local check"
	}
	var ahead, behind []float64
	never := 0
	for _, o := range list {
		switch {
		case o.Told && o.Granted && o.AheadMS >= 0:
			ahead = append(ahead, o.AheadMS)
		case o.Told && o.Granted:
			behind = append(behind, -o.AheadMS)
		case !o.Told:
			never++
		}
	}
	return counts(len(list), span(ahead)+" before the other's grant", len(ahead), span(behind)+" after the other's grant", len(behind), "not within 10 s", never)
}

func pauseText(p peer, list []Outcome) string {
	right := 0
	for _, o := range list {
		if o.OK {
			right++
		}
	}
	text := counts(len(list), "right", right, "wrong", len(list)-right)
	if !p.checks && len(list) > 0 {
		text += " (asks the table)"
	}
	return text
}

func (r Run) exclusionTable(b *strings.Builder) {
	columns := []string{"client"}
	for _, f := range exclusionFaults {
		columns = append(columns, f.name)
	}
	heading(b, "Mutual exclusion under faults", "exclusion", append(columns, "all")...)
	for _, p := range peers {
		var sum Exclusion
		fmt.Fprintf(b, "| %s |", p.name)
		for _, f := range exclusionFaults {
			e, ok := find(r.Exclusions, func(e Exclusion) bool { return e.Kind == p.kind && e.Fault == f.name })
			if !ok {
				b.WriteString(" not measured |")
				continue
			}
			sum.Lost, sum.Increments, sum.Overlaps = sum.Lost+e.Lost, sum.Increments+e.Increments, sum.Overlaps+e.Overlaps
			fmt.Fprintf(b, " %d/%d, %d |", e.Lost, e.Increments, e.Overlaps)
		}
		fmt.Fprintf(b, " %d/%d, %d |\n", sum.Lost, sum.Increments, sum.Overlaps)
	}
	for _, p := range peers {
		lost, refused, fences, n := 0, 0, 0, 0
		for _, e := range r.Exclusions {
			if e.Kind == p.kind && e.FencedLost >= 0 {
				lost, refused, fences, n = lost+e.FencedLost, refused+e.Refused, fences+e.Fences, n+1
			}
		}
		if n > 0 {
			fmt.Fprintf(b, "\n%s, at a counter that compares fencing tokens: %d lost updates, %d writes refused, %d violations of the tokens' order.\n", p.name, lost, refused, fences)
		}
	}
}
