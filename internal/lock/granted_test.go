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
	for i := range QueueHead + 3 {
		k.waits(fmt.Sprintf("waiter-%02d", i), of(100, 1), withToken("t"))
	}
	k.want(k.release("big"), nil)
	if len(*calls) != 1 || len((*calls)[0]) != QueueHead+3 || !slices.IsSorted((*calls)[0]) {
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
	k.want(k.EndTask(t.Context(), ref, Lease{Terms: Terms{Tokens: Tokens{task("another")}}}, "gone"), nil)
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

// hinted lets a caller poll that is notified in a queue.
func hinted(queue string) func(*AcquireRequest) {
	return func(r *AcquireRequest) { r.Token, r.Wait = hint(queue), time.Hour }
}

func hint(queue string) Token { return Token{Kind: NotifyToken, Text: queue} }

// A waiter that is notified polls: its first acquire is one write, its grant is unclaimed and needs a callback, and its claim removes
// the token.
func TestNotifiedWaiter(t *testing.T) {
	k, calls := newTeller(t)
	k.must("a", hinted("q"))
	if len(k.store.applied) != 1 || k.store.reads != 0 || !k.holder("a").Tokens.Empty() {
		t.Errorf("%d writes, %d reads, %+v", len(k.store.applied), k.store.reads, k.holder("a"))
	}
	k.waits("b", hinted("q"))
	k.waits("b", hinted("q"))
	k.want(k.release("a"), nil)
	h := k.holder("b")
	if !h.Unclaimed || h.ExpiresAt != k.time.Add(ClaimTime).UnixMilli() || h.Tokens != (Tokens{hint("q")}) || fmt.Sprint(*calls) != "[[b]]" {
		t.Errorf("granted %+v, handed on %v", h, *calls)
	}
	ref := GrantRef{Lock: lockName, Key: KeyOf(lockName, "b"), Fence: h.Fence}
	unclaimed := func(want bool) {
		t.Helper()
		if is, err := k.Unclaimed(t.Context(), ref); is != want || err != nil {
			t.Errorf("unclaimed %v, %v", is, err)
		}
	}
	unclaimed(true)
	k.pass(ClaimTime)
	unclaimed(false)
	k.pass(-ClaimTime)
	ref.Fence++
	unclaimed(false)
	ref.Fence--
	for _, claim := range []func() error{
		func() error { _, err := k.acquire("b", hinted("q")); return err },
		func() error { _, err := k.acquire("b"); return err },
		func() error { _, err := k.renew("b", ttl); return err },
	} {
		before := k.record()
		k.want(claim(), nil)
		if got := k.holder("b"); got.Unclaimed || !got.Tokens.Empty() || got.Known || len(CallbacksDue(before, k.record())) > 0 {
			t.Errorf("claimed %+v", got)
		}
		unclaimed(false)
		k.store.records[lockName] = before
	}
	if len(*calls) != 1 {
		t.Errorf("handed on %v", *calls)
	}
}

// A waiter that finds the lock free at its turn gets it by its own request, and no notification.
func TestNotifiedWaiterFindsItsTurn(t *testing.T) {
	k, calls := newTeller(t)
	k.must("a")
	k.waits("b", hinted("q"))
	k.pass(ttl + skew)
	k.must("b", hinted("q"))
	if h := k.holder("b"); h.Unclaimed || !h.Tokens.Empty() || len(*calls) != 0 {
		t.Errorf("granted %+v, handed on %v", h, *calls)
	}
}

// Tokens of tasks and of callers that poll do not mix: a task's replaces the other, which is not added to it. Of those of callers that
// poll the last one counts.
func TestTokensDoNotMix(t *testing.T) {
	for _, test := range []struct{ has, gets, want Tokens }{
		{Tokens{}, Tokens{hint("q")}, Tokens{hint("q")}},
		{Tokens{hint("q")}, Tokens{hint("p")}, Tokens{hint("p")}},
		{Tokens{hint("q")}, Tokens{hint("q")}, Tokens{hint("q")}},
		{Tokens{hint("q")}, Tokens{task("t")}, Tokens{task("t")}},
		{Tokens{task("t")}, Tokens{hint("q")}, Tokens{task("t")}},
		{Tokens{task("t")}, Tokens{task("u")}, Tokens{task("t"), task("u")}},
		{Tokens{hint("q")}, Tokens{}, Tokens{hint("q")}},
	} {
		got, added := test.has.with(test.gets[0])
		if got != test.want || added != (got != test.has) {
			t.Errorf("%v with %v: %v, %v", test.has, test.gets, got, added)
		}
	}
	k := newKit(t)
	k.must("a")
	k.waits("b", hinted("q"))
	until := k.record().Queue[0].Until
	k.pass(ttl / 2)
	k.waits("b", hinted("p")) // another queue
	if w := k.record().Queue[0]; w.Tokens != (Tokens{hint("p")}) || w.Known || w.Until != until+(ttl/2).Milliseconds() {
		t.Errorf("waiter %+v", w)
	}
	k.waits("b", withToken("t"))
	k.waits("b", hinted("p")) // polls for a task's place: somebody else knows of it
	if w := k.record().Queue[0]; w.Tokens != (Tokens{task("t")}) || !w.Known {
		t.Errorf("waiter %+v", w)
	}
	k.want(k.release("a"), nil)
	if h := k.holder("b"); h.Unclaimed || !h.Known {
		t.Errorf("granted %+v", h)
	}
	k.must("b", hinted("p"))
	if h := k.holder("b"); h.Tokens != (Tokens{task("t")}) {
		t.Errorf("its task's token is lost: %+v", h)
	}
}
