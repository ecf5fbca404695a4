package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeBus is a fake that takes the events that refuse allows.
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

// fakeTimers is a fake that records timers and never fires them.
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

// fakeDeadLetter is a fake that records what it gets.
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

func TestContextThatEnds(t *testing.T) {
	r := newRig()
	ctx, cancel := context.WithCancel(t.Context())
	r.bus.refuse = func(int, Entry) error { cancel(); return errors.New("slow") }
	if failed := r.Consume(ctx, []Write{grant(1, "a", 1), grant(2, "b", 1)}); !slices.Equal(failed, []string{"1", "2"}) || len(r.bus.puts) != 1 {
		t.Errorf("failed %v after %d requests", failed, len(r.bus.puts))
	}
}

// A record that cannot be read is sent to the dead-letter queue, and the batch continues; only if that fails is it delivered again.
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

// The same record gives the same events, however often it is delivered.
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

// What an acquire and a release cost beside the two writes; docs/cost.md has these numbers.
func TestRequestsPerPair(t *testing.T) {
	for _, test := range []struct {
		name        string
		pairs       int
		batches     func() [][]Write
		puts, sends int
	}{
		{"nobody listens and nobody waits: the stream's filters drop both", 1, func() [][]Write {
			return slices.DeleteFunc([][]Write{{grant(1, "a", 1)}, {end(2, "a", 1)}}, func(b []Write) bool { return !b[0].OfQueue() })
		}, 0, 0},
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

// armed is a function as timers: each call is one request, of ten timers at most here.
type armed func([]Timer)

func (f armed) Arm(_ context.Context, timers []Timer) []error {
	f(timers)
	return make([]error, len(timers))
}

// A repair changes no lease and makes no event; the log has who did it, and why.
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
