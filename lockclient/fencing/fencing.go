// Package fencing puts a lease's fencing token into writes to DynamoDB, so that the table refuses a holder that was paused
// and does not know that its lock has passed on.
//
//	guard := fencing.Guard{Fence: lease.Fence()}
//	input := &dynamodb.UpdateItemInput{...}
//	guard.Update(input)
//	_, err := table.UpdateItem(ctx, input)
//	if guard.Stale(err) { ... } // a newer holder has written: stop
//
// The item keeps the highest token that wrote it; a write with a lower one fails. Every writer of the item must use a guard,
// of the same lock. docs/fencing.md has the same for SQL and S3.
package fencing

import (
	"errors"
	"maps"
	"regexp"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// defaultAttribute is the attribute that has an item's token if a Guard names no other.
const defaultAttribute = "fence"

// A Guard lets a write pass if no higher fencing token has written the item before.
type Guard struct {
	Fence     int64  // of the lease that the write is made under
	Attribute string // that keeps the token; empty: fence
}

// Placeholders that are unlikely to meet a caller's own.
const (
	nameAlias  = "#holdfast_fence"
	valueAlias = ":holdfast_fence"
)

func (g Guard) attribute() string {
	if g.Attribute == "" {
		return defaultAttribute
	}
	return g.Attribute
}

func (g Guard) value() types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(g.Fence, 10)}
}

// Condition is the condition by itself, with its placeholders, for those who build expressions otherwise. What is written
// must set the attribute to the token as well.
func (g Guard) Condition() (expression string, names map[string]string, values map[string]types.AttributeValue) {
	return "(attribute_not_exists(" + nameAlias + ") OR " + nameAlias + " <= " + valueAlias + ")",
		map[string]string{nameAlias: g.attribute()}, map[string]types.AttributeValue{valueAlias: g.value()}
}

// add puts the condition beside one that is there, and asks for the item with a refusal, so that Stale can tell why.
func (g Guard) add(condition **string, names *map[string]string, values *map[string]types.AttributeValue, onFailure *types.ReturnValuesOnConditionCheckFailure) {
	expression, n, v := g.Condition()
	if *condition != nil && **condition != "" {
		expression += " AND (" + **condition + ")"
	}
	*condition = &expression
	*names, *values = merge(*names, n), merge(*values, v)
	*onFailure = types.ReturnValuesOnConditionCheckFailureAllOld
}

func merge[V any](a, b map[string]V) map[string]V {
	out := make(map[string]V, len(a)+len(b))
	for _, m := range []map[string]V{a, b} {
		maps.Copy(out, m)
	}
	return out
}

// Put guards a PutItem: the item gets the token, and a condition is added to the one that is there.
func (g Guard) Put(in *dynamodb.PutItemInput) {
	in.Item = merge(in.Item, map[string]types.AttributeValue{g.attribute(): g.value()})
	g.add(&in.ConditionExpression, &in.ExpressionAttributeNames, &in.ExpressionAttributeValues, &in.ReturnValuesOnConditionCheckFailure)
}

// Update guards an UpdateItem: the update also sets the token, and a condition is added to the one that is there. The input
// must use an update expression, not the legacy AttributeUpdates.
func (g Guard) Update(in *dynamodb.UpdateItemInput) {
	in.UpdateExpression = withSet(in.UpdateExpression)
	g.add(&in.ConditionExpression, &in.ExpressionAttributeNames, &in.ExpressionAttributeValues, &in.ReturnValuesOnConditionCheckFailure)
}

// Delete guards a DeleteItem. A deleted item forgets its token, so an older holder may make it anew: rather mark it deleted
// with an Update where that matters.
func (g Guard) Delete(in *dynamodb.DeleteItemInput) {
	g.add(&in.ConditionExpression, &in.ExpressionAttributeNames, &in.ExpressionAttributeValues, &in.ReturnValuesOnConditionCheckFailure)
}

// TransactPut guards a Put of a transaction, as Put does.
func (g Guard) TransactPut(in *types.Put) {
	in.Item = merge(in.Item, map[string]types.AttributeValue{g.attribute(): g.value()})
	g.add(&in.ConditionExpression, &in.ExpressionAttributeNames, &in.ExpressionAttributeValues, &in.ReturnValuesOnConditionCheckFailure)
}

// TransactUpdate guards an Update of a transaction, as Update does.
func (g Guard) TransactUpdate(in *types.Update) {
	in.UpdateExpression = withSet(in.UpdateExpression)
	g.add(&in.ConditionExpression, &in.ExpressionAttributeNames, &in.ExpressionAttributeValues, &in.ReturnValuesOnConditionCheckFailure)
}

// setKeyword finds an update expression's SET clause: keywords are no names there.
var setKeyword = regexp.MustCompile(`(?i)(^|[\s,)])SET\s`)

// withSet adds the token to an update expression's SET clause, or adds a clause.
func withSet(update *string) *string {
	set := nameAlias + " = " + valueAlias
	if update == nil || *update == "" {
		out := "SET " + set
		return &out
	}
	if at := setKeyword.FindStringIndex(*update); at != nil {
		out := (*update)[:at[1]] + set + ", " + (*update)[at[1]:]
		return &out
	}
	out := *update + " SET " + set
	return &out
}

// Stale tells whether a write failed because a higher token has written the item: a newer holder is at work, and this one
// must stop. A failure of the caller's own condition, or of anything else, is not stale.
func (g Guard) Stale(err error) bool {
	if failed, ok := errors.AsType[*types.ConditionalCheckFailedException](err); ok {
		return g.newer(failed.Item)
	}
	if canceled, ok := errors.AsType[*types.TransactionCanceledException](err); ok {
		for _, reason := range canceled.CancellationReasons {
			if reason.Code != nil && *reason.Code == "ConditionalCheckFailed" && g.newer(reason.Item) {
				return true
			}
		}
	}
	return false
}

func (g Guard) newer(item map[string]types.AttributeValue) bool {
	n, ok := item[g.attribute()].(*types.AttributeValueMemberN)
	if !ok {
		return false
	}
	fence, err := strconv.ParseInt(n.Value, 10, 64)
	return err == nil && fence > g.Fence
}
