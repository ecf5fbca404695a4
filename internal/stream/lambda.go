package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	lambdaevents "github.com/aws/aws-lambda-go/events"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// A Reader reads a stream record as Lambda sends it; package dynamo has it. sequence is the record's number in the stream. ok is
// false if the record is about no lock. An error says why the record cannot be read.
type Reader func(raw json.RawMessage) (w lock.Write, sequence string, ok bool, err error)

// HandleStream is the function behind the table's stream. It answers the sequence numbers that must come again, for an
// event source mapping with ReportBatchItemFailures.
func (c *Consumer) HandleStream(read Reader) func(context.Context, streamEvent) (lambdaevents.DynamoDBEventResponse, error) {
	return func(ctx context.Context, event streamEvent) (resp lambdaevents.DynamoDBEventResponse, err error) {
		ctx, cancel := withMargin(ctx)
		defer cancel()
		var batch []Write
		for _, raw := range event.Records {
			if w, ok := readSafely(raw, read); ok {
				batch = append(batch, w)
			}
		}
		resp.BatchItemFailures = []lambdaevents.DynamoDBBatchItemFailure{}
		for _, sequence := range c.Consume(ctx, batch) {
			resp.BatchItemFailures = append(resp.BatchItemFailures, lambdaevents.DynamoDBBatchItemFailure{ItemIdentifier: sequence})
		}
		return resp, nil
	}
}

// answerMargin is what is left of a function's time to say which records must come again; if Lambda ends the function
// first, all come again.
const answerMargin = 2 * time.Second

func withMargin(ctx context.Context) (context.Context, context.CancelFunc) {
	return before(ctx, answerMargin)
}

// A streamEvent is an event of the stream whose records are read one by one, so that one that is broken spoils no other.
type streamEvent struct {
	Records []json.RawMessage `json:"Records"`
}

// readSafely reads one record. A panic while reading makes it a poisoned write. ok is false if it is about no lock.
func readSafely(raw json.RawMessage, read Reader) (w Write, ok bool) {
	w = Write{Raw: raw}
	err := safely(func() error {
		w.Write, w.Sequence, ok, w.Poison = read(raw)
		return nil
	})
	if err != nil {
		return Write{Raw: raw, Sequence: w.Sequence, Poison: err}, true
	}
	return w, ok
}

// Handle is the expire function: behind the timers' queue, and behind the rule on executions. An event of an execution that cannot
// be handled now goes to the queue: Lambda would try an asynchronous event twice more, and then drop it.
func (x *Expirer) Handle(ctx context.Context, raw json.RawMessage) (any, error) {
	var kind struct {
		DetailType string `json:"detail-type"`
	}
	if err := json.Unmarshal(raw, &kind); err == nil && kind.DetailType != "" {
		var event ExecutionEvent
		if err := json.Unmarshal(raw, &event); err != nil {
			return nil, err
		}
		return nil, x.handleOrPutOff(ctx, event)
	}
	var event lambdaevents.SQSEvent
	if err := json.Unmarshal(raw, &event); err != nil {
		return nil, err
	}
	return x.HandleTimers(ctx, event)
}

func (x *Expirer) handleOrPutOff(ctx context.Context, event ExecutionEvent) error {
	ctx, cancel := withMargin(ctx)
	defer cancel()
	work, done := working(ctx)
	defer done()
	err := x.HandleExecution(work, event)
	if err == nil || x.Consumer == nil || x.Consumer.Backlog == nil {
		return err
	}
	job := Job{Kind: JobEnd, Execution: event.Detail}
	if len(x.Consumer.putOff(ctx, []failure{{job, 0, err}})) > 0 {
		return err
	}
	return nil
}

// HandleTimers is the function behind the timers' queue: it does what timers do, and the jobs that were put off. What fails is put
// off again, for longer each time. It answers the messages that must come again, for an event source mapping with
// ReportBatchItemFailures: those that could not even be put off.
func (x *Expirer) HandleTimers(ctx context.Context, event lambdaevents.SQSEvent) (lambdaevents.SQSEventResponse, error) {
	ctx, cancel := withMargin(ctx)
	defer cancel()
	resp := lambdaevents.SQSEventResponse{BatchItemFailures: []lambdaevents.SQSBatchItemFailure{}}
	var jobs []Job
	var ids []string // of their messages
	fail := func(id string) {
		resp.BatchItemFailures = append(resp.BatchItemFailures, lambdaevents.SQSBatchItemFailure{ItemIdentifier: id})
	}
	for _, m := range event.Records {
		job, err := DecodeJob(m.Body)
		if err == nil {
			jobs, ids = append(jobs, job), append(ids, m.MessageId)
			continue
		}
		if !x.buryMessage(ctx, m.MessageId, m.Body, err) {
			fail(m.MessageId)
		}
	}
	for _, i := range x.do(ctx, jobs) {
		fail(ids[i])
	}
	return resp, nil
}

// buryMessage puts a message that cannot be read into the dead-letter queue. false: the queue's own redrive has to.
func (x *Expirer) buryMessage(ctx context.Context, id, body string, problem error) bool {
	x.reporter().fault(ctx, RecordBuried, "message cannot be read", slog.String("message_id", id), slog.Any("error", problem))
	if x.Consumer == nil || x.Consumer.DeadLetter == nil {
		return false
	}
	err := x.Consumer.DeadLetter.Bury(ctx, Write{Sequence: id, Poison: fmt.Errorf("message of the timers' queue: %w", problem), Raw: []byte(body)})
	if err != nil {
		x.Log.ErrorContext(ctx, "message was not buried", "message_id", id, "error", err)
	}
	return err == nil
}
