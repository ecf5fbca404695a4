package lock

import (
	"slices"
	"testing"
	"time"
)

// Renewals and other changes of one lease leave the other leases and the queue exactly as they are.
func TestRule12OthersAreLeftAlone(t *testing.T) {
	k := newKit(t)
	k.must("a", of(2, 1), func(r *AcquireRequest) { r.Metadata = `{"a":1}` })
	k.must("b", of(2, 1), boundTo("x"))
	k.waits("c", of(2, 1))
	before := k.record()
	k.pass(time.Second)
	if _, err := k.renew("a", ttl); err != nil {
		t.Fatal(err)
	}
	after := k.record()
	other := KeyOf(lockName, "b")
	if after.Holders[other] != before.Holders[other] || !slices.Equal(after.Queue, before.Queue) || after.Retired != before.Retired || after.NextTicket != before.NextTicket || after.Fence != before.Fence {
		t.Errorf("from %+v to %+v", before, after)
	}
	if after.Holders[KeyOf(lockName, "a")].Metadata != `{"a":1}` {
		t.Errorf("metadata %q", after.Holders[KeyOf(lockName, "a")].Metadata)
	}
}

// A fencing token that was granted is not granted again.
func TestFenceBelowIsStrict(t *testing.T) {
	for fence, holds := range map[int64]bool{6: true, 7: false, 8: false} {
		if (Clause{Test: FenceBelow, N: 7}).Holds(Record{Fence: fence}) != holds {
			t.Errorf("below 7: %d", fence)
		}
	}
}
