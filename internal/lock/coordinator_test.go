package lock

import (
	"testing"
	"time"
)

func TestNewChecksItsConfig(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("no store")
	}
	for rules, good := range map[Rules]bool{
		{}: true, {Skew: -1}: false, {Skew: MaxClockOffset}: true, {Skew: MaxClockOffset + 1}: false,
		{Retention: MaxFenceLead}: false, {Retention: MaxFenceLead + 1}: true,
	} {
		if _, err := New(Config{Store: &Memory{}, Rules: rules}); (err == nil) != good {
			t.Errorf("%+v: %v", rules, err)
		}
	}
}

// A lease key depends on the lock's name and on the secret.
func TestKeyOf(t *testing.T) {
	if a := KeyOf("a", "s"); a == KeyOf("b", "s") || a == KeyOf("a", "t") || a != KeyOf("a", "s") || len(a) != 22 || KeyOf("ab", "c") == KeyOf("a", "bc") {
		t.Errorf("key %s", a)
	}
}

func TestContentionEnds(t *testing.T) {
	k := newKit(t)
	k.must("a")
	writes := 0
	k.store.before = func(Command) error { // somebody else is always first
		writes++
		r := k.record()
		r.Rev++
		k.store.records[lockName] = r
		return nil
	}
	_, err := k.acquire("b", placeFor(time.Hour))
	k.want(err, ErrThrottled)
	if writes != maxTries && writes != maxTries+1 {
		t.Errorf("%d writes", writes)
	}
}

// A record that arrives after the expiry that it shows does not prove that the lease is lost: it may have been renewed meanwhile.
func TestRuleALateRecordProvesNoLoss(t *testing.T) {
	for name, c := range map[string]struct {
		take  func(k *kit)
		renew func(k *kit) error
		use   func(k *kit) error
	}{
		"release to a waiter": {
			func(k *kit) { k.must("1"); k.waits("2") },
			func(k *kit) error { return second(k.renew("1", 0)) },
			func(k *kit) error { return k.release("1") },
		},
		"repeated acquire": {
			func(k *kit) { k.must("1") },
			func(k *kit) error { return second(k.renew("1", 0)) },
			func(k *kit) error { return second(k.acquire("1")) },
		},
		"poll": {
			func(k *kit) { k.must("1"); k.waits("2"); k.want(k.release("1"), nil); k.must("2", placeFor(time.Hour)) },
			func(k *kit) error { return second(k.renew("2", 0)) },
			func(k *kit) error {
				return second(k.acquire("2", placeFor(time.Hour), func(r *AcquireRequest) { r.Ticket = 1 }))
			},
		},
		"downgrade": {
			func(k *kit) { k.must("1", of(3, 3)) },
			func(k *kit) error { return second(k.renew("1", 0)) },
			func(k *kit) error {
				return second(k.Release(k.t.Context(), ReleaseRequest{Lock: lockName, Secret: "1", Principal: "p", Keep: 1, Capacity: 3}))
			},
		},
		"release of a set":          {takeSet, (*kit).renewAB, func(k *kit) error { return k.releaseSet("1", ab...) }},
		"renewal of a set":          {takeSet, (*kit).renewAB, (*kit).renewAB},
		"repeated acquire of a set": {takeSet, (*kit).renewAB, func(k *kit) error { return second(k.set("1", ab)) }},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKit(t)
			c.take(k)
			k.pass(ttl - 10*ms)
			k.store.read = func() {
				k.want(c.renew(k), nil)
				k.pass(time.Second)
			}
			k.want(c.use(k), nil)
			if k.store.read != nil {
				t.Error("nothing was read")
			}
		})
		t.Run(name+", not renewed", func(t *testing.T) {
			k := newKit(t)
			c.take(k)
			k.pass(ttl - 10*ms)
			k.store.read = func() { k.pass(time.Second) }
			k.want(c.use(k), ErrLeaseLost)
		})
	}
}

func takeSet(k *kit) { k.mustSet("1", ab) }

func (k *kit) renewAB() error { return k.renewSet("1") }
