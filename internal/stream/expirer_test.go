package stream

import (
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	lambdaevents "github.com/aws/aws-lambda-go/events"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// expirer is the expire function of the test's coordinator.
func (w *tasks) expirer() (*Expirer, *fakeBacklog, *fakeDeadLetter) {
	backlog, dead := &fakeBacklog{}, &fakeDeadLetter{}
	w.consumer.Backlog, w.consumer.DeadLetter = backlog, dead
	return &Expirer{
		Coordinator: w.coordinator, Timers: w, Executions: w.fake, Consumer: w.consumer, Log: w.consumer.Log, Metrics: w.consumer.Metrics,
		Clock: func() time.Time { return w.now },
	}, backlog, dead
}

func bound(r *lock.AcquireRequest) { r.Execution, r.Wait = "arn:"+r.Owner, 24*time.Hour }

// dueTimer is the timer of the lock's holder.
func (w *tasks) dueTimer() Timer {
	w.t.Helper()
	for key, h := range storedA(w).Holders {
		return Timer{GrantRef: lock.GrantRef{Lock: "a", Key: key, Fence: h.Fence}}
	}
	w.t.Fatal("nobody holds the lock")
	return Timer{}
}

// A check of an execution's lease sends the callback of a grant whose stream record was lost; once, and only then.
func TestCheckTellsAnUntoldGrant(t *testing.T) {
	w := newTasks(t)
	log := logged(w.consumer)
	x, _, _ := w.expirer()
	w.fake.execs["arn:one"] = true
	w.waits("one", bound)
	w.writes = nil // lost
	timer := w.dueTimer()
	if err := x.Fire(t.Context(), timer); err != nil || len(w.fake.told) != 0 { // not due
		t.Fatalf("%v, told %v", err, w.fake.told)
	}
	w.now = w.now.Add(time.Minute)
	w.fake.before = func(string) error { return errReset }
	if err := x.Fire(t.Context(), timer); !errors.Is(err, errReset) {
		t.Errorf("a grant that was not told: %v", err)
	}
	w.fake.before = nil
	w.consumer.Callbacks = nil
	if err := x.Fire(t.Context(), timer); err != nil || len(w.fake.told) != 0 {
		t.Errorf("%v, told %v", err, w.fake.told)
	}
	w.consumer.Callbacks = w.fake
	w.now = w.now.Add(time.Hour)
	if err := x.Fire(t.Context(), timer); err != nil {
		t.Fatal(err)
	}
	w.want("one", "one's token ok") // the failed attempt was stored, and so was that it was not answered
	w.now = w.now.Add(time.Hour)
	if err := x.Fire(t.Context(), timer); err != nil {
		t.Fatal(err)
	}
	w.want("one", "one's token ok")
	if counted(log, GrantToldLate) != 2 || counted(log, TimerFailed) != 1 || counted(log, CallbackFailed) != 1 {
		t.Errorf("log %s", log)
	}
}

// The callback that a check sends is the same as the stream's.
func TestCheckTells(t *testing.T) {
	for name, test := range map[string]struct {
		change func(w *tasks)
		holder string
		told   []string
	}{
		"alive": {func(*tasks) {}, "one", []string{"one's token ok"}},
		"dead":  {func(w *tasks) { delete(w.fake.waits, "one's token") }, "", nil},
		"told":  {func(w *tasks) { w.writes = w.lost; w.deliver(3); w.fake.told = nil }, "one", nil},
	} {
		w := newTasks(t)
		x, _, _ := w.expirer()
		w.fake.execs["arn:one"] = true
		w.waits("one", bound)
		w.lost, w.writes = w.writes, nil
		test.change(w)
		w.now = w.now.Add(time.Minute)
		if err := x.Fire(t.Context(), w.dueTimer()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := w.holder(); got != test.holder || !slices.Equal(w.fake.told, test.told) {
			t.Errorf("%s: held by %q, told %v", name, got, w.fake.told)
		}
	}
}

// An execution is checked again after its interval, and no sooner than minCheckInterval.
func TestCheckInterval(t *testing.T) {
	for _, test := range []struct{ ttl, want time.Duration }{{time.Second, minCheckInterval}, {minCheckInterval, minCheckInterval}, {time.Hour, time.Hour}} {
		w := newTasks(t)
		x, _, _ := w.expirer()
		w.fake.execs["arn:one"] = true
		w.waits("one", bound, func(r *lock.AcquireRequest) { r.TTL = test.ttl })
		w.deliver(3)
		w.now, w.fired = w.now.Add(test.ttl), nil
		timer := w.dueTimer()
		if err := x.Fire(t.Context(), timer); err != nil || len(w.fired) != 1 || !w.fired[0].Due.Equal(w.now.Add(test.want)) || w.fired[0].Fence != timer.Fence {
			t.Errorf("every %v: %v, set again %v", test.ttl, err, w.fired)
		}
	}
}

// The rate of checks is bounded; one above it is delayed without a request.
func TestRateOfChecks(t *testing.T) {
	w := newTasks(t)
	log := logged(w.consumer)
	x, _, _ := w.expirer()
	asked := 0
	w.fake.describe = func(string) (bool, error) { asked++; return true, nil }
	w.waits("one", bound)
	w.deliver(3)
	check := func(want int) {
		t.Helper()
		w.now, w.fired = time.UnixMilli(storedA(w).Holders[w.dueTimer().Key].CheckAt), nil
		if err := x.Fire(t.Context(), w.dueTimer()); err != nil || asked != want {
			t.Errorf("asked %d times, want %d: %v", asked, want, err)
		}
	}
	for n := range 20 { // no bound
		check(n + 1)
	}
	x.ChecksPerSecond, asked = 0.5/60, 0 // a minute passes between two checks
	for n := range checksAtOnce * 2 {    // ten are saved up, and half a one comes with each
		if n < 19 {
			check(n + 1)
		}
	}
	w.fired = nil
	before := w.now
	check(19)
	if at := storedA(w).Holders[w.dueTimer().Key].CheckAt; at != w.fired[0].Due.UnixMilli() {
		t.Errorf("the check is noted for %d", at)
	}
	if due := w.fired[0].Due.Sub(w.now); due < checkDelay || due >= 2*checkDelay || counted(log, ExecutionChecksLate) != 1 {
		t.Errorf("deferred for %v, log %s", due, log)
	}
	w.now = before.Add(-time.Hour) // a clock that went back gives nothing
	if x.mayCheck() {
		t.Error("a check out of nothing")
	}
	w.now = before.Add(10 * time.Hour)
	for range checksAtOnce {
		if !x.mayCheck() {
			t.Error("a long pause saves ten")
		}
	}
	if x.mayCheck() {
		t.Error("and no more")
	}
}

// Both signals of an execution's end are lost: the event, and the timer's message. A refused caller asks for the check again, and the
// lock is granted to the next one. While the execution runs, asking changes nothing.
func TestBothSignalsLost(t *testing.T) {
	w := newTasks(t)
	x, _, _ := w.expirer()
	w.fake.execs["arn:one"] = true
	w.waits("one", bound)
	w.waits("two", func(r *lock.AcquireRequest) { r.Wait = 1000 * time.Hour })
	w.deliver(3)
	refused := func() {
		t.Helper()
		_, err := w.coordinator.Acquire(t.Context(), lock.AcquireRequest{Lock: "a", Secret: "visitor", TTL: time.Second, Capacity: 1, Permits: 1})
		if !errors.Is(err, lock.ErrLockHeld) {
			t.Fatal(err)
		}
		w.deliver(3)
	}
	for hour := range 3 {
		w.fired = nil // the message is lost
		w.now = w.now.Add(time.Hour)
		if hour == 2 {
			delete(w.fake.execs, "arn:one")
		}
		refused()
		refused()
		if len(w.fired) != 1 || !w.fired[0].Due.Equal(w.now) {
			t.Fatalf("hour %d: timers %v", hour, w.fired)
		}
		if err := x.Fire(t.Context(), w.fired[0]); err != nil {
			t.Fatal(err)
		}
	}
	w.deliver(3)
	w.want("two", "one's token ok", "two's token ok")
}

// A check that fails, or that finds an execution over, is counted.
func TestChecksAreCounted(t *testing.T) {
	w := newTasks(t)
	log := logged(w.consumer)
	x, _, _ := w.expirer()
	w.waits("one", bound)
	w.deliver(3)
	w.now = w.now.Add(time.Minute)
	w.fake.describe = func(string) (bool, error) { return false, errReset }
	if err := x.Fire(t.Context(), w.dueTimer()); !errors.Is(err, errReset) || counted(log, ExecutionUnknown) != 1 || counted(log, TimerFailed) != 1 {
		t.Errorf("%v, log %s", err, log)
	}
	w.want("one", "one's token ok")
	w.fake.describe = nil
	w.fired = nil
	if err := x.Fire(t.Context(), w.dueTimer()); err != nil || counted(log, ExecutionEndMissed) != 1 || len(w.fired) != 0 {
		t.Errorf("%v, log %s", err, log)
	}
	w.want("", "one's token ok")
	w.waits("plain") // that a lease belongs to none is no fault
	w.deliver(3)
	if err := x.Fire(t.Context(), w.dueTimer()); err != nil || counted(log, TimerFailed) != 1 {
		t.Errorf("%v, log %s", err, log)
	}
	x.Executions = nil // and where no lease may belong to one, a timer of such a lease fails
	w.force()
	w.waits("two", bound)
	w.now = w.now.Add(time.Minute)
	if _, ok := errors.AsType[*lock.ExecutionError](x.Fire(t.Context(), w.dueTimer())); !ok {
		t.Error("a lease was judged without its execution")
	}
}

func executionEvent(execution, status string) json.RawMessage {
	data, _ := json.Marshal(map[string]any{
		"detail-type": "Step Functions Execution Status Change", "source": "aws.states", "detail": map[string]any{"executionArn": execution, "status": status},
	})
	return data
}

// An event of an end that cannot be handled is deferred and retried. An execution that is found running for longer than Step Functions
// may lag was restarted.
func TestEndIsPutOff(t *testing.T) {
	w := newTasks(t)
	log := logged(w.consumer)
	x, backlog, _ := w.expirer()
	w.waits("one", bound)
	w.waits("two", func(r *lock.AcquireRequest) { r.Wait = 1000 * time.Hour })
	w.deliver(3)
	w.fake.execs["arn:one"] = true
	handle := func() error {
		_, err := x.Handle(t.Context(), executionEvent("arn:one", "FAILED"))
		return err
	}
	if err := handle(); err != nil || len(backlog.jobs) != 1 || backlog.jobs[0].Kind != JobEnd || !backlog.jobs[0].Due.Equal(w.now.Add(firstDelay)) {
		t.Fatalf("%v, deferred %+v", err, backlog.jobs)
	}
	backlog.err = errReset
	if err := handle(); !errors.Is(err, ErrStillRunning) {
		t.Errorf("an end that was neither handled nor deferred: %v", err)
	}
	backlog.err = nil
	w.consumer.Backlog = nil
	if err := handle(); !errors.Is(err, ErrStillRunning) {
		t.Errorf("without a queue: %v", err)
	}
	w.consumer.Backlog = backlog
	for tries := 1; ; tries++ {
		jobs := backlog.take()
		if len(jobs) == 0 {
			if tries != maxStillRunning+1 {
				t.Errorf("asked %d times", tries)
			}
			break
		}
		w.message(x, jobs[0])
	}
	w.want("one", "one's token ok")
	w.fake.describe = func(string) (bool, error) { return false, errReset }
	if err := handle(); err != nil || counted(log, ExecutionEndFailed) != 1 {
		t.Error(err)
	}
	for range 20 {
		w.now = w.now.Add(giveUpAfter)
		if jobs := backlog.take(); len(jobs) == 1 {
			w.message(x, jobs[0])
		} else {
			t.Fatalf("jobs %v", jobs)
		}
	}
	w.fake.describe, w.fake.execs = nil, nil
	w.message(x, backlog.take()[0])
	w.want("two", "one's token ok")
}

// message delivers a job to the expire function as the queue does.
func (w *tasks) message(x *Expirer, j Job) {
	w.t.Helper()
	body, err := EncodeJob(j)
	if err != nil {
		w.t.Fatal(err)
	}
	if failed := handleMessages(w.t, x, string(body)); failed != nil {
		w.t.Errorf("%s: failed %v", body, failed)
	}
}

// handleMessages delivers messages to the expire function, and returns the indexes of those to deliver again.
func handleMessages(t *testing.T, x *Expirer, bodies ...string) (failed []string) {
	t.Helper()
	var event lambdaevents.SQSEvent
	for i, b := range bodies {
		event.Records = append(event.Records, lambdaevents.SQSMessage{MessageId: string(rune('0' + i)), Body: b})
	}
	raw, err := json.Marshal(event)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := x.Handle(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range answer.(lambdaevents.SQSEventResponse).BatchItemFailures {
		failed = append(failed, f.ItemIdentifier)
	}
	return failed
}

// A timer that fails is deferred with longer delays and never given up; a message that cannot be read goes to the dead-letter queue.
func TestTimersThatFail(t *testing.T) {
	w := newTasks(t)
	x, backlog, dead := w.expirer()
	w.waits("one", bound)
	w.deliver(3)
	w.now = w.now.Add(time.Minute)
	w.fake.describe = func(string) (bool, error) { return true, errReset }
	body, _ := json.Marshal(timerMessage{1, "a", w.dueTimer().Key, w.dueTimer().Fence})
	if failed := handleMessages(t, x, string(body), `{"v":1}`, `?`); failed != nil || len(backlog.jobs) != 1 || len(dead.buried) != 2 {
		t.Fatalf("failed %v, jobs %v, buried %v", failed, backlog.kinds(), dead.buried)
	}
	if j := backlog.jobs[0]; j.Kind != JobTimer || j.Tries != 1 || j.Timer != w.dueTimer() || !j.Due.Equal(w.now.Add(firstDelay)) {
		t.Errorf("deferred %+v", j)
	}
	if b := dead.buried[0]; b.Sequence != "1" || string(b.Raw) != `{"v":1}` || !strings.Contains(b.Poison.Error(), "names no lock") {
		t.Errorf("buried %+v", b)
	}
	for range 10 {
		w.now = w.now.Add(giveUpAfter)
		w.message(x, backlog.take()[0])
	}
	if j := backlog.jobs[0]; j.Tries != 11 || !j.Due.Equal(w.now.Add(MaxDelay)) || len(dead.buried) != 2 {
		t.Errorf("deferred %+v", j)
	}
	backlog.err, dead.err = errReset, errReset
	if failed := handleMessages(t, x, `{"v":1}`, string(body), string(body)); !slices.Equal(failed, []string{"0", "1", "2"}) {
		t.Errorf("failed %v", failed)
	}
	w.fake.describe = nil
	w.fake.execs["arn:one"] = true
	w.message(x, backlog.take()[0])
	if len(w.fired) == 0 || !w.fired[len(w.fired)-1].Due.Equal(w.now.Add(time.Minute)) {
		t.Errorf("set %v", w.fired)
	}
	if failed := handleMessages(t, x, `{"v":1}`); !slices.Equal(failed, []string{"0"}) {
		t.Errorf("failed %v", failed)
	}
	x.Consumer = nil
	w.fake.describe = func(string) (bool, error) { return true, errReset }
	w.now = w.now.Add(time.Hour)
	event, _ := EncodeJob(Job{Kind: JobSettle, Lock: "a"})
	if failed := handleMessages(t, x, string(body), string(event), `?`); !slices.Equal(slices.Sorted(slices.Values(failed)), []string{"0", "1", "2"}) {
		t.Errorf("without a consumer: failed %v", failed)
	}
}

// The expire function does deferred jobs; one that fails is deferred again.
func TestJobsFromTheQueue(t *testing.T) {
	w := newTasks(t)
	x, backlog, dead := w.expirer()
	bus := &fakeBus{refuse: func(_ int, e Entry) error {
		if e.Lock == "refused" {
			return errors.New("no")
		}
		return nil
	}}
	w.consumer.Bus = bus
	w.waits("one")
	w.waits("two")
	w.release("one")
	w.now = w.now.Add(time.Hour)
	var bodies []string
	for _, j := range []Job{
		{Kind: JobPublish, Lock: "refused", Event: entry(eventsOf(grant(1, "refused", 1))[0]), Since: w.now, Tries: 1},
		{Kind: JobPublish, Lock: "b", Event: entry(eventsOf(grant(1, "b", 1))[0]), Since: w.now.Add(-time.Hour), Tries: 4},
		{Kind: JobTimer, Lock: "none", Timer: Timer{GrantRef: lock.GrantRef{Lock: "none", Key: "k", Fence: 1}}},
		{Kind: JobSettle, Lock: "a"},
		{Kind: "newer", Lock: "a"},
	} {
		body, err := EncodeJob(j)
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, string(body))
	}
	if failed := handleMessages(t, x, bodies...); failed != nil || len(dead.buried) != 0 {
		t.Errorf("failed %v, buried %v", failed, dead.buried)
	}
	if got := backlog.kinds(); !slices.Equal(got, []string{"newer a", "publish refused"}) || !slices.Equal(bus.taken, []string{"b/1/acquired"}) {
		t.Errorf("deferred %v, taken %v", got, bus.taken)
	}
	for _, j := range backlog.jobs {
		if j.Kind == JobPublish && (j.Tries != 2 || j.Event.Lock != "refused" || len(j.Event.Detail) == 0) {
			t.Errorf("deferred %+v", j)
		}
	}
	backlog.err = errReset
	if failed := handleMessages(t, x, bodies[4], bodies[1], bodies[0]); !slices.Equal(slices.Sorted(slices.Values(failed)), []string{"0", "2"}) {
		t.Errorf("failed %v", failed)
	}
}

// A timer that fires too early is set again; one that is due ends the lease; one that is late or fires twice does nothing.
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
