package lock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// Quick tests of every rule of the package's documentation, one each, through a coordinator on the reference store. The
// explorer walks the same rules over every interleaving; these say which one broke, in milliseconds.

// kit is a coordinator on a store of its own, with a clock that only the test moves.
type kit struct {
	*Coordinator
	t     *testing.T
	store *faultyStore
	time  time.Time
}

// faultyStore is a reference store whose replies can be lost, and can prove a wrong clock.
type faultyStore struct {
	Memory
	applied []Command
	reads   int
	limits  []int                                   // of the queue, as it was asked for
	offset  time.Duration                           // that replies prove
	before  func(c Command) error                   // an error: the command does not reach the record
	after   func(c Command) error                   // an error: it did, and its reply is lost
	unbound map[string][]Binding                    // what was forgotten
	list    func(q ListQuery) (Page, error)         // nil: the reference store's
	queue   func(list []Waiter, limit int) []Waiter // nil: what is stored
}

func (s *faultyStore) Get(ctx context.Context, name string) (Reply, error) {
	s.reads++
	reply, err := s.Memory.Get(ctx, name)
	reply.Offset = s.offset
	return reply, err
}

func (s *faultyStore) Apply(ctx context.Context, name string, c Command) (Reply, error) {
	s.applied = append(s.applied, c)
	if s.before != nil {
		if err := s.before(c); err != nil {
			return Reply{}, err
		}
	}
	reply, err := s.Memory.Apply(ctx, name, c)
	if failed, ok := errors.AsType[*GuardError](err); ok {
		failed.Offset = s.offset
	}
	reply.Offset = s.offset
	if err == nil && s.after != nil {
		if err := s.after(c); err != nil {
			return Reply{}, err
		}
	}
	return reply, err
}

func (s *faultyStore) Waiters(ctx context.Context, name string, limit int) ([]Waiter, error) {
	s.limits = append(s.limits, limit)
	list, err := s.Memory.Waiters(ctx, name, limit)
	if s.queue != nil {
		list = s.queue(list, limit)
	}
	return list, err
}

func (s *faultyStore) Unbind(_ context.Context, execution string, list []Binding) error {
	s.unbound[execution] = append(s.unbound[execution], list...)
	return nil
}

func (s *faultyStore) List(ctx context.Context, q ListQuery) (Page, error) {
	if s.list != nil {
		return s.list(q)
	}
	return s.Memory.List(ctx, q)
}

func newKit(t *testing.T) *kit {
	k := &kit{t: t, store: &faultyStore{unbound: map[string][]Binding{}}, time: time.Unix(1_800_000_000, 0)}
	c, err := New(Config{Store: k.store, Clock: func() time.Time { return k.time }})
	if err != nil {
		t.Fatal(err)
	}
	k.Coordinator = c
	return k
}

const (
	lockName = "a"
	ttl      = time.Minute
	skew     = DefaultSkew
	ms       = time.Millisecond
)

func (k *kit) pass(d time.Duration) { k.time = k.time.Add(d) }

func (k *kit) acquire(secret string, change ...func(*AcquireRequest)) (LeaseStatus, error) {
	req := AcquireRequest{Lock: lockName, Secret: secret, Owner: secret, Principal: "p", TTL: ttl, Capacity: 1, Permits: 1}
	for _, c := range change {
		c(&req)
	}
	return k.Acquire(k.t.Context(), req)
}

func (k *kit) must(secret string, change ...func(*AcquireRequest)) LeaseStatus {
	k.t.Helper()
	l, err := k.acquire(secret, change...)
	if err != nil {
		k.t.Fatalf("acquire of %s: %v", secret, err)
	}
	return l
}

func (k *kit) waits(secret string, change ...func(*AcquireRequest)) int64 {
	k.t.Helper()
	_, err := k.acquire(secret, append([]func(*AcquireRequest){func(r *AcquireRequest) { r.Wait = time.Hour }}, change...)...)
	if err == nil {
		return 0
	}
	held, ok := errors.AsType[*HeldError](err)
	if !ok {
		k.t.Fatalf("acquire of %s: %v", secret, err)
	}
	return held.Position
}

func (k *kit) release(secret string) error {
	_, err := k.Release(k.t.Context(), ReleaseRequest{Lock: lockName, Secret: secret, Principal: "p"})
	return err
}

func (k *kit) renew(secret string, ttl time.Duration) (LeaseStatus, error) {
	return k.Renew(k.t.Context(), RenewRequest{Lock: lockName, Secret: secret, TTL: ttl})
}

func (k *kit) fire(secret string, fence int64) (time.Time, error) {
	return k.Expire(k.t.Context(), GrantRef{Lock: lockName, Key: KeyOf(lockName, secret), Fence: fence})
}

func (k *kit) record() Record {
	k.t.Helper()
	return k.store.records[lockName]
}

func (k *kit) holder(secret string) Lease { return k.record().Holders[KeyOf(lockName, secret)] }

// holds checks who holds and who waits, in order.
func (k *kit) holds(holders, waiters []string) {
	k.t.Helper()
	r := k.record()
	var got, queue []string
	for _, key := range byFence(r.Holders) {
		got = append(got, r.Holders[key].Owner)
	}
	for _, w := range r.Queue {
		queue = append(queue, w.Terms.Owner)
	}
	if !slices.Equal(got, holders) || !slices.Equal(queue, waiters) || r.Waiting != int64(len(waiters)) {
		k.t.Errorf("%v hold and %v wait (%d), want %v and %v", got, queue, r.Waiting, holders, waiters)
	}
}

func (k *kit) want(err, want error) {
	k.t.Helper()
	if !errors.Is(err, want) || (want == nil) != (err == nil) {
		k.t.Errorf("error %v, want %v", err, want)
	}
}

func of(capacity, permits int64) func(*AcquireRequest) {
	return func(r *AcquireRequest) { r.Capacity, r.Permits = capacity, permits }
}

func boundTo(execution string) func(*AcquireRequest) {
	return func(r *AcquireRequest) { r.Execution = execution }
}

func lasting(d time.Duration) func(*AcquireRequest) { return func(r *AcquireRequest) { r.TTL = d } }

func placeFor(d time.Duration) func(*AcquireRequest) { return func(r *AcquireRequest) { r.Wait = d } }

func withToken(token string) func(*AcquireRequest) {
	return func(r *AcquireRequest) { r.Token, r.Wait = token, time.Hour }
}

func TestRule1ExpiredIsOver(t *testing.T) {
	for _, c := range []struct {
		after time.Duration
		over  bool
	}{{ttl - ms, false}, {ttl, true}, {ttl + skew, true}} {
		ops := map[string]func(*kit) error{
			"acquire": func(k *kit) error { _, err := k.acquire("a"); return err },
			"renew":   func(k *kit) error { _, err := k.renew("a", ttl); return err },
			"release": func(k *kit) error { return k.release("a") },
			// the same of a semaphore with another holder, which leads to swaps
			"shared acquire": func(k *kit) error { _, err := k.acquire("a", of(2, 1)); return err },
			"shared renew":   func(k *kit) error { _, err := k.renew("a", ttl); return err },
			"shared release": func(k *kit) error { return k.release("a") },
		}
		for name, op := range ops {
			k := newKit(t)
			capacity := int64(1)
			if name[:2] == "sh" {
				capacity = 2
			}
			k.must("a", of(capacity, 1))
			if capacity == 2 {
				k.must("b", of(2, 1), lasting(time.Hour))
			}
			k.pass(c.after)
			if err := op(k); errors.Is(err, ErrLeaseLost) != c.over || !c.over && err != nil {
				t.Errorf("%s %v after the grant: %v", name, c.after, err)
			}
		}
	}
}

func TestRule2RepeatedAcquire(t *testing.T) {
	k := newKit(t)
	first := k.must("a")
	k.pass(20 * time.Second)
	again := k.must("a")
	if again.Lease != first.Lease || again.Remaining != 40*time.Second || k.record().Rev != 1 {
		t.Errorf("first %+v, again %+v", first, again)
	}
	k.pass(40*time.Second - ms)
	if again = k.must("a"); again.Remaining != ms {
		t.Errorf("remaining %v", again.Remaining)
	}
}

func TestRule3RepeatedRelease(t *testing.T) {
	k := newKit(t)
	l := k.must("a")
	k.want(k.release("b"), ErrLeaseLost)
	k.pass(time.Second)
	at := k.time.UnixMilli()
	k.want(k.release("a"), nil)
	rev := k.record().Rev
	k.pass(time.Second)
	got, err := k.Release(t.Context(), ReleaseRequest{Lock: lockName, Secret: "a"})
	if err != nil || got != (Released{Lock: lockName, Fence: l.Lease.Fence, At: at}) || k.record().Rev != rev {
		t.Errorf("repeated: %+v, %v", got, err)
	}
	k.must("b")
	k.want(k.release("a"), nil) // remembered still
	k.want(k.release("b"), nil)
	k.want(k.release("a"), ErrLeaseLost) // one deep
	// How a lease ended otherwise is not a release.
	k.must("c")
	if _, err := k.ForceRelease(t.Context(), ForceReleaseRequest{Lock: lockName, Reason: "r"}); err != nil {
		t.Fatal(err)
	}
	k.want(k.release("c"), ErrLeaseLost)
}

func TestRule4Renewals(t *testing.T) {
	k := newKit(t)
	k.must("a", of(3, 1), lasting(10*ttl))
	k.must("b", of(3, 1))
	k.must("gone", of(3, 1), lasting(10*time.Second))
	k.pass(30 * time.Second)
	l, err := k.renew("b", ttl)
	if err != nil || l.Remaining != ttl || l.Lease.RenewedAt != k.time.UnixMilli() || l.Lease.TTL != ttl.Milliseconds() {
		t.Errorf("renewed %+v, %v", l, err)
	}
	k.holds([]string{"a", "b", "gone"}, nil) // who is over stays, for a write that is heard of
	if r := k.record(); r.Cause != CauseRenew || r.FreeAt != r.Holders[KeyOf(lockName, "a")].ExpiresAt {
		t.Errorf("record %+v", r)
	}
	rev := k.record().Rev
	for _, shorter := range []time.Duration{ttl / 2, ttl} {
		if again, err := k.renew("b", shorter); err != nil || again.Lease != l.Lease || k.record().Rev != rev {
			t.Errorf("a renewal for %v: %+v, %v", shorter, again, err)
		}
	}
	metadata := `{"a":1}`
	for _, want := range []bool{true, false} { // a repeat writes nothing
		rev = k.record().Rev
		again, err := k.Renew(t.Context(), RenewRequest{Lock: lockName, Secret: "b", TTL: ttl / 2, Metadata: &metadata})
		if err != nil || again.Lease.Metadata != metadata || again.Lease.ExpiresAt != l.Lease.ExpiresAt || again.Lease.TTL != ttl.Milliseconds() || k.record().Rev > rev != want {
			t.Errorf("metadata: %+v, %v", again, err)
		}
	}
	// The longest lease decides when the lock is free: one write, blind.
	k.store.applied = nil
	if l, err = k.renew("a", 20*ttl); err != nil || l.Remaining != 20*ttl || len(k.store.applied) != 1 || k.record().FreeAt != l.Lease.ExpiresAt {
		t.Errorf("%+v, %v, %d writes", l, err, len(k.store.applied))
	}
}

func TestRule4RenewalWithoutTTL(t *testing.T) {
	for _, own := range []time.Duration{DefaultTTL, 5 * time.Minute} {
		k := newKit(t)
		k.must("a", lasting(own))
		k.pass(time.Second)
		if l, err := k.renew("a", 0); err != nil || l.Remaining != own || l.Lease.TTL != own.Milliseconds() {
			t.Errorf("TTL %v: %+v, %v", own, l, err)
		}
	}
}

func TestRule5WrongClock(t *testing.T) {
	for _, c := range []struct {
		offset time.Duration
		wrong  bool
	}{{MaxClockError, false}, {MaxClockError + ms, true}, {-MaxClockError, false}, {-MaxClockError - ms, true}} {
		k := newKit(t)
		k.store.offset = c.offset
		_, err := k.acquire("a")
		if errors.Is(err, ErrUnavailable) != c.wrong || !c.wrong && err != nil {
			t.Errorf("offset %v: %v", c.offset, err)
		}
		if c.wrong != (len(k.record().Holders) == 0) {
			t.Errorf("offset %v: the grant was not undone: %+v", c.offset, k.record())
		}
		if !c.wrong {
			continue
		}
		// It looks before it writes, until the clocks agree; and neither releases nor status are refused.
		writes := len(k.store.applied)
		if _, err = k.acquire("b"); !errors.Is(err, ErrUnavailable) || len(k.store.applied) != writes {
			t.Errorf("offset %v: %v after %d writes", c.offset, err, len(k.store.applied)-writes)
		}
		if _, err = k.renew("b", ttl); !errors.Is(err, ErrUnavailable) || len(k.store.applied) != writes {
			t.Errorf("offset %v: %v after %d writes", c.offset, err, len(k.store.applied)-writes)
		}
		k.store.offset = 0
		k.must("b")
		k.store.offset = c.offset
		if _, err = k.renew("b", 2*ttl); !errors.Is(err, ErrUnavailable) {
			t.Errorf("offset %v: renewal %v", c.offset, err)
		}
	}
	// A decision is not made on a reply that proves a wrong clock.
	k := newKit(t)
	l := k.must("a", lasting(time.Hour))
	k.pass(2 * time.Hour)
	k.store.offset = 2 * time.Hour
	rev := k.record().Rev
	if _, err := k.fire("a", l.Lease.Fence); !errors.Is(err, ErrUnavailable) || k.record().Rev != rev {
		t.Errorf("a timer under a wrong clock: %v", err)
	}
	// A refusal of the store's that is due to the clock is remembered.
	k = newKit(t)
	k.store.before = func(Command) error { return &ClockError{Offset: time.Hour} }
	_, err := k.acquire("a")
	k.want(err, ErrUnavailable)
	k.store.before, k.store.offset = nil, time.Hour
	writes := len(k.store.applied)
	if _, err = k.acquire("a"); !errors.Is(err, ErrUnavailable) || len(k.store.applied) != writes {
		t.Errorf("%v", err)
	}
}

func TestRule5Undo(t *testing.T) {
	const year = 365 * 24 * time.Hour
	k := newKit(t)
	k.must("before", of(2, 1))
	k.want(k.release("before"), nil)
	fence := k.record().Fence
	k.pass(time.Second)
	truth := k.time
	k.pass(year)
	k.store.offset = year
	_, err := k.acquire("a", of(2, 1))
	k.want(err, ErrUnavailable)
	r := k.record()
	if len(r.Holders) != 0 || r.Fence != fence || r.FreeAt != 0 || r.Capacity != 2 {
		t.Errorf("after the undo: %+v", r)
	}
	if r.Retired.Key != KeyOf(lockName, "a") || r.Retired.At != truth.UnixMilli() || r.Retired.Cause != CauseUndo || r.TTL > truth.Add(DefaultRetention).Unix()+1 {
		t.Errorf("after the undo: %+v", r)
	}
	k.time, k.store.offset = truth, 0
	if l := k.must("b", of(2, 1)); l.Lease.Fence != truth.UnixMicro() {
		t.Errorf("the next token is %d", l.Lease.Fence)
	}
	_, err = k.acquire("a", of(2, 1))
	k.want(err, ErrLeaseLost) // its secret is spent

	// Those that were displaced, and live by the store's clock, are back; those that are over are not.
	u, now := Rules{}.withDefaults(), truth
	before := Record{Rev: 7, Fence: 5, Capacity: 2, Holders: map[LeaseKey]Lease{
		"live": {Fence: 4, ExpiresAt: now.UnixMilli() - skew.Milliseconds() + 1}, "over": {Fence: 5, ExpiresAt: now.UnixMilli() - skew.Milliseconds()},
	}}
	after := Record{Rev: 8, Fence: 9, Capacity: 1, Holders: map[LeaseKey]Lease{"a": {Fence: 9}}}
	c := u.undo(now, "a", before, after)
	next := c.Next(after)
	if _, back := next.Holders["live"]; !c.Allows(after) || len(next.Holders) != 1 || !back || next.Fence != 5 || next.Retired.Fence != 9 {
		t.Errorf("undone: %+v", next)
	}
	for _, other := range []Record{{Rev: 9, Fence: 9}, {Rev: 8, Fence: 10}} { // somebody wrote since
		if c.Allows(other) {
			t.Errorf("allowed on %+v", other)
		}
	}
	// What was claimed, not granted, is as before, and its secret is not spent.
	before.Holders["a"] = Lease{Fence: 5, Unclaimed: true, ExpiresAt: now.UnixMilli() + 1}
	if next = u.undo(now, "a", before, after).Next(after); !next.Holders["a"].Unclaimed || next.Retired.Key == "a" {
		t.Errorf("undone: %+v", next)
	}
	// A lock that was never seen.
	if next = u.undo(now, "a", Record{}, after).Next(after); next.Fence != 0 || next.Capacity != 1 || len(next.Holders) != 0 {
		t.Errorf("undone: %+v", next)
	}
}

// A lease that a coordinator with a wrong clock granted is told by no other: it may be taken back at any time, and its fencing token
// with it.
func TestRule5DoubtfulLeasesAreNotTold(t *testing.T) {
	for _, c := range []struct {
		ahead time.Duration
		want  error
	}{
		{skew, nil}, {skew + ms, ErrUnavailable}, {time.Minute, ErrUnavailable},
		{MaxFenceLead, ErrUnavailable}, {MaxFenceLead + ms, ErrMisconfigured}, {365 * 24 * time.Hour, ErrMisconfigured},
	} {
		k := newKit(t)
		truth := k.time
		k.pass(c.ahead)
		k.must("a") // and the reply was lost
		k.time = truth
		_, err := k.acquire("a")
		k.want(err, c.want)
		_, err = k.renew("a", ttl)
		k.want(err, c.want)
		if c.want != nil && k.record().Rev != 1 {
			t.Errorf("%v ahead: it was written: %+v", c.ahead, k.record())
		}
		k.want(k.release("a"), nil)
	}
	// A permit with such a token beside it is renewed as ever.
	k := newKit(t)
	k.must("a", of(2, 1))
	k.must("b", of(2, 1))
	r := k.record()
	b := r.Holders[KeyOf(lockName, "b")]
	b.Fence = k.time.Add(24 * time.Hour).UnixMicro()
	k.store.records[lockName] = Record{Rev: r.Rev, Fence: b.Fence, Capacity: 2, FreeAt: r.FreeAt, Holders: map[LeaseKey]Lease{KeyOf(lockName, "a"): r.Holders[KeyOf(lockName, "a")], KeyOf(lockName, "b"): b}}
	k.pass(time.Second)
	if _, err := k.renew("a", ttl); err != nil {
		t.Error(err)
	}
	_, err := k.renew("b", ttl)
	k.want(err, ErrMisconfigured)
}

// What is undone and granted nobody spends no secret.
func TestRule5UndoOfAWriteThatGrantedNothing(t *testing.T) {
	u, now := Rules{}.withDefaults(), time.Unix(1_800_000_000, 0)
	held := map[LeaseKey]Lease{"x": {Fence: 5, ExpiresAt: now.Add(time.Hour).UnixMilli()}}
	last := Retired{Key: "last", Fence: 4, At: 1, Cause: CauseRelease}
	before, after := Record{Rev: 7, Fence: 5, Capacity: 1, Holders: held, Retired: last}, Record{Rev: 8, Fence: 5, Capacity: 1, Holders: held, Retired: last}
	if next := u.undo(now, "a", before, after).Next(after); next.Retired != last {
		t.Errorf("undone: %+v", next)
	}
}

// A grant with waiters is not undone by a swap that could not have seen them.
func TestRule5UndoLeavesQueuesAlone(t *testing.T) {
	k := newKit(t)
	k.must("a", lasting(time.Second))
	k.waits("b")
	k.pass(time.Second + skew)
	writes := 0
	k.store.before = func(c Command) error {
		if c.Kind == Swap {
			writes, k.store.offset = writes+1, time.Hour
		}
		return nil
	}
	_, err := k.acquire("b", placeFor(time.Hour))
	k.want(err, ErrUnavailable)
	if writes != 1 || k.holder("b").Fence == 0 {
		t.Errorf("%d writes, record %+v", writes, k.record())
	}
}

func TestRule6Exclusion(t *testing.T) {
	// Others get the lock a skew after its expiry, and not before; each grant has a higher fence.
	k := newKit(t)
	a := k.must("a")
	k.pass(ttl + skew - ms)
	_, err := k.acquire("b")
	k.want(err, ErrLockHeld)
	k.pass(ms)
	b := k.must("b")
	if b.Lease.Fence <= a.Lease.Fence || b.Lease.Fence != k.time.UnixMicro() {
		t.Errorf("fence %d after %d", b.Lease.Fence, a.Lease.Fence)
	}
	k.want(k.release("b"), nil)
	k.pass(-time.Hour / 2)
	if c := k.must("c"); c.Lease.Fence != b.Lease.Fence+1 { // the clock went back
		t.Errorf("fence %d after %d", c.Lease.Fence, b.Lease.Fence)
	}
	k.want(k.release("c"), nil)
	// A late duplicate of a lease that ended is recognised.
	_, err = k.acquire("c")
	k.want(err, ErrLeaseLost)
	_, err = k.acquire("c", withToken("t"))
	k.want(err, ErrLeaseLost)
	// Permits never exceed the capacity.
	k.must("d", of(3, 2))
	_, err = k.acquire("e", of(3, 2))
	k.want(err, ErrLockHeld)
	k.must("e", of(3, 1))
	_, err = k.acquire("f", of(3, 1))
	k.want(err, ErrLockHeld)
}

func TestRule6FenceLead(t *testing.T) {
	for _, c := range []struct {
		lead    time.Duration
		refused bool
	}{{MaxFenceLead - time.Microsecond, false}, {MaxFenceLead, true}} { // the next one is a microsecond further
		k := newKit(t)
		k.must("a")
		k.want(k.release("a"), nil)
		r := k.record()
		r.Fence = k.time.Add(c.lead).UnixMicro()
		k.store.records[lockName] = r
		_, err := k.acquire("b")
		if errors.Is(err, ErrMisconfigured) != c.refused || !c.refused && err != nil {
			t.Errorf("lead %v: %v", c.lead, err)
		}
		if len(k.record().Holders) == 0 != c.refused {
			t.Errorf("lead %v: %+v", c.lead, k.record())
		}
		// Who would wait is told as well, and not queued for what cannot be.
		_, err = k.acquire("w", placeFor(time.Hour))
		if errors.Is(err, ErrMisconfigured) != c.refused || errors.Is(err, ErrLockHeld) == c.refused {
			t.Errorf("lead %v: a waiter is told %v", c.lead, err)
		}
	}
	// A head that waits since before is told at its next poll, and not granted.
	k := newKit(t)
	k.must("a")
	k.waits("b")
	r := k.record()
	r.Fence = k.time.Add(2 * MaxFenceLead).UnixMicro()
	k.store.records[lockName] = r
	if p := k.waits("b"); p != 1 { // held: it waits for the holder first
		t.Errorf("place %d", p)
	}
	k.want(k.release("a"), nil)
	k.holds(nil, []string{"b"})
	_, err := k.acquire("b", placeFor(time.Hour))
	k.want(err, ErrMisconfigured)
}

func TestRule7AlreadyMine(t *testing.T) {
	lost := errors.New("lost")
	for name, op := range map[string]func(*kit) error{
		"acquire":         func(k *kit) error { _, err := k.acquire("x"); return err },
		"acquire, queued": func(k *kit) error { k.must("h"); k.waits("x"); return nil },
		"release":         func(k *kit) error { k.must("x"); return k.release("x") },
		"force-release": func(k *kit) error {
			k.must("x")
			_, err := k.ForceRelease(k.t.Context(), ForceReleaseRequest{Lock: lockName, Reason: "r"})
			return err
		},
	} {
		k := newKit(t)
		if err := op(k); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		again := k.record()
		// Sent again, it is answered by its own success.
		var err error
		switch name {
		case "acquire":
			_, err = k.acquire("x")
		case "acquire, queued":
			if p := k.waits("x"); p != 1 {
				t.Errorf("place %d", p)
			}
		case "release":
			err = k.release("x")
		case "force-release":
			_, err = k.ForceRelease(t.Context(), ForceReleaseRequest{Lock: lockName, Reason: "r"})
		}
		if err != nil || k.record().Rev != again.Rev {
			t.Errorf("%s repeated: %v, %+v", name, err, k.record())
		}
	}
	// The same within one call: the store's retry fails on the first attempt's success.
	k := newKit(t)
	l := k.must("x")
	k.must("y", func(r *AcquireRequest) { r.Lock = "other" })
	tries := 0
	k.store.before = func(c Command) error {
		if tries++; tries == 1 {
			if _, err := k.store.Memory.Apply(t.Context(), lockName, c); err != nil {
				return err
			}
		}
		return nil
	}
	ended, err := k.ForceRelease(t.Context(), ForceReleaseRequest{Lock: lockName, Reason: "r", Fence: l.Lease.Fence})
	if err != nil || len(ended) != 1 || ended[0] != l.Lease {
		t.Errorf("forced: %v, %v", ended, err)
	}
	k.store.before = func(Command) error { return lost }
	_, err = k.acquire("z")
	k.want(err, lost)
}

func TestRule8Timers(t *testing.T) {
	k := newKit(t)
	a := k.must("a", of(3, 1))
	long := k.must("long", of(3, 1), lasting(time.Hour))
	again, err := k.fire("a", a.Lease.Fence)
	if want := time.UnixMilli(a.Lease.ExpiresAt).Add(skew); err != nil || !again.Equal(want) {
		t.Errorf("early: %v, %v; want %v, its own expiry", again, err, want)
	}
	for _, fence := range []int64{a.Lease.Fence - 1, long.Lease.Fence} {
		if again, err = k.fire("a", fence); err != nil || !again.IsZero() {
			t.Errorf("of another grant: %v, %v", again, err)
		}
	}
	k.must("b", of(3, 1))
	k.pass(ttl + skew - ms)
	if again, err = k.fire("a", a.Lease.Fence); err != nil || !again.Equal(k.time.Add(ms)) {
		t.Errorf("a moment early: %v, %v", again, err)
	}
	k.pass(ms)
	if again, err = k.fire("a", a.Lease.Fence); err != nil || !again.IsZero() {
		t.Errorf("due: %v, %v", again, err)
	}
	k.holds([]string{"long"}, nil) // b was over too
	if r := k.record(); r.Cause != CauseExpire || r.Retired != (Retired{KeyOf(lockName, "a"), a.Lease.Fence, k.time.UnixMilli(), CauseExpire}) {
		t.Errorf("record %+v", r)
	}
	// The only holder goes by the fast command.
	k.pass(time.Hour)
	k.store.applied = nil
	if _, err = k.fire("long", long.Lease.Fence); err != nil || len(k.store.applied) != 1 || k.store.applied[0].Kind != Expire {
		t.Errorf("%v, %+v", err, k.store.applied)
	}
	k.holds(nil, nil)
}

func TestRule9HandOff(t *testing.T) {
	for name, end := range map[string]func(*kit, LeaseStatus) error{
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
			return k.EndPlace(k.t.Context(), lockName, KeyOf(lockName, "a"), "x")
		},
		"the end of its task": func(k *kit, l LeaseStatus) error {
			return k.EndTask(k.t.Context(), GrantRef{Lock: lockName, Key: KeyOf(lockName, "a"), Fence: l.Lease.Fence}, Tokens{}, "gone")
		},
		"a newcomer": func(k *kit, _ LeaseStatus) error {
			k.pass(ttl + skew)
			if _, err := k.acquire("newcomer"); !errors.Is(err, ErrLockHeld) {
				return fmt.Errorf("newcomer: %w", err)
			}
			return nil
		},
		"settling": func(k *kit, _ LeaseStatus) error { k.pass(ttl + skew); return k.Settle(k.t.Context(), lockName) },
	} {
		k := newKit(t)
		change := func(*AcquireRequest) {}
		if name == "the end of its execution" {
			change = boundTo("x")
		}
		l := k.must("a", change)
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

// Those who want little do not overtake one who wants much.
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

// Any waiter may leave, also one that is further back than a hand-off reads.
func TestRule9WaitersLeave(t *testing.T) {
	k := newKit(t)
	k.must("a")
	const n = queueHead + 8
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

func TestRule10Tokens(t *testing.T) {
	k := newKit(t)
	k.must("a", lasting(2*time.Hour))
	k.waits("b", withToken("one"))
	k.pass(time.Minute)
	rev, until := k.record().Rev, k.record().Queue[0].Until
	k.waits("b", withToken("one"))
	if w := k.record().Queue[0]; k.record().Rev != rev || w.Until != until { // a repeat keeps the place for no longer
		t.Errorf("waiter %+v", w)
	}
	k.waits("b", withToken("two")) // the task was tried again: it waits from now
	if w := k.record().Queue[0]; w.Until != until+time.Minute.Milliseconds() || !slices.Equal(w.Tokens.List(), []string{"one", "two"}) || w.Ticket != 1 {
		t.Errorf("waiter %+v", w)
	}
	k.want(k.release("a"), nil)
	h := k.holder("b")
	if h.Unclaimed || h.ExpiresAt != k.time.Add(ttl).UnixMilli() {
		t.Errorf("granted %+v", h)
	}
	req := GrantRef{Lock: lockName, Key: KeyOf(lockName, "b"), Fence: h.Fence}
	if _, err := k.MarkAttempt(t.Context(), req, Tokens{"one"}, k.record()); !errors.Is(err, ErrSuperseded) {
		t.Errorf("attempt with the first token: %v", err)
	}
	if first, err := k.MarkAttempt(t.Context(), req, h.Tokens, k.record()); first || err != nil { // nobody knows who was told
		t.Errorf("attempt with both: %v, %v", first, err)
	}
	if !k.holder("b").Attempted {
		t.Error("the attempt was not noted")
	}
	for i, token := range []string{"three", "four"} {
		k.waits("b", withToken(token))
		if got := k.holder("b"); len(got.Tokens.List()) != maxTokens || got.Tokens.List()[2] != token || got.Attempted || got.ExpiresAt != h.ExpiresAt {
			t.Errorf("%d: %+v", i, got)
		}
		if k.record().Cause != CauseToken {
			t.Errorf("the stream does not hear of a token: %s", k.record().Cause)
		}
	}
}

// A lease that a caller polled for before is not only its task's: it is never ended because the task is gone.
func TestRule10TokenAfterPolls(t *testing.T) {
	k := newKit(t)
	k.must("a")
	k.waits("b")
	k.waits("b", withToken("t"))
	k.want(k.release("a"), nil)
	h := k.holder("b")
	if !slices.Equal(h.Tokens.List(), []string{"t"}) {
		t.Errorf("tokens %q", h.Tokens.List())
	}
	req := GrantRef{Lock: lockName, Key: KeyOf(lockName, "b"), Fence: h.Fence}
	if first, err := k.MarkAttempt(t.Context(), req, h.Tokens, k.record()); first || err != nil {
		t.Errorf("first %v, %v", first, err)
	}
}

// A task that a later attempt told keeps its lease, if the first attempt comes after it and finds nobody: the first one may have been
// under way for long. The same if somebody else asked for the lease.
func TestRule10TheFirstAttemptComesLate(t *testing.T) {
	for name, learn := range map[string]func(*kit, GrantRef) error{
		"a second attempt": func(k *kit, req GrantRef) error {
			first, err := k.MarkAttempt(t.Context(), req, Tokens{"t"}, k.record())
			if first {
				t.Error("a second attempt is the first")
			}
			return err
		},
		"a poll":            func(k *kit, _ GrantRef) error { _, err := k.acquire("a"); return err },
		"a poll that waits": func(k *kit, _ GrantRef) error { _, err := k.acquire("a", placeFor(time.Hour)); return err },
		"a renewal":         func(k *kit, _ GrantRef) error { k.pass(ms); _, err := k.renew("a", ttl); return err },
		"a shorter renewal": func(k *kit, _ GrantRef) error { _, err := k.renew("a", time.Second); return err },
	} {
		for _, execution := range []string{"", "x"} {
			k := newKit(t)
			k.must("a", withToken("t"), boundTo(execution))
			req := GrantRef{Lock: lockName, Key: KeyOf(lockName, "a"), Fence: k.holder("a").Fence}
			if first, err := k.MarkAttempt(t.Context(), req, Tokens{"t"}, k.record()); !first || err != nil {
				t.Errorf("%s: first %v, %v", name, first, err)
			}
			k.want(learn(k, req), nil)
			k.want(learn(k, req), nil)
			rev := k.record().Rev
			k.want(k.EndTask(t.Context(), req, Tokens{"t"}, "task gone"), nil)
			if k.record().Rev != rev || k.holder("a").Fence != req.Fence {
				t.Errorf("%s, execution %q: the lease was ended: %+v", name, execution, k.record())
			}
		}
	}
	// What was learned is written once.
	k := newKit(t)
	k.must("a", withToken("t"))
	k.must("a")
	writes := len(k.store.applied)
	k.must("a")
	if n := len(k.store.applied) - writes; n != 1 || k.store.applied[writes].Kind != Take || !k.holder("a").Known {
		t.Errorf("%d writes, %+v", n, k.holder("a"))
	}
}

// A caller that polls for a task's place may find the grant: the task's lease is not only the task's, either.
func TestRule10PollsAfterToken(t *testing.T) {
	k := newKit(t)
	k.must("a")
	k.waits("b", withToken("t"))
	until := k.record().Queue[0].Until
	k.waits("b")
	if w := k.record().Queue[0]; !w.Known || w.Until < until || w.Tokens != (Tokens{"t"}) {
		t.Errorf("waiter %+v", w)
	}
	rev := k.record().Rev
	k.waits("b")
	if k.record().Rev != rev {
		t.Error("a second poll was written")
	}
	k.want(k.release("a"), nil)
	h := k.holder("b")
	req := GrantRef{Lock: lockName, Key: KeyOf(lockName, "b"), Fence: h.Fence}
	if first, err := k.MarkAttempt(t.Context(), req, h.Tokens, k.record()); first || err != nil || !k.holder("b").Attempted {
		t.Errorf("first %v, %v", first, err)
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

func TestRule11ContentionIsAnAnswer(t *testing.T) {
	k := newKit(t)
	a := k.must("a", of(2, 1), lasting(10*time.Second))
	b := k.must("b", of(2, 1))
	k.pass(time.Second)
	_, err := k.acquire("c", of(2, 1))
	held, ok := errors.AsType[*HeldError](err)
	if !ok || !slices.Equal(held.Holders, []Lease{a.Lease, b.Lease}) || held.RetryAfter != 9*time.Second+skew || held.Now != k.time.UnixMilli() || held.Position != 0 {
		t.Errorf("held: %+v", held)
	}
	for _, err := range []error{ErrLockHeld, ErrLeaseLost, ErrCapacityMismatch, ErrLockChanged, ErrQueueFull} {
		for _, fault := range []error{ErrThrottled, ErrUnavailable, ErrMisconfigured} {
			if errors.Is(err, fault) {
				t.Errorf("%v is a fault", err)
			}
		}
	}
	// Of a lease of an execution nobody knows: it is to be looked at at CheckAt, and every second from then.
	k = newKit(t)
	k.must("a", boundTo("x"))
	for _, c := range []struct{ pass, want time.Duration }{{0, ttl}, {ttl - time.Second - ms, time.Second + ms}, {time.Second, time.Second}} {
		k.pass(c.pass)
		_, err = k.acquire("b")
		if held, ok := errors.AsType[*HeldError](err); !ok || held.RetryAfter != c.want+skew {
			t.Errorf("%v later: %v", c.pass, err)
		}
	}
}

// Renewals, and whatever else changes one lease, leave the others and the queue exactly as they are.
func TestRule12OthersAreLeftAlone(t *testing.T) {
	k := newKit(t)
	k.must("a", of(2, 1), func(r *AcquireRequest) { r.Metadata = `{"a":1}` })
	k.must("b", of(2, 1), boundTo("x"))
	k.waits("c", of(2, 1))
	before := k.record()
	k.pass(time.Second)
	if _, err := k.renew("a", ttl); err != nil {
		t.Fatal(err)
	}
	after := k.record()
	other := KeyOf(lockName, "b")
	if after.Holders[other] != before.Holders[other] || !slices.Equal(after.Queue, before.Queue) || after.Retired != before.Retired || after.NextTicket != before.NextTicket || after.Fence != before.Fence {
		t.Errorf("from %+v to %+v", before, after)
	}
	if after.Holders[KeyOf(lockName, "a")].Metadata != `{"a":1}` {
		t.Errorf("metadata %q", after.Holders[KeyOf(lockName, "a")].Metadata)
	}
}

// One write asks for some of the overdue checks again, the oldest first, and the next caller that is refused for more.
func TestOverdueChecksAreAskedForInTurn(t *testing.T) {
	k := newKit(t)
	const n = 2*maxRechecks + 1
	for i := range n {
		k.must(fmt.Sprint(i), of(n, 1), boundTo("x"))
		k.pass(ms)
	}
	k.pass(ttl + RecheckAfter)
	for _, want := range []int{maxRechecks, 2 * maxRechecks, n, n} {
		_, err := k.acquire("other", of(n, 1))
		k.want(err, ErrLockHeld)
		asked := 0
		for i := range n {
			if again := k.holder(fmt.Sprint(i)).CheckAt == k.time.UnixMilli(); again != (i < want) {
				t.Errorf("check of %d: %v after %d", i, again, want)
			} else if again {
				asked++
			}
		}
		if asked != want {
			t.Errorf("%d are asked for, want %d", asked, want)
		}
	}
}
