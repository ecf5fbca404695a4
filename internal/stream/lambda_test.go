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
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

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
	resp, err := r.HandleStream(Decoder{Record: dynamo.Decode, Ended: dynamo.DecodeEnded})(t.Context(), event)
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
	if resp, _ = r.HandleStream(Decoder{Record: dynamo.Decode, Ended: dynamo.DecodeEnded})(t.Context(), event); len(resp.BatchItemFailures) != 3 || resp.BatchItemFailures[0].ItemIdentifier != "300000000000000000001" {
		t.Errorf("failures %+v", resp)
	}
}

func newQueue(do doer) *Queue {
	return &Queue{URL: "http://sqs.test/timers", Clock: func() time.Time { return time.UnixMilli(0) }, Client: sqs.New(sqs.Options{
		Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("a", "b", ""), HTTPClient: do,
		BaseEndpoint: aws.String("http://sqs.test"), Retryer: aws.NopRetryer{}, DisableMessageChecksumValidation: true,
	})}
}

// Timers go ten a request, with delays rounded up to seconds and cut at 15 minutes; those refused are told.
func TestQueueArm(t *testing.T) {
	var delays []int
	requests := 0
	q := newQueue(func(r *http.Request) (*http.Response, error) {
		var in struct {
			Entries []struct {
				MessageBody  string
				DelaySeconds int
			}
		}
		body, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(body, &in); err != nil {
			t.Error(err)
		}
		requests++
		for _, e := range in.Entries {
			delays = append(delays, e.DelaySeconds)
			job, err := decodeJob(e.MessageBody)
			timer := job.Timer
			if err != nil || timer.Lock != "a" || timer.Key != "k" || timer.Fence != 7 {
				t.Errorf("message %s: %v", e.MessageBody, err)
			}
		}
		if requests == 2 {
			return answer(200, `{"Successful":[],"Failed":[{"Id":"1","Code":"InternalError","SenderFault":false}]}`), nil
		}
		if requests == 3 {
			return answer(503, `{}`), nil
		}
		return answer(200, `{"Successful":[],"Failed":[]}`), nil
	})
	var timers []Timer
	for i := range 22 {
		timers = append(timers, Timer{"a", "k", 7, time.UnixMilli([]int64{-5000, 0, 1, 1000, 1001, 899_001, 900_001, 86_400_000}[i%8])})
	}
	errs := q.Arm(t.Context(), timers)
	if requests != 3 || !slices.Equal(delays[:8], []int{0, 0, 1, 1, 2, 900, 900, 900}) {
		t.Errorf("%d requests, delays %v", requests, delays[:8])
	}
	var refused []int
	for i, err := range errs {
		if err != nil {
			refused = append(refused, i)
		}
	}
	if !slices.Equal(refused, []int{11, 20, 21}) {
		t.Errorf("refused %v", refused)
	}
}

func TestQueueBury(t *testing.T) {
	var body string
	q := newQueue(func(r *http.Request) (*http.Response, error) {
		var in struct{ MessageBody string }
		data, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(data, &in); err != nil {
			t.Error(err)
		}
		body = in.MessageBody
		return answer(200, `{"MessageId":"1"}`), nil
	})
	if err := q.Bury(t.Context(), Write{Lock: "a", Sequence: "7", Poison: io.EOF, Raw: []byte(`{"dynamodb":{}}`)}); err != nil {
		t.Fatal(err)
	}
	if body != `{"problem":"EOF","lock":"a","sequence":"7","record":{"dynamodb":{}}}` {
		t.Errorf("message %s", body)
	}
	if err := q.Bury(t.Context(), Write{Sequence: "8", Poison: io.EOF, Raw: make([]byte, 300*1024)}); err != nil || strings.Contains(body, "record") {
		t.Errorf("message %s, %v", body, err)
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
