package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// place is how long the suite's waiters keep their places.
const place = 10 * time.Second

func waiting(r *lock.AcquireRequest) { r.Wait = place }

func waitingWith(token string) func(*lock.AcquireRequest) {
	return func(r *lock.AcquireRequest) { r.Token, r.Wait = task(token), time.Hour }
}

// waits acquires with a wait, and returns the place in the queue; 0: the lock was granted.
func (f *fixture) waits(secret string, change ...func(*lock.AcquireRequest)) int64 {
	f.t.Helper()
	_, err := f.acquire(secret, append([]func(*lock.AcquireRequest){waiting}, change...)...)
	if err == nil {
		return 0
	}
	held, ok := errors.AsType[*lock.HeldError](err)
	if !ok || held.Position == 0 {
		f.t.Fatalf("acquire of %s: %v", secret, err)
	}
	return held.Position
}

func (f *fixture) holds(secrets ...string) {
	f.t.Helper()
	r := f.record()
	for _, s := range secrets {
		if _, ok := r.Holders[lock.KeyOf(f.name, s)]; !ok {
			f.t.Errorf("%s does not hold: %+v", s, r)
		}
	}
	if len(r.Holders) != len(secrets) {
		f.t.Errorf("holders %+v, want %v", r.Holders, secrets)
	}
}

func (f *fixture) queue(want ...string) {
	f.t.Helper()
	list, err := f.store.Waiters(f.t.Context(), f.name, lock.MaxQueue)
	if err != nil {
		f.t.Fatal(err)
	}
	var got []string
	outlasts := int64(0)
	for _, w := range list {
		got, outlasts = append(got, w.Owner), max(outlasts, w.Until/1000+int64(lock.DefaultRetention/time.Second))
	}
	for i := range want {
		want[i] = "owner of " + want[i]
	}
	if !slices.Equal(got, want) {
		f.t.Errorf("queue %v, want %v", got, want)
	}
	if r := f.record(); r.Waiting != int64(len(want)) || r.TTL < outlasts {
		f.t.Errorf("record says %d wait, native TTL %d, want %d or more", r.Waiting, r.TTL, outlasts)
	}
}

// queueSuite is the part of the suite that covers the queue.
var queueSuite = map[string]func(*fixture){
	"turns are taken in order": func(f *fixture) {
		f.mustAcquire("a")
		for i, s := range []string{"b", "c", "d"} {
			if p := f.waits(s); p != int64(i+1) {
				f.t.Errorf("%s has place %d", s, p)
			}
		}
		_, err := f.acquire("newcomer")
		f.wantErr(err, lock.ErrLockHeld)
		f.must(f.release("a"))
		f.holds("b")
		f.queue("c", "d")
		_, err = f.acquire("newcomer") // a request that does not wait does not overtake
		f.wantErr(err, lock.ErrLockHeld)
		if p := f.waits("b"); p != 0 {
			f.t.Errorf("the head has place %d", p)
		}
		f.must(f.release("b"))
		f.must(f.renew("c"))
		f.must(f.release("c"))
		f.holds("d")
		f.queue()
		f.must(f.release("d"))
		f.mustAcquire("newcomer")
	},
	"a place is kept, by a poll, and found again by a repeat": func(f *fixture) {
		f.mustAcquire("a", func(r *lock.AcquireRequest) { r.TTL = time.Hour })
		f.waits("b")
		f.waits("c")
		for range 3 {
			f.clock.Advance(8 * time.Second)
			if p := f.waits("b"); p != 1 {
				f.t.Errorf("place %d", p)
			}
		}
		if p := f.waits("c"); p != 2 { // after its time, and still stored
			f.t.Errorf("place %d", p)
		}
		f.queue("b", "c")
	},
	"an abandoned place is passed over": func(f *fixture) {
		f.mustAcquire("a", func(r *lock.AcquireRequest) { r.TTL = time.Hour })
		f.waits("gone")
		f.waits("b", func(r *lock.AcquireRequest) { r.Wait = time.Hour })
		f.clock.Advance(place + time.Second)
		f.must(f.release("a"))
		f.holds("b")
		f.queue()
	},
	"a grant that nobody comes for passes on": func(f *fixture) {
		f.mustAcquire("a")
		f.waits("b", func(r *lock.AcquireRequest) { r.TTL = time.Hour })
		f.waits("c", func(r *lock.AcquireRequest) { r.Wait = time.Hour })
		f.must(f.release("a"))
		f.holds("b")
		f.clock.Advance(lock.ClaimTime + skew + time.Second)
		if p := f.waits("c"); p != 0 {
			f.t.Errorf("place %d", p)
		}
		f.holds("c")
		_, err := f.acquire("b", waiting, func(r *lock.AcquireRequest) { r.TTL = time.Hour })
		f.wantErr(err, lock.ErrLockHeld)
	},
	"a grant that is claimed lasts its TTL from then": func(f *fixture) {
		f.mustAcquire("a")
		f.waits("b")
		f.must(f.release("a"))
		f.clock.Advance(5 * time.Second)
		l := f.mustAcquire("b", waiting)
		if l.Remaining < ttl-time.Second || l.Lease.Unclaimed {
			f.t.Errorf("lease %+v", l)
		}
	},
	"a waiter may leave": func(f *fixture) {
		f.mustAcquire("a")
		f.waits("b")
		f.waits("c")
		f.must(f.release("b"))
		f.queue("c")
		f.must(f.release("b")) // repeated
		f.must(f.release("a"))
		f.holds("c")
	},
	"an expiry hands on": func(f *fixture) {
		l := f.mustAcquire("a")
		f.waits("b", func(r *lock.AcquireRequest) { r.Wait = time.Hour })
		f.clock.Advance(ttl + skew)
		if again, err := f.Expire(f.t.Context(), lock.GrantRef{Lock: f.name, Key: lock.KeyOf(f.name, "a"), Fence: l.Lease.Fence}); err != nil || !again.IsZero() {
			f.t.Errorf("%v, %v", again, err)
		}
		f.holds("b")
	},
	"a force-release hands on": func(f *fixture) {
		f.mustAcquire("a")
		f.waits("b")
		ended, err := f.ForceRelease(f.t.Context(), lock.ForceReleaseRequest{Lock: f.name, Reason: "x"})
		if err != nil || len(ended) != 1 || ended[0].Owner != "owner of a" {
			f.t.Errorf("%+v, %v", ended, err)
		}
		f.holds("b")
	},
	"a newcomer that meets a dead holder helps those who wait": func(f *fixture) {
		f.mustAcquire("a")
		f.waits("b", func(r *lock.AcquireRequest) { r.Wait = time.Hour })
		f.clock.Advance(ttl + skew + time.Second)
		_, err := f.acquire("newcomer")
		f.wantErr(err, lock.ErrLockHeld)
		f.holds("b")
	},
	"as many as fit": func(f *fixture) {
		three := capacity(3)
		f.mustAcquire("a", three, func(r *lock.AcquireRequest) { r.Permits = 3 })
		f.waits("b", three)
		f.waits("c", three, func(r *lock.AcquireRequest) { r.Permits = 2 })
		f.waits("d", three)
		_, err := f.acquire("other", capacity(2))
		f.wantErr(err, lock.ErrCapacityMismatch)
		f.must(f.release("a"))
		f.holds("b", "c")
		f.queue("d")
		_, err = f.acquire("newcomer", three)
		f.wantErr(err, lock.ErrLockHeld)
	},
	"any number may have gone away": func(f *fixture) {
		f.mustAcquire("a", func(r *lock.AcquireRequest) { r.TTL = time.Hour })
		for i := range 130 { // more than one transaction moves
			f.waits(fmt.Sprintf("w%d", i), func(r *lock.AcquireRequest) { r.Token = task("token") })
		}
		f.waits("alive", func(r *lock.AcquireRequest) { r.Wait = time.Hour })
		f.clock.Advance(place + time.Second)
		f.must(f.release("a"))
		f.holds("alive")
		f.queue()
	},
	"all that fit are granted, in more than one write if need be": func(f *fixture) {
		f.mustAcquire("a", capacity(100), func(r *lock.AcquireRequest) { r.Permits = 100 })
		for i := range 60 {
			f.waits(fmt.Sprintf("w%d", i), capacity(100))
		}
		f.must(f.release("a"))
		f.queue()
		if n := len(f.record().Holders); n != 60 {
			f.t.Errorf("%d hold", n)
		}
	},
	"a secret whose task nobody could tell may try again, with another token": func(f *fixture) {
		f.waits("a", waitingWith("one"))
		r := f.record()
		req := lock.GrantRef{Lock: f.name, Key: lock.KeyOf(f.name, "a"), Fence: r.Fence}
		f.must(f.MarkAttempt(f.t.Context(), req, lock.Tokens{task("one")}, r))
		f.must(nil, f.EndTask(f.t.Context(), req, lock.Lease{Terms: lock.Terms{Tokens: lock.Tokens{task("one")}}}, "task gone"))
		f.holds()
		f.waits("a", waitingWith("two"))
		f.holds("a")
		if _, err := f.MarkAttempt(f.t.Context(), req, lock.Tokens{task("one")}, r); !errors.Is(err, lock.ErrLeaseLost) {
			f.t.Errorf("the old grant: %v", err)
		}
	},
	"a grant with another token since is not ended": func(f *fixture) {
		f.waits("a", waitingWith("one"))
		r := f.record()
		req := lock.GrantRef{Lock: f.name, Key: lock.KeyOf(f.name, "a"), Fence: r.Fence}
		f.waits("a", waitingWith("two"))
		_, err := f.MarkAttempt(f.t.Context(), req, lock.Tokens{task("one")}, r)
		f.wantErr(err, lock.ErrSuperseded)
		f.must(nil, f.EndTask(f.t.Context(), req, lock.Lease{Terms: lock.Terms{Tokens: lock.Tokens{task("one")}}}, "task gone"))
		f.holds("a")
		f.waits("a", waitingWith("one")) // a late duplicate
		if h := f.record().Holders[req.Key]; h.Tokens != (lock.Tokens{task("one"), task("two")}) || h.Attempted {
			f.t.Errorf("holder %+v", h)
		}
	},
	"the queue has an end": func(f *fixture) {
		f.mustAcquire("a")
		const n = 40 // more than a hand-off reads
		for i := range n {
			f.waits(fmt.Sprintf("w%d", i))
		}
		f.clock.Advance(place + time.Second) // all places are abandoned
		f.mustAcquire("a")
		f.waits("last") // removes the abandoned places that it reads
		if p := f.waits("last"); p > n-lock.QueueHead+1 {
			f.t.Errorf("place %d", p)
		}
		f.must(f.release("a"))
		f.holds("last")
		f.queue()
	},
	"a grant says how long it waited, also one beside other leases": func(f *fixture) {
		f.must(f.acquire("other", capacity(2)))
		f.must(f.acquire("a", capacity(2)))
		f.waits("b", capacity(2))
		f.clock.Advance(1500 * time.Millisecond)
		f.must(f.release("a"))
		first := int64(0) // the clock runs between the requests, too
		for range 2 {
			f.clock.Advance(time.Second)
			l, err := f.acquire("b", capacity(2), func(r *lock.AcquireRequest) { r.Wait = time.Hour })
			if first == 0 {
				first = l.Lease.Waited()
			}
			if err != nil || first < 1500 || first > 15_000 || l.Lease.Waited() != first || l.Lease.Owner == "" {
				f.t.Errorf("granted %+v after %d ms, %v", l.Lease, l.Lease.Waited(), err)
			}
		}
	},
	"a token waits for as long as it said, and repeats find its place": func(f *fixture) {
		token := func(r *lock.AcquireRequest) { r.Token, r.Wait = task("token"), time.Hour }
		if p := f.waits("a", token); p != 0 {
			f.t.Errorf("a free lock: place %d", p)
		}
		if h := f.record().Holders[lock.KeyOf(f.name, "a")]; h.Tokens != (lock.Tokens{task("token")}) || h.Unclaimed || h.ExpiresAt-h.AcquiredAt != ttl.Milliseconds() {
			f.t.Errorf("holder %+v", h)
		}
		other := func(r *lock.AcquireRequest) { r.Token, r.Wait = task("other token"), time.Hour }
		f.waits("a", other) // its task was retried
		if h := f.record().Holders[lock.KeyOf(f.name, "a")]; h.Tokens != (lock.Tokens{task("token"), task("other token")}) || h.Attempted {
			f.t.Errorf("holder %+v", h)
		}
		f.waits("b", token)
		f.clock.Advance(30 * time.Second)
		f.waits("b", token)
		f.must(f.release("a"))
		h := f.record().Holders[lock.KeyOf(f.name, "b")]
		if h.Tokens != (lock.Tokens{task("token")}) || h.Unclaimed || h.Attempted {
			f.t.Errorf("holder %+v", h)
		}
		req := lock.GrantRef{Lock: f.name, Key: lock.KeyOf(f.name, "b"), Fence: h.Fence}
		seen := f.record()
		attempt := func(want bool) {
			f.t.Helper()
			if a, err := f.MarkAttempt(f.t.Context(), req, h.Tokens, seen); a.First != want || err != nil {
				f.t.Errorf("attempt: %v, %v", a.First, err)
			}
		}
		attempt(true)
		f.must(nil, f.EndTask(f.t.Context(), req, h, "its task is gone"))
		f.holds()
		f.must(nil, f.EndTask(f.t.Context(), req, h, "again"))
		f.waits("b", other)
		h = f.record().Holders[lock.KeyOf(f.name, "b")]
		req.Fence, seen = h.Fence, f.record()
		attempt(true)
		attempt(false)
		f.must(nil, f.EndTask(f.t.Context(), req, h, "the other attempt may have told it"))
		f.holds("b")
		for range 2 {
			told, err := f.MarkTold(f.t.Context(), req, h.Tokens, f.record())
			if l := f.record().Holders[req.Key]; err != nil || !l.Told || !told.Holders[req.Key].Told {
				f.t.Errorf("told: %v, %+v", err, l)
			}
		}
		_, err := f.MarkAttempt(f.t.Context(), req, h.Tokens, lock.Record{})
		f.wantErr(err, lock.ErrTold)
		f.must(f.release("b"))
		_, err = f.MarkAttempt(f.t.Context(), req, h.Tokens, seen)
		f.wantErr(err, lock.ErrLeaseLost)
	},
	"a lease lives as long as its execution": func(f *fixture) {
		bound := func(r *lock.AcquireRequest) { r.Execution, r.Wait = "arn:execution:"+f.name, time.Hour }
		l := f.mustAcquire("a", bound)
		f.waits("b", bound)
		f.waits("c", func(r *lock.AcquireRequest) { r.Wait = 24 * time.Hour })
		req := lock.GrantRef{Lock: f.name, Key: lock.KeyOf(f.name, "a"), Fence: l.Lease.Fence}
		again, err := f.Expire(f.t.Context(), req)
		if err != nil || again.UnixMilli() != l.Lease.CheckAt || l.Lease.CheckAt-l.Lease.AcquiredAt != ttl.Milliseconds() {
			f.t.Errorf("%v, %v", again, err)
		}
		f.clock.Advance(ttl + skew + time.Second)
		_, err = f.Expire(f.t.Context(), req)
		if e, ok := errors.AsType[*lock.ExecutionError](err); !ok || e.Execution != "arn:execution:"+f.name {
			f.t.Errorf("due for a check: %v", err)
		}
		if again, err := f.MarkChecked(f.t.Context(), req, "", ttl); err != nil || !again.After(f.clock.Now()) {
			f.t.Errorf("checked: %v, %v", again, err)
		}
		if again, err := f.Expire(f.t.Context(), req); err != nil || again.IsZero() {
			f.t.Errorf("after the check: %v, %v", again, err)
		}
		f.holds("a")
		for range 2 { // the end is delivered twice
			f.must(nil, f.EndExecution(f.t.Context(), "arn:execution:"+f.name, func(context.Context) (bool, error) { return true, nil }))
			f.holds("c") // b belonged to the execution too
		}
	},
	"a grant of an execution lives as long as it, however it is claimed": func(f *fixture) {
		claims := map[string]func() (lock.LeaseStatus, error){
			"a poll":                    func() (lock.LeaseStatus, error) { return f.acquire("b", waiting) },
			"a renewal":                 func() (lock.LeaseStatus, error) { return f.renew("b") },
			"a renewal without a TTL":   func() (lock.LeaseStatus, error) { return f.renew("b", func(r *lock.RenewRequest) { r.TTL = 0 }) },
			"a task with another token": func() (lock.LeaseStatus, error) { return f.acquire("b", waitingWith("token")) },
		}
		for what, claim := range claims {
			f.name = Name()
			f.mustAcquire("a")
			f.waits("b", func(r *lock.AcquireRequest) { r.Execution, r.Wait, r.TTL = "arn:execution", time.Hour, lock.DefaultTTL })
			f.must(f.release("a"))
			l, err := claim()
			if err != nil || l.Lease.Unclaimed || l.Remaining < lock.ExecutionLife-time.Hour || l.Lease.CheckAt == 0 {
				f.t.Errorf("claimed by %s: %+v, %v", what, l, err)
			}
			f.clock.Advance(time.Hour)
			_, err = f.Expire(f.t.Context(), lock.GrantRef{Lock: f.name, Key: lock.KeyOf(f.name, "b"), Fence: l.Lease.Fence})
			if _, ok := errors.AsType[*lock.ExecutionError](err); !ok {
				f.t.Errorf("claimed by %s: its timer says %v", what, err)
			}
			f.holds("b")
		}
	},
	"a refused caller asks for an overdue check, once a minute": func(f *fixture) {
		f.mustAcquire("a", func(r *lock.AcquireRequest) { r.Execution = "arn:execution" })
		asked := func(want bool, change ...func(*lock.AcquireRequest)) {
			f.t.Helper()
			before := f.record()
			_, err := f.acquire("b", change...)
			f.wantErr(err, lock.ErrLockHeld)
			after := f.record()
			h := after.Holders[lock.KeyOf(f.name, "a")]
			asks := !after.Cause.Quiet() && h.CheckAt != before.Holders[lock.KeyOf(f.name, "a")].CheckAt
			if asks != want || asks && h.CheckAt > f.clock.Now().UnixMilli() {
				f.t.Errorf("asked: %v, want %v; record %+v", asks, want, after)
			}
			if len(lock.Changes(before, after)) != 0 {
				f.t.Errorf("a check is told as %v", lock.Changes(before, after))
			}
		}
		f.clock.Advance(ttl + lock.RecheckAfter - 10*time.Second)
		asked(false)
		f.clock.Advance(10 * time.Second)
		asked(true)
		asked(false)
		f.clock.Advance(lock.RecheckAfter)
		asked(true, waiting) // and has a place now
		f.queue("b")
		f.clock.Advance(lock.RecheckAfter)
		asked(true, waiting)
	},
	"a waiter with another capacity waits until both fit": func(f *fixture) {
		f.mustAcquire("a", capacity(3), func(r *lock.AcquireRequest) { r.Permits = 2 })
		f.mustAcquire("b", capacity(3))
		_, err := f.acquire("c", capacity(5)) // does not wait
		f.wantErr(err, lock.ErrCapacityMismatch)
		if p := f.waits("c", capacity(5)); p != 1 {
			f.t.Errorf("place %d", p)
		}
		f.must(f.release("b"))
		f.holds("a", "c") // 3 of the smaller capacity
		if r := f.record(); r.Capacity != 3 {
			f.t.Errorf("capacity %d", r.Capacity)
		}
		f.waits("d", capacity(5))
		f.queue("d")
		f.must(f.release("a")) // the last one of the smaller capacity
		f.holds("c", "d")
		if r := f.record(); r.Capacity != 5 {
			f.t.Errorf("capacity %d", r.Capacity)
		}
		if p := f.waits("e", capacity(2)); p != 1 { // a smaller capacity again: it waits until the leases fit it
			f.t.Errorf("place %d", p)
		}
		f.must(f.release("c"))
		f.holds("d", "e")
		f.waits("g", capacity(5))
		f.queue("g")
		f.must(f.release("d"))
		f.must(f.release("e"))
		f.holds("g")
	},
	"many wait, and all get it, in order": func(f *fixture) {
		const n = 12
		f.mustAcquire("a")
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				_, err := f.acquire(fmt.Sprintf("w%d", i), waiting)
				for errors.Is(err, lock.ErrThrottled) { // many callers of one lock
					_, err = f.acquire(fmt.Sprintf("w%d", i), waiting)
				}
				if !errors.Is(err, lock.ErrLockHeld) {
					f.t.Errorf("error %v", err)
				}
			})
		}
		wg.Wait()
		list, err := f.store.Waiters(f.t.Context(), f.name, lock.MaxQueue)
		if err != nil || len(list) != n {
			f.t.Fatalf("%d wait, %v", len(list), err)
		}
		secret := map[lock.LeaseKey]string{}
		for i := range n {
			s := fmt.Sprintf("w%d", i)
			secret[lock.KeyOf(f.name, s)] = s
		}
		last, fence := "a", int64(0)
		for _, w := range list {
			f.must(f.release(last))
			last = secret[w.Key]
			l := f.mustAcquire(last, waiting)
			if l.Lease.Fence <= fence {
				f.t.Errorf("fence %d after %d", l.Lease.Fence, fence)
			}
			fence = l.Lease.Fence
		}
	},
}

// task is the token of a Step Functions task.
func task(text string) lock.Token { return lock.Token{Kind: lock.TaskToken, Text: text} }
