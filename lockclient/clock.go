package lockclient

import (
	"context"
	mathrand "math/rand/v2"
	"time"
)

// A reading is a moment on two clocks: the monotonic one, as the time since some start, and the wall clock.
//
// Go's monotonic clock is Linux's CLOCK_MONOTONIC, which does not count the time that a machine is suspended; a Lambda
// environment that is frozen between invocations may find that it stood still. The wall clock is set right again after a
// thaw, but anybody may set it back. A lease is over when either of them says so.
type reading struct {
	monotonic time.Duration
	wall      time.Time
}

// newClock makes a clock that reads both.
func newClock() func() reading {
	start := time.Now()
	return func() reading {
		now := time.Now()
		return reading{now.Sub(start), now.Round(0)}
	}
}

func (r reading) add(d time.Duration) reading { return reading{r.monotonic + d, r.wall.Add(d)} }

// sub is how long it is from o to r, by the clock that says less.
func (r reading) sub(o reading) time.Duration {
	return min(r.monotonic-o.monotonic, r.wall.Sub(o.wall))
}

// left is how long it is until a deadline.
func (c *Client) left(deadline reading) time.Duration { return deadline.sub(c.now()) }

// backoff is the pause before another try, after n others: a tenth of Config.RetryDelay, doubled with each up to all of it,
// drawn from the upper half, and at least what whoever answered asked for.
func (c *Client) backoff(n int, after time.Duration) time.Duration {
	d := c.retryDelay
	if n < 4 {
		d = min(d, d/10<<n)
	}
	return max(jitter(d), min(after, maxRetryAfter))
}

// maxRetryAfter bounds the hint of a coordinator that cannot serve just now.
const maxRetryAfter = 5 * time.Second

func jitter(d time.Duration) time.Duration { return d/2 + mathrand.N(d/2+1) }

// sleep waits, or answers ctx's error if that ends first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}
