package lock

import (
	"slices"
	"testing"
)

// Beside a lease that stays, the end of another lease and a new grant are changes.
func TestChangesBesideAHolderThatStays(t *testing.T) {
	before := Record{Holders: map[LeaseKey]Lease{"stays": {Fence: 1}, "ends": {Fence: 2}}}
	after := Record{Holders: map[LeaseKey]Lease{"stays": {Fence: 1}, "new": {Fence: 3}}, Cause: CauseExpire}
	var got []string
	for _, c := range Changes(before, after) {
		got = append(got, string(c.Kind)+" "+string(c.Key))
	}
	if want := []string{"expired ends", "acquired new"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A release that also removes an expired lease makes an expiry of that one.
func TestChangesOfARelease(t *testing.T) {
	before := Record{Rev: 1, Holders: map[LeaseKey]Lease{"a": {Fence: 1}, "over": {Fence: 2}}}
	after := Record{Rev: 2, Cause: CauseRelease, Retired: Retired{Key: "a", Fence: 1}, Holders: map[LeaseKey]Lease{"new": {Fence: 3}}}
	want := []Change{{LeaseReleased, "a", Lease{Fence: 1}}, {LeaseExpired, "over", Lease{Fence: 2}}, {LeaseAcquired, "new", Lease{Fence: 3}}}
	if got := Changes(before, after); !slices.Equal(got, want) {
		t.Errorf("changes %+v, want %+v", got, want)
	}
}
