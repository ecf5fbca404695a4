package lock

import (
	"errors"
	"slices"
	"testing"
	"time"
)

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
	// The end of an execution's lease is unknown: RetryAfter leads to its CheckAt, and to every second after that.
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

// A request that waits and names another capacity is granted at once if its permits fit both capacities.
func TestAnotherCapacityWithRoom(t *testing.T) {
	k := newKit(t)
	k.must("a", of(3, 1))
	if p := k.waits("b", of(5, 2)); p != 0 || k.record().Capacity != 3 {
		t.Errorf("place %d, capacity %d", p, k.record().Capacity)
	}
}

// A lease that expires before the store's reply arrives is not returned.
func TestSlowAnswer(t *testing.T) {
	for _, c := range []struct {
		slow time.Duration
		lost bool
	}{{ttl - ms, false}, {ttl, true}} {
		k := newKit(t)
		k.store.after = func(Command) error { k.pass(c.slow); return nil }
		if _, err := k.acquire("a"); errors.Is(err, ErrLeaseLost) != c.lost || !c.lost && err != nil {
			t.Errorf("after %v: %v", c.slow, err)
		}
	}
}
