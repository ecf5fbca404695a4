package lock

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

// The part of the explorer that has limits by prefix. They are in force from the start, and bind every client.

// A limitedWorld is the limits of a world. Its zero value sets none.
type limitedWorld struct {
	hold       int64 // max_hold_ms, in ticks
	principals uint8 // bit per client that is a session of the one role whose permits are counted
	permits    int64 // max_per_principal

	// What a mutant changes.
	endless  bool // a client believes in the lease of its execution beyond the lease's end
	noLeases bool // the leases of a principal are not counted
	noPlaces bool // its places are not counted
	overdue  bool // its leases that are over are counted
}

// principalOf is the principal of a client: sessions of one role, or nobody.
func (l limitedWorld) principalOf(client int) string {
	if l.principals&(1<<client) == 0 {
		return ""
	}
	return fmt.Sprintf("arn:aws:sts::123456789012:assumed-role/deploy/%d", client)
}

// used are the permits that the role holds, those of them whose lease is over by every clock, and those that it waits for.
func (x *explorer) used(now time.Time, r Record) (holds, over, waits int64) {
	for _, h := range r.Holders {
		if h.Principal == "" {
			continue
		}
		if holds += h.Permits; h.ExpiresAt+x.rules.skew() <= now.UnixMilli() {
			over += h.Permits
		}
	}
	for _, w := range r.Queue {
		if w.Principal != "" {
			waits += w.Permits
		}
	}
	return holds, over, waits
}

// limits are the limits of an acquire that is decided on a record. A mutant that counts other permits of the principal has another limit by as many.
func (x *explorer) limits(now time.Time, r Record) (l lockLimits) {
	if x.limited.hold > 0 {
		l.hold = Limit{LimitHold, x.limited.hold * tick.Milliseconds(), ""}
	}
	if x.limited.permits > 0 {
		l.principal = Limit{LimitPrincipal, x.limited.permits, ""}
		holds, over, waits := x.used(now, r)
		if x.limited.noLeases {
			l.principal.Value += holds - over
		}
		if x.limited.noPlaces {
			l.principal.Value += waits
		}
		if x.limited.overdue {
			l.principal.Value = max(l.principal.Value-over, 1)
		}
	}
	return l
}

// checkLimits checks that no lease may last longer than its limit, counted from its grant, and that the role has no more permits and places than it may.
func (x *explorer) checkLimits(before, after Record) {
	for k, h := range after.Holders {
		was := before.Holders[k]
		if was.Fence == h.Fence && (was.AcquiredAt != h.AcquiredAt || was.EndsAt != h.EndsAt) {
			x.fail("limit: the grant of %v is of another time, or ends at another", k)
		}
		if most := x.limited.hold * tick.Milliseconds(); most > 0 && h.ExpiresAt > h.AcquiredAt+most {
			x.fail("limit: the lease of %v lasts for %d ms from its grant on", k, h.ExpiresAt-h.AcquiredAt)
		}
	}
	if holds, _, waits := x.used(time.Time{}, after); x.limited.permits > 0 && holds+waits > x.limited.permits {
		x.fail("limit: a principal holds %d permits and waits for %d", holds, waits)
	}
}

// checkRefused checks that an acquire which the principal's limit refuses would have made too many permits.
func (x *explorer) checkRefused(m message, r Record, err error) {
	limit, refused := errors.AsType[*LimitError](err)
	if !refused || limit.Name != LimitPrincipal {
		return
	}
	now := x.clock(m.read)
	holds, over, waits := x.used(now, r)
	for _, w := range r.Queue {
		if w.Principal != "" && w.Until <= now.UnixMilli() {
			waits -= w.Permits
		}
	}
	if holds-over+waits+x.sizes[m.client].permits <= x.limited.permits {
		x.fail("limit: an acquire of %v is refused beside %d permits", key(m.client, m.lease), holds-over+waits)
	}
}

// limitWorlds are walked with the others.
var limitWorlds = []world{
	{name: "a limit of the time held", clients: 2, capacity: 1, leases: 1, sends: 2, ttl: 3, retention: 4, horizon: 3, limited: limitedWorld{hold: 4}},
	{name: "a limit of the time held, and claims", clients: 2, capacity: 1, renewals: true, leases: 1, sends: 2, ttl: 3, wait: 2, retention: 4, horizon: 2, limited: limitedWorld{hold: 2}},
	{name: "a limit of the time held, and an execution", clients: 2, capacity: 1, bound: 0b10, departs: 1, renewals: true, leases: 1, sends: 2, ttl: 1, wait: 2, retention: 2, horizon: 2, limited: limitedWorld{hold: 1}},
	{name: "a limit of a principal's permits", clients: 2, capacity: 2, leases: 1, sends: 2, ttl: 1, retention: 2, horizon: 2, limited: limitedWorld{principals: 0b11, permits: 1}},
	{name: "a limit of two permits of a principal", clients: 3, capacity: 3, leases: 1, sends: 1, ttl: 1, retention: 2, horizon: 3, limited: limitedWorld{principals: 0b111, permits: 2}},
	{name: "a limit of a principal's permits, and a queue", clients: 3, capacity: 1, leases: 1, sends: 1, ttl: 1, wait: 2, retention: 2, horizon: 3, limited: limitedWorld{principals: 0b110, permits: 1}},
}

// limitMutants break the rules of limits. A world with limits must show each.
var limitMutants = map[string]func(*world){
	"a blind renewal extends a lease beyond its end": func(w *world) { w.mutate = mutant{Renew, LeaseMayLast}.apply },
	"a renewal that was decided extends a lease beyond its end": func(w *world) {
		w.mutate = changed(func(_, h Lease, cause Cause) Lease {
			if cause == CauseRenew {
				h.ExpiresAt = max(h.ExpiresAt, h.RenewedAt+h.TTL)
			}
			return h
		})
	},
	"a claim extends a lease beyond its end": func(w *world) {
		w.mutate = changed(func(was, h Lease, _ Cause) Lease {
			if was.Unclaimed && !h.Unclaimed {
				h.ExpiresAt = max(h.ExpiresAt, h.RenewedAt+h.TTL)
			}
			return h
		})
	},
	"the time held counts from the claim": func(w *world) {
		w.mutate = changed(func(was, h Lease, _ Cause) Lease {
			if was.Unclaimed && !h.Unclaimed {
				h.EndsAt = h.RenewedAt + h.Bounds.MaxHold
			}
			return h
		})
	},
	"the lease of an execution lasts beyond its end": func(w *world) {
		w.mutate = changed(func(_, h Lease, _ Cause) Lease {
			if h.Execution != "" && !h.Unclaimed {
				h.ExpiresAt = h.AcquiredAt + ExecutionLife.Milliseconds()
			}
			return h
		})
	},
	"an execution believes beyond the end of its lease":   func(w *world) { w.limited.endless = true },
	"the leases of a principal are not counted":           func(w *world) { w.limited.noLeases = true },
	"the places of a principal are not counted":           func(w *world) { w.limited.noPlaces = true },
	"the leases of a principal that are over are counted": func(w *world) { w.limited.overdue = true },
}

// changed changes the leases in the records that swaps write. was is the lease under the same key before.
func changed(change func(was, h Lease, cause Cause) Lease) func(Command) Command {
	return func(c Command) Command {
		b, ok := c.Effect.(Become)
		if !ok {
			return c
		}
		for k, h := range b.To.Holders {
			b.To = b.To.withHolder(k, change(b.From.Holders[k], h, c.Stamp.Cause))
		}
		b.To.FreeAt = freeAt(b.To.Holders)
		c.Stamp.TTL += int64(ExecutionLife / time.Second) // not purged too early
		c.Effect = b
		return c
	}
}

func TestLimitMutants(t *testing.T) {
	var killed atomic.Int64
	t.Run("all", func(t *testing.T) {
		for name, change := range limitMutants {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				by := caughtIn(limitWorlds, change)
				if by == "" {
					t.Fatal("survives")
				}
				t.Log("caught by " + by)
				killed.Add(1)
			})
		}
	})
	fmt.Printf("mutants: %d of %d of limits killed\n", killed.Load(), len(limitMutants))
}
