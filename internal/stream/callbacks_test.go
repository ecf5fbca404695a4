package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// fakeTasks is a fake of Step Functions: waiting tasks by token, and the faults that a test sets.
type fakeTasks struct {
	mu       sync.Mutex
	waits    map[string]bool
	told     []string                                 // "token ok" or "token CODE"
	output   map[string]string                        // by token: of the last callback of a grant
	before   func(token string) error                 // instead of the request
	after    func(token string) error                 // instead of its answer
	execs    map[string]bool                          // executions that run
	describe func(arn string) (running bool, e error) // instead of them
}

// task is the token of a Step Functions task.
func task(text string) lock.Token { return lock.Token{Kind: lock.TaskToken, Text: text} }

var errReset = errors.New("connection reset by peer")

func (f *fakeTasks) tell(token, what string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.before != nil {
		if err := f.before(token); err != nil {
			return err
		}
	}
	if !f.waits[token] {
		return fmt.Errorf("%w: TaskTimedOut", ErrTaskGone)
	}
	delete(f.waits, token)
	f.told = append(f.told, token+" "+what)
	if f.after != nil {
		return f.after(token)
	}
	return nil
}

func (f *fakeTasks) Succeed(_ context.Context, token lock.Token, output []byte) error {
	if !strings.Contains(string(output), `"fence":`) || strings.Contains(string(output), "secret") {
		return fmt.Errorf("output %s", output)
	}
	f.mu.Lock()
	if f.output == nil {
		f.output = map[string]string{}
	}
	f.output[token.Text] = string(output)
	f.mu.Unlock()
	return f.tell(token.Text, "ok")
}

func (f *fakeTasks) Fail(_ context.Context, token lock.Token, code, _ string) error {
	return f.tell(token.Text, code)
}

func (f *fakeTasks) Running(_ context.Context, arn string) (bool, error) {
	if f.describe != nil {
		return f.describe(arn)
	}
	return f.execs[arn], nil
}

// tasks is a coordinator in memory whose writes a test delivers to a consumer, when and as often as it wants.
type tasks struct {
	t           *testing.T
	coordinator *lock.Coordinator
	memory      *lock.Memory
	now         time.Time
	consumer    *Consumer
	fake        *fakeTasks
	queues      *fakeQueues
	writes      []Write
	fired       []Timer
	lost        []Write // writes that the stream lost
}

func newTasks(t *testing.T) *tasks {
	w := &tasks{t: t, now: time.Unix(1_800_000_000, 0), fake: &fakeTasks{waits: map[string]bool{}, execs: map[string]bool{}}, queues: &fakeQueues{}}
	w.memory = &lock.Memory{Changed: func(name string, before, after lock.Record) {
		w.writes = append(w.writes, Write{Write: lock.Write{Lock: name, Before: before, After: after, Ended: lock.PlacesEnded(before, after)}, Sequence: fmt.Sprint(len(w.writes))})
	}}
	clock := func() time.Time { return w.now }
	var err error
	if w.coordinator, err = lock.New(lock.Config{Store: w.memory, Clock: clock}); err != nil {
		t.Fatal(err)
	}
	w.consumer = &Consumer{
		Bus: nowhere{}, Timers: w, Callbacks: w.fake, Notifications: w.queues, Coordinator: w.coordinator, Skew: lock.DefaultSkew, Log: slog.New(slog.DiscardHandler), Clock: clock,
	}
	return w
}

type nowhere struct{}

func (nowhere) Put(_ context.Context, e []Entry) []error { return make([]error, len(e)) }

func (w *tasks) Arm(_ context.Context, timers []Timer) []error {
	w.fired = append(w.fired, timers...)
	return nil
}

// waits lets a task wait for the lock a.
func (w *tasks) waits(secret string, change ...func(*lock.AcquireRequest)) {
	w.t.Helper()
	w.fake.waits[secret+"'s token"] = true
	req := lock.AcquireRequest{Lock: "a", Secret: secret, Owner: secret, TTL: time.Minute, Capacity: 1, Permits: 1, Wait: time.Hour, Token: task(secret + "'s token")}
	for _, c := range change {
		c(&req)
	}
	if _, err := w.coordinator.Acquire(w.t.Context(), req); err != nil && !errors.Is(err, lock.ErrLockHeld) {
		w.t.Fatal(err)
	}
}

func (w *tasks) release(secret string) {
	w.t.Helper()
	if _, err := w.coordinator.Release(w.t.Context(), lock.ReleaseRequest{Lock: "a", Secret: secret}); err != nil {
		w.t.Fatal(err)
	}
}

// deliver delivers the new writes to the consumer, and those that it reports again, up to n times.
func (w *tasks) deliver(n int) {
	w.t.Helper()
	for range n {
		batch := w.writes
		w.writes = nil
		failed := w.consumer.Consume(w.t.Context(), batch)
		var again []Write
		for _, b := range batch {
			for _, f := range failed {
				if f == b.Sequence {
					again = append(again, b)
				}
			}
		}
		w.writes = append(again, w.writes...)
		if len(w.writes) == 0 {
			return
		}
	}
}

func (w *tasks) holder() string {
	w.t.Helper()
	s, err := w.coordinator.Status(w.t.Context(), "a")
	if err != nil {
		w.t.Fatal(err)
	}
	if len(s.Holders) == 0 {
		return ""
	}
	return s.Holders[0].Owner
}

func (w *tasks) want(holder string, told ...string) {
	w.t.Helper()
	if got := w.holder(); got != holder || fmt.Sprint(w.fake.told) != fmt.Sprint(told) {
		w.t.Errorf("held by %q, told %v; want %q, %v", got, w.fake.told, holder, told)
	}
}

// Tasks get their callbacks in the order of the queue, once each.
func TestTasksAreTold(t *testing.T) {
	w := newTasks(t)
	w.waits("one")
	w.waits("two")
	w.waits("three")
	w.deliver(5)
	w.want("one", "one's token ok")
	w.release("one")
	w.deliver(5)
	w.release("two")
	w.deliver(5)
	w.want("three", "one's token ok", "two's token ok", "three's token ok")
}

// Every point between a hand-off and its callback at which the consumer may crash or its requests may be lost.
func TestCrashPoints(t *testing.T) {
	for name, test := range map[string]struct {
		spoil  func(w *tasks)
		holder string   // after all deliveries
		told   []string // besides one's
	}{
		"before anything: the write is delivered again": {func(w *tasks) {
			w.writes = append(w.writes, w.writes...)
		}, "two", []string{"two's token ok"}},
		"after the attempt was stored, before it was sent: sent again": {func(w *tasks) {
			n := 0
			w.fake.before = func(string) error {
				if n++; n == 1 {
					return errReset
				}
				return nil
			}
		}, "two", []string{"two's token ok"}},
		"after it was sent, its answer lost: a live task keeps its lock": {func(w *tasks) {
			w.fake.after = func(string) error { return errReset }
		}, "two", []string{"two's token ok"}},
		"after it was sent, before the batch was done: told nobody twice": {func(w *tasks) {
			w.deliver(1)
			w.writes = append(w.writes, Write{Write: lock.Write{Lock: "a", Before: lock.Record{}, After: storedA(w)}, Sequence: "again"})
		}, "two", []string{"two's token ok"}},
		"the task is dead: its lock passes on at once": {func(w *tasks) {
			delete(w.fake.waits, "two's token")
		}, "three", []string{"three's token ok"}},
		"the task dies between a lost request and the next: its TTL decides": {(*tasks).diesAfterALostRequest, "two", nil},
		"forced out before it was told: its task fails": {func(w *tasks) {
			if _, err := w.coordinator.ForceRelease(w.t.Context(), lock.ForceReleaseRequest{Lock: "a", Reason: "test"}); err != nil {
				w.t.Fatal(err)
			}
		}, "three", []string{"two's token LeaseLost", "three's token ok"}},
		"its state is tried again before it was told: all its tokens are told": {func(w *tasks) {
			delete(w.fake.waits, "two's token")
			w.waits("two", func(r *lock.AcquireRequest) { r.Token = task("two's new token") })
			w.fake.waits["two's new token"] = true
			delete(w.fake.waits, "two's token")
		}, "two", []string{"two's new token ok"}},
		"a late duplicate with its old token: nothing is ended": {func(w *tasks) {
			w.deliver(5)
			w.waits("two", func(r *lock.AcquireRequest) { r.Token = task("two's old token") })
			delete(w.fake.waits, "two's token")
		}, "two", []string{"two's token ok"}},
		"it can never be told: its lock passes on, and the stream goes on": {func(w *tasks) {
			w.fake.before = func(token string) error {
				if token == "two's token" {
					return ErrUndeliverable
				}
				return nil
			}
		}, "three", []string{"three's token ok"}},
		"throttled for a while": {func(w *tasks) {
			n := 0
			w.fake.before = func(string) error {
				if n++; n < 4 {
					return errReset
				}
				return nil
			}
		}, "two", []string{"two's token ok"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTasks(t)
			w.waits("one")
			w.waits("two")
			w.waits("three")
			w.deliver(5)
			w.release("one")
			test.spoil(w)
			w.deliver(8)
			w.want(test.holder, append([]string{"one's token ok"}, test.told...)...)
			// Whatever happened, the lock passes on within the TTL of a holder that nobody hears of any more.
			w.fake.before, w.fake.after = nil, nil
			w.now = w.now.Add(time.Minute + time.Second)
			x := &Expirer{Coordinator: w.coordinator, Timers: w, Executions: w.fake, Log: slog.New(slog.DiscardHandler)}
			for _, timer := range w.fired {
				if err := x.Fire(t.Context(), timer); err != nil {
					t.Fatal(err)
				}
			}
			w.deliver(5)
			if test.holder == "two" && w.holder() != "three" || test.holder == "three" && w.holder() != "" {
				t.Errorf("a minute later the holder is %q", w.holder())
			}
		})
	}
}

func storedA(w *tasks) lock.Record {
	r, err := w.memory.Get(w.t.Context(), "a")
	if err != nil {
		w.t.Fatal(err)
	}
	return r.After
}

// A wait that ends without a grant fails its task, with the reason.
func TestWaitsThatEndAreTold(t *testing.T) {
	w := newTasks(t)
	w.waits("one", func(r *lock.AcquireRequest) { r.TTL = 3 * time.Hour })
	w.waits("short", func(r *lock.AcquireRequest) { r.Wait = time.Minute })
	w.waits("cancelled")
	w.waits("two")
	w.deliver(5)
	w.release("cancelled")
	w.now = w.now.Add(2 * time.Minute)
	w.release("one")
	w.deliver(5)
	w.want("two", "one's token ok", "cancelled's token WaitCancelled", "short's token WaitTimedOut", "two's token ok")
}

// The lease of an execution stays while it runs, and ends when an event or a check shows that it is over.
func TestExecutionsLeases(t *testing.T) {
	w := newTasks(t)
	bound := func(r *lock.AcquireRequest) { r.Execution, r.Wait = "arn:"+r.Owner, 24*time.Hour }
	w.fake.execs["arn:one"], w.fake.execs["arn:two"] = true, true
	w.waits("one", bound)
	w.waits("two", bound)
	w.waits("three", bound)
	w.deliver(5)
	x := &Expirer{Coordinator: w.coordinator, Timers: w, Executions: w.fake, Log: slog.New(slog.DiscardHandler)}
	fire := func() {
		t.Helper()
		timers := w.fired
		w.fired = nil
		for _, timer := range timers {
			if err := x.Fire(t.Context(), timer); err != nil {
				t.Fatal(err)
			}
		}
		w.deliver(5)
	}
	for range 60 { // an hour, checked every minute
		w.now = w.now.Add(time.Minute + time.Second)
		fire()
	}
	w.want("one", "one's token ok")
	w.fake.describe = func(string) (bool, error) { return false, errReset }
	w.now = w.now.Add(time.Hour)
	if err := x.Fire(t.Context(), w.fired[0]); err == nil {
		t.Error("a check that failed must be retried")
	}
	w.want("one", "one's token ok")
	w.fake.describe = nil
	delete(w.fake.execs, "arn:one") // nobody tells
	fire()
	w.want("two", "one's token ok", "two's token ok")
	var event ExecutionEvent
	event.Detail.Execution, event.Detail.Status = "arn:two", "RUNNING"
	if err := x.HandleExecution(t.Context(), event); err != nil {
		t.Fatal(err)
	}
	w.want("two", "one's token ok", "two's token ok")
	event.Detail.Status = "FAILED" // it was redriven since, or Step Functions does not know yet: ask again
	if err := x.HandleExecution(t.Context(), event); !errors.Is(err, ErrStillRunning) {
		t.Fatal(err)
	}
	w.want("two", "one's token ok", "two's token ok")
	delete(w.fake.execs, "arn:two")
	for _, event.Detail.Status = range []string{"TIMED_OUT", "TIMED_OUT"} {
		if err := x.HandleExecution(t.Context(), event); err != nil {
			t.Fatal(err)
		}
	}
	w.deliver(5)
	w.want("three", "one's token ok", "two's token ok", "three's token ok")
}

// Two attempts of one callback may run at the same time: a job may be delivered twice, and a check may find the callback missing. The
// first to store its attempt may be the last to send it, and finds no task because the other one succeeded: the lease stays.
func TestTwoTellOneGrant(t *testing.T) {
	w := newTasks(t)
	w.waits("one")
	batch := w.writes
	w.writes = nil
	late := false
	w.fake.before = func(string) error {
		if late {
			return nil
		}
		late = true
		w.fake.mu.Unlock() // the first waits here, while the second does all of its work
		defer w.fake.mu.Lock()
		if failed := w.consumer.Consume(t.Context(), batch); len(failed) > 0 {
			t.Errorf("failed %v", failed)
		}
		return nil
	}
	if failed := w.consumer.Consume(t.Context(), batch); len(failed) > 0 {
		t.Errorf("failed %v", failed)
	}
	w.want("one", "one's token ok")
}

// A write that left waiters that fit is settled by the consumer; one that left none is not.
func TestUnsettledQueueIsSettled(t *testing.T) {
	w := newTasks(t)
	w.waits("one", func(r *lock.AcquireRequest) { r.Wait = 100 * time.Hour })
	w.waits("two", func(r *lock.AcquireRequest) { r.Wait = 100 * time.Hour })
	w.deliver(3)
	w.now = w.now.Add(2 * time.Hour) // its holder is over, and nobody came
	r := storedA(w)
	if failed := w.consumer.Consume(t.Context(), []Write{{Write: lock.Write{Lock: "a", Before: r, After: r}, Sequence: "1"}}); failed != nil || w.holder() != "" {
		t.Errorf("failed %v: a lock with a holder was settled", failed)
	}
	left := r
	left.Holders = nil
	if failed := w.consumer.Consume(t.Context(), []Write{{Write: lock.Write{Lock: "a", Before: r, After: left}, Sequence: "2"}}); failed != nil {
		t.Errorf("failed %v", failed)
	}
	w.deliver(3)
	w.want("two", "one's token ok", "two's token ok")
	w.consumer.Callbacks = nil // where nobody waits with a token, whoever polls settles
	w.now = w.now.Add(2 * time.Hour)
	if failed := w.consumer.Consume(t.Context(), []Write{{Write: lock.Write{Lock: "a", Before: r, After: left}, Sequence: "3"}}); failed != nil {
		t.Errorf("failed %v", failed)
	}
}

// A task that was retried waits with several tokens. It is unknown which one got the callback, so the lease stays although all are
// gone.
func TestSeveralTokensAllGone(t *testing.T) {
	for _, attempted := range []bool{false, true} {
		w := newTasks(t)
		w.waits("one")
		w.waits("two")
		w.waits("three")
		w.deliver(3)
		w.waits("two", func(r *lock.AcquireRequest) { r.Token = task("two's new token") }) // while it waits
		clear(w.fake.waits)
		w.release("one")
		if attempted {
			w.deliver(1)
			w.writes = append(w.writes, w.lost...)
		}
		w.deliver(5)
		w.want("two", "one's token ok")
	}
}

// If the only token is gone at the first attempt, the lease ends. An error of that is counted, and the write is not delivered again.
func TestEndOfADeadTasksLease(t *testing.T) {
	w := newTasks(t)
	log := logged(w.consumer)
	store := &endless{Memory: w.memory}
	var err error
	if w.coordinator, err = lock.New(lock.Config{Store: store, Clock: func() time.Time { return w.now }}); err != nil {
		t.Fatal(err)
	}
	w.consumer.Coordinator = w.coordinator
	w.waits("one")
	clear(w.fake.waits)
	if failed := w.consumer.Consume(t.Context(), w.writes); failed != nil || counted(log, CallbackFailed) != 1 {
		t.Errorf("failed %v, log %s", failed, log)
	}
	w.want("one")
}

// endless is a store on which ending a lease fails.
type endless struct{ *lock.Memory }

func (s *endless) Apply(ctx context.Context, name string, c lock.Command) (lock.Reply, error) {
	if become, ok := c.Effect.(lock.Become); ok && len(become.To.Holders) < len(become.From.Holders) {
		return lock.Reply{}, &lock.StoreError{Kind: lock.ErrUnavailable, What: "away"}
	}
	return s.Memory.Apply(ctx, name, c)
}

// A callback that can never be sent is counted, of a grant and of an ended wait, and blocks nothing.
func TestUndeliverable(t *testing.T) {
	w := newTasks(t)
	log := logged(w.consumer)
	w.waits("one")
	w.waits("two")
	w.deliver(3)
	w.fake.before = func(string) error { return fmt.Errorf("%w: AccessDeniedException", ErrUndeliverable) }
	w.release("two") // a wait that is cancelled
	if failed := w.consumer.Consume(t.Context(), w.writes); failed != nil || counted(log, CallbackUndeliverable) != 1 {
		t.Errorf("failed %v, counted %d", failed, counted(log, CallbackUndeliverable))
	}
	w.writes = nil
	w.release("one")
	w.waits("three")
	if failed := w.consumer.Consume(t.Context(), w.writes); failed != nil || counted(log, CallbackUndeliverable) != 2 {
		t.Errorf("failed %v, counted %d", failed, counted(log, CallbackUndeliverable))
	}
	w.want("", "one's token ok")
}

// The output of a callback has all that is public of the lease, and no secret.
func TestOutput(t *testing.T) {
	h := record(lock.CauseAcquire, 7).Holders[leaseKey(7)]
	const plain = `{"lock":"a","fence":7,"permits":1,"locks":[{"lock":"a","fence":7,"permits":1}],"owner":"o7","acquired_at":"1970-01-01T00:00:01.000Z",` +
		`"expires_at":"1970-01-01T00:00:05.000Z","ttl_ms":4000`
	if got := string(output("a", h)); got != plain+"}" {
		t.Errorf("%s", got)
	}
	h.Metadata, h.Tokens, h.Principal = `{"n":1}`, lock.Tokens{task("x")}, "arn:p"
	if got := string(output("a", h)); got != plain+`,"metadata":{"n":1}}` {
		t.Errorf("%s", got)
	}
}

// With a backlog, after three failed callbacks of a batch the others are deferred without an attempt.
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
		t.Errorf("failed %v, %d calls, %d deferred", failed, calls, len(backlog.jobs))
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

// If the stream record of a grant was lost, the record of its end fails the task.
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
	attempted := newTasks(t) // one that was attempted, and perhaps not told, as well
	attempted.atOnce()
	attempted.failOnce(errReset)
	attempted.waits("one")
	attempted.writes = nil
	attempted.force()
	attempted.deliver(3)
	attempted.want("", "one's token LeaseLost")
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
