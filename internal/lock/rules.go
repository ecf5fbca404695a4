package lock

import (
	"fmt"
	"time"
)

// Rules are the protocol's constants. They must be the same for all coordinators of a table.
type Rules struct {
	// Skew is how far apart, pairwise, the coordinators' clocks may be. A lease is taken over only when it is past its
	// expiry by this much. Zero means 250 ms.
	Skew time.Duration

	// Retention is how long a row outlives its last use before native TTL may purge it. While a row is there the record
	// recognises late duplicates and a clock that went back; after it, a new row's fences still grow, as long as no write
	// lands later than this after its coordinator read the clock. Zero means 24 hours; it must exceed [MaxFenceLead].
	Retention time.Duration
}

const (
	// DefaultSkew is the default of [Rules.Skew].
	DefaultSkew = 250 * time.Millisecond
	// DefaultRetention is the default of [Rules.Retention].
	DefaultRetention = 24 * time.Hour
	// MaxFenceLead is how far ahead of now a fencing token may be granted. A record whose fence is further ahead was
	// written by a badly wrong clock; it is refused until time catches up, because a purge could not outlast it.
	MaxFenceLead = time.Hour
	// MaxClockError is how far off a reply of the store may prove a coordinator's clock to be before it stops granting.
	MaxClockError = time.Second
	// MaxClockOffset is how far a coordinator's clock can be off, and grant. The store tells its time cut to whole seconds, so
	// a prompt reply proves up to a second less than the clock is off: a clock that is off by more than this is always
	// noticed, and one that is off by [MaxClockError] or less never.
	MaxClockOffset = MaxClockError + time.Second
)

// withDefaults fills in the zero values.
func (u Rules) withDefaults() Rules {
	if u.Skew == 0 {
		u.Skew = DefaultSkew
	}
	if u.Retention == 0 {
		u.Retention = DefaultRetention
	}
	return u
}

// Validate says which rule cannot be kept.
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

// purgeAt is the native TTL, in Unix seconds: the latest of now, freeAt (ms) and the fence (µs), rounded up, plus the
// retention. So whoever takes the lock after the purge, with a now that is at most a retention old, proposes a higher
// fence than the row had.
func (u Rules) purgeAt(now time.Time, freeAt, fence int64) int64 {
	latest := max(now.UnixMilli(), freeAt, (fence+999)/1000)
	return (latest+999)/1000 + int64(u.Retention/time.Second)
}
