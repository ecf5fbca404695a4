package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// atOnce makes the test's coordinator send callbacks at once, as the functions do, over a store that the test can break.
func (w *tasks) atOnce() *brittle {
	w.t.Helper()
	s := &brittle{Memory: w.memory}
	var err error
	w.coordinator, err = lock.New(lock.Config{
		Store: s, Clock: func() time.Time { return w.now }, Granted: AtOnce(ByKind{lock.TaskToken: w.fake}, w.queues, slog.New(slog.DiscardHandler), ""),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// brittle is a store on which the writes of some causes fail.
type brittle struct {
	*lock.Memory
	fails  map[lock.Cause]bool
	causes []lock.Cause // of the writes
	reads  int

	noReads int // how many reads of several locks fail after the next grant of a set
	granted bool
}

func (s *brittle) ApplyAll(ctx context.Context, parts []lock.Part) (time.Duration, error) {
	var causes []string
	for _, p := range parts {
		causes = append(causes, string(p.Command.Stamp.Cause))
		if s.fails[p.Command.Stamp.Cause] {
			return 0, &lock.StoreError{Kind: lock.ErrThrottled, What: "throttled"}
		}
		s.granted = s.granted || p.Command.Stamp.Cause == lock.CauseSettle
	}
	s.causes = append(s.causes, lock.Cause(strings.Join(causes, "+")))
	return s.Memory.ApplyAll(ctx, parts)
}

func (s *brittle) Read(ctx context.Context, list []lock.Ask) ([]lock.Seen, time.Duration, error) {
	if s.granted && s.noReads > 0 {
		s.noReads--
		return nil, 0, &lock.StoreError{Kind: lock.ErrThrottled, What: "throttled"}
	}
	return s.Memory.Read(ctx, list)
}

func (s *brittle) Get(ctx context.Context, name string) (lock.Reply, error) {
	s.reads++
	return s.Memory.Get(ctx, name)
}

func (s *brittle) Apply(ctx context.Context, name string, c lock.Command) (lock.Reply, error) {
	s.causes = append(s.causes, c.Stamp.Cause)
	if s.fails[c.Stamp.Cause] {
		return lock.Reply{}, &lock.StoreError{Kind: lock.ErrThrottled, What: "throttled"}
	}
	return s.Memory.Apply(ctx, name, c)
}

// The function that frees a lock calls the next task back before it answers, with two writes and no read, and the stream's consumer
// sends nothing.
func TestToldAtOnce(t *testing.T) {
	w := newTasks(t)
	s := w.atOnce()
	w.waits("one")
	w.want("one", "one's token ok")
	w.waits("two")
	w.waits("three")
	s.causes, s.reads = nil, 0
	w.release("one")
	requests := fmt.Sprint(s.causes, s.reads)
	w.want("two", "one's token ok", "two's token ok")
	if requests != "[release release attempt told] 0" {
		t.Errorf("writes and reads: %s", requests)
	}
	calls := 0
	w.fake.before = func(string) error { calls++; return nil }
	w.deliver(5)
	if calls != 0 {
		t.Errorf("the stream's consumer sent %d callbacks", calls)
	}
	w.force() // for example
	w.want("three", "one's token ok", "two's token ok", "three's token ok")
}

// Every point at which a function that frees a lock may die or fail, and what the stream's consumer does then.
func TestCrashPointsAtOnce(t *testing.T) {
	die := func(w *tasks, s *brittle, at lock.Cause) { s.fails = map[lock.Cause]bool{at: true} }
	for name, test := range map[string]struct {
		spoil  func(w *tasks, s *brittle)
		atOnce []string // told by the function, besides one
		holder string   // after the stream's deliveries
		told   []string // besides one, in all
	}{
		"nothing happens": {
			func(*tasks, *brittle) {}, []string{"two's token ok"}, "two", []string{"two's token ok"},
		},
		"before the attempt is stored": {
			func(w *tasks, s *brittle) { die(w, s, lock.CauseAttempt) }, nil, "two", []string{"two's token ok"},
		},
		"between the attempt and the callback": {
			func(w *tasks, _ *brittle) { w.failOnce(errReset) }, nil, "two", []string{"two's token ok"},
		},
		"the callback panics": {
			func(w *tasks, _ *brittle) {
				n := 0
				w.fake.before = func(string) error {
					if n++; n == 1 {
						panic("bug")
					}
					return nil
				}
			}, nil, "two", []string{"two's token ok"},
		},
		"the callback's answer is lost": {
			func(w *tasks, _ *brittle) { w.fake.after = func(string) error { return errReset } }, []string{"two's token ok"}, "two", []string{"two's token ok"},
		},
		"between the callback and its mark": {
			func(w *tasks, s *brittle) { die(w, s, lock.CauseTold) }, []string{"two's token ok"}, "two", []string{"two's token ok"},
		},
		"the task is dead: the lock passes on in the same request": {
			func(w *tasks, _ *brittle) { delete(w.fake.waits, "two's token") }, []string{"three's token ok"}, "three", []string{"three's token ok"},
		},
		"the task dies between a lost request and the stream's": {
			func(w *tasks, _ *brittle) { w.diesAfterALostRequest() }, nil, "two", nil,
		},
		"the function may not call back": {
			func(w *tasks, _ *brittle) { w.failOnce(ErrUndeliverable) }, []string{"three's token ok"}, "three", []string{"three's token ok", "two's token LeaseLost"},
		},
	} {
		w := newTasks(t)
		s := w.atOnce()
		w.waits("one")
		w.waits("two")
		w.waits("three")
		w.deliver(5)
		test.spoil(w, s)
		w.release("one") // never an error
		said := append([]string{"one's token ok"}, test.atOnce...)
		if fmt.Sprint(w.fake.told) != fmt.Sprint(said) {
			t.Errorf("%s: the function told %v, want %v", name, w.fake.told, said)
		}
		s.fails = nil
		w.consumer.Coordinator = w.coordinator
		w.deliver(5)
		if said = append([]string{"one's token ok"}, test.told...); w.holder() != test.holder || fmt.Sprint(w.fake.told) != fmt.Sprint(said) {
			t.Errorf("%s: held by %q, told %v, want %q, %v", name, w.holder(), w.fake.told, test.holder, said)
		}
		for _, h := range storedA(w).Holders {
			if !h.Told {
				t.Errorf("%s: it is not stored that the callback was answered", name)
			}
		}
	}
}

// diesAfterALostRequest lets the first request for a callback be lost, and its task die then.
func (w *tasks) diesAfterALostRequest() {
	n := 0
	w.fake.before = func(token string) error {
		if n++; n == 1 {
			delete(w.fake.waits, token)
			return errReset
		}
		return nil
	}
}

// failOnce makes the next callback fail without reaching its task.
func (w *tasks) failOnce(err error) {
	n := 0
	w.fake.before = func(string) error {
		if n++; n == 1 {
			return err
		}
		return nil
	}
}

// A function and the stream's consumer send one callback at once, in either order of their steps: the task gets one, and keeps its lease.
func TestFunctionAndStreamAtOnce(t *testing.T) {
	for _, second := range []string{"the stream", "another function"} {
		w := newTasks(t)
		w.atOnce()
		w.waits("one")
		w.waits("two")
		w.deliver(5)
		w.fake.before = func(string) error {
			w.fake.before = nil
			w.fake.mu.Unlock() // the first waits here, while the second does all of its work
			defer w.fake.mu.Lock()
			if second == "the stream" {
				w.deliver(5)
				return nil
			}
			r := storedA(w)
			AtOnce(ByKind{lock.TaskToken: w.fake}, w.queues, w.consumer.Log, "")(t.Context(), w.coordinator, []lock.Write{{Lock: "a", Before: lock.Record{}, After: r}})
			return nil
		}
		w.release("one")
		w.deliver(5)
		w.want("two", "one's token ok", "two's token ok")
	}
}

// A task that is retried brings another token while a function sends the callback of the first: the mark of that callback is not that of
// the new token, which gets one of its own.
func TestAnotherTokenWhileTold(t *testing.T) {
	for _, point := range []string{"before the callback", "after it"} {
		w := newTasks(t)
		w.atOnce()
		w.waits("one")
		w.waits("two")
		retry := func(string) error {
			w.fake.before, w.fake.after = nil, nil
			w.fake.mu.Unlock()
			defer w.fake.mu.Lock()
			delete(w.fake.waits, "two's token")
			w.fake.waits["two's new token"] = true
			w.waits("two", func(r *lock.AcquireRequest) { r.Token = task("two's new token") })
			delete(w.fake.waits, "two's token")
			return nil
		}
		if point == "after it" {
			w.fake.after = retry
		} else {
			w.fake.before = retry
		}
		w.release("one")
		w.deliver(5)
		if last := w.fake.told[len(w.fake.told)-1]; w.holder() != "two" || last != "two's new token ok" {
			t.Errorf("%s: held by %q, told %v", point, w.holder(), w.fake.told)
		}
	}
}

// A service that does not answer makes a release slower by AtOnceLimit at most, and not fail. The stream's consumer tells the task.
func TestSlowCallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTasks(t)
		w.atOnce()
		w.waits("one")
		w.waits("two")
		w.deliver(5)
		slow := silent{w.fake}
		var err error
		if w.coordinator, err = lock.New(lock.Config{Store: w.memory, Clock: func() time.Time { return w.now }, Granted: AtOnce(ByKind{lock.TaskToken: slow}, w.queues, w.consumer.Log, "")}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		w.release("one")
		if took := time.Since(start); took != AtOnceLimit {
			t.Errorf("the release took %v", took)
		}
		w.want("two", "one's token ok")
		w.deliver(5)
		w.want("two", "one's token ok", "two's token ok")
	})
}

// silent is a service that does not answer.
type silent struct{ Callbacks }

func (silent) Succeed(ctx context.Context, _ lock.Token, _ []byte) error {
	<-ctx.Done()
	return ctx.Err()
}

// Of several grants of one write, all are told in the same request. After the first failure the others are left to the stream, with
// their first attempts.
func TestSeveralGrantsAtOnce(t *testing.T) {
	semaphore := func(r *lock.AcquireRequest) { r.Capacity, r.Permits = 3, 1 }
	for _, fails := range []bool{false, true} {
		w := newTasks(t)
		s := w.atOnce()
		w.waits("one", semaphore, func(r *lock.AcquireRequest) { r.Permits = 3 })
		for _, name := range []string{"two", "three", "four"} {
			w.waits(name, semaphore)
		}
		w.deliver(5)
		if fails {
			w.failOnce(errReset)
		}
		s.causes, s.reads = nil, 0
		w.release("one")
		told := []string{"one's token ok", "two's token ok", "three's token ok", "four's token ok"}
		if fails {
			told = told[:1]
		}
		if fmt.Sprint(w.fake.told) != fmt.Sprint(told) {
			t.Errorf("fails %v: told %v", fails, w.fake.told)
		}
		if want := "[release release attempt told attempt told attempt told] 0"; !fails && fmt.Sprint(s.causes, s.reads) != want {
			t.Errorf("writes and reads: %v %d", s.causes, s.reads)
		}
		w.deliver(5)
		if len(w.fake.told) != 4 {
			t.Errorf("fails %v: told %v", fails, w.fake.told)
		}
	}
}

// A stream that is an hour late changes nothing for the tasks that were told, whether they still work or have ended.
func TestStreamAnHourLate(t *testing.T) {
	w := newTasks(t)
	w.atOnce()
	long := func(r *lock.AcquireRequest) { r.TTL, r.Wait = 24*time.Hour, 24*time.Hour }
	for _, name := range []string{"one", "two", "three"} {
		w.waits(name, long)
	}
	w.release("one")
	w.release("two")
	w.now = w.now.Add(time.Hour)
	before := storedA(w)
	w.deliver(5)
	w.want("three", "one's token ok", "two's token ok", "three's token ok")
	if after := storedA(w); after.Rev != before.Rev {
		t.Errorf("the stream's consumer wrote %s", after.Cause)
	}
}

// A check of an execution sends the callback of a grant that was attempted, and whose stream record was lost.
func TestCheckTellsAnAttemptedGrant(t *testing.T) {
	w := newTasks(t)
	w.atOnce()
	x, _, _ := w.expirer()
	w.fake.execs["arn:one"] = true
	w.fake.before = func(string) error { return errReset }
	w.waits("one", bound)
	w.writes, w.fake.before = nil, nil // lost
	w.now = w.now.Add(time.Minute)
	if err := x.Fire(t.Context(), w.dueTimer()); err != nil {
		t.Fatal(err)
	}
	w.want("one", "one's token ok")
}

// A mark that is lost costs one repetition of the callback, which is marked.
func TestLostMark(t *testing.T) {
	w := newTasks(t)
	s := w.atOnce()
	s.fails = map[lock.Cause]bool{lock.CauseTold: true}
	w.waits("one")
	again := w.writes
	s.fails = nil
	calls := 0
	w.fake.before = func(string) error { calls++; return nil }
	for range 3 {
		if failed := w.consumer.Consume(t.Context(), again); len(failed) > 0 {
			t.Errorf("failed %v", failed)
		}
	}
	if w.want("one", "one's token ok"); calls != 1 {
		t.Errorf("%d callbacks", calls)
	}
}

// A lease that was ended before its callback is left to the stream, whose record of it fails the task.
func TestEndedBeforeAtOnce(t *testing.T) {
	w := newTasks(t)
	w.waits("one")
	r := storedA(w)
	w.force()
	AtOnce(ByKind{lock.TaskToken: w.fake}, w.queues, w.consumer.Log, "")(t.Context(), w.coordinator, []lock.Write{{Lock: "a", After: r}})
	w.want("")
	w.deliver(5)
	w.want("", "one's token LeaseLost")
}

// A grant to a task whose service the function does not call is left to the stream whole, so that the first attempt is the stream's.
func TestOtherKindsAreLeftToTheStream(t *testing.T) {
	w := newTasks(t)
	s := w.atOnce()
	durable := func(r *lock.AcquireRequest) { r.Token.Kind = lock.CallbackToken }
	w.waits("one")
	w.waits("two", durable)
	s.causes = nil
	w.release("one")
	if got := fmt.Sprint(s.causes); got != "[release release]" {
		t.Errorf("writes %s", got)
	}
	w.want("two", "one's token ok")
	delete(w.fake.waits, "two's token") // it is dead: only a first attempt ends its lease
	w.consumer.Callbacks = ByKind{lock.TaskToken: w.fake, lock.CallbackToken: w.fake}
	w.deliver(5)
	w.want("", "one's token ok")
	other := lock.Token{Kind: "a later one", Text: "abc"}
	for _, err := range []error{w.consumer.Callbacks.Succeed(t.Context(), other, nil), w.consumer.Callbacks.Fail(t.Context(), other, "", "")} {
		if !errors.Is(err, ErrUnknownKind) {
			t.Errorf("a token of an unknown kind: %v", err)
		}
	}
}
