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

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// setWaits lets a task wait for the locks a, b and c together.
func (w *tasks) setWaits(secret string, change ...func(*lock.SetRequest)) {
	w.t.Helper()
	req := lock.SetRequest{Secret: secret, Owner: secret, TTL: time.Minute, Wait: time.Hour, Token: task(secret + "'s token")}
	for _, name := range []string{"c", "a", "b"} {
		req.Locks = append(req.Locks, lock.Want{Lock: name, Capacity: 1, Permits: 1})
	}
	for _, c := range change {
		c(&req)
	}
	w.fake.waits[req.Token.Text] = true
	if _, err := w.coordinator.AcquireAll(w.t.Context(), req); err != nil && !errors.Is(err, lock.ErrLockHeld) {
		w.t.Fatal(err)
	}
}

// holders are the owners of the leases of a, b and c.
func (w *tasks) holders() string {
	w.t.Helper()
	var list []string
	for _, name := range []string{"a", "b", "c"} {
		s, err := w.coordinator.Status(w.t.Context(), name)
		if err != nil {
			w.t.Fatal(err)
		}
		owner := "-"
		if len(s.Holders) > 0 {
			owner = s.Holders[0].Owner
		}
		list = append(list, owner)
	}
	return strings.Join(list, " ")
}

func (w *tasks) setWant(holders string, told ...string) {
	w.t.Helper()
	if got := w.holders(); got != holders || !slices.Equal(w.fake.told, told) {
		w.t.Errorf("held by %q, told %q; want %q, %q", got, w.fake.told, holders, told)
	}
}

func (w *tasks) releaseLock(name, secret string) {
	w.t.Helper()
	if _, err := w.coordinator.Release(w.t.Context(), lock.ReleaseRequest{Lock: name, Secret: secret}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *tasks) releaseSet(secret string) {
	w.t.Helper()
	if _, err := w.coordinator.ReleaseAll(w.t.Context(), lock.SetReleaseRequest{Locks: []string{"a", "b", "c"}, Secret: secret}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *tasks) forceLock(name string) {
	w.t.Helper()
	if _, err := w.coordinator.ForceRelease(w.t.Context(), lock.ForceReleaseRequest{Lock: name, Reason: "test"}); err != nil {
		w.t.Fatal(err)
	}
}

// on makes a request for one lock one for another.
func on(name string) func(*lock.AcquireRequest) {
	return func(r *lock.AcquireRequest) { r.Lock = name }
}

func polls(r *lock.AcquireRequest) { r.Token = lock.Token{} }

// grantingPaths are all ways in which the locks of a set that waits for b come free. Each returns what else is told.
var grantingPaths = map[string]func(w *tasks) []string{
	"a release": func(w *tasks) []string {
		w.waits("one", on("b"), polls)
		w.setWaits("set")
		w.releaseLock("b", "one")
		return nil
	},
	"a release of a set": func(w *tasks) []string {
		w.setWaits("one", func(r *lock.SetRequest) { r.Token = lock.Token{} })
		w.setWaits("set")
		w.releaseSet("one")
		return nil
	},
	"a forced release": func(w *tasks) []string {
		w.waits("one", on("b"), polls)
		w.setWaits("set")
		w.forceLock("b")
		return nil
	},
	"a timer": func(w *tasks) []string {
		w.waits("one", on("b"), polls)
		w.setWaits("set")
		w.deliver(5)
		w.now = w.now.Add(time.Minute + time.Second)
		w.fire()
		return nil
	},
	"the end of a task": func(w *tasks) []string {
		w.waits("zero", on("b"), polls)
		w.waits("one", on("b"))
		delete(w.fake.waits, "one's token")
		w.setWaits("set")
		w.releaseLock("b", "zero")
		return nil
	},
	"the end of an execution": func(w *tasks) []string {
		w.waits("one", on("b"), bound)
		w.deliver(5)
		w.setWaits("set")
		if err := w.coordinator.EndExecution(w.t.Context(), "arn:one", func(context.Context) (bool, error) { return true, nil }); err != nil {
			w.t.Fatal(err)
		}
		return []string{"one's token ok"}
	},
	"the end of the place before it": func(w *tasks) []string {
		w.waits("one", on("b"), polls)
		w.waits("two", on("b"), polls, func(r *lock.AcquireRequest) { r.Wait = 10 * time.Second })
		w.setWaits("set")
		w.now = w.now.Add(30 * time.Second)
		w.releaseLock("b", "one")
		return nil
	},
	"the end of a freeze": func(w *tasks) []string {
		set := lock.RuleParts{Freeze: &lock.Freeze{Until: w.now.Add(time.Minute).UnixMilli(), Reason: "audit"}}
		if _, err := w.coordinator.SetRule(w.t.Context(), lock.RuleRequest{Prefix: "b", Principal: "arn:op", Set: set}); err != nil {
			w.t.Fatal(err)
		}
		w.setWaits("set")
		w.now = w.now.Add(2 * time.Minute)
		if err := w.coordinator.Settle(w.t.Context(), "b"); err != nil { // as the job at the end of the freeze does
			w.t.Fatal(err)
		}
		return nil
	},
	"its own request": func(w *tasks) []string {
		w.setWaits("set")
		return nil
	},
	"its request, repeated": func(w *tasks) []string {
		w.waits("one", on("b"), polls)
		w.setWaits("set")
		w.now = w.now.Add(2 * time.Minute)
		w.setWaits("set")
		return nil
	},
}

func (w *tasks) fire() {
	w.t.Helper()
	x := &Expirer{Coordinator: w.coordinator, Timers: w, Executions: w.fake, Consumer: w.consumer, Log: slog.New(slog.DiscardHandler), Clock: func() time.Time { return w.now }}
	timers := w.fired
	w.fired = nil
	for _, timer := range timers {
		if err := x.Fire(w.t.Context(), timer); err != nil {
			w.t.Fatal(err)
		}
	}
}

// Whatever frees the last lock of a set, its task is told once, by the function that did it or by the stream's consumer, with all leases.
func TestSetOfATaskIsToldOnce(t *testing.T) {
	for name, path := range grantingPaths {
		for _, by := range []string{"the stream", "the function"} {
			w := newTasks(t)
			if by == "the function" {
				w.atOnce()
				w.consumer.Coordinator = w.coordinator
			}
			others := path(w)
			told := append(others, "set's token ok")
			if by == "the function" && !slices.Contains(w.fake.told, "set's token ok") {
				t.Errorf("%s: the function told %v", name, w.fake.told)
			}
			w.deliver(8)
			w.deliver(8)
			slices.Sort(w.fake.told)
			if w.setWant("set set set", told...); t.Failed() {
				t.Fatalf("%s, told by %s", name, by)
			}
			w.checkOutput("set")
			for _, r := range w.stored() {
				for _, h := range r.Holders {
					if first := r.Holders; len(first) != 1 || h.Unclaimed || h.ExpiresAt < w.now.UnixMilli() {
						t.Errorf("%s: %+v", name, h)
					}
				}
			}
		}
	}
}

func (w *tasks) stored() (list []lock.Record) {
	for _, name := range []string{"a", "b", "c"} {
		r, err := w.memory.Get(w.t.Context(), name)
		if err != nil {
			w.t.Fatal(err)
		}
		list = append(list, r.After)
	}
	return list
}

// checkOutput compares the output of a set's callback with the leases that are stored.
func (w *tasks) checkOutput(secret string) {
	w.t.Helper()
	var out wire.SetGranted
	if err := json.Unmarshal([]byte(w.fake.output[secret+"'s token"]), &out); err != nil {
		w.t.Fatal(err)
	}
	key := lock.SetKey([]string{"a", "b", "c"}, secret)
	for i, r := range w.stored() {
		h := r.Holders[key]
		if len(out.Locks) != 3 || out.Locks[i] != (wire.GrantedLock{Lock: string("abc"[i]), Fence: h.Fence, Permits: 1}) {
			w.t.Fatalf("output %+v, stored %+v", out, h)
		}
		if !out.AcquiredAt.Equal(time.UnixMilli(h.AcquiredAt)) || !out.ExpiresAt.Equal(time.UnixMilli(h.ExpiresAt)) || out.Owner != secret || out.Waited != h.Waited() || out.TTL != h.TTL {
			w.t.Errorf("output %+v, stored %+v", out, h)
		}
	}
}

// The writes that a function or the stream's consumer makes of a set's hand-off with a callback: the release, one step of all locks, one attempt, one mark.
func TestWritesOfASetsHandOff(t *testing.T) {
	w := newTasks(t)
	s := w.atOnce()
	w.setWaits("one", func(r *lock.SetRequest) { r.Token = lock.Token{} })
	w.setWaits("set")
	s.causes = nil
	w.releaseSet("one")
	if got := fmt.Sprint(s.causes); got != "[release+release+release settle+settle+settle attempt told]" {
		t.Errorf("%s", got)
	}
}

// Every point at which a function that grants a set may die or fail, and what the stream's consumer does then.
func TestCrashPointsOfASet(t *testing.T) {
	die := func(at lock.Cause) func(*tasks, *brittle) {
		return func(_ *tasks, s *brittle) { s.fails = map[lock.Cause]bool{at: true} }
	}
	type test struct {
		spoil  func(w *tasks, s *brittle)
		atOnce []string // told by the function
		holder string   // of all three locks after the stream's deliveries
		told   []string // in all
	}
	for name, test := range map[string]test{
		"nothing happens":              {func(*tasks, *brittle) {}, []string{"two's token ok"}, "two", []string{"two's token ok"}},
		"before the set is granted":    {die(lock.CauseSettle), nil, "two", []string{"two's token ok"}},
		"before the attempt is stored": {die(lock.CauseAttempt), nil, "two", []string{"two's token ok"}},
		"before the leases are read": {
			func(w *tasks, s *brittle) { s.noReads = 1 }, nil, "two", []string{"two's token ok"},
		},
		"between the attempt and the callback": {func(w *tasks, _ *brittle) { w.failOnce(errReset) }, nil, "two", []string{"two's token ok"}},
		"the callback's answer is lost": {
			func(w *tasks, _ *brittle) { w.fake.after = func(string) error { return errReset } }, []string{"two's token ok"}, "two", []string{"two's token ok"},
		},
		"between the callback and its mark": {die(lock.CauseTold), []string{"two's token ok"}, "two", []string{"two's token ok"}},
		"the task is dead": {
			func(w *tasks, _ *brittle) { delete(w.fake.waits, "two's token") }, []string{"three's token ok"}, "three", []string{"three's token ok"},
		},
		"the task is dead, and the end of its leases fails": {
			func(w *tasks, s *brittle) {
				delete(w.fake.waits, "two's token")
				s.fails = map[lock.Cause]bool{lock.CauseTaskGone: true}
			}, nil, "two", nil,
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
		w.setWaits("one", func(r *lock.SetRequest) { r.Token = lock.Token{} })
		w.setWaits("two")
		w.setWaits("three")
		w.deliver(5)
		test.spoil(w, s)
		w.releaseSet("one") // never an error
		if !slices.Equal(w.fake.told, test.atOnce) {
			t.Errorf("%s: the function told %v, want %v", name, w.fake.told, test.atOnce)
		}
		s.fails = nil
		w.consumer.Coordinator = w.coordinator
		w.deliver(8)
		all := strings.Join([]string{test.holder, test.holder, test.holder}, " ")
		if w.holders() != all || !slices.Equal(w.fake.told, test.told) {
			t.Errorf("%s: held by %q, told %v, want %q, %v", name, w.holders(), w.fake.told, all, test.told)
		}
		for key, h := range w.stored()[0].Holders {
			if !h.Told {
				t.Errorf("%s: it is not stored that the callback of %s was answered", name, key)
			}
		}
	}
}

// A set of which a lock is lost before its callback fails its task, and its other locks pass on: also if it is the first lock, which has the token.
func TestSetThatIsLostBeforeItsCallback(t *testing.T) {
	for name, holders := range map[string]string{"a": "next set set", "b": "- next -", "c": "- - next"} {
		w := newTasks(t)
		w.setWaits("set")
		w.waits("next", on(name), polls)
		w.forceLock(name)
		w.deliver(8)
		w.setWant(holders, "set's token LeaseLost")
	}
}

// A state that is tried again waits with another token: all tokens get the callback, and the lease of a task that is gone stays.
func TestSetOfATaskThatIsRetried(t *testing.T) {
	for _, when := range []string{"while it waits", "after the grant"} {
		w := newTasks(t)
		w.waits("one", on("b"), polls)
		w.setWaits("set")
		again := func() {
			delete(w.fake.waits, "set's token")
			w.setWaits("set", func(r *lock.SetRequest) { r.Token = task("set's new token") })
		}
		if when == "while it waits" {
			again()
			w.releaseLock("b", "one")
		} else {
			w.releaseLock("b", "one")
			again()
		}
		w.deliver(8)
		w.setWant("set set set", "set's new token ok")
	}
}

// A wait that ends without a grant fails its task once, and leaves no place behind.
func TestSetsWaitsThatEnd(t *testing.T) {
	for want, end := range map[string]func(w *tasks){
		FailCancelled: func(w *tasks) { w.releaseSet("set") },
		FailTimedOut: func(w *tasks) {
			w.now = w.now.Add(2 * time.Hour)
			w.fire()
		},
		FailCancelled + " ": func(w *tasks) { // by the end of its execution
			if err := w.coordinator.EndExecution(w.t.Context(), "arn:set", func(context.Context) (bool, error) { return true, nil }); err != nil {
				w.t.Fatal(err)
			}
		},
	} {
		w := newTasks(t)
		for _, name := range []string{"a", "b", "c"} {
			w.waits("one", on(name), polls, func(r *lock.AcquireRequest) { r.TTL = 90 * time.Minute })
		}
		w.setWaits("set", func(r *lock.SetRequest) { r.Execution = "arn:set" })
		w.deliver(5)
		end(w)
		w.deliver(5)
		if !slices.Equal(w.fake.told, []string{"set's token " + strings.TrimSpace(want)}) {
			t.Errorf("%s: told %v", want, w.fake.told)
		}
		for _, r := range w.stored() {
			if r.Waiting != 0 {
				t.Errorf("%s: %+v", want, r)
			}
		}
	}
}

// The leases of a set and its places belong to its execution, whose end ends all of them by one step, and whose checks are one for the set.
func TestSetOfAnExecution(t *testing.T) {
	w := newTasks(t)
	s := w.atOnce()
	w.consumer.Coordinator = w.coordinator
	asked := 0
	w.fake.describe = func(arn string) (bool, error) { asked++; return w.fake.execs[arn], nil }
	w.fake.execs["arn:one"], w.fake.execs["arn:two"] = true, true
	owned := func(r *lock.SetRequest) { r.Execution, r.TTL, r.Wait = "arn:"+r.Owner, time.Hour, 24*time.Hour }
	w.setWaits("one", owned)
	w.setWaits("two", owned)
	w.deliver(5)
	for hour := range 5 {
		for range 62 {
			w.now = w.now.Add(time.Minute)
			w.fire()
			w.deliver(5)
		}
		if asked != hour+1 {
			t.Errorf("asked %d times in %d hours", asked, hour+1)
		}
	}
	w.setWant("one one one", "one's token ok")
	s.causes = nil
	if err := w.coordinator.EndExecution(t.Context(), "arn:one", func(context.Context) (bool, error) { return true, nil }); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(s.causes); got != "[execution-end+execution-end+execution-end settle+settle+settle attempt told]" {
		t.Errorf("%s", got)
	}
	w.deliver(5)
	w.setWant("two two two", "one's token ok", "two's token ok")

	// The event is lost, and the first lock was forced out: the check of another finds the end.
	w.forceLock("a")
	delete(w.fake.execs, "arn:two")
	w.deliver(5)
	w.now = w.now.Add(time.Hour + time.Minute)
	w.fire()
	w.setWant("- - -", "one's token ok", "two's token ok")
}

// A callback that the stream lost is sent by the check of the set's execution, of whichever lock it is.
func TestCheckTellsAnUntoldSet(t *testing.T) {
	for _, name := range []string{"a", "c"} {
		w := newTasks(t)
		w.fake.execs["arn:set"] = true
		w.setWaits("set", func(r *lock.SetRequest) { r.Execution = "arn:set" })
		w.deliver(1)
		w.fake.told, w.fake.waits["set's token"] = nil, true
		x, _, _ := w.expirer()
		key := lock.SetKey([]string{"a", "b", "c"}, "set")
		r := w.stored()[slices.Index([]string{"a", "b", "c"}, name)]
		untold(w, key)
		w.now = w.now.Add(3 * time.Minute)
		if err := x.Fire(t.Context(), Timer{GrantRef: lock.GrantRef{Lock: name, Key: key, Fence: r.Holders[key].Fence}}); err != nil {
			t.Fatal(err)
		}
		w.setWant("set set set", "set's token ok")
	}
}

// untold makes a grant one whose callback was never answered.
func untold(w *tasks, key lock.LeaseKey) {
	w.t.Helper()
	from := w.stored()[0]
	to := from
	l := from.Holders[key]
	l.Told, l.Attempted = false, false
	to.Holders = map[lock.LeaseKey]lock.Lease{key: l}
	if _, err := w.memory.Apply(w.t.Context(), "a", lock.Command{Kind: lock.Swap, Effect: lock.Become{From: from, To: to}, Stamp: lock.Stamp{Cause: lock.CauseTold, TTL: from.TTL}}); err != nil {
		w.t.Fatal(err)
	}
}
