package stream

import (
	"log/slog"
	"strings"
	"testing"
)

// Each metric of a fault has an alarm's text, and none is listed twice.
func TestFaults(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range Faults() {
		if seen[f.Metric] || f.Metric == "" || f.Alarm == "" || f.Minutes < 1 || f.Minutes > 5 {
			t.Errorf("%+v", f)
		}
		seen[f.Metric] = true
	}
	if len(seen) != 12 {
		t.Errorf("%d faults; docs/deploy.md lists 12", len(seen))
	}
	r := newRig() // without a namespace the record is logged, and counts nothing
	log := logged(&r.Consumer)
	r.Metrics = ""
	r.reporter().fault(t.Context(), WorkGivenUp, "x", slog.String("lock", "a"))
	if !strings.Contains(log.String(), `"work_given_up":1`) || strings.Contains(log.String(), "_aws") {
		t.Errorf("log %s", log)
	}
}
