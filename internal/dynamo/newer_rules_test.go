package dynamo_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// Parts of a rule that only a newer version knows are kept by every change, and keep the rule: it is shown, names them, and has no native TTL.
func TestNewerPartsOfRules(t *testing.T) {
	n := newNewer(t)
	change := func(req lock.RuleRequest) lock.PrefixRule {
		t.Helper()
		req.Prefix = "a"
		s, err := n.c.SetRule(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return s.PrefixRule
	}
	item := func() attrMap { return n.items()["#rules rule#a"] }
	set := func() lock.RuleRequest {
		return lock.RuleRequest{Set: lock.RuleParts{Freeze: &lock.Freeze{Until: n.clock.Now().Add(time.Hour).UnixMilli(), Reason: "r"}}}
	}
	change(set())
	it := item()
	maps.Copy(it, newerThings())
	if _, err := n.db.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: &n.table, Item: it}); err != nil {
		t.Fatal(err)
	}
	names := strings.Join(slices.Sorted(maps.Keys(newerThings())), " ")
	for _, req := range []lock.RuleRequest{{Remove: lock.AllParts()}, set(), {Remove: lock.AllParts()}} {
		p := change(req)
		if lost := missing(newerThings(), item()); len(lost) > 0 || item()["ttl"] != nil {
			t.Errorf("%+v: lost %v, native TTL %v", req, lost, item()["ttl"])
		}
		if p.Unknown != names || p.Empty() {
			t.Errorf("%+v: %+v", req, p)
		}
	}
	it = item()
	it["limits"] = &mapValue{Value: newerThings()}
	if _, err := n.db.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: &n.table, Item: it}); err != nil {
		t.Fatal(err)
	}
	for _, req := range []lock.RuleRequest{{Set: lock.RuleParts{Limits: &lock.Limits{Capacity: 2}}}, set(), {Remove: []lock.RulePart{lock.PartLimits}}, {Remove: lock.AllParts()}} {
		p := change(req)
		stored, ok := item()["limits"].(*mapValue)
		if !ok {
			t.Fatalf("%+v: limits are gone", req)
		}
		if lost := missing(newerThings(), stored.Value); len(lost) > 0 || !strings.Contains(p.Unknown, "limits.newer_s") || p.Limits == nil {
			t.Errorf("%+v: lost %v, %+v", req, lost, p)
		}
	}
	list, err := n.c.PrefixRules(t.Context())
	if err != nil || len(list) != 1 || !strings.Contains(list[0].Unknown, "newer_ss") {
		t.Errorf("%+v, %v", list, err)
	}
	n.clock.Advance(lock.NoRulesPeriod)
	if err := n.acquire(n.request("ab", "one"))(); err != nil {
		t.Error("the parts that are known do not bar it:", err)
	}
}
