package stream

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// A thawing is a consumer over a memory store, whose rules' writes are kept as stream records.
type thawing struct {
	*Consumer
	t      *testing.T
	memory *lock.Memory
	time   time.Time
	writes []Write
}

func newThawing(t *testing.T, backlog Backlog) *thawing {
	k := &thawing{t: t, memory: &lock.Memory{}, time: time.Unix(1_800_000_000, 0)}
	k.memory.RuleChanged = func(before, after lock.PrefixRule) {
		k.writes = append(k.writes, Write{Write: lock.Write{Lock: lock.RuleSubject(after.Prefix), Rule: &lock.RuleWrite{Before: before, After: after}}, Sequence: fmt.Sprint(len(k.writes))})
	}
	now := func() time.Time { return k.time }
	c, err := lock.New(lock.Config{Store: k.memory, Clock: now})
	if err != nil {
		t.Fatal(err)
	}
	k.Consumer = &Consumer{Bus: nowhere{}, Coordinator: c, Backlog: backlog, Skew: lock.DefaultSkew, Clock: now, Log: slog.New(slog.DiscardHandler)}
	return k
}

// set sets a freeze, or removes it with 0, and consumes the record of the write.
func (k *thawing) set(prefix string, d time.Duration) (failed []string) {
	k.t.Helper()
	req := lock.RuleRequest{Prefix: prefix, Principal: "arn:op", Remove: lock.AllParts()}
	if d > 0 {
		req.Set.Freeze = &lock.Freeze{Until: k.time.Add(d).UnixMilli(), Reason: "audit"}
	}
	if _, err := k.Coordinator.SetRule(k.t.Context(), req); err != nil {
		k.t.Fatal(err)
	}
	return k.Consume(k.t.Context(), k.writes[len(k.writes)-1:])
}

// frozenQueue makes a free, frozen lock that a task waits for.
func (k *thawing) frozenQueue(name string) {
	k.t.Helper()
	_, err := k.Coordinator.Acquire(k.t.Context(), lock.AcquireRequest{
		Lock: name, Secret: "waiter", TTL: time.Minute, Capacity: 1, Permits: 1, Wait: 300 * time.Hour, Token: lock.Token{Kind: lock.TaskToken, Text: "t"},
	})
	if held, ok := errors.AsType[*lock.HeldError](err); !ok || held.Freeze == nil {
		k.t.Fatal(err)
	}
}

func (k *thawing) granted(name string) bool {
	k.t.Helper()
	r, err := k.memory.Get(k.t.Context(), name)
	if err != nil {
		k.t.Fatal(err)
	}
	return len(r.After.Holders) == 1
}

// only takes the one job of a backlog.
func only(t *testing.T, b *fakeBacklog) Job {
	t.Helper()
	list := b.take()
	if len(list) != 1 {
		t.Fatalf("jobs %+v", list)
	}
	return list[0]
}

// The job of a freeze's end is due when it is over by the clock of every coordinator. It waits on if the freeze was extended, and grants the locks of all pages.
func TestThawAtTheEndOfAFreeze(t *testing.T) {
	backlog := new(fakeBacklog)
	k := newThawing(t, backlog)
	if failed := k.set("t:", time.Hour); len(failed) > 0 {
		t.Fatal(failed)
	}
	job := only(t, backlog)
	if job.Kind != JobThaw || job.Lock != "t:" || !job.Due.Equal(k.time.Add(time.Hour+lock.DefaultSkew)) {
		t.Fatalf("%+v", job)
	}
	for i := range 300 {
		k.frozenQueue(fmt.Sprint("t:", i))
	}
	k.time = k.time.Add(15 * time.Minute) // the longest delay of a message
	if errs := k.Do(t.Context(), []Job{job}); errs[0] != nil {
		t.Fatal(errs)
	}
	if again := only(t, backlog); !again.Due.Equal(job.Due) {
		t.Fatalf("%+v", again)
	}
	k.time = job.Due
	if errs := k.Do(t.Context(), []Job{job}); errs[0] != nil {
		t.Fatal(errs)
	}
	for i := range 300 {
		if !k.granted(fmt.Sprint("t:", i)) {
			t.Fatalf("t:%d was forgotten", i)
		}
	}
	if len(backlog.jobs) > 0 {
		t.Errorf("jobs %v", backlog.kinds())
	}
}

// A freeze that is removed is followed by the job at once, although the consumer has just read it.
func TestThawAfterAFreezeIsRemoved(t *testing.T) {
	backlog := new(fakeBacklog)
	k := newThawing(t, backlog)
	k.set("", time.Hour)
	only(t, backlog)
	k.frozenQueue("a")
	k.set("", 0)
	job := only(t, backlog)
	if job.Lock != lock.AllLocks || !job.Due.Equal(k.time) {
		t.Fatalf("%+v", job)
	}
	if errs := k.Do(t.Context(), []Job{job}); errs[0] != nil || !k.granted("a") {
		t.Error(errs, "or not granted")
	}
	if len(backlog.jobs) > 0 {
		t.Errorf("jobs %v", backlog.kinds())
	}
}

// Without a backlog the locks are settled with the record of the removal. A record whose job cannot be kept is delivered again.
func TestThawWithoutABacklog(t *testing.T) {
	k := newThawing(t, nil)
	k.set("a", time.Hour)
	k.frozenQueue("a")
	if failed := k.set("a", 0); len(failed) > 0 || !k.granted("a") {
		t.Error(failed, "or not granted")
	}
	backlog := &fakeBacklog{err: errors.New("down")}
	k = newThawing(t, backlog)
	if failed := k.set("a", time.Hour); len(failed) != 1 {
		t.Errorf("failed %v", failed)
	}
}

// The event of a change says what is in force from then on, and is equal for each delivery.
func TestEventOfARule(t *testing.T) {
	k := newThawing(t, new(fakeBacklog))
	bus := new(fakeBus)
	k.Bus = bus
	k.set("deploy:", time.Hour)
	k.Consume(t.Context(), k.writes)
	k.set("deploy:", 0)
	got := slices.Concat(bus.puts...)
	if len(got) != 3 || string(got[0].Detail) != string(got[1].Detail) {
		t.Fatalf("%d events", len(got))
	}
	first, err := events.Decode(got[0].DetailType, got[0].Detail)
	at := k.time.UnixMilli()
	if err != nil || first.(events.RuleChanged).ID != events.RuleID("deploy:", 1, at) || first.(events.RuleChanged).Prefix != "deploy:" ||
		*first.(events.RuleChanged).Freeze != (events.Freeze{Until: events.At(at + 3600_000), Since: events.At(at), Reason: "audit", By: "arn:op"}) {
		t.Errorf("%+v, %v", first, err)
	}
	last, err := events.Decode(got[2].DetailType, got[2].Detail)
	if err != nil || last.(events.RuleChanged).Freeze != nil || last.(events.RuleChanged).Rev != 2 || last.(events.RuleChanged).By != "arn:op" {
		t.Errorf("%+v, %v", last, err)
	}
}
