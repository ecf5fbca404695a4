package dynamo

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// ApplyAll implements [lock.Store] with one TransactWriteItems, of which the first items are those of the locks, in order. One part alone is
// what Apply does with it.
func (s *Store) ApplyAll(ctx context.Context, parts []lock.Part) (time.Duration, error) {
	if len(parts) == 1 {
		reply, err := s.Apply(ctx, parts[0].Lock, parts[0].Command)
		return reply.Offset, err
	}
	ctx, seen := observe(ctx)
	var writes, beside []types.TransactWriteItem
	for _, p := range parts {
		if keep, ok := p.Command.Effect.(lock.Keep); ok {
			writes = append(writes, types.TransactWriteItem{Update: s.keeps(p.Lock, p.Command, keep)})
			continue
		}
		u := compile(s.table, p.Lock, p.Command)
		writes = append(writes, types.TransactWriteItem{Update: &types.Update{
			TableName: u.TableName, Key: u.Key, ConditionExpression: u.ConditionExpression, UpdateExpression: u.UpdateExpression,
			ExpressionAttributeNames: u.ExpressionAttributeNames, ExpressionAttributeValues: u.ExpressionAttributeValues,
		}})
		beside = append(beside, s.beside(p.Lock, p.Command)...)
		for _, it := range newTexts(p.Lock, p.Command) {
			beside = append(beside, types.TransactWriteItem{Put: &types.Put{TableName: aws.String(s.table), Item: it}})
		}
	}
	// All attempts have the same token: DynamoDB answers an attempt after a lost reply as it did the first one.
	_, err := s.client.TransactWriteItems(ctx, &dynamodb.TransactWriteItemsInput{TransactItems: append(writes, beside...), ClientRequestToken: aws.String(rand.Text())})
	if err == nil {
		s.keepAll(ctx, parts)
		return seen.offset, nil
	}
	canceled, ok := errors.AsType[*types.TransactionCanceledException](err)
	again := ok && slices.ContainsFunc(canceled.CancellationReasons, func(r types.CancellationReason) bool {
		code := aws.ToString(r.Code)
		return code == "ConditionalCheckFailed" || code == "TransactionConflict" // another write came first, or is under way
	})
	if again {
		return 0, &lock.GuardError{Offset: seen.offset}
	}
	return 0, s.fault(ctx, "TransactWriteItems", err)
}

// keepAll moves the native TTLs of items beside the records that a write made last for longer.
func (s *Store) keepAll(ctx context.Context, parts []lock.Part) {
	for _, p := range parts {
		if keep, ok := p.Command.Effect.(lock.Keep); ok {
			s.keepPlace(ctx, p.Lock, p.Command, keep)
		} else {
			s.keepTexts(ctx, p.Lock, p.Read, p.Command.Next(p.Read))
		}
	}
}

// keeps extends a waiter's place. Its item must be as the guard says.
func (s *Store) keeps(name string, c lock.Command, k lock.Keep) *types.Update {
	e := newExpression()
	condition := e.waiterIs(c.Guard, k.Key)
	e.assignNum(e.name(attrUntil), k.Until)
	e.assignNum(e.name(attrTTL), waiterTTL(k.Until))
	return &types.Update{
		TableName: aws.String(s.table), Key: waiterKey(name, k.Ticket), ConditionExpression: aws.String(condition),
		UpdateExpression: aws.String("SET " + strings.Join(e.set, ", ")), ExpressionAttributeNames: e.names, ExpressionAttributeValues: e.values,
	}
}

// Read implements [lock.Store] with one BatchGetItem, if DynamoDB leaves nothing out.
func (s *Store) Read(ctx context.Context, list []lock.Ask) ([]lock.Seen, time.Duration, error) {
	ctx, seen := observe(ctx)
	all := make([]lock.Seen, len(list))
	var keys []map[string]types.AttributeValue
	for _, ask := range list {
		if keys = append(keys, key(ask.Lock)); ask.Ticket != 0 {
			keys = append(keys, waiterKey(ask.Lock, ask.Ticket))
		}
	}
	err := s.batch(ctx, keys, func(it item) (err error) {
		d := decoder{it: it}
		name := d.str(attrPK)
		i := slices.IndexFunc(list, func(ask lock.Ask) bool { return ask.Lock == name })
		switch {
		case i < 0:
			return nil
		case d.str(attrSK) == skLock:
			all[i].Record, err = Decode(it)
		default:
			all[i].Waiter, err = decodeWaiter(it)
		}
		return err
	}, list[0].Lock)
	return all, seen.offset, err
}
