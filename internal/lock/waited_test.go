package lock

import (
	"testing"
	"time"
)

// A grant to a waiter says how long the waiter waited, whichever write made it, and says the same again when the request is repeated.
func TestRuleGrantsSayHowLongTheyWaited(t *testing.T) {
	for name, end := range handOffs {
		k := newKit(t)
		l := k.must("a", bind(name))
		if l.Lease.Waited() != 0 || l.Lease.Joined != 0 {
			t.Errorf("%s: a free lock was granted after %d ms", name, l.Lease.Waited())
		}
		k.pass(time.Second)
		joined := k.time
		k.waits("b", placeFor(100*time.Second))
		k.pass(55 * time.Second)
		k.waits("b", placeFor(100*time.Second)) // it extends its place, and has joined before
		if err := end(k, l); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		want := k.time.Sub(joined).Milliseconds()
		for range 2 {
			k.pass(time.Second)
			got, err := k.acquire("b", placeFor(time.Minute))
			if err != nil || got.Lease.Waited() != want || want < 55_000 {
				t.Errorf("%s: granted after %d ms, %v; want %d", name, got.Lease.Waited(), err, want)
			}
		}
	}
}

// The time between the clocks of two coordinators is no wait, and neither is a place without a time, which an older version made.
func TestWaitedIsNeverNegative(t *testing.T) {
	for _, l := range []Lease{{AcquiredAt: 1000}, {AcquiredAt: 1000, Terms: Terms{Joined: 1100}}} {
		if l.Waited() != 0 {
			t.Errorf("%+v: %d", l, l.Waited())
		}
	}
}
