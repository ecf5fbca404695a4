package dynamo

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// expression compiles a command to the condition and the update of one UpdateItem. Every attribute name is aliased
// ("#free_at"), since many are reserved words, and so is every value.
type expression struct {
	names  map[string]string
	values item
	number map[int64]string // aliases of numbers, which repeat: a shorter request
	set    []string
	remove []string
}

func compile(table, name string, c lock.Command) *dynamodb.UpdateItemInput {
	e := &expression{names: map[string]string{}, values: item{}, number: map[int64]string{}}
	condition := e.guard(c)
	e.effect(c.Effect)
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

func (e *expression) name(attr string) string {
	alias := "#" + attr
	e.names[alias] = attr
	return alias
}

func (e *expression) value(v types.AttributeValue) string {
	alias := ":v" + strconv.Itoa(len(e.values))
	e.values[alias] = v
	return alias
}

func (e *expression) num(n int64) string {
	alias, known := e.number[n]
	if !known {
		alias = e.value(num(n))
		e.number[n] = alias
	}
	return alias
}

// holder is the path of a lease. A command's clauses and effect are about one lease; only a swap touches several.
func (e *expression) holder(key lock.LeaseKey) string {
	alias := "#lease"
	for n := 2; e.names[alias] != "" && e.names[alias] != string(key); n++ {
		alias = "#lease" + strconv.Itoa(n)
	}
	e.names[alias] = string(key)
	return e.name(attrHolders) + "." + alias
}

func (e *expression) guard(c lock.Command) string {
	clauses := []string{"attribute_exists(" + e.name(attrPK) + ")"} // a clause that denies something holds of no row too
	for _, clause := range c.Guard {
		clauses = append(clauses, e.clause(clause))
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
	case lock.NotRetired: // "NOT =", because a record that retired nobody has no such attribute
		return "NOT " + e.name(attrRetired) + " = " + e.value(str(string(c.Lease)))
	case lock.LeaseOutlives:
		return e.holder(c.Lease) + "." + e.name(attrExpiresAt) + " > " + e.num(c.N)
	case lock.LeaseExpiredBy:
		return e.holder(c.Lease) + "." + e.name(attrExpiresAt) + " <= " + e.num(c.N)
	case lock.LeaseTTLIs:
		return e.holder(c.Lease) + "." + e.name(attrTTLms) + " = " + e.num(c.N)
	case lock.LeaseClaimed:
		return "attribute_exists(" + e.holder(c.Lease) + ") AND attribute_not_exists(" + e.holder(c.Lease) + "." + e.name(attrUnclaimed) + ")"
	case lock.OnlyHolder:
		return "size(" + e.name(attrHolders) + ") = " + e.num(1)
	case lock.RevIs:
		return e.name(attrRev) + " = " + e.num(c.N)
	case lock.FenceIs:
		return e.name(attrFence) + " = " + e.num(c.N)
	}
	panic(fmt.Sprintf("dynamo: no condition for clause %v", c.Test))
}

func (e *expression) assign(path string, v types.AttributeValue) {
	e.set = append(e.set, path+" = "+e.value(v))
}

func (e *expression) assignNum(path string, n int64) {
	e.set = append(e.set, path+" = "+e.num(n))
}

func (e *expression) effect(effect lock.Effect) {
	switch f := effect.(type) {
	case lock.Grant:
		e.assign(e.name(attrHolders), &types.AttributeValueMemberM{Value: item{string(f.Lease): holderItem(f.Holder)}})
		e.assignNum(e.name(attrCapacity), f.Capacity)
		e.assignNum(e.name(attrFence), f.Holder.Fence)
		e.assignNum(e.name(attrFreeAt), f.Holder.ExpiresAt)
		for _, attr := range []string{attrWaiting, attrNextTicket} {
			e.set = append(e.set, fmt.Sprintf("%s = if_not_exists(%s, %s)", e.name(attr), e.name(attr), e.num(0)))
		}
	case lock.Extend:
		h := e.holder(f.Lease)
		e.assignNum(h+"."+e.name(attrExpiresAt), f.ExpiresAt)
		e.assignNum(h+"."+e.name(attrRenewedAt), f.RenewedAt)
		e.assignNum(h+"."+e.name(attrTTLms), f.TTL)
		if f.Metadata != nil {
			e.metadata(f.Lease, *f.Metadata)
		}
		e.assignNum(e.name(attrFreeAt), f.ExpiresAt)
	case lock.End:
		e.assign(e.name(attrRetired), str(string(f.Lease)))
		e.set = append(e.set, e.name(attrRetiredFence)+" = "+e.holder(f.Lease)+"."+e.name(attrFence))
		e.assignNum(e.name(attrRetiredAt), f.At)
		e.assign(e.name(attrRetiredCause), str(string(f.Cause)))
		e.assign(e.name(attrHolders), &types.AttributeValueMemberM{Value: item{}})
		e.assignNum(e.name(attrFreeAt), 0)
	case lock.Become:
		e.become(f.From, f.To)
	default:
		panic(fmt.Sprintf("dynamo: no update for effect %T", effect))
	}
}

func (e *expression) metadata(k lock.LeaseKey, metadata string) {
	path := e.holder(k) + "." + e.name(attrMetadata)
	if metadata == "" {
		e.remove = append(e.remove, path)
	} else {
		e.assign(path, str(metadata))
	}
}

// become writes what differs, holder by holder, so that attributes this version doesn't know stay where they are.
func (e *expression) become(from, to lock.Record) {
	if from.Rev == 0 { // a new row, with no map to put holders in
		all := item{}
		for k, h := range to.Holders {
			all[string(k)] = holderItem(h)
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
	if to.Retired != from.Retired {
		e.assign(e.name(attrRetired), str(string(to.Retired.Lease)))
		e.assignNum(e.name(attrRetiredFence), to.Retired.Fence)
		e.assignNum(e.name(attrRetiredAt), to.Retired.At)
		e.assign(e.name(attrRetiredCause), str(string(to.Retired.Cause)))
	}
}

func (e *expression) becomeHolders(from, to lock.Record) {
	for k, h := range to.Holders {
		was, there := from.Holders[k]
		if !there || was.Fence != h.Fence {
			e.assign(e.holder(k), holderItem(h))
			continue
		}
		if was.Metadata != h.Metadata {
			e.metadata(k, h.Metadata)
		}
		if was.Token != h.Token {
			e.assign(e.holder(k)+"."+e.name(attrToken), str(h.Token))
		}
		for attr, n := range map[string][2]int64{
			attrExpiresAt: {was.ExpiresAt, h.ExpiresAt}, attrRenewedAt: {was.RenewedAt, h.RenewedAt}, attrTTLms: {was.TTL, h.TTL},
			attrUnclaimed: {flag(was.Unclaimed), flag(h.Unclaimed)}, attrAttempted: {attempted(was), attempted(h)}, attrCheckAt: {was.CheckAt, h.CheckAt},
		} {
			switch {
			case n[0] == n[1]: // and no alias: one that nothing uses is refused
			case n[1] == 0:
				e.remove = append(e.remove, e.holder(k)+"."+e.name(attr))
			default:
				e.assignNum(e.holder(k)+"."+e.name(attr), n[1])
			}
		}
	}
	for k := range from.Holders {
		if _, stays := to.Holders[k]; !stays {
			e.remove = append(e.remove, e.holder(k))
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
