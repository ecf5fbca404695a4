package stream

import (
	"context"
	"encoding/json"
	"fmt"
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
			if w, ok := readRecord(raw, decode); ok {
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
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-answerMargin))
}

// A streamEvent is an event of the stream whose records are read one by one, so that one that is broken spoils no other.
type streamEvent struct {
	Records []json.RawMessage `json:"Records"`
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
		// What is no record at all still has a place in the stream.
		var place struct {
			Change struct{ SequenceNumber string } `json:"dynamodb"`
		}
		_ = json.Unmarshal(raw, &place)
		w.Sequence = place.Change.SequenceNumber
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

// Handle is the expire function: behind the timer queue, and behind the rule on executions.
func (x *Expirer) Handle(ctx context.Context, raw json.RawMessage) (any, error) {
	var kind struct {
		DetailType string `json:"detail-type"`
	}
	if err := json.Unmarshal(raw, &kind); err == nil && kind.DetailType != "" {
		var event ExecutionEvent
		if err := json.Unmarshal(raw, &event); err != nil {
			return nil, err
		}
		return nil, x.HandleExecution(ctx, event)
	}
	var event lambdaevents.SQSEvent
	if err := json.Unmarshal(raw, &event); err != nil {
		return nil, err
	}
	return x.HandleTimers(ctx, event)
}

// HandleTimers is the function behind the timer queue. It answers the messages that must come again, for an event source
// mapping with ReportBatchItemFailures; what is no timer ends in the queue's dead-letter queue that way.
func (x *Expirer) HandleTimers(ctx context.Context, event lambdaevents.SQSEvent) (lambdaevents.SQSEventResponse, error) {
	ctx, cancel := withMargin(ctx)
	defer cancel()
	resp := lambdaevents.SQSEventResponse{BatchItemFailures: []lambdaevents.SQSBatchItemFailure{}}
	for _, m := range event.Records {
		t, err := readTimer(m.Body)
		if err != nil {
			x.Log.ErrorContext(ctx, "message is not a timer", "message_id", m.MessageId, "error", err)
		} else {
			err = x.Fire(ctx, t)
		}
		if err != nil {
			resp.BatchItemFailures = append(resp.BatchItemFailures, lambdaevents.SQSBatchItemFailure{ItemIdentifier: m.MessageId})
		}
	}
	return resp, nil
}
