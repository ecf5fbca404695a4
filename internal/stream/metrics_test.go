package stream

import (
	"log/slog"
	"os"
	"strings"
	"testing"
)

// Each metric of a fault has an alarm's text and a section of the runbook with a query for it, and none is listed twice.
func TestFaults(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range Faults() {
		if seen[f.Metric] || f.Metric == "" || f.Alarm == "" || f.Minutes < 1 || f.Minutes > 5 {
			t.Errorf("%+v", f)
		}
		seen[f.Metric] = true
	}
	doc, err := os.ReadFile("../../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range Faults() {
		_, section, has := strings.Cut(string(doc), "\n### "+f.Alarm+"\n")
		section, _, _ = strings.Cut(section, "\n### ")
		if !has || !strings.Contains(section, "filter "+f.Metric+" = 1") {
			t.Errorf("docs/runbook.md has no section %s with a query of %s", f.Alarm, f.Metric)
		}
	}
	r := newRig() // without a namespace the record is logged, and counts nothing
	log := logged(&r.Consumer)
	r.Metrics = ""
	r.reporter().fault(t.Context(), WorkGivenUp, "x", slog.String("lock", "a"))
	if !strings.Contains(log.String(), `"work_given_up":1`) || strings.Contains(log.String(), "_aws") {
		t.Errorf("log %s", log)
	}
}
