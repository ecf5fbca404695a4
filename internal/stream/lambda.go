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

// A Reader decodes a stream record as Lambda sends it; package dynamo has one. sequence is the record's number in the stream. ok
// is false if the record is not about a lock. An error says why the record cannot be read.
type Reader func(raw json.RawMessage) (w lock.Write, sequence string, ok bool, err error)

// answerMargin is the part of a function's time that is kept for its reply, which names the records to deliver again. If Lambda
// ends the function before the reply, it delivers the whole batch again.
const answerMargin = 2 * time.Second

// HandleStream returns the handler of the stream function. It replies with the sequence numbers of the records that must be
// delivered again, so the event source mapping needs ReportBatchItemFailures.
func (c *Consumer) HandleStream(read Reader) func(context.Context, streamEvent) (lambdaevents.DynamoDBEventResponse, error) {
	return func(ctx context.Context, event streamEvent) (resp lambdaevents.DynamoDBEventResponse, err error) {
		ctx, cancel := withMargin(ctx, answerMargin)
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

// A streamEvent is a batch of the stream. Its records are decoded one by one, so that a broken one does not fail the others.
type streamEvent struct {
	Records []json.RawMessage `json:"Records"`
}

// readSafely decodes one record. A panic of read poisons the write. ok is false if the record is not about a lock.
func readSafely(raw json.RawMessage, read Reader) (w Write, ok bool) {
	w = Write{Raw: raw}
	err := catchPanic(func() error {
		w.Write, w.Sequence, ok, w.Poison = read(raw)
		return nil
	})
	if err != nil {
		return Write{Raw: raw, Sequence: sequenceOf(raw), Poison: err}, true
	}
	return w, ok
}

// sequenceOf finds the sequence number of a record whose decoding panics; "" if it cannot.
func sequenceOf(raw json.RawMessage) string {
	var place struct {
		Change struct{ SequenceNumber string } `json:"dynamodb"`
	}
	_ = json.Unmarshal(raw, &place)
	return place.Change.SequenceNumber
}

// Handle is the handler of the expire function: of batches of the timers' queue, and of the events of executions.
func (x *Expirer) Handle(ctx context.Context, raw json.RawMessage) (any, error) {
	var kind struct {
		DetailType string `json:"detail-type"`
	}
	if err := json.Unmarshal(raw, &kind); err == nil && kind.DetailType != "" {
		var event ExecutionEvent
		if err := json.Unmarshal(raw, &event); err != nil {
			return nil, err
		}
		return nil, x.handleOrDefer(ctx, event)
	}
	var event lambdaevents.SQSEvent
	if err := json.Unmarshal(raw, &event); err != nil {
		return nil, err
	}
	return x.HandleTimers(ctx, event)
}

// handleOrDefer handles the event of an execution. If that fails, it defers a job: Lambda retries an asynchronous event only
// twice, and then drops it.
func (x *Expirer) handleOrDefer(ctx context.Context, event ExecutionEvent) error {
	ctx, cancel := withMargin(ctx, answerMargin)
	defer cancel()
	work, done := workContext(ctx)
	defer done()
	err := x.HandleExecution(work, event)
	if err == nil || x.Consumer == nil || x.Consumer.Backlog == nil {
		return err
	}
	job := Job{Kind: JobEnd, Execution: event.Detail}
	if len(x.Consumer.deferJobs(ctx, []failure{{job, 0, err}})) > 0 {
		return err
	}
	return nil
}

// HandleTimers is the handler of the timers' queue, which has timers and deferred jobs. What fails is deferred again, with
// longer delays each time. It replies with the ids of the messages that could not be deferred, so the event source mapping
// needs ReportBatchItemFailures.
func (x *Expirer) HandleTimers(ctx context.Context, event lambdaevents.SQSEvent) (lambdaevents.SQSEventResponse, error) {
	ctx, cancel := withMargin(ctx, answerMargin)
	defer cancel()
	resp := lambdaevents.SQSEventResponse{BatchItemFailures: []lambdaevents.SQSBatchItemFailure{}}
	var jobs []Job
	var ids []string // the jobs' messages
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

// buryMessage sends a message that cannot be read to the dead-letter queue. If it returns false, the message stays in its
// queue, whose redrive policy moves it.
func (x *Expirer) buryMessage(ctx context.Context, id, body string, problem error) bool {
	x.reporter().fault(ctx, RecordBuried, "message cannot be read", slog.String("message_id", id), slog.Any("error", problem))
	if x.Consumer == nil || x.Consumer.DeadLetter == nil {
		return false
	}
	err := x.Consumer.DeadLetter.Bury(ctx, Write{Sequence: id, Poison: fmt.Errorf("message of the timers' queue: %w", problem), Raw: []byte(body)})
	if err != nil {
		x.Log.ErrorContext(ctx, "message was not sent to the dead-letter queue", "message_id", id, "error", err)
	}
	return err == nil
}
