package lock

import (
	"testing"
	"time"
)

func TestRule3RepeatedRelease(t *testing.T) {
	k := newKit(t)
	l := k.must("a")
	k.want(k.release("b"), ErrLeaseLost)
	k.pass(time.Second)
	at := k.time.UnixMilli()
	k.want(k.release("a"), nil)
	rev := k.record().Rev
	k.pass(time.Second)
	got, err := k.Release(t.Context(), ReleaseRequest{Lock: lockName, Secret: "a"})
	if err != nil || got != (Released{Lock: lockName, Fence: l.Lease.Fence, At: at}) || k.record().Rev != rev {
		t.Errorf("repeated: %+v, %v", got, err)
	}
	k.must("b")
	k.want(k.release("a"), nil) // remembered still
	k.want(k.release("b"), nil)
	k.want(k.release("a"), ErrLeaseLost) // one deep
	// How a lease ended otherwise is not a release.
	k.must("c")
	if _, err := k.ForceRelease(t.Context(), ForceReleaseRequest{Lock: lockName, Reason: "r"}); err != nil {
		t.Fatal(err)
	}
	k.want(k.release("c"), ErrLeaseLost)
}
