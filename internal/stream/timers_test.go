package stream

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// The timers of a write: for a new lease at its expiry plus the skew allowance, or at its execution's check; and for a check that a
// refused caller asked for. A renewal sets none, because the lease has one.
func TestTimersOfAWrite(t *testing.T) {
	holder := func(change func(*lock.Lease)) lock.Record {
		r := record(lock.CauseAcquire, 1)
		h := r.Holders[leaseKey(1)]
		change(&h)
		r.Holders[leaseKey(1)] = h
		return r
	}
	plain := holder(func(*lock.Lease) {})
	ofExecution := holder(func(h *lock.Lease) { h.Execution, h.CheckAt = "arn:x", 2000 })
	unclaimed := holder(func(h *lock.Lease) { h.Execution, h.CheckAt, h.Unclaimed = "arn:x", 2000, true })
	again := holder(func(h *lock.Lease) { h.Execution, h.CheckAt = "arn:x", 9000 })
	again.Cause = lock.CauseRecheck
	renewed := again
	renewed.Cause = lock.CauseCheck
	longer := holder(func(h *lock.Lease) { h.ExpiresAt = 9000 })
	for name, test := range map[string]struct {
		before, after lock.Record
		want          []int64
	}{
		"a grant":                      {lock.Record{}, plain, []int64{5250}},
		"a grant to an execution":      {lock.Record{}, ofExecution, []int64{2000}},
		"one that nobody asked for":    {lock.Record{}, unclaimed, []int64{5250}},
		"a check that is asked for":    {ofExecution, again, []int64{9000}},
		"a check that was made":        {ofExecution, renewed, nil},
		"a lease that lasts":           {plain, longer, nil},
		"nothing of it":                {ofExecution, ofExecution, nil},
		"an end":                       {plain, retired(record(lock.CauseRelease), 1), nil},
		"another lease, later checked": {holder(func(h *lock.Lease) { h.Fence = 7 }), again, []int64{9000}},
	} {
		r := newRig()
		if failed := r.Consume(t.Context(), []Write{{Write: lock.Write{Lock: "a", Before: test.before, After: test.after}, Sequence: "1"}}); failed != nil {
			t.Errorf("%s: failed %v", name, failed)
		}
		var got []int64
		for _, timer := range r.timers.armed {
			got = append(got, timer.Due.UnixMilli())
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: timers at %v, want %v", name, got, test.want)
		}
	}
}

// A grant sets a timer for its expiry plus the skew allowance, unless it is over by the end of the batch.
func TestTimers(t *testing.T) {
	r := newRig()
	renewed := record(lock.CauseRenew, 7)
	batch := []Write{
		grant(1, "short", 1), end(2, "short", 1), grant(3, "long", 7), {Write: lock.Write{Lock: "long", Before: record(lock.CauseAcquire, 7), After: renewed}, Sequence: "4"},
		grant(5, "again", 1), end(6, "again", 1), grant(7, "again", 2),
	}
	if failed := r.Consume(t.Context(), batch); failed != nil {
		t.Fatalf("failed %v", failed)
	}
	due := time.UnixMilli(5250)
	if want := []Timer{{lock.GrantRef{Lock: "long", Key: leaseKey(7), Fence: 7}, due}, {lock.GrantRef{Lock: "again", Key: leaseKey(2), Fence: 2}, due}}; !slices.Equal(r.timers.armed, want) {
		t.Errorf("armed %v, want %v", r.timers.armed, want)
	}
	// The record of a wait's end, which the same write made, says nothing about the grant.
	r.timers.armed = nil
	wait := Write{Write: lock.Write{Lock: "handed", Ended: []lock.Waiter{{Ticket: 1, Key: "k"}}}, Sequence: "2"}
	if failed := r.Consume(t.Context(), []Write{grant(1, "handed", 3), wait}); failed != nil || len(r.timers.armed) != 1 {
		t.Errorf("a grant before the end of a wait: failed %v, armed %v", failed, r.timers.armed)
	}
	r.timers.err = errors.New("queue is gone")
	if failed := r.Consume(t.Context(), batch); !slices.Equal(failed, []string{"3", "7"}) {
		t.Errorf("failed %v", failed)
	}
	r.Timers = nil // prompt expiry is off
	if failed := r.Consume(t.Context(), batch); failed != nil {
		t.Errorf("failed %v", failed)
	}
}
