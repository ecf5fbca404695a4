package history

import (
	"strings"
	"testing"
	"time"
)

// frozenHistory is a history of the lock "a": a freeze of it from second 10 to second 60, which is ended at second 40. Before it b holds the lock, and gives it back at
// second 20; c, which waits as a task since second 15, is granted it at second 41. The old rule of another prefix makes the periods of rules short.
func frozenHistory() *History {
	s := int64(time.Second)
	b, c := Lease{Fence: 1, Permits: 1, Capacity: 1, Renewed: 1_000_001_000, Expires: 1_000_090_000}, Lease{Fence: 2, Permits: 1, Capacity: 1, Renewed: 1_000_041_000, Expires: 1_000_090_000}
	held := &Record{Rev: 1, Fence: 1, Capacity: 1, Holders: map[string]Lease{"b": b}}
	waits := &Record{Rev: 2, Fence: 1, Capacity: 1, Waiting: 1, Head: 1, First: 1, Of: 1, Holders: map[string]Lease{"b": b}}
	free := &Record{Rev: 3, Fence: 1, Capacity: 1, Waiting: 1, Head: 1, First: 1, Of: 1, Retired: "b", Ended: "release", EndedAt: 1_000_020_000}
	granted := &Record{Rev: 4, Fence: 2, Capacity: 1, Retired: "b", Ended: "release", EndedAt: 1_000_020_000, Holders: map[string]Lease{"c": c}}
	return &History{
		Rules: []Rule{{Prefix: "old", Rev: 1, At: -100 * s}, {Prefix: "a", Rev: 1, At: 10 * s, Until: 1_000_060_000, InForce: 1_000_011_000}, {Prefix: "a", Rev: 2, At: 40 * s}},
		Rows: []Row{
			{Lock: "a", Cause: "acquire", At: s, After: held}, {Lock: "a", Cause: "join", At: 15 * s, Before: held, After: waits},
			{Lock: "a", Cause: "release", At: 20 * s, Before: waits, After: free}, {Lock: "a", Cause: "settle", At: 41 * s, Before: free, After: granted},
		},
		Ops: []Op{
			{Client: "x", Op: Acquire, Lock: "a", Lease: "x", Began: 30 * s, Ended: 31 * s, Result: Held, Frozen: 1_000_060_000},
			{Client: "c", Op: Acquire, Lock: "a", Lease: "c", Began: 15 * s, Ended: 15 * s, Result: Held, Ticket: 1},
			{Client: "c", Op: Acquire, Lock: "a", Lease: "c", Began: 15 * s, Ended: 42 * s, Result: Granted, Fence: 2},
		},
	}
}

// The checks of freezes accept what a freeze explains, and refuse what it does not.
func TestFreezes(t *testing.T) {
	s := int64(time.Second)
	cfg := exact()
	cfg.Start, cfg.RuleUse, cfg.NoRuleUse, cfg.Forgotten, cfg.Queues = 1_000_000_000, time.Second, 10*time.Second, 5*time.Second, true
	check := func(h *History) (found []Violation) {
		f := freezesOf(h, cfg)
		found = append(checkFreezes(h, f), checkHeads(h, f)...)
		return append(append(found, checkForgotten(h, f)...), checkRows(h, f, cfg)...)
	}
	if found := check(frozenHistory()); len(found) > 0 {
		t.Errorf("refused: %v", found)
	}
	grantedAt := func(h *History, second int64) {
		l := h.Rows[3].After.Holders["c"]
		l.Renewed = 1_000_000_000 + second*1000
		h.Rows[3].After.Holders["c"], h.Rows[3].At = l, second*s
	}
	for name, change := range map[string]func(h *History) string{
		"a grant while the lock is frozen":         func(h *History) string { grantedAt(h, 30); return "freezes" },
		"a grant after the time that was promised": func(h *History) string { h.Rules = h.Rules[1:]; grantedAt(h, 13); return "freezes" },
		"a freeze that no rule has":                func(h *History) string { h.Ops[0].Frozen++; return "freezes" },
		"a freeze of another lock":                 func(h *History) string { h.Ops[0].Lock = "b"; return "freezes" },
		"a freeze that has been ended":             func(h *History) string { h.Ops[0].Began, h.Ops[0].Ended = 50*s, 51*s; return "freezes" },
		"a freeze that is not the last": func(h *History) string {
			h.Rules = append(h.Rules, Rule{Prefix: "", Rev: 1, At: 11 * s, Until: 1_000_090_000})
			return "freezes"
		},
		"nobody looked after the freeze":       func(h *History) string { grantedAt(h, 50); h.Ops[2].Ended = 51 * s; return "forgotten" },
		"a release to nobody without a freeze": func(h *History) string { h.Rules, h.Ops = h.Rules[:1], h.Ops[1:]; return "rows" },
		"a poll that does not find the freeze's end": func(h *History) string {
			grantedAt(h, 48)
			h.Ops = []Op{{Client: "c", Op: Acquire, Lock: "a", Lease: "c", Began: 45 * s, Ended: 46 * s, Result: Held, Ticket: 1, Wait: s}}
			return "heads"
		},
	} {
		h := frozenHistory()
		want := change(h)
		var checks []string
		for _, v := range check(h) {
			checks = append(checks, v.Check)
		}
		if !strings.Contains(strings.Join(checks, " "), want) {
			t.Errorf("%s: found %v, want %s", name, checks, want)
		}
	}
}

// A grant is refused by the period only after all may have read the first rule of the table.
func TestFirstRule(t *testing.T) {
	cfg := exact()
	cfg.Start, cfg.RuleUse, cfg.NoRuleUse = 1_000_000_000, time.Second, 10*time.Second
	s := int64(time.Second)
	h := &History{Rules: []Rule{{Prefix: "a", Rev: 1, At: 10 * s, Until: 1_000_060_000}, {Prefix: "b", Rev: 1, At: 13 * s, Until: 1_000_060_000}, {Prefix: "c", Rev: 1, At: 30 * s, Until: 1_000_060_000}}}
	f := freezesOf(h, cfg)
	for _, c := range []struct {
		lock string
		at   int64
		must bool
	}{{"a", 19 * s, false}, {"a", 21 * s, true}, {"b", 19 * s, false}, {"b", 21 * s, true}, {"c", 30 * s, false}, {"c", 32 * s, true}, {"d", 50 * s, false}, {"a", 61 * s, false}} {
		if f.must(c.lock, c.at) != c.must {
			t.Errorf("%s at %v: must is %v", c.lock, time.Duration(c.at), !c.must)
		}
	}
}

// After a downgrade the lease has one permit, and never more again.
func TestDowngrades(t *testing.T) {
	cfg := exact()
	cfg.Start, cfg.Span, cfg.Timeout = 1_000_000_000, 2000, time.Minute
	lease := func(permits int64) map[string]Lease {
		return map[string]Lease{"w": {Fence: 7, Permits: permits, Capacity: 100}}
	}
	writer, reader := &Record{Rev: 1, Fence: 7, Holders: lease(100)}, &Record{Rev: 2, Fence: 7, Holders: lease(1)}
	h := &History{
		Ops: []Op{
			{Client: "w", Op: Acquire, Lock: "a", Lease: "w", Permits: 100, Capacity: 100, Began: 1, Ended: 10, Result: Granted, Fence: 7, TTL: int64(time.Hour)},
			{Client: "w", Op: Downgrade, Lock: "a", Lease: "w", Began: 20, Ended: 30, Result: OK, Fence: 7},
			{Client: "r", Op: Acquire, Lock: "a", Lease: "r", Permits: 1, Capacity: 100, Began: 40, Ended: 50, Result: Granted, Fence: 8, TTL: int64(time.Hour)},
		},
		Rows: []Row{{Lock: "a", At: 5, After: writer}, {Lock: "a", At: 25, Before: writer, After: reader}},
	}
	if found, _ := checkOrder("a", h.Ops, cfg); len(found)+len(checkDowngrades(h))+len(checkRows(h, freezes{cfg: cfg}, cfg)) > 0 {
		t.Errorf("refused: %v, %v, %v", found, checkDowngrades(h), checkRows(h, freezes{cfg: cfg}, cfg))
	}
	if found, _ := checkOrder("a", append(h.Ops[:1:1], h.Ops[2]), cfg); len(found) == 0 {
		t.Error("a reader beside a writer is accepted")
	}
	if h.Rows[1].At = 35; len(checkDowngrades(h)) == 0 {
		t.Error("a downgrade that comes after its answer is accepted")
	}
	h.Rows = append(h.Rows, Row{Lock: "a", At: 60, Before: reader, After: &Record{Rev: 3, Fence: 7, Holders: lease(2)}})
	if len(checkRows(h, freezes{cfg: cfg}, cfg)) == 0 {
		t.Error("a lease with more permits than before is accepted")
	}
}
