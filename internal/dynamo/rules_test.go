package dynamo_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// What prefix rules cost: a read unit in ten seconds for a coordinator of a table that has none, and in a second where there are some. Between two reads an acquire is
// one request. A hundred rules take a unit for each 4 KB.
func TestUnitsOfPrefixRules(t *testing.T) {
	m, clock, c := metered(t)
	n := 0
	seconds := func(what string, seconds, want int, most float64) {
		t.Helper()
		for range 2 { // the first round reads the rules
			m.reset()
			for range seconds * 5 {
				n++
				if _, err := c.Acquire(t.Context(), lock.AcquireRequest{Lock: fmt.Sprint("u", n), Secret: "a", TTL: time.Minute, Capacity: 1, Permits: 1}); err != nil {
					t.Fatal(err)
				}
				clock.Advance(200 * time.Millisecond)
			}
		}
		reads, units := m.count()-seconds*5, m.units-2*float64(seconds*5) // an acquire of a new lock writes two units, one of them in the index of names
		if reads != want || units > most {
			t.Errorf("%s: %d reads of the rules in %d seconds, %v units; want %d, at most %v", what, reads, seconds, units, want, most)
		}
		t.Logf("%s: %d reads in %d seconds, %v units", what, reads, seconds, units)
	}
	freeze := func(i int) {
		t.Helper()
		_, err := c.SetRule(t.Context(), lock.RuleRequest{
			Prefix: fmt.Sprintf("deploy:team-%03d:", i), Principal: "arn:aws:sts::123456789012:assumed-role/operator/a-session",
			Set: lock.RuleParts{Freeze: &lock.Freeze{Until: clock.Now().Add(time.Hour).UnixMilli(), Reason: "the audit of the second half of the year"}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	seconds("no rules", 20, 2, 2)
	freeze(0)
	seconds("one rule", 3, 3, 3)
	for i := range lock.MaxPrefixRules {
		freeze(i)
	}
	seconds("a hundred rules", 2, 2, 20)
	if _, err := c.SetRule(t.Context(), lock.RuleRequest{Prefix: "x", Set: lock.RuleParts{Freeze: &lock.Freeze{Until: clock.Now().Add(time.Hour).UnixMilli(), Reason: "r"}}}); err == nil {
		t.Error("a rule above the most was stored")
	}
}
