package lock

import (
	"errors"
	"slices"
	"testing"
	"time"
)

// A callback is due for a new grant with a token, and again when the lease gets another token.
func TestToTell(t *testing.T) {
	holds := func(fence int64, token string) Record {
		return Record{Holders: map[LeaseKey]Lease{"a": {Terms: Terms{Tokens: Tokens{task(token)}}, Fence: fence}}}
	}
	for name, test := range map[string]struct {
		before, after Record
		told          bool
	}{
		"a new grant":           {Record{}, holds(1, "t"), true},
		"a later grant":         {holds(1, "t"), holds(2, "t"), true},
		"another token":         {holds(1, "t"), holds(1, "t\nu"), true},
		"nothing new":           {holds(1, "t"), holds(1, "t"), false},
		"a grant with no token": {Record{}, holds(1, ""), false},
		"a token that is gone":  {holds(1, "t"), holds(1, ""), false},
	} {
		list := CallbacksDue(test.before, test.after)
		if told := len(list) == 1 && list[0].Kind == LeaseAcquired && list[0].Lease == test.after.Holders["a"]; told != test.told || len(list) > 1 {
			t.Errorf("%s: %+v", name, list)
		}
	}
}

func TestRule10Tokens(t *testing.T) {
	k := newKit(t)
	k.must("a", lasting(2*time.Hour))
	k.waits("b", withToken("one"))
	k.pass(time.Minute)
	rev, until := k.record().Rev, k.record().Queue[0].Until
	k.waits("b", withToken("one"))
	if w := k.record().Queue[0]; k.record().Rev != rev || w.Until != until { // a repeat keeps the place for no longer
		t.Errorf("waiter %+v", w)
	}
	k.waits("b", withToken("two")) // the task was tried again: it waits from now
	if w := k.record().Queue[0]; w.Until != until+time.Minute.Milliseconds() || !slices.Equal(w.Tokens.List(), []Token{task("one"), task("two")}) || w.Ticket != 1 {
		t.Errorf("waiter %+v", w)
	}
	k.want(k.release("a"), nil)
	h := k.holder("b")
	if h.Unclaimed || h.ExpiresAt != k.time.Add(ttl).UnixMilli() {
		t.Errorf("granted %+v", h)
	}
	req := GrantRef{Lock: lockName, Key: KeyOf(lockName, "b"), Fence: h.Fence}
	if _, err := k.MarkAttempt(t.Context(), req, Tokens{task("one")}, k.record()); !errors.Is(err, ErrSuperseded) {
		t.Errorf("attempt with the first token: %v", err)
	}
	if attempt, err := k.MarkAttempt(t.Context(), req, h.Tokens, k.record()); attempt.First || err != nil { // nobody knows who was told
		t.Errorf("attempt with both: %v, %v", attempt.First, err)
	}
	if !k.holder("b").Attempted {
		t.Error("the attempt was not noted")
	}
	for i, token := range []string{"three", "four"} {
		k.waits("b", withToken(token))
		if got := k.holder("b"); len(got.Tokens.List()) != maxTokens || got.Tokens.List()[2] != task(token) || got.Attempted || got.ExpiresAt != h.ExpiresAt {
			t.Errorf("%d: %+v", i, got)
		}
		if k.record().Cause != CauseToken {
			t.Errorf("the stream does not hear of a token: %s", k.record().Cause)
		}
	}
}

// A lease that a caller polled for before a token was added does not end because the task is gone.
func TestRule10TokenAfterPolls(t *testing.T) {
	k := newKit(t)
	k.must("a")
	k.waits("b")
	k.waits("b", withToken("t"))
	k.want(k.release("a"), nil)
	h := k.holder("b")
	if !slices.Equal(h.Tokens.List(), []Token{task("t")}) {
		t.Errorf("tokens %v", h.Tokens.List())
	}
	req := GrantRef{Lock: lockName, Key: KeyOf(lockName, "b"), Fence: h.Fence}
	if attempt, err := k.MarkAttempt(t.Context(), req, h.Tokens, k.record()); attempt.First || err != nil {
		t.Errorf("first %v, %v", attempt.First, err)
	}
}

// A task that got its callback from a later attempt keeps its lease if the first attempt, which was under way for long, ends after it and
// finds nobody. The same holds if another caller asked for the lease.
func TestRule10TheFirstAttemptComesLate(t *testing.T) {
	for name, learn := range map[string]func(*kit, GrantRef) error{
		"a second attempt": func(k *kit, req GrantRef) error {
			attempt, err := k.MarkAttempt(t.Context(), req, Tokens{task("t")}, k.record())
			if attempt.First {
				t.Error("a second attempt is the first")
			}
			return err
		},
		"a poll":            func(k *kit, _ GrantRef) error { _, err := k.acquire("a"); return err },
		"a poll that waits": func(k *kit, _ GrantRef) error { _, err := k.acquire("a", placeFor(time.Hour)); return err },
		"a renewal":         func(k *kit, _ GrantRef) error { k.pass(ms); _, err := k.renew("a", ttl); return err },
		"a shorter renewal": func(k *kit, _ GrantRef) error { _, err := k.renew("a", time.Second); return err },
	} {
		for _, execution := range []string{"", "x"} {
			k := newKit(t)
			k.must("a", withToken("t"), boundTo(execution))
			req := GrantRef{Lock: lockName, Key: KeyOf(lockName, "a"), Fence: k.holder("a").Fence}
			if attempt, err := k.MarkAttempt(t.Context(), req, Tokens{task("t")}, k.record()); !attempt.First || err != nil {
				t.Errorf("%s: first %v, %v", name, attempt.First, err)
			}
			k.want(learn(k, req), nil)
			k.want(learn(k, req), nil)
			rev := k.record().Rev
			k.want(k.EndTask(t.Context(), req, Lease{Terms: Terms{Tokens: Tokens{task("t")}}}, "task gone"), nil)
			if k.record().Rev != rev || k.holder("a").Fence != req.Fence {
				t.Errorf("%s, execution %q: the lease was ended: %+v", name, execution, k.record())
			}
		}
	}
	// What was learned is written once.
	k := newKit(t)
	k.must("a", withToken("t"))
	k.must("a")
	writes := len(k.store.applied)
	k.must("a")
	if n := len(k.store.applied) - writes; n != 1 || k.store.applied[writes].Kind != Take || !k.holder("a").Known {
		t.Errorf("%d writes, %+v", n, k.holder("a"))
	}
}

// A caller without the token that polls for a task's place may get the grant, so the lease does not end because the task is gone.
func TestRule10PollsAfterToken(t *testing.T) {
	k := newKit(t)
	k.must("a")
	k.waits("b", withToken("t"))
	until := k.record().Queue[0].Until
	k.waits("b")
	if w := k.record().Queue[0]; !w.Known || w.Until < until || w.Tokens != (Tokens{task("t")}) {
		t.Errorf("waiter %+v", w)
	}
	rev := k.record().Rev
	k.waits("b")
	if k.record().Rev != rev {
		t.Error("a second poll was written")
	}
	k.want(k.release("a"), nil)
	h := k.holder("b")
	req := GrantRef{Lock: lockName, Key: KeyOf(lockName, "b"), Fence: h.Fence}
	if attempt, err := k.MarkAttempt(t.Context(), req, h.Tokens, k.record()); attempt.First || err != nil || !k.holder("b").Attempted {
		t.Errorf("first %v, %v", attempt.First, err)
	}
}

func TestAttempts(t *testing.T) {
	k := newKit(t)
	k.waits("a", withToken("t"))
	h := k.holder("a")
	req := GrantRef{Lock: lockName, Key: KeyOf(lockName, "a"), Fence: h.Fence}
	other := req
	other.Fence++
	if _, err := k.MarkAttempt(t.Context(), other, Tokens{task("t")}, Record{}); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("of another grant: %v", err)
	}
	k.store.reads = 0
	for _, want := range []bool{true, false} {
		if attempt, err := k.MarkAttempt(t.Context(), req, Tokens{task("t")}, k.record()); attempt.First != want || err != nil {
			t.Errorf("first %v, %v", attempt.First, err)
		}
	}
	if k.store.reads != 1 { // the record as it was last heard of spares one
		t.Errorf("%d reads", k.store.reads)
	}
	if r := k.record(); r.Cause != CauseAttempt {
		t.Errorf("cause %s", r.Cause)
	}
	k.pass(ttl) // over, though nobody took the lock
	if _, err := k.MarkAttempt(t.Context(), req, Tokens{task("t")}, Record{}); !errors.Is(err, ErrLeaseLost) {
		t.Errorf("of an expired grant: %v", err)
	}
}

func TestEndOfATask(t *testing.T) {
	k := newKit(t)
	k.waits("a", withToken("t"))
	req := GrantRef{Lock: lockName, Key: KeyOf(lockName, "a"), Fence: k.holder("a").Fence}
	other := req
	other.Fence++
	k.want(k.EndTask(t.Context(), other, Lease{Terms: Terms{Tokens: Tokens{task("t")}}}, "gone"), nil)
	k.want(k.EndTask(t.Context(), req, Lease{Terms: Terms{Tokens: Tokens{task("another")}}}, "gone"), nil)
	k.holds([]string{"a"}, nil)
	k.want(k.EndTask(t.Context(), req, Lease{Terms: Terms{Tokens: Tokens{task("t")}}}, "gone"), nil)
	k.holds(nil, nil)
	if r := k.record(); r.Cause != CauseTaskGone || r.By != "gone" || r.Retired.Cause != CauseTaskGone || r.Retired.Fence != req.Fence {
		t.Errorf("record %+v", r)
	}
	_, err := k.acquire("a") // only the task, tried again, may use the secret again
	k.want(err, ErrLeaseLost)
	if p := k.waits("a", withToken("u")); p != 0 {
		t.Errorf("place %d", p)
	}
}

// An attempt reads the record again if the one that it was given is older than the grant.
func TestAttemptWithAnOldRecord(t *testing.T) {
	k := newKit(t)
	k.waits("a", withToken("t"))
	h := k.holder("a")
	old := k.record()
	older := h
	older.Fence--
	old.Holders = map[LeaseKey]Lease{KeyOf(lockName, "a"): older}
	attempt, err := k.MarkAttempt(t.Context(), GrantRef{Lock: lockName, Key: KeyOf(lockName, "a"), Fence: h.Fence}, Tokens{task("t")}, old)
	if !attempt.First || err != nil {
		t.Errorf("%v, %v", attempt.First, err)
	}
}
