package dynamo_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/storetest"
)

type (
	attrMap  = map[string]types.AttributeValue
	mapValue = types.AttributeValueMemberM
	text     = types.AttributeValueMemberS
)

// newerThings are attributes of each type that DynamoDB has, under names that no version uses.
func newerThings() attrMap {
	return attrMap{
		"newer_s": &text{Value: "text \"quoted\""}, "newer-n": &types.AttributeValueMemberN{Value: "12345678901234567890.5"},
		"newer_b": &types.AttributeValueMemberB{Value: []byte{0, 255}}, "newer_bool": &types.AttributeValueMemberBOOL{Value: true},
		"newer_null": &types.AttributeValueMemberNULL{Value: true}, "newer_ss": &types.AttributeValueMemberSS{Value: []string{"not", "ours"}},
		"newer_ns": &types.AttributeValueMemberNS{Value: []string{"7"}}, "newer_bs": &types.AttributeValueMemberBS{Value: [][]byte{{1}}},
		"newer_m": &mapValue{Value: attrMap{"deep": &types.AttributeValueMemberL{Value: []types.AttributeValue{&text{Value: "x"}, &mapValue{Value: attrMap{}}}}}},
	}
}

// A newer is a table on which a newer version works, too: everything in it has attributes that this version does not know.
type newer struct {
	t       *testing.T
	db      *dynamodb.Client
	table   string
	store   *dynamo.Store
	clock   *storetest.Clock
	c       *lock.Coordinator
	tickets map[string]int64
}

func newNewer(t *testing.T) *newer {
	n := &newer{t: t, db: engine(t), clock: &storetest.Clock{}, tickets: map[string]int64{}}
	n.store = newStore(t, func(c *dynamo.Config) { n.table = c.Table })
	n.c, _ = lock.New(lock.Config{Store: n.store, Clock: n.clock.Now})
	return n
}

// items are all items of the table, by their keys.
func (n *newer) items() map[string]attrMap {
	n.t.Helper()
	out, err := n.db.Scan(n.t.Context(), &dynamodb.ScanInput{TableName: &n.table})
	if err != nil {
		n.t.Fatal(err)
	}
	all := map[string]attrMap{}
	for _, it := range out.Items {
		all[it["pk"].(*text).Value+" "+it["sk"].(*text).Value] = it
	}
	return all
}

// maps are the maps of an item in which the newer version keeps attributes: the item, its leases, and the terms of a waiter.
func mapsOf(it attrMap) map[string]attrMap {
	all := map[string]attrMap{"": it}
	if holders, ok := it["holders"].(*mapValue); ok {
		for k, v := range holders.Value {
			all["holder "+k+" "+v.(*mapValue).Value["fen"].(*types.AttributeValueMemberN).Value] = v.(*mapValue).Value
		}
	}
	if want, ok := it["want"].(*mapValue); ok {
		all["want"] = want.Value
	}
	return all
}

// plant gives everything in the table attributes of a newer version, each with a text of its own, and adds items of types that this version
// does not know.
func (n *newer) plant(executions ...string) {
	n.t.Helper()
	put := func(it attrMap) {
		if _, err := n.db.PutItem(n.t.Context(), &dynamodb.PutItemInput{TableName: &n.table, Item: it}); err != nil {
			n.t.Fatal(err)
		}
	}
	all := n.items()
	partitions := map[string]bool{}
	for key, it := range all {
		partitions[it["pk"].(*text).Value] = true
		for place, m := range mapsOf(it) {
			if m["newer_s"] == nil {
				maps.Copy(m, newerThings())
				m["newer_of"] = &text{Value: key + " " + place}
			}
		}
		put(it)
	}
	for _, e := range executions {
		partitions["exec#"+e] = true
	}
	for pk := range partitions {
		for _, sk := range []string{"a newer type", "lock#newer", "zzz"} {
			it := newerThings()
			it["pk"], it["sk"] = &text{Value: pk}, &text{Value: sk}
			put(it)
		}
	}
}

// missing are the names of the newer attributes of a map that another lacks, or has otherwise.
func missing(from, in attrMap) (names []string) {
	for name, v := range from {
		if strings.HasPrefix(name, "newer") && !reflect.DeepEqual(v, in[name]) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// check fails if a step lost attributes or items of the newer version. What the step ended may be gone: an item, a lease. The lease of a waiter
// that the step granted has the attributes that its terms had.
func (n *newer) check(step string, before map[string]attrMap) {
	n.t.Helper()
	after := n.items()
	wants := map[string]attrMap{} // by lease key
	for key, it := range before {
		if want, ok := it["want"].(*mapValue); ok && strings.Contains(key, " wait#") {
			wants[it["lease"].(*text).Value] = want.Value
		}
		now, there := after[key]
		if !there {
			if strings.Contains(key, "newer") || strings.Contains(key, "zzz") || strings.HasSuffix(key, " lock") {
				n.t.Errorf("%s: the item %q is gone", step, key)
			}
			continue
		}
		maps := mapsOf(now)
		for place, m := range mapsOf(it) {
			if kept, there := maps[place]; there && len(missing(m, kept)) > 0 {
				n.t.Errorf("%s: %s %s lost %v", step, key, place, missing(m, kept))
			}
		}
	}
	for key, it := range after {
		for place, m := range mapsOf(it) {
			words := strings.Fields(place)
			if len(words) < 2 || mapsOf(before[key])[place] != nil {
				continue
			}
			if want := wants[words[1]]; want != nil && len(missing(want, m)) > 0 {
				n.t.Errorf("%s: the lease of the waiter %s lacks %v", step, words[1], missing(want, m))
			}
		}
		if strings.Contains(key, " ended#") && before[key] == nil {
			want := wants[it["lease"].(*text).Value]
			if m := it["want"].(*mapValue).Value; len(missing(want, m)) > 0 {
				n.t.Errorf("%s: the end %s lacks %v", step, key, missing(want, m))
			}
		}
	}
}

// step plants and does something, and checks what it left.
func (n *newer) step(what string, do func() error) {
	n.t.Helper()
	n.plant()
	before := n.items()
	if err := do(); err != nil {
		n.t.Fatalf("%s: %v", what, err)
	}
	n.check(what, before)
}

func (n *newer) request(name, secret string) lock.AcquireRequest {
	return lock.AcquireRequest{Lock: name, Secret: secret, Owner: secret, TTL: time.Minute, Capacity: 1, Permits: 1, Ticket: n.tickets[secret]}
}

// acquire acquires, or joins the queue if change says so.
func (n *newer) acquire(req lock.AcquireRequest) func() error {
	return func() error {
		_, err := n.c.Acquire(n.t.Context(), req)
		if held, ok := errors.AsType[*lock.HeldError](err); ok && req.Wait > 0 {
			n.tickets[req.Secret] = held.Ticket
			return nil
		}
		return err
	}
}

func (n *newer) waiting(name, secret string) lock.AcquireRequest {
	req := n.request(name, secret)
	req.Wait = time.Hour
	return req
}

func (n *newer) release(name, secret string) func() error {
	return func() error {
		_, err := n.c.Release(n.t.Context(), lock.ReleaseRequest{Lock: name, Secret: secret})
		return err
	}
}

func (n *newer) renew(name, secret string, ttl time.Duration) func() error {
	return func() error {
		_, err := n.c.Renew(n.t.Context(), lock.RenewRequest{Lock: name, Secret: secret, TTL: ttl})
		return err
	}
}

// grant is the grant of a lease, and its record.
func (n *newer) grant(name, secret string) (lock.GrantRef, lock.Lease) {
	n.t.Helper()
	reply, err := n.store.Get(n.t.Context(), name)
	if err != nil {
		n.t.Fatal(err)
	}
	key := lock.KeyOf(name, secret)
	l, held := reply.After.Holders[key]
	if !held {
		n.t.Fatalf("%s does not hold %s", secret, name)
	}
	return lock.GrantRef{Lock: name, Key: key, Fence: l.Fence}, l
}

// Every operation leaves alone what it does not know: attributes of the row, of a lease, of a waiter, of the item that names a waiter's ticket, of
// texts and bindings, and items of other types. Attributes of a waiter's terms go to its lease.
func TestNewerAttributesOfLeases(t *testing.T) {
	n := newNewer(t)
	n.step("take of a new row", n.acquire(n.request("m", "a")))
	n.step("renew", n.renew("m", "a", 2*time.Minute))
	n.step("acquire again", n.acquire(n.request("m", "a")))
	n.step("release", n.release("m", "a"))
	n.step("take of an old row", n.acquire(n.request("m", "b")))
	n.step("force-release", func() error {
		_, err := n.c.ForceRelease(t.Context(), lock.ForceReleaseRequest{Lock: "m", Reason: "test"})
		return err
	})
	for _, secret := range []string{"p", "q", "r"} {
		req := n.request("s", secret)
		req.Capacity, req.Metadata = 3, `{"of":"`+secret+`"}`
		n.step("acquire of a semaphore "+secret, n.acquire(req))
	}
	n.step("renew to the latest expiry", n.renew("s", "q", 48*time.Hour))
	n.step("renew that is not the latest", n.renew("s", "p", time.Minute))
	n.step("status", func() error { _, err := n.c.Status(t.Context(), "s"); return err })
	n.step("list", func() error {
		list, _, err := n.c.List(t.Context(), lock.ListRequest{Limit: 100})
		if err == nil && len(list) != 1 {
			err = fmt.Errorf("%d locks that are held", len(list))
		}
		return err
	})
	n.step("release of one of three", n.release("s", "r"))
	n.clock.Advance(5 * time.Minute)
	n.step("take over", n.acquire(func() lock.AcquireRequest { r := n.request("s", "t"); r.Capacity = 3; return r }()))
	n.clock.Advance(5 * time.Minute)
	ref, _ := n.grant("s", "t")
	n.step("expire of one of two", func() error { _, err := n.c.Expire(t.Context(), ref); return err })
	n.clock.Advance(72 * time.Hour)
	ref, _ = n.grant("s", "q")
	n.step("expire", func() error { _, err := n.c.Expire(t.Context(), ref); return err })
	n.step("keep for a retention", func() error { return n.c.Rewrite(t.Context(), "s") })
	n.step("sweep", func() error {
		out, err := n.store.Sweep(t.Context(), dynamo.SweepQuery{})
		for _, it := range out.Items {
			if it.Err != nil || it.Kind == dynamo.SweptOther && !strings.Contains(it.SK, "newer") && it.SK != "zzz" {
				err = fmt.Errorf("%s %s: kind %v, %w", it.Lock, it.SK, it.Kind, it.Err)
			}
		}
		return err
	})
}

func TestNewerAttributesOfWaiters(t *testing.T) {
	n := newNewer(t)
	n.step("take", n.acquire(n.request("m", "holder")))
	for i := range lock.QueueHead + 3 {
		secret := fmt.Sprint("w", i)
		n.step("join "+secret, n.acquire(n.waiting("m", secret)))
	}
	n.step("poll", n.acquire(n.waiting("m", "w12")))
	n.step("renew with waiters", n.renew("m", "holder", 2*time.Hour))
	n.clock.Advance(40 * time.Minute)
	n.step("poll that extends a place", n.acquire(n.waiting("m", "w0")))
	for _, secret := range []string{"w1", "w12"} {
		req := n.waiting("m", secret)
		req.Ticket = 0
		n.step("request without a ticket that extends the place of "+secret, n.acquire(req))
	}
	notify := n.waiting("m", "w1")
	notify.Token = lock.Token{Kind: lock.NotifyToken, Text: "{}"}
	n.step("request with another token", n.acquire(notify))
	n.step("leave", n.release("m", "w12"))
	n.step("hand-off", n.release("m", "holder"))
	n.step("claim", n.acquire(n.waiting("m", "w0")))
	n.step("hand-off by force-release", func() error {
		_, err := n.c.ForceRelease(t.Context(), lock.ForceReleaseRequest{Lock: "m", Reason: "test"})
		return err
	})
	n.step("claim by a renewal", n.renew("m", "w1", time.Minute))
	n.clock.Advance(5 * time.Minute)
	ref, _ := n.grant("m", "w1")
	n.step("hand-off by expiry", func() error { _, err := n.c.Expire(t.Context(), ref); return err })
	n.clock.Advance(time.Hour)
	n.step("settle", func() error { return n.c.Settle(t.Context(), "m") })

	req := n.request("s", "all") // a semaphore, whose leases are split
	req.Capacity, req.Permits = 2, 2
	n.step("take of a semaphore", n.acquire(req))
	for _, secret := range []string{"x", "y"} {
		req := n.waiting("s", secret)
		req.Capacity = 2
		n.step("join a semaphore", n.acquire(req))
	}
	n.step("hand-off of a semaphore", n.release("s", "all"))
}

func TestNewerAttributesOfTasks(t *testing.T) {
	n := newNewer(t)
	bound := func(name, secret string) lock.AcquireRequest {
		req := n.waiting(name, secret)
		req.Execution, req.Token, req.Ticket = "arn:"+secret, task(secret+"'s token"), 0
		return req
	}
	n.step("grant to a task", n.acquire(bound("m", "a")))
	n.step("join of a task", n.acquire(bound("m", "b")))
	n.step("join of a task that will end", n.acquire(bound("m", "c")))
	ref, l := n.grant("m", "a")
	n.step("attempt", func() error { _, err := n.c.MarkAttempt(t.Context(), ref, l.Tokens, lock.Record{}); return err })
	n.step("told", func() error { _, err := n.c.MarkTold(t.Context(), ref, l.Tokens, lock.Record{}); return err })
	n.step("check", func() error { _, err := n.c.MarkChecked(t.Context(), ref, "", time.Hour); return err })
	again := bound("m", "b")
	again.Token = task("another token")
	n.step("another token of a waiter", n.acquire(again))
	ended := func(context.Context) (bool, error) { return true, nil }
	n.plant("arn:a", "arn:c")
	n.step("end of the execution of a waiter", func() error { return n.c.EndExecution(t.Context(), "arn:c", ended) })
	n.step("end of the execution of a holder, and hand-off", func() error { return n.c.EndExecution(t.Context(), "arn:a", ended) })
	ref, l = n.grant("m", "b")
	n.clock.Advance(2 * time.Hour)
	other := n.waiting("m", "d")
	n.step("a refused caller asks for a check", n.acquire(other))
	n.step("end of a task", func() error { return n.c.EndTask(t.Context(), ref, l, "test") })
}

// A cause, a kind of token and a flag that this version does not know are read, and do not change what an operation does.
func TestNewerValues(t *testing.T) {
	n := newNewer(t)
	req := n.request("m", "a")
	if err := n.acquire(req)(); err != nil {
		t.Fatal(err)
	}
	waits := n.waiting("m", "b")
	waits.Token = lock.Token{Kind: "newer", Text: "a token"}
	if err := n.acquire(waits)(); err != nil {
		t.Fatal(err)
	}
	all := n.items()
	row := all["m lock"]
	for _, attr := range []string{"cause", "retired_cause"} {
		row[attr] = &text{Value: "a newer cause"}
	}
	row["retired"] = &text{Value: string(lock.KeyOf("m", "old"))}
	if _, err := n.db.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: &n.table, Item: row}); err != nil {
		t.Fatal(err)
	}
	// The lease that a newer version ended is over, whatever its cause.
	if err := n.release("m", "old")(); !errors.Is(err, lock.ErrLeaseLost) {
		t.Errorf("release of a lease that ended by a newer cause: %v", err)
	}
	if err := n.acquire(n.waiting("m", "old"))(); !errors.Is(err, lock.ErrLeaseLost) {
		t.Errorf("acquire of a lease that ended by a newer cause: %v", err)
	}
	if err := n.release("m", "a")(); err != nil {
		t.Fatal(err)
	}
	// Who waits with a token of a newer kind may be a task, which claims nothing: its lease is that of a task.
	_, l := n.grant("m", "b")
	if l.Unclaimed || l.Tokens.List()[0] != waits.Token || !l.Tokens.OfTask() {
		t.Errorf("the lease of a waiter with a token of a newer kind: %+v", l)
	}
}
