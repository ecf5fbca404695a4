package stream

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	lambdaevents "github.com/aws/aws-lambda-go/events"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// The stream function on an event as Lambda sends it: a grant, a waiter's item, a record that cannot be read, one with a broken lease, a
// release, and a purge.
func TestHandleStream(t *testing.T) {
	raw, err := os.ReadFile("../../functions/stream/event.json")
	if err != nil {
		t.Fatal(err)
	}
	var event streamEvent
	if err := json.Unmarshal(raw, &event); err != nil {
		t.Fatal(err)
	}
	r := newRig()
	resp, err := r.HandleStream(dynamo.ReadRecord)(t.Context(), event)
	if err != nil || len(resp.BatchItemFailures) != 0 {
		t.Fatalf("%+v, %v", resp, err)
	}
	want := []string{"deploy:prod/1772366400123456/acquired", "report:daily/1772366300000000/expired", "deploy:prod/1772366400123456/released"}
	if slices.Sort(r.bus.taken); !slices.Equal(r.bus.taken, []string{want[0], want[2], want[1]}) {
		t.Errorf("taken %v", r.bus.taken)
	}
	var problems []string
	for _, w := range r.dead.buried {
		problems = append(problems, w.Sequence+" "+w.Poison.Error())
	}
	if len(problems) != 3 || !strings.HasPrefix(problems[0], "300000000000000000003 new image: attribute \"rev\"") ||
		!strings.HasPrefix(problems[1], "300000000000000000004 ") || !strings.HasPrefix(problems[2], "300000000000000000005 keys") {
		t.Errorf("buried %q", problems)
	}
	r.bus.refuse = func(int, Entry) error { return http.ErrServerClosed }
	if resp, _ = r.HandleStream(dynamo.ReadRecord)(t.Context(), event); len(resp.BatchItemFailures) != 3 || resp.BatchItemFailures[0].ItemIdentifier != "300000000000000000001" {
		t.Errorf("failures %+v", resp)
	}
}

// Timers of the expire function: expired, renewed, unreadable, and with a store that fails.
func TestHandleTimers(t *testing.T) {
	store := &lock.Memory{}
	now := time.UnixMilli(1_000_000)
	c, err := lock.New(lock.Config{Store: store, Clock: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	l, err := c.Acquire(t.Context(), lock.AcquireRequest{Lock: "a", Secret: "s", TTL: time.Second, Capacity: 1, Permits: 1})
	if err != nil {
		t.Fatal(err)
	}
	r := newRig()
	x := &Expirer{Coordinator: c, Timers: r.timers, Log: r.Log}
	body, _ := json.Marshal(timerMessage{1, "a", lock.KeyOf("a", "s"), l.Lease.Fence})
	gone, _ := json.Marshal(timerMessage{1, "b", lock.KeyOf("b", "s"), 5})
	event := lambdaevents.SQSEvent{Records: []lambdaevents.SQSMessage{
		{MessageId: "early", Body: string(body)}, {MessageId: "gone", Body: string(gone)}, {MessageId: "junk", Body: `{"v":1}`}, {MessageId: "text", Body: `?`},
	}}
	resp, err := x.HandleTimers(t.Context(), event)
	var failed []string
	for _, f := range resp.BatchItemFailures {
		failed = append(failed, f.ItemIdentifier)
	}
	if err != nil || !slices.Equal(failed, []string{"junk", "text"}) || len(r.timers.armed) != 1 {
		t.Errorf("failed %v, armed %v, %v", failed, r.timers.armed, err)
	}
	now = now.Add(2 * time.Second)
	if resp, _ = x.HandleTimers(t.Context(), lambdaevents.SQSEvent{Records: event.Records[:1]}); len(resp.BatchItemFailures) != 0 {
		t.Errorf("failures %+v", resp)
	}
	if s, _ := c.Status(t.Context(), "a"); len(s.Holders) != 0 {
		t.Errorf("still held: %+v", s)
	}
	r.timers.err = io.ErrClosedPipe
	if _, err := c.Acquire(t.Context(), lock.AcquireRequest{Lock: "a", Secret: "t", TTL: time.Second, Capacity: 1, Permits: 1}); err != nil {
		t.Fatal(err)
	}
	rec, _ := store.Get(t.Context(), "a")
	body, _ = json.Marshal(timerMessage{1, "a", lock.KeyOf("a", "t"), rec.After.Fence})
	if resp, _ = x.HandleTimers(t.Context(), lambdaevents.SQSEvent{Records: []lambdaevents.SQSMessage{{MessageId: "m", Body: string(body)}}}); len(resp.BatchItemFailures) != 1 {
		t.Error("a timer that could not be set again was lost")
	}
}

// A record on which decoding panics keeps its sequence number, for its dead letter and for the reply.
func TestPanicWhileReadingKeepsTheSequence(t *testing.T) {
	raw := json.RawMessage(`{"dynamodb":{"SequenceNumber":"42"}}`)
	w, ok := readSafely(raw, func(json.RawMessage) (lock.Write, string, bool, error) { panic("x") })
	if !ok || w.Sequence != "42" || w.Poison == nil {
		t.Errorf("%v, sequence %q, %v", ok, w.Sequence, w.Poison)
	}
}

// Only a final status ends leases, and only if Step Functions confirms it.
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
