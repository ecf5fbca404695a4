package dynamo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
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

// maxUnprocessed is how many times a BatchGetItem is sent, each for what the one before left out.
const maxUnprocessed = 3

// Poll implements [lock.Store] with one BatchGetItem of two items.
func (s *Store) Poll(ctx context.Context, name string, ticket int64) (lock.Reply, lock.Waiter, error) {
	seen, offset, err := s.Read(ctx, []lock.Ask{{Lock: name, Ticket: ticket}})
	if err != nil {
		return lock.Reply{}, lock.Waiter{}, err
	}
	return lock.Reply{After: seen[0].Record, Offset: offset}, seen[0].Waiter, nil
}

// batch reads items with consistent reads, by one BatchGetItem if DynamoDB leaves none out.
func (s *Store) batch(ctx context.Context, keys []map[string]types.AttributeValue, read func(item) error, name string) error {
	for range maxUnprocessed {
		out, err := s.client.BatchGetItem(ctx, &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{
			s.table: {Keys: keys, ConsistentRead: aws.Bool(true)},
		}})
		if err != nil {
			return s.fault(ctx, "BatchGetItem", err)
		}
		for _, items := range out.Responses { // under the table's name, also if s.table is its ARN
			for _, it := range items {
				if err := read(it); err != nil {
					return s.corrupt(name, err)
				}
			}
		}
		if keys = nil; len(out.UnprocessedKeys) == 0 {
			return nil
		}
		for _, left := range out.UnprocessedKeys {
			keys = append(keys, left.Keys...)
		}
	}
	return &lock.StoreError{
		Kind: lock.ErrThrottled, What: fmt.Sprintf("BatchGetItem left out items %d times", maxUnprocessed),
		Fix: "the lock's partition is read too often; let its waiters poll, and its watchers look, less often",
	}
}

// keep extends a waiter's place. Its item must be as the guard says.
func (s *Store) keep(ctx context.Context, name string, c lock.Command, k lock.Keep) (lock.Reply, error) {
	ctx, seen := observe(ctx)
	u := s.keeps(name, c, k)
	_, err := s.client.UpdateItem(ctx, &dynamodb.UpdateItemInput{
		TableName: u.TableName, Key: u.Key, ConditionExpression: u.ConditionExpression, UpdateExpression: u.UpdateExpression,
		ExpressionAttributeNames: u.ExpressionAttributeNames, ExpressionAttributeValues: u.ExpressionAttributeValues,
	})
	if _, failed := errors.AsType[*types.ConditionalCheckFailedException](err); failed {
		return lock.Reply{}, &lock.GuardError{Offset: seen.offset, Places: true}
	}
	if err != nil {
		return lock.Reply{}, s.fault(ctx, "UpdateItem", err)
	}
	s.keepPlace(ctx, name, c, k)
	return lock.Reply{Offset: seen.offset}, nil
}

// keepPlace moves the native TTL of the item that names a waiter's ticket, if there is one, each time that the waiter's place is extended into
// another day. The item lasts two days longer than the place that it was last written for, so one failure does no harm. Without the item, a
// repeated request of a waiter behind the first ten could join the queue again.
func (s *Store) keepPlace(ctx context.Context, name string, c lock.Command, k lock.Keep) {
	for _, clause := range c.Guard {
		if clause.Test != lock.PlaceUntil || clause.N/dayMS == k.Until/dayMS {
			continue
		}
		e := newExpression()
		e.assignNum(e.name(attrTTL), placeTTL(k.Until))
		condition := e.name(attrTicket) + " = " + e.num(k.Ticket)
		_, _ = s.client.UpdateItem(ctx, &dynamodb.UpdateItemInput{
			TableName: aws.String(s.table), Key: placeKey(name, k.Key), ConditionExpression: aws.String(condition),
			UpdateExpression: aws.String("SET " + strings.Join(e.set, ", ")), ExpressionAttributeNames: e.names, ExpressionAttributeValues: e.values,
		})
	}
}

// waiterIs is the condition of a write to a waiter's item that the clauses of a guard make: that it is there, and as it was read.
func (e *expression) waiterIs(guard []lock.Clause, k lock.LeaseKey) string {
	conditions := []string{e.name(attrLease) + " = " + e.value(str(string(k)))}
	for _, c := range guard {
		if c.Test == lock.PlaceUntil && c.Key == k {
			conditions = append(conditions, e.name(attrUntil)+" = "+e.num(c.N))
		}
	}
	return strings.Join(conditions, " AND ")
}

// Place implements [lock.Store]. A waiter that was among the first when it joined still is, so only the others have an item that names their
// ticket. One that is left of an earlier place is removed.
func (s *Store) Place(ctx context.Context, name string, k lock.LeaseKey) (lock.Waiter, error) {
	it, err := s.read(ctx, placeKey(name, k))
	if err != nil || it == nil {
		return lock.Waiter{}, err
	}
	d := decoder{it: it}
	ticket := d.num(attrTicket)
	if d.err != nil {
		return lock.Waiter{}, s.corrupt(name, d.err)
	}
	if it, err = s.read(ctx, waiterKey(name, ticket)); err != nil {
		return lock.Waiter{}, err
	}
	w, err := decodeWaiter(it)
	if err != nil {
		return lock.Waiter{}, s.corrupt(name, err)
	}
	if w.Key == k {
		return w, nil
	}
	e := newExpression()
	condition := e.name(attrTicket) + " = " + e.num(ticket)
	_, err = s.client.DeleteItem(ctx, &dynamodb.DeleteItemInput{
		TableName: aws.String(s.table), Key: placeKey(name, k), ConditionExpression: aws.String(condition),
		ExpressionAttributeNames: e.names, ExpressionAttributeValues: e.values,
	})
	if _, changed := errors.AsType[*types.ConditionalCheckFailedException](err); err != nil && !changed {
		return lock.Waiter{}, s.fault(ctx, "DeleteItem", err)
	}
	return lock.Waiter{}, nil
}

func (s *Store) read(ctx context.Context, key item) (item, error) {
	out, err := s.client.GetItem(ctx, &dynamodb.GetItemInput{TableName: aws.String(s.table), Key: key, ConsistentRead: aws.Bool(true)})
	if err != nil {
		return nil, s.fault(ctx, "GetItem", err)
	}
	return out.Item, nil
}

// besideQueue are the writes of waiters. One that the command removes or changes must be as it was read. One that joins behind the first
// gets an item that names its ticket; a request that has a place behind them cannot join again.
func (s *Store) besideQueue(name string, c lock.Command, from, to lock.Record) (writes []types.TransactWriteItem) {
	was := map[int64]lock.Waiter{}
	for _, w := range from.Places() {
		was[w.Ticket] = w
	}
	for _, w := range to.Places() {
		before, read := was[w.Ticket]
		delete(was, w.Ticket)
		if before == w {
			continue
		}
		if read {
			writes = append(writes, types.TransactWriteItem{Update: s.changeWaiter(name, c, before, w)})
		} else {
			writes = append(writes, types.TransactWriteItem{Put: &types.Put{TableName: aws.String(s.table), Item: waiterItem(name, w)}})
		}
		if w == to.Own || !read && to.Waiting > lock.QueueHead {
			writes = append(writes, types.TransactWriteItem{Update: s.placeOf(name, w)})
		}
	}
	for _, w := range was {
		e := newExpression()
		condition := e.waiterIs(c.Guard, w.Key)
		writes = append(writes, types.TransactWriteItem{Delete: &types.Delete{
			TableName: aws.String(s.table), Key: waiterKey(name, w.Ticket), ConditionExpression: aws.String(condition),
			ExpressionAttributeNames: e.names, ExpressionAttributeValues: e.values,
		}})
	}
	return writes
}

// changeWaiter writes what differs of a waiter that was read, so that attributes which this version does not know are kept.
func (s *Store) changeWaiter(name string, c lock.Command, from, to lock.Waiter) *types.Update {
	e := newExpression()
	condition := e.waiterIs(c.Guard, to.Key)
	e.assignNum(e.name(attrUntil), to.Until)
	e.assignNum(e.name(attrTTL), waiterTTL(to.Until))
	if was, want := wantAttributes(from), wantAttributes(to); !reflect.DeepEqual(was, want) { // DynamoDB refuses an alias that is not used
		e.becomeMap(e.name(attrWant), was, want)
	}
	update := "SET " + strings.Join(e.set, ", ")
	if len(e.remove) > 0 {
		update += " REMOVE " + strings.Join(e.remove, ", ")
	}
	return &types.Update{
		TableName: aws.String(s.table), Key: waiterKey(name, to.Ticket), ConditionExpression: aws.String(condition), UpdateExpression: aws.String(update),
		ExpressionAttributeNames: e.names, ExpressionAttributeValues: e.values,
	}
}

// placeOf writes the item that names a waiter's ticket, unless there is one of another ticket.
func (s *Store) placeOf(name string, w lock.Waiter) *types.Update {
	e := newExpression()
	condition := fmt.Sprintf("attribute_not_exists(%s) OR %s = %s", e.name(attrPK), e.name(attrTicket), e.num(w.Ticket))
	e.assignNum(e.name(attrTicket), w.Ticket)
	e.assignNum(e.name(attrTTL), placeTTL(w.Until))
	return &types.Update{
		TableName: aws.String(s.table), Key: placeKey(name, w.Key), ConditionExpression: aws.String(condition),
		UpdateExpression: aws.String("SET " + strings.Join(e.set, ", ")), ExpressionAttributeNames: e.names, ExpressionAttributeValues: e.values,
	}
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
			if h.Execution != "" && lock.LeadsSet(name, h.Set) {
				all[lock.Binding{Lock: name, Key: k, Set: h.Set}] = h.Execution
			}
		}
		for _, w := range r.Places() {
			if w.Execution != "" && lock.LeadsSet(name, w.Set) {
				all[lock.Binding{Lock: name, Key: w.Key, Set: w.Set}] = w.Execution
			}
		}
		return all
	}
	writes = s.besideQueue(name, c, from, to)
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
			it.strings(map[string]string{attrSet: b.Set})
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
		before.Queue, before.Own = nil, lock.Waiter{}
		after := c.Next(before)
		after.Queue = nil
		s.keepTexts(ctx, name, before, after)
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
	if changed(canceled.CancellationReasons) {
		// A waiter was kept, or has joined, since it was read: decide on what is stored now.
		return s.again(ctx, name, true)
	}
	if slices.ContainsFunc(canceled.CancellationReasons, func(r types.CancellationReason) bool { return aws.ToString(r.Code) == "TransactionConflict" }) {
		// Another write was under way: decide on the record that it left.
		return s.again(ctx, name, false)
	}
	return lock.Reply{}, s.fault(ctx, "TransactWriteItems", err)
}

// changed reports whether a transaction was cancelled because an item is not as it was read.
func changed(reasons []types.CancellationReason) bool {
	return slices.ContainsFunc(reasons, func(r types.CancellationReason) bool { return aws.ToString(r.Code) == "ConditionalCheckFailed" })
}

// again is the refusal of a command whose record was not returned.
func (s *Store) again(ctx context.Context, name string, places bool) (lock.Reply, error) {
	reply, err := s.Get(ctx, name)
	if err != nil {
		return lock.Reply{}, err
	}
	return lock.Reply{}, &lock.GuardError{Current: reply.After, Offset: reply.Offset, Places: places}
}

// Bound implements [lock.Store]. An item of an execution that names no lease is of a newer version: it stays.
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
			b := lock.Binding{Lock: d.str(attrLock), Key: lock.LeaseKey(d.str(attrLease)), Set: d.str(attrSet)}
			if d.err != nil {
				return nil, s.corrupt(execution, d.err)
			}
			if b.Lock != "" && b.Key != "" {
				list = append(list, b)
			}
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
