package poller

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"
	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams/types"

	"github.com/holdfast-lock/holdfast/internal/stream"
)

// A Range is some records of one shard of a table's stream, the ends included, as Lambda names a batch that it gave up.
type Range struct {
	Stream string `json:"streamArn"`
	Shard  string `json:"shardId"`
	First  string `json:"startSequenceNumber"`
	Last   string `json:"endSequenceNumber"`
}

// ErrTrimmed says that the stream no longer has the records of a range: it keeps them for a day.
var ErrTrimmed = errors.New("the stream does not have these records any more")

// maxReads is how many times one range is read on at most. A read returns up to 1 MB, or nothing if the shard has a gap.
const maxReads = 100

// ReadRange reads the writes of a range. After [ErrTrimmed] it returns none: if some of the records are gone, so is the order of the others.
func ReadRange(ctx context.Context, streams *dynamodbstreams.Client, r Range) (list []stream.Write, err error) {
	out, err := streams.GetShardIterator(ctx, &dynamodbstreams.GetShardIteratorInput{
		StreamArn: aws.String(r.Stream), ShardId: aws.String(r.Shard), ShardIteratorType: types.ShardIteratorTypeAtSequenceNumber, SequenceNumber: aws.String(r.First),
	})
	_, trimmed := errors.AsType[*types.TrimmedDataAccessException](err)
	_, gone := errors.AsType[*types.ResourceNotFoundException](err)
	if trimmed || gone {
		return nil, ErrTrimmed
	}
	if err != nil {
		return nil, err
	}
	var reads Poller
	iterator := out.ShardIterator
	for range maxReads {
		if iterator == nil {
			return list, nil
		}
		page, err := streams.GetRecords(ctx, &dynamodbstreams.GetRecordsInput{ShardIterator: iterator})
		if _, trimmed := errors.AsType[*types.TrimmedDataAccessException](err); trimmed {
			return nil, ErrTrimmed
		}
		if err != nil {
			return nil, err
		}
		for _, record := range page.Records {
			sequence := aws.ToString(record.Dynamodb.SequenceNumber)
			if after(sequence, r.Last) {
				return list, nil
			}
			if w, ok := reads.read(record); ok {
				list = append(list, w)
			}
			if sequence == r.Last {
				return list, nil
			}
		}
		iterator = page.NextShardIterator
	}
	return nil, errors.New("the range of the stream does not end")
}

// after reports whether a sequence number is behind another: they are decimal numbers of up to 40 digits.
func after(a, b string) bool {
	return len(a) > len(b) || len(a) == len(b) && a > b
}
