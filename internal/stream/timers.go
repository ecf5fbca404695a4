package stream

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// A Timer is set when a lease is granted, or when a waiter first joins behind it, and names its grant.
type Timer struct {
	lock.GrantRef
	Due time.Time
}

// Timers set timers. A timer may fire more than once: it does nothing to a lease that has ended or was renewed.
type Timers interface {
	// Arm sets timers. It returns an error for each timer, nil for one that is set; a nil slice means that all are.
	Arm(ctx context.Context, timers []Timer) []error
}

// arm sets the timers of a batch, which are those of [lock.Write.Effects]. A lease that ends within the batch needs no timer.
func (c *Consumer) arm(ctx context.Context, batch []derivation) (failures []failure) {
	if c.Timers == nil {
		return nil
	}
	var timers []Timer
	var timerOf []int // the index of each timer's write
	for i, d := range batch {
		if d.Poison != nil {
			continue
		}
		for _, ch := range d.effects.Timed {
			ref := lock.GrantRef{Lock: d.Lock, Key: ch.Key, Fence: ch.Lease.Fence}
			if !endsWithin(batch[i+1:], ref) {
				timers, timerOf = append(timers, Timer{ref, c.due(ch.Lease)}), append(timerOf, i)
			}
		}
	}
	if len(timers) == 0 {
		return nil
	}
	for i, err := range c.Timers.Arm(ctx, timers) {
		if err != nil {
			t := timers[i]
			c.reporter().fault(ctx, TimerFailed, "timer was not set", slog.String("lock", t.Lock), slog.Int64("fence", t.Fence), slog.Any("error", err))
			failures = append(failures, failure{Job{Kind: JobTimer, Lock: t.Lock, Timer: t}, timerOf[i], err})
		}
	}
	return failures
}

// due is when a lease's timer fires: a skew allowance after its expiry, or at the next check of its execution.
func (c *Consumer) due(l lock.Lease) time.Time {
	if l.Execution != "" && !l.Unclaimed {
		return time.UnixMilli(l.CheckAt)
	}
	return time.UnixMilli(l.ExpiresAt).Add(c.Skew)
}

// endsWithin reports whether a grant is over by the end of the batch. It spares most timers of locks that are held for less
// than the stream's polling interval. The record of a wait's end, which may follow that of the write that ended it, does not show the lock.
func endsWithin(rest []derivation, ref lock.GrantRef) bool {
	return slices.ContainsFunc(rest, func(d derivation) bool {
		return d.Lock == ref.Lock && d.Poison == nil && !d.OfWait() && d.After.Holders[ref.Key].Fence != ref.Fence
	})
}
