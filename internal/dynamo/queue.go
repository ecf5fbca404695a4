package dynamo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// Waiters are items of their own in the partition of their lock. A command that changes the queue writes them in one transaction
// with the lock's item, whose guard proves that the queue is as it was read.

// Waiters implements [lock.Store] with one Query.
func (s *Store) Waiters(ctx context.Context, name string, limit int) (list []lock.Waiter, err error) {
	var start item
	for len(list) < limit {
		out, err := s.client.Query(ctx, &dynamodb.QueryInput{
			TableName: aws.String(s.table), ConsistentRead: aws.Bool(true), Limit: aws.Int32(int32(limit - len(list))),
			KeyConditionExpression:    aws.String("#pk = :name AND begins_with(#sk, :wait)"),
			ExpressionAttributeNames:  map[string]string{"#pk": attrPK, "#sk": attrSK},
			ExpressionAttributeValues: item{":name": str(name), ":wait": str(skWait)}, ExclusiveStartKey: start,
		})
		if err != nil {
			return nil, s.fault(ctx, "Query", err)
		}
		for _, it := range out.Items {
			w, err := decodeWaiter(it)
			if err != nil {
				return nil, s.corrupt(name, err)
			}
			list = append(list, w)
		}
		if start = out.LastEvaluatedKey; start == nil {
			break
		}
	}
	return list, nil
}

// beside are the writes that a transaction has beside the lock's: of waiters, of the ends of waits of tasks, and of bindings to
// executions.
func (s *Store) beside(name string, c lock.Command) (writes []types.TransactWriteItem) {
	become, ok := c.Effect.(lock.Become)
	if !ok {
		return nil
	}
	from, to := become.From, become.To
	put := func(it item) {
		writes = append(writes, types.TransactWriteItem{Put: &types.Put{TableName: aws.String(s.table), Item: it}})
	}
	bound := func(r lock.Record) map[lock.Binding]string {
		all := map[lock.Binding]string{}
		for k, h := range r.Holders {
			if h.Execution != "" {
				all[lock.Binding{Lock: name, Key: k}] = h.Execution
			}
		}
		for _, w := range r.Queue {
			if w.Execution != "" {
				all[lock.Binding{Lock: name, Key: w.Key}] = w.Execution
			}
		}
		return all
	}
	was := map[int64]lock.Waiter{}
	for _, w := range from.Queue {
		was[w.Ticket] = w
	}
	for _, w := range to.Queue {
		if was[w.Ticket] != w {
			put(waiterItem(name, w))
		}
		delete(was, w.Ticket)
	}
	for ticket := range was {
		writes = append(writes, types.TransactWriteItem{Delete: &types.Delete{TableName: aws.String(s.table), Key: waiterKey(name, ticket)}})
	}
	for _, w := range lock.PlacesEnded(from, to) {
		if !w.Tokens.OfTask() {
			continue
		}
		it := waiterItem(name, w)
		it[attrSK], it[attrCause] = str(fmt.Sprintf("%s%016d", skEnded, w.Ticket)), str(string(c.Stamp.Cause))
		it[attrTTL] = num(to.Fence/1_000_000 + retention) // only its stream record is needed
		put(it)
	}
	before := bound(from)
	for b, execution := range bound(to) {
		if before[b] == "" {
			it := bindingKey(execution, b)
			it[attrLock], it[attrLease] = str(b.Lock), str(string(b.Key))
			it[attrTTL] = num(bindingLife + to.Fence/1_000_000)
			put(it)
		}
	}
	return writes
}

// Native TTLs, in seconds after the lock's last grant, of items that are no longer needed by then. A binding lasts twice the life of
// an execution, which may wait for another execution to end before it holds the lock.
const (
	retention   = int64(lock.DefaultRetention / time.Second)
	bindingLife = 2 * int64(lock.ExecutionLife/time.Second)
)

func bindingKey(execution string, b lock.Binding) item {
	return item{attrPK: str(pkExecution + execution), attrSK: str(b.Lock + "#" + string(b.Key))}
}

// transact applies a command and other writes in one transaction.
func (s *Store) transact(ctx context.Context, name string, c lock.Command, beside []types.TransactWriteItem) (lock.Reply, error) {
	ctx, seen := observe(ctx)
	u := compile(s.table, name, c)
	writes := append([]types.TransactWriteItem{{Update: &types.Update{
		TableName: u.TableName, Key: u.Key, ConditionExpression: u.ConditionExpression, UpdateExpression: u.UpdateExpression,
		ExpressionAttributeNames: u.ExpressionAttributeNames, ExpressionAttributeValues: u.ExpressionAttributeValues,
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	}}}, beside...)
	// All attempts have the same token: DynamoDB answers an attempt after a lost reply as it did the first one.
	_, err := s.client.TransactWriteItems(ctx, &dynamodb.TransactWriteItemsInput{TransactItems: writes, ClientRequestToken: aws.String(rand.Text())})
	if err == nil {
		before := c.Effect.(lock.Become).From
		before.Queue = nil
		after := c.Next(before)
		after.Queue = nil
		return lock.Reply{Before: before, After: after, Offset: seen.offset}, nil
	}
	canceled, ok := errors.AsType[*types.TransactionCanceledException](err)
	if !ok || len(canceled.CancellationReasons) == 0 {
		return lock.Reply{}, s.fault(ctx, "TransactWriteItems", err)
	}
	if reason := canceled.CancellationReasons[0]; aws.ToString(reason.Code) == "ConditionalCheckFailed" {
		current, err := Decode(reason.Item)
		if err != nil {
			return lock.Reply{}, s.corrupt(name, err)
		}
		return lock.Reply{}, &lock.GuardError{Current: current, Offset: seen.offset}
	}
	if slices.ContainsFunc(canceled.CancellationReasons, func(r types.CancellationReason) bool { return aws.ToString(r.Code) == "TransactionConflict" }) {
		// Another write was under way: decide on the record that it left.
		reply, err := s.Get(ctx, name)
		if err != nil {
			return lock.Reply{}, err
		}
		return lock.Reply{}, &lock.GuardError{Current: reply.After, Offset: reply.Offset}
	}
	return lock.Reply{}, s.fault(ctx, "TransactWriteItems", err)
}

// Bound implements [lock.Store].
func (s *Store) Bound(ctx context.Context, execution string) (list []lock.Binding, err error) {
	pages := dynamodb.NewQueryPaginator(s.client, &dynamodb.QueryInput{
		TableName: aws.String(s.table), ConsistentRead: aws.Bool(true), KeyConditionExpression: aws.String("#pk = :execution"),
		ExpressionAttributeNames: map[string]string{"#pk": attrPK}, ExpressionAttributeValues: item{":execution": str(pkExecution + execution)},
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, s.fault(ctx, "Query", err)
		}
		for _, it := range page.Items {
			d := decoder{it: it}
			b := lock.Binding{Lock: d.str(attrLock), Key: lock.LeaseKey(d.str(attrLease))}
			if d.err != nil {
				return nil, s.corrupt(execution, d.err)
			}
			list = append(list, b)
		}
	}
	return list, nil
}

// Unbind implements [lock.Store].
func (s *Store) Unbind(ctx context.Context, execution string, list []lock.Binding) error {
	for _, b := range list {
		if _, err := s.client.DeleteItem(ctx, &dynamodb.DeleteItemInput{TableName: aws.String(s.table), Key: bindingKey(execution, b)}); err != nil {
			return s.fault(ctx, "DeleteItem", err)
		}
	}
	return nil
}
