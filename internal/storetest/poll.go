package storetest

import (
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

func polling(ticket int64) func(*lock.AcquireRequest) {
	return func(r *lock.AcquireRequest) { r.Wait, r.Ticket = place, ticket }
}

// poll sends an acquire with a ticket, and returns the refusal; nil: it was granted.
func (f *fixture) poll(secret string, ticket int64) *lock.HeldError {
	f.t.Helper()
	_, err := f.acquire(secret, polling(ticket))
	held, ok := errors.AsType[*lock.HeldError](err)
	if err != nil && !ok {
		f.t.Fatalf("poll of %s: %v", secret, err)
	}
	return held
}

// apply applies a command to the fixture's lock.
func (f *fixture) apply(c lock.Command) error {
	_, err := f.store.Apply(f.t.Context(), f.name, c)
	return err
}

// pollSuite is the part of the suite that covers tickets, places, and the writes of waiters alone.
var pollSuite = map[string]func(*fixture){
	"a poll finds its place by its ticket": func(f *fixture) {
		f.mustAcquire("a", func(r *lock.AcquireRequest) { r.TTL = time.Hour })
		b, c := f.poll("b", 0), f.poll("c", 0)
		rev := f.record().Rev
		for range 4 {
			f.clock.Advance(place/2 + time.Second)
			for secret, first := range map[string]*lock.HeldError{"b": b, "c": c} {
				if held := f.poll(secret, first.Ticket); held == nil || held.Position != first.Position || held.Ticket != first.Ticket || held.Waiting != 2 {
					f.t.Errorf("%s: %+v", secret, held)
				}
			}
		}
		if f.record().Rev != rev {
			f.t.Error("polls changed the record")
		}
		f.must(f.release("a"))
		if held := f.poll("b", b.Ticket); held != nil {
			f.t.Errorf("%+v", held)
		}
		f.holds("b")
		f.queue("c")
	},
	"a ticket of another lock's waiter": func(f *fixture) {
		f.mustAcquire("a")
		mine := f.poll("b", 0)
		other := Name()
		for range 3 {
			_, _ = f.acquire(Secret(), waiting, func(r *lock.AcquireRequest) { r.Lock = other })
		}
		if held := f.poll("b", mine.Ticket+2); held == nil || held.Ticket != mine.Ticket {
			f.t.Errorf("%+v", held)
		}
		f.queue("b")
	},
	"a waiter is kept only as it was read": func(f *fixture) {
		f.mustAcquire("a")
		f.waits("b")
		list, err := f.store.Waiters(f.t.Context(), f.name, 10)
		f.must(nil, err)
		w := list[0]
		keep := func(seen, until int64) error {
			return f.apply(lock.Command{
				Kind: lock.Extends, Guard: []lock.Clause{{Test: lock.PlaceUntil, Key: w.Key, N: seen}}, Effect: lock.Keep{Ticket: w.Ticket, Key: w.Key, Until: until},
			})
		}
		f.must(nil, keep(w.Until, w.Until+5))
		for _, err := range []error{keep(w.Until, w.Until+9), f.apply(lock.Command{
			Kind: lock.Extends, Guard: []lock.Clause{{Test: lock.PlaceUntil, Key: "another", N: w.Until + 5}}, Effect: lock.Keep{Ticket: w.Ticket, Key: "another", Until: 9},
		})} {
			if failed, ok := errors.AsType[*lock.GuardError](err); !ok || !failed.Places {
				f.t.Errorf("%v", err)
			}
		}
		got, err := f.store.Place(f.t.Context(), f.name, w.Key)
		f.must(nil, err)
		if list, _ = f.store.Waiters(f.t.Context(), f.name, 10); list[0].Until != w.Until+5 || got.Ticket != 0 && got != list[0] {
			f.t.Errorf("waiters %+v, place %+v", list, got)
		}
	},
	"a write that removes or changes a waiter needs it as it was read": func(f *fixture) {
		f.mustAcquire("a", func(r *lock.AcquireRequest) { r.TTL = time.Hour })
		b := f.poll("b", 0)
		_ = f.poll("c", 0)
		from := f.record()
		from.Queue, _ = f.store.Waiters(f.t.Context(), f.name, 10)
		f.clock.Advance(place/2 + time.Second)
		_ = f.poll("b", b.Ticket)
		gone, later := from, from
		gone.Queue, gone.Waiting = from.Queue[1:], 1
		changed := from.Queue[0]
		changed.Until++
		later.Queue = []lock.Waiter{changed, from.Queue[1]}
		for name, to := range map[string]lock.Record{"removes": gone, "changes": later} {
			err := f.apply(lock.Command{
				Kind: lock.Swap, Effect: lock.Become{From: from, To: to}, Stamp: lock.Stamp{Cause: lock.CauseQueue, TTL: from.TTL},
				Guard: []lock.Clause{{Test: lock.RevIs, N: from.Rev}, {Test: lock.PlaceUntil, Key: changed.Key, N: from.Queue[0].Until}},
			})
			failed, ok := errors.AsType[*lock.GuardError](err)
			if !ok || !failed.Places || failed.Current.Rev != from.Rev {
				f.t.Errorf("%s: %v", name, err)
			}
		}
		f.queue("b", "c")
	},
	"a write leaves the waiters that it does not change": func(f *fixture) {
		f.mustAcquire("a", func(r *lock.AcquireRequest) { r.TTL = time.Hour })
		b, c := f.poll("b", 0), f.poll("c", 0)
		from := f.record()
		from.Queue, _ = f.store.Waiters(f.t.Context(), f.name, 10)
		f.clock.Advance(place/2 + time.Second)
		_ = f.poll("c", c.Ticket)
		to := from
		to.Queue, to.Waiting = from.Queue[1:], 1
		f.must(nil, f.apply(lock.Command{
			Kind: lock.Swap, Effect: lock.Become{From: from, To: to}, Stamp: lock.Stamp{Cause: lock.CauseQueue, TTL: from.TTL + 100},
			Guard: []lock.Clause{{Test: lock.RevIs, N: from.Rev}, {Test: lock.PlaceUntil, Key: from.Queue[0].Key, N: from.Queue[0].Until}},
		}))
		if list, _ := f.store.Waiters(f.t.Context(), f.name, 10); len(list) != 1 || list[0].Until <= from.Queue[1].Until {
			f.t.Errorf("%+v was kept since, and is stored as %+v", from.Queue[1], list)
		}
		if held := f.poll("b", b.Ticket); held == nil || held.Position != 2 { // it has lost its place, and joins again
			f.t.Errorf("%+v", held)
		}
	},
	"a place behind the head is found, and left, and taken again": func(f *fixture) {
		f.mustAcquire("a", func(r *lock.AcquireRequest) { r.TTL = time.Hour })
		const n = lock.QueueHead + 5
		var last *lock.HeldError
		for i := range n {
			last = f.poll(fmt.Sprintf("w%d", i), 0)
		}
		for _, i := range []int{0, lock.QueueHead - 1, lock.QueueHead, n - 1} {
			if held := f.poll(fmt.Sprintf("w%d", i), 0); held.Position != int64(i+1) || held.Waiting != n {
				f.t.Errorf("w%d repeats: %+v", i, held)
			}
		}
		secret := fmt.Sprintf("w%d", n-1)
		f.clock.Advance(place + time.Second) // all but w14 are abandoned
		f.waits(secret)
		from := f.record()
		f.must(nil, f.Settle(f.t.Context(), f.name))
		if r := f.record(); r.Waiting != 1 || r.Head != last.Ticket || r.Rev == from.Rev {
			f.t.Errorf("%+v", r)
		}
		f.clock.Advance(place + time.Second)
		f.must(nil, f.Settle(f.t.Context(), f.name))
		for i := range n {
			_ = f.poll(fmt.Sprintf("x%d", i), 0)
		}
		again := f.poll(secret, last.Ticket) // its old place is gone
		if again == nil || again.Position != n+1 || again.Ticket == last.Ticket {
			f.t.Errorf("%+v", again)
		}
		if held := f.poll(secret, 0); held == nil || held.Ticket != again.Ticket {
			f.t.Errorf("%+v", held)
		}
		f.must(f.release(secret))
		if r := f.record(); r.Waiting != n {
			f.t.Errorf("%d wait", r.Waiting)
		}
	},
	"a waiter that lost its place joins again as the eleventh": func(f *fixture) {
		f.mustAcquire("a", func(r *lock.AcquireRequest) { r.TTL = time.Hour })
		for i := range lock.QueueHead + 1 {
			_ = f.poll(fmt.Sprintf("w%d", i), 0)
		}
		secret := fmt.Sprintf("w%d", lock.QueueHead)
		f.clock.Advance(place + time.Second)
		f.must(nil, f.Settle(f.t.Context(), f.name))
		for i := range lock.QueueHead {
			_ = f.poll(fmt.Sprintf("x%d", i), 0)
		}
		if held := f.poll(secret, 0); held == nil || held.Position != lock.QueueHead+1 {
			f.t.Errorf("%+v", held)
		}
	},
	"a request that is delivered twice joins once": func(f *fixture) {
		f.mustAcquire("a", func(r *lock.AcquireRequest) { r.TTL = time.Hour })
		for i := range lock.QueueHead + 3 {
			_ = f.poll(fmt.Sprintf("w%d", i), 0)
		}
		from := f.record()
		from.Queue, _ = f.store.Waiters(f.t.Context(), f.name, lock.QueueHead)
		joined := f.poll("twice", 0)
		now := f.record()
		now.Queue = from.Queue // as a try that lost to the duplicate would see it: others have only joined since
		w, err := f.store.Place(f.t.Context(), f.name, lock.KeyOf(f.name, "twice"))
		f.must(nil, err)
		if w.Ticket != 0 && w.Ticket != joined.Ticket {
			f.t.Fatalf("place %+v", w)
		}
		to := now
		to.Own = lock.Waiter{Ticket: now.NextTicket + 1, Key: lock.KeyOf(f.name, "twice"), Terms: now.Queue[0].Terms, Until: now.Queue[0].Until}
		to.NextTicket, to.Waiting = now.NextTicket+1, now.Waiting+1
		err = f.apply(lock.Command{
			Kind: lock.Swap, Effect: lock.Become{From: now, To: to}, Stamp: lock.Stamp{Cause: lock.CauseQueue, TTL: now.TTL},
			Guard: []lock.Clause{{Test: lock.RevIs, N: now.Rev}},
		})
		if failed, ok := errors.AsType[*lock.GuardError](err); !ok || !failed.Places {
			f.t.Errorf("joined twice: %v", err)
		}
	},
}
