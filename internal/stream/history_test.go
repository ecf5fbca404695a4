package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// A historyStore counts what the history costs, and fails on demand.
type historyStore struct {
	lock.Memory
	mu      sync.Mutex
	rules   int // reads of the rules
	puts    int
	noRules error
	put     func(n int) error // called before the n-th put
	lost    bool              // the reply of a put is lost
}

func (s *historyStore) PrefixRules(ctx context.Context) ([]lock.PrefixRule, error) {
	if s.rules++; s.noRules != nil {
		return nil, s.noRules
	}
	return s.Memory.PrefixRules(ctx)
}

func (s *historyStore) PutHistory(ctx context.Context, name string, entries []lock.HistoryEntry, keep time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts++
	if s.put != nil && !s.lost {
		if err := s.put(s.puts); err != nil {
			return err
		}
	}
	err := s.Memory.PutHistory(ctx, name, entries, keep)
	if s.lost {
		return s.put(s.puts)
	}
	return err
}

// A recording is a consumer over a memory store, whose writes are kept as stream records.
type recording struct {
	*Consumer
	t       *testing.T
	store   *historyStore
	buried  *fakeDeadLetter
	backlog *fakeBacklog
	time    time.Time
	writes  []Write
	log     strings.Builder
}

func newRecording(t *testing.T, backlog bool) *recording {
	k := &recording{t: t, store: &historyStore{}, buried: &fakeDeadLetter{}, time: time.Unix(1_800_000_000, 0)}
	k.store.Changed = func(name string, before, after lock.Record) {
		before.Queue, after.Queue = nil, nil
		k.writes = append(k.writes, Write{Write: lock.Write{Lock: name, Before: before, After: after}, Sequence: fmt.Sprint(len(k.writes))})
	}
	now := func() time.Time { return k.time }
	c, err := lock.New(lock.Config{Store: k.store, Clock: now})
	if err != nil {
		t.Fatal(err)
	}
	k.Consumer = &Consumer{Bus: nowhere{}, Coordinator: c, DeadLetter: k.buried, Clock: now, Log: slog.New(slog.NewJSONHandler(&k.log, nil))}
	if backlog {
		k.backlog = &fakeBacklog{}
		k.Backlog = k.backlog
	}
	return k
}

func (k *recording) keep(prefix string, d time.Duration) {
	k.t.Helper()
	req := lock.RuleRequest{Prefix: prefix, Set: lock.RuleParts{History: &lock.Keeping{For: d.Milliseconds()}}}
	if d == 0 {
		req = lock.RuleRequest{Prefix: prefix, Remove: []lock.RulePart{lock.PartHistory}}
	}
	if _, err := k.Coordinator.SetRule(k.t.Context(), req); err != nil {
		k.t.Fatal(err)
	}
}

func (k *recording) acquire(name, secret string, change ...func(*lock.AcquireRequest)) lock.LeaseStatus {
	k.t.Helper()
	req := lock.AcquireRequest{Lock: name, Secret: secret, Owner: secret, Principal: "arn:" + secret, TTL: time.Minute, Capacity: 1, Permits: 1, Wait: time.Hour}
	for _, c := range change {
		c(&req)
	}
	l, err := k.Coordinator.Acquire(k.t.Context(), req)
	if err != nil && !errors.Is(err, lock.ErrLockHeld) {
		k.t.Fatal(err)
	}
	k.time = k.time.Add(time.Second)
	return l
}

func (k *recording) release(name, secret string) {
	k.t.Helper()
	if _, err := k.Coordinator.Release(k.t.Context(), lock.ReleaseRequest{Lock: name, Secret: secret}); err != nil {
		k.t.Fatal(err)
	}
	k.time = k.time.Add(time.Second)
}

// history is what is kept of a lock, oldest first, in a short form.
func (k *recording) history(name string) (list []string) {
	k.t.Helper()
	page, err := k.Coordinator.History(k.t.Context(), lock.HistoryRequest{Lock: name, Oldest: true, Limit: 100})
	if err != nil {
		k.t.Fatal(err)
	}
	for _, e := range page.Entries {
		text := fmt.Sprintf("%d %s %s", (e.At-1_800_000_000_000)/1000, e.Owner, e.Kind)
		if e.Kind != lock.LeaseAcquired {
			text += fmt.Sprintf(" %s after %d", e.Cause, (e.At-e.AcquiredAt)/1000)
		}
		if e.Waited > 0 {
			text += fmt.Sprintf(", waited %d", e.Waited/1000)
		}
		if e.Unclaimed {
			text += ", unclaimed"
		}
		if e.Reason != "" {
			text += fmt.Sprintf(", by %s: %s", e.By, e.Reason)
		}
		list = append(list, text+fmt.Sprintf("; %d held, %d wait", e.Held, e.Waiting))
	}
	return list
}

// life takes a lock through all that can happen to a lease. It returns its history.
func (k *recording) life(name string) []string {
	k.acquire(name, "a")
	k.acquire(name, "b")
	k.release(name, "a")
	k.acquire(name, "b") // claims its grant
	k.acquire(name, "c")
	if _, err := k.Coordinator.ForceRelease(k.t.Context(), lock.ForceReleaseRequest{Lock: name, Principal: "arn:op", Reason: "stuck"}); err != nil {
		k.t.Fatal(err)
	}
	k.time = k.time.Add(20 * time.Second)
	k.acquire(name, "d") // ends the grant that c has not claimed
	k.time = k.time.Add(2 * time.Minute)
	k.acquire(name, "e") // ends d's lease
	return []string{
		"0 a acquired; 1 held, 0 wait", "2 a released release after 2; 0 held, 0 wait", "2 b acquired, waited 1; 1 held, 0 wait",
		"5 b force-released force-release after 3, waited 1, by arn:op: stuck; 0 held, 0 wait", "5 c acquired, waited 1; 1 held, 0 wait",
		"15 c expired acquire after 10, waited 1, unclaimed; 0 held, 0 wait", "25 d acquired; 1 held, 0 wait", "85 d expired acquire after 60; 0 held, 0 wait",
		"146 e acquired; 1 held, 0 wait",
	}
}

func (k *recording) consume(batch []Write) []string {
	k.t.Helper()
	return k.Consume(k.t.Context(), batch)
}

// The history has each grant and each end once, whatever is delivered twice, late, or in another order.
func TestHistoryOfALocksLife(t *testing.T) {
	for name, deliver := range map[string]func(k *recording){
		"one batch": func(k *recording) { k.consume(k.writes) },
		"one by one": func(k *recording) {
			for _, w := range k.writes {
				k.consume([]Write{w})
			}
		},
		"twice":         func(k *recording) { k.consume(k.writes); k.consume(k.writes) },
		"twice at once": func(k *recording) { k.consume(slices.Concat(k.writes, k.writes)) },
		"backwards": func(k *recording) {
			slices.Reverse(k.writes)
			for _, w := range k.writes {
				k.consume([]Write{w})
			}
		},
		"a day late": func(k *recording) { k.time = k.time.Add(24 * time.Hour); k.consume(k.writes) },
	} {
		k := newRecording(t, true)
		k.keep("deploy:", 90*24*time.Hour)
		want := k.life("deploy:prod")
		k.life("report")
		deliver(k)
		if got := k.history("deploy:prod"); !slices.Equal(got, want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if got := k.history("report"); len(got) > 0 || len(k.backlog.jobs) > 0 {
			t.Errorf("%s: a lock without a rule: %v; jobs %v", name, got, k.backlog.jobs)
		}
	}
}

// Locks without history cost the consumer nothing but a read of the rules, once in their period for all of them.
func TestHistoryCostsNothingWithoutARule(t *testing.T) {
	k := newRecording(t, true)
	for i := range 50 {
		k.life(fmt.Sprint("lock", i))
	}
	k.time = k.time.Add(time.Hour)
	k.store.rules = 0
	for range 3 {
		k.consume(k.writes)
	}
	if k.store.rules != 1 || k.store.puts != 0 {
		t.Errorf("%d writes: %d reads of the rules, %d puts", len(k.writes)*3, k.store.rules, k.store.puts)
	}
	k.time = k.time.Add(lock.NoRulesPeriod)
	k.consume([]Write{{Write: lock.Write{Lock: "a", Before: record(lock.CauseRenew, 1), After: record(lock.CauseRenew, 1)}}})
	if k.store.rules != 1 {
		t.Error("a write that changes no lease had the rules read")
	}
	k.consume(k.writes)
	if k.store.rules != 2 || k.store.puts != 0 {
		t.Errorf("after a period: %d reads of the rules, %d puts", k.store.rules, k.store.puts)
	}
}

// Of several rules, the one that keeps the history longest counts. An entry whose time is over is not stored.
func TestHistoryIsKeptAsLongAsARuleAsks(t *testing.T) {
	k := newRecording(t, true)
	k.keep("deploy:", 2*time.Hour)
	k.keep("deploy:prod", time.Hour)
	k.acquire("deploy:prod", "a")
	if got, err := k.Coordinator.KeepsHistory(t.Context(), "deploy:prod"); err != nil || got.For != (2*time.Hour).Milliseconds() || got.Prefix != "deploy:" {
		t.Errorf("%+v, %v", got, err)
	}
	k.time = k.time.Add(2 * time.Hour)
	if k.consume(k.writes); len(k.history("deploy:prod")) > 0 || k.store.puts > 0 {
		t.Errorf("too late: %v", k.history("deploy:prod"))
	}
	k.acquire("deploy:prod", "b")
	if k.consume(k.writes); len(k.history("deploy:prod")) != 1 { // its grant; a's lease expired two hours after its grant, less than two hours ago
		if got := k.history("deploy:prod"); len(got) != 2 || !strings.Contains(got[0], "a expired") {
			t.Errorf("%v", got)
		}
	}
	k.time = k.time.Add(2*time.Hour + time.Minute)
	k.store.Purge(k.time)
	if got := k.history("deploy:prod"); len(got) > 0 {
		t.Errorf("after its time: %v", got)
	}
}

// A history that cannot be stored for a while is stored later, and delays no record behind it. Events and timers are done all the same.
func TestHistoryIsRetried(t *testing.T) {
	for _, fault := range []error{lock.ErrThrottled, lock.ErrUnavailable, lock.ErrMisconfigured} {
		for _, lost := range []bool{false, true} {
			k := newRecording(t, true)
			k.keep("", time.Hour*24)
			want := k.life("a")
			for i := range 5 {
				k.life(fmt.Sprint("b", i))
			}
			k.store.lost, k.store.put = lost, func(int) error { return &lock.StoreError{Kind: fault, What: "a fault"} }
			if failed := k.consume(k.writes); len(failed) > 0 {
				t.Errorf("%v: records %v block those behind them", fault, failed)
			}
			if n := k.store.puts; n < maxHistoryFailures || n > maxHistoryFailures+historiesAtOnce {
				t.Errorf("%v: %d puts, after which the rest must be deferred", fault, n)
			}
			jobs := k.backlog.take()
			for range 3 { // and again without success
				if k.Do(t.Context(), jobs); len(k.backlog.jobs) != len(jobs) || len(jobs) < 30 {
					t.Fatalf("%d jobs of %d", len(k.backlog.jobs), len(jobs))
				}
				jobs = k.backlog.take()
			}
			k.store.lost, k.store.put = false, nil
			k.Do(t.Context(), jobs)
			if got := k.history("a"); !slices.Equal(got, want) || len(k.backlog.jobs) > 0 {
				t.Errorf("%v:\n%s\nwant\n%s", fault, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if !strings.Contains(k.log.String(), `"msg":"history was not kept","lock":"a"`) {
				t.Errorf("log %s", &k.log)
			}
		}
	}
}

// Without a backlog, a fault that passes has the record delivered again; one that lasts puts the history into the dead-letter queue, and blocks nothing.
func TestHistoryWithoutBacklog(t *testing.T) {
	for fault, blocks := range map[error]bool{lock.ErrThrottled: true, lock.ErrUnavailable: true, lock.ErrMisconfigured: false} {
		k := newRecording(t, false)
		k.keep("", time.Hour*24)
		want := k.life("a")
		k.store.put = func(int) error { return &lock.StoreError{Kind: fault, What: "a fault"} }
		failed := k.consume(k.writes)
		k.store.put = nil
		if (len(failed) > 0) != blocks || (len(k.buried.buried) > 0) == blocks {
			t.Errorf("%v: %v delivered again, %d given up", fault, failed, len(k.buried.buried))
		}
		if blocks {
			k.consume(k.writes)
		}
		for _, w := range k.buried.buried { // an operator's redrive
			j, err := DecodeJob(string(w.Raw))
			if err == nil {
				err = (&Expirer{Consumer: k.Consumer}).Try(t.Context(), j)
			}
			if err != nil {
				t.Error(err)
			}
		}
		k.consume(k.writes[len(k.writes)-1:])
		if got := k.history("a"); blocks && !slices.Equal(got, want) || len(got) == 0 {
			t.Errorf("%v:\n%s\nwant\n%s", fault, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// Of locks whose events are not published the filters deliver some writes only: they have no history.
func TestNoHistoryWithoutEvents(t *testing.T) {
	k := newRecording(t, true)
	k.Listens = func(name string) bool { return name != "a" }
	k.keep("", time.Hour*24)
	k.life("a")
	k.life("b")
	k.consume(k.writes)
	if len(k.history("a")) != 0 || len(k.history("b")) != 9 {
		t.Errorf("%v, %v", k.history("a"), k.history("b"))
	}
}

// While the rules cannot be read, the consumer goes by those that it read last. If it has read none, what it would keep is deferred; if it may never
// read them, it says so and goes on.
func TestHistoryWhileTheRulesCannotBeRead(t *testing.T) {
	k := newRecording(t, true)
	k.keep("a", time.Hour*24)
	want := k.life("a")
	if _, err := k.Coordinator.PrefixRules(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.time = k.time.Add(time.Minute)
	k.store.noRules = &lock.StoreError{Kind: lock.ErrUnavailable, What: "down"}
	k.consume(k.writes)
	k.store.noRules = nil
	if got := k.history("a"); !slices.Equal(got, want) {
		t.Errorf("by the last rules: %v", got)
	}
	for fault, deferred := range map[error]bool{lock.ErrUnavailable: true, lock.ErrMisconfigured: false} {
		k := newRecording(t, true)
		k.writes = []Write{{Write: lock.Write{Lock: "a", After: record(lock.CauseAcquire, 1)}, Sequence: "1"}}
		k.store.noRules = &lock.StoreError{Kind: fault, What: "down"}
		if failed := k.consume(k.writes); len(failed) > 0 || (len(k.backlog.jobs) > 0) != deferred {
			t.Errorf("%v: failed %v, jobs %v", fault, failed, k.backlog.jobs)
		}
		k.store.noRules = nil
		k.Do(t.Context(), k.backlog.take()) // no rule asks for it
		if k.store.puts > 0 || len(k.backlog.jobs) > 0 {
			t.Errorf("%v: %d puts, jobs %v", fault, k.store.puts, k.backlog.jobs)
		}
	}
}

// A job of the history needs its entries.
func TestHistoryJobIsChecked(t *testing.T) {
	if _, err := DecodeJob(`{"v":1,"kind":"history","lock":"a"}`); err == nil || !strings.Contains(err.Error(), "needs history") {
		t.Error(err)
	}
}

// The events and the history of each lock of a set name the set, for the grant and for every end. Those of a single lock name none.
func TestEventsAndHistoryNameTheSet(t *testing.T) {
	k := newRecording(t, true)
	k.keep("", 24*time.Hour)
	hold := func(secret string) {
		req := lock.SetRequest{
			Locks:  []lock.Want{{Lock: "b", Capacity: 2, Permits: 1}, {Lock: "a", Capacity: 1, Permits: 1}},
			Secret: secret, Owner: secret, TTL: time.Minute, Wait: time.Hour,
		}
		if _, err := k.Coordinator.AcquireAll(t.Context(), req); err != nil && !errors.Is(err, lock.ErrLockHeld) {
			t.Fatal(err)
		}
	}
	hold("released")
	hold("waited")
	if _, err := k.Coordinator.ReleaseAll(t.Context(), lock.SetReleaseRequest{Locks: []string{"a", "b"}, Secret: "released"}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Coordinator.ForceRelease(t.Context(), lock.ForceReleaseRequest{Lock: "a", Reason: "stuck"}); err != nil {
		t.Fatal(err)
	}
	k.time = k.time.Add(time.Minute)
	hold("expired") // ends the other lease of waited
	k.time = k.time.Add(2 * time.Minute)
	k.acquire("a", "single")
	k.consume(k.writes)

	ends := map[lock.ChangeKind]int{}
	for _, name := range []string{"a", "b"} {
		page, err := k.Coordinator.History(t.Context(), lock.HistoryRequest{Lock: name, Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Entries {
			ends[e.Kind]++
			if (e.Set == "a,b") != (e.Owner != "single") {
				t.Errorf("%s: %+v", name, e)
			}
		}
	}
	if ends[lock.LeaseAcquired] != 7 || ends[lock.LeaseReleased] != 2 || ends[lock.LeaseForceReleased] != 1 || ends[lock.LeaseExpired] != 2 {
		t.Errorf("%v", ends)
	}
	for _, w := range k.writes {
		for _, e := range Events(w.Write, w.Effects(true).Changes) {
			if l := e.Subject(); slices.Equal(l.Set, []string{"a", "b"}) != (l.Owner != "single") || l.Owner == "single" && l.Set != nil {
				t.Errorf("%s %+v", e.DetailType(), l)
			}
		}
	}
}
