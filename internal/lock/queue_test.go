package lock

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// handOffs are the writes that free the lock of a and grant it to the next waiter.
var handOffs = map[string]func(*kit, LeaseStatus) error{
	"release": func(k *kit, _ LeaseStatus) error { return k.release("a") },
	"expiry": func(k *kit, l LeaseStatus) error {
		k.pass(ttl + skew)
		_, err := k.fire("a", l.Lease.Fence)
		return err
	},
	"force-release": func(k *kit, _ LeaseStatus) error {
		_, err := k.ForceRelease(k.t.Context(), ForceReleaseRequest{Lock: lockName, Reason: "r"})
		return err
	},
	"the end of its execution": func(k *kit, _ LeaseStatus) error {
		return k.EndPlace(k.t.Context(), Binding{Lock: lockName, Key: KeyOf(lockName, "a")}, "x")
	},
	"the end of its task": func(k *kit, l LeaseStatus) error {
		return k.EndTask(k.t.Context(), GrantRef{Lock: lockName, Key: KeyOf(lockName, "a"), Fence: l.Lease.Fence}, Lease{Terms: Terms{Tokens: Tokens{}}}, "gone")
	},
	"a newcomer": func(k *kit, _ LeaseStatus) error {
		k.pass(ttl + skew)
		if _, err := k.acquire("newcomer"); !errors.Is(err, ErrLockHeld) {
			return fmt.Errorf("newcomer: %w", err)
		}
		return nil
	},
	"settling": func(k *kit, _ LeaseStatus) error { k.pass(ttl + skew); return k.Settle(k.t.Context(), lockName) },
}

func TestRule9HandOff(t *testing.T) {
	for name, end := range handOffs {
		k := newKit(t)
		l := k.must("a", bind(name))
		k.waits("away", placeFor(30*time.Second))
		k.waits("b")
		k.waits("c")
		if name != "expiry" && name != "a newcomer" && name != "settling" {
			k.pass(30 * time.Second)
		}
		if err := end(k, l); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		k.holds([]string{"b"}, []string{"c"})
		if h := k.holder("b"); !h.Unclaimed || h.ExpiresAt != k.time.Add(ClaimTime).UnixMilli() || h.Fence <= l.Lease.Fence {
			t.Errorf("%s: granted %+v", name, h)
		}
	}
}

// bind binds the lease to an execution, for the hand-off that needs it.
func bind(handOff string) func(*AcquireRequest) {
	if handOff == "the end of its execution" {
		return boundTo("x")
	}
	return func(*AcquireRequest) {}
}

// Waiters for few permits do not overtake one for many.
func TestRule9NobodyOvertakes(t *testing.T) {
	k := newKit(t)
	k.must("a", of(3, 2))
	k.must("b", of(3, 1))
	k.waits("big", of(3, 3))
	k.waits("small", of(3, 1))
	k.want(k.release("b"), nil)
	k.holds([]string{"a"}, []string{"big", "small"})
	_, err := k.acquire("newcomer", of(3, 1))
	k.want(err, ErrLockHeld)
	if p := k.waits("another", of(3, 1)); p != 3 {
		t.Errorf("place %d", p)
	}
	k.want(k.Settle(t.Context(), lockName), nil)
	k.holds([]string{"a"}, []string{"big", "small", "another"})
	k.want(k.release("a"), nil)
	k.holds([]string{"big"}, []string{"small", "another"})
	k.want(k.release("big"), nil)
	k.holds([]string{"small", "another"}, nil)
}

// Any waiter may leave, also one behind those that a hand-off reads.
func TestRule9WaitersLeave(t *testing.T) {
	k := newKit(t)
	k.must("a")
	const n = QueueHead + 8
	for i := range n {
		k.waits(fmt.Sprint(i))
	}
	for i := n - 1; i >= 0; i-- {
		k.want(k.release(fmt.Sprint(i)), nil)
		if r := k.record(); r.Waiting != int64(i) || len(r.Queue) != i || r.waits(KeyOf(lockName, fmt.Sprint(i))) >= 0 {
			t.Fatalf("%d left, %d wait", n-i, r.Waiting)
		}
	}
	k.want(k.release("0"), nil) // repeated
	k.holds([]string{"a"}, nil)
}

func TestRule10Enqueue(t *testing.T) {
	k := newKit(t)
	k.must("a", lasting(time.Hour))
	k.waits("b")
	k.waits("c")
	k.pass(time.Minute)
	rev := k.record().Rev
	if p := k.waits("c"); p != 2 || k.record().Rev != rev || k.record().Waiting != 2 {
		t.Errorf("place %d, record %+v", p, k.record())
	}
	// More than half of the time is left: nothing is written. Less: the place is kept from now.
	k.pass(29 * time.Minute)
	for _, writes := range []bool{false, true} {
		rev = k.record().Rev
		k.waits("c")
		if got := k.record().Rev > rev; got != writes {
			t.Errorf("%v after the enqueue: wrote %v", k.time.Sub(time.Unix(1_800_000_000, 0)), got)
		}
		k.pass(ms)
	}
	if w := k.record().Queue[1]; w.Until != k.time.Add(time.Hour-ms).UnixMilli() || w.Ticket != 2 {
		t.Errorf("waiter %+v", w)
	}
	// Without a wait, a place is found and told.
	_, err := k.acquire("c")
	if held, ok := errors.AsType[*HeldError](err); !ok || held.Position != 2 || held.Waiting != 2 {
		t.Errorf("%v", err)
	}
}

func TestRule10QueueFull(t *testing.T) {
	k := newKit(t)
	k.must("a")
	for i := range MaxQueue {
		k.waits(fmt.Sprint(i))
	}
	_, err := k.acquire("late", placeFor(time.Hour))
	k.want(err, ErrQueueFull)
	_, err = k.acquire("late")
	k.want(err, ErrLockHeld)
	if p := k.waits(fmt.Sprint(MaxQueue - 1)); p != MaxQueue {
		t.Errorf("the last one has place %d", p)
	}
	k.want(k.release("7"), nil)
	if p := k.waits("late"); p != MaxQueue {
		t.Errorf("place %d", p)
	}
}

func TestRule10Claims(t *testing.T) {
	for name, claim := range map[string]func(*kit) error{
		"poll":        func(k *kit) error { _, err := k.acquire("b", placeFor(time.Hour)); return err },
		"renewal":     func(k *kit) error { _, err := k.renew("b", ttl); return err },
		"a shorter":   func(k *kit) error { _, err := k.renew("b", time.Second); return err },
		"without TTL": func(k *kit) error { _, err := k.renew("b", 0); return err },
		"a task":      func(k *kit) error { _, err := k.acquire("b", withToken("t")); return err },
	} {
		for _, execution := range []string{"", "x"} {
			k := newKit(t)
			k.must("a")
			k.waits("b", boundTo(execution))
			k.want(k.release("a"), nil)
			k.pass(ClaimTime - ms)
			k.want(claim(k), nil)
			want := k.time.Add(ttl).UnixMilli()
			if execution != "" {
				want = k.time.Add(ExecutionLife).UnixMilli()
			}
			h := k.holder("b")
			if h.Unclaimed || h.ExpiresAt != want || h.RenewedAt != k.time.UnixMilli() {
				t.Errorf("claimed by %s, execution %q: %+v", name, execution, h)
			}
			if execution != "" && h.CheckAt != k.time.Add(ttl).UnixMilli() {
				t.Errorf("claimed by %s: check at %d", name, h.CheckAt)
			}
		}
	}
	// Nobody came: it is over, and a claim that comes late is lost.
	k := newKit(t)
	k.must("a")
	k.waits("b", boundTo("x"))
	k.want(k.release("a"), nil)
	h := k.holder("b")
	k.pass(ClaimTime)
	_, err := k.renew("b", ttl)
	k.want(err, ErrLeaseLost)
	k.pass(skew)
	if again, err := k.fire("b", h.Fence); err != nil || !again.IsZero() {
		t.Errorf("%v, %v", again, err)
	}
	k.holds(nil, nil)
	// A grant for less than the time to claim it lasts that.
	k = newKit(t)
	k.must("a")
	k.waits("b", lasting(time.Second))
	k.want(k.release("a"), nil)
	if h := k.holder("b"); h.ExpiresAt != k.time.Add(time.Second).UnixMilli() {
		t.Errorf("granted %+v", h)
	}
}

// If the queue does not belong to the record, both are read again. A queue that was changed by hand counts as it is.
func TestQueuesThatMoved(t *testing.T) {
	k := newKit(t)
	k.must("a")
	k.waits("b")
	k.waits("c")
	// One waiter was deleted by hand, another added.
	r := k.record()
	r.Queue = r.Queue[1:]
	r.Queue = append(slices.Clone(r.Queue), Waiter{Ticket: 9, Key: "d", Terms: Terms{Owner: "d", Permits: 1, Capacity: 1, TTL: 1000}, Until: k.time.Add(time.Hour).UnixMilli()})
	k.store.records[lockName] = r
	k.want(k.release("a"), nil)
	k.holds([]string{"c"}, []string{"d"})
	if r := k.record(); r.NextTicket != 9 {
		t.Errorf("next ticket %d", r.NextTicket)
	}
}

// The queue is read only if there is one and the operation needs it.
func TestQueuesAreReadWhereTheyMatter(t *testing.T) {
	k := newKit(t)
	k.must("a")
	if _, err := k.acquire("b"); !errors.Is(err, ErrLockHeld) || len(k.store.limits) != 0 {
		t.Errorf("%v, asked for %v", err, k.store.limits)
	}
	k.waits("b")
	k.store.limits = nil
	if _, err := k.Renew(t.Context(), RenewRequest{Lock: lockName, Secret: "a", TTL: ttl}); err != nil || len(k.store.limits) != 0 {
		t.Errorf("%v, asked for %v", err, k.store.limits)
	}
}

// If the queue is of a later record, the record is read again. A queue that differs from the same record twice counts as it is.
func TestQueueOfALaterRecord(t *testing.T) {
	for what, mend := range map[string]func(list []Waiter) []Waiter{
		"one waiter too few":                  func(list []Waiter) []Waiter { return list[:1] },
		"one whose ticket is not yet known":   func(list []Waiter) []Waiter { list[1].Ticket += 10; return list },
		"one more, which is not known either": func(list []Waiter) []Waiter { return append(list, Waiter{Ticket: 99, Key: "x", Until: 1}) },
	} {
		k := newKit(t)
		k.must("a")
		k.waits("b")
		k.waits("c")
		asked := 0
		k.store.queue = func(list []Waiter, _ int) []Waiter {
			if asked++; asked == 1 {
				return mend(slices.Clone(list))
			}
			return list
		}
		k.store.reads = 0
		k.want(k.release("a"), nil)
		k.holds([]string{"b"}, []string{"c"})
		if k.store.reads != 1 || asked < 2 {
			t.Errorf("%s: %d reads of the record, %d of the queue", what, k.store.reads, asked)
		}
	}
}

// The same for a record of revision 1, as after a purge that left waiters behind.
func TestQueueOfAFirstRevision(t *testing.T) {
	k := newKit(t)
	k.store.records = map[string]Record{lockName: {
		Rev: 1, Capacity: 1, Waiting: 1, NextTicket: 1, Queue: []Waiter{{Ticket: 1, Key: "w", Terms: Terms{Permits: 1, Capacity: 1, TTL: 1000}, Until: k.time.Add(time.Hour).UnixMilli()}},
	}}
	asked := 0
	k.store.queue = func(list []Waiter, _ int) []Waiter {
		if asked++; asked == 1 {
			return nil
		}
		return list
	}
	_, err := k.acquire("a")
	k.want(err, ErrLockHeld)
	if _, held := k.record().Holders["w"]; !held {
		t.Errorf("the waiter was passed over: %+v", k.record())
	}
}

// A free lock whose places are all abandoned is granted to a new request.
func TestOnlyDeadWaiters(t *testing.T) {
	k := newKit(t)
	k.store.records = map[string]Record{lockName: {
		Rev: 5, Capacity: 1, Waiting: 1, NextTicket: 1, Queue: []Waiter{{Ticket: 1, Key: "dead", Terms: Terms{Permits: 1, Capacity: 1, TTL: 1000}, Until: 1}},
	}}
	k.must("a")
	k.holds([]string{"a"}, nil)
}

// A record is settled if the head of its queue was read and does not fit; without the head it may be unsettled.
func TestUnsettled(t *testing.T) {
	holders := map[LeaseKey]Lease{"a": {Terms: Terms{Permits: 1, Capacity: 3}}}
	head := func(permits int64) []Waiter {
		return []Waiter{{Ticket: 1, Terms: Terms{Permits: permits, Capacity: 3}}}
	}
	for _, test := range []struct {
		record Record
		want   bool
	}{
		{Record{Capacity: 3, Holders: holders}, false},
		{Record{Capacity: 3, Holders: holders, Waiting: 1}, true},
		{Record{Capacity: 1, Holders: holders, Waiting: 1}, false},
		{Record{Capacity: 3, Holders: holders, Waiting: 1, Queue: head(2)}, true},
		{Record{Capacity: 3, Holders: holders, Waiting: 1, Queue: head(3)}, false},
	} {
		if got := Unsettled(test.record); got != test.want {
			t.Errorf("%+v: %v", test.record, got)
		}
	}
}

// A request reads the head of the queue only; one that waits or has a token also looks for its place behind that.
func TestHowMuchOfTheQueueIsRead(t *testing.T) {
	f := &faulty{Memory: &Memory{}}
	c := newCoordinator(t, f)
	for i := range 50 {
		r := sized(i, 0, time.Hour)
		r.Permits = 100
		_, _ = c.Acquire(t.Context(), r)
	}
	for _, test := range []struct {
		token int
		wait  time.Duration
		want  int
	}{{0, 0, 0}, {0, time.Hour, 1}, {100, 0, 1}, {100, time.Hour, 1}} {
		f.reads, f.places = nil, 0
		if _, err := c.Acquire(t.Context(), sized(99, test.token, test.wait)); !errors.Is(err, ErrLockHeld) {
			t.Fatal(err)
		}
		if len(f.reads) != 1 || f.reads[0] != QueueHead || f.places != test.want {
			t.Errorf("%+v: read %v and %d places", test, f.reads, f.places)
		}
	}
}

// A row is kept for a retention after the places of its waiters, also of those that a write does not read, and is purged after that.
func TestRowsOfWaitersGo(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m := &Memory{}
	c, err := New(Config{Store: m, Clock: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	day := int64(DefaultRetention / time.Second)
	want := func(step string, last time.Time) {
		t.Helper()
		r, _ := m.Get(t.Context(), "s")
		if r.After.TTL != last.Unix()+day {
			t.Errorf("%s: native TTL is %d s after now, want %d", step, r.After.TTL-now.Unix(), last.Unix()+day-now.Unix())
		}
	}
	held := AcquireRequest{Lock: "s", Secret: "held", TTL: time.Minute, Capacity: 1, Permits: 1}
	if _, err := c.Acquire(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	want("held", now.Add(time.Minute))
	waits := held
	waits.Secret, waits.Wait = "waits", time.Hour
	if _, err := c.Acquire(t.Context(), waits); !errors.Is(err, ErrLockHeld) {
		t.Fatal(err)
	}
	want("one waits", now.Add(time.Hour))
	for i := range QueueHead + 1 {
		waits.Secret, waits.Wait = fmt.Sprint("also", i), time.Minute
		if i == QueueHead { // the last is not seen by those who read the head
			waits.Wait = 2 * time.Hour
		}
		if _, err := c.Acquire(t.Context(), waits); !errors.Is(err, ErrLockHeld) {
			t.Fatal(err)
		}
	}
	last := now.Add(2 * time.Hour)
	want("many wait", last)
	now = now.Add(10 * time.Second)
	if _, err := c.Renew(t.Context(), RenewRequest{Lock: "s", Secret: "held"}); err != nil {
		t.Fatal(err)
	}
	want("renewed, which sees no waiter", last)
	if _, err := c.Release(t.Context(), ReleaseRequest{Lock: "s", Secret: "held"}); err != nil {
		t.Fatal(err)
	}
	want("released, which sees the head", last)
	if _, err := c.Renew(t.Context(), RenewRequest{Lock: "s", Secret: "waits", TTL: 24 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	want("a longer lease", now.Add(24*time.Hour))
	if n := m.Purge(now.Add(48*time.Hour + time.Second - 1)); n != 0 {
		t.Error("purged too early")
	}
	if n := m.Purge(now.Add(48*time.Hour + time.Second)); n != 1 {
		t.Error("the row stays")
	}
}

// A queue of abandoned places does not refuse requests for ever, however long it is: a request that does not wait removes those it reads.
func TestADeadQueueIsClearedAway(t *testing.T) {
	for _, n := range []int{QueueHead, QueueHead + 1, 3*QueueHead + 1, MaxQueue} {
		k := newKit(t)
		r := Record{Rev: 1, Fence: 1, Capacity: 1, Waiting: int64(n), NextTicket: int64(n)}
		for i := range n {
			r.Queue = append(r.Queue, Waiter{Ticket: int64(i + 1), Key: LeaseKey(fmt.Sprint(i)), Terms: Terms{Permits: 1, Capacity: 1}, Until: 1})
		}
		k.store.records = map[string]Record{lockName: r}
		if _, err := k.acquire("a"); err != nil {
			k.want(err, ErrLockHeld)
			_, err = k.acquire("a")
			k.want(err, nil)
		}
		k.holds([]string{"a"}, nil)
	}
	// Under a holder that leaves no room, nothing is written for it.
	k := newKit(t)
	k.must("a", lasting(time.Hour))
	for i := range QueueHead + 1 {
		k.waits(fmt.Sprint(i), placeFor(time.Second))
	}
	k.pass(time.Minute)
	rev := k.record().Rev
	_, err := k.acquire("b")
	k.want(err, ErrLockHeld)
	if k.record().Rev != rev {
		t.Error("a refused caller wrote")
	}
}
