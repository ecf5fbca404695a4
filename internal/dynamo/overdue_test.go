package dynamo_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/storetest"
)

// The checks of a semaphore full of executions' leases, all overdue, are asked for again in writes that DynamoDB takes.
func TestManyOverdueChecks(t *testing.T) {
	clock := &storetest.Clock{}
	s := newStore(t)
	c, err := lock.New(lock.Config{Store: s, Clock: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	const n = 40
	now := clock.Now()
	r := lock.Record{Capacity: n, Fence: now.UnixMicro(), FreeAt: now.Add(time.Hour).UnixMilli(), Holders: map[lock.LeaseKey]lock.Lease{}}
	for i := range n {
		r.Holders[lock.KeyOf("s", fmt.Sprint(i))] = lock.Lease{
			Terms: lock.Terms{Permits: 1, Capacity: n, TTL: 60_000, Execution: fmt.Sprint("arn:", i)},
			Fence: now.UnixMicro() - int64(i), ExpiresAt: r.FreeAt, CheckAt: now.Add(-time.Hour).UnixMilli(),
		}
	}
	if _, err := s.Apply(t.Context(), "s", lock.Command{
		Kind: lock.Swap, Absent: true, Guard: []lock.Clause{{Test: lock.RevIs}, {Test: lock.FenceIs}}, Effect: lock.Become{To: r}, Stamp: lock.Stamp{Cause: lock.CauseAcquire},
	}); err != nil {
		t.Fatal(err)
	}
	overdue := n
	for overdue > 0 {
		req := lock.AcquireRequest{Lock: "s", Secret: "other", TTL: time.Minute, Capacity: n, Permits: 1}
		if _, err := c.Acquire(t.Context(), req); !errors.Is(err, lock.ErrLockHeld) {
			t.Fatal(err)
		}
		reply, err := s.Get(t.Context(), "s")
		if err != nil {
			t.Fatal(err)
		}
		left := 0
		for _, h := range reply.After.Holders {
			if h.CheckAt < now.UnixMilli() {
				left++
			}
		}
		if left >= overdue {
			t.Fatalf("%d checks are overdue, after %d", left, overdue)
		}
		overdue = left
	}
}
