package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// SetProperty applies random commands to several records in one atomic step, on the store and on the reference interpreter, and compares every
// result and all that is stored.
func SetProperty(t *testing.T, store lock.Store) {
	ctx := t.Context()
	rapid.Check(t, func(t *rapid.T) {
		model := &lock.Memory{}
		var names []string
		for range rapid.IntRange(2, 3).Draw(t, "locks") {
			names = append(names, Name())
		}
		for step := range rapid.IntRange(1, 8).Draw(t, "steps") {
			var parts []lock.Part
			for i, name := range names {
				current, err := model.Get(ctx, name)
				if err != nil {
					t.Fatal(err)
				}
				r := current.After
				r.Queue, _ = model.Waiters(ctx, name, rapid.IntRange(0, 3).Draw(t, "seen of the queue"))
				c := command(r).Draw(t, fmt.Sprintf("command %d of %d", step, i))
				if len(r.Queue) > 0 && rapid.IntRange(0, 4).Draw(t, "keeps") == 0 {
					c = keep(r.Queue).Draw(t, "keep")
				}
				parts = append(parts, lock.Part{Lock: name, Command: c, Read: r})
			}
			_, gotErr := store.ApplyAll(ctx, parts)
			_, wantErr := model.ApplyAll(ctx, parts)
			_, gotGuard := errors.AsType[*lock.GuardError](gotErr)
			_, wantGuard := errors.AsType[*lock.GuardError](wantErr)
			if gotGuard != wantGuard || (gotErr == nil) != (wantErr == nil) {
				t.Fatalf("%+v: store says %v, model %v", parts, gotErr, wantErr)
			}
			sameSet(ctx, t, store, model, names)
		}
	})
}

// sameSet compares what a store and its model have of several locks, as Read, Waiters and Get show it.
func sameSet(ctx context.Context, t *rapid.T, store, model lock.Store, names []string) {
	var list []lock.Ask
	for _, name := range names {
		got, err := store.Waiters(ctx, name, lock.MaxQueue)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := model.Waiters(ctx, name, lock.MaxQueue)
		if !slices.Equal(got, want) {
			t.Fatalf("queue: store has\n%+v, the model\n%+v", got, want)
		}
		ask := lock.Ask{Lock: name}
		if len(want) > 0 {
			ask.Ticket = want[0].Ticket
		}
		list = append(list, ask)
	}
	got, _, err := store.Read(ctx, list)
	if err != nil {
		t.Fatal(err)
	}
	want, _, _ := model.Read(ctx, list)
	for i := range list {
		same(t, "read", unsplit(got[i].Record, nil), textless(got[i].Record, want[i].Record))
		if got[i].Waiter != want[i].Waiter {
			t.Fatalf("read: store has the waiter\n%+v, the model\n%+v", got[i].Waiter, want[i].Waiter)
		}
	}
}

func (f *fixture) wants(capacity int64, n int) (list []lock.Want) {
	for i := range n {
		list = append(list, lock.Want{Lock: fmt.Sprintf("%s:%d", f.name, i), Capacity: capacity, Permits: 1})
	}
	return list
}

func (f *fixture) acquireAll(secret string, list []lock.Want, wait time.Duration, tickets ...int64) (lock.SetStatus, error) {
	return f.AcquireAll(f.t.Context(), lock.SetRequest{
		Locks: list, Secret: secret, Owner: "owner of " + secret, Principal: "arn:p", TTL: ttl, Metadata: `{"n":1}`, Wait: wait, Tickets: tickets,
	})
}

func (f *fixture) releaseAll(secret string, list []lock.Want) error {
	_, err := f.ReleaseAll(f.t.Context(), lock.SetReleaseRequest{Locks: locksOf(list), Secret: secret, Principal: "arn:p"})
	return err
}

func locksOf(list []lock.Want) (names []string) {
	for _, w := range list {
		names = append(names, w.Lock)
	}
	return names
}

// holdSet checks that a secret holds every lock of a set, or none.
func (f *fixture) holdSet(secret string, list []lock.Want, want bool) {
	f.t.Helper()
	for _, w := range list {
		r, err := f.store.Get(f.t.Context(), w.Lock)
		if err != nil {
			f.t.Fatal(err)
		}
		if _, has := r.After.Holders[lock.SetKey(locksOf(list), secret)]; has != want {
			f.t.Errorf("%s holds %s: %v", secret, w.Lock, has)
		}
	}
}

// removePlace removes a place from one queue, as no operation on a set does.
func (f *fixture) removePlace(name string, key lock.LeaseKey) {
	f.t.Helper()
	reply, err := f.store.Get(f.t.Context(), name)
	f.must(nil, err)
	from := reply.After
	from.Queue, err = f.store.Waiters(f.t.Context(), name, lock.MaxQueue)
	f.must(nil, err)
	i := slices.IndexFunc(from.Queue, func(w lock.Waiter) bool { return w.Key == key })
	to := from
	to.Queue, to.Waiting = slices.Delete(slices.Clone(from.Queue), i, i+1), from.Waiting-1
	_, err = f.store.Apply(f.t.Context(), name, lock.Command{
		Kind: lock.Swap, Guard: []lock.Clause{{Test: lock.RevIs, N: from.Rev}, {Test: lock.PlaceUntil, Key: key, N: from.Queue[i].Until}},
		Effect: lock.Become{From: from, To: to}, Stamp: lock.Stamp{Cause: lock.CauseQueue, TTL: from.TTL},
	})
	f.must(nil, err)
}

var setSuite = map[string]func(*fixture){
	"a set is granted, renewed and released as one": func(f *fixture) {
		for _, n := range []int{1, 2, lock.MaxSet} {
			for _, capacity := range []int64{1, 3} {
				f.name = Name()
				list := f.wants(capacity, n)
				first, err := f.acquireAll("a", list, 0)
				if err != nil || len(first.Leases) != n {
					f.t.Fatalf("%d locks: %+v, %v", n, first, err)
				}
				f.holdSet("a", list, true)
				again, err := f.acquireAll("a", list, 0)
				if err != nil || !slices.EqualFunc(again.Leases, first.Leases, func(a, b lock.LeaseStatus) bool { return a.Lease == b.Lease }) {
					f.t.Errorf("again %+v, %v; first %+v", again, err, first)
				}
				f.clock.Advance(ttl / 2)
				renewed, err := f.RenewAll(f.t.Context(), lock.SetRenewRequest{Locks: locksOf(list), Secret: "a", TTL: ttl})
				if err != nil || renewed.Remaining < ttl-time.Second {
					f.t.Errorf("renewed %+v, %v", renewed, err)
				}
				if err := f.releaseAll("a", list); err != nil {
					f.t.Error(err)
				}
				f.holdSet("a", list, false)
				f.wantErr(f.releaseAll("b", list), lock.ErrLeaseLost)
			}
		}
	},
	"a set waits in all queues and is granted when the last of its locks is free": func(f *fixture) {
		for _, n := range []int{2, lock.MaxSet} {
			f.name = Name()
			list := f.wants(1, n)
			for i, w := range list[:2] {
				_, err := f.Acquire(f.t.Context(), lock.AcquireRequest{Lock: w.Lock, Secret: fmt.Sprint("single", i), TTL: ttl, Capacity: 1, Permits: 1})
				f.must(nil, err)
			}
			_, err := f.acquireAll("s", list, ttl)
			held, ok := errors.AsType[*lock.HeldError](err)
			if !ok || held.Position != 1 || len(held.Tickets) != n || len(held.Holders) != 1 {
				f.t.Fatalf("joined: %+v, %v", held, err)
			}
			f.clock.Advance(ttl * 3 / 4)
			if _, err = f.acquireAll("s", list, ttl, held.Tickets...); !errors.Is(err, lock.ErrLockHeld) {
				f.t.Fatalf("a poll: %v", err)
			}
			for _, w := range list {
				queue, err := f.store.Waiters(f.t.Context(), w.Lock, 2)
				if err != nil || len(queue) != 1 || queue[0].Until < f.clock.Now().Add(ttl/2).UnixMilli() {
					f.t.Errorf("the queue of %s is %+v, %v", w.Lock, queue, err)
				}
			}
			for i, w := range list[:2] {
				f.holdSet("s", list, false)
				f.must(f.Release(f.t.Context(), lock.ReleaseRequest{Lock: w.Lock, Secret: fmt.Sprint("single", i)}))
			}
			f.holdSet("s", list, true)
			if s, err := f.acquireAll("s", list, ttl, held.Tickets...); err != nil || s.Remaining < ttl-time.Second {
				f.t.Errorf("claimed: %+v, %v", s, err)
			}
			f.must(nil, f.releaseAll("s", list))
		}
	},
	"sets that share locks take turns": func(f *fixture) {
		list := f.wants(1, 3)
		x, y := list[:2], []lock.Want{list[2], list[1]}
		if _, err := f.acquireAll("x1", x, 0); err != nil {
			f.t.Fatal(err)
		}
		for _, join := range []func() error{
			func() error { _, err := f.acquireAll("y", y, ttl); return err },
			func() error { _, err := f.acquireAll("x2", x, ttl); return err },
		} {
			f.wantErr(join(), lock.ErrLockHeld)
		}
		f.must(nil, f.releaseAll("x1", x))
		f.holdSet("y", y, true)
		f.holdSet("x2", x, false)
		f.must(nil, f.releaseAll("y", y))
		f.holdSet("x2", x, true)
	},
	"many abandoned sets are passed over": func(f *fixture) {
		list := f.wants(1, 2)
		if _, err := f.acquireAll("holder", list, 0); err != nil {
			f.t.Fatal(err)
		}
		for i := range 25 {
			_, err := f.acquireAll(fmt.Sprint("dead", i), list, time.Second)
			f.wantErr(err, lock.ErrLockHeld)
		}
		_, err := f.acquireAll("alive", list, 10*ttl)
		f.wantErr(err, lock.ErrLockHeld)
		f.clock.Advance(2 * time.Second)
		f.must(nil, f.releaseAll("holder", list))
		if _, err := f.acquireAll("alive", list, 10*ttl); err != nil {
			f.t.Error(err)
		}
		f.holdSet("alive", list, true)
	},
	"a set that lost a place joins again": func(f *fixture) {
		list := f.wants(1, 2)
		if _, err := f.acquireAll("holder", list, 0); err != nil {
			f.t.Fatal(err)
		}
		for i := range 12 { // so that the set's place is behind the head
			_, err := f.acquireAll(fmt.Sprint("ahead", i), list, 10*ttl)
			f.wantErr(err, lock.ErrLockHeld)
		}
		_, err := f.acquireAll("s", list, 10*ttl)
		f.wantErr(err, lock.ErrLockHeld)
		name := locksOf(list)[1]
		key := lock.SetKey(locksOf(list), "s")
		f.removePlace(name, key)
		_, err = f.acquireAll("s", list, 10*ttl)
		held, ok := errors.AsType[*lock.HeldError](err)
		if !ok || held.Position == 0 || len(held.Tickets) != 2 {
			f.t.Fatalf("joined again: %+v, %v", held, err)
		}
	},
	"a set of a task and of an execution is one": func(f *fixture) {
		for _, capacity := range []int64{1, 3} {
			f.name = Name()
			list, arn := f.wants(capacity, 3), "arn:"+f.name
			first, key := list[0].Lock, lock.SetKey(locksOf(list), "s")
			for _, w := range list[:2] {
				_, err := f.Acquire(f.t.Context(), lock.AcquireRequest{Lock: w.Lock, Secret: "single", TTL: 10 * ttl, Capacity: capacity, Permits: capacity})
				f.must(nil, err)
			}
			f.taskWaits(list, "s", arn, "one")
			f.taskWaits(list, "s", arn, "two")
			for i, w := range list {
				queue, err := f.store.Waiters(f.t.Context(), w.Lock, 2)
				if err != nil || len(queue) != 1 || queue[0].Tokens.Empty() != (i > 0) || queue[0].Execution != arn || queue[0].Known != (i == 0) {
					f.t.Errorf("the queue of %s is %+v, %v", w.Lock, queue, err)
				}
			}
			bound, err := f.store.Bound(f.t.Context(), arn)
			if want := (lock.Binding{Lock: first, Key: key, Set: strings.Join(locksOf(list), ",")}); err != nil || len(bound) != 1 || bound[0] != want {
				f.t.Errorf("bound %+v, %v; want %+v", bound, err, want)
			}
			for _, w := range list[:2] {
				f.must(f.Release(f.t.Context(), lock.ReleaseRequest{Lock: w.Lock, Secret: "single"}))
			}
			f.holdSet("s", list, true)
			ref, lease := f.taskHolds(list, key)
			attempt, err := f.MarkAttempt(f.t.Context(), ref, lease.Tokens, lock.Record{})
			if err != nil || attempt.First {
				f.t.Errorf("the attempt of a task that was retried: %+v, %v", attempt, err)
			}
			f.must(f.MarkTold(f.t.Context(), ref, lease.Tokens, attempt.Seen))
			f.must(nil, f.EndTask(f.t.Context(), ref, lease, "not the only task"))
			f.holdSet("s", list, true)
			f.must(nil, f.EndExecution(f.t.Context(), arn, func(context.Context) (bool, error) { return true, nil }))
			f.holdSet("s", list, false)

			key = lock.SetKey(locksOf(list), "t")
			f.taskWaits(list, "t", "", "dead")
			ref, lease = f.taskHolds(list, key)
			f.must(nil, f.EndTask(f.t.Context(), ref, lease, "gone"))
			f.holdSet("t", list, false)
			f.taskWaits(list, "t", "", "alive") // the state is tried again
			f.holdSet("t", list, true)
		}
	},
}

// taskWaits acquires a set for a task.
func (f *fixture) taskWaits(list []lock.Want, secret, execution, token string) {
	f.t.Helper()
	_, err := f.AcquireAll(f.t.Context(), lock.SetRequest{
		Locks: list, Secret: secret, Owner: "o", TTL: ttl, Wait: 20 * ttl, Token: task(token), Execution: execution,
	})
	if err != nil && !errors.Is(err, lock.ErrLockHeld) {
		f.t.Fatal(err)
	}
}

// taskHolds is the grant of a set whose task waits for its callback. It checks that no lease of it is to be claimed, and which is checked first.
func (f *fixture) taskHolds(list []lock.Want, key lock.LeaseKey) (ref lock.GrantRef, first lock.Lease) {
	f.t.Helper()
	leases, err := f.LeasesOfSet(f.t.Context(), strings.Join(locksOf(list), ","), key)
	if err != nil {
		f.t.Fatal(err)
	}
	for i, l := range leases {
		late := l.Execution != "" && i > 0
		if l.Unclaimed || l.Tokens.Empty() != (i > 0) || (l.CheckAt > leases[0].CheckAt) != late {
			f.t.Errorf("lease %d is %+v", i, l)
		}
	}
	return lock.GrantRef{Lock: list[0].Lock, Key: key, Fence: leases[0].Fence}, leases[0]
}
