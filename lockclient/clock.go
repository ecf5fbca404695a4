package lockclient

import (
	"context"
	"time"

	"github.com/holdfast-lock/holdfast/internal/chance"
)

// A reading is a time on two clocks: the monotonic clock, as the time since an arbitrary start, and the wall clock.
//
// Go's monotonic clock is Linux's CLOCK_MONOTONIC. It does not count the time for which a machine is suspended, and it may not
// count the time for which a Lambda environment is frozen between invocations. The wall clock is corrected after a thaw, but it may
// be set back at any time. A lease has therefore expired as soon as either clock says so.
type reading struct {
	monotonic time.Duration
	wall      time.Time
}

// newClock returns a function that reads both clocks.
func newClock() func() reading {
	start := time.Now()
	return func() reading {
		now := time.Now()
		return reading{now.Sub(start), now.Round(0)}
	}
}

func (r reading) add(d time.Duration) reading { return reading{r.monotonic + d, r.wall.Add(d)} }

// sub returns the time from o to r, by the clock that says less.
func (r reading) sub(o reading) time.Duration {
	return min(r.monotonic-o.monotonic, r.wall.Sub(o.wall))
}

// left returns the time until a deadline.
func (c *Client) left(deadline reading) time.Duration { return deadline.sub(c.now()) }

// backoff returns the pause before another try, after n others: a tenth of Config.RetryDelay, doubled for each try up to
// Config.RetryDelay, at random from the upper half of that range. It is at least after, the time that the answer asked for, but not
// for that reason longer than maxRetryAfter.
func (c *Client) backoff(n int, after time.Duration) time.Duration {
	d := c.retryDelay
	if n < 4 {
		d = min(d, d/10<<n)
	}
	return max(jitter(d), min(after, maxRetryAfter))
}

// maxRetryAfter limits the pause that an answer can ask for.
const maxRetryAfter = 5 * time.Second

func jitter(d time.Duration) time.Duration { return d/2 + chance.N(d/2+1) }

// sleep waits for d. It returns ctx's error if ctx has ended.
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
