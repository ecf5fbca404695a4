package redrive

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// items are the number or text of an attribute of all items, by their keys.
func (k *kit) items(attr string) map[[2]string]string {
	k.t.Helper()
	out, err := k.db.Scan(k.t.Context(), &dynamodb.ScanInput{TableName: &k.table, ConsistentRead: aws.Bool(true)})
	if err != nil {
		k.t.Fatal(err)
	}
	all := map[[2]string]string{}
	for _, it := range out.Items {
		value := ""
		switch v := it[attr].(type) {
		case *types.AttributeValueMemberN:
			value = v.Value
		case *types.AttributeValueMemberS:
			value = v.Value
		}
		all[[2]string{it["pk"].(*types.AttributeValueMemberS).Value, it["sk"].(*types.AttributeValueMemberS).Value}] = value
	}
	return all
}

// An item without native TTL gets one that is as late as the one that its writers gave it, since it is needed until then: a task's place for a year,
// a binding for two, the texts of a lease until days after its expiry. It is not later by more than two days, of items that live on.
func TestSweepKeepsItemsForAsLongAsTheyAreNeeded(t *testing.T) {
	k := newKit(t)
	year := 366 * 24 * time.Hour
	k.acquire("l", "h", func(r *lock.AcquireRequest) { r.TTL = 24 * time.Hour })
	for i := range lock.QueueHead + 2 {
		k.acquire("l", fmt.Sprint("w", i), task(fmt.Sprint("t", i)), func(r *lock.AcquireRequest) { r.Wait = year })
	}
	for i := range 3 {
		k.acquire("s", fmt.Sprint("s", i), func(r *lock.AcquireRequest) { r.TTL, r.Capacity = 7*24*time.Hour, 3 })
	}
	k.acquire("e", "h")
	k.acquire("e", "w", task("t"), func(r *lock.AcquireRequest) { r.Wait = time.Second })
	k.acquire("b", "h", of(execution))
	k.ahead = 30 * time.Second
	if err := k.Coordinator.Settle(t.Context(), "e"); err != nil { // it removes the waiter
		t.Fatal(err)
	}
	before := k.items("ttl")
	kinds := map[string]int{}
	for key, ttl := range before {
		if ttl == "" {
			t.Fatalf("%v has no native TTL", key)
		}
		kinds[key[1][:3]]++
		k.change(key[0], key[1], "REMOVE ttl", nil)
	}
	if kinds["wai"] != lock.QueueHead+2 || kinds["pla"] != 2 || kinds["hol"] != 2 || kinds["end"] != 1 || kinds["b#"+string(lock.KeyOf("b", "h"))[:1]] != 1 {
		t.Fatalf("the table has items %v", kinds)
	}
	for _, o := range k.do(Request{Work: WorkSweep, Apply: true}).Outcomes {
		if o.State != Done || o.What != "no-ttl" {
			t.Errorf("%+v", o)
		}
	}
	for key, ttl := range k.items("ttl") {
		was, _ := strconv.ParseInt(before[key], 10, 64)
		is, _ := strconv.ParseInt(ttl, 10, 64)
		if is < was || is > was+2*24*60*60 {
			t.Errorf("%v: the native TTL is %d, and was %d, which is %v less", key, is, was, time.Duration(was-is)*time.Second)
		}
	}
}

// A row that is not where the index of names must have it is found and put there, also while its lock is held; nothing else of it changes.
func TestSweepAddsRowsToTheIndex(t *testing.T) {
	k := newKit(t)
	for _, name := range []string{"a", "b", "c"} {
		k.acquire(name, "h")
	}
	k.acquire("b", "w", waits)
	before := k.items("idx")
	k.change("b", "lock", "REMOVE idx", nil)
	k.change("c", "lock", "SET idx = :x", map[string]types.AttributeValue{":x": &types.AttributeValueMemberS{Value: "x"}})
	if _, err := k.Coordinator.Renew(t.Context(), lock.RenewRequest{Lock: "b", Secret: "h"}); err != nil {
		t.Fatal(err)
	}
	held, _ := k.grant("b")
	got := map[string]State{}
	for _, o := range k.do(Request{Work: WorkSweep}).Outcomes {
		got[o.Lock+" "+o.What] = o.State
	}
	if len(got) != 2 || got["b no-index"] != Due || got["c no-index"] != Due || k.items("idx")[[2]string{"b", "lock"}] != "" {
		t.Fatalf("shown: %v", got)
	}
	if a := k.do(Request{Work: WorkSweep, Apply: true}); len(a.Outcomes) != 2 || a.Outcomes[0].State != Done || a.Outcomes[1].State != Done {
		t.Errorf("applied: %s", short(a))
	}
	if after := k.items("idx"); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the items have %v, and had %v", after, before)
	}
	if ref, _ := k.grant("b"); ref != held || k.record("b").Waiting != 1 {
		t.Errorf("the lock is held by %v, and was by %v: %+v", ref, held, k.record("b"))
	}
	if a := k.do(Request{Work: WorkSweep, Apply: true}); len(a.Outcomes) != 0 {
		t.Errorf("again: %s", short(a))
	}
}

// A sweep sets the timers that may be lost: of grants whose record of the stream may be, and of holders that others wait for; of all leases if it is
// told so. However often it is repeated otherwise, no lease has one more.
func TestSweepSetsTimersThatMayBeLost(t *testing.T) {
	k := newKit(t)
	k.acquire("before", "h")
	k.acquire("joined", "h")
	k.ahead = time.Minute
	from := k.clock()
	k.acquire("during", "h")
	k.acquire("joined", "w", waits)
	k.acquire("silent", "h") // nobody listens or waits for it
	to := k.clock()
	k.ahead = 2 * time.Minute
	k.acquire("after", "h")
	k.Expirer.Consumer.Listens = func(name string) bool { return name != "joined" && name != "silent" }
	armed := func(req Request) string {
		k.t.Helper()
		k.timers = nil
		req.Work, req.Apply = WorkSweep, true
		a := k.do(req)
		names := map[string]int{}
		for _, timer := range k.timers {
			names[timer.Lock]++
		}
		if a.Timers != len(k.timers) {
			t.Errorf("it says %d timers, and has set %d", a.Timers, len(k.timers))
		}
		return fmt.Sprint(names)
	}
	for range 3 {
		if got := armed(Request{}); got != "map[]" {
			t.Errorf("nothing was lost, and timers were set: %s", got)
		}
	}
	if got := armed(Request{Lost: []Window{{From: from, To: to}}}); got != "map[during:1 joined:1]" {
		t.Errorf("records were lost, and timers were set: %s", got)
	}
	if got := armed(Request{Timers: true}); got != "map[after:1 before:1 during:1 joined:1]" {
		t.Errorf("all timers: %s", got)
	}
	k.timers = nil
	if k.do(Request{Work: WorkSweep, Timers: true}); len(k.timers) != 0 {
		t.Errorf("showing set timers: %v", k.timers)
	}
}
