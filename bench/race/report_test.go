package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/meter"
)

// figures is a run in which every part has a figure of every client.
func figures() (r Run) {
	r.Commit, r.Load = "abc", map[string]string{"cost": "0.1 0.2 0.3"}
	for _, p := range peers {
		r.Cycles = append(r.Cycles, Cycle{Kind: p.kind, SameKey: meter.Count{Requests: 40}, Cycles: 20})
		r.Speeds = append(r.Speeds, Speed{Kind: p.kind, Clients: 1, Acquire: Timing{P50Ratio: 1.5}})
		r.Waiters = append(r.Waiters, Waiter{Kind: p.kind})
		r.Handoffs = append(r.Handoffs, Handoff{Kind: p.kind, Polling: "defaults", Count: 2, P50ms: 300})
		r.Faults = append(r.Faults, Faults{Kind: p.kind, Acquire: []Outcome{{OK: true, TookMS: 120}}, CutOff: []Outcome{{Granted: true}, {Granted: true, Told: true, AheadMS: -5}}})
		for _, f := range exclusionFaults {
			r.Exclusions = append(r.Exclusions, Exclusion{Kind: p.kind, Fault: f.name, Increments: 10, Lost: 1, FencedLost: -1})
		}
	}
	return r
}

// The rows of a table have as many cells as its head, and every client has a row in each table.
func TestTables(t *testing.T) {
	text := figures().tables()
	for _, table := range strings.Split(text, "\n### ")[1:] {
		var cells int
		for line := range strings.Lines(table) {
			if !strings.HasPrefix(line, "|") {
				continue
			}
			n := strings.Count(line, "|")
			if cells == 0 {
				cells = n
			}
			if n != cells {
				t.Errorf("%d cells in place of %d: %s", n, cells, line)
			}
		}
		for _, p := range peers {
			if !strings.Contains(table, "| "+p.name+" |") {
				t.Errorf("no row of %s in %s", p.name, table)
			}
		}
	}
	for _, want := range []string{"not within 10 s (1 of 2)", "0.01 s after the other's grant (1 of 2)", "has the lock after 0.12 s", "| 11/110, 0 |"} {
		if !strings.Contains(text, want) {
			t.Errorf("the tables do not have %q", want)
		}
	}
}

// The plot is well-formed XML with a bar for each figure, and no panel without figures.
func TestPlot(t *testing.T) {
	for _, test := range []struct {
		Run
		panels int
	}{{figures(), 5}, {Run{Cycles: figures().Cycles}, 1}} {
		svg := plot(test.Run)
		for d := xml.NewDecoder(strings.NewReader(svg)); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if n := strings.Count(svg, "<rect"); n != len(peers)*test.panels || strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
			t.Errorf("%d bars, want %d, each with a number: %s", n, len(peers)*test.panels, svg)
		}
	}
}
