package sim

import (
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// dice choose what happens to one party: an actor, a request, a message. Each party has dice of its own, which follow from the seed and the
// party's name. So it does not matter in which order parties use theirs that are woken at the same moment. Dice are for one goroutine.
type dice struct {
	w   *world
	rng *rand.Rand
}

// dice returns the dice of a party.
func (w *world) dice(name string, numbered ...int64) *dice {
	h := fnv.New64a()
	text(h, name)
	numbers(h, numbered...)
	return &dice{w, rand.New(rand.NewPCG(w.p.Seed, h.Sum64()))}
}

// another returns dice for another goroutine.
func (d *dice) another() *dice {
	return &dice{d.w, rand.New(rand.NewPCG(d.rng.Uint64(), d.rng.Uint64()))}
}

// happens reports whether a fault happens now.
func (d *dice) happens(f Fault) bool {
	rate := d.w.rates[f]
	if rate == 0 || d.rng.Float64() >= rate {
		return false
	}
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	if d.w.calm {
		return false
	}
	d.w.kinds[f]++
	return true
}

// chance reports true with a probability.
func (d *dice) chance(p float64) bool { return d.rng.Float64() < p }

// between is a random time from lo to hi. It has random nanoseconds, so that no two pauses end at the same time.
func (d *dice) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(d.rng.Int64N(int64(hi-lo)+1))
}

func (d *dice) intn(n int) int { return d.rng.IntN(n) }
