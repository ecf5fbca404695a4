package history

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// The times of the histories below are in seconds. Skew is 250 ms, Claim 10 s, and Late nothing unless a case says so.
func exact() Config { return Config{Skew: 250 * time.Millisecond, Claim: 10 * time.Second} }

const second = int64(time.Second)

// op makes an operation on lock "l" by a client that is named like the lease.
func op(kind Kind, lease string, began, ended float64, result Result, change ...func(*Op)) Op {
	o := Op{
		Client: lease, Op: kind, Lock: "l", Lease: lease, Began: int64(began * float64(second)), Ended: int64(ended * float64(second)), Result: result,
		TTL: 10 * second,
	}
	for _, f := range change {
		f(&o)
	}
	return o
}

func fence(n int64) func(*Op)  { return func(o *Op) { o.Fence = n } }
func ticket(n int64) func(*Op) { return func(o *Op) { o.Ticket, o.Wait = n, 20*second } }
func waits() func(*Op)         { return func(o *Op) { o.Wait = 20 * second } }
func late(s int64) func(*Op)   { return func(o *Op) { o.Late = s * second } }
func of(permits, capacity int64) func(*Op) {
	return func(o *Op) { o.Permits, o.Capacity = permits, capacity }
}

// A historyCase is a history that must be accepted, or refused by the check with the given name.
type historyCase struct {
	name    string
	refused string // the check; empty: accepted
	ops     []Op
}

var orderCases = []historyCase{
	{"acquire, renew, release, and the next", "", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1)), op(Renew, "a", 5, 6, Granted, fence(1)), op(Acquire, "b", 7, 8, Held),
		op(Release, "a", 9, 10, OK, fence(1)), op(Acquire, "b", 11, 12, Granted, fence(2)), op(Release, "a", 13, 14, OK, fence(1)),
	}},
	{"two holders", "order", []Op{op(Acquire, "a", 1, 2, Granted, fence(1)), op(Acquire, "b", 3, 4, Granted, fence(2))}},
	{"two holders within a request", "order", []Op{op(Acquire, "a", 1, 4, Granted, fence(1)), op(Acquire, "b", 2, 3, Granted, fence(2)), op(Renew, "a", 5, 6, Granted, fence(1))}},
	{"a hand-off within the release", "", []Op{op(Acquire, "a", 1, 2, Granted, fence(1)), op(Release, "a", 3, 9, OK), op(Acquire, "b", 4, 5, Granted, fence(2))}},
	{"a holder that expired", "", []Op{op(Acquire, "a", 1, 2, Granted, fence(1)), op(Acquire, "b", 11.1, 11.2, Granted, fence(2)), op(Renew, "a", 12, 13, Lost)}},
	{"a grant before the holder's expiry", "order", []Op{op(Acquire, "a", 1, 2, Granted, fence(1)), op(Acquire, "b", 10.8, 10.9, Granted, fence(2))}},
	{"a renewal moves the expiry", "order", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1)), op(Renew, "a", 6, 7, Granted, fence(1)), op(Acquire, "b", 12, 13, Granted, fence(2)),
	}},
	{"a renewal without an answer does not move the expiry for sure", "", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1)), op(Renew, "a", 6, 7, Unknown), op(Acquire, "b", 12, 13, Granted, fence(2)),
	}},
	{"a renewal without an answer may have moved the expiry", "", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1)), op(Renew, "a", 6, 7, Unknown), op(Acquire, "b", 15, 16, Held), op(Renew, "a", 15, 16, Granted, fence(1)),
	}},
	{"a renewal of a lease that is over", "order", []Op{op(Acquire, "a", 1, 2, Granted, fence(1)), op(Renew, "a", 13, 14, Granted, fence(1))}},
	{"a release of a lease that is over", "order", []Op{op(Acquire, "a", 1, 2, Granted, fence(1)), op(Release, "a", 13, 14, OK)}},
	{"a renewal after the release", "order", []Op{op(Acquire, "a", 1, 2, Granted, fence(1)), op(Release, "a", 3, 4, OK), op(Renew, "a", 5, 6, Granted, fence(1))}},
	{"a renewal after another's grant", "order", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1)), op(Release, "a", 3, 4, Unknown), op(Acquire, "b", 5, 6, Granted, fence(2)), op(Renew, "a", 7, 8, Granted, fence(1)),
	}},
	{"a release without an answer may come later", "", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1)), op(Release, "a", 3, 4, Unknown, late(6)), op(Renew, "a", 5, 5.5, Granted, fence(1)),
		op(Acquire, "b", 7, 8, Granted, fence(2)), op(Release, "a", 8, 9, OK),
	}},
	{"a lease that is lost for no reason", "order", []Op{op(Acquire, "a", 1, 2, Granted, fence(1)), op(Renew, "a", 3, 4, Lost)}},
	{"a force-release that the store's client repeated, after another lease had ended", "", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1)), op(Force, "", 3, 9, Lost, fence(1)), op(Acquire, "b", 4, 5, Granted, fence(2)), op(Release, "b", 6, 7, OK),
	}},
	{"refused by a lease that was over before its own answer", "", []Op{
		op(Acquire, "a", 1, 20, Lost), op(Acquire, "b", 3, 4, Held), op(Acquire, "b", 21, 22, Granted, fence(2)),
	}},
	{"a release that is lost for no reason", "order", []Op{op(Acquire, "a", 1, 2, Granted, fence(1)), op(Release, "a", 3, 4, Lost)}},
	{"a release that the store's client repeated, after another lease had ended", "", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1)), op(Release, "a", 3, 9, Lost), op(Acquire, "b", 4, 5, Granted, fence(2)), op(Release, "b", 6, 7, OK),
	}},
	{"a lease that is lost just before its expiry", "", []Op{op(Acquire, "a", 1, 2, Granted, fence(1)), op(Renew, "a", 10.7, 10.8, Lost)}},
	{"a release of a lease that never was", "order", []Op{op(Acquire, "a", 1, 2, Granted, fence(1)), op(Release, "b", 3, 4, OK)}},
	{"a renewal of a lease that never was", "order", []Op{op(Renew, "b", 3, 4, Granted, fence(2))}},
	{"a repeated acquire has the same fence", "", []Op{op(Acquire, "a", 1, 2, Unknown), op(Acquire, "a", 3, 4, Granted, fence(1)), op(Acquire, "a", 5, 6, Granted, fence(1))}},
	{"a repeated acquire with another fence", "order", []Op{op(Acquire, "a", 1, 2, Granted, fence(1)), op(Acquire, "a", 3, 4, Granted, fence(2))}},
	{"a repeated acquire that is refused", "order", []Op{op(Acquire, "a", 1, 2, Granted, fence(1)), op(Acquire, "a", 3, 4, Held)}},
	{"refused by nobody", "order", []Op{op(Acquire, "a", 1, 2, Held)}},
	{"refused after the release", "order", []Op{op(Acquire, "a", 1, 2, Granted, fence(1)), op(Release, "a", 3, 4, OK), op(Acquire, "b", 5, 6, Held)}},
	{"refused just after the expiry that the holder was told of", "", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1)), op(Renew, "a", 11, 11.1, Lost), op(Acquire, "b", 11.1, 11.2, Held),
	}},
	{"refused long after the expiry", "order", []Op{op(Acquire, "a", 1, 2, Granted, fence(1)), op(Acquire, "b", 13, 14, Held)}},
	{"refused by the ghost of an acquire without an answer", "", []Op{op(Acquire, "a", 1, 2, Unknown), op(Acquire, "b", 11, 12, Held), op(Acquire, "c", 13, 14, Granted, fence(3))}},
	{"refused by a ghost that is over", "order", []Op{op(Acquire, "a", 1, 2, Unknown), op(Acquire, "b", 15, 16, Held)}},
	{"refused by a copy that is delivered late", "", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1), late(8)), op(Release, "a", 3, 4, OK), op(Acquire, "b", 5, 6, Granted, fence(2)), op(Release, "b", 6, 7, OK),
		op(Acquire, "c", 17, 17.5, Held),
	}},
	{"a ghost is no excuse for two holders", "order", []Op{
		op(Acquire, "x", 1, 2, Unknown), op(Acquire, "a", 3, 4, Granted, fence(2)), op(Acquire, "b", 5, 6, Granted, fence(3)),
	}},
	{"a ghost that is released", "", []Op{op(Acquire, "a", 1, 2, Unknown), op(Release, "a", 3, 4, OK), op(Acquire, "b", 5, 6, Granted, fence(2))}},
	{"an abandoned waiter keeps the lock for its place and its claim", "", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1)), op(Acquire, "b", 3, 4, Held, ticket(1)), op(Release, "a", 5, 6, OK), op(Acquire, "c", 14, 15, Held),
	}},
	{"a force-release", "", []Op{op(Acquire, "a", 1, 2, Granted, fence(1)), op(Force, "", 3, 4, OK), op(Acquire, "b", 5, 6, Granted, fence(2)), op(Renew, "a", 7, 8, Lost)}},
	{"a release without an answer came before the force-release", "", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1)), op(Release, "a", 3, 4, Unknown), op(Force, "", 5, 6, OK), op(Release, "a", 7, 8, OK),
	}},
	{"a renewal that finds its lease over by a clock that is ahead, and a release by one that is behind", "", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1)), op(Renew, "a", 10.8, 10.9, Lost), op(Release, "a", 10.95, 11, OK), op(Release, "a", 14, 15, OK),
	}},
	{"a release long after a renewal that found the lease over", "order", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1)), op(Renew, "a", 10.8, 10.9, Lost), op(Release, "a", 14, 15, OK),
	}},
	{"a release of the place that a late copy of the acquire took, after a force-release", "", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1), waits(), late(7)), op(Force, "", 3, 4, OK), op(Acquire, "b", 5, 6, Granted, fence(2)), op(Release, "a", 8, 9, OK),
	}},
	{"a renewal of what a late copy of the acquire got, beside another holder of a permit", "", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1), of(1, 3), late(7)), op(Force, "", 3, 4, OK), op(Renew, "a", 8, 9, Granted, fence(3)),
		op(Acquire, "b", 7, 10, Granted, fence(2), of(1, 3)),
	}},
	{"a refusal because of the lease of a task, which has a place without a wait", "", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1)), op(Acquire, "t", 3, 4, Held, func(o *Op) { o.Ticket = 1 }), op(Release, "a", 5, 6, OK), op(Acquire, "c", 7, 8, Held),
	}},
	{"a refusal because of an expired lease that nobody knew of, just after its release found it over", "", []Op{
		op(Acquire, "a", 1, 2, Unknown), op(Release, "a", 12, 12.1, Lost), op(Acquire, "b", 12.2, 12.3, Held), op(Acquire, "b", 13, 13.1, Granted, fence(2)),
	}},
	{"a refusal long after that", "order", []Op{op(Acquire, "a", 1, 2, Unknown), op(Release, "a", 12, 12.1, Lost), op(Acquire, "b", 13, 13.1, Held)}},
	{"refusals of a free lock, one after another", "order", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1)), op(Release, "a", 3, 4, OK), op(Acquire, "b", 5, 6, Held), op(Acquire, "c", 7, 8, Held), op(Acquire, "d", 9, 10, Held),
	}},
	{"a release without an answer that is sent before the acquire is answered, and comes later", "", []Op{
		op(Acquire, "b", 0, 1, Granted, fence(1)), op(Acquire, "a", 1, 5, Granted, fence(2)), op(Release, "a", 2, 2, Unknown, late(9)),
		op(Release, "b", 3, 4, OK), op(Acquire, "c", 6, 7, Granted, fence(3)),
	}},
	{"a release without an answer that cannot come later", "order", []Op{
		op(Release, "a", 2, 2, Unknown), op(Acquire, "a", 3, 5, Granted, fence(2)), op(Acquire, "c", 6, 7, Granted, fence(3)),
	}},
	{"a release after a force-release", "order", []Op{op(Acquire, "a", 1, 2, Granted, fence(1)), op(Force, "", 5, 6, OK), op(Release, "a", 7, 8, OK)}},
	{"a force-release of another fence", "order", []Op{op(Acquire, "a", 1, 2, Granted, fence(2)), op(Force, "", 3, 4, OK, fence(1)), op(Acquire, "b", 5, 6, Granted, fence(3))}},
	{"a force-release that finds no fence that is held", "order", []Op{op(Acquire, "a", 1, 2, Granted, fence(2)), op(Force, "", 3, 4, Lost, fence(2))}},
	{"a force-release that finds no fence that is held, after a wait for it", "order", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(2), waits()), op(Force, "", 3, 4, Lost, fence(2)),
	}},
	{"a release without an answer, before a force-release that finds it, and a repeated release", "", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1)), op(Release, "a", 3, 4, Unknown), op(Acquire, "b", 3, 4, Unknown, waits()),
		op(Force, "", 5, 6, Lost, fence(1)), op(Release, "a", 7, 8, OK),
	}},
	{"a force-release that has no effect", "order", []Op{op(Acquire, "a", 1, 2, Granted, fence(1)), op(Force, "", 3, 4, OK), op(Renew, "a", 5, 6, Granted, fence(1))}},
	{"a force-release without an answer ends a later lease", "", []Op{
		op(Force, "", 1, 2, Unknown, late(9)), op(Acquire, "a", 3, 4, Granted, fence(1)), op(Acquire, "b", 5, 6, Granted, fence(2)), op(Renew, "a", 7, 8, Lost),
	}},
	{"fences that fall", "order", []Op{op(Acquire, "a", 1, 2, Granted, fence(5)), op(Release, "a", 3, 4, OK), op(Acquire, "b", 5, 6, Granted, fence(4))}},
	{"a semaphore of two", "", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1), of(1, 2)), op(Acquire, "b", 3, 4, Granted, fence(2), of(1, 2)), op(Acquire, "c", 5, 6, Held, of(1, 2)),
		op(Release, "a", 7, 8, OK), op(Acquire, "c", 9, 10, Granted, fence(3), of(1, 2)),
	}},
	{"a semaphore of two with three", "order", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1), of(1, 2)), op(Acquire, "b", 3, 4, Granted, fence(2), of(1, 2)), op(Acquire, "c", 5, 6, Granted, fence(3), of(1, 2)),
	}},
	{"permits beyond the capacity", "order", []Op{op(Acquire, "a", 1, 2, Granted, fence(1), of(2, 3)), op(Acquire, "b", 3, 4, Granted, fence(2), of(2, 3))}},
	{"the smaller capacity counts", "order", []Op{op(Acquire, "a", 1, 2, Granted, fence(1), of(1, 1)), op(Acquire, "b", 3, 4, Granted, fence(2), of(1, 2))}},
	{"one of two expired leases is renewed in time", "", []Op{
		op(Acquire, "a", 1, 2, Granted, fence(1), of(1, 2)), op(Acquire, "b", 1, 2, Granted, fence(2), of(1, 2)),
		op(Acquire, "c", 11.1, 11.2, Granted, fence(3), of(1, 2)), op(Renew, "b", 11.1, 11.2, Granted, fence(2)),
	}},
}

func TestOrder(t *testing.T) { checkCases(t, orderCases) }

func checkCases(t *testing.T, cases []historyCase) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := Check(&History{Ops: c.ops}, exact()).Err()
			switch {
			case c.refused == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused+": lock l")):
				t.Errorf("the check %q found nothing: %v", c.refused, err)
			}
		})
	}
}

// A violation that comes long after the beginning is found, and in a span that begins where the one before has ended.
func TestLongHistory(t *testing.T) {
	var ops []Op
	at := 1.0
	for n := range int64(5000) {
		lease := fmt.Sprint(n)
		ops = append(ops, op(Acquire, lease, at, at+2, Granted, fence(n+1)), op(Acquire, "other"+lease, at+2.5, at+2.6, Held), op(Release, lease, at+3, at+4, OK))
		at += 5
	}
	if err := Check(&History{Ops: ops}, exact()).Err(); err != nil {
		t.Errorf("refused: %v", err)
	}
	for _, n := range []int64{1, 1999, 2000, 2001, 4999} { // around the end of the first span
		bad := append(ops[:3*n:3*n], op(Acquire, "thief", 5*float64(n)-1.9, 5*float64(n)-1.8, Granted, fence(n*1000000)))
		bad = append(bad, ops[3*n:]...)
		bad[3*n-1].Began, bad[3*n-1].Ended = bad[3*n-1].Began+2*second, bad[3*n-1].Ended+2*second // the release before comes after the theft
		if err := Check(&History{Ops: bad}, exact()).Err(); err == nil {
			t.Errorf("a theft after %d grants was not found", n)
		}
	}
}

// A search that takes too long is undecided, which is an error.
func TestUndecided(t *testing.T) {
	var ops []Op
	for n := range int64(60) {
		ops = append(ops, op(Acquire, fmt.Sprint(n), 1, 100, Granted, fence(1000-n), of(1, 60)), op(Renew, fmt.Sprint(n), 1, 100, Unknown), op(Release, fmt.Sprint(n), 1, 100, Unknown))
	}
	ops = append(ops, op(Release, "nobody", 1, 100, OK))
	cfg := exact()
	cfg.Timeout = 10 * time.Millisecond
	r := Check(&History{Ops: ops}, cfg)
	if len(r.Undecided) != 1 || r.Err() == nil {
		t.Errorf("undecided %v, error %v", r.Undecided, r.Err())
	}
}
