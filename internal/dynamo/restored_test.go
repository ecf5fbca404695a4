package dynamo_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/storetest"
)

// A region is a coordinator on a table of its own.
type region struct {
	*lock.Coordinator
	t     *testing.T
	table string
	wire  *wire
}

func newRegion(t *testing.T, clock *storetest.Clock) *region {
	t.Helper()
	r := &region{t: t, wire: &wire{}, table: awstest.TableName(t, "region")}
	s := newStore(t, func(c *dynamo.Config) { c.Table, c.AWS.HTTPClient = r.table, r.wire })
	var err error
	if r.Coordinator, err = lock.New(lock.Config{Store: s, Clock: clock.Now}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *region) acquire(name, secret string, ttl, wait time.Duration) (lock.LeaseStatus, error) {
	return r.Acquire(r.t.Context(), lock.AcquireRequest{Lock: name, Secret: secret, TTL: ttl, Capacity: 1, Permits: 1, Wait: wait})
}

// mustAcquire is a grant's fencing token.
func (r *region) mustAcquire(name, secret string) int64 {
	r.t.Helper()
	l, err := r.acquire(name, secret, time.Minute, 0)
	if err != nil {
		r.t.Fatalf("%s: %v", secret, err)
	}
	return l.Lease.Fence
}

func (r *region) renew(name, secret string) error {
	_, err := r.Renew(r.t.Context(), lock.RenewRequest{Lock: name, Secret: secret})
	return err
}

func (r *region) items() []map[string]types.AttributeValue {
	r.t.Helper()
	out, err := engine(r.t).Scan(r.t.Context(), &dynamodb.ScanInput{TableName: &r.table})
	if err != nil {
		r.t.Fatal(err)
	}
	return out.Items
}

func (r *region) put(it map[string]types.AttributeValue) {
	r.t.Helper()
	if _, err := engine(r.t).PutItem(r.t.Context(), &dynamodb.PutItemInput{TableName: &r.table, Item: it}); err != nil {
		r.t.Fatal(err)
	}
}

// purge deletes a lock's row, as native TTL or an operator does.
func (r *region) purge(name string) {
	r.t.Helper()
	if _, err := engine(r.t).DeleteItem(r.t.Context(), &dynamodb.DeleteItemInput{TableName: &r.table, Key: map[string]types.AttributeValue{
		"pk": &types.AttributeValueMemberS{Value: name}, "sk": &types.AttributeValueMemberS{Value: "lock"},
	}}); err != nil {
		r.t.Fatal(err)
	}
}

// A restored table is a copy of an older state: it does not know the leases that were granted later, and still has those that ended later. The
// holders of the first kind lose their leases at the next renewal, those of the second kind bar the lock until their expiry, and fencing tokens
// keep growing over the old table's, so that a fenced resource lets nobody of before write after a holder of now.
func TestRestoredTable(t *testing.T) {
	clock := &storetest.Clock{}
	old, restored := newRegion(t, clock), newRegion(t, clock)
	first := old.mustAcquire("handed-on", "h1")
	for _, it := range old.items() { // the moment to which the table is restored
		restored.put(it)
	}
	clock.Advance(time.Second)
	if _, err := old.Release(t.Context(), lock.ReleaseRequest{Lock: "handed-on", Secret: "h1"}); err != nil {
		t.Fatal(err)
	}
	second, unknown := old.mustAcquire("handed-on", "h2"), old.mustAcquire("unknown", "u1")
	clock.Advance(time.Second)

	taken := restored.mustAcquire("unknown", "u2") // while u1 believes in its lease
	if taken <= unknown {
		t.Errorf("fencing token %d after %d", taken, unknown)
	}
	for name, secret := range map[string]string{"unknown": "u1", "handed-on": "h2"} {
		if err := restored.renew(name, secret); !errors.Is(err, lock.ErrLeaseLost) {
			t.Errorf("%s renews a lease that the restored table does not know: %v", secret, err)
		}
	}
	if _, err := restored.acquire("handed-on", "h3", time.Minute, 0); !errors.Is(err, lock.ErrLockHeld) {
		t.Errorf("the lease of h1, which had ended, does not bar the lock: %v", err)
	}
	clock.Advance(2 * time.Minute)
	if third := restored.mustAcquire("handed-on", "h3"); third <= second || second <= first {
		t.Errorf("fencing tokens %d, %d, %d do not grow", first, second, third)
	}
}

// A row whose holder and waiters live is deleted. The holder learns of it at its next renewal, the waiters get the lock by polling, and fencing
// tokens grow.
func TestDeletedRow(t *testing.T) {
	clock := &storetest.Clock{}
	r := newRegion(t, clock)
	before := r.mustAcquire("a", "h")
	for i := range lock.QueueHead + 2 {
		if _, err := r.acquire("a", fmt.Sprint("w", i), time.Minute, time.Minute); !errors.Is(err, lock.ErrLockHeld) {
			t.Fatal(err)
		}
	}
	clock.Advance(time.Millisecond)
	r.purge("a")
	if err := r.renew("a", "h"); !errors.Is(err, lock.ErrLeaseLost) {
		t.Errorf("the holder renews: %v", err)
	}
	left := map[string]bool{}
	for i := range lock.QueueHead + 2 {
		left[fmt.Sprint("w", i)] = true
	}
	for rounds := 0; len(left) > 0; rounds++ {
		if rounds > 40 {
			t.Fatalf("these never got the lock: %v", left)
		}
		for w := range left {
			l, err := r.acquire("a", w, time.Minute, time.Minute)
			if errors.Is(err, lock.ErrLockHeld) {
				continue
			}
			if err != nil || l.Lease.Fence <= before {
				t.Fatalf("%s: fencing token %d after %d, %v", w, l.Lease.Fence, before, err)
			}
			before = l.Lease.Fence
			if _, err := r.Release(t.Context(), lock.ReleaseRequest{Lock: "a", Secret: w}); err != nil {
				t.Fatal(err)
			}
			delete(left, w)
		}
		clock.Advance(lock.ClaimTime / 2)
	}
}

// Native TTL may remove a row between any two requests of an operation. The purge is made at the wire, just before each of the operation's
// requests in turn: DynamoDB Local removes rows at times of its own. Whatever the operation answers, the next grant has a higher fencing token,
// and no request fails but by the protocol's errors.
func TestPurgeUnderRequests(t *testing.T) {
	acquire := func(r *region) error { _, err := r.acquire("a", "new", time.Minute, 0); return err }
	operations := map[string]func(*region) error{
		"acquire": acquire,
		"acquire that waits": func(r *region) error {
			_, err := r.acquire("a", "new", time.Minute, time.Minute)
			return err
		},
		"renew": func(r *region) error { return r.renew("a", "h") },
		"release": func(r *region) error {
			_, err := r.Release(t.Context(), lock.ReleaseRequest{Lock: "a", Secret: "h"})
			return err
		},
		"force-release": func(r *region) error {
			_, err := r.ForceRelease(t.Context(), lock.ForceReleaseRequest{Lock: "a", Reason: "r"})
			return err
		},
		"poll": func(r *region) error {
			_, err := r.Acquire(t.Context(), lock.AcquireRequest{Lock: "a", Secret: "w", TTL: time.Minute, Capacity: 1, Permits: 1, Wait: time.Minute, Ticket: 1})
			return err
		},
		"settle": func(r *region) error { return r.Settle(t.Context(), "a") },
	}
	clock := &storetest.Clock{}
	r := newRegion(t, clock)
	for name, do := range operations {
		for at := 1; at <= 4; at++ {
			r.wire.reset()
			r.purge("a")
			fence := r.mustAcquire("a", "h")
			if _, err := r.acquire("a", "w", time.Minute, time.Minute); !errors.Is(err, lock.ErrLockHeld) {
				t.Fatal(err)
			}
			clock.Advance(25 * time.Hour) // the row's native TTL, and everybody's time, is over
			r.wire.reset()
			purged := false
			r.wire.harm = func(n int, _ *http.Request) (*http.Response, error, bool) {
				if n == at {
					purged = true
					r.purge("a")
				}
				return nil, nil, false
			}
			err := do(r)
			r.wire.reset()
			protocol := err == nil || errors.Is(err, lock.ErrLeaseLost) || errors.Is(err, lock.ErrLockHeld)
			if !protocol {
				t.Errorf("%s, purged before request %d: %v", name, at, err)
			}
			clock.Advance(25 * time.Hour)
			if next := r.mustAcquire("a", "next"); next <= fence {
				t.Errorf("%s, purged before request %d: fencing token %d after %d", name, at, next, fence)
			}
			if _, err := r.Release(t.Context(), lock.ReleaseRequest{Lock: "a", Secret: "next"}); err != nil {
				t.Fatal(err)
			}
			r.removeAll()
			if !purged {
				break
			}
		}
	}
}

func (r *region) removeAll() {
	r.t.Helper()
	for _, it := range r.items() {
		if _, err := engine(r.t).DeleteItem(r.t.Context(), &dynamodb.DeleteItemInput{
			TableName: &r.table, Key: map[string]types.AttributeValue{"pk": it["pk"], "sk": it["sk"]},
		}); err != nil {
			r.t.Fatal(err)
		}
	}
}

// fakeGlobalTable replicates two tables of DynamoDB Local as an eventually consistent global table does: of each item, the version that was
// written last wins in both regions. It is a fake: a test says which region wrote last, in place of DynamoDB's time of each write.
type fakeGlobalTable struct{ east, west *region }

// replicate gives both regions the items of the one that wrote last.
func (g fakeGlobalTable) replicate(last *region) {
	other := g.east
	if other == last {
		other = g.west
	}
	for _, it := range last.items() {
		other.put(it)
	}
}

// Two regions of a global table grant one lock at a time: each judges its conditions by its own version. This is why a lock table must have no
// replicas, and why doctor refuses one. A fenced resource keeps the two apart from the first write of the higher token on, whichever grant survives
// the replication; if that is the lower one, its holder can neither write nor does it learn why.
func TestGlobalTableExcludesNobody(t *testing.T) {
	for _, test := range []struct {
		name          string
		renewsInEast  bool // after the grant in the west: then the east wrote last
		lost, remains string
	}{{"the second grant is written last", false, "east", "west"}, {"the first holder renews after it", true, "west", "east"}} {
		t.Run(test.name, func(t *testing.T) {
			clock := &storetest.Clock{}
			g := fakeGlobalTable{newRegion(t, clock), newRegion(t, clock)}
			regions := map[string]*region{"east": g.east, "west": g.west}
			east := g.east.mustAcquire("a", "east")
			clock.Advance(time.Millisecond)
			west := g.west.mustAcquire("a", "west") // granted, although the east's holder lives
			resource := int64(0)
			write := func(fence int64) bool {
				if fence < resource {
					return false
				}
				resource = fence
				return true
			}
			if !write(east) || !write(west) {
				t.Error("two holders write in the order of their grants, and a resource refuses one: then it knew more than the lock")
			}
			last := g.west
			if test.renewsInEast {
				last = g.east
				if err := g.east.renew("a", "east"); err != nil {
					t.Fatal(err)
				}
			}
			g.replicate(last)
			if err := regions[test.lost].renew("a", test.lost); !errors.Is(err, lock.ErrLeaseLost) {
				t.Errorf("the holder in the %s renews: %v", test.lost, err)
			}
			if err := regions[test.remains].renew("a", test.remains); err != nil {
				t.Errorf("the holder in the %s: %v", test.remains, err)
			}
			if write(east) {
				t.Error("the resource takes a write of the lower token after one of the higher")
			}
		})
	}
}

// doctor and init are told of replicas.
func TestInspectFindsReplicas(t *testing.T) {
	table := func(more string) string {
		return `{"Table":{"KeySchema":[{"AttributeName":"pk","KeyType":"HASH"},{"AttributeName":"sk","KeyType":"RANGE"}],
			"GlobalSecondaryIndexes":[{"IndexName":"names","KeySchema":[{"AttributeName":"idx","KeyType":"HASH"},{"AttributeName":"pk","KeyType":"RANGE"}]}],
			"StreamSpecification":{"StreamEnabled":true,"StreamViewType":"NEW_AND_OLD_IMAGES"}` + more + `}}`
	}
	ttl := `{"TimeToLiveDescription":{"TimeToLiveStatus":"ENABLED","AttributeName":"ttl"}}`
	for more, says := range map[string]string{
		"": "", `,"Replicas":[{"RegionName":"eu-west-1"}]`: "the later write wins",
		`,"Replicas":[{"RegionName":"eu-west-1"}],"MultiRegionConsistency":"STRONG"`: "no transactions",
	} {
		s, _ := scripted(t, table(more), ttl)
		problems, err := s.Inspect(t.Context())
		if err != nil || len(problems) != min(len(says), 1) || says != "" && !strings.Contains(problems[0].What, says) {
			t.Errorf("%s: %+v, %v", more, problems, err)
		}
	}
}
