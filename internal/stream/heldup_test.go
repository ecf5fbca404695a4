package stream

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// newHeldUp is a consumer over a lock a that is free and a lock b that is held for hours, with the stream records of all writes.
func newHeldUp(t *testing.T, backlog Backlog) *thawing {
	k := newThawing(t, backlog)
	k.Callbacks = ByKind{}
	k.memory.Changed = func(name string, before, after lock.Record) {
		before.Queue, after.Queue = nil, nil
		if w := (lock.Write{Lock: name, Before: before, After: after}); w.OfQueue() { // as the stream's filters
			k.writes = append(k.writes, Write{Write: w, Sequence: fmt.Sprint(len(k.writes))})
		}
	}
	req := lock.AcquireRequest{Lock: "b", Secret: "holder", TTL: 5 * time.Hour, Capacity: 1, Permits: 1}
	if _, err := k.Coordinator.Acquire(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	return k
}

// joins lets a set of a and b wait.
func (k *thawing) joins(secret string, wait time.Duration) {
	k.t.Helper()
	wants := []lock.Want{{Lock: "a", Capacity: 1, Permits: 1}, {Lock: "b", Capacity: 1, Permits: 1}}
	_, err := k.Coordinator.AcquireAll(k.t.Context(), lock.SetRequest{Locks: wants, Secret: secret, TTL: time.Minute, Wait: wait})
	if !errors.Is(err, lock.ErrLockHeld) {
		k.t.Fatal(err)
	}
}

// deliver consumes the records of all writes since it was called last.
func (k *thawing) deliver() {
	k.t.Helper()
	batch := k.writes
	k.writes = nil
	if failed := k.Consume(k.t.Context(), batch); len(failed) > 0 {
		k.t.Fatal(failed)
	}
}

func (k *thawing) do(j Job) {
	k.t.Helper()
	if errs := k.Do(k.t.Context(), []Job{j}); errs[0] != nil {
		k.t.Fatal(errs)
	}
}

// The consumer settles a free lock again when the place of the set at its head ends. So a task behind a set whose caller is gone gets the lock.
func TestTaskBehindADeadSetIsGranted(t *testing.T) {
	backlog := new(fakeBacklog)
	k := newHeldUp(t, backlog)
	k.joins("s", time.Minute)
	k.deliver()
	job := only(t, backlog)
	if job.Kind != JobSettle || job.Lock != "a" || !job.Due.Equal(k.time.Add(time.Minute)) {
		t.Fatalf("%+v", job)
	}
	task := lock.AcquireRequest{Lock: "a", Secret: "t", TTL: time.Hour, Capacity: 1, Permits: 1, Wait: 300 * time.Hour, Token: lock.Token{Kind: lock.TaskToken, Text: "t"}}
	if _, err := k.Coordinator.Acquire(t.Context(), task); !errors.Is(err, lock.ErrLockHeld) {
		t.Fatal(err)
	}
	k.time = k.time.Add(45 * time.Second)
	k.joins("s", time.Minute) // its caller lives
	k.deliver()
	if len(backlog.jobs) > 0 {
		t.Errorf("jobs %v of a place that was extended", backlog.kinds())
	}
	k.time = job.Due
	k.do(job)
	if job = only(t, backlog); !job.Due.Equal(k.time.Add(45 * time.Second)) {
		t.Fatalf("%+v", job)
	}
	k.time = job.Due
	k.do(job)
	if !k.granted("a") || len(backlog.jobs) > 0 {
		t.Errorf("granted %v, jobs %v", k.granted("a"), backlog.kinds())
	}
}

// There is one job for each head of the queue: that of a head which is gone is not repeated, and writes that leave the head set none.
func TestOneJobForEachHeadOfAQueue(t *testing.T) {
	backlog := new(fakeBacklog)
	k := newHeldUp(t, backlog)
	k.joins("1", time.Minute)
	k.deliver()
	first := only(t, backlog)
	k.joins("2", time.Hour)
	k.joins("3", time.Hour)
	k.release("3")
	k.deliver()
	if len(backlog.jobs) > 0 {
		t.Errorf("jobs %v of places behind the head", backlog.kinds())
	}
	k.release("1")
	k.deliver()
	second := only(t, backlog)
	k.time = first.Due
	k.do(first)
	if len(backlog.jobs) > 0 {
		t.Errorf("jobs %v", backlog.kinds())
	}
	k.time = k.time.Add(15 * time.Minute) // the longest delay of a message
	k.do(second)
	if again := only(t, backlog); again.Head != second.Head || !again.Due.Equal(second.Due) {
		t.Errorf("%+v after %+v", again, second)
	}
	k.time = second.Due
	k.do(second)
	if k.deliver(); len(backlog.jobs) > 0 {
		t.Errorf("jobs %v of an empty queue", backlog.kinds())
	}
}

// release lets a set of a and b leave its queues.
func (k *thawing) release(secret string) {
	k.t.Helper()
	if _, err := k.Coordinator.ReleaseAll(k.t.Context(), lock.SetReleaseRequest{Locks: []string{"a", "b"}, Secret: secret}); err != nil {
		k.t.Fatal(err)
	}
}

// A freeze ends the jobs of the places in its locks, and its own end sets them again.
func TestEndOfAFreezeSetsTheJobOfAHead(t *testing.T) {
	backlog := new(fakeBacklog)
	k := newHeldUp(t, backlog)
	k.joins("s", 2*time.Hour)
	k.deliver()
	job := only(t, backlog)
	k.set("a", time.Hour)
	thaw := only(t, backlog)
	k.time = k.time.Add(lock.NoRulesPeriod)
	k.do(job)
	if len(backlog.jobs) > 0 {
		t.Errorf("jobs %v of a frozen lock", backlog.kinds())
	}
	k.time = thaw.Due
	k.do(thaw)
	if again := only(t, backlog); again.Kind != JobSettle || again.Lock != "a" || !again.Due.Equal(job.Due) {
		t.Errorf("%+v", again)
	}
}

// Without a backlog no job is set: polls find the end of the place.
func TestNoJobOfAHeadWithoutABacklog(t *testing.T) {
	k := newHeldUp(t, nil)
	k.joins("s", time.Minute)
	k.deliver()
	k.time = k.time.Add(time.Minute)
	if _, err := k.Coordinator.Acquire(t.Context(), lock.AcquireRequest{Lock: "a", Secret: "x", TTL: time.Minute, Capacity: 1, Permits: 1}); err != nil {
		t.Errorf("the next acquire: %v", err)
	}
}

// A queue that takes no message for later is no reason to give the job up: it is deferred, and done again.
func TestHandOffThatCannotBeRepeatedLater(t *testing.T) {
	k := newHeldUp(t, &fakeBacklog{err: errors.New("queue is away")})
	dead := &fakeDeadLetter{}
	k.DeadLetter = dead
	k.joins("s", time.Minute)
	batch := k.writes
	if failed := k.Consume(t.Context(), batch); len(failed) == 0 || len(dead.buried) > 0 {
		t.Errorf("failed %v, given up %+v", failed, dead.buried)
	}
}
