// Package fencing adds a lease's fencing token to writes to DynamoDB, so that the table refuses the writes of a holder that was
// paused, lost its lock meanwhile, and does not know it yet.
//
//	guard := fencing.Guard{Fence: lease.Fence()}
//	input := &dynamodb.UpdateItemInput{...}
//	guard.Update(input)
//	_, err := table.UpdateItem(ctx, input)
//	if guard.Stale(err) { ... } // a newer holder has written: stop
//
// An item keeps the highest token of its writes, and a write with a lower token fails. This protects an item only if all its
// writers use a Guard with tokens of the same lock. docs/fencing.md shows the same for SQL and S3.
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

// A Guard lets a write succeed only if no write with a higher fencing token has succeeded on the item.
type Guard struct {
	Fence     int64  // the fencing token of the lease under which the write is made
	Attribute string // the attribute of the item that has the token; empty means "fence"
}

// The placeholders in expressions, which are unlikely to be a caller's too.
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

// Condition returns the condition and its placeholders, for callers that build expressions themselves. The write must also set the
// attribute to the token.
func (g Guard) Condition() (expression string, names map[string]string, values map[string]types.AttributeValue) {
	return "(attribute_not_exists(" + nameAlias + ") OR " + nameAlias + " <= " + valueAlias + ")",
		map[string]string{nameAlias: g.attribute()}, map[string]types.AttributeValue{valueAlias: g.value()}
}

// add combines the condition with the write's own. It also makes DynamoDB return the item when a condition fails, which Stale
// needs.
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

// Put adds the token to the item and the condition to the write's own.
func (g Guard) Put(in *dynamodb.PutItemInput) {
	in.Item = merge(in.Item, map[string]types.AttributeValue{g.attribute(): g.value()})
	g.add(&in.ConditionExpression, &in.ExpressionAttributeNames, &in.ExpressionAttributeValues, &in.ReturnValuesOnConditionCheckFailure)
}

// Update adds the token to the update expression and the condition to the write's own. The input must not use the legacy
// AttributeUpdates.
func (g Guard) Update(in *dynamodb.UpdateItemInput) {
	in.UpdateExpression = withSet(in.UpdateExpression)
	g.add(&in.ConditionExpression, &in.ExpressionAttributeNames, &in.ExpressionAttributeValues, &in.ReturnValuesOnConditionCheckFailure)
}

// Delete adds the condition to the write's own. The token is deleted with the item, so that an older holder can create the item
// again. Where that matters, mark the item as deleted with Update instead.
func (g Guard) Delete(in *dynamodb.DeleteItemInput) {
	g.add(&in.ConditionExpression, &in.ExpressionAttributeNames, &in.ExpressionAttributeValues, &in.ReturnValuesOnConditionCheckFailure)
}

// TransactPut is Put for a Put in a transaction.
func (g Guard) TransactPut(in *types.Put) {
	in.Item = merge(in.Item, map[string]types.AttributeValue{g.attribute(): g.value()})
	g.add(&in.ConditionExpression, &in.ExpressionAttributeNames, &in.ExpressionAttributeValues, &in.ReturnValuesOnConditionCheckFailure)
}

// TransactUpdate is Update for an Update in a transaction.
func (g Guard) TransactUpdate(in *types.Update) {
	in.UpdateExpression = withSet(in.UpdateExpression)
	g.add(&in.ConditionExpression, &in.ExpressionAttributeNames, &in.ExpressionAttributeValues, &in.ReturnValuesOnConditionCheckFailure)
}

// setKeyword matches the SET keyword of an update expression. Attribute names cannot be keywords there.
var setKeyword = regexp.MustCompile(`(?i)(^|[\s,)])SET\s`)

// withSet adds the token to the SET clause of an update expression, or adds a SET clause.
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

// Stale reports whether a write failed because a write with a higher token has succeeded on the item. Then there is a newer holder,
// and this one must stop. Stale is false for other failures, such as that of the write's own condition.
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
