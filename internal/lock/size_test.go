package lock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// sized is an acquire on a semaphore of 100, whose lease takes holderBytes+MaxMetadata+token bytes.
func sized(i, token int, wait time.Duration) AcquireRequest {
	r := AcquireRequest{Lock: "s", Secret: fmt.Sprintf("lease-%06d", i), TTL: time.Hour, Capacity: 100, Permits: 1, Wait: wait}
	if token > 0 {
		r.Token = fmt.Sprintf("%06d", i) + strings.Repeat("t", token-6)
	}
	return r
}

const unsized = holderBytes + MaxMetadata

func newCoordinator(t *testing.T, store Store) *Coordinator {
	t.Helper()
	c, err := New(Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A lease takes what its texts take, and always room for the metadata that a renewal may bring.
func TestBytes(t *testing.T) {
	for _, test := range []struct {
		holder Lease
		want   int64
	}{
		{Lease{}, unsized},
		{Lease{Terms: Terms{Metadata: strings.Repeat("m", MaxMetadata)}}, unsized},
		{Lease{Terms: Terms{Metadata: strings.Repeat("m", MaxMetadata+7)}}, unsized + 7},
		{Lease{Terms: Terms{Owner: "o", Principal: "pp", Tokens: Tokens{"ttt"}, Execution: "eeee"}}, unsized + 10},
	} {
		if got := test.holder.bytes(); got != test.want {
			t.Errorf("%+v takes %d, want %d", test.holder, got, test.want)
		}
		r := Record{Holders: map[LeaseKey]Lease{"a": test.holder, "b": {}}}
		if got := r.Bytes(); got != recordBytes+test.want+unsized {
			t.Errorf("a record with it takes %d", got)
		}
	}
}

// A lease has room up to the last byte; alone it always has.
func TestRoom(t *testing.T) {
	free := MaxRecordBytes - recordBytes - unsized - unsized
	r := Record{Holders: map[LeaseKey]Lease{"a": {}}, Capacity: 9}
	if err := r.room(Terms{Owner: strings.Repeat("o", free)}); err != nil {
		t.Error(err)
	}
	err := r.room(Terms{Owner: strings.Repeat("o", free+1)})
	if e, ok := errors.AsType[*FullError](err); !ok || *e != (FullError{Size: MaxRecordBytes + 1, Most: MaxRecordBytes}) {
		t.Errorf("error %v", err)
	}
	if err := (Record{}).room(Terms{Owner: strings.Repeat("o", 2*MaxRecordBytes)}); err != nil {
		t.Error("alone:", err)
	}
	big := Record{Holders: map[LeaseKey]Lease{"a": {Terms: Terms{Owner: strings.Repeat("o", MaxRecordBytes)}}}}
	smaller := Record{Holders: map[LeaseKey]Lease{"a": {Terms: Terms{Owner: strings.Repeat("o", MaxRecordBytes-1)}}}}
	if grows(big, smaller) != nil || grows(big, big) != nil || grows(smaller, big) == nil || grows(Record{}, r) != nil {
		t.Error("what does not grow is never refused, and what fits may grow")
	}
}

// What does not fit beside the others is refused with the number if it does not wait, and otherwise waits until it fits.
func TestFullRecord(t *testing.T) {
	const token = 2048
	fit := (MaxRecordBytes - recordBytes) / (unsized + token)
	m := &Memory{}
	c := newCoordinator(t, m)
	for i := range fit {
		if _, err := c.Acquire(t.Context(), sized(i, token, time.Hour)); err != nil {
			t.Fatal(i, err)
		}
	}
	big := sized(fit, 0, 0)
	big.Owner = strings.Repeat("o", token)
	_, err := c.Acquire(t.Context(), big)
	if full, ok := errors.AsType[*FullError](err); !ok || full.Most != MaxRecordBytes || full.Size != int64(recordBytes+(fit+1)*(unsized+token)) {
		t.Fatalf("error %v", err)
	}
	if _, err := c.Acquire(t.Context(), sized(fit+1, token, time.Hour)); !errors.Is(err, ErrLockHeld) {
		t.Fatalf("one that waits: %v", err)
	}
	if _, err := c.Acquire(t.Context(), big); !errors.Is(err, ErrLockHeld) {
		t.Fatalf("one that does not wait, behind it: %v", err)
	}
	// A task that is tried again brings another token to a lease that is there.
	again := sized(0, token, time.Hour)
	again.Token = strings.Repeat("u", 2*token+200)
	if _, err := c.Acquire(t.Context(), again); !errors.Is(err, ErrLockFull) {
		t.Fatalf("another token: %v", err)
	}
	r, err := m.Get(t.Context(), "s")
	if err != nil || len(r.After.Holders) != fit || r.After.Waiting != 1 || r.After.Bytes() > MaxRecordBytes {
		t.Fatalf("%d holders, %d wait, %v", len(r.After.Holders), r.After.Waiting, err)
	}
	// A renewal brings as much metadata as it may, without being refused.
	if _, err := c.Renew(t.Context(), RenewRequest{Lock: "s", Secret: sized(1, 0, 0).Secret, Metadata: new(strings.Repeat("m", MaxMetadata))}); err != nil {
		t.Fatal(err)
	}
	// Whoever leaves hands on to the one that now fits.
	if _, err := c.Release(t.Context(), ReleaseRequest{Lock: "s", Secret: sized(0, 0, 0).Secret}); err != nil {
		t.Fatal(err)
	}
	if r, err = m.Get(t.Context(), "s"); err != nil || len(r.After.Holders) != fit || r.After.Waiting != 0 {
		t.Fatalf("after a release: %d holders, %d wait, %v", len(r.After.Holders), r.After.Waiting, err)
	}
}

// A hand-off moves as many as fit, and the rest wait on; each that leaves lets one in.
func TestHandOffMovesWhatFits(t *testing.T) {
	const token = 2048
	fit := (MaxRecordBytes - recordBytes) / (unsized + token)
	m := &Memory{}
	c := newCoordinator(t, m)
	first := sized(0, 0, 0)
	first.Permits = 100
	if _, err := c.Acquire(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 100; i++ {
		if _, err := c.Acquire(t.Context(), sized(i, token, time.Hour)); !errors.Is(err, ErrLockHeld) {
			t.Fatal(i, err)
		}
	}
	if _, err := c.Release(t.Context(), ReleaseRequest{Lock: "s", Secret: first.Secret}); err != nil {
		t.Fatal(err)
	}
	for left := 100; left > 0; left-- {
		if err := c.Settle(t.Context(), "s"); err != nil {
			t.Fatal(err)
		}
		r, err := m.Get(t.Context(), "s")
		if err != nil || len(r.After.Holders) != min(fit, left) || r.After.Waiting != int64(max(left-fit, 0)) {
			t.Fatalf("%d left: %d holders, %d wait, %v", left, len(r.After.Holders), r.After.Waiting, err)
		}
		oldest := r.After.Holders[byFence(r.After.Holders)[0]]
		if _, err := c.ForceRelease(t.Context(), ForceReleaseRequest{Lock: "s", Reason: "x", Fence: oldest.Fence}); err != nil {
			t.Fatal(err)
		}
	}
}

// Where the head of the queue is known not to fit, nothing is left to do; where it is not known, something may be.
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

// faulty is a store whose writes that move waiters fail.
type faulty struct {
	*Memory
	err    error
	writes int
	reads  []int // how many waiters were asked for
}

func (f *faulty) Apply(ctx context.Context, name string, c Command) (Reply, error) {
	f.writes++
	if become, ok := c.Effect.(Become); ok && len(become.From.Queue) != len(become.To.Queue) && f.err != nil {
		return Reply{}, f.err
	}
	return f.Memory.Apply(ctx, name, c)
}

func (f *faulty) Waiters(ctx context.Context, name string, limit int) ([]Waiter, error) {
	f.reads = append(f.reads, limit)
	return f.Memory.Waiters(ctx, name, limit)
}

// A force-release gets through where the hand-off cannot be written, and leaves the waiters where they are. An outage is told.
func TestForceReleaseGetsThrough(t *testing.T) {
	for _, kind := range []error{ErrMisconfigured, ErrThrottled, ErrLockFull, ErrUnavailable} {
		f := &faulty{Memory: &Memory{}}
		c := newCoordinator(t, f)
		for i := range 2 {
			r := sized(i, 0, time.Hour)
			r.Permits = 100
			if _, err := c.Acquire(t.Context(), r); (err != nil) != (i > 0) {
				t.Fatal(err)
			}
		}
		f.err, f.writes = &StoreError{Kind: kind}, 0
		ended, err := c.ForceRelease(t.Context(), ForceReleaseRequest{Lock: "s", Reason: "stuck"})
		if errors.Is(kind, ErrUnavailable) {
			if !errors.Is(err, kind) || f.writes != 1 {
				t.Errorf("%v: error %v after %d writes", kind, err, f.writes)
			}
			continue
		}
		r, _ := f.Get(t.Context(), "s")
		if err != nil || len(ended) != 1 || len(r.After.Holders) != 0 || r.After.Waiting != 1 || r.After.Cause != CauseForceRelease {
			t.Errorf("%v: ended %v, %v: %+v", kind, ended, err, r.After)
		}
		f.err = nil
		if err := c.Settle(t.Context(), "s"); err != nil {
			t.Fatal(err)
		}
		if r, _ = f.Get(t.Context(), "s"); len(r.After.Holders) != 1 || r.After.Waiting != 0 {
			t.Errorf("%v: the waiter is not granted afterwards: %+v", kind, r.After)
		}
	}
}

// Who does not wait reads the head of the queue only; who waits, or brings a token, looks for its place in all of it.
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
	}{{0, 0, queueHead}, {0, time.Hour, MaxQueue}, {100, 0, MaxQueue}, {100, time.Hour, MaxQueue}} {
		f.reads = nil
		if _, err := c.Acquire(t.Context(), sized(99, test.token, test.wait)); !errors.Is(err, ErrLockHeld) {
			t.Fatal(err)
		}
		if len(f.reads) != 1 || f.reads[0] != test.want {
			t.Errorf("%+v: read %v", test, f.reads)
		}
	}
}

// A row outlasts the places of its waiters by a retention, those that a write does not see as well, and goes when nobody comes.
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
	for i := range queueHead + 1 {
		waits.Secret, waits.Wait = fmt.Sprint("also", i), time.Minute
		if i == queueHead { // the last is not seen by those who read the head
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

// A queue that all have left bars nobody for ever, however long it is: who does not join it clears away what it sees of it.
func TestADeadQueueIsClearedAway(t *testing.T) {
	for _, n := range []int{queueHead, queueHead + 1, 3*queueHead + 1, MaxQueue} {
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
	for i := range queueHead + 1 {
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
