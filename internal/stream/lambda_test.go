package stream

import (
	"encoding/json"
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

// The stream function on an event as Lambda sends it: a grant, a waiter's item, a record that nobody can read, one whose
// holder is broken, a release, and a purge.
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

// The expire function: done, moved on, no timer, and a store that fails.
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
