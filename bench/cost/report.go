package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfast-lock/holdfast/internal/meter"
)

// The marks between which a report's page has the figures.
const (
	beginFigures = "<!-- figures: written by make bench-report -->\n"
	endFigures   = "<!-- end of figures -->\n"
)

// report writes the plot next to the figures of a folder, and the tables into the page that has the folder's name.
func report(folder string) error {
	var before, after Run
	for name, run := range map[string]*Run{"before.json": &before, "after.json": &after} {
		data, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			return err
		}
		if err := json.Unmarshal(data, run); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := os.WriteFile(filepath.Join(folder, "waiting.svg"), []byte(plot(before, after)), 0o644); err != nil { //nolint:gosec // to be read by all
		return err
	}
	page := folder + ".md"
	text, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	head, rest, begins := strings.Cut(string(text), beginFigures)
	_, tail, ends := strings.Cut(rest, endFigures)
	if !begins || !ends {
		return errors.New(page + " does not have the marks of the figures")
	}
	text = []byte(head + beginFigures + tables(before, after) + endFigures + tail)
	return os.WriteFile(page, text, 0o644) //nolint:gosec // to be read by all
}

func tables(before, after Run) string {
	var b strings.Builder
	for _, r := range []struct {
		name string
		Run
	}{{"before", before}, {"after", after}} {
		fmt.Fprintf(&b, "\n%s: commit %s, %s UTC, %s", strings.ToUpper(r.name[:1])+r.name[1:], r.Commit, r.Date, r.Machine)
	}
	b.WriteString(".\n\n### Waiting\n\n")
	waitingTable(&b, before, after)
	b.WriteString("\n### Hand-off of lockclient before and after\n\n")
	handoffTable(&b, before, after)
	b.WriteString("\n### Semaphores\n\n")
	holdersTable(&b, before, after)
	b.WriteString("\n### The client's overhead\n\n")
	overheadTable(&b, before, after)
	b.WriteString("\n")
	return b.String()
}

// name tells ours before and after apart.
func name(kind, when string) string {
	if kind == ours {
		return kind + ", " + when
	}
	return kind
}

func waitingTable(b *strings.Builder, before, after Run) {
	b.WriteString("| waiters | kind | requests in 10 s | read units | write units | dollars per million waits of 10 s | requests by operation |\n|---|---|---|---|---|---|---|\n")
	for _, w := range series(before, after) {
		var ops []string
		for _, op := range slices.Sorted(maps.Keys(w.Operations)) {
			c := w.Operations[op]
			text := fmt.Sprintf("%d %s", c.Requests, op)
			if c.Refused > 0 {
				text += fmt.Sprintf(" (%d refused)", c.Refused)
			}
			if c.Unanswered > 0 {
				text += fmt.Sprintf(" (%d without an answer)", c.Unanswered)
			}
			ops = append(ops, text)
		}
		fmt.Fprintf(b, "| %d | %s | %d | %g | %g | %.2f | %s |\n", w.Waiters, w.name, w.Total.Requests, w.Total.ReadUnits, w.Total.WriteUnits,
			price(w.Total)/float64(w.Waiters), strings.Join(ops, ", "))
	}
}

// The prices of a million units in us-east-1, on demand, in dollars. See docs/cost.md.
const (
	readPrice  = 0.125
	writePrice = 0.625
)

// price returns the price of a million times the units, in dollars.
func price(c meter.Count) float64 { return c.ReadUnits*readPrice + c.WriteUnits*writePrice }

type named struct {
	name string
	Waiting
}

// series returns the figures of waiting, by the number of waiters. What is not ours is taken from the later run.
func series(before, after Run) (list []named) {
	for _, w := range before.Waiting {
		if w.Kind == ours {
			list = append(list, named{name(w.Kind, "before"), w})
		}
	}
	for _, w := range after.Waiting {
		list = append(list, named{name(w.Kind, "after"), w})
	}
	slices.SortStableFunc(list, func(a, b named) int { return a.Waiters - b.Waiters })
	return list
}

func handoffTable(b *strings.Builder, before, after Run) {
	b.WriteString("| polling | run | kind | p50 | p99 | p50 against dynamolock | hand-offs |\n|---|---|---|---|---|---|---|\n")
	for _, polling := range []string{"defaults", "10ms"} {
		for _, run := range []struct {
			when string
			Run
		}{{"before", before}, {"after", after}} {
			base := 0.0
			for _, h := range run.Handoffs {
				if h.Polling == polling && h.Kind == other {
					base = h.P50ms
				}
			}
			for _, h := range run.Handoffs {
				if h.Polling == polling {
					fmt.Fprintf(b, "| %s | %s | %s | %.1f ms | %.1f ms | %.2f | %d |\n", polling, run.when, h.Kind, h.P50ms, h.P99ms, h.P50ms/base, h.Count)
				}
			}
		}
	}
}

func holdersTable(b *strings.Builder, before, after Run) {
	b.WriteString("| holders | run | acquire of the last permit | renew | acquire when full | release |\n|---|---|---|---|---|---|\n")
	units := func(c meter.Count) string {
		text := fmt.Sprintf("%g", c.WriteUnits)
		if c.ReadUnits > 0 {
			text += fmt.Sprintf(" and %g read", c.ReadUnits)
		}
		if c.Requests > 1 {
			text += fmt.Sprintf(" (%d requests)", c.Requests)
		}
		return text
	}
	row := func(h Holders, when string) {
		fmt.Fprintf(b, "| %d | %s | %s | %s | %s | %s |\n", h.Holders, when, units(h.Acquire), units(h.Renew), units(h.Refused), units(h.Release))
	}
	for i, h := range before.Holders {
		row(h, "before")
		if i < len(after.Holders) {
			row(after.Holders[i], "after")
		}
	}
}

func overheadTable(b *strings.Builder, before, after Run) {
	b.WriteString("| clients | run | kind | acquire p50 | ratio (least to most of the rounds) | release p50 | ratio (least to most) |\n|---|---|---|---|---|---|---|\n")
	for _, clients := range []int{1, 16} {
		for _, run := range []struct {
			when string
			Run
		}{{"before", before}, {"after", after}} {
			for _, o := range run.Overhead {
				if o.Clients != clients {
					continue
				}
				text := func(t Timing) string {
					return fmt.Sprintf("%.2f ms | %.2f (%.2f to %.2f)", t.P50us/1000, t.Ratio, t.Least, t.Most)
				}
				fmt.Fprintf(b, "| %d | %s | %s | %s | %s |\n", clients, run.when, o.Kind, text(o.Acquire), text(o.Release))
			}
		}
	}
}
