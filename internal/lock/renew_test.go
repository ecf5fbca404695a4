package lock

import (
	"errors"
	"testing"
	"time"
)

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

// A renewal to the expiry that a lease already has stores the new TTL, as one blind write and, beside a lease that lasts longer, as a swap.
func TestRenewalToTheSameExpiry(t *testing.T) {
	for _, beside := range []bool{false, true} {
		k := newKit(t)
		k.must("a", of(2, 1))
		k.pass(ttl / 2)
		if beside {
			k.must("b", of(2, 1))
		}
		metadata := `{"step":2}`
		if _, err := k.Renew(t.Context(), RenewRequest{Lock: lockName, Secret: "a", TTL: ttl / 2, Metadata: &metadata}); err != nil {
			t.Fatal(err)
		}
		if h := k.holder("a"); h.TTL != (ttl/2).Milliseconds() || h.Metadata != metadata || h.ExpiresAt != k.time.Add(ttl/2).UnixMilli() {
			t.Errorf("beside another %v: %+v", beside, h)
		}
	}
}
