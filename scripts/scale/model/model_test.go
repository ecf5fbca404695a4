package model

import (
	"math"
	"testing"
)

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-6*math.Max(1, math.Abs(want)) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// One lock: without waiting it is Erlang's loss system, with waiting an M/M/1 queue.
func TestOneLock(t *testing.T) {
	f := Load{Hold: 1}.lock(3) // demand 3: 3/4 of the callers are refused
	near(t, "refused", f.Refused, 3*0.75)
	near(t, "granted", f.Granted, 0.75)
	near(t, "units: each acquire, each release", f.WriteUnits, 3+0.75)
	near(t, "requests", f.DynamoRequests, 3.75)
	f = Load{Hold: 0.5, Wait: 1, Poll: 5}.lock(1) // half of the time held; in a queue of M/M/1 0.5 wait on average
	near(t, "joined", f.Joined, 0.5)
	near(t, "waiting", f.Waiting, 0.5)
	near(t, "granted", f.Granted, 1)
	near(t, "polls", f.Polls, 0.1)
	near(t, "held", f.Held, 0.5)
	if f := (Load{Hold: 2, Wait: 1}).lock(1); f.Unstable != 1 || f.Granted != 0.5 {
		t.Errorf("a lock that is asked for more than there is: %+v", f)
	}
}

// Uncontended pairs: two write units and two requests each; 1,000 units a second of a key are 500 pairs; a new name costs a third unit.
func TestUncontended(t *testing.T) {
	l := Load{Rate: 100, Locks: 100_000, Hold: 0.001, API: true, Events: true, New: 1}
	all, _ := l.Flows()
	near(t, "units", math.Round(all.WriteUnits), 200)
	near(t, "index", math.Round(all.IndexUnits), 100)
	near(t, "requests", math.Round(all.Requests), 200)
	l.Locks, l.Hold = 1, 0
	for _, u := range l.Utilisation(Assumed) {
		if u.Limit.Name == "writes of the hottest lock" {
			near(t, "pairs of one lock", math.Round(u.At), 500)
		}
	}
}

// The limits are in the order in which a growing load reaches them, and the shares at that rate are 1.
func TestUtilisationIsInOrder(t *testing.T) {
	l := Load{Rate: 1000, Locks: 1000, Exponent: 1, Hold: 0.1, Wait: 0.5, Poll: 5, Events: true, API: true, Tasks: 0.1, New: 0.1}
	last := 0.0
	for _, u := range l.Utilisation(Assumed) {
		if u.At < last {
			t.Errorf("%s at %v is behind %v", u.Limit.Name, u.At, last)
		}
		if last = u.At; math.IsInf(u.At, 1) {
			continue
		}
		m := l
		m.Rate = u.At
		all, hottest := m.Flows()
		if share := u.Limit.Used(m, all, hottest, Assumed) / u.Limit.Most; math.Abs(share-1) > 0.03 {
			t.Errorf("%s: share %v at %v a second", u.Limit.Name, share, u.At)
		}
	}
}

// The price of pairs that nobody listens for is that of docs/cost.md.
func TestDollars(t *testing.T) {
	sum := func(l Load) (sum float64) {
		for _, d := range l.Dollars(Assumed) {
			sum += d
		}
		return sum
	}
	l := Load{Rate: 1000, Locks: 1_000_000, Hold: 1e-6, API: true}
	if got := sum(l); math.Abs(got-3.69) > 0.01 {
		t.Errorf("nobody listens: $%.2f, want 3.69", got)
	}
	l.Events = true
	if got := sum(l); math.Abs(got-6.02) > 0.15 {
		t.Errorf("events for all, busy: $%.2f, want 6.02", got)
	}
}
