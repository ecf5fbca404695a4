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

// logged has a consumer log into a buffer, with metrics.
func logged(c *Consumer) *bytes.Buffer {
	var log bytes.Buffer
	c.Log, c.Metrics = slog.New(slog.NewJSONHandler(&log, nil)), "Holdfast/test"
	return &log
}

// counted tells how often a metric was counted.
func counted(log *bytes.Buffer, metric string) (n int) {
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, fmt.Sprintf("%q:1,", metric)) && strings.Contains(line, fmt.Sprintf(`"Metrics":[{"Name":%q,"Unit":"Count"}]`, metric)) {
			n++
		}
	}
	return n
}

// away is a bus that refuses everything until it is back.
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

// Without a backlog, a batch whose events are refused comes again for as long as the bus is away; its task is told at once, and once.
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

// With a backlog, a bus that does not even answer for two hours holds nothing up: every write of every batch is done with in
// the time of one request at most, tasks are told, and all events are published when the bus is back.
func TestBusThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTasks(t)
		bus, backlog := &away{hangs: true}, &fakeBacklog{}
		w.consumer.Bus, w.consumer.Backlog, w.consumer.Clock = bus, backlog, time.Now
		w.now = time.Now()
		consume := func() {
			t.Helper()
			batch, start := w.writes, time.Now()
			w.writes = nil
			if failed := w.consumer.Consume(t.Context(), batch); failed != nil {
				t.Fatalf("failed %v", failed)
			}
			if took := time.Since(start); took > putTimeout {
				t.Errorf("the batch took %v", took)
			}
		}
		var told []string
		for hour := range 2 {
			for n := range 30 {
				name := fmt.Sprintf("task-%d-%d", hour, n)
				w.now = time.Now()
				w.waits(name)
				consume()
				told = append(told, name+"'s token ok")
				w.want(name, told...)
				w.release(name)
				consume()
				time.Sleep(2 * time.Minute)
			}
		}
		bus.back = true
		time.Sleep(busPause)
		for i, err := range w.consumer.Do(t.Context(), backlog.take()) {
			if err != nil {
				t.Errorf("job %d: %v", i, err)
			}
		}
		counts := map[string]int{}
		for _, e := range bus.taken {
			counts[e]++
		}
		if counts["a Lock Acquired"] != 60 || counts["a Lock Released"] != 60 || len(backlog.jobs) != 0 {
			t.Errorf("taken %v, left %v", counts, backlog.kinds())
		}
	})
}

// While the bus takes nothing it is tried once in busPause only, where there is a backlog.
func TestBusIsNotTriedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		bus, backlog := &away{}, &fakeBacklog{}
		r.Bus, r.Backlog = bus, backlog
		log := logged(&r.Consumer)
		consume := func(seq int) {
			t.Helper()
			if failed := r.Consume(t.Context(), []Write{grant(seq, fmt.Sprint("l", seq), 1)}); failed != nil {
				t.Errorf("failed %v", failed)
			}
		}
		consume(1)
		if bus.puts != maxPuts || counted(log, EventPutOff) != 1 {
			t.Errorf("%d requests, counted %d", bus.puts, counted(log, EventPutOff))
		}
		time.Sleep(busPause - time.Millisecond)
		consume(2)
		if bus.puts != maxPuts || len(backlog.jobs) != 2 || counted(log, EventPutOff) != 2 {
			t.Errorf("%d requests within the pause, %d jobs", bus.puts, len(backlog.jobs))
		}
		time.Sleep(time.Millisecond)
		bus.back = true
		consume(3)
		if bus.puts != maxPuts+1 || len(backlog.jobs) != 2 {
			t.Errorf("%d requests after the pause, %d jobs", bus.puts, len(backlog.jobs))
		}
		r.Bus = &fakeBus{refuse: func(_ int, e Entry) error { // one that takes something is not away
			if e.Lock == "l4" {
				return errors.New("no")
			}
			return nil
		}}
		if failed := r.Consume(t.Context(), []Write{grant(4, "l4", 1), grant(5, "l5", 1)}); failed != nil || len(backlog.jobs) != 3 {
			t.Errorf("failed %v, %d jobs", failed, len(backlog.jobs))
		}
		r.Bus = bus
		consume(6)
		if bus.puts != maxPuts+2 {
			t.Errorf("%d requests", bus.puts)
		}
	})
}

// What cannot be put off comes again with its record.
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

// A consumer that was broken for two hours tells everything afterwards: tasks of leases that still hold of their grant, the others
// that their lease is lost.
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
	if len(w.writes) != 1 { // the attempt's own
		t.Errorf("%d writes are left", len(w.writes))
	}
}

// A grant that ends while its record was lost is told by the record of its end.
func TestEndOfAnUntoldGrant(t *testing.T) {
	for name, end := range map[string]func(w *tasks){
		"released":  func(w *tasks) { w.release("one") },
		"forced":    func(w *tasks) { w.force() },
		"passed by": func(w *tasks) { w.now = w.now.Add(time.Hour); w.visit() },
	} {
		w := newTasks(t)
		w.waits("one")
		w.writes = nil // lost
		end(w)
		w.deliver(3)
		if fmt.Sprint(w.fake.told) != "[one's token LeaseLost]" {
			t.Errorf("%s: told %v", name, w.fake.told)
		}
	}
	w := newTasks(t) // one that was told is not told again
	calls := 0
	w.waits("one")
	w.deliver(3)
	w.fake.before = func(string) error { calls++; return nil }
	w.release("one")
	w.deliver(3)
	if w.want("", "one's token ok"); calls != 0 {
		t.Errorf("%d callbacks at the end of a lease whose task was told", calls)
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

// stuck is a store on which one lock cannot be handed on.
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

// newStuck is a lock "a" on which a task waits, whose holder's time is over, and a write that left it so; its hand-off fails.
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

// A lock that cannot be handed on is put off, and its shard goes on; it is handed on once that works, or buried after a day.
func TestLockThatCannotBeHandedOn(t *testing.T) {
	w, store, write := newStuck(t, lock.ErrThrottled)
	backlog, dead := &fakeBacklog{}, &fakeDeadLetter{}
	w.consumer.Backlog, w.consumer.DeadLetter = backlog, dead
	log := logged(w.consumer)
	if failed := w.consumer.Consume(t.Context(), []Write{write, grant(2, "other", 5)}); failed != nil {
		t.Fatalf("failed %v", failed)
	}
	if got := backlog.kinds(); !slices.Equal(got, []string{"settle a"}) || counted(log, LockNotHandedOn) != 1 || len(w.fired) != 1 {
		t.Errorf("put off %v, timers %v, log %s", got, w.fired, log)
	}
	first := backlog.jobs[0]
	if !first.Since.Equal(w.now) || first.Tries != 1 || !first.Due.Equal(w.now.Add(firstDelay)) {
		t.Errorf("put off as %+v", first)
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

// A lock whose hand-off can never succeed is buried at once; where that fails, it is put off.
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

// Without a backlog, such a lock holds up its shard for three tries in a row, and is then set aside.
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

// A callback that panics, by a record that this version cannot handle, is buried with what it was about.
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

// A record whose events cannot be made is poison as one that cannot be read.
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

// When the service of callbacks does not answer, three of a batch's are tried and the others put off, where there is a backlog.
func TestCallbacksThatFailInARow(t *testing.T) {
	w := newTasks(t)
	backlog := &fakeBacklog{}
	w.consumer.Backlog = backlog
	log := logged(w.consumer)
	calls := 0
	w.fake.before = func(string) error { calls++; return errReset }
	var batch []Write
	for n := range 10 {
		w.waits(fmt.Sprint("t", n), func(r *lock.AcquireRequest) { r.Lock = fmt.Sprint("l", n) })
	}
	batch, w.writes = w.writes, nil
	if failed := w.consumer.Consume(t.Context(), batch); failed != nil || calls != maxCallbackFailures || len(backlog.jobs) != 10 || counted(log, CallbackFailed) != maxCallbackFailures {
		t.Errorf("failed %v, %d calls, %d put off", failed, calls, len(backlog.jobs))
	}
	calls, w.consumer.Backlog = 0, nil
	if failed := w.consumer.Consume(t.Context(), batch); len(failed) != 10 || calls != 10 {
		t.Errorf("without a backlog: failed %v, %d calls", failed, calls)
	}
	w.fake.before = func(token string) error { // one that works begins the count anew
		calls++
		if token == "t2's token" {
			return nil
		}
		return errReset
	}
	calls, w.consumer.Backlog = 0, &fakeBacklog{}
	if failed := w.consumer.Consume(t.Context(), batch); failed != nil || calls != 6 {
		t.Errorf("failed %v, %d calls", failed, calls)
	}
	w.fake.before = nil
	for i, err := range w.consumer.Do(t.Context(), backlog.take()) {
		if err != nil {
			t.Errorf("job %d: %v", i, err)
		}
	}
	if len(w.fake.told) != 10 {
		t.Errorf("told %v", w.fake.told)
	}
}

// A wait that ended without a grant is told later, if it cannot be told now; so is a grant, which may have ended meanwhile.
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
		t.Fatalf("put off %v", got)
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

// How long a job waits that was put off before.
func TestRetryDelay(t *testing.T) {
	for tries, want := range map[int]time.Duration{
		-1: 5 * time.Second, 0: 5 * time.Second, 1: 10 * time.Second, 2: 20 * time.Second, 7: 640 * time.Second, 8: MaxDelay, 9: MaxDelay, 1000: MaxDelay,
	} {
		if got := retryDelay(tries); got != want {
			t.Errorf("after %d tries: %v, want %v", tries, got, want)
		}
	}
}

// What is worth trying again.
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

// The work ends before the function must answer, so that what is left can be put off.
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
			t.Errorf("failed %v, put off %v, %v", failed, backlog.kinds(), short.Err())
		}
	})
}
