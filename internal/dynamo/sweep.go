package dynamo

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// A sweep reads every item of the table, for an operator who looks for what nobody will free. It costs half a read unit for each 4 KB of the
// table, since its reads are not consistent: whoever acts on an item reads it again.

// A SweepQuery selects the items of one call of [Store.Sweep].
type SweepQuery struct {
	Prefix string // of the locks' names; empty: all. The items of other locks are read all the same
	Cursor string // the Next of the call before; empty: from the beginning
	Scans  int    // how many Scan requests at most, of a thousand items or 1 MB each; 0: 10
}

// A Sweeping is the result of one call of [Store.Sweep].
type Sweeping struct {
	Items []Swept
	Read  int     // the items that were read
	Units float64 // the read units that DynamoDB counted
	Next  string  // the cursor of the next call; empty after the last
}

// Swept is an item that a sweep has read: a lock's, a waiter's, the ticket of a waiter, or one that is not as it should be.
type Swept struct {
	Lock string // or, of a binding, exec# and the execution
	SK   string
	Kind SweptKind
	// Record is the lock as it is stored, of a lock's item. Waiter is that of a waiter's item; of a ticket it has the ticket and the key.
	Record  lock.Record
	Waiter  lock.Waiter
	NoTTL   bool  // the item has no native TTL
	NoIndex bool  // the item is a lock's, and is not where the index of names must have it, so that lists of a prefix leave the lock out
	Err     error // the item cannot be read
}

// Cursor is the [SweepQuery.Cursor] of a sweep that goes on after the item.
func (s Swept) Cursor() string { return cursor(item{attrPK: str(s.Lock), attrSK: str(s.SK)}) }

// A SweptKind says what an item is.
type SweptKind int

// The kinds of item.
const (
	SweptOther   SweptKind = iota // an item of another program, or of a newer version
	SweptLock                     // a lock
	SweptWaiter                   // a waiter
	SweptPlace                    // the ticket of a waiter behind the first ten
	SweptTexts                    // the texts of a semaphore's lease
	SweptEnded                    // the end of a wait
	SweptBinding                  // that a lease or a waiter belongs to an execution
	SweptHistory                  // an entry of a lock's history
)

// Sweep reads some of the table's items. It returns locks, waiters and tickets, and those of the other items that have no native TTL or cannot be
// read.
func (s *Store) Sweep(ctx context.Context, q SweepQuery) (done Sweeping, err error) {
	start, err := cursorKey(q.Cursor)
	if err != nil {
		return done, err
	}
	in := &dynamodb.ScanInput{TableName: aws.String(s.table), Limit: aws.Int32(scanLimit), ReturnConsumedCapacity: types.ReturnConsumedCapacityTotal}
	if q.Prefix != "" {
		in.FilterExpression, in.ExpressionAttributeNames = aws.String("begins_with(#pk, :prefix)"), map[string]string{"#pk": attrPK}
		in.ExpressionAttributeValues = item{":prefix": str(q.Prefix)}
	}
	scans := q.Scans
	if scans == 0 {
		scans = maxScans
	}
	for range scans {
		in.ExclusiveStartKey = start
		out, err := s.client.Scan(ctx, in)
		if err != nil {
			return done, s.fault(ctx, "Scan", err)
		}
		done.Read += int(out.ScannedCount)
		if out.ConsumedCapacity != nil {
			done.Units += aws.ToFloat64(out.ConsumedCapacity.CapacityUnits)
		}
		for _, it := range out.Items {
			swept := sweptOf(it)
			if queue := swept.Kind == SweptLock || swept.Kind == SweptWaiter || swept.Kind == SweptPlace; queue || swept.NoTTL || swept.Err != nil {
				done.Items = append(done.Items, swept)
			}
		}
		start = out.LastEvaluatedKey
		if done.Next = cursor(start); done.Next == "" {
			break
		}
	}
	return done, nil
}

func sweptOf(it item) (s Swept) {
	d := decoder{it: it}
	s.Lock, s.SK = d.str(attrPK), d.str(attrSK)
	s.NoTTL = d.num(attrTTL) == 0
	s.Err = d.err
	switch {
	case strings.HasPrefix(s.Lock, pkExecution):
		if d.str(attrLock) != "" && d.str(attrLease) != "" { // a newer version may have other items here
			s.Kind = SweptBinding
		}
	case s.Lock == pkRules: // it may be kept for ever, and its prefix is not a lock's name
		s.NoTTL = false
	case isHistory(s.Lock):
		s.Kind = SweptHistory
	case s.SK == skLock:
		s.Kind = SweptLock
		s.NoIndex = d.str(attrIndex) != indexPart(s.Lock)
		s.Record, s.Err = Decode(it)
	case strings.HasPrefix(s.SK, skWait):
		s.Kind = SweptWaiter
		if s.Waiter, s.Err = decodeWaiter(it); s.Err == nil && s.Waiter.Ticket < 1 {
			s.Err = errors.New("a waiter without a ticket")
		}
	case strings.HasPrefix(s.SK, skPlace):
		s.Kind = SweptPlace
		s.Waiter = lock.Waiter{Ticket: d.num(attrTicket), Key: lock.LeaseKey(strings.TrimPrefix(s.SK, skPlace))}
		s.Err = d.err
	case strings.HasPrefix(s.SK, skTexts):
		s.Kind = SweptTexts
	case isEnded(s.SK):
		s.Kind = SweptEnded
	}
	return s
}

// RemoveOrphan removes the item of a waiter, or of a waiter's ticket, whose lock has no row, if it is as the sweep read it and there is still no
// row: one transaction checks both. It returns false if it did not remove it.
func (s *Store) RemoveOrphan(ctx context.Context, o Swept) (bool, error) {
	e := newExpression()
	condition := e.name(attrTicket) + " = " + e.num(o.Waiter.Ticket)
	if o.Kind == SweptWaiter {
		condition += " AND " + e.name(attrUntil) + " = " + e.num(o.Waiter.Until)
	}
	_, err := s.client.TransactWriteItems(ctx, &dynamodb.TransactWriteItemsInput{TransactItems: []types.TransactWriteItem{
		{ConditionCheck: &types.ConditionCheck{
			TableName: aws.String(s.table), Key: key(o.Lock), ConditionExpression: aws.String("attribute_not_exists(#pk)"),
			ExpressionAttributeNames: map[string]string{"#pk": attrPK},
		}},
		{Delete: &types.Delete{
			TableName: aws.String(s.table), Key: item{attrPK: str(o.Lock), attrSK: str(o.SK)}, ConditionExpression: aws.String(condition),
			ExpressionAttributeNames: e.names, ExpressionAttributeValues: e.values,
		}},
	}})
	if canceled, ok := errors.AsType[*types.TransactionCanceledException](err); ok && changed(canceled.CancellationReasons) {
		return false, nil
	}
	if err != nil {
		return false, s.fault(ctx, "TransactWriteItems", err)
	}
	return true, nil
}

// Expire gives an item of this version without a native TTL the one that its writers give it, unless it has one by now or is gone. A lock's item gets
// its own by [lock.Coordinator.Rewrite]; of an item of another program nobody knows how long it is needed.
func (s *Store) Expire(ctx context.Context, o Swept, now time.Time) error {
	at, err := s.neededUntil(ctx, o, now.Unix())
	if err != nil {
		return err
	}
	e := newExpression()
	condition := fmt.Sprintf("attribute_exists(%s) AND attribute_not_exists(%s)", e.name(attrPK), e.name(attrTTL))
	e.assignNum(e.name(attrTTL), at)
	_, err = s.client.UpdateItem(ctx, &dynamodb.UpdateItemInput{
		TableName: aws.String(s.table), Key: item{attrPK: str(o.Lock), attrSK: str(o.SK)}, ConditionExpression: aws.String(condition),
		UpdateExpression: aws.String("SET " + strings.Join(e.set, ", ")), ExpressionAttributeNames: e.names, ExpressionAttributeValues: e.values,
	})
	if _, failed := errors.AsType[*types.ConditionalCheckFailedException](err); err != nil && !failed {
		return s.fault(ctx, "UpdateItem", err)
	}
	return nil
}

// historyLife is how long an entry of the history without a native TTL is kept, in seconds: 90 days. How long its rule asked for is not known.
const historyLife = 90 * 24 * 60 * 60

// neededUntil is the native TTL of an item of this version, in Unix seconds. A waiter's place tells how long its items are needed, which is more than
// a year for a task, and a lease how long its texts are. A waiter that keeps its place, or a lease that is renewed, moves the native TTL then. It is
// never in the past: DynamoDB does not purge what expired more than five years ago.
func (s *Store) neededUntil(ctx context.Context, o Swept, now int64) (at int64, err error) {
	switch o.Kind {
	case SweptWaiter:
		at = waiterTTL(o.Waiter.Until)
	case SweptPlace:
		var it item
		it, err = s.read(ctx, waiterKey(o.Lock, o.Waiter.Ticket))
		at = placeTTL((&decoder{it: it}).num(attrUntil))
	case SweptTexts:
		var reply lock.Reply
		reply, err = s.Get(ctx, o.Lock)
		for _, l := range reply.After.Holders {
			if o.SK == skTexts+strconv.FormatInt(l.Fence, 10) {
				at = textsTTL(l)
			}
		}
	case SweptEnded: // only its stream record is needed
	case SweptBinding:
		at = now + bindingLife
	case SweptHistory:
		at = now + historyLife
	default:
		return 0, fmt.Errorf("dynamo: the item %s of %s is of an unknown kind", o.SK, o.Lock)
	}
	return max(at, now+2*retention), err
}
