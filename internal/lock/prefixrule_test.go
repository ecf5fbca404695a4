package lock

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// A request to set a rule may be repeated, also after its reply was lost: it makes one change.
func TestRuleSettingARuleTwiceIsOneChange(t *testing.T) {
	k := newKit(t)
	changes := 0
	k.store.RuleChanged = func(PrefixRule, PrefixRule) { changes++ }
	none := int64(0)
	freeze := RuleRequest{Prefix: "a", Principal: "p", Set: RuleParts{Freeze: &Freeze{Until: k.time.Add(time.Hour).UnixMilli(), Reason: "r"}}, Rev: &none}
	k.store.put = func() bool { k.store.put = nil; return true }
	_, err := k.SetRule(t.Context(), freeze)
	k.want(err, ErrUnavailable)
	k.pass(time.Second)
	s, err := k.SetRule(t.Context(), freeze)
	if err != nil || s.Rev != 1 || s.Freeze.At != k.time.Add(-time.Second).UnixMilli() || changes != 1 {
		t.Errorf("%+v, %v, %d changes", s, err, changes)
	}
	for range 2 {
		if s, err := k.SetRule(t.Context(), RuleRequest{Prefix: "a", Principal: "p", Remove: AllParts()}); err != nil || s.Rev != 2 || !s.Empty() {
			t.Errorf("%+v, %v", s, err)
		}
	}
	if changes != 2 {
		t.Errorf("%d changes", changes)
	}
}

// A request that names a revision changes no other one.
func TestRuleOfAnotherRevisionIsKept(t *testing.T) {
	k := newKit(t)
	at := func(rev int64, by, reason string) error {
		_, err := k.SetRule(t.Context(), RuleRequest{Prefix: "a", Principal: by, Set: RuleParts{Freeze: &Freeze{Until: k.time.Add(time.Hour).UnixMilli(), Reason: reason}}, Rev: &rev})
		return err
	}
	k.want(at(1, "p", "r"), ErrRuleChanged)
	k.want(at(0, "p", "r"), nil)
	k.want(at(0, "q", "r"), ErrRuleChanged)  // another's
	k.want(at(0, "p", "r2"), ErrRuleChanged) // another
	k.want(at(1, "q", "r2"), nil)
	if f := k.store.rules["a"].Freeze; f.By != "q" || f.Reason != "r2" {
		t.Errorf("%+v", f)
	}
}

// Two changes at the same time are both made, one after the other.
func TestRuleChangesAtTheSameTime(t *testing.T) {
	k := newKit(t)
	k.store.ruleRead = func() {
		k.store.ruleRead = nil
		k.freeze("a", 2*time.Hour)
	}
	s, err := k.SetRule(t.Context(), RuleRequest{Prefix: "a", Set: RuleParts{Freeze: &Freeze{Until: k.time.Add(time.Hour).UnixMilli(), Reason: "r"}}})
	if err != nil || s.Rev != 2 || s.Freeze.Until != k.time.Add(time.Hour).UnixMilli() {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestTooManyRules(t *testing.T) {
	k := newKit(t)
	for i := range MaxPrefixRules {
		k.freeze(fmt.Sprint(i), time.Hour)
	}
	req := RuleRequest{Prefix: "x", Set: RuleParts{Freeze: &Freeze{Until: k.time.Add(time.Hour).UnixMilli(), Reason: "r"}}}
	_, err := k.SetRule(t.Context(), req)
	k.want(err, ErrTooManyRules)
	k.freeze("0", 2*time.Hour)
	k.unfreeze("1")
	k.pass(RuleMemory + time.Minute)
	k.store.Purge(k.time)
	_, err = k.SetRule(t.Context(), RuleRequest{Prefix: "x", Set: RuleParts{Freeze: &Freeze{Until: k.time.Add(time.Hour).UnixMilli(), Reason: "r"}}})
	k.want(err, nil)
	list, err := k.PrefixRules(t.Context())
	if err != nil || !slices.IsSortedFunc(list, func(a, b PrefixRule) int { return cmpText(a.Prefix, b.Prefix) }) || slices.ContainsFunc(list, PrefixRule.Empty) {
		t.Errorf("%d rules, %v", len(list), err)
	}
}

func cmpText(a, b string) int {
	if a < b {
		return -1
	}
	return 1
}

// Thaw finds the locks that wait below a prefix, a page at a time, and goes by the rules as they are stored, not as this coordinator has read them.
func TestThaw(t *testing.T) {
	k := newKit(t)
	for i := range thawPage + 20 {
		name := fmt.Sprintf("t:%03d", i)
		on := func(r *AcquireRequest) { r.Lock = name }
		k.must("holder", on)
		if i%2 == 0 {
			k.waits("waiter", on)
		}
	}
	k.freeze("t:", time.Hour)
	k.freeze("t:00", 2*time.Hour)
	done, err := k.Thaw(t.Context(), "t:", "")
	if err != nil || !done.Again.Equal(k.time.Add(time.Hour)) || len(done.Waiting) > 0 {
		t.Fatalf("before its end: %+v, %v", done, err)
	}
	k.unfreeze("t:") // this coordinator has just read it
	found := map[string]bool{}
	pages := 0
	for cursor := ""; ; cursor = done.Next {
		if done, err = k.Thaw(t.Context(), "t:", cursor); err != nil || !done.Again.IsZero() {
			t.Fatalf("%+v, %v", done, err)
		}
		for _, name := range done.Waiting {
			found[name] = true
		}
		if pages++; done.Next == "" {
			break
		}
	}
	if pages != 2 || len(found) != thawPage/2+10-5 || found["t:000"] || found["t:008"] || !found["t:010"] {
		t.Errorf("%d locks on %d pages", len(found), pages)
	}
	k.want(k.Settle(t.Context(), "t:010"), nil) // it does not go by the freeze that it had read
}

// A queue that a freeze keeps from being granted is no finding; one that nobody has granted afterwards is.
func TestFrozenQueueIsNoFinding(t *testing.T) {
	k := newKit(t)
	k.must("a")
	k.waits("b")
	k.freeze("a", time.Hour)
	k.pass(NoRulesPeriod)
	k.want(k.release("a"), nil)
	look := func() (kinds []FindingKind) {
		k.pass(2 * Patience)
		list, _, err := k.Examine(t.Context(), lockName, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range list {
			kinds = append(kinds, f.Kind)
		}
		return kinds
	}
	if got := look(); len(got) > 0 {
		t.Errorf("frozen: %v", got)
	}
	k.unfreeze("a")
	if got := look(); !slices.Equal(got, []FindingKind{FindingUnsettled}) {
		t.Errorf("after the freeze: %v", got)
	}
}
