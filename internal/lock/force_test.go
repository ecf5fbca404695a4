package lock

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

func TestForceRelease(t *testing.T) {
	k := newKit(t)
	force := func(fence int64) ([]Lease, error) {
		return k.ForceRelease(t.Context(), ForceReleaseRequest{Lock: lockName, Principal: "op", Reason: "r", Fence: fence})
	}
	if ended, err := force(0); err != nil || ended != nil {
		t.Errorf("of a lock never seen: %v, %v", ended, err)
	}
	_, err := force(7)
	k.want(err, ErrLockChanged)
	a, b := k.must("a", of(3, 1)), k.must("b", of(3, 1))
	k.must("c", of(3, 1))
	if ended, err := force(b.Lease.Fence); err != nil || !slices.Equal(ended, []Lease{b.Lease}) {
		t.Errorf("%v, %v", ended, err)
	}
	k.holds([]string{"a", "c"}, nil)
	if ended, err := force(b.Lease.Fence); err != nil || ended != nil {
		t.Errorf("repeated: %v, %v", ended, err)
	}
	_, err = force(a.Lease.Fence - 1)
	k.want(err, ErrLockChanged)
	if ended, err := force(0); err != nil || len(ended) != 2 || ended[0] != a.Lease {
		t.Errorf("%v, %v", ended, err)
	}
	if r := k.record(); r.Cause != CauseForceRelease || r.By != "op" || r.Reason != "r" {
		t.Errorf("record %+v", r)
	}
}

// A force-release succeeds without the hand-off if that cannot be written, and leaves the waiters in place. An outage is an error.
func TestForceReleaseGetsThrough(t *testing.T) {
	for _, kind := range []error{ErrMisconfigured, ErrThrottled, ErrLockFull, ErrUnavailable} {
		f := &faulty{Memory: &Memory{}}
		c := newCoordinator(t, f)
		for i := range 2 {
			r := sized(i, 0, time.Hour)
			r.Permits = 100
			if _, err := c.Acquire(t.Context(), r); (err != nil) != (i > 0) {
				t.Fatal(err)
			}
		}
		f.err, f.writes = &StoreError{Kind: kind}, 0
		ended, err := c.ForceRelease(t.Context(), ForceReleaseRequest{Lock: "s", Reason: "stuck"})
		if errors.Is(kind, ErrUnavailable) {
			if !errors.Is(err, kind) || f.writes != 1 {
				t.Errorf("%v: error %v after %d writes", kind, err, f.writes)
			}
			continue
		}
		r, _ := f.Get(t.Context(), "s")
		if err != nil || len(ended) != 1 || len(r.After.Holders) != 0 || r.After.Waiting != 1 || r.After.Cause != CauseForceRelease {
			t.Errorf("%v: ended %v, %v: %+v", kind, ended, err, r.After)
		}
		f.err = nil
		if err := c.Settle(t.Context(), "s"); err != nil {
			t.Fatal(err)
		}
		if r, _ = f.Get(t.Context(), "s"); len(r.After.Holders) != 1 || r.After.Waiting != 0 {
			t.Errorf("%v: the waiter is not granted afterwards: %+v", kind, r.After)
		}
	}
}

// faulty is a store that refuses writes which move waiters.
type faulty struct {
	*Memory
	err    error
	writes int
	reads  []int // how many waiters were asked for
	places int   // how often a place was looked for
}

func (f *faulty) Place(ctx context.Context, name string, key LeaseKey) (Waiter, error) {
	f.places++
	return f.Memory.Place(ctx, name, key)
}

func (f *faulty) Apply(ctx context.Context, name string, c Command) (Reply, error) {
	f.writes++
	if become, ok := c.Effect.(Become); ok && len(become.From.Queue) != len(become.To.Queue) && f.err != nil {
		return Reply{}, f.err
	}
	return f.Memory.Apply(ctx, name, c)
}

func (f *faulty) Waiters(ctx context.Context, name string, limit int) ([]Waiter, error) {
	f.reads = append(f.reads, limit)
	return f.Memory.Waiters(ctx, name, limit)
}
