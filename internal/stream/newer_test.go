package stream

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

const newerKind = lock.TokenKind("newer")

// newerToken lets a task of a newer version wait.
func newerToken(r *lock.AcquireRequest) { r.Token.Kind = newerKind }

// older is a consumer of this version, which knows the tokens of Step Functions; newer is one that knows the other kind, too.
func (w *tasks) older() { w.consumer.Callbacks = ByKind{lock.TaskToken: w.fake} }
func (w *tasks) newer() {
	w.consumer.Callbacks = ByKind{lock.TaskToken: w.fake, newerKind: w.fake}
}

// A grant to a task of a newer version stays as it is: no attempt is stored, so that the newer version's is the first, and the lease does not
// end. Its callback is deferred until a newer version sends it.
func TestNewerTokenIsLeftToTheNewerVersion(t *testing.T) {
	for name, dead := range map[string]bool{"a task that waits": false, "a task that is gone": true} {
		t.Run(name, func(t *testing.T) {
			w := newTasks(t)
			log := logged(w.consumer)
			w.older()
			x, backlog, _ := w.expirer()
			w.waits("one", newerToken)
			w.waits("two")
			before := storedA(w)
			w.deliver(1)
			if r := storedA(w); r.Rev != before.Rev || fmt.Sprint(backlog.kinds()) != "[tell a]" {
				t.Errorf("%d writes, deferred %v", r.Rev-before.Rev, backlog.kinds())
			}
			if !strings.Contains(log.String(), "left to a newer version") || counted(log, CallbackUndeliverable) != 0 {
				t.Errorf("log: %s", log)
			}
			for range 3 { // this version's expire function
				for _, j := range backlog.take() {
					w.message(x, j)
				}
			}
			w.want("one")
			if dead {
				delete(w.fake.waits, "one's token")
			}
			w.newer()
			for _, j := range backlog.take() {
				w.message(x, j)
			}
			w.deliver(1)
			if dead {
				w.want("two", "two's token ok") // it was a first attempt
			} else {
				w.want("one", "one's token ok")
			}
		})
	}
}

// Tokens of a newer kind do not make the callbacks of a batch wait, as those of a service that fails do. A wait that ended is deferred, too.
func TestNewerTokensDelayNoOthers(t *testing.T) {
	w := newTasks(t)
	w.older()
	_, backlog, _ := w.expirer()
	w.waits("one", newerToken)
	batch := w.writes
	for range maxCallbackFailures {
		batch = append(batch, batch[0])
	}
	ended := lock.Waiter{Terms: lock.Terms{Tokens: lock.Tokens{{Kind: newerKind, Text: "x"}, task("y")}}}
	w.fake.waits["y"] = true
	batch = append(batch, Write{Write: lock.Write{Lock: "b", Ended: []lock.Waiter{ended}}, Sequence: "b"})
	if failed := w.consumer.Consume(t.Context(), batch); failed != nil {
		t.Errorf("failed %v", failed)
	}
	w.want("one", "y WaitTimedOut")
	if got := fmt.Sprint(backlog.kinds()); got != "[fail b tell a tell a tell a tell a]" {
		t.Errorf("deferred %s", got)
	}
}

// Without a backlog the record goes to the dead-letter queue, and the shard goes on.
func TestNewerTokenWithoutBacklog(t *testing.T) {
	w := newTasks(t)
	w.older()
	dead := &fakeDeadLetter{}
	w.consumer.DeadLetter = dead
	w.waits("one", newerToken)
	if failed := w.consumer.Consume(t.Context(), w.writes); failed != nil || len(dead.buried) != 1 || !errors.Is(dead.buried[0].Poison, ErrUnknownKind) {
		t.Fatalf("failed %v, buried %+v", failed, dead.buried)
	}
	j, err := DecodeJob(string(dead.buried[0].Raw))
	if err != nil || j.Kind != JobDeliver || j.Lease.Tokens.List()[0].Kind != newerKind {
		t.Errorf("buried %+v, %v", j, err)
	}
	w.want("one")
}

// A check of an execution goes on although this version cannot send the callback of its lease.
func TestNewerTokenIsChecked(t *testing.T) {
	w := newTasks(t)
	w.older()
	x, _, _ := w.expirer()
	w.fake.execs["arn:one"] = true
	w.waits("one", bound, newerToken)
	timer := w.dueTimer()
	w.fired = nil
	w.now = w.now.Add(time.Hour)
	if err := x.Fire(t.Context(), timer); err != nil || len(w.fired) != 1 {
		t.Errorf("%v, timers %v", err, w.fired)
	}
	if _, l := oneHolder(storedA(w)); l.Attempted || l.Told {
		t.Errorf("attempted %v, told %v", l.Attempted, l.Told)
	}
	w.fake.execs["arn:one"] = false
	w.now = w.now.Add(time.Hour)
	if err := x.Fire(t.Context(), timer); err != nil || w.holder() != "" {
		t.Errorf("%v, held by %q", err, w.holder())
	}
}

func oneHolder(r lock.Record) (lock.LeaseKey, lock.Lease) {
	for k, l := range r.Holders {
		return k, l
	}
	return "", lock.Lease{}
}

// A job of a newer version comes through this version's expire function as it was: of a kind that this version does not know, or with further
// fields.
func TestNewerJobsAreKept(t *testing.T) {
	w := newTasks(t)
	x, backlog, dead := w.expirer()
	w.consumer.Bus = &away{}
	for body, kept := range map[string][]string{
		`{"v":2,"kind":"newer","lock":"a","since":1,"tries":2,"lease":"k","what":{"deep":[1,"x"]},"event":7}`:                            {"lease", "what", "event"},
		`{"v":1,"kind":"publish","lock":"a","event":{"detail_type":"d","detail":{"newer":1},"time":"2026-11-26T00:00:00Z"},"newer":"x"}`: {"newer", "event"},
	} {
		w.now = w.now.Add(time.Hour) // the bus pauses
		var sent map[string]json.RawMessage
		if err := json.Unmarshal([]byte(body), &sent); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(body, `"since"`) {
			body = strings.Replace(body, `"since":1`, fmt.Sprintf(`"since":%d`, w.now.UnixMilli()), 1)
		}
		for range 2 {
			if failed := handleMessages(t, x, body); failed != nil || len(backlog.jobs) != 1 {
				t.Fatalf("%s: failed %v, deferred %v", body, failed, backlog.kinds())
			}
			out, err := EncodeJob(backlog.take()[0])
			if err != nil {
				t.Fatal(err)
			}
			body = string(out)
		}
		var got map[string]json.RawMessage
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err)
		}
		for _, field := range kept {
			if string(got[field]) != string(sent[field]) {
				t.Errorf("field %s of %s", field, body)
			}
		}
		if string(got["lock"]) != `"a"` || string(got["kind"]) != string(sent["kind"]) || string(got["tries"]) == string(sent["tries"]) {
			t.Errorf("deferred as %s", body)
		}
	}
	w.now = w.now.Add(2 * giveUpAfter) // nothing newer came: it is kept for an operator, whole
	body := fmt.Sprintf(`{"v":1,"kind":"newer","lock":"a","since":%d,"what":5}`, w.now.Add(-giveUpAfter).UnixMilli())
	if failed := handleMessages(t, x, body); failed != nil || len(dead.buried) != 1 || !strings.Contains(string(dead.buried[0].Raw), `"what":5`) {
		t.Errorf("failed %v, buried %+v", failed, dead.buried)
	}
}

// What a write with a cause of a newer version did is published by what it changed. A lease that ended before its expiry was released; the
// others expired, unless the write shows nothing of how they ended.
func TestNewerCauses(t *testing.T) {
	const cause = lock.Cause("newer")
	lease := func(fence, expires int64) lock.Lease {
		return lock.Lease{Terms: lock.Terms{Owner: fmt.Sprint(fence), Permits: 1, Capacity: 3}, Fence: fence, AcquiredAt: 1, ExpiresAt: expires}
	}
	before := lock.Record{Rev: 1, Fence: 3, Capacity: 3, Holders: map[lock.LeaseKey]lock.Lease{"one": lease(1, 5000), "two": lease(2, 5000), "three": lease(3, 90_000)}}
	after := lock.Record{Rev: 2, Fence: 4, Capacity: 3, Cause: cause, Holders: map[lock.LeaseKey]lock.Lease{"three": lease(3, 90_000), "four": lease(4, 90_000)}}
	for retired, want := range map[lock.Retired]string{
		{Key: "one", Fence: 1, At: 4000, Cause: cause}: "[Lock Released 1 4 Lock Expired 2 5 Lock Acquired 4 0]",
		{Key: "one", Fence: 1, At: 6000, Cause: cause}: "[Lock Expired 1 5 Lock Expired 2 5 Lock Acquired 4 0]",
		{}: "[Lock Expired 1 5 Lock Expired 2 5 Lock Acquired 4 0]",
	} {
		after.Retired = retired
		w := Write{Write: lock.Write{Lock: "a", Before: before, After: after}}
		var got []string
		for _, e := range eventsOf(w) {
			end := int64(0)
			switch e := e.(type) {
			case events.Released:
				end = e.EndedAt.Unix()
			case events.Expired:
				end = e.EndedAt.Unix()
			}
			got = append(got, fmt.Sprint(e.DetailType(), " ", e.Subject().Fence, " ", end))
		}
		if fmt.Sprint(got) != want {
			t.Errorf("retired %+v: %v, want %s", retired, got, want)
		}
		if timed := w.Effects(true).Timed; len(timed) != 1 || timed[0].Key != "four" {
			t.Errorf("timers %+v", timed)
		}
	}
	after.Waiting, before.Waiting = 1, 1
	if w := (lock.Write{Lock: "a", Before: before, After: after}); !w.Effects(true).Unsettled || !w.OfQueue() {
		t.Error("a write with a newer cause that leaves permits free is not settled")
	}
	if !reflect.DeepEqual(lock.Changes(before, before), []lock.Change(nil)) {
		t.Error("a write that changes no lease has changes")
	}
}
