package lockclient

import (
	"testing"
	"time"
)

// pauses are the pauses of a waiter at a position that does not change, until most has passed.
func pauses(p pace, position int, most time.Duration) (list []time.Duration) {
	now := time.Unix(0, 0)
	for end := now.Add(most); ; {
		pause := p.next(now, &HeldError{Position: position, RetryAfter: time.Hour})
		if now = now.Add(pause); now.After(end) {
			return list
		}
		list = append(list, pause)
	}
}

// In a queue that does not move, the first waiter polls at most eight times in ten seconds, and those behind it less often, the farther the
// more, but often enough to keep their places.
func TestPaceOfAQueueThatStands(t *testing.T) {
	for range 1000 {
		p := pace{delay: defaultPollDelay, place: keepPlace}
		list := pauses(p, 1, 10*time.Second)
		if n := len(list); n < 6 || n > 8 {
			t.Fatalf("the first polls after %v", list)
		}
		if first := list[0]; first > defaultPollDelay/firstPause {
			t.Fatalf("the first pause is %v", first)
		}
		for position, most := range map[int]int{2: 5, 10: 4, 100: 3, 500: 3} {
			list := pauses(p, position, 10*time.Second)
			if n := len(list); n < 1 || n > most {
				t.Fatalf("at %d it polls after %v", position, list)
			}
			for _, pause := range list {
				if pause > keepPlace/farPauses {
					t.Fatalf("at %d it pauses for %v", position, pause)
				}
			}
		}
	}
}

// A queue that moves is followed: every few milliseconds if it moves so fast, and at least as often as one that stands.
func TestPaceOfAQueueThatMoves(t *testing.T) {
	for _, test := range []struct{ per, least, most time.Duration }{
		{10 * time.Millisecond, 10 * time.Millisecond, 32 * time.Millisecond},   // of the first waiter's last pause
		{400 * time.Millisecond, 25 * time.Millisecond, 450 * time.Millisecond}, // the last pause may begin at the second place
		{time.Minute, 1600 * time.Millisecond, 2 * time.Second},
	} {
		p := pace{delay: defaultPollDelay, place: keepPlace}
		start := time.Unix(0, 0)
		now, polls := start, 0
		const length = 20
		var pause time.Duration
		for {
			position := length - int(now.Sub(start)/test.per)
			if position < 1 {
				break
			}
			polls++
			pause = p.next(now, &HeldError{Position: position, RetryAfter: time.Hour})
			if position > 1 && p.polls > 4 && pause > time.Duration(position)*test.per && pause > defaultPollDelay/firstPause {
				t.Errorf("%v: pauses for %v at %d", test.per, pause, position)
			}
			now = now.Add(pause)
		}
		late := now.Sub(start) - length*test.per
		if pause < min(test.least, defaultPollDelay/firstPause*8/10) || pause > test.most || late > test.most {
			t.Errorf("%v: the last pause is %v, %v late, after %d polls", test.per, pause, late, polls)
		}
	}
}

// A first waiter polls when a lease expires; those behind it leave that to it.
func TestPaceAtAnExpiry(t *testing.T) {
	for range 100 {
		p := pace{delay: time.Minute, place: 3 * time.Minute, polls: 10}
		if pause := p.next(time.Unix(0, 0), &HeldError{Position: 1, RetryAfter: time.Second}); pause < time.Second || pause > time.Second+herdSpread {
			t.Fatalf("pauses for %v", pause)
		}
		if pause := p.next(time.Unix(0, 0), &HeldError{Position: 2, RetryAfter: time.Second}); pause < 36*time.Second {
			t.Fatalf("the second pauses for %v", pause)
		}
	}
}
