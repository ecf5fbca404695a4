package history

import (
	"fmt"
	"testing"
	"time"
)

// A lock that is granted more often than its rate allows is found, if all coordinators went by the rate for all of these grants.
func TestRates(t *testing.T) {
	s := int64(time.Second)
	cfg := exact()
	cfg.Start, cfg.RuleUse, cfg.NoRuleUse = 1_000_000_000, time.Second, 10*time.Second
	rules := []Rule{{Prefix: "old", Rev: 1, At: -100 * s}, {Prefix: "a", Rev: 1, At: 10 * s, Grants: 2, Period: 30_000}, {Prefix: "a", Rev: 2, At: 100 * s}}
	for _, test := range []struct {
		lock    string
		granted []int64 // seconds
		found   int
	}{
		{"a:1", []int64{20, 30, 51, 61, 82, 92}, 0},
		{"a:1", []int64{20, 30, 49, 59, 80, 92}, 2},
		{"a:1", []int64{20, 30, 49}, 1},
		{"b:1", []int64{20, 30, 49}, 0},
		{"a:1", []int64{5, 20, 30}, 0}, // a coordinator may not have known the rate at first
		{"a:1", []int64{80, 90, 101}, 0},
	} {
		h := &History{Rules: rules}
		before := &Record{}
		for i, at := range test.granted {
			l := Lease{Fence: int64(i + 1), Permits: 1, Capacity: 1, Renewed: 1_000_000_000 + at*1000}
			after := &Record{Rev: int64(i + 1), Holders: map[string]Lease{fmt.Sprint(i): l}}
			h.Rows = append(h.Rows, Row{Lock: test.lock, Cause: "acquire", At: at * s, Before: before, After: after})
			before = after
		}
		if found := checkRates(h, freezesOf(h, cfg)); len(found) != test.found {
			t.Errorf("%s at %v: %v", test.lock, test.granted, found)
		}
	}
}
