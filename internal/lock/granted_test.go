package lock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

// newTeller is a kit whose coordinator hands grants on to the test. It returns the owners of the grants that need callbacks, a
// list for each call.
func newTeller(t *testing.T) (*kit, *[][]string) {
	k := newKit(t)
	var calls [][]string
	c, err := New(Config{Store: k.store, Clock: func() time.Time { return k.time }, Granted: func(_ context.Context, c *Coordinator, writes []Write) {
		var owners []string
		for _, w := range writes {
			if c != k.Coordinator || w.Lock != lockName {
				t.Errorf("coordinator %v, write %+v", c == k.Coordinator, w)
			}
			for _, ch := range CallbacksDue(w.Before, w.After) {
				owners = append(owners, ch.Lease.Owner)
			}
		}
		calls = append(calls, owners)
	}})
	if err != nil {
		t.Fatal(err)
	}
	k.Coordinator = c
	return k, &calls
}

// Every write that grants the lock to a waiter with a token hands the grant on, once, and after the write.
func TestGrantsAreHandedOn(t *testing.T) {
	for name, end := range handOffs {
		k, calls := newTeller(t)
		l := k.must("a", bind(name))
		k.waits("b", withToken("t"))
		k.waits("c")
		if len(*calls) != 0 {
			t.Errorf("%s: %v before the hand-off", name, *calls)
		}
		if err := end(k, l); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := fmt.Sprint(*calls); got != "[[b]]" {
			t.Errorf("%s: handed on %s", name, got)
		}
		k.must("visitor", func(r *AcquireRequest) { r.Lock = "another" })
		k.want(k.release("b"), nil) // c polls
		if len(*calls) != 1 {
			t.Errorf("%s: handed on %v for a waiter that polls", name, *calls)
		}
	}
}

// A grant to the caller itself, and another token for a lease, are handed on as well.
func TestOwnGrantIsHandedOn(t *testing.T) {
	k, calls := newTeller(t)
	k.waits("a", withToken("one"))
	k.waits("a", withToken("one"))
	k.waits("a", withToken("two"))
	if got := fmt.Sprint(*calls); got != "[[a] [a]]" {
		t.Errorf("handed on %s", got)
	}
}

// A write that leaves waiters is settled first, and all its grants are handed on together.
func TestGrantsOfSettlingAreHandedOn(t *testing.T) {
	k, calls := newTeller(t)
	k.must("big", of(100, 100))
	for i := range queueHead + 3 {
		k.waits(fmt.Sprintf("waiter-%02d", i), of(100, 1), withToken("t"))
	}
	k.want(k.release("big"), nil)
	if len(*calls) != 1 || len((*calls)[0]) != queueHead+3 || !slices.IsSorted((*calls)[0]) {
		t.Errorf("handed on %v", *calls)
	}
}

// Nothing is handed on of a write that failed, whose reply was lost, or whose reply proves the clock wrong.
func TestGrantsThatAreNotHandedOn(t *testing.T) {
	for name, spoil := range map[string]func(*kit){
		"the write failed": func(k *kit) { k.store.before = func(Command) error { return errors.New("down") } },
		"its reply was lost": func(k *kit) {
			k.store.after = func(c Command) error {
				if c.Kind == Swap {
					return errors.New("lost")
				}
				return nil
			}
		},
		"the clock is wrong": func(k *kit) {
			k.store.after = func(Command) error { return nil }
			k.store.before = func(c Command) error {
				if c.Kind == Swap {
					k.store.offset = -2 * MaxClockError
				}
				return nil
			}
		},
	} {
		k, calls := newTeller(t)
		k.must("a")
		k.waits("b", withToken("t"))
		spoil(k)
		_ = k.release("a")
		if len(*calls) != 0 {
			t.Errorf("%s: handed on %v", name, *calls)
		}
	}
}

// A grant whose callbacks were answered needs none until it gets another token.
func TestTold(t *testing.T) {
	k := newKit(t)
	k.waits("a", withToken("one"))
	ref := GrantRef{Lock: lockName, Key: KeyOf(lockName, "a"), Fence: k.holder("a").Fence}
	one := Tokens{task("one")}
	attempt, err := k.MarkAttempt(t.Context(), ref, one, k.record())
	if k.want(err, nil); !attempt.First || !attempt.Seen.Holders[ref.Key].Attempted {
		t.Errorf("attempt %+v", attempt)
	}
	k.store.reads = 0
	other := ref
	other.Fence++
	for _, miss := range []func() (Record, error){
		func() (Record, error) { return k.MarkTold(t.Context(), other, one, attempt.Seen) },
		func() (Record, error) { return k.MarkTold(t.Context(), ref, Tokens{task("two")}, attempt.Seen) },
	} {
		if _, err := miss(); err != nil || k.holder("a").Told {
			t.Errorf("%v, told %v", err, k.holder("a").Told)
		}
	}
	k.store.reads, k.store.applied = 0, nil
	told, err := k.MarkTold(t.Context(), ref, one, attempt.Seen)
	if k.want(err, nil); !k.holder("a").Told || !told.Holders[ref.Key].Told || k.store.reads != 0 || len(k.store.applied) != 1 || k.record().Cause != CauseTold {
		t.Errorf("told %v after %d reads and %d writes", k.holder("a").Told, k.store.reads, len(k.store.applied))
	}
	_, err = k.MarkAttempt(t.Context(), ref, one, Record{})
	k.want(err, ErrTold)
	k.want(k.EndTask(t.Context(), ref, Tokens{task("another")}, "gone"), nil)
	k.waits("a", withToken("two"))
	if h := k.holder("a"); h.Told || h.Attempted {
		t.Errorf("with another token: %+v", h)
	}
	if attempt, err = k.MarkAttempt(t.Context(), ref, k.holder("a").Tokens, Record{}); attempt.First || err != nil {
		t.Errorf("with another token: %+v, %v", attempt, err)
	}
}

// An attempt reads the record if the one that it was given shows no live grant without an attempt.
func TestAttemptThatReads(t *testing.T) {
	k := newKit(t)
	k.waits("a", withToken("t"), lasting(time.Second))
	old := k.record()
	ref := GrantRef{Lock: lockName, Key: KeyOf(lockName, "a"), Fence: k.holder("a").Fence}
	if _, err := k.renew("a", time.Hour); err != nil {
		t.Fatal(err)
	}
	k.pass(time.Minute)
	if _, err := k.MarkAttempt(t.Context(), ref, Tokens{task("t")}, old); err != nil {
		t.Errorf("the grant was renewed since: %v", err)
	}
}
