package lock

import (
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// A task is told of a new grant, and again when it waits with another token since.
func TestToTell(t *testing.T) {
	holds := func(fence int64, token string) Record {
		return Record{Holders: map[LeaseKey]Lease{"a": {Terms: Terms{Tokens: Tokens{token}}, Fence: fence}}}
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

// A holder that stays hides neither the end of another nor a new grant.
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

// A fencing token that was granted already is not granted again.
func TestFenceBelowIsStrict(t *testing.T) {
	for fence, holds := range map[int64]bool{6: true, 7: false, 8: false} {
		if (Clause{Test: FenceBelow, N: 7}).Holds(Record{Fence: fence}) != holds {
			t.Errorf("below 7: %d", fence)
		}
	}
}

func TestStoreErrorText(t *testing.T) {
	cause := errors.New("timeout")
	for text, e := range map[string]*StoreError{
		"store is throttled: too many requests":                        {Kind: ErrThrottled, What: "too many requests"},
		"store is throttled: too many requests (wait)":                 {Kind: ErrThrottled, What: "too many requests", Fix: "wait"},
		"store is unavailable: no answer: timeout":                     {Kind: ErrUnavailable, What: "no answer", Err: cause},
		"store is unavailable: no answer (check the network): timeout": {Kind: ErrUnavailable, What: "no answer", Fix: "check the network", Err: cause},
	} {
		if e.Error() != text || !errors.Is(e, e.Kind) {
			t.Errorf("%q, want %q", e, text)
		}
	}
}

// A page ends at its limit and at its size, names that do not match are passed over, and a cursor of another kind is refused.
func TestMemoryPages(t *testing.T) {
	var m Memory
	m.records = map[string]Record{}
	for _, name := range []string{"a", "b:1", "b:2", "b:3", "c"} {
		m.records[name] = Record{Rev: 1, Holders: map[LeaseKey]Lease{"l": {}}, FreeAt: 1}
	}
	names := func(q ListQuery) (string, string) {
		t.Helper()
		page, err := m.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, e := range page.Entries {
			list = append(list, e.Name)
		}
		return strings.Join(list, " "), page.Next
	}
	first, next := names(ListQuery{Prefix: "b:", Limit: 2})
	if first != "b:1 b:2" || next == "" {
		t.Errorf("%q, %q", first, next)
	}
	if rest, last := names(ListQuery{Prefix: "b:", Limit: 2, Cursor: next}); rest != "b:3" || last != "" {
		t.Errorf("%q, %q", rest, last)
	}
	for _, cursor := range []string{"not base64!", base64.RawURLEncoding.EncodeToString([]byte("b:1")), "not base64!" + next} {
		if _, err := m.List(t.Context(), ListQuery{Limit: 2, Cursor: cursor}); !errors.Is(err, ErrBadCursor) {
			t.Errorf("%q: %v", cursor, err)
		}
	}

	fill := func(name string, size int) { // a record of just that size
		r := Record{Rev: 1, Holders: map[LeaseKey]Lease{"l": {}}}
		r.Holders["l"] = Lease{Terms: Terms{Metadata: strings.Repeat("x", size-r.Size())}}
		m.records[name] = r
	}
	fill("b:1", MaxPageBytes/2)
	fill("b:2", MaxPageBytes/2)
	if all, next := names(ListQuery{Prefix: "b:", Limit: 9}); all != "b:1 b:2 b:3" || next != "" {
		t.Errorf("a page of %d bytes takes another record: %q", MaxPageBytes, all)
	}
	fill("b:2", MaxPageBytes/2+1)
	if all, next := names(ListQuery{Prefix: "b:", Limit: 9}); all != "b:1 b:2" || next == "" {
		t.Errorf("a page above %d bytes takes no more: %q", MaxPageBytes, all)
	}
}

// A renewal to the very expiry that a lease has takes over the TTL, whether it is one blind write or, beside a holder that lasts
// longer, a swap.
func TestRenewalToTheSameExpiry(t *testing.T) {
	for _, beside := range []bool{false, true} {
		k := newKit(t)
		k.must("a", of(2, 1))
		k.pass(ttl / 2)
		if beside {
			k.must("b", of(2, 1))
		}
		metadata := `{"step":2}`
		if _, err := k.Renew(t.Context(), RenewRequest{Lock: lockName, Secret: "a", TTL: ttl / 2, Metadata: &metadata}); err != nil {
			t.Fatal(err)
		}
		if h := k.holder("a"); h.TTL != (ttl/2).Milliseconds() || h.Metadata != metadata || h.ExpiresAt != k.time.Add(ttl/2).UnixMilli() {
			t.Errorf("beside another %v: %+v", beside, h)
		}
	}
}

// The store is asked for a queue only where there is one, and an operation wants it.
func TestQueuesAreReadWhereTheyMatter(t *testing.T) {
	k := newKit(t)
	k.must("a")
	if _, err := k.acquire("b"); !errors.Is(err, ErrLockHeld) || len(k.store.limits) != 0 {
		t.Errorf("%v, asked for %v", err, k.store.limits)
	}
	k.waits("b")
	k.store.limits = nil
	if _, err := k.Renew(t.Context(), RenewRequest{Lock: lockName, Secret: "a", TTL: ttl}); err != nil || len(k.store.limits) != 0 {
		t.Errorf("%v, asked for %v", err, k.store.limits)
	}
}

// A queue of a later record has the record read again; only a queue that stays different from its record counts as it is.
func TestQueueOfALaterRecord(t *testing.T) {
	for what, mend := range map[string]func(list []Waiter) []Waiter{
		"one waiter too few":                  func(list []Waiter) []Waiter { return list[:1] },
		"one whose ticket is not yet known":   func(list []Waiter) []Waiter { list[1].Ticket += 10; return list },
		"one more, which is not known either": func(list []Waiter) []Waiter { return append(list, Waiter{Ticket: 99, Key: "x", Until: 1}) },
	} {
		k := newKit(t)
		k.must("a")
		k.waits("b")
		k.waits("c")
		asked := 0
		k.store.queue = func(list []Waiter, _ int) []Waiter {
			if asked++; asked == 1 {
				return mend(slices.Clone(list))
			}
			return list
		}
		k.store.reads = 0
		k.want(k.release("a"), nil)
		k.holds([]string{"b"}, []string{"c"})
		if k.store.reads != 1 || asked < 2 {
			t.Errorf("%s: %d reads of the record, %d of the queue", what, k.store.reads, asked)
		}
	}
}

// The same of a record's first revision, which a purged row with waiters left behind has.
func TestQueueOfAFirstRevision(t *testing.T) {
	k := newKit(t)
	k.store.records = map[string]Record{lockName: {
		Rev: 1, Capacity: 1, Waiting: 1, NextTicket: 1, Queue: []Waiter{{Ticket: 1, Key: "w", Terms: Terms{Permits: 1, Capacity: 1, TTL: 1000}, Until: k.time.Add(time.Hour).UnixMilli()}},
	}}
	asked := 0
	k.store.queue = func(list []Waiter, _ int) []Waiter {
		if asked++; asked == 1 {
			return nil
		}
		return list
	}
	_, err := k.acquire("a")
	k.want(err, ErrLockHeld)
	if _, held := k.record().Holders["w"]; !held {
		t.Errorf("the waiter was passed over: %+v", k.record())
	}
}

// A lock without holders whose waiters all went away is taken by a newcomer.
func TestOnlyDeadWaiters(t *testing.T) {
	k := newKit(t)
	k.store.records = map[string]Record{lockName: {
		Rev: 5, Capacity: 1, Waiting: 1, NextTicket: 1, Queue: []Waiter{{Ticket: 1, Key: "dead", Terms: Terms{Permits: 1, Capacity: 1, TTL: 1000}, Until: 1}},
	}}
	k.must("a")
	k.holds([]string{"a"}, nil)
}

// An attempt does not trust a record that it heard of before the grant that is to be told.
func TestAttemptWithAnOldRecord(t *testing.T) {
	k := newKit(t)
	k.waits("a", withToken("t"))
	h := k.holder("a")
	old := k.record()
	older := h
	older.Fence--
	old.Holders = map[LeaseKey]Lease{KeyOf(lockName, "a"): older}
	first, err := k.MarkAttempt(t.Context(), GrantRef{Lock: lockName, Key: KeyOf(lockName, "a"), Fence: h.Fence}, Tokens{"t"}, old)
	if !first || err != nil {
		t.Errorf("%v, %v", first, err)
	}
}

// A timer's blind write ends only a lease that is past its expiry by the skew, and meets no fencing token that it has not seen.
func TestGuardOfExpire(t *testing.T) {
	for expires, holds := range map[int64]bool{9: true, 10: true, 11: false} {
		r := Record{Holders: map[LeaseKey]Lease{"a": {ExpiresAt: expires}}}
		if (Clause{Test: LeaseExpiredBy, Key: "a", N: 10}).Holds(r) != holds {
			t.Errorf("expired by 10: %d", expires)
		}
	}
	if (Clause{Test: LeaseExpiredBy, Key: "a", N: 10}).Holds(Record{}) {
		t.Error("a lease that is not there")
	}
	now := time.UnixMilli(1_800_000_000_000)
	want := map[Test]int64{LeaseExpiredBy: 1_800_000_000_000 - 250, FenceBelow: 1_800_000_000_250_001}
	for _, c := range (Rules{Skew: 250 * time.Millisecond, Retention: DefaultRetention}).expire(now, "a").Guard {
		if n, ok := want[c.Test]; ok && c.N != n {
			t.Errorf("%v %d, want %d", c.Test, c.N, n)
		}
		delete(want, c.Test)
	}
	if len(want) > 0 {
		t.Errorf("no clause %v", want)
	}
}
