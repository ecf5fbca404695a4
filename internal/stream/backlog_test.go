package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// fakeBacklog is a fake that keeps jobs, through their messages.
type fakeBacklog struct {
	jobs []Job
	err  error
}

func (f *fakeBacklog) Defer(_ context.Context, jobs []Job) []error {
	if f.err != nil {
		return slices.Repeat([]error{f.err}, len(jobs))
	}
	errs := make([]error, len(jobs))
	for i, j := range jobs {
		body, err := EncodeJob(j)
		if err != nil {
			errs[i] = err
			continue
		}
		read, err := DecodeJob(string(body))
		read.Due, errs[i] = j.Due, err
		f.jobs = append(f.jobs, read)
	}
	return errs
}

// take empties the backlog.
func (f *fakeBacklog) take() []Job {
	jobs := f.jobs
	f.jobs = nil
	return jobs
}

func (f *fakeBacklog) kinds() (list []string) {
	for _, j := range f.jobs {
		list = append(list, string(j.Kind)+" "+j.Lock)
	}
	slices.Sort(list)
	return list
}

// logged lets a consumer log to a buffer, with metrics.
func logged(c *Consumer) *bytes.Buffer {
	var log bytes.Buffer
	c.Log, c.Metrics = slog.New(slog.NewJSONHandler(&log, nil)), "Holdfast/test"
	return &log
}

// counted is how often a metric was counted.
func counted(log *bytes.Buffer, metric string) (n int) {
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, fmt.Sprintf("%q:1,", metric)) && strings.Contains(line, fmt.Sprintf(`"Metrics":[{"Name":%q,"Unit":"Count"}]`, metric)) {
			n++
		}
	}
	return n
}

// away is a bus that refuses every event until it is back.
type away struct {
	back  bool
	puts  int
	hangs bool // it does not even answer
	taken []string
}

func (b *away) Put(ctx context.Context, entries []Entry) []error {
	b.puts++
	if b.back {
		for _, e := range entries {
			b.taken = append(b.taken, e.Lock+" "+e.DetailType)
		}
		return make([]error, len(entries))
	}
	if b.hangs {
		<-ctx.Done()
	}
	return slices.Repeat([]error{errors.New("InternalException")}, len(entries))
}

// Without a backlog, a batch whose events are refused is delivered again until the bus is back; its callback is sent at once, and once.
func TestCallbacksDoNotWaitForTheBus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTasks(t)
		bus := &away{}
		w.consumer.Bus = bus
		w.waits("one")
		for range 20 { // far longer than the tries within a batch
			w.deliver(1)
			w.want("one", "one's token ok")
			if len(w.writes) == 0 {
				t.Fatal("an event that was not published was dropped")
			}
			w.now = w.now.Add(time.Second)
		}
		if len(w.fired) == 0 {
			t.Error("no timer was set")
		}
		bus.back = true
		w.deliver(3)
		w.want("one", "one's token ok")
		if len(w.writes) != 0 || !slices.Contains(bus.taken, "a Lock Acquired") {
			t.Errorf("left %d writes, taken %v", len(w.writes), bus.taken)
		}
	})
}

// The record of a job that cannot be deferred is delivered again.
func TestBacklogThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		r.Bus, r.Backlog = &away{}, &fakeBacklog{err: errors.New("queue is away")}
		if failed := r.Consume(t.Context(), []Write{grant(1, "a", 1), grant(2, "b", 1)}); !slices.Equal(failed, []string{"1", "2"}) {
			t.Errorf("failed %v", failed)
		}
		r.Bus, r.timers.err = r.bus, errors.New("queue is away")
		log := logged(&r.Consumer)
		time.Sleep(busPause)
		if failed := r.Consume(t.Context(), []Write{grant(1, "a", 1)}); !slices.Equal(failed, []string{"1"}) || counted(log, TimerFailed) != 1 {
			t.Errorf("failed %v", failed)
		}
	})
}

// A consumer that failed for two hours sends every callback afterwards: grants to the tasks whose leases are live, and failures to the
// others.
func TestConsumerThatWasBroken(t *testing.T) {
	w := newTasks(t)
	w.waits("short", func(r *lock.AcquireRequest) { r.TTL = time.Minute })
	var waiting []string
	for n := range 20 {
		name := fmt.Sprint("t", n)
		w.waits(name, func(r *lock.AcquireRequest) { r.TTL, r.Wait = 10*time.Minute, 24*time.Hour })
		waiting = append(waiting, name)
	}
	for range 12 { // whoever comes hands on
		w.now = w.now.Add(10*time.Minute + time.Second)
		if _, err := w.coordinator.Acquire(t.Context(), lock.AcquireRequest{Lock: "a", Secret: "visitor", TTL: time.Second, Capacity: 1, Permits: 1}); !errors.Is(err, lock.ErrLockHeld) {
			t.Fatal(err)
		}
	}
	w.deliver(1)
	want := []string{"short's token LeaseLost"}
	for _, name := range waiting[:11] {
		want = append(want, name+"'s token LeaseLost")
	}
	w.want("t11", append(want, "t11's token ok")...)
	if len(w.writes) != 2 { // the attempt, and that it was answered
		t.Errorf("%d writes are left", len(w.writes))
	}
}

func (w *tasks) force() {
	w.t.Helper()
	if _, err := w.coordinator.ForceRelease(w.t.Context(), lock.ForceReleaseRequest{Lock: "a", Reason: "test"}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *tasks) visit() {
	w.t.Helper()
	if _, err := w.coordinator.Acquire(w.t.Context(), lock.AcquireRequest{Lock: "a", Secret: "visitor", TTL: time.Second, Capacity: 1, Permits: 1}); err != nil {
		w.t.Fatal(err)
	}
}

// stuck is a store on which the waiters of one lock cannot be granted.
type stuck struct {
	*lock.Memory
	name  string
	kind  error
	stuck bool
}

func (s *stuck) Apply(ctx context.Context, name string, c lock.Command) (lock.Reply, error) {
	if become, ok := c.Effect.(lock.Become); s.stuck && ok && name == s.name && become.To.Fence > become.From.Fence {
		return lock.Reply{}, &lock.StoreError{Kind: s.kind, What: "too large"}
	}
	return s.Memory.Apply(ctx, name, c)
}

// newStuck is a lock "a" with a waiting task and an expired lease, and the write that left it so; its hand-off fails.
func newStuck(t *testing.T, kind error) (*tasks, *stuck, Write) {
	w := newTasks(t)
	store := &stuck{Memory: w.memory, name: "a", kind: kind}
	var err error
	if w.coordinator, err = lock.New(lock.Config{Store: store, Clock: func() time.Time { return w.now }}); err != nil {
		t.Fatal(err)
	}
	w.consumer.Coordinator = w.coordinator
	w.waits("one")
	w.waits("two", func(r *lock.AcquireRequest) { r.Wait = 100 * time.Hour })
	w.deliver(3)
	w.now = w.now.Add(2 * time.Hour)
	r := storedA(w)
	left := r
	left.Holders = nil
	store.stuck, w.fired = true, nil
	return w, store, Write{Write: lock.Write{Lock: "a", Before: r, After: left}, Sequence: "1"}
}

// A hand-off that fails is deferred, and its shard continues; it is retried until it succeeds or, after a day, sent to the dead-letter queue.
func TestLockThatCannotBeHandedOn(t *testing.T) {
	w, store, write := newStuck(t, lock.ErrThrottled)
	backlog, dead := &fakeBacklog{}, &fakeDeadLetter{}
	w.consumer.Backlog, w.consumer.DeadLetter = backlog, dead
	log := logged(w.consumer)
	if failed := w.consumer.Consume(t.Context(), []Write{write, grant(2, "other", 5)}); failed != nil {
		t.Fatalf("failed %v", failed)
	}
	if got := backlog.kinds(); !slices.Equal(got, []string{"settle a"}) || counted(log, LockNotHandedOn) != 1 || len(w.fired) != 1 {
		t.Errorf("deferred %v, timers %v, log %s", got, w.fired, log)
	}
	first := backlog.jobs[0]
	if !first.Since.Equal(w.now) || first.Tries != 1 || !first.Due.Equal(w.now.Add(firstDelay)) {
		t.Errorf("deferred as %+v", first)
	}
	w.now = w.now.Add(giveUpAfter - time.Second)
	if errs := w.consumer.Do(t.Context(), backlog.take()); errs[0] != nil || len(backlog.jobs) != 1 || backlog.jobs[0].Tries != 2 || len(dead.buried) != 0 {
		t.Errorf("%v, jobs %+v, buried %v", errs, backlog.jobs, dead.buried)
	}
	w.now = w.now.Add(time.Second)
	if errs := w.consumer.Do(t.Context(), backlog.take()); errs[0] != nil || len(backlog.jobs) != 0 || len(dead.buried) != 1 || counted(log, WorkGivenUp) != 1 {
		t.Errorf("%v, jobs %+v, buried %v", errs, backlog.jobs, dead.buried)
	}
	if b := dead.buried[0]; b.Lock != "a" || !errors.Is(b.Poison, lock.ErrThrottled) || !strings.Contains(string(b.Raw), `"kind":"settle"`) {
		t.Errorf("buried %+v", b)
	}
	store.stuck = false
	if errs := w.consumer.Do(t.Context(), []Job{first}); errs[0] != nil {
		t.Error(errs)
	}
	w.deliver(3)
	w.want("two", "one's token ok", "two's token ok")
}

// A hand-off that can never succeed is sent to the dead-letter queue at once; if that fails, it is deferred.
func TestLockThatCanNeverBeHandedOn(t *testing.T) {
	w, _, write := newStuck(t, errors.New("validation"))
	backlog, dead := &fakeBacklog{}, &fakeDeadLetter{err: errors.New("queue is gone")}
	w.consumer.Backlog, w.consumer.DeadLetter = backlog, dead
	log := logged(w.consumer)
	if failed := w.consumer.Consume(t.Context(), []Write{write}); failed != nil || len(backlog.take()) != 1 || counted(log, WorkGivenUp) != 0 {
		t.Errorf("failed %v", failed)
	}
	dead.err = nil
	if failed := w.consumer.Consume(t.Context(), []Write{write}); failed != nil || len(backlog.jobs) != 0 || len(dead.buried) != 2 || counted(log, WorkGivenUp) != 1 {
		t.Errorf("failed %v, jobs %v", failed, backlog.kinds())
	}
}

// Without a backlog, such a hand-off blocks its shard for three tries in a row, and is then sent to the dead-letter queue.
func TestStuckLockWithoutBacklog(t *testing.T) {
	w, store, write := newStuck(t, lock.ErrUnavailable)
	dead := &fakeDeadLetter{}
	w.consumer.DeadLetter = dead
	log := logged(w.consumer)
	consume := func(want ...string) {
		t.Helper()
		if failed := w.consumer.Consume(t.Context(), []Write{write, grant(2, "other", 5)}); !slices.Equal(failed, want) {
			t.Errorf("failed %v, want %v", failed, want)
		}
	}
	consume("1")
	consume("1")
	store.stuck = false // a success between them: the count begins anew
	consume()
	w.force()
	w.waits("three", func(r *lock.AcquireRequest) { r.TTL = time.Second })
	w.waits("four", func(r *lock.AcquireRequest) { r.Wait = 100 * time.Hour })
	w.now = w.now.Add(time.Hour)
	store.stuck = true
	consume("1")
	consume("1")
	if len(dead.buried) != 0 {
		t.Errorf("buried %v", dead.buried)
	}
	consume()
	if len(dead.buried) != 1 || counted(log, WorkGivenUp) != 1 || counted(log, LockNotHandedOn) != 5 {
		t.Errorf("buried %v", dead.buried)
	}
	consume("1") // and so does the count after that
	w.consumer.DeadLetter = nil
	consume("1")
	consume() // with nowhere to bury it, the log has it
	if counted(log, WorkGivenUp) != 2 {
		t.Errorf("log %s", log)
	}
}

// The job of a callback that panics is sent to the dead-letter queue.
func TestPanic(t *testing.T) {
	for _, backlog := range []Backlog{nil, &fakeBacklog{}} {
		w := newTasks(t)
		dead := &fakeDeadLetter{}
		w.consumer.Backlog, w.consumer.DeadLetter = backlog, dead
		w.fake.before = func(string) error { panic("cannot happen") }
		w.waits("one")
		batch := append(w.writes, grant(7, "other", 1))
		if failed := w.consumer.Consume(t.Context(), batch); failed != nil || len(dead.buried) != 1 {
			t.Fatalf("failed %v, buried %v", failed, dead.buried)
		}
		if b := dead.buried[0]; !strings.Contains(b.Poison.Error(), "panic: cannot happen") || !strings.Contains(string(b.Raw), `"kind":"tell"`) {
			t.Errorf("buried %v, %s", b.Poison, b.Raw)
		}
	}
}

// A record whose events cannot be made is poisoned, as one that cannot be read.
func TestRecordThatPanics(t *testing.T) {
	r := newRig()
	r.Metrics = "Holdfast/test"
	r.Clock = func() time.Time { panic("cannot happen") }
	batch := []Write{{Write: lock.Write{Lock: "a", Before: record(lock.CauseAcquire, 1), After: retired(record(lock.CauseExpire), 1)}, Sequence: "1"}}
	r.Log = slog.New(slog.DiscardHandler)
	d := r.derive(t.Context(), batch[0])
	if _, ok := errors.AsType[*panicError](d.Poison); !ok || d.events != nil {
		t.Errorf("%+v", d)
	}
}

// A callback of a grant or of an ended wait that fails is deferred; the grant may have ended by then.
func TestCallbacksFromTheBacklog(t *testing.T) {
	w := newTasks(t)
	backlog := &fakeBacklog{}
	w.consumer.Backlog = backlog
	w.waits("one")
	w.deliver(3)
	w.waits("cancelled")
	w.waits("two")
	w.waits("three")
	w.fake.before = func(string) error { return errReset }
	w.release("cancelled")
	w.release("one")
	w.deliver(1)
	if got := backlog.kinds(); !slices.Equal(got, []string{"fail a", "tell a"}) {
		t.Fatalf("deferred %v", got)
	}
	jobs := backlog.take()
	w.force()
	w.writes = nil // only the jobs tell
	w.fake.before = nil
	for range 2 { // delivered twice
		for _, err := range w.consumer.Do(t.Context(), jobs) {
			if err != nil {
				t.Error(err)
			}
		}
	}
	w.want("three", "one's token ok", "cancelled's token WaitCancelled", "two's token LeaseLost")
}

// The delay of a job by how often it was deferred.
func TestRetryDelay(t *testing.T) {
	for tries, want := range map[int]time.Duration{
		-1: 5 * time.Second, 0: 5 * time.Second, 1: 10 * time.Second, 2: 20 * time.Second, 7: 640 * time.Second, 8: MaxDelay, 9: MaxDelay, 1000: MaxDelay,
	} {
		if got := retryDelay(tries); got != want {
			t.Errorf("after %d tries: %v, want %v", tries, got, want)
		}
	}
}

// Which failures are retried.
func TestShouldGiveUp(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	c := &Consumer{Clock: func() time.Time { return now }}
	old, young := now.Add(-giveUpAfter), now.Add(-giveUpAfter+time.Millisecond)
	unknown, throttled := errors.New("?"), &lock.StoreError{Kind: lock.ErrThrottled}
	for i, test := range []struct {
		kind  JobKind
		since time.Time
		err   error
		want  bool
	}{
		{JobDeliver, time.Time{}, unknown, false}, {JobDeliver, young, unknown, false}, {JobDeliver, old, unknown, true}, {JobDeliver, time.Time{}, &panicError{}, true},
		{JobPublish, old, throttled, true}, {JobPublish, young, throttled, false}, {JobFail, old, unknown, true},
		{JobSettle, time.Time{}, unknown, true}, {JobSettle, time.Time{}, throttled, false}, {JobSettle, old, throttled, true},
		{JobSettle, young, &lock.StoreError{Kind: lock.ErrUnavailable}, false}, {JobSettle, young, &lock.StoreError{Kind: lock.ErrMisconfigured}, false},
		{JobSettle, young, context.DeadlineExceeded, false}, {JobSettle, young, context.Canceled, false},
		{JobTimer, old, unknown, false}, {JobTimer, old, &panicError{}, false}, {JobEnd, old, unknown, false},
	} {
		if got := c.shouldGiveUp(failure{Job{Kind: test.kind, Since: test.since}, 0, test.err}); got != test.want {
			t.Errorf("%d: %s after %v with %v: %v", i, test.kind, now.Sub(test.since), test.err, got)
		}
	}
}

// The work ends before the function's reply is due, so that the rest can be deferred.
func TestWorkEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		inner, done := workContext(ctx)
		defer done()
		if deadline, ok := inner.Deadline(); !ok || time.Until(deadline) != time.Minute-writeMargin {
			t.Errorf("the work ends at %v", deadline)
		}
		none, done := workContext(t.Context())
		defer done()
		if _, ok := none.Deadline(); ok {
			t.Error("a deadline from nowhere")
		}
		r := newRig()
		backlog := &fakeBacklog{}
		r.Backlog, r.Bus = backlog, &away{hangs: true}
		short, cancel := context.WithTimeout(t.Context(), writeMargin+time.Second)
		defer cancel()
		if failed := r.Consume(short, []Write{grant(1, "a", 1), grant(2, "b", 1)}); failed != nil || len(backlog.jobs) != 2 || short.Err() != nil {
			t.Errorf("failed %v, deferred %v, %v", failed, backlog.kinds(), short.Err())
		}
	})
}

// A hand-off that was not attempted, because what came before it in the batch failed, is deferred.
func TestWorkThatWasNotAttempted(t *testing.T) {
	r := newRig()
	backlog, dead := &fakeBacklog{}, &fakeDeadLetter{}
	r.Backlog, r.DeadLetter = backlog, dead
	var failures []failure
	for i, name := range []string{"a", "b"} {
		failures = append(failures, failure{Job{Kind: JobSettle, Lock: name}, i, errNotTried})
	}
	if again := r.deferJobs(t.Context(), failures); len(again) > 0 || len(backlog.jobs) != len(failures) || len(dead.buried) > 0 {
		t.Errorf("redelivered %v, deferred %+v, given up %+v", again, backlog.jobs, dead.buried)
	}
}
