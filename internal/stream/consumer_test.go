package stream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeBus is a fake: it takes what refuse lets through, and keeps it.
type fakeBus struct {
	puts   [][]Entry
	taken  []string // event ids
	refuse func(put int, e Entry) error
}

func (b *fakeBus) Put(_ context.Context, entries []Entry) []error {
	b.puts = append(b.puts, entries)
	errs := make([]error, len(entries))
	for i, e := range entries {
		if b.refuse != nil {
			errs[i] = b.refuse(len(b.puts), e)
		}
		if errs[i] == nil {
			var l events.Lease
			_ = json.Unmarshal(e.Detail, &l)
			b.taken = append(b.taken, l.ID)
		}
	}
	return errs
}

// fakeTimers is a fake that keeps timers and never sets them off.
type fakeTimers struct {
	armed []Timer
	err   error
}

func (f *fakeTimers) Arm(_ context.Context, timers []Timer) []error {
	if f.err != nil {
		return slices.Repeat([]error{f.err}, len(timers))
	}
	f.armed = append(f.armed, timers...)
	return make([]error, len(timers))
}

// fakeDeadLetter is a fake that keeps what is buried.
type fakeDeadLetter struct {
	buried []Write
	err    error
}

func (f *fakeDeadLetter) Bury(_ context.Context, w Write) error {
	f.buried = append(f.buried, w)
	return f.err
}

type rig struct {
	Consumer
	bus    *fakeBus
	timers *fakeTimers
	dead   *fakeDeadLetter
}

func newRig() *rig {
	r := &rig{bus: &fakeBus{}, timers: &fakeTimers{}, dead: &fakeDeadLetter{}}
	r.Consumer = Consumer{Bus: r.bus, Timers: r.timers, DeadLetter: r.dead, Skew: 250 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}
	return r
}

func grant(seq int, name string, fence int64) Write {
	return Write{Write: lock.Write{Lock: name, After: record(lock.CauseAcquire, fence)}, Sequence: fmt.Sprint(seq)}
}

func end(seq int, name string, fence int64) Write {
	return Write{Write: lock.Write{Lock: name, Before: record(lock.CauseAcquire, fence), After: retired(record(lock.CauseRelease), fence)}, Sequence: fmt.Sprint(seq)}
}

func TestBatchesOfTenAndOrderWithinALock(t *testing.T) {
	r := newRig()
	var batch []Write
	for i := range 25 {
		batch = append(batch, grant(i, fmt.Sprint("l", i), 1))
	}
	batch = append(batch, end(25, "l0", 1), grant(26, "l0", 2))
	if failed := r.Consume(t.Context(), batch); failed != nil {
		t.Fatalf("failed %v", failed)
	}
	var sizes []int
	for _, p := range r.bus.puts {
		sizes = append(sizes, len(p))
		locks := map[string]bool{}
		for _, e := range p {
			if locks[e.Lock] {
				t.Errorf("a request has two events of %s", e.Lock)
			}
			locks[e.Lock] = true
		}
	}
	if !slices.Equal(sizes, []int{10, 10, 6, 1}) {
		t.Errorf("requests of %v", sizes)
	}
	var ofL0 []string
	for _, id := range r.bus.taken {
		if strings.HasPrefix(id, "l0/") {
			ofL0 = append(ofL0, id)
		}
	}
	if !slices.Equal(ofL0, []string{"l0/1/acquired", "l0/1/released", "l0/2/acquired"}) {
		t.Errorf("l0: %v", ofL0)
	}
}

// Only what was refused is sent again; what stays refused fails its write, and all later ones of its lock, unsent.
func TestRefusedEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		batch := []Write{grant(1, "a", 1), grant(2, "b", 1), grant(3, "c", 1), end(4, "b", 1), end(5, "c", 1)}
		r.bus.refuse = func(put int, e Entry) error {
			if e.Lock == "b" || e.Lock == "a" && put == 1 {
				return errors.New("ThrottlingException")
			}
			return nil
		}
		if failed := r.Consume(t.Context(), batch); !slices.Equal(failed, []string{"2", "4"}) {
			t.Errorf("failed %v", failed)
		}
		if !slices.Equal(r.bus.taken, []string{"c/1/acquired", "a/1/acquired", "c/1/released"}) {
			t.Errorf("taken %v", r.bus.taken)
		}
		sent := map[string]int{}
		for _, p := range r.bus.puts {
			for _, e := range p {
				sent[e.Lock+" "+e.DetailType]++
			}
		}
		if sent["b "+events.TypeAcquired] != maxPuts || sent["b "+events.TypeReleased] != 0 || sent["a "+events.TypeAcquired] != 2 || sent["c "+events.TypeAcquired] != 1 {
			t.Errorf("sent %v", sent)
		}
	})
}

func TestContextThatEnds(t *testing.T) {
	r := newRig()
	ctx, cancel := context.WithCancel(t.Context())
	r.bus.refuse = func(int, Entry) error { cancel(); return errors.New("slow") }
	if failed := r.Consume(ctx, []Write{grant(1, "a", 1), grant(2, "b", 1)}); !slices.Equal(failed, []string{"1", "2"}) || len(r.bus.puts) != 1 {
		t.Errorf("failed %v after %d requests", failed, len(r.bus.puts))
	}
}

// A record that cannot be read is buried, and the batch goes on; only if it cannot be buried does it come again.
func TestPoison(t *testing.T) {
	r := newRig()
	batch := []Write{grant(1, "a", 1), {Write: lock.Write{Lock: "p"}, Sequence: "2", Poison: errors.New("no record")}, grant(3, "b", 1)}
	if failed := r.Consume(t.Context(), batch); failed != nil || len(r.dead.buried) != 1 || len(r.bus.taken) != 2 {
		t.Errorf("failed %v, buried %v, taken %v", failed, r.dead.buried, r.bus.taken)
	}
	r.dead.err = errors.New("queue is gone")
	if failed := r.Consume(t.Context(), batch); !slices.Equal(failed, []string{"2"}) {
		t.Errorf("failed %v", failed)
	}
}

// The same record gives the same events, however often it comes.
func TestRepeatsHaveEqualIDs(t *testing.T) {
	r := newRig()
	batch := []Write{grant(1, "a", 1), end(2, "a", 1)}
	for range 2 {
		if failed := r.Consume(t.Context(), batch); failed != nil {
			t.Fatal(failed)
		}
	}
	if !slices.Equal(r.bus.taken[:2], r.bus.taken[2:]) || string(r.bus.puts[0][0].Detail) != string(r.bus.puts[2][0].Detail) {
		t.Errorf("taken %v", r.bus.taken)
	}
}

// An event too large for the bus goes without its metadata, and says so.
func TestTooLargeIsShrunk(t *testing.T) {
	r := newRig()
	w := end(1, "a", 1)
	h := w.Before.Holders[leaseKey(1)]
	h.Metadata = `{"a":"` + strings.Repeat("m", MaxBytes) + `"}`
	w.Before.Holders[leaseKey(1)] = h
	if failed := r.Consume(t.Context(), []Write{w}); failed != nil {
		t.Fatal(failed)
	}
	e, err := events.Decode(r.bus.puts[0][0].DetailType, r.bus.puts[0][0].Detail)
	if err != nil || !e.Subject().MetadataOmitted || e.Subject().Metadata != nil || e.(events.Released).HeldMS != 2000 {
		t.Errorf("%+v, %v", e, err)
	}
}

// Requests keep to the bus's limit of bytes, too.
func TestRequestsKeepToTheSize(t *testing.T) {
	r := newRig()
	var batch []Write
	for i := range 4 {
		w := grant(i, fmt.Sprint("l", i), 1)
		h := w.After.Holders[leaseKey(1)]
		h.Metadata = `{"a":"` + strings.Repeat("m", 100*1024) + `"}`
		w.After.Holders[leaseKey(1)] = h
		batch = append(batch, w)
	}
	if failed := r.Consume(t.Context(), batch); failed != nil || len(r.bus.puts) != 2 {
		t.Errorf("failed %v, %d requests", failed, len(r.bus.puts))
	}
}

// A timer that fires: too early, it is set again; due, it ends the lease; late or twice, it does nothing.
func TestExpirer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := lock.New(lock.Config{Store: &lock.Memory{}})
		if err != nil {
			t.Fatal(err)
		}
		l, err := c.Acquire(t.Context(), lock.AcquireRequest{Lock: "a", Secret: "s", TTL: 10 * time.Second, Capacity: 1, Permits: 1})
		if err != nil {
			t.Fatal(err)
		}
		timers := &fakeTimers{}
		x := &Expirer{Coordinator: c, Timers: timers, Log: slog.New(slog.DiscardHandler)}
		timer := Timer{GrantRef: lock.GrantRef{Lock: "a", Key: lock.KeyOf("a", "s"), Fence: l.Lease.Fence}}
		for _, step := range []struct {
			wait         time.Duration
			armed, holds int
		}{{5 * time.Second, 1, 1}, {5*time.Second + lock.DefaultSkew, 1, 0}, {time.Second, 1, 0}} {
			time.Sleep(step.wait)
			if err := x.Fire(t.Context(), timer); err != nil {
				t.Fatal(err)
			}
			s, _ := c.Status(t.Context(), "a")
			if len(timers.armed) != step.armed || len(s.Holders) != step.holds {
				t.Errorf("after %v: armed %v, holders %v", step.wait, timers.armed, s.Holders)
			}
		}
		if due := timers.armed[0].Due; due.UnixMilli() != l.Lease.ExpiresAt+lock.DefaultSkew.Milliseconds() {
			t.Errorf("set again for %v", due)
		}
	})
}

// What an acquire and a release cost beside the two writes; docs/cost.md has these numbers.
func TestRequestsPerPair(t *testing.T) {
	for _, test := range []struct {
		name        string
		pairs       int
		batches     func() [][]Write
		puts, sends int
	}{
		{"alone: acquire and release in batches of their own", 1, func() [][]Write {
			return [][]Write{{grant(1, "a", 1)}, {end(2, "a", 1)}}
		}, 2, 1},
		{"short: both in one batch", 1, func() [][]Write {
			return [][]Write{{grant(1, "a", 1), end(2, "a", 1)}}
		}, 2, 0},
		{"busy: ten locks in a batch", 10, func() [][]Write {
			var grants, ends []Write
			for i := range 10 {
				grants = append(grants, grant(i, fmt.Sprint("lock", i), 1))
				ends = append(ends, end(10+i, fmt.Sprint("lock", i), 1))
			}
			return [][]Write{grants, ends}
		}, 2, 1},
	} {
		sends := 0
		r := newRig()
		r.Timers = armed(func([]Timer) { sends++ })
		for _, batch := range test.batches() {
			if failed := r.Consume(t.Context(), batch); len(failed) != 0 {
				t.Errorf("%s: failed %v", test.name, failed)
			}
		}
		if len(r.bus.puts) != test.puts || sends != test.sends {
			t.Errorf("%s: %d pairs took %d PutEvents and %d requests for timers, want %d and %d", test.name, test.pairs, len(r.bus.puts), sends, test.puts, test.sends)
		}
	}
}

// armed are timers that only tell a function: each call is one request, of ten timers at most here.
type armed func([]Timer)

func (f armed) Arm(_ context.Context, timers []Timer) []error {
	f(timers)
	return make([]error, len(timers))
}

// How late an expiry was told becomes a metric.
func TestExpiryLag(t *testing.T) {
	var log bytes.Buffer
	r := newRig()
	r.Log, r.Metrics = slog.New(slog.NewJSONHandler(&log, nil)), "Holdfast/test"
	r.Clock = func() time.Time { return time.UnixMilli(5700) } // the record's lease ran out at 5000
	r.Consume(t.Context(), []Write{
		grant(1, "deploy:x", 1),
		{Write: lock.Write{Lock: "deploy:x", Before: record(lock.CauseAcquire, 1), After: retired(record(lock.CauseExpire), 1)}, Sequence: "2"},
	})
	if lines := strings.Count(log.String(), "\n"); lines != 1 || !strings.Contains(log.String(), `"expiry_lag_ms":700,"group":"deploy","_aws":{`) {
		t.Errorf("log %s", &log)
	}
}

// A repair changes no lease and makes no event; the log tells who did it, and why.
func TestRepairIsLogged(t *testing.T) {
	r := newRig()
	log := logged(&r.Consumer)
	before, after := record(lock.CauseRelease, 9), record(lock.CauseRepair)
	before.Holders, after.Fence, after.By, after.Reason = nil, 5, "arn:operator", "clock"
	if failed := r.Consume(t.Context(), []Write{{Write: lock.Write{Lock: "a", Before: before, After: after}, Sequence: "1"}}); failed != nil || len(r.bus.taken) != 0 {
		t.Errorf("failed %v, events %v", failed, r.bus.taken)
	}
	if want := `"level":"WARN","msg":"lock repaired","lock":"a","by":"arn:operator","reason":"clock","fence_before":9,"fence_after":5}`; !strings.Contains(log.String(), want) {
		t.Errorf("log %s", log)
	}
	log.Reset()
	r.Consume(t.Context(), []Write{grant(2, "a", 10)})
	if log.Len() != 0 {
		t.Errorf("log %s", log)
	}
}
