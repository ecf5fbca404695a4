package lock

import (
	"testing"
	"time"
)

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

// The guard of expire wants a lease that is past its expiry by the skew allowance, and a fencing token below its bound.
func TestGuardOfExpire(t *testing.T) {
	for expires, holds := range map[int64]bool{9: true, 10: true, 11: false} {
		r := Record{Holders: map[LeaseKey]Lease{"a": {ExpiresAt: expires}}}
		if (Clause{Test: LeaseExpiredBy, Key: "a", N: 10}).Holds(r) != holds {
			t.Errorf("expired by 10: %d", expires)
		}
	}
	if (Clause{Test: LeaseExpiredBy, Key: "a", N: 10}).Holds(Record{}) {
		t.Error("a lease that is not there")
	}
	now := time.UnixMilli(1_800_000_000_000)
	want := map[Test]int64{LeaseExpiredBy: 1_800_000_000_000 - 250, FenceBelow: 1_800_000_000_250_001}
	for _, c := range (Rules{Skew: 250 * time.Millisecond, Retention: DefaultRetention}).expire(now, "a").Guard {
		if n, ok := want[c.Test]; ok && c.N != n {
			t.Errorf("%v %d, want %d", c.Test, c.N, n)
		}
		delete(want, c.Test)
	}
	if len(want) > 0 {
		t.Errorf("no clause %v", want)
	}
}
