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
