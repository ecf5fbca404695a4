// Package poller reads a table's stream for the local process, as Lambda's event source mapping does.
package poller

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	ddbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams/types"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// A Poller reads a table's stream for the local process, as Lambda's event source mapping does: every shard in order, a shard
// after its parent, from the end that the stream has when it starts.
type Poller struct {
	Tables  *dynamodb.Client
	Streams *dynamodbstreams.Client
	Table   string
	Consume func(ctx context.Context, batch []stream.Write) (failed []string)
	Log     *slog.Logger
	Every   time.Duration // between two reads of a shard; zero: 250 ms, which is Lambda's interval
	Places  Places        // nil: every run starts at the end of the stream
}

// Places keep how far each shard was consumed, so that a poller continues where another one ended, as Lambda's event source mapping does.
// A shard without a place is read from its beginning.
type Places interface {
	// Load returns the last sequence number of a shard that was consumed, or "" if there is none.
	Load(shard string) (string, error)
	// Save keeps the last sequence number of a shard that was consumed. If it fails, the records since the last place are read again.
	Save(shard, sequence string) error
}

// Reading is the message of the log record that a poller writes once it has a place in every shard: from then on no write of
// the table is missed.
const Reading = "reading the table's stream"

// shard is the poller's place in one shard.
type shard struct {
	parent   string
	iterator *string // nil: the next poll asks for one
	after    string  // the last sequence number that was consumed; "": none
	latest   bool    // start at the end of the shard
	done     bool    // read to its end
}

// Run polls until ctx ends. It logs faults and retries.
func (p *Poller) Run(ctx context.Context) {
	every := p.Every
	if every == 0 {
		every = 250 * time.Millisecond
	}
	shards := map[string]*shard{}
	first := true
	for ctx.Err() == nil {
		err := p.round(ctx, shards, first)
		if first && err == nil {
			first = false
			p.Log.Info(Reading, "table", p.Table)
		}
		if err != nil && ctx.Err() == nil {
			p.Log.Error("stream cannot be read", "table", p.Table, "error", err)
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
		}
	}
}

// round polls each shard once whose parent was read to its end.
func (p *Poller) round(ctx context.Context, shards map[string]*shard, first bool) error {
	arn, err := p.stream(ctx)
	if err != nil {
		return err
	}
	if err := p.discover(ctx, arn, shards, first); err != nil {
		return err
	}
	for id, s := range shards {
		if parent := shards[s.parent]; s.done || parent != nil && !parent.done {
			continue
		}
		if err := p.poll(ctx, arn, id, s); err != nil {
			return err
		}
	}
	return nil
}

func (p *Poller) stream(ctx context.Context) (string, error) {
	out, err := p.Tables.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: aws.String(p.Table)})
	if err != nil {
		return "", err
	}
	if out.Table.LatestStreamArn == nil {
		return "", errors.New("the table has no stream")
	}
	return *out.Table.LatestStreamArn, nil
}

// discover adds new shards and removes trimmed ones. Shards that exist at the start are read from their end, others from their
// beginning.
func (p *Poller) discover(ctx context.Context, arn string, shards map[string]*shard, first bool) error {
	seen := map[string]bool{}
	in := &dynamodbstreams.DescribeStreamInput{StreamArn: aws.String(arn)}
	for {
		out, err := p.Streams.DescribeStream(ctx, in)
		if err != nil {
			return err
		}
		for _, sh := range out.StreamDescription.Shards {
			id := aws.ToString(sh.ShardId)
			seen[id] = true
			if shards[id] != nil {
				continue
			}
			s := &shard{parent: aws.ToString(sh.ParentShardId), latest: first && p.Places == nil}
			if p.Places != nil {
				if s.after, err = p.Places.Load(id); err != nil {
					return err
				}
			}
			shards[id] = s
		}
		if in.ExclusiveStartShardId = out.StreamDescription.LastEvaluatedShardId; in.ExclusiveStartShardId == nil {
			break
		}
	}
	for id := range shards {
		if !seen[id] {
			delete(shards, id)
		}
	}
	return nil
}

// poll reads the new records of a shard and consumes them. A batch that failed in part is read again from its first failure.
func (p *Poller) poll(ctx context.Context, arn, id string, s *shard) error {
	if s.iterator == nil {
		in := &dynamodbstreams.GetShardIteratorInput{StreamArn: aws.String(arn), ShardId: aws.String(id)}
		switch {
		case s.after != "":
			in.ShardIteratorType, in.SequenceNumber = types.ShardIteratorTypeAfterSequenceNumber, aws.String(s.after)
		case s.latest:
			in.ShardIteratorType = types.ShardIteratorTypeLatest
		default:
			in.ShardIteratorType = types.ShardIteratorTypeTrimHorizon
		}
		out, err := p.Streams.GetShardIterator(ctx, in)
		if trimmed, ok := errors.AsType[*types.TrimmedDataAccessException](err); ok {
			p.Log.Error("stream was trimmed: events are lost", "shard", id, "error", trimmed)
			s.after, s.latest = "", false
			return nil
		}
		if err != nil {
			return err
		}
		s.iterator = out.ShardIterator
	}
	out, err := p.Streams.GetRecords(ctx, &dynamodbstreams.GetRecordsInput{ShardIterator: s.iterator})
	if err != nil {
		_, expired := errors.AsType[*types.ExpiredIteratorException](err)
		_, trimmed := errors.AsType[*types.TrimmedDataAccessException](err)
		if trimmed {
			p.Log.Error("stream was trimmed: events are lost", "shard", id, "error", err)
			s.after, s.latest = "", false
		}
		if expired || trimmed {
			s.iterator = nil
			return nil
		}
		return err // the iterator is still valid
	}
	failed := p.hand(ctx, out.Records)
	for i, r := range out.Records {
		sequence := aws.ToString(r.Dynamodb.SequenceNumber)
		if failed[sequence] {
			if i == 0 {
				return nil // the batch is read again with the same iterator
			}
			s.iterator = nil // read on after the last consumed record
			return p.save(id, s)
		}
		s.after = sequence
	}
	s.iterator = out.NextShardIterator
	s.done = s.iterator == nil
	if len(out.Records) == 0 {
		return nil
	}
	return p.save(id, s)
}

// save keeps the poller's place in a shard.
func (p *Poller) save(id string, s *shard) error {
	if p.Places == nil {
		return nil
	}
	return p.Places.Save(id, s.after)
}

func (p *Poller) hand(ctx context.Context, records []types.Record) map[string]bool {
	var batch []stream.Write
	for _, r := range records {
		if w, ok := p.read(r); ok {
			batch = append(batch, w)
		}
	}
	failed := map[string]bool{}
	if len(batch) > 0 {
		for _, sequence := range p.Consume(ctx, batch) {
			failed[sequence] = true
		}
	}
	return failed
}

func (p *Poller) read(r types.Record) (w stream.Write, ok bool) {
	w.Sequence = aws.ToString(r.Dynamodb.SequenceNumber)
	w.Raw, _ = json.Marshal(r.Dynamodb)
	w.Write, ok, w.Poison = dynamo.DecodeWrite(fromStream(r.Dynamodb.Keys), fromStream(r.Dynamodb.OldImage), fromStream(r.Dynamodb.NewImage))
	return w, ok
}

// fromStream converts the stream client's types to the table client's, which are the same under other names.
func fromStream(image map[string]types.AttributeValue) map[string]ddbtypes.AttributeValue {
	if image == nil {
		return nil
	}
	item := make(map[string]ddbtypes.AttributeValue, len(image))
	for name, v := range image {
		item[name] = valueOf(v)
	}
	return item
}

// valueOf converts a value. One of a type that no lock record has is read as null: it belongs to an attribute that this version does not know.
func valueOf(v types.AttributeValue) ddbtypes.AttributeValue {
	switch v := v.(type) {
	case *types.AttributeValueMemberS:
		return &ddbtypes.AttributeValueMemberS{Value: v.Value}
	case *types.AttributeValueMemberN:
		return &ddbtypes.AttributeValueMemberN{Value: v.Value}
	case *types.AttributeValueMemberM:
		return &ddbtypes.AttributeValueMemberM{Value: fromStream(v.Value)}
	case *types.AttributeValueMemberL:
		list := &ddbtypes.AttributeValueMemberL{}
		for _, e := range v.Value {
			list.Value = append(list.Value, valueOf(e))
		}
		return list
	}
	return &ddbtypes.AttributeValueMemberNULL{Value: true}
}
