package main

import (
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/meter"
)

// The plot has a line and a mark for each figure of each kind, and each kind has a line in the legend.
func TestPlot(t *testing.T) {
	var before, after Run
	for _, waiters := range []int{1, 10, 100, 500} {
		for _, kind := range []string{ours, bare, other} {
			w := Waiting{Kind: kind, Waiters: waiters, Total: meter.Count{Requests: waiters * 10, WriteUnits: float64(waiters) * 10}}
			before.Waiting, after.Waiting = append(before.Waiting, w), append(after.Waiting, w)
		}
	}
	svg := plot(before, after)
	for class, want := range map[string]int{"before": 9, "bare": 9, "other": 9, "after": 9} { // 4 figures in 2 panels, and the legend
		if n := strings.Count(svg, `class="mark `+class+`"`); n != want {
			t.Errorf("%d marks of %s, want %d", n, class, want)
		}
	}
	if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
		t.Error("a coordinate is no number")
	}
}
