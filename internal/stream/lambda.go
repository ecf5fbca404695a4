//go:build !memory

package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	lambdaevents "github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// A Decoder reads items' images; package dynamo has it.
type Decoder struct {
	Record func(image map[string]types.AttributeValue) (lock.Record, error)
	Ended  func(image map[string]types.AttributeValue) (lock.Waiter, error)
}

// Sort keys: of a lock's record, and the beginning of those that tell of the end of a wait with a token. Waiters have others.
const (
	skLock  = "lock"
	skEnded = "ended#"
)

// HandleStream is the function behind the table's stream. It answers the sequence numbers that must come again, for an
// event source mapping with ReportBatchItemFailures.
func (c *Consumer) HandleStream(decode Decoder) func(context.Context, streamEvent) (lambdaevents.DynamoDBEventResponse, error) {
	return func(ctx context.Context, event streamEvent) (resp lambdaevents.DynamoDBEventResponse, err error) {
		ctx, cancel := withMargin(ctx)
		defer cancel()
		var batch []Write
		for _, raw := range event.Records {
			if w, ok := readSafely(raw, decode); ok {
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

// readSafely reads one record; one that makes reading panic is poison. false: it is not about a lock's record.
func readSafely(raw json.RawMessage, decode Decoder) (w Write, ok bool) {
	err := safely(func() error {
		w, ok = readRecord(raw, decode)
		return nil
	})
	if err != nil {
		return Write{Raw: raw, Sequence: sequenceOf(raw), Poison: err}, true
	}
	return w, ok
}

// sequenceOf finds a record's place in the stream, even if the rest of it cannot be read; else it is empty.
func sequenceOf(raw json.RawMessage) string {
	var place struct {
		Change struct{ SequenceNumber string } `json:"dynamodb"`
	}
	_ = json.Unmarshal(raw, &place)
	return place.Change.SequenceNumber
}

// readRecord reads one record; false if it is not about a lock's record.
func readRecord(raw json.RawMessage, decode Decoder) (w Write, ok bool) {
	w.Raw = raw
	var record struct {
		Change struct {
			Keys           map[string]json.RawMessage `json:"Keys"`
			SequenceNumber string                     `json:"SequenceNumber"`
			OldImage       map[string]json.RawMessage `json:"OldImage"`
			NewImage       map[string]json.RawMessage `json:"NewImage"`
		} `json:"dynamodb"`
	}
	if w.Poison = json.Unmarshal(raw, &record); w.Poison != nil {
		w.Sequence = sequenceOf(raw)
		return w, true
	}
	w.Sequence = record.Change.SequenceNumber
	keys, err := attributes(record.Change.Keys)
	if err != nil {
		w.Poison = fmt.Errorf("keys: %w", err)
		return w, true
	}
	pk, _ := keys["pk"].(*types.AttributeValueMemberS)
	sk, _ := keys["sk"].(*types.AttributeValueMemberS)
	if pk == nil || sk == nil {
		w.Poison = fmt.Errorf("keys: pk or sk is missing, or not a string")
		return w, true
	}
	w.Lock = pk.Value
	if strings.HasPrefix(sk.Value, skEnded) && record.Change.NewImage != nil {
		item, err := attributes(record.Change.NewImage)
		var ended lock.Waiter
		if err == nil {
			ended, err = decode.Ended(item)
		}
		w.Ended, w.Poison = []lock.Waiter{ended}, err
		return w, true
	}
	if sk.Value != skLock {
		return w, false
	}
	for _, image := range []struct {
		name string
		from map[string]json.RawMessage
		to   *lock.Record
	}{{"old image", record.Change.OldImage, &w.Before}, {"new image", record.Change.NewImage, &w.After}} {
		item, err := attributes(image.from)
		if err == nil {
			*image.to, err = decode.Record(item)
		}
		if err != nil {
			w.Poison = fmt.Errorf("%s: %w", image.name, err)
			return w, true
		}
	}
	return w, true
}

// attributes reads DynamoDB's JSON. Types that no lock record has are kept as null: they belong to attributes that this
// version doesn't know.
func attributes(image map[string]json.RawMessage) (map[string]types.AttributeValue, error) {
	if image == nil {
		return nil, nil
	}
	item := make(map[string]types.AttributeValue, len(image))
	for name, raw := range image {
		var v struct {
			S *string
			N *string
			M map[string]json.RawMessage
		}
		if err := json.Unmarshal(raw, &v); err != nil {
			return nil, fmt.Errorf("attribute %s: %w", strconv.Quote(name), err)
		}
		switch {
		case v.S != nil:
			item[name] = &types.AttributeValueMemberS{Value: *v.S}
		case v.N != nil:
			item[name] = &types.AttributeValueMemberN{Value: *v.N}
		case v.M != nil:
			m, err := attributes(v.M)
			if err != nil {
				return nil, err
			}
			item[name] = &types.AttributeValueMemberM{Value: m}
		default:
			item[name] = &types.AttributeValueMemberNULL{Value: true}
		}
	}
	return item, nil
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
		job, err := decodeJob(m.Body)
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
