package lock

import (
	"slices"
	"testing"
)

// A quiet cause ends no lease, because the stream's filter drops its writes.
func TestCauses(t *testing.T) {
	if want := []Cause{CauseAttempt, CauseCheck, CauseClaim, CauseQueue, CauseRenew, CauseTold}; !slices.Equal(QuietCauses(), want) {
		t.Errorf("quiet causes %v, want %v", QuietCauses(), want) // the filters follow from them
	}
	for cause, is := range causes {
		if is.quiet && (is.ends != "" || is.released) {
			t.Errorf("%s is quiet, and ends a lease", cause)
		}
		if is.released && is.ends != LeaseReleased {
			t.Errorf("%s ends a lease as %q, and a late release of it succeeds", cause, is.ends)
		}
	}
	for _, cause := range Causes() {
		if cause.Quiet() != causes[cause].quiet {
			t.Errorf("%s: quiet %v", cause, cause.Quiet())
		}
	}
}

// The change of a retired lease is of the kind of its cause; other leases that are gone have expired.
func TestEndsByCause(t *testing.T) {
	before := Record{Rev: 1, Holders: map[LeaseKey]Lease{"ended": {Fence: 1}, "over": {Fence: 2}}}
	for cause, want := range map[Cause][2]ChangeKind{
		CauseRelease:      {LeaseReleased, LeaseExpired},
		CauseTaskGone:     {LeaseReleased, LeaseExpired},
		CauseExecutionEnd: {LeaseReleased, LeaseExpired},
		CauseUndo:         {LeaseReleased, LeaseExpired},
		CauseForceRelease: {LeaseForceReleased, LeaseForceReleased},
		CauseExpire:       {LeaseExpired, LeaseExpired},
		CauseAcquire:      {LeaseExpired, LeaseExpired},
		CauseSettle:       {LeaseExpired, LeaseExpired},
	} {
		got := Changes(before, Record{Rev: 2, Cause: cause, Retired: Retired{Key: "ended", Fence: 1, Cause: cause}})
		if len(got) != 2 || got[0].Kind != want[0] || got[1].Kind != want[1] {
			t.Errorf("%s: %+v, want %v", cause, got, want)
		}
	}
}

// A late release succeeds if the lease ended by a cause that counts as a release.
func TestLateReleaseByCause(t *testing.T) {
	for cause, want := range map[Cause]error{
		CauseRelease: nil, CauseExecutionEnd: nil, CauseUndo: nil,
		CauseTaskGone: ErrLeaseLost, CauseExpire: ErrLeaseLost, CauseForceRelease: ErrLeaseLost,
	} {
		k := newKit(t)
		k.must("a")
		k.want(k.release("a"), nil)
		r := k.record()
		r.Retired.Cause = cause
		k.store.records[lockName] = r
		k.want(k.release("a"), want)
	}
}
