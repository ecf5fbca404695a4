package lockclient

import "time"

// SetClock replaces a client's clocks.
func SetClock(c *Client, now func() (monotonic time.Duration, wall time.Time)) {
	c.now = func() reading {
		m, w := now()
		return reading{m, w}
	}
}
