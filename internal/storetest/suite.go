// Package storetest checks that a store of package lock is correct: a suite of behaviour, driven through a coordinator as its users
// drive it, and a property that compares a store with the reference interpreter.
package storetest

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// A Clock starts at the real time and then stands still, so that no test depends on its own speed: the test moves it, and every reading
// moves it by a microsecond. Only coordinators read it; a store's own clock stays right.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// Now returns the time.
func (c *Clock) Now() time.Time {
	c.Advance(time.Microsecond)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the time forward, or back if d is negative.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now.IsZero() {
		c.now = time.Now()
	}
	c.now = c.now.Add(d)
}

// Name returns a lock name that no other test uses, so that tests can share a table.
func Name() string { return "test:" + rand.Text() }

// Secret returns a lease secret.
func Secret() string { return rand.Text() }

const (
	ttl  = time.Minute
	skew = lock.DefaultSkew
)

type fixture struct {
	*lock.Coordinator
	t     *testing.T
	store lock.Store
	clock *Clock
	name  string
}

func (f *fixture) acquire(secret string, change ...func(*lock.AcquireRequest)) (lock.LeaseStatus, error) {
	req := lock.AcquireRequest{Lock: f.name, Secret: secret, Owner: "owner of " + secret, Principal: "arn:p", TTL: ttl, Capacity: 1, Permits: 1}
	for _, c := range change {
		c(&req)
	}
	return f.Acquire(f.t.Context(), req)
}

func (f *fixture) mustAcquire(secret string, change ...func(*lock.AcquireRequest)) lock.LeaseStatus {
	f.t.Helper()
	l, err := f.acquire(secret, change...)
	if err != nil {
		f.t.Fatalf("acquire: %v", err)
	}
	return l
}

func (f *fixture) renew(secret string, change ...func(*lock.RenewRequest)) (lock.LeaseStatus, error) {
	req := lock.RenewRequest{Lock: f.name, Secret: secret, TTL: ttl}
	for _, c := range change {
		c(&req)
	}
	return f.Renew(f.t.Context(), req)
}

func (f *fixture) release(secret string) (lock.Released, error) {
	return f.Release(f.t.Context(), lock.ReleaseRequest{Lock: f.name, Secret: secret})
}

func (f *fixture) record() lock.Record {
	f.t.Helper()
	r, err := f.store.Get(f.t.Context(), f.name)
	if err != nil {
		f.t.Fatal(err)
	}
	return r.After
}

func (f *fixture) wantErr(err, want error) {
	f.t.Helper()
	if !errors.Is(err, want) {
		f.t.Fatalf("error is %v, want %v", err, want)
	}
}

func capacity(n int64) func(*lock.AcquireRequest) {
	return func(r *lock.AcquireRequest) { r.Capacity = n }
}

// Run runs the suite on a store. Tests that write prefix rules, of which a table has few, run one after the other, and the others beside each other.
func Run(t *testing.T, store lock.Store) {
	all := maps.Clone(suite)
	maps.Copy(all, queueSuite)
	maps.Copy(all, pollSuite)
	maps.Copy(all, modeSuite)
	maps.Copy(all, setSuite)
	alone := maps.Clone(ruleSuite)
	maps.Copy(alone, keepingSuite)
	maps.Copy(all, alone)
	for name, test := range all {
		t.Run(name, func(t *testing.T) {
			if alone[name] == nil {
				t.Parallel()
			}
			clock := &Clock{}
			c, err := lock.New(lock.Config{Store: store, Clock: clock.Now})
			if err != nil {
				t.Fatal(err)
			}
			test(&fixture{Coordinator: c, t: t, store: store, clock: clock, name: Name()})
		})
	}
}

var suite = map[string]func(*fixture){
	"a lock never seen is free": func(f *fixture) {
		s, err := f.Status(f.t.Context(), f.name)
		if err != nil || len(s.Holders) != 0 || s.Capacity != 1 || s.Available != 1 || s.Fence != 0 {
			f.t.Fatalf("status %+v, %v", s, err)
		}
	},
	"a grant is told as it is stored": func(f *fixture) {
		before := f.clock.Now()
		l := f.mustAcquire("a", func(r *lock.AcquireRequest) { r.Metadata = `{"build":7}` })
		h := f.record().Holders[lock.KeyOf(f.name, "a")]
		if h != l.Lease {
			f.t.Errorf("stored %+v, told %+v", h, l.Lease)
		}
		if h.Owner != "owner of a" || h.Principal != "arn:p" || h.Metadata != `{"build":7}` || h.Permits != 1 || h.TTL != ttl.Milliseconds() {
			f.t.Errorf("holder %+v", h)
		}
		if h.ExpiresAt-h.AcquiredAt != ttl.Milliseconds() || h.AcquiredAt < before.UnixMilli() || l.Remaining > ttl {
			f.t.Errorf("times of %+v, remaining %v", h, l.Remaining)
		}
		if h.Fence < before.UnixMicro() || h.Fence >= 1<<53 {
			f.t.Errorf("fence %d", h.Fence)
		}
	},
	"others are told who holds it and when to come back": func(f *fixture) {
		f.mustAcquire("a")
		_, err := f.acquire("b")
		held, ok := errors.AsType[*lock.HeldError](err)
		if !ok || len(held.Holders) != 1 || held.Holders[0].Owner != "owner of a" {
			f.t.Fatalf("error %v", err)
		}
		if held.RetryAfter > ttl+skew || held.RetryAfter < ttl-time.Minute/2 {
			f.t.Errorf("retry after %v", held.RetryAfter)
		}
		f.wantErr(err, lock.ErrLockHeld)
	},
	"a repeated acquire gives the same lease and what is left of it": func(f *fixture) {
		first := f.mustAcquire("a")
		f.clock.Advance(ttl / 2)
		again := f.mustAcquire("a")
		if again.Lease != first.Lease || again.Remaining > ttl/2 {
			f.t.Errorf("first %+v, again %+v", first, again)
		}
		if r := f.record(); r.Rev != 1 {
			f.t.Errorf("the repeat wrote: rev %d", r.Rev)
		}
	},
	"a lease that expired is over, though nobody took the lock": func(f *fixture) {
		f.mustAcquire("a")
		f.clock.Advance(ttl)
		_, err := f.renew("a")
		f.wantErr(err, lock.ErrLeaseLost)
		_, err = f.release("a")
		f.wantErr(err, lock.ErrLeaseLost)
		_, err = f.acquire("a")
		f.wantErr(err, lock.ErrLeaseLost)
		f.clock.Advance(skew)
		_, err = f.acquire("a")
		f.wantErr(err, lock.ErrLeaseLost)
	},
	"an expired lease bars others for the skew allowance, and no longer": func(f *fixture) {
		a := f.mustAcquire("a")
		f.clock.Advance(ttl + skew - 100*time.Millisecond)
		_, err := f.acquire("b")
		f.wantErr(err, lock.ErrLockHeld)
		f.clock.Advance(100 * time.Millisecond)
		b := f.mustAcquire("b")
		if b.Lease.Fence <= a.Lease.Fence {
			f.t.Errorf("fence went from %d to %d", a.Lease.Fence, b.Lease.Fence)
		}
		_, err = f.renew("a")
		f.wantErr(err, lock.ErrLeaseLost)
	},
	"a renewal extends, keeps the rest, and never shortens": func(f *fixture) {
		first := f.mustAcquire("a", func(r *lock.AcquireRequest) { r.Metadata = `{"n":1}` })
		f.clock.Advance(ttl / 2)
		l, err := f.renew("a")
		if err != nil || l.Lease.ExpiresAt-first.Lease.ExpiresAt < ttl.Milliseconds()/2 {
			f.t.Fatalf("renew %+v, %v", l, err)
		}
		if l.Lease.Metadata != `{"n":1}` || l.Lease.Fence != first.Lease.Fence || l.Lease.AcquiredAt != first.Lease.AcquiredAt {
			f.t.Errorf("renewed %+v", l.Lease)
		}
		if l.Lease.RenewedAt <= first.Lease.RenewedAt {
			f.t.Errorf("renewed_at stayed %d", l.Lease.RenewedAt)
		}
		rev := f.record().Rev
		short, err := f.renew("a", func(r *lock.RenewRequest) { r.TTL = ttl / 4 })
		if err != nil || short.Lease != l.Lease || f.record().Rev != rev {
			f.t.Errorf("a shorter renewal gave %+v, %v", short, err)
		}
		meta := `{"n":2}`
		l2, err := f.renew("a", func(r *lock.RenewRequest) { r.TTL, r.Metadata = ttl/4, &meta })
		if err != nil || l2.Lease.Metadata != meta || l2.Lease.ExpiresAt != l.Lease.ExpiresAt {
			f.t.Errorf("a shorter renewal with metadata gave %+v, %v", l2, err)
		}
	},
	"a renewal without a TTL takes the lease's": func(f *fixture) {
		noTTL := func(r *lock.RenewRequest) { r.TTL = 0 }
		for _, d := range []time.Duration{lock.DefaultTTL, 10 * time.Second} {
			f.name = Name()
			f.mustAcquire("a", func(r *lock.AcquireRequest) { r.TTL = d })
			f.clock.Advance(d / 2)
			l, err := f.renew("a", noTTL)
			if err != nil || l.Lease.ExpiresAt-l.Lease.RenewedAt != d.Milliseconds() || l.Lease.TTL != d.Milliseconds() {
				f.t.Errorf("TTL %v: renewed %+v, %v", d, l.Lease, err)
			}
		}
	},
	"a release frees at once, and its repeat is answered alike": func(f *fixture) {
		l := f.mustAcquire("a")
		first, err := f.release("a")
		if err != nil || first.Fence != l.Lease.Fence {
			f.t.Fatalf("release %+v, %v", first, err)
		}
		f.clock.Advance(time.Second)
		again, err := f.release("a")
		if err != nil || again != first {
			f.t.Errorf("repeat %+v, %v", again, err)
		}
		b := f.mustAcquire("b")
		if b.Lease.Fence <= l.Lease.Fence {
			f.t.Errorf("fence went from %d to %d", l.Lease.Fence, b.Lease.Fence)
		}
		if again, err = f.release("a"); err != nil || again != first {
			f.t.Errorf("repeat after the next grant %+v, %v", again, err)
		}
	},
	"a late duplicate of an ended lease's acquire is recognised": func(f *fixture) {
		ends := map[string]func(){
			"released": func() { f.must(f.release("a")) },
			"expired": func() {
				l := f.record().Holders[lock.KeyOf(f.name, "a")]
				f.clock.Advance(ttl + skew)
				if again, err := f.Expire(f.t.Context(), lock.GrantRef{Lock: f.name, Key: lock.KeyOf(f.name, "a"), Fence: l.Fence}); err != nil || !again.IsZero() {
					f.t.Fatalf("expire: %v, %v", again, err)
				}
			},
			"forced": func() {
				f.must(f.ForceRelease(f.t.Context(), lock.ForceReleaseRequest{Lock: f.name, Reason: "test"}))
			},
		}
		for what, end := range ends {
			f.name = Name()
			f.mustAcquire("a")
			end()
			_, err := f.acquire("a")
			f.wantErr(err, lock.ErrLeaseLost)
			_, err = f.release("a")
			if released := what == "released"; released != (err == nil) {
				f.t.Errorf("release of a lease that was %s: %v", what, err)
			}
			f.mustAcquire("b")
		}
	},
	"a release or renewal by anyone else changes nothing": func(f *fixture) {
		f.mustAcquire("a")
		before := f.record()
		_, err := f.release("b")
		f.wantErr(err, lock.ErrLeaseLost)
		_, err = f.renew("b")
		f.wantErr(err, lock.ErrLeaseLost)
		if after := f.record(); !reflect.DeepEqual(before, after) {
			f.t.Errorf("record went from %+v to %+v", before, after)
		}
		f.name = Name()
		_, err = f.release("a")
		f.wantErr(err, lock.ErrLeaseLost)
	},
	"fences grow over a clock that went back": func(f *fixture) {
		a := f.mustAcquire("a")
		f.must(f.release("a"))
		f.clock.Advance(-time.Second)
		b := f.mustAcquire("b")
		if b.Lease.Fence != a.Lease.Fence+1 {
			f.t.Errorf("fence went from %d to %d", a.Lease.Fence, b.Lease.Fence)
		}
	},
	"a fence far ahead of now is refused": func(f *fixture) {
		f.clock.Advance(lock.MaxFenceLead + time.Minute)
		f.mustAcquire("a")
		f.must(f.release("a"))
		f.clock.Advance(-lock.MaxFenceLead - time.Minute)
		_, err := f.acquire("b")
		f.wantErr(err, lock.ErrMisconfigured)
		f.clock.Advance(2 * time.Minute)
		f.mustAcquire("b")
	},
	"permits are shared up to the capacity": func(f *fixture) {
		a := f.mustAcquire("a", capacity(3))
		b := f.mustAcquire("b", capacity(3), func(r *lock.AcquireRequest) { r.Permits = 2 })
		if b.Lease.Fence <= a.Lease.Fence || b.Capacity != 3 {
			f.t.Errorf("a %+v, b %+v", a, b)
		}
		_, err := f.acquire("c", capacity(3))
		f.wantErr(err, lock.ErrLockHeld)
		_, err = f.acquire("c", capacity(4))
		f.wantErr(err, lock.ErrCapacityMismatch)
		s, err := f.Status(f.t.Context(), f.name)
		if err != nil || s.Available != 0 || len(s.Holders) != 2 || s.Holders[0].Fence != a.Lease.Fence {
			f.t.Errorf("status %+v, %v", s, err)
		}
		f.must(f.release("b"))
		f.mustAcquire("c", capacity(3), func(r *lock.AcquireRequest) { r.Permits = 2 })
		f.must(f.release("a"))
		f.must(f.release("c"))
		f.mustAcquire("d", capacity(5))
	},
	"a renewal beside a longer lease": func(f *fixture) {
		f.mustAcquire("a", capacity(2), func(r *lock.AcquireRequest) { r.TTL = 10 * ttl })
		b := f.mustAcquire("b", capacity(2))
		f.clock.Advance(ttl / 2)
		l, err := f.renew("b")
		if err != nil || l.Lease.ExpiresAt <= b.Lease.ExpiresAt {
			f.t.Fatalf("renew %+v, %v", l, err)
		}
		if r := f.record(); r.FreeAt != r.Holders[lock.KeyOf(f.name, "a")].ExpiresAt {
			f.t.Errorf("free_at %d in %+v", r.FreeAt, r)
		}
	},
	"the permit of an expired lease is granted again": func(f *fixture) {
		f.mustAcquire("a", capacity(2), func(r *lock.AcquireRequest) { r.TTL = 10 * ttl })
		f.mustAcquire("b", capacity(2))
		f.clock.Advance(ttl + skew)
		f.mustAcquire("c", capacity(2))
		if r := f.record(); len(r.Holders) != 2 || r.Holders[lock.KeyOf(f.name, "b")] != (lock.Lease{}) {
			f.t.Errorf("record %+v", r)
		}
	},
	"a timer expires what is due, and only that": func(f *fixture) {
		l := f.mustAcquire("a")
		timer := lock.GrantRef{Lock: f.name, Key: lock.KeyOf(f.name, "a"), Fence: l.Lease.Fence}
		again, err := f.Expire(f.t.Context(), timer)
		if want := time.UnixMilli(l.Lease.ExpiresAt).Add(skew); err != nil || !again.Equal(want) {
			f.t.Fatalf("early: %v, %v, want %v", again, err, want)
		}
		f.clock.Advance(ttl + skew)
		if again, err = f.Expire(f.t.Context(), timer); err != nil || !again.IsZero() {
			f.t.Fatalf("due: %v, %v", again, err)
		}
		if r := f.record(); len(r.Holders) != 0 || r.Cause != lock.CauseExpire {
			f.t.Errorf("record %+v", r)
		}
		b := f.mustAcquire("b")
		if again, err = f.Expire(f.t.Context(), timer); err != nil || !again.IsZero() {
			f.t.Fatalf("late: %v, %v", again, err)
		}
		if r := f.record(); r.Holders[lock.KeyOf(f.name, "b")] != b.Lease {
			f.t.Errorf("record %+v", r)
		}
	},
	"a timer on a semaphore ends every expired lease": func(f *fixture) {
		a := f.mustAcquire("a", capacity(3))
		f.mustAcquire("b", capacity(3))
		f.mustAcquire("c", capacity(3), func(r *lock.AcquireRequest) { r.TTL = 10 * ttl })
		f.clock.Advance(ttl + skew + time.Second)
		again, err := f.Expire(f.t.Context(), lock.GrantRef{Lock: f.name, Key: lock.KeyOf(f.name, "a"), Fence: a.Lease.Fence})
		if r := f.record(); err != nil || !again.IsZero() || len(r.Holders) != 1 || r.FreeAt == 0 {
			f.t.Errorf("record %+v, %v, %v", r, again, err)
		}
	},
	"force-release ends leases, says whose, and is recorded": func(f *fixture) {
		a := f.mustAcquire("a")
		req := lock.ForceReleaseRequest{Lock: f.name, Principal: "arn:operator", Reason: "stuck"}
		req.Fence = a.Lease.Fence - 1
		_, err := f.ForceRelease(f.t.Context(), req)
		f.wantErr(err, lock.ErrLockChanged)
		req.Fence = a.Lease.Fence
		ended, err := f.ForceRelease(f.t.Context(), req)
		if err != nil || !slices.Equal(ended, []lock.Lease{a.Lease}) {
			f.t.Fatalf("ended %+v, %v", ended, err)
		}
		if r := f.record(); r.Cause != lock.CauseForceRelease || r.By != "arn:operator" || r.Reason != "stuck" || len(r.Holders) != 0 {
			f.t.Errorf("record %+v", r)
		}
		if ended, err = f.ForceRelease(f.t.Context(), req); err != nil || len(ended) != 0 {
			f.t.Errorf("repeat: %+v, %v", ended, err)
		}
		_, err = f.renew("a")
		f.wantErr(err, lock.ErrLeaseLost)
		b := f.mustAcquire("b")
		if r := f.record(); r.Reason != "" || r.By != "arn:p" {
			f.t.Errorf("the next write kept by %q, reason %q", r.By, r.Reason)
		}
		if b.Lease.Fence <= a.Lease.Fence {
			f.t.Errorf("fence went from %d to %d", a.Lease.Fence, b.Lease.Fence)
		}
	},
	"force-release by fence leaves the other holders": func(f *fixture) {
		a := f.mustAcquire("a", capacity(2))
		f.mustAcquire("b", capacity(2))
		ended, err := f.ForceRelease(f.t.Context(), lock.ForceReleaseRequest{Lock: f.name, Reason: "x", Fence: a.Lease.Fence})
		if err != nil || len(ended) != 1 || len(f.record().Holders) != 1 {
			f.t.Fatalf("ended %+v, %v", ended, err)
		}
		ended, err = f.ForceRelease(f.t.Context(), lock.ForceReleaseRequest{Lock: f.name, Reason: "x"})
		if err != nil || len(ended) != 1 || len(f.record().Holders) != 0 {
			f.t.Fatalf("ended %+v, %v", ended, err)
		}
		if ended, err = f.ForceRelease(f.t.Context(), lock.ForceReleaseRequest{Lock: f.name, Reason: "x"}); err != nil || len(ended) != 0 {
			f.t.Fatalf("ended %+v, %v", ended, err)
		}
	},
	"lists by prefix, in pages": func(f *fixture) {
		prefix := f.name
		for _, n := range []string{":a", ":b", ":c", ":d", ":e"} {
			f.name = prefix + n
			f.mustAcquire("x")
		}
		f.must(f.release("x")) // :e
		read := func(all bool) (names []string) {
			cursor := ""
			for {
				page, next, err := f.List(f.t.Context(), lock.ListRequest{Prefix: prefix + ":", All: all, Limit: 2, Cursor: cursor})
				if err != nil {
					f.t.Fatal(err)
				}
				if len(page) > 2 {
					f.t.Fatalf("%d on a page of 2", len(page))
				}
				for _, s := range page {
					names = append(names, s.Lock[len(prefix):])
				}
				if next == "" {
					slices.Sort(names)
					return names
				}
				cursor = next
			}
		}
		if got := read(false); !slices.Equal(got, []string{":a", ":b", ":c", ":d"}) {
			f.t.Errorf("held: %v", got)
		}
		if got := read(true); !slices.Equal(got, []string{":a", ":b", ":c", ":d", ":e"}) {
			f.t.Errorf("all: %v", got)
		}
		_, _, err := f.List(f.t.Context(), lock.ListRequest{Prefix: prefix, Limit: 2, Cursor: "not a cursor"})
		f.wantErr(err, lock.ErrBadCursor)
	},
	"a context that ended changes nothing": func(f *fixture) {
		ctx, cancel := context.WithCancel(f.t.Context())
		cancel()
		_, err := f.Acquire(ctx, lock.AcquireRequest{Lock: f.name, Secret: "a", TTL: ttl, Capacity: 1, Permits: 1})
		f.wantErr(err, context.Canceled)
		if r := f.record(); r.Rev != 0 {
			f.t.Errorf("record %+v", r)
		}
	},
	"a concurrent history has an order": concurrent,
	"one of many at once gets it": func(f *fixture) {
		const n = 8
		var wg sync.WaitGroup
		won := make(chan lock.LeaseStatus, n)
		for range n {
			wg.Go(func() {
				if l, err := f.acquire(Secret()); err == nil {
					won <- l
				} else if !errors.Is(err, lock.ErrLockHeld) {
					f.t.Errorf("error %v", err)
				}
			})
		}
		wg.Wait()
		if len(won) != 1 {
			f.t.Errorf("%d got it", len(won))
		}
	},
}

func (f *fixture) must(_ any, err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}
