package redrive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"
	streamtypes "github.com/aws/aws-sdk-go-v2/service/dynamodbstreams/types"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/poller"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

const execution = "arn:aws:states:us-east-1:1:execution:A:b"

// everyLetter makes a message of every kind, and the state of the table to which it belongs. Some are due, the others pointless.
func everyLetter(t *testing.T, k *kit) {
	t.Helper()
	k.acquire("told", "a", task("told-1"))
	ref, l := k.grant("told")
	deliver := stream.Job{Kind: stream.JobDeliver, Lock: "told", Key: ref.Key, Lease: l}
	if _, err := k.Coordinator.MarkAttempt(t.Context(), ref, l.Tokens, lock.Record{}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Coordinator.MarkTold(t.Context(), ref, l.Tokens, lock.Record{}); err != nil {
		t.Fatal(err)
	}
	k.bury("tell-told", k.job(deliver))

	k.acquire("untold", "a", task("untold-1"))
	ref, l = k.grant("untold")
	k.bury("tell-untold", k.job(stream.Job{Kind: stream.JobDeliver, Lock: "untold", Key: ref.Key, Lease: l}))
	gone := l
	gone.Tokens, gone.Fence = lock.Tokens{{Kind: lock.TaskToken, Text: "gone-1"}}, 7
	k.bury("tell-gone", k.job(stream.Job{Kind: stream.JobDeliver, Lock: "untold", Key: "k", Lease: gone}))
	k.bury("fail", k.job(stream.Job{Kind: stream.JobFail, Lock: "untold", Tokens: gone.Tokens, Code: stream.FailTimedOut, Cause: "c"}))

	k.acquire("dead", "a", func(r *lock.AcquireRequest) { r.TTL = time.Second })
	k.acquire("dead", "b", waits)
	ref, _ = k.grant("dead")
	timer, err := stream.EncodeTimer(stream.Timer{GrantRef: ref})
	if err != nil {
		t.Fatal(err)
	}
	k.send("timer", string(timer)) // as SQS moves it after a hundred receives
	over := ref
	over.Fence++
	if timer, err = stream.EncodeTimer(stream.Timer{GrantRef: over}); err != nil {
		t.Fatal(err)
	}
	k.send("timer-over", string(timer))
	k.bury("settled", k.job(stream.Job{Kind: stream.JobSettle, Lock: "told"}))

	event := events.Released{Lease: events.Lease{ID: events.ID("dead", 9, events.TypeReleased), Lock: "dead", Fence: 9}}
	k.bury("publish", k.job(stream.Job{Kind: stream.JobPublish, Lock: "dead", Event: stream.Entry{
		DetailType: events.TypeReleased, Detail: []byte(mustJSON(t, event)), Time: time.Now(), Lock: "dead",
	}}))

	k.acquire("bound", "a", of(execution))
	k.over[execution] = true
	status := map[string]any{"detail-type": "Step Functions Execution Status Change", "detail": stream.ExecutionEnd{Execution: execution, Status: "ABORTED"}}
	k.send("end", mustJSON(t, map[string]any{"version": "1.0", "requestContext": map[string]any{"condition": "RetriesExhausted"}, "requestPayload": status}))
	k.send("end-of-rule", mustJSON(t, status))
	k.acquire("running", "a", of(execution+"-2"))
	k.bury("end-running", k.job(stream.Job{Kind: stream.JobEnd, Execution: stream.ExecutionEnd{Execution: execution + "-2", Status: "FAILED"}}))

	record := `{"eventName":"MODIFY","dynamodb":{"SequenceNumber":"5","Keys":{"pk":{"S":"dead"},"sk":{"S":"lock"}},"OldImage":{"rev":{"N":"1"}},"NewImage":{"rev":{"N":"2"},"cause":{"S":"acquire"},"fence":{"N":"3"},"holders":{"M":{"k":{"M":{"fen":{"N":"3"},"exp":{"N":"9"},"tms":{"N":"1"},"cap":{"N":"1"}}}}}}}}`
	k.bury("record", stream.Write{Write: lock.Write{Lock: "dead"}, Sequence: "5", Raw: []byte(record), Poison: errors.New("an older version could not read it")})
	k.bury("record-unreadable", stream.Write{Write: lock.Write{Lock: "told"}, Sequence: "6", Raw: []byte(`{"dynamodb":{"Keys":{"pk":{"S":"told"},"sk":{"S":"lock"}},"NewImage":{"rev":{"S":"x"}}}}`), Poison: errors.New("x")})
	k.bury("record-large", stream.Write{Write: lock.Write{Lock: "told"}, Sequence: "7", Raw: []byte(`no JSON`), Poison: errors.New("x")})
	k.bury("job-unknown", stream.Write{Write: lock.Write{Lock: "told"}, Raw: []byte(`{"v":2,"kind":"compact","lock":"told"}`), Poison: errors.New("x")})
	k.send("noise", "hello")
	k.send("json", `{"a":1}`)
}

// Each kind of dead letter is handled by what the table says. The messages of what was done or is pointless are deleted, and no others; a run that
// only shows changes nothing; and a second run finds nothing more to do.
func TestLetters(t *testing.T) {
	k := newKit(t)
	everyLetter(t, k)
	k.ahead = 2 * time.Second // until the lease of "dead" is over
	due := []string{"tell-untold", "tell-gone", "fail", "timer", "publish", "end", "end-of-rule", "record"}
	pointless := []string{"tell-told", "timer-over", "settled", "end-running"}
	kept := []string{"record-unreadable", "record-large", "job-unknown", "noise", "json"}
	states := func(a Answer) map[string]State {
		all := map[string]State{}
		for _, o := range a.Outcomes {
			all[o.Message] = o.State
		}
		return all
	}
	before := fmt.Sprint(k.record("dead"), k.record("untold"), k.record("bound"))
	shown := k.do(Request{Work: WorkLetters})
	for state, list := range map[State][]string{Due: due, Pointless: pointless, Kept: kept} {
		for _, id := range list {
			if got := states(shown)[id]; got != state {
				t.Errorf("%s is %s, want %s:\n%s", id, got, state, mustJSON(t, shown))
			}
		}
	}
	if n := len(due) + len(pointless) + len(kept); len(shown.Outcomes) != n || len(k.letters) != n {
		t.Errorf("%d outcomes and %d messages, want %d", len(shown.Outcomes), len(k.letters), n)
	}
	if after := fmt.Sprint(k.record("dead"), k.record("untold"), k.record("bound")); after != before || len(k.told)+len(k.events)+len(k.timers) != 0 {
		t.Errorf("showing changed something: %v, %v, %v", k.told, k.events, k.timers)
	}
	for _, l := range k.letters {
		if l.Receipt != "" {
			t.Errorf("%s is still hidden", l.ID)
		}
	}

	k.down = true
	failed := states(k.do(Request{Work: WorkLetters, Apply: true}))
	for _, id := range []string{"tell-untold", "tell-gone", "fail", "publish"} {
		if failed[id] != Failed || !slices.ContainsFunc(k.letters, func(l stream.Letter) bool { return l.ID == id }) {
			t.Errorf("%s while the services are down: %s", id, failed[id])
		}
	}
	k.down = false
	applied := states(k.do(Request{Work: WorkLetters, Apply: true}))
	for _, id := range []string{"tell-untold", "tell-gone", "fail", "publish"} {
		if applied[id] != Done {
			t.Errorf("%s is %s", id, applied[id])
		}
	}
	if len(k.letters) != len(kept) {
		t.Errorf("left: %+v", k.letters)
	}
	slices.Sort(k.told)
	if told := strings.Join(k.told, ", "); told != "gone-1 LeaseLost, gone-1 WaitTimedOut, untold-1 granted" {
		t.Errorf("told: %s", told)
	}
	if ref, l := k.grant("dead"); ref.Key != lock.KeyOf("dead", "b") || !l.Unclaimed {
		t.Errorf("the waiter was not granted the lock of the dead holder: %v", l)
	}
	if r := k.record("bound"); len(r.Holders) != 0 {
		t.Errorf("the lease of the ended execution is still there: %v", r)
	}
	if len(k.record("running").Holders) != 1 {
		t.Error("the lease of a running execution was ended")
	}
	ids := []string{}
	for _, e := range k.events {
		var d struct{ ID string }
		_ = json.Unmarshal(e.Detail, &d)
		ids = append(ids, d.ID)
	}
	if want := []string{"dead/9/released", "dead/3/acquired"}; !slices.Contains(ids, want[0]) || !slices.Contains(ids, want[1]) {
		t.Errorf("published %v, want %v", ids, want)
	}
	again := k.do(Request{Work: WorkLetters, Apply: true})
	for _, o := range again.Outcomes {
		if o.State != Kept || o.Fix == "" {
			t.Errorf("again: %+v", o)
		}
	}
	if k.do(Request{Work: WorkLetters, Apply: true, Discard: true}); len(k.letters) != 0 {
		t.Errorf("after a discard: %v", k.letters)
	}
}

// A batch of the stream that Lambda gave up is read again and handled, as long as the stream has it.
func TestLostRangeIsReadAgain(t *testing.T) {
	k := newKit(t)
	streams := dynamodbstreams.New(dynamodbstreams.Options{
		Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""), BaseEndpoint: k.db.Options().BaseEndpoint,
	})
	k.Range = func(ctx context.Context, r poller.Range) ([]stream.Write, error) {
		return poller.ReadRange(ctx, streams, r)
	}
	k.acquire("before", "x")
	k.acquire("a", "x", task("t1"))
	k.acquire("a", "y", task("t2"))
	k.acquire("after", "x")
	table, err := k.db.DescribeTable(t.Context(), &dynamodb.DescribeTableInput{TableName: &k.table})
	if err != nil {
		t.Fatal(err)
	}
	r, list := allOf(t, streams, *table.Table.LatestStreamArn)
	r.First, r.Last = list[1], list[len(list)-2]
	k.send("range", mustJSON(t, map[string]any{"DDBStreamBatchInfo": map[string]any{
		"shardId": r.Shard, "startSequenceNumber": r.First, "endSequenceNumber": r.Last, "streamArn": r.Stream, "batchSize": len(list) - 2,
		"approximateArrivalOfFirstRecord": "2026-11-26T06:00:00Z", "approximateArrivalOfLastRecord": "2026-11-26T06:00:01Z",
	}}))
	if a := k.do(Request{Work: WorkLetters}); short(a) != "range range due" || len(a.Lost) != 0 {
		t.Fatalf("%+v", a)
	}
	if a := k.do(Request{Work: WorkLetters, Apply: true}); short(a) != "range range done deleted" {
		t.Fatalf("%+v", a)
	}
	if len(k.events) != 1 || !strings.Contains(string(k.events[0].Detail), `"lock":"a"`) || len(k.timers) == 0 || !slices.Contains(k.told, "t1 granted") || len(k.told) != 1 {
		t.Errorf("events %v, timers %v, told %v", k.events, k.timers, k.told)
	}
}

// allOf reads the only shard of a stream with records, and returns the sequence numbers of its records of locks' items.
func allOf(t *testing.T, streams *dynamodbstreams.Client, arn string) (r poller.Range, list []string) {
	t.Helper()
	out, err := streams.DescribeStream(t.Context(), &dynamodbstreams.DescribeStreamInput{StreamArn: &arn})
	if err != nil {
		t.Fatal(err)
	}
	for _, shard := range out.StreamDescription.Shards {
		it, err := streams.GetShardIterator(t.Context(), &dynamodbstreams.GetShardIteratorInput{
			StreamArn: &arn, ShardId: shard.ShardId, ShardIteratorType: streamtypes.ShardIteratorTypeTrimHorizon,
		})
		if err != nil {
			t.Fatal(err)
		}
		page, err := streams.GetRecords(t.Context(), &dynamodbstreams.GetRecordsInput{ShardIterator: it.ShardIterator})
		if err != nil {
			t.Fatal(err)
		}
		for _, record := range page.Records {
			list = append(list, aws.ToString(record.Dynamodb.SequenceNumber))
		}
		if len(list) > 0 {
			return poller.Range{Stream: arn, Shard: aws.ToString(shard.ShardId)}, list
		}
	}
	t.Fatal("the stream has no records")
	return r, nil
}

// Once the stream has lost the records of a batch, its dead letter stays until a sweep of the table was given its window, and the answer says that
// events are lost.
func TestTrimmedRangeWaitsForASweep(t *testing.T) {
	k := newKit(t)
	k.Range = func(context.Context, poller.Range) ([]stream.Write, error) { return nil, poller.ErrTrimmed }
	k.acquire("a", "x")
	from := k.clock().Add(-time.Minute)
	k.send("range", mustJSON(t, map[string]any{"DDBStreamBatchInfo": map[string]any{
		"shardId": "s", "startSequenceNumber": "1", "endSequenceNumber": "9", "streamArn": "arn", "batchSize": 9,
		"approximateArrivalOfFirstRecord": from, "approximateArrivalOfLastRecord": k.clock(),
	}}))
	a := k.do(Request{Work: WorkLetters, Apply: true, Swept: []string{"another"}})
	if short(a) != "range range kept" || len(a.Lost) != 1 || len(a.Outcomes[0].Lost) != 1 {
		t.Fatalf("%+v", a)
	}
	swept := k.do(Request{Work: WorkSweep, Apply: true, Lost: a.Lost})
	if short(swept) != "a event kept" || !strings.Contains(swept.Outcomes[0].Lost[0], "Lock Acquired") || len(k.timers) != 1 || swept.Timers != 1 {
		t.Errorf("%+v, timers %v", swept, k.timers)
	}
	if a := k.do(Request{Work: WorkLetters, Apply: true, Swept: []string{a.Lost[0].Message}}); short(a) != "range range done deleted" || len(a.Outcomes[0].Lost) != 1 {
		t.Errorf("%+v", a)
	}
}

// Requests that make no sense are refused by the name of what is wrong.
func TestRequests(t *testing.T) {
	r := &Redriver{}
	for body, says := range map[string]string{
		`{}`: "work", `{"work":"letters"}`: "dead-letter queue", `{"work":"sweep","limit":-1}`: "limit", `{"Records":[]}`: "Records", `x`: "cannot be read",
	} {
		if _, err := r.Handle(t.Context(), []byte(body)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v; want %q", body, err, says)
		}
	}
}
