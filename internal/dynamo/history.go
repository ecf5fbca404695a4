package dynamo

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// The history of a lock is a partition of its own, beside that of the lock: so its writes take nothing of the 1,000 write units a second that DynamoDB
// gives the lock's partition key, and the queue's reads do not pass over it. An entry takes one write unit, unless its texts are longer than about 800 bytes.
// The partition key begins so that no pattern of locks but * matches it in IAM. No entry is in the index of names, and the stream's filters
// select none: neither its put nor its removal by native TTL invokes a function.

// maxPuts is how many entries are put at the same time.
const maxPuts = 8

// PutHistory implements [lock.Store] with one PutItem for each entry: in a batch, two entries with one key, of a record that was delivered twice, would be refused.
func (s *Store) PutHistory(ctx context.Context, name string, entries []lock.HistoryEntry, keep time.Duration) error {
	errs := make([]error, len(entries))
	turns := make(chan struct{}, maxPuts)
	var puts sync.WaitGroup
	for i, e := range entries {
		turns <- struct{}{}
		puts.Go(func() {
			defer func() { <-turns }()
			it := historyItem(name, e)
			it[attrTTL] = num((e.At + keep.Milliseconds()) / 1000)
			if _, err := s.client.PutItem(ctx, &dynamodb.PutItemInput{TableName: aws.String(s.table), Item: it}); err != nil {
				errs[i] = s.fault(ctx, "PutItem", err)
			}
		})
	}
	puts.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// History implements [lock.Store] with one Query, whose reads are not consistent and so cost half.
func (s *Store) History(ctx context.Context, q lock.HistoryQuery) (list []lock.HistoryEntry, more bool, err error) {
	if q.From > q.To {
		return nil, false, nil
	}
	in := &dynamodb.QueryInput{
		TableName: aws.String(s.table), Limit: aws.Int32(int32(q.Limit)), ScanIndexForward: aws.Bool(q.Oldest),
		KeyConditionExpression:    aws.String("#pk = :pk AND #sk BETWEEN :from AND :to"),
		ExpressionAttributeNames:  map[string]string{"#pk": attrPK, "#sk": attrSK},
		ExpressionAttributeValues: item{":pk": str(pkHistory + q.Lock), ":from": str(q.From), ":to": str(q.To)},
	}
	if q.After != "" {
		in.ExclusiveStartKey = item{attrPK: str(pkHistory + q.Lock), attrSK: str(q.After)}
	}
	out, err := s.client.Query(ctx, in)
	if err != nil {
		return nil, false, s.fault(ctx, "Query", err)
	}
	for _, it := range out.Items {
		e, err := decodeHistory(it)
		if err != nil {
			return nil, false, s.corrupt(q.Lock, err)
		}
		list = append(list, e)
	}
	return list, len(out.LastEvaluatedKey) > 0 && len(list) > 0, nil
}

func historyItem(name string, e lock.HistoryEntry) item {
	it := item{attrPK: str(pkHistory + name), attrSK: str(e.Key())}
	it.strings(map[string]string{
		attrOwner: e.Owner, attrPrincipal: e.Principal, attrCause: string(e.Cause), attrBy: e.By, attrReason: e.Reason, attrSet: e.Set, attrTrace: e.Trace,
	})
	it.numbers(map[string]int64{
		attrPermits: e.Permits, attrWaited: e.Waited, attrUnclaimed: flag(e.Unclaimed), attrPurged: flag(e.Purged), attrHeld: e.Held, attrWaiting: e.Waiting,
	})
	if e.AcquiredAt != e.At {
		it[attrGranted] = num(e.AcquiredAt)
	}
	return it
}

func decodeHistory(it item) (lock.HistoryEntry, error) {
	d := decoder{it: it}
	at, fence, kind, ok := lock.HistoryKey(d.str(attrSK))
	if !ok {
		return lock.HistoryEntry{}, fmt.Errorf("the sort key %q of the partition %q is no entry's", d.str(attrSK), d.str(attrPK))
	}
	return lock.HistoryEntry{
		At: at, Kind: kind, Fence: fence, Cause: lock.Cause(d.str(attrCause)), Owner: d.str(attrOwner), Principal: d.str(attrPrincipal), Permits: d.num(attrPermits),
		AcquiredAt: d.numOr(attrGranted, at), Waited: d.num(attrWaited), Unclaimed: d.num(attrUnclaimed) != 0, Purged: d.num(attrPurged) != 0,
		By: d.str(attrBy), Reason: d.str(attrReason), Set: d.str(attrSet), Trace: d.str(attrTrace), Held: d.num(attrHeld), Waiting: d.num(attrWaiting),
	}, d.err
}

// isHistory reports whether a partition key is that of a lock's history.
func isHistory(pk string) bool { return strings.HasPrefix(pk, pkHistory) }
