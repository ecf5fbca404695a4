package lock

import (
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
		r.Token = task(fmt.Sprintf("%06d", i) + strings.Repeat("t", token-6-tokenBytes-len(TaskToken)))
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

// A lease counts with its texts and with room for the metadata that a renewal may bring.
func TestBytes(t *testing.T) {
	for _, test := range []struct {
		holder Lease
		want   int64
	}{
		{Lease{}, unsized},
		{Lease{Terms: Terms{Metadata: strings.Repeat("m", MaxMetadata)}}, unsized},
		{Lease{Terms: Terms{Metadata: strings.Repeat("m", MaxMetadata+7)}}, unsized + 7},
		{Lease{Terms: Terms{Owner: "o", Principal: "pp", Tokens: Tokens{task("ttt")}, Execution: "eeee"}}, unsized + 10 + tokenBytes + 4},
		{Lease{Terms: Terms{Set: "s", Trace: traced}}, unsized + 1 + 55},
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

// A lease fits up to the last byte; in an empty record every lease fits.
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

// A lease that does not fit is refused with the sizes if the request does not wait; otherwise the request waits until it fits.
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
	again.Token = task(strings.Repeat("u", 2*token+200))
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

// A hand-off grants as many waiters as fit; each lease that ends lets in one more.
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
