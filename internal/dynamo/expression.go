package dynamo

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// expression compiles a command to the condition and the update of one UpdateItem. Every value has an alias, and every attribute name
// that is not in plainNames ("#capacity").
type expression struct {
	names   map[string]string
	values  item
	numbers map[string]string // aliases of numbers, by their text
	set     []string
	remove  []string
}

func newExpression() *expression {
	return &expression{names: map[string]string{}, values: item{}, numbers: map[string]string{}}
}

func compile(table, name string, c lock.Command) *dynamodb.UpdateItemInput {
	e := newExpression()
	condition := e.guard(c)
	e.effect(c)
	switch c.Effect.(type) {
	case lock.Grant, lock.Become: // they may make the row
		e.assign(e.name(attrIndex), str(indexPart(name)))
	}
	e.stamp(c.Stamp)
	update := "SET " + strings.Join(e.set, ", ")
	if len(e.remove) > 0 {
		update += " REMOVE " + strings.Join(e.remove, ", ")
	}
	update += " ADD " + e.name(attrRev) + " " + e.num(1)
	return &dynamodb.UpdateItemInput{
		TableName:                           aws.String(table),
		Key:                                 key(name),
		ConditionExpression:                 aws.String(condition),
		UpdateExpression:                    aws.String(update),
		ExpressionAttributeNames:            e.names,
		ExpressionAttributeValues:           e.values,
		ReturnValues:                        types.ReturnValueAllOld,
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	}
}

// plainNames are the attributes of the common commands whose names are no reserved words of DynamoDB, so that they need no alias. Each
// alias makes the request longer and DynamoDB's parsing slower.
var plainNames = map[string]bool{
	attrPK: true, attrRev: true, attrFence: true, attrHolders: true, attrFreeAt: true, attrWaiting: true, attrCause: true,
	attrRetired: true, attrRetiredFence: true, attrRetiredAt: true, attrRetiredCause: true,
	attrIndex: true, attrLeaseFence: true, attrExpiresAt: true, attrRenewedAt: true, attrTTLms: true, attrUnclaimed: true, attrMaxTTL: true, attrEndsAt: true,
}

// name returns how expressions name an attribute.
func (e *expression) name(attr string) string {
	if plainNames[attr] {
		return attr
	}
	alias := "#" + attr
	e.names[alias] = attr
	return alias
}

// value returns the alias of a value. Equal numbers share one, which makes the request shorter.
func (e *expression) value(v types.AttributeValue) string {
	n, isNumber := v.(*types.AttributeValueMemberN)
	if isNumber && e.numbers[n.Value] != "" {
		return e.numbers[n.Value]
	}
	alias := ":v" + strconv.Itoa(len(e.values))
	e.values[alias] = v
	if isNumber {
		e.numbers[n.Value] = alias
	}
	return alias
}

func (e *expression) num(n int64) string { return e.value(num(n)) }

// holder is the path of a lease. The clauses and the effect of a command concern one lease; only a swap changes several.
func (e *expression) holder(key lock.LeaseKey) string {
	alias := "#lease"
	for n := 2; e.names[alias] != "" && e.names[alias] != string(key); n++ {
		alias = "#lease" + strconv.Itoa(n)
	}
	e.names[alias] = string(key)
	return e.name(attrHolders) + "." + alias
}

func (e *expression) guard(c lock.Command) string {
	clauses := []string{"attribute_exists(" + e.name(attrPK) + ")"} // a negated clause also holds for a missing row
	for _, clause := range c.Guard {
		if clause.Test != lock.PlaceUntil { // a condition on the waiter's own item: see beside
			clauses = append(clauses, e.clause(clause))
		}
	}
	if c.Absent {
		return "attribute_not_exists(" + e.name(attrPK) + ") OR (" + strings.Join(clauses[1:], " AND ") + ")"
	}
	return strings.Join(clauses, " AND ")
}

func (e *expression) clause(c lock.Clause) string {
	switch c.Test {
	case lock.FreeBy:
		return e.name(attrFreeAt) + " <= " + e.num(c.N)
	case lock.NobodyWaiting:
		return e.name(attrWaiting) + " = " + e.num(0)
	case lock.FenceBelow:
		return e.name(attrFence) + " < " + e.num(c.N)
	case lock.NotRetired: // "NOT =": a record without a retired lease has no such attribute
		return "NOT " + e.name(attrRetired) + " = " + e.value(str(string(c.Key)))
	case lock.LeaseOutlives:
		return e.holder(c.Key) + "." + e.name(attrExpiresAt) + " > " + e.num(c.N)
	case lock.LeaseExpiredBy:
		return e.holder(c.Key) + "." + e.name(attrExpiresAt) + " <= " + e.num(c.N)
	case lock.LeaseTTLIs:
		return e.holder(c.Key) + "." + e.name(attrTTLms) + " = " + e.num(c.N)
	case lock.LeaseTTLAllows:
		return e.allows(c, attrMaxTTL)
	case lock.LeaseMayLast:
		return e.allows(c, attrEndsAt)
	case lock.LeaseClaimed:
		return "attribute_exists(" + e.holder(c.Key) + ") AND attribute_not_exists(" + e.holder(c.Key) + "." + e.name(attrUnclaimed) + ")"
	case lock.OnlyHolder:
		return "size(" + e.name(attrHolders) + ") = " + e.num(1)
	case lock.RevIs:
		return e.name(attrRev) + " = " + e.num(c.N)
	case lock.FenceIs:
		return e.name(attrFence) + " = " + e.num(c.N)
	}
	panic(fmt.Sprintf("dynamo: no condition for clause %v", c.Test))
}

// allows is the condition that a limit of a lease, if it has one, is no less than a number. "NOT <": a lease without the limit has no such attribute.
func (e *expression) allows(c lock.Clause, limit string) string {
	holder := e.holder(c.Key)
	return "attribute_exists(" + holder + ") AND NOT " + holder + "." + e.name(limit) + " < " + e.num(c.N)
}

func (e *expression) assign(path string, v types.AttributeValue) {
	e.set = append(e.set, path+" = "+e.value(v))
}

func (e *expression) assignNum(path string, n int64) { e.assign(path, num(n)) }

func (e *expression) effect(c lock.Command) {
	switch f := c.Effect.(type) {
	case lock.Grant:
		e.assign(e.name(attrHolders), &types.AttributeValueMemberM{Value: item{string(f.Key): leaseItem(f.Lease)}})
		e.assignNum(e.name(attrCapacity), f.Capacity)
		e.assignNum(e.name(attrFence), f.Lease.Fence)
		e.assignNum(e.name(attrFreeAt), f.Lease.ExpiresAt)
		if slices.ContainsFunc(c.Guard, func(c lock.Clause) bool { return c.Test == lock.NobodyWaiting }) {
			e.assignNum(e.name(attrWaiting), 0) // which it was, if there was a row
		} else {
			e.set = append(e.set, fmt.Sprintf("%s = if_not_exists(%s, %s)", e.name(attrWaiting), e.name(attrWaiting), e.num(0)))
		}
	case lock.Extend:
		h := e.holder(f.Key)
		e.assignNum(h+"."+e.name(attrExpiresAt), f.ExpiresAt)
		e.assignNum(h+"."+e.name(attrTTLms), f.TTL)
		if renewed := h + "." + e.name(attrRenewedAt); f.RenewedAt == f.ExpiresAt-f.TTL {
			e.remove = append(e.remove, renewed)
		} else {
			e.assignNum(renewed, f.RenewedAt)
		}
		if f.Metadata != nil { // if it is empty, too: of a split lease, there may be older metadata elsewhere
			e.assign(h+"."+e.name(attrMetadata), str(*f.Metadata))
		}
		e.assignNum(e.name(attrFreeAt), f.ExpiresAt)
	case lock.End:
		e.assign(e.name(attrRetired), str(string(f.Key)))
		e.set = append(e.set, e.name(attrRetiredFence)+" = "+e.holder(f.Key)+"."+e.name(attrLeaseFence))
		e.assignNum(e.name(attrRetiredAt), f.At)
		e.assign(e.name(attrRetiredCause), str(string(f.Cause)))
		e.assign(e.name(attrHolders), &types.AttributeValueMemberM{Value: item{}})
		e.assignNum(e.name(attrFreeAt), 0)
	case lock.Become:
		e.become(f.From, f.To)
	default:
		panic(fmt.Sprintf("dynamo: no update for effect %T", c.Effect))
	}
}

// become writes the attributes that differ, lease by lease, so that attributes which this version does not know are kept.
func (e *expression) become(from, to lock.Record) {
	if from.Rev == 0 { // a new row has no map of holders
		all := item{}
		for k, h := range to.Holders {
			all[string(k)] = leaseItem(h)
		}
		e.assign(e.name(attrHolders), &types.AttributeValueMemberM{Value: all})
	} else {
		e.becomeHolders(from, to)
	}
	e.assignNum(e.name(attrCapacity), to.Capacity)
	e.assignNum(e.name(attrFence), to.Fence)
	e.assignNum(e.name(attrFreeAt), to.FreeAt)
	e.assignNum(e.name(attrWaiting), to.Waiting)
	e.assignNum(e.name(attrNextTicket), to.NextTicket)
	e.assignNum(e.name(attrHead), to.Head)
	switch {
	case slices.Equal(to.Grants, from.Grants):
	case len(to.Grants) == 0:
		e.remove = append(e.remove, e.name(attrGrants))
	default:
		e.assign(e.name(attrGrants), numList(to.Grants))
	}
	if to.Retired != from.Retired {
		e.assign(e.name(attrRetired), str(string(to.Retired.Key)))
		e.assignNum(e.name(attrRetiredFence), to.Retired.Fence)
		e.assignNum(e.name(attrRetiredAt), to.Retired.At)
		e.assign(e.name(attrRetiredCause), str(string(to.Retired.Cause)))
	}
}

func (e *expression) becomeHolders(from, to lock.Record) {
	for k, h := range to.Holders {
		was, there := from.Holders[k]
		if !there || was.Fence != h.Fence {
			if splits(h) {
				h = withoutTexts(h)
			}
			e.assign(e.holder(k), leaseItem(h))
			continue
		}
		if was == h { // most leases of a semaphore: spares making their attributes
			continue
		}
		e.becomeMap(e.holder(k), leaseAttributes(was), leaseAttributes(h))
	}
	for k := range from.Holders {
		if _, stays := to.Holders[k]; !stays {
			e.remove = append(e.remove, e.holder(k))
		}
	}
}

// becomeMap writes the attributes of the map at a path, a lease or its terms, that differ. It makes no alias for the others: DynamoDB refuses a request
// with an alias that no expression uses.
func (e *expression) becomeMap(path string, from, to item) {
	for attr, v := range to {
		if !reflect.DeepEqual(from[attr], v) {
			e.assign(path+"."+e.name(attr), v)
		}
	}
	for attr := range from {
		if _, stays := to[attr]; !stays {
			e.remove = append(e.remove, path+"."+e.name(attr))
		}
	}
}

func (e *expression) stamp(s lock.Stamp) {
	e.assign(e.name(attrCause), str(string(s.Cause)))
	for attr, v := range map[string]string{attrBy: s.By, attrReason: s.Reason} {
		if v == "" {
			e.remove = append(e.remove, e.name(attr))
		} else {
			e.assign(e.name(attr), str(v))
		}
	}
	if s.TTL == 0 {
		e.remove = append(e.remove, e.name(attrTTL))
	} else {
		e.assignNum(e.name(attrTTL), s.TTL)
	}
}
