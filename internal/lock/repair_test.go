package lock

import (
	"errors"
	"testing"
	"time"
)

// poisoned is a lock whose fencing token is ahead of time: a coordinator with a wrong clock wrote it and lost the reply.
func poisoned(t *testing.T, ahead time.Duration) *kit {
	k := newKit(t)
	k.must("a")
	k.want(k.release("a"), nil)
	r := k.record()
	r.Fence = k.time.Add(ahead).UnixMicro()
	k.store.records[lockName] = r
	return k
}

func (k *kit) repair() (Repaired, error) {
	return k.Repair(k.t.Context(), RepairRequest{Lock: lockName, Principal: "op", Reason: "clock"})
}

func TestRepair(t *testing.T) {
	k := poisoned(t, 365*24*time.Hour)
	wrong := k.record().Fence
	_, err := k.acquire("b")
	k.want(err, ErrMisconfigured)
	got, err := k.repair()
	margin := 2 * (MaxClockError + time.Second)
	if want := (Repaired{Before: wrong, After: k.time.Add(MaxFenceLead + margin).UnixMicro(), Opens: k.time.Add(margin)}); err != nil || got.Before != want.Before || got.After != want.After || !got.Opens.Equal(want.Opens) {
		t.Errorf("repaired %+v, %v; want %+v", got, err, want)
	}
	if r := k.record(); r.Fence != got.After || r.Cause != CauseRepair || r.By != "op" || r.Reason != "clock" || len(r.Holders) != 0 {
		t.Errorf("record %+v", r)
	}
	_, err = k.acquire("b")
	k.want(err, ErrMisconfigured)
	k.pass(margin + ms)
	if b := k.must("b"); b.Lease.Fence != got.After+1 {
		t.Errorf("token %d after %d", b.Lease.Fence, got.After)
	}
	_, err = k.repair()
	k.want(err, ErrNothingToRepair)
}

// A fencing token that may have been returned to a caller is never lowered.
func TestRepairLeavesWhatMayHaveBeenTold(t *testing.T) {
	margin := 2 * (MaxClockError + time.Second)
	for _, c := range []struct {
		ahead time.Duration
		want  error
	}{{0, ErrNothingToRepair}, {MaxFenceLead + margin, ErrNothingToRepair}, {MaxFenceLead + margin + time.Microsecond, nil}} {
		k := poisoned(t, c.ahead)
		fence := k.record().Fence
		_, err := k.repair()
		k.want(err, c.want)
		if lowered := k.record().Fence < fence; lowered != (c.want == nil) {
			t.Errorf("%v ahead: lowered %v", c.ahead, lowered)
		}
	}
	k := newKit(t)
	_, err := k.repair() // never seen
	k.want(err, ErrNothingToRepair)
	k = poisoned(t, 24*time.Hour)
	k.store.offset = time.Hour // our clock is wrong
	_, err = k.repair()
	k.want(err, ErrUnavailable)
}

func TestRepairOfAHeldLock(t *testing.T) {
	k := newKit(t)
	k.must("a", of(3, 1), lasting(time.Hour))
	k.must("ghost", of(3, 1), lasting(time.Hour))
	k.must("over", of(3, 1))
	k.waits("w", of(3, 1))
	r := k.record()
	ghost := r.Holders[KeyOf(lockName, "ghost")]
	ghost.Fence = k.time.Add(24 * time.Hour).UnixMicro()
	r.Holders[KeyOf(lockName, "ghost")], r.Fence = ghost, ghost.Fence
	k.store.records[lockName] = r
	k.pass(ttl + skew)
	_, err := k.repair()
	held, ok := errors.AsType[*HeldError](err)
	if !ok || len(held.Holders) != 2 {
		t.Errorf("with a live holder of such a token: %v", err)
	}
	if _, err = k.ForceRelease(t.Context(), ForceReleaseRequest{Lock: lockName, Reason: "r", Fence: ghost.Fence}); err != nil {
		t.Fatal(err)
	}
	k.holds([]string{"a"}, []string{"w"}) // nobody can be granted
	if _, err = k.repair(); err != nil {
		t.Errorf("with a live holder of an older token: %v", err)
	}
	k.holds([]string{"a"}, []string{"w"})
	k.pass(2*(MaxClockError+time.Second) + ms)
	if p := k.waits("w", of(3, 1)); p != 0 {
		t.Errorf("place %d", p)
	}
}

func TestRepairWithALostReply(t *testing.T) {
	k := poisoned(t, 24*time.Hour)
	tries := 0
	k.store.before = func(c Command) error { // the store's retry fails on the first attempt's success
		if tries++; tries == 1 {
			_, err := k.store.Memory.Apply(t.Context(), lockName, c)
			return err
		}
		return nil
	}
	before := k.record().Fence
	if got, err := k.repair(); err != nil || got.Before != before || got.After != k.record().Fence || tries != 1 {
		t.Errorf("%+v, %v after %d tries", got, err, tries)
	}
	// Somebody else's write in between is looked at anew.
	k = poisoned(t, 24*time.Hour)
	tries = 0
	k.store.before = func(Command) error {
		if tries++; tries == 1 {
			r := k.record()
			r.Rev, r.Fence = r.Rev+1, r.Fence+5
			k.store.records[lockName] = r
		}
		return nil
	}
	if got, err := k.repair(); err != nil || got.Before != before+5 || tries != 2 {
		t.Errorf("%+v, %v after %d tries", got, err, tries)
	}
}
