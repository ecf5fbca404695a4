package stream

import (
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	lambdaevents "github.com/aws/aws-lambda-go/events"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// expirer is the expire function on the rig of tasks.
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

// A check of an execution's lease tells a grant that nobody was told of, for its stream record was lost; once, and only then.
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
	// The failed attempt was stored: this one is later, and nobody knows whether the first arrived; nothing more is sent.
	w.want("one")
	if counted(log, GrantToldLate) != 1 || counted(log, TimerFailed) != 1 || counted(log, CallbackFailed) != 1 {
		t.Errorf("log %s", log)
	}
}

// The whole of it without a fault between: told by the check, as by the stream.
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

// An execution's lease is looked at again after its interval, and no sooner than minCheckInterval.
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

// The rate of checks is bounded; one whose turn has not come is put off for a while, and nothing is asked.
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
		t.Errorf("put off for %v, log %s", due, log)
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

// Both signals of an execution's end are lost: the event, and the timer's message. Whoever is refused asks for the check again, and
// the lock passes on; while the execution runs, asking so changes nothing.
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

// A check that cannot ask, or finds an execution over, is counted.
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

// Only a status that is final ends anything, and only once Step Functions itself says so.
func TestHandleExecution(t *testing.T) {
	for _, test := range []struct {
		status  string
		running bool
		ends    bool
		err     error
	}{
		{"SUCCEEDED", false, true, nil}, {"FAILED", false, true, nil}, {"TIMED_OUT", false, true, nil}, {"ABORTED", false, true, nil},
		{"SUCCEEDED", true, false, ErrStillRunning}, {"FAILED", true, false, ErrStillRunning}, {"TIMED_OUT", true, false, ErrStillRunning}, {"ABORTED", true, false, ErrStillRunning},
		{"RUNNING", false, false, nil}, {"PENDING_REDRIVE", false, false, nil}, {"", false, false, nil}, {"SOMETHING_NEW", false, false, nil},
	} {
		w := newTasks(t)
		log := logged(w.consumer)
		x, _, _ := w.expirer()
		x.Consumer = nil
		w.waits("one", bound)
		w.waits("two")
		w.deliver(3)
		w.fake.execs["arn:one"] = test.running
		answer, err := x.Handle(t.Context(), executionEvent("arn:one", test.status))
		if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) || answer != nil {
			t.Errorf("%s, running %v: %v, %v", test.status, test.running, answer, err)
		}
		if ends := w.holder() == "two"; ends != test.ends {
			t.Errorf("%s, running %v: held by %q", test.status, test.running, w.holder())
		}
		if counted(log, ExecutionEndFailed) != 0 {
			t.Errorf("%s, running %v: log %s", test.status, test.running, log)
		}
	}
	w := newTasks(t)
	x, _, _ := w.expirer()
	w.fake.describe = func(string) (bool, error) { t.Error("asked for an execution that holds nothing"); return false, nil }
	if _, err := x.Handle(t.Context(), executionEvent("arn:none", "FAILED")); err != nil {
		t.Error(err)
	}
	if _, err := x.Handle(t.Context(), json.RawMessage(`{"detail-type":"x","detail":7}`)); err == nil {
		t.Error("an event that cannot be read")
	}
	if _, err := x.Handle(t.Context(), json.RawMessage(`7`)); err == nil {
		t.Error("an event of no kind")
	}
}

// An end that cannot be handled now goes to the queue, and is tried until it can; one that is found running for longer than Step
// Functions may lag was started again.
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
		t.Fatalf("%v, put off %+v", err, backlog.jobs)
	}
	backlog.err = errReset
	if err := handle(); !errors.Is(err, ErrStillRunning) {
		t.Errorf("an end that was neither handled nor put off: %v", err)
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

// message hands a job to the expire function as the queue does.
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

// handleMessages hands messages to the expire function, and answers the places of those that must come again.
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

// A timer that fails is put off, for longer each time, and for ever; what cannot be read is buried.
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
		t.Errorf("put off %+v", j)
	}
	if b := dead.buried[0]; b.Sequence != "1" || string(b.Raw) != `{"v":1}` || !strings.Contains(b.Poison.Error(), "names no lock") {
		t.Errorf("buried %+v", b)
	}
	for range 10 {
		w.now = w.now.Add(giveUpAfter)
		w.message(x, backlog.take()[0])
	}
	if j := backlog.jobs[0]; j.Tries != 11 || !j.Due.Equal(w.now.Add(MaxDelay)) || len(dead.buried) != 2 {
		t.Errorf("put off %+v", j)
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

// What was put off is done by the expire function; what fails again is put off again.
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
		t.Errorf("put off %v, taken %v", got, bus.taken)
	}
	for _, j := range backlog.jobs {
		if j.Kind == JobPublish && (j.Tries != 2 || j.Event.Lock != "refused" || len(j.Event.Detail) == 0) {
			t.Errorf("put off %+v", j)
		}
	}
	backlog.err = errReset
	if failed := handleMessages(t, x, bodies[4], bodies[1], bodies[0]); !slices.Equal(slices.Sorted(slices.Values(failed)), []string{"0", "2"}) {
		t.Errorf("failed %v", failed)
	}
}

// A job comes through its message as it was, and a message that lacks something is none.
func TestJobMessages(t *testing.T) {
	h := lock.Lease{Terms: lock.Terms{Owner: "o", Permits: 2, TTL: 3, Metadata: `{"a":1}`, Tokens: lock.Tokens{"task:x", "task:y"}, Execution: "arn:x"}, Fence: 7, AcquiredAt: 1, ExpiresAt: 2, CheckAt: 9}
	since := time.UnixMilli(1_800_000_000_123)
	for _, j := range []Job{
		{Kind: JobPublish, Lock: "a", Event: Entry{DetailType: "d", Detail: []byte(`{"id":"x"}`), Time: time.Unix(5, 0).UTC(), Lock: "a"}, Since: since, Tries: 3},
		{Kind: JobDeliver, Lock: "a", Key: "k", Lease: h, Since: since},
		{Kind: JobFail, Lock: "a", Tokens: h.Tokens, Code: "WaitTimedOut", Cause: "why", Tries: 1},
		{Kind: JobSettle, Lock: "a", Since: since, Tries: 1},
		{Kind: JobTimer, Lock: "a", Timer: Timer{GrantRef: lock.GrantRef{Lock: "a", Key: "k", Fence: 7}}, Since: since, Tries: 2},
		{Kind: JobEnd, Execution: ExecutionEnd{"arn:x", "FAILED"}, Since: since},
	} {
		body, err := EncodeJob(j)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeJob(string(body))
		if err != nil {
			t.Errorf("%s: %v", body, err)
		}
		if a, b := mustJSON(j), mustJSON(got); a != b || !got.Since.Equal(j.Since) {
			t.Errorf("%s\nbecame %s", a, b)
		}
	}
	for body, says := range map[string]string{
		`{"v":1,"kind":"publish","lock":"a"}`: "publish", `{"v":1,"kind":"tell","lock":"a","holder":{}}`: "tell", `{"v":1,"kind":"tell","lock":"a","lease":"k"}`: "tell",
		`{"v":1,"kind":"fail","lock":"a"}`: "fail", `{"v":1,"kind":"settle"}`: "names no lock", `{"v":1,"kind":"timer","lock":"a","lease":"k"}`: "timer",
		`{"v":1,"lock":"a","fence":1}`: "timer", `{"v":1,"lock":"a","lease":"k","fence":0}`: "timer", `{"v":1,"kind":"end"}`: "end", `{"v":1,"kind":"end","execution":{}}`: "end", `[]`: "unmarshal",
	} {
		if j, err := DecodeJob(body); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %+v, %v", body, j, err)
		}
	}
	if j, err := DecodeJob(`{"v":1,"lock":"a","lease":"k","fence":1}`); err != nil || j.Kind != JobTimer || j.Timer != (Timer{GrantRef: lock.GrantRef{Lock: "a", Key: "k", Fence: 1}}) || !j.Since.IsZero() {
		t.Errorf("a timer: %+v, %v", j, err)
	}
}

func mustJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// Each metric of a fault has an alarm's text, and none is listed twice.
func TestFaults(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range Faults() {
		if seen[f.Metric] || f.Metric == "" || f.Alarm == "" || f.Minutes < 1 || f.Minutes > 5 {
			t.Errorf("%+v", f)
		}
		seen[f.Metric] = true
	}
	if len(seen) != 12 {
		t.Errorf("%d faults; docs/deploy.md lists 12", len(seen))
	}
	r := newRig() // without a namespace the record is logged, and counts nothing
	log := logged(&r.Consumer)
	r.Metrics = ""
	r.reporter().fault(t.Context(), WorkGivenUp, "x", slog.String("lock", "a"))
	if !strings.Contains(log.String(), `"work_given_up":1`) || strings.Contains(log.String(), "_aws") {
		t.Errorf("log %s", log)
	}
}
