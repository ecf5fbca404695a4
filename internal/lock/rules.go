package lock

import (
	"fmt"
	"time"
)

// Rules are the protocol's constants. They must be the same for all coordinators of a table.
type Rules struct {
	// Skew is the skew allowance: how far apart, pairwise, the coordinators' clocks may be. A lease is replaced only when it
	// is past its expiry by this much. Zero: 250 ms.
	Skew time.Duration

	// Retention is how long a row is kept after its last use, before native TTL may purge it. While the row exists, late
	// duplicates and a clock that stepped back are recognised. After a purge fencing tokens still grow, if no write lands
	// later than Retention after its coordinator read the clock. Zero: 24 hours. It must exceed [MaxFenceLead].
	Retention time.Duration
}

const (
	// DefaultSkew is the default of [Rules.Skew].
	DefaultSkew = 250 * time.Millisecond
	// DefaultRetention is the default of [Rules.Retention].
	DefaultRetention = 24 * time.Hour
	// MaxFenceLead is how far ahead of now a granted fencing token may be. A record with a higher one was written by a
	// coordinator with a wrong clock, and its lock is refused until time catches up: a row is not kept long enough for it.
	MaxFenceLead = time.Hour
	// MaxClockError is the clock error, as a reply of the store proves it, above which a coordinator grants nothing.
	MaxClockError = time.Second
	// MaxClockOffset is the largest true clock error that a coordinator can have and still grant. The store's Date is cut to
	// whole seconds, so a prompt reply proves up to a second less than the true error: a larger error is always noticed,
	// one of [MaxClockError] or less never.
	MaxClockOffset = MaxClockError + time.Second
)

// withDefaults replaces zero values by the defaults.
func (u Rules) withDefaults() Rules {
	if u.Skew == 0 {
		u.Skew = DefaultSkew
	}
	if u.Retention == 0 {
		u.Retention = DefaultRetention
	}
	return u
}

// Validate returns an error that names the field that is out of range.
func (u Rules) Validate() error {
	u = u.withDefaults()
	if u.Skew < 0 || u.Skew > MaxClockOffset {
		return fmt.Errorf("lock: Skew is %v; it must be from 0 to %v, the error at which every coordinator stops granting", u.Skew, MaxClockOffset)
	}
	if u.Retention <= MaxFenceLead {
		return fmt.Errorf("lock: Retention is %v; it must exceed %v, the lead a fencing token may have", u.Retention, MaxFenceLead)
	}
	return nil
}

func (u Rules) skew() int64 { return u.Skew.Milliseconds() }

// purgeAt is the native TTL of a record, in Unix seconds: the retention after the latest of now, freeAt (milliseconds) and
// the fencing token (microseconds), rounded up. So a take after the purge, with a now that is at most a retention old,
// proposes a higher fencing token than the row had.
func (u Rules) purgeAt(now time.Time, freeAt, fence int64) int64 {
	latest := max(now.UnixMilli(), freeAt, (fence+999)/1000)
	return (latest+999)/1000 + int64(u.Retention/time.Second)
}
