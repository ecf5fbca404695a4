package storetest

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// Property applies random commands to random records on the store and on the reference interpreter, and compares every result and all
// that is stored.
func Property(t *testing.T, store lock.Store) {
	ctx := t.Context()
	rapid.Check(t, func(t *rapid.T) {
		name, model := Name(), &lock.Memory{}
		for step := range rapid.IntRange(1, 12).Draw(t, "steps") {
			current, err := model.Get(ctx, name)
			if err != nil {
				t.Fatal(err)
			}
			r := current.After
			r.Queue, _ = model.Waiters(ctx, name, rapid.IntRange(0, 3).Draw(t, "seen of the queue"))
			c := command(r).Draw(t, fmt.Sprintf("command %d", step))
			if len(r.Queue) > 0 && rapid.IntRange(0, 4).Draw(t, "keeps") == 0 {
				c = keep(r.Queue).Draw(t, "keep")
			}
			got, gotErr := store.Apply(ctx, name, c)
			want, wantErr := model.Apply(ctx, name, c)
			gotGuard, _ := errors.AsType[*lock.GuardError](gotErr)
			wantGuard, _ := errors.AsType[*lock.GuardError](wantErr)
			if (gotGuard == nil) != (wantGuard == nil) || (gotErr == nil) != (wantErr == nil) {
				t.Fatalf("%+v on %+v: store says %v, model %v", c, current.After, gotErr, wantErr)
			}
			same(t, "before", unsplit(got.Before, nil), textless(got.Before, want.Before))
			same(t, "after", unsplit(got.After, nil), textless(got.After, want.After))
			if gotGuard != nil && c.Kind != lock.Extends {
				same(t, "current", unsplit(gotGuard.Current, nil), textless(gotGuard.Current, wantGuard.Current))
			}
			gotQueue, err := store.Waiters(ctx, name, lock.MaxQueue)
			if err != nil {
				t.Fatal(err)
			}
			wantQueue, _ := model.Waiters(ctx, name, lock.MaxQueue)
			if !slices.Equal(gotQueue, wantQueue) {
				t.Fatalf("queue: store has\n%+v, the model\n%+v", gotQueue, wantQueue)
			}
			stored, err := store.Get(ctx, name)
			if err != nil {
				t.Fatal(err)
			}
			now, _ := model.Get(ctx, name)
			var fences []int64
			for _, l := range stored.After.Holders {
				if l.Split != lock.Whole {
					fences = append(fences, l.Fence)
				}
			}
			texts := map[int64]lock.Texts{}
			if len(fences) > 0 {
				texts, err = store.Texts(ctx, name, slices.Compact(slices.Sorted(slices.Values(fences))))
			}
			if err != nil {
				t.Fatal(err)
			}
			same(t, "stored", unsplit(stored.After, texts), now.After)
		}
	})
}

// unsplit is a record with the texts that its store keeps apart.
func unsplit(r lock.Record, texts map[int64]lock.Texts) lock.Record {
	r.Holders = maps.Clone(r.Holders)
	for k, l := range r.Holders {
		r.Holders[k] = l.With(texts[l.Fence])
	}
	return r
}

// textless is the model's record without the texts that a store keeps apart of its own.
func textless(stored, model lock.Record) lock.Record {
	model.Holders = maps.Clone(model.Holders)
	for k, l := range model.Holders {
		split := stored.Holders[k].Split
		if split != lock.Whole {
			l.Owner, l.Principal, l.Set, l.Trace, l.Joined = "", "", "", "", 0
		}
		if split == lock.Split {
			l.Metadata = ""
		}
		model.Holders[k] = l
	}
	return model
}

func same(t *rapid.T, what string, got, want lock.Record) {
	t.Helper()
	if len(got.Holders) == 0 && len(want.Holders) == 0 { // a nil map and an empty one are the same record
		got.Holders, want.Holders = nil, nil
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s: store has\n%+v, the model\n%+v", what, got, want)
	}
}

var (
	leases = []lock.LeaseKey{"aaaaaaaaaaaaaaaaaaaaaa", "b-_bbbbbbbbbbbbbbbbbbb", "c.c#:cccccccccccccccccc"}
	causes = lock.Causes()
	small  = shared(rapid.Int64Range(0, 6))
	texts  = []string{"", "x", "ünï ✓", `{"a":[1,2]}`}
	text   = shared(rapid.SampledFrom(texts))
	bounds = shared(rapid.Custom(func(t *rapid.T) lock.Bounds {
		return lock.Bounds{MaxTTL: small.Draw(t, "max ttl"), MaxHold: small.Draw(t, "max hold"), TTLPrefix: small.Draw(t, "ttl of"), HoldPrefix: small.Draw(t, "hold of")}
	}))
	token = shared(rapid.Custom(func(t *rapid.T) lock.Token {
		return lock.Token{Kind: rapid.SampledFrom([]lock.TokenKind{lock.TaskToken, lock.CallbackToken}).Draw(t, "kind"), Text: text.Draw(t, "token")}
	}))
)

// shared makes a generator that parallel tests may use. A generator of rapid 1.3.0 computes its name on the first call of String, which a slice
// of its values makes, and reads the name in every draw without a lock: so the name is computed before any test runs.
func shared[V any](g *rapid.Generator[V]) *rapid.Generator[V] {
	_ = g.String()
	return g
}

func holder() *rapid.Generator[lock.Lease] {
	return rapid.Custom(func(t *rapid.T) lock.Lease {
		return lock.Lease{
			Terms: lock.Terms{Owner: text.Draw(t, "owner"), Principal: text.Draw(t, "principal"), Permits: small.Draw(t, "permits"), TTL: small.Draw(t, "ttl"), Metadata: text.Draw(t, "metadata"), Tokens: lock.TokensOf(rapid.SliceOfN(token, 0, 4).Draw(t, "tokens")...), Execution: text.Draw(t, "execution"), Trace: text.Draw(t, "trace"), Joined: small.Draw(t, "joined"), Capacity: small.Draw(t, "capacity"), Bounds: bounds.Draw(t, "bounds"), Set: rapid.SampledFrom([]string{"", "a,b", "a,b:c,d"}).Draw(t, "set")},
			Fence: small.Draw(t, "fence"), AcquiredAt: small.Draw(t, "acquired_at"), RenewedAt: small.Draw(t, "renewed_at"), ExpiresAt: small.Draw(t, "expires_at"), Unclaimed: rapid.Bool().Draw(t, "unclaimed"), Attempted: rapid.Bool().Draw(t, "attempted"), Known: rapid.Bool().Draw(t, "known"), Told: rapid.Bool().Draw(t, "told"), CheckAt: small.Draw(t, "check_at"), EndsAt: small.Draw(t, "ends_at"),
		}
	})
}

// command draws any guard, and any effect that makes sense on a record that the guard allows: more than the protocol's commands, and
// close enough to the record that about half of the guards hold.
func command(r lock.Record) *rapid.Generator[lock.Command] {
	return rapid.Custom(func(t *rapid.T) lock.Command {
		lease := rapid.SampledFrom(leases).Draw(t, "lease")
		c := lock.Command{Stamp: lock.Stamp{
			Cause: rapid.SampledFrom(causes).Draw(t, "cause"), By: text.Draw(t, "by"), Reason: text.Draw(t, "reason"),
			TTL: small.Draw(t, "ttl"),
		}}
		for range rapid.IntRange(0, 3).Draw(t, "clauses") {
			clause := lock.Clause{Test: lock.Test(rapid.IntRange(1, int(lock.FenceIs)).Draw(t, "test")), N: small.Draw(t, "n")}
			switch clause.Test {
			case lock.NotRetired, lock.LeaseOutlives, lock.LeaseExpiredBy, lock.LeaseTTLIs, lock.LeaseTTLAllows, lock.LeaseMayLast, lock.LeaseClaimed:
				clause.Key = lease
			}
			switch clause.Test {
			case lock.RevIs:
				clause.N = r.Rev + rapid.Int64Range(-1, 1).Draw(t, "rev")
			case lock.NobodyWaiting, lock.OnlyHolder, lock.NotRetired, lock.LeaseClaimed:
				clause.N = 0
			}
			c.Guard = append(c.Guard, clause)
		}
		_, held := r.Holders[lease]
		switch kind := rapid.IntRange(0, 3).Draw(t, "effect"); {
		case r.Rev == 0 || kind == 0:
			c.Absent = rapid.IntRange(0, 9).Draw(t, "absent") > 0
			c.Effect = lock.Grant{Key: lease, Lease: holder().Draw(t, "holder"), Capacity: small.Draw(t, "capacity")}
		case kind == 1 && held:
			c.Effect = lock.Extend{
				Key: lease, ExpiresAt: small.Draw(t, "expires_at"), RenewedAt: small.Draw(t, "renewed_at"), TTL: small.Draw(t, "ttl_ms"),
				Metadata: rapid.Ptr(rapid.SampledFrom(texts[1:]), true).Draw(t, "metadata"), // what a renewal brings is an object
			}
		case kind == 2 && held:
			c.Effect = lock.End{Key: lease, At: small.Draw(t, "at"), Cause: rapid.SampledFrom(causes).Draw(t, "retired cause")}
		default:
			to := become(t, r)
			c.Effect = lock.Become{From: r, To: to}
			for _, w := range r.Queue { // as every swap has it
				if !slices.Contains(to.Queue, w) {
					c.Guard = append(c.Guard, lock.Clause{Test: lock.PlaceUntil, Key: w.Key, N: w.Until})
				}
			}
		}
		if len(c.Guard) == 0 { // every command of the protocol has a guard
			c.Guard = append(c.Guard, lock.Clause{Test: lock.RevIs, N: r.Rev})
		}
		return c
	})
}

// keep draws an extension of a waiter's place, of which half see another end of the place than is stored.
func keep(queue []lock.Waiter) *rapid.Generator[lock.Command] {
	return rapid.Custom(func(t *rapid.T) lock.Command {
		w := rapid.SampledFrom(queue).Draw(t, "waiter")
		return lock.Command{
			Kind: lock.Extends, Guard: []lock.Clause{{Test: lock.PlaceUntil, Key: w.Key, N: w.Until + rapid.Int64Range(0, 1).Draw(t, "seen until")}},
			Effect: lock.Keep{Ticket: w.Ticket, Key: w.Key, Until: small.Draw(t, "kept until")},
		}
	})
}

func become(t *rapid.T, from lock.Record) lock.Record {
	to := from
	to.Holders = map[lock.LeaseKey]lock.Lease{}
	maps.Copy(to.Holders, from.Holders)
	for i, key := range slices.Sorted(slices.Values(leases)) {
		h, held := from.Holders[key]
		switch rapid.IntRange(0, 3).Draw(t, "change") {
		case 0:
			delete(to.Holders, key)
		case 1:
			l := holder().Draw(t, "new holder")
			l.Fence = 8*l.Fence + int64(i) // as in the protocol, no two leases have the same
			if held && rapid.Bool().Draw(t, "stays") {
				l.Fence = h.Fence
			}
			if to.Holders[key] = l; held && l.Fence == h.Fence { // a lease that stays keeps what only its grant sets
				n := to.Holders[key]
				h.ExpiresAt, h.RenewedAt, h.TTL, h.Metadata = n.ExpiresAt, n.RenewedAt, n.TTL, cmp.Or(n.Metadata, h.Metadata)
				h.Unclaimed, h.Attempted, h.Known, h.CheckAt = n.Unclaimed, n.Attempted, n.Known, n.CheckAt
				to.Holders[key] = h
			}
		}
	}
	to.Capacity, to.Fence, to.FreeAt = small.Draw(t, "capacity"), small.Draw(t, "fence"), small.Draw(t, "free_at")
	to.Queue = nil
	for _, w := range from.Queue {
		switch rapid.IntRange(0, 2).Draw(t, "change of a waiter") {
		case 0: // removed
		case 1:
			w.Until = small.Draw(t, "until")
			to.Queue = append(to.Queue, w)
		default:
			to.Queue = append(to.Queue, w)
		}
	}
	if rapid.Bool().Draw(t, "joins") {
		ticket := int64(1)
		if rapid.Bool().Draw(t, "far ahead") {
			ticket = 1000
		}
		ticket += from.Rev
		w := lock.Waiter{Ticket: ticket, Key: lock.LeaseKey(fmt.Sprintf("waiter %d", ticket)), Terms: holder().Draw(t, "want").Terms, Known: rapid.Bool().Draw(t, "known"), Until: small.Draw(t, "until")}
		for i := range lock.SetNames(w.Set) {
			w.Tickets[i] = ticket + int64(i)
		}
		to.Queue = append(to.Queue, w)
	}
	to.Head = small.Draw(t, "head")
	to.Waiting, to.NextTicket = rapid.Int64Range(0, 1).Draw(t, "waiting"), small.Draw(t, "next_ticket")
	if grants := rapid.SliceOfN(small, 0, 3).Draw(t, "grants"); len(grants) > 0 {
		to.Grants = grants
	}
	if rapid.Bool().Draw(t, "retires") {
		to.Retired = lock.Retired{
			Key: rapid.SampledFrom(leases).Draw(t, "retired"), Fence: small.Draw(t, "retired fence"), At: small.Draw(t, "retired at"),
			Cause: rapid.SampledFrom(causes).Draw(t, "retired cause"),
		}
	}
	return to
}
