package lockclient

import (
	"time"

	"github.com/holdfast-lock/holdfast/internal/chance"
)

const (
	// A waiter's first pauses are 1/64 and 1/8 of a poll delay, since many leases are short; later ones are the whole.
	firstPause  = 64
	pauseGrowth = 8
	// farPauses is how many polls a waiter behind the first makes, at least, in the time for which its place is kept. A poll in the second
	// half of that time keeps the place.
	farPauses = 4
	// herdSpread is the time after a lease's expiry over which first waiters spread their requests.
	herdSpread = 50 * time.Millisecond
)

// A pace chooses a waiter's pauses between its polls. The first waiter in the queue polls every Config.RetryDelay. One behind it polls once
// early, to see whether the queue moves, and then less often, the farther the more: its pause is that of the first waiter times its position,
// and at most a quarter of the time for which its place is kept. A queue that moves is followed: the pause is then at most half of the time
// until the waiter's turn, as the queue has moved so far.
type pace struct {
	delay time.Duration // Config.RetryDelay
	place time.Duration // for how long the place is kept after a poll

	polls int       // so far; those as the first waiter are counted anew
	since time.Time // when the first position was seen
	first int       // the first position that was seen
	last  int       // the last one
}

// next returns the pause after an answer that the lock is held, for a waiter in the queue.
func (p *pace) next(now time.Time, held *HeldError) time.Duration {
	if p.first == 0 {
		p.since, p.first, p.last = now, held.Position, held.Position
	}
	if held.Position == 1 && p.last > 1 { // the lock has just changed hands
		p.polls = 0
	}
	p.last = held.Position
	part := time.Duration(firstPause)
	for n := 0; n < p.polls && part > 1; n++ {
		part /= pauseGrowth
	}
	pause := p.delay / part
	switch {
	case held.Position > 1 && p.polls == 0:
		pause *= 2
	case held.Position > 1:
		pause = min(pause*time.Duration(held.Position), p.place/farPauses)
	}
	p.polls++
	if moved := p.first - held.Position; moved > 0 {
		turn := now.Sub(p.since) / time.Duration(moved) * time.Duration(held.Position)
		pause = min(pause, max(turn/2, p.delay/firstPause))
	}
	pause -= chance.N(pause/5 + 1)
	if held.Position == 1 { // a holder that died does not release; the waiters behind the first follow it
		pause = min(pause, held.RetryAfter+chance.N(herdSpread))
	}
	return pause
}
