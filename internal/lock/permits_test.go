package lock

import (
	"fmt"
	"testing"
	"time"
)

// Of several leases one expires: exactly its permits come free, for the next waiters that fit, in their order. The other leases stay as they are.
func TestRuleOneLeaseOfSeveralExpires(t *testing.T) {
	for name, expire := range map[string]func(k *kit, fence int64) error{
		"timer": func(k *kit, fence int64) error { _, err := k.fire("a", fence); return err },
		"a newcomer": func(k *kit, _ int64) error {
			_, err := k.acquire("x", of(4, 1))
			if err == nil {
				return fmt.Errorf("it passed those who wait")
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKit(t)
			a := k.must("a", of(4, 2), lasting(ttl))
			k.must("b", of(4, 1), lasting(2*ttl))
			k.must("c", of(4, 1), lasting(3*ttl))
			k.waits("d", of(4, 1))
			k.waits("e", of(4, 1))
			k.waits("f", of(4, 1))
			b, c := k.holder("b"), k.holder("c")
			k.pass(ttl + skew - ms)
			k.want(expire(k, a.Lease.Fence), nil)
			k.holds([]string{"a", "b", "c"}, []string{"d", "e", "f"})
			k.pass(ms)
			k.want(expire(k, a.Lease.Fence), nil)
			k.holds([]string{"b", "c", "d", "e"}, []string{"f"})
			if sum := permits(k.record().Holders); sum != 4 || k.holder("b") != b || k.holder("c") != c {
				t.Errorf("%d permits are held; b is %+v, c is %+v", sum, k.holder("b"), k.holder("c"))
			}
		})
	}
}

// A waiter for all permits at the head of the queue is passed by nobody who wants fewer, however many come and however long it lasts, and is granted once all are free.
func TestRuleHeavyWaiterIsNotPassed(t *testing.T) {
	k := newKit(t)
	long := placeFor(24 * time.Hour)
	for _, holder := range []string{"a", "b", "c"} {
		k.must(holder, of(3, 1), lasting(time.Hour))
	}
	k.waits("heavy", of(3, 3), long)
	light := 0
	arrive := func() {
		t.Helper()
		for range 5 {
			light++
			if k.waits(fmt.Sprint("light ", light), of(3, 1), long) != int64(light+1) {
				t.Errorf("light %d is not behind the others", light)
			}
			_, err := k.acquire("newcomer", of(3, 1))
			k.want(err, ErrLockHeld)
			_, err = k.acquire("light 1", of(3, 1), long)
			k.want(err, ErrLockHeld)
			k.want(k.Settle(t.Context(), lockName), nil)
			k.pass(time.Minute)
		}
	}
	arrive()
	k.want(k.release("a"), nil)
	arrive()
	k.want(k.release("b"), nil)
	arrive()
	if held := k.record().Holders; len(held) != 1 || permits(held) != 1 {
		t.Errorf("%d permits are held, want that of c", permits(held))
	}
	k.want(k.release("c"), nil)
	if h := k.holder("heavy"); h.Permits != 3 || len(k.record().Holders) != 1 {
		t.Errorf("the heavy waiter has %+v", h)
	}
	k.must("heavy", of(3, 3), long)
	k.want(k.release("heavy"), nil)
	if held := k.record().Holders; permits(held) != 3 || k.holder("light 1").Permits+k.holder("light 2").Permits+k.holder("light 3").Permits != 3 {
		t.Errorf("after it: %v", held)
	}
}
