package redrive

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// neglect makes a table on which everything was lost that can be: timers, callbacks, settling writes, rows and native TTLs.
func neglect(t *testing.T, k *kit) {
	t.Helper()
	k.acquire("expired", "a", func(r *lock.AcquireRequest) { r.TTL = time.Second })
	k.acquire("expired", "b", waits)
	k.acquire("expired-alone", "a", func(r *lock.AcquireRequest) { r.TTL = time.Second })
	k.acquire("unchecked", "a", of(execution))
	k.over[execution] = true
	k.acquire("untold", "a", task("untold-1"))
	k.acquire("abandoned", "a")
	k.acquire("abandoned", "b", func(r *lock.AcquireRequest) { r.Wait = time.Second })
	k.acquire("abandoned", "c", waits)
	k.acquire("unsettled", "a", func(r *lock.AcquireRequest) { r.TTL = 2 * time.Hour })
	k.acquire("unsettled", "b", waits)
	k.change("unsettled", "lock", "SET holders = :h", map[string]types.AttributeValue{":h": &types.AttributeValueMemberM{Value: map[string]types.AttributeValue{}}})
	k.acquire("lasting", "a")
	k.change("lasting", "lock", "REMOVE ttl", nil)
	k.acquire("orphans", "a")
	for i := range lock.QueueHead + 1 {
		k.acquire("orphans", fmt.Sprint(i), func(r *lock.AcquireRequest) { r.Wait = time.Second })
	}
	k.remove("orphans", "lock")
	k.acquire("ahead", "a")
	k.change("ahead", "lock", "SET fence = :f", map[string]types.AttributeValue{":f": &types.AttributeValueMemberN{Value: fmt.Sprint(time.Now().Add(24 * time.Hour).UnixMicro())}})
	k.change("broken", "lock", "SET rev = :r", map[string]types.AttributeValue{":r": &types.AttributeValueMemberS{Value: "x"}})
	k.change("newer", "future#1", "SET x = :x", map[string]types.AttributeValue{":x": &types.AttributeValueMemberS{Value: "x"}})
	k.change("exec#"+execution, "future", "SET x = :x", map[string]types.AttributeValue{":x": &types.AttributeValueMemberS{Value: "x"}})
	k.acquire("fine", "a")
	k.acquire("fine", "b", waits)
	k.ahead = 5 * time.Minute
}

// A sweep finds each thing that nobody will free or tell, and nothing on a lock that is fine; with Apply it mends what can be mended, so that the
// next sweep finds only what is left to a person.
func TestSweep(t *testing.T) {
	k := newKit(t)
	neglect(t, k)
	want := map[string]string{ // by lock and kind: the states when it is shown and when it is applied
		"expired expired":       "due done",
		"expired-alone expired": "due done",
		"unchecked unchecked":   "due done",
		"untold untold":         "due done",
		"abandoned abandoned":   "due done",
		"unsettled unsettled":   "due done",
		"lasting no-ttl":        "due done",
		"orphans orphan":        "due done",
		"ahead fence-lead":      "kept kept",
		"broken unreadable":     "kept kept",
		"newer no-ttl":          "kept kept",

		"exec#" + execution + " no-ttl": "kept kept",
	}
	check := func(a Answer, which int) {
		t.Helper()
		got := map[string]State{}
		for _, o := range a.Outcomes {
			got[o.Lock+" "+o.What] = o.State
			if o.Fix == "" && o.State != Done {
				t.Errorf("no fix: %+v", o)
			}
		}
		for key, states := range want {
			if state := strings.Fields(states)[which]; string(got[key]) != state {
				t.Errorf("%s is %q, want %q", key, got[key], state)
			}
			delete(got, key)
		}
		for key := range got {
			t.Errorf("found %s (%s), which is fine", key, got[key])
		}
		if a.Cursor != "" || a.Items < 20 || a.Units <= 0 || a.Locks != 9 {
			t.Errorf("%d items, %d locks, %v units, cursor %q", a.Items, a.Locks, a.Units, a.Cursor)
		}
	}
	check(k.do(Request{Work: WorkSweep}), 0)
	if len(k.told)+len(k.timers) != 0 {
		t.Errorf("showing told %v and set %v", k.told, k.timers)
	}
	check(k.do(Request{Work: WorkSweep, Apply: true}), 1)
	if !slices.Equal(k.told, []string{"untold-1 granted"}) {
		t.Errorf("told %v", k.told)
	}
	for name, holder := range map[string]string{"expired": "b", "unsettled": "b", "expired-alone": "", "unchecked": "", "abandoned": "a"} {
		r := k.record(name)
		if _, holds := r.Holders[lock.KeyOf(name, holder)]; len(r.Holders) > 0 != (holder != "") || holder != "" && !holds {
			t.Errorf("%s: %+v", name, r.Holders)
		}
	}
	if len(k.timers) != 0 {
		t.Errorf("timers of live leases were set again, and none was lost: %v", k.timers)
	}
	left := k.do(Request{Work: WorkSweep})
	for _, o := range left.Outcomes {
		if o.State != Kept {
			t.Errorf("left: %+v", o)
		}
	}
	if len(left.Outcomes) != 4 {
		t.Errorf("left: %s", short(left))
	}
}

// With the table alone, as the command has it, a sweep mends what needs no other service, and says of the rest who can.
func TestSweepOfATableAlone(t *testing.T) {
	k := newKit(t)
	neglect(t, k)
	k.Expirer = &stream.Expirer{Coordinator: k.Coordinator, Log: k.Expirer.Log}
	got := map[string]State{}
	for _, o := range k.do(Request{Work: WorkSweep, Apply: true}).Outcomes {
		got[o.Lock] = o.State
		if o.State == Failed {
			t.Errorf("failed: %+v", o)
		}
		if o.State == Kept && o.Fix == "" {
			t.Errorf("no fix: %+v", o)
		}
	}
	for name, state := range map[string]State{
		"expired": Done, "expired-alone": "", "unchecked": Kept, "untold": Kept, "abandoned": Done, "unsettled": Done, "lasting": Done, "orphans": Done, "fine": "",
	} {
		if got[name] != state {
			t.Errorf("%s is %q, want %q", name, got[name], state)
		}
	}
}

// A sweep goes on where the answer before ended, reads half a unit for 4 KB, and leaves out other prefixes.
func TestSweepInParts(t *testing.T) {
	k := newKit(t)
	prefix := "p-" + strings.ToLower(rand.Text()) + ":"
	const n = 1500
	for start := 0; start < n; start += 25 {
		var writes []types.WriteRequest
		for i := start; i < start+25; i++ {
			name := fmt.Sprintf("%s%04d", prefix, i)
			if i%2 == 1 {
				name = "other" + name
			}
			writes = append(writes, types.WriteRequest{PutRequest: &types.PutRequest{Item: map[string]types.AttributeValue{
				"pk": &types.AttributeValueMemberS{Value: name}, "sk": &types.AttributeValueMemberS{Value: "lock"},
				"rev": &types.AttributeValueMemberN{Value: "1"}, "ttl": &types.AttributeValueMemberN{Value: "4000000000"},
				"reason": &types.AttributeValueMemberS{Value: strings.Repeat("x", 400)},
			}}})
		}
		if _, err := k.db.BatchWriteItem(t.Context(), &dynamodb.BatchWriteItemInput{RequestItems: map[string][]types.WriteRequest{k.table: writes}}); err != nil {
			t.Fatal(err)
		}
	}
	k.ScansPerAnswer = 1
	req := Request{Work: WorkSweep, Prefix: prefix}
	answers, locks, units := 0, 0, 0.0
	for answers == 0 || req.Cursor != "" {
		a := k.do(req)
		answers, locks, units, req.Cursor = answers+1, locks+a.Locks, units+a.Units, a.Cursor
	}
	bytes := float64(n * 480)
	if answers < 2 || locks != n/2 || units < bytes/8192*0.8 || units > bytes/8192*1.5 {
		t.Errorf("%d answers, %d locks, %.1f units; want about %.1f", answers, locks, units, bytes/8192)
	}
	if _, err := k.Do(t.Context(), Request{Work: WorkSweep, Prefix: "é"}); err == nil || !strings.Contains(err.Error(), `prefix has the character 'é'`) {
		t.Errorf("a prefix that no name has: %v", err)
	}
	if _, err := k.Do(t.Context(), Request{Work: WorkSweep, Cursor: "!"}); err == nil {
		t.Error("a broken cursor is taken")
	}
}
