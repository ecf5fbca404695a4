package stream

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// rate sets the rate of all locks, or removes it with 0, and consumes the record of the write.
func (k *thawing) rate(grants int64, period time.Duration) {
	k.t.Helper()
	req := lock.RuleRequest{Remove: []lock.RulePart{lock.PartLimits}}
	if grants > 0 {
		req = lock.RuleRequest{Set: lock.RuleParts{Limits: &lock.Limits{Rate: lock.Rate{Grants: grants, Period: period.Milliseconds()}}}}
	}
	if _, err := k.Coordinator.SetRule(k.t.Context(), req); err != nil {
		k.t.Fatal(err)
	}
	k.deliver()
}

// queue lets tasks wait for a lock.
func (k *thawing) queue(name string, secrets ...string) {
	k.t.Helper()
	for _, secret := range secrets {
		_, err := k.Coordinator.Acquire(k.t.Context(), lock.AcquireRequest{
			Lock: name, Secret: secret, TTL: time.Hour, Capacity: 3, Permits: 1, Wait: 300 * time.Hour, Token: lock.Token{Kind: lock.TaskToken, Text: "t" + secret},
		})
		if !errors.Is(err, lock.ErrLockHeld) {
			k.t.Fatal(err)
		}
	}
	k.deliver()
}

func (k *thawing) leases(name string) int {
	k.t.Helper()
	r, err := k.memory.Get(k.t.Context(), name)
	if err != nil {
		k.t.Fatal(err)
	}
	return len(r.After.Holders)
}

// settles takes the jobs of a backlog, of which one settles a lock, and returns that.
func (k *thawing) settles(b *fakeBacklog) Job {
	k.t.Helper()
	list := slices.DeleteFunc(b.take(), func(j Job) bool { return j.Kind != JobSettle })
	if len(list) != 1 {
		k.t.Fatalf("jobs %+v", list)
	}
	return list[0]
}

// newRated is a consumer over a lock x whose rate allows no further grant for a minute, and which was released.
func newRated(t *testing.T, backlog Backlog) *thawing {
	k := newHeldUp(t, backlog)
	k.rate(1, time.Minute)
	if _, err := k.Coordinator.Acquire(t.Context(), lock.AcquireRequest{Lock: "x", Secret: "first", TTL: time.Hour, Capacity: 3, Permits: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Coordinator.Release(t.Context(), lock.ReleaseRequest{Lock: "x", Secret: "first"}); err != nil {
		t.Fatal(err)
	}
	k.deliver()
	return k
}

// Tasks that a rate keeps back are granted by jobs, one for each time at which the rate allows a grant, however many wait.
func TestTasksAreGrantedAtTheirRate(t *testing.T) {
	backlog := new(fakeBacklog)
	k := newRated(t, backlog)
	k.queue("x", "1", "2", "3")
	for n := range 3 {
		job := k.settles(backlog)
		if job.Kind != JobSettle || job.Lock != "x" || !job.Due.Equal(k.time.Add(time.Minute)) {
			t.Fatalf("%+v, %v from now", job, job.Due.Sub(k.time))
		}
		if n > 0 && k.leases("x") != n {
			t.Errorf("%d leases", k.leases("x"))
		}
		k.time = job.Due
		k.do(job)
		k.deliver()
	}
	if k.leases("x") != 3 || slices.Contains(backlog.kinds(), "settle x") {
		t.Errorf("%d leases, and the jobs %v", k.leases("x"), backlog.kinds())
	}
}

// A rate that is removed or changed lets its waiters go, at once or when the new one allows it. Other changes of a rule's limits set no job.
func TestChangeOfARateLetsWaitersGo(t *testing.T) {
	backlog := new(fakeBacklog)
	k := newRated(t, backlog)
	k.queue("x", "1")
	_ = k.settles(backlog) // the job for the old rate, which is lost
	if _, err := k.Coordinator.SetRule(t.Context(), lock.RuleRequest{Set: lock.RuleParts{Limits: &lock.Limits{MaxQueue: 9, Rate: lock.Rate{Grants: 1, Period: 60_000}}}}); err != nil {
		t.Fatal(err)
	}
	k.deliver()
	if len(backlog.jobs) > 0 {
		t.Errorf("jobs %v", backlog.kinds())
	}
	k.rate(1, 30*time.Second)
	k.time = k.time.Add(lock.RulePeriod)
	k.do(only(t, backlog))
	if job := only(t, backlog); job.Kind != JobSettle || job.Due.Sub(k.time) != 29*time.Second {
		t.Errorf("%+v", job)
	}
	other, err := lock.New(lock.Config{Store: k.memory, Clock: func() time.Time { return k.time }})
	if err != nil {
		t.Fatal(err)
	}
	settle := Job{Kind: JobSettle, Lock: "x"}
	k.do(settle) // the consumer has read the rule
	if _, err := other.SetRule(t.Context(), lock.RuleRequest{Remove: []lock.RulePart{lock.PartLimits}}); err != nil {
		t.Fatal(err)
	}
	if k.do(settle); k.leases("x") != 1 {
		t.Error("kept back by a rate that has been removed")
	}
}
