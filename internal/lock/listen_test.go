package lock

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// lostByFilters says what the stream's filters would lose of a write: a quiet one must have no effect, and without a listener one that is not of
// the queue must have none but changes, which make events only.
func lostByFilters(w Write) string {
	cause := w.After.Cause
	if e := w.Effects(true); cause.Quiet() && len(e.Changes)+len(e.Callbacks)+len(e.Timed) > 0 {
		return fmt.Sprintf("the stream's filters drop a write of the quiet cause %s, which has effects: %+v", cause, e)
	}
	if e := w.Effects(false); !cause.Quiet() && !w.OfQueue() && (len(e.Callbacks)+len(e.Timed) > 0 || e.Unsettled) {
		return fmt.Sprintf("without a listener the stream's filters drop a write of cause %s, which has effects: %+v", cause, e)
	}
	return ""
}

// checkTimers follows the timers that the stream's consumer sets without a listener, and fails if a lock has a waiter and a holder without a timer.
func (k *kit) checkTimers(w Write) {
	if w.OfQueue() {
		for _, c := range w.Effects(false).Timed {
			k.timed = append(k.timed, c.Lease.Fence)
		}
	}
	for key, l := range w.After.Holders {
		if (w.After.Waiting > 0 || l.Execution != "") && !slices.Contains(k.timed, l.Fence) {
			k.t.Errorf("after a write of cause %s the lease %s, fence %d, has no timer: %d wait, execution %q", w.After.Cause, key, l.Fence, w.After.Waiting, l.Execution)
		}
	}
}

// The causes of writes that need the stream's consumer although nobody waited before.
func TestQueueCauses(t *testing.T) {
	if want := []Cause{CauseJoin, CauseRecheck, CauseRepair, CauseTask, CauseToken, CauseTurn, CauseUndo}; !slices.Equal(QueueCauses(), want) {
		t.Errorf("causes %v, want %v", QueueCauses(), want) // the filters follow from them
	}
	for _, cause := range QueueCauses() {
		if cause.Quiet() {
			t.Errorf("%s is quiet", cause)
		}
	}
}

// Without a listener a lease has a timer from when another waits behind it, and the lease of an execution from its grant.
func TestTimersWhereSomeoneWaits(t *testing.T) {
	k := newKit(t)
	causes := []Cause{}
	inner := k.store.Changed
	k.store.Changed = func(name string, before, after Record) {
		inner(name, before, after)
		causes = append(causes, after.Cause)
	}
	two := func(r *AcquireRequest) { r.Capacity = 2 }
	first := k.must("a", two)
	second := k.must("b", two)
	k.want(k.release("b"), nil)
	third := k.must("b2", two)
	if len(k.timed) != 0 {
		t.Errorf("timers %v, and nobody waits", k.timed)
	}
	k.waits("c", two)
	if want := []int64{first.Lease.Fence, third.Lease.Fence}; !slices.Equal(k.timed, want) || slices.Contains(k.timed, second.Lease.Fence) {
		t.Errorf("timers %v when the first waiter joined, want %v", k.timed, want)
	}
	k.waits("d", two)
	if len(k.timed) != 2 {
		t.Errorf("timers %v: the second waiter needs no more", k.timed)
	}
	k.want(k.release("a"), nil) // c is granted, and d waits: its timer is needed
	if len(k.timed) != 3 {
		t.Errorf("timers %v, want one for the grant", k.timed)
	}
	k.want(k.release("b2"), nil) // d is granted, and nobody waits
	if len(k.timed) != 3 {
		t.Errorf("timers %v after the last waiter was granted", k.timed)
	}
	want := []Cause{CauseAcquire, CauseAcquire, CauseRelease, CauseAcquire, CauseJoin, CauseQueue, CauseRelease, CauseRelease}
	if !slices.Equal(causes, want) {
		t.Errorf("causes %v, want %v", causes, want)
	}
}

// A lease of an execution has a timer from its grant on, since only a check finds that the execution ended if the event of that is lost.
func TestExecutionsAreTimed(t *testing.T) {
	k := newKit(t)
	l := k.must("a", func(r *AcquireRequest) { r.Execution = "arn:x" })
	if r := k.record(); r.Cause != CauseTask || !slices.Equal(k.timed, []int64{l.Lease.Fence}) {
		t.Errorf("cause %s, timers %v", r.Cause, k.timed)
	}
}

// A grant beside an overdue check asks for the check as well: the write's cause says so.
func TestGrantBesideAnOverdueCheck(t *testing.T) {
	k := newKit(t)
	two := func(r *AcquireRequest) { r.Capacity = 2 }
	k.must("a", two, func(r *AcquireRequest) { r.Execution = "arn:x" })
	k.pass(ttl + RecheckAfter + time.Second)
	k.must("b", two)
	if r := k.record(); r.Cause != CauseRecheck || len(k.timed) != 2 {
		t.Errorf("cause %s, timers %v", r.Cause, k.timed)
	}
}
