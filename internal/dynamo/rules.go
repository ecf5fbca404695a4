package dynamo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// Prefix rules are items of one partition, so that one consistent Query reads them all, for a read unit per 4 KB and one at least. DynamoDB
// gives a partition 3,000 read units a second: enough for 3,000 processes whose rules take up to 4 KB together, of which each reads them once a second.

// PrefixRules implements [lock.Store] with one Query, if the rules take less than 1 MB.
func (s *Store) PrefixRules(ctx context.Context) (list []lock.PrefixRule, err error) {
	var start item
	for {
		out, err := s.client.Query(ctx, &dynamodb.QueryInput{
			TableName: aws.String(s.table), ConsistentRead: aws.Bool(true), ExclusiveStartKey: start,
			KeyConditionExpression:    aws.String("#pk = :rules AND begins_with(#sk, :rule)"),
			ExpressionAttributeNames:  map[string]string{"#pk": attrPK, "#sk": attrSK},
			ExpressionAttributeValues: item{":rules": str(pkRules), ":rule": str(skRule)},
		})
		if err != nil {
			return nil, s.fault(ctx, "Query", err)
		}
		for _, it := range out.Items {
			p, err := decodeRule(it)
			if err != nil {
				return nil, &lock.StoreError{
					Kind: lock.ErrMisconfigured, What: fmt.Sprintf("an item of the prefix rules in table %q cannot be read, so that nothing is granted: a freeze may be in it", s.table),
					Fix: fmt.Sprintf("correct or delete the item of the partition %q; something else writes to the table", pkRules), Err: err,
				}
			}
			list = append(list, p)
		}
		if start = out.LastEvaluatedKey; start == nil {
			return list, nil
		}
	}
}

// PutPrefixRule implements [lock.Store] with one UpdateItem. Attributes that this version does not know stay.
func (s *Store) PutPrefixRule(ctx context.Context, p lock.PrefixRule) error {
	e := newExpression()
	condition := "attribute_not_exists(" + e.name(attrPK) + ")"
	if p.Rev > 1 {
		condition = e.name(attrRev) + " = " + e.num(p.Rev-1)
	}
	e.assignNum(e.name(attrRev), p.Rev)
	e.assignNum(e.name(attrAt), p.At)
	optional := item{attrTTL: nil, attrBy: nil, attrFreeze: nil, attrLimits: nil, attrHistory: nil}
	optional.numbers(map[string]int64{attrTTL: p.TTL})
	optional.strings(map[string]string{attrBy: p.By})
	if p.Freeze != nil {
		optional[attrFreeze] = &types.AttributeValueMemberM{Value: freezeItem(p.Freeze)}
	}
	if k := p.History; k != nil {
		m := item{attrKeep: num(k.For), attrAt: num(k.At)}
		m.strings(map[string]string{attrBy: k.By})
		optional[attrHistory] = &types.AttributeValueMemberM{Value: m}
	}
	if p.Limits != nil {
		optional[attrLimits] = &types.AttributeValueMemberM{Value: limitsItem(p.Limits)}
	}
	for attr, v := range optional {
		if v == nil {
			e.remove = append(e.remove, e.name(attr))
		} else {
			e.assign(e.name(attr), v)
		}
	}
	update := "SET " + strings.Join(e.set, ", ")
	if len(e.remove) > 0 {
		update += " REMOVE " + strings.Join(e.remove, ", ")
	}
	_, err := s.client.UpdateItem(ctx, &dynamodb.UpdateItemInput{
		TableName: aws.String(s.table), Key: item{attrPK: str(pkRules), attrSK: str(skRule + p.Prefix)},
		ConditionExpression: aws.String(condition), UpdateExpression: aws.String(update),
		ExpressionAttributeNames: e.names, ExpressionAttributeValues: e.values,
	})
	if _, failed := errors.AsType[*types.ConditionalCheckFailedException](err); failed {
		return lock.ErrRuleChanged
	}
	if err != nil {
		return s.fault(ctx, "UpdateItem", err)
	}
	return nil
}

func freezeItem(f *lock.Freeze) item {
	m := item{attrUntil: num(f.Until), attrAt: num(f.At), attrReason: str(f.Reason)}
	m.strings(map[string]string{attrBy: f.By})
	return m
}

func limitsItem(l *lock.Limits) item {
	m := item{attrAt: num(l.At)}
	m.strings(map[string]string{attrBy: l.By})
	m.numbers(map[string]int64{
		attrLimitCapacity: l.Capacity, attrLimitTTL: l.MaxTTL, attrLimitHold: l.MaxHold, attrLimitQueue: l.MaxQueue, attrLimitPrincipal: l.MaxPerPrincipal,
		attrLimitGrants: l.Rate.Grants, attrLimitPeriod: l.Rate.Period,
	})
	for attr, v := range newerAttributes(l.Newer) {
		if !limitsKnown[attr] {
			m[attr] = v
		}
	}
	return m
}

// limitsKnown are the attributes of a rule's limits that this version knows.
var limitsKnown = map[string]bool{
	attrAt: true, attrBy: true, attrLimitCapacity: true, attrLimitTTL: true, attrLimitHold: true, attrLimitQueue: true, attrLimitPrincipal: true,
	attrLimitGrants: true, attrLimitPeriod: true,
}

func decodeLimits(m item) (*lock.Limits, error) {
	if m == nil {
		return nil, nil
	}
	d := decoder{it: m}
	return &lock.Limits{
		Capacity: d.num(attrLimitCapacity), MaxTTL: d.num(attrLimitTTL), MaxHold: d.num(attrLimitHold), MaxQueue: d.num(attrLimitQueue),
		MaxPerPrincipal: d.num(attrLimitPrincipal), Rate: lock.Rate{Grants: d.num(attrLimitGrants), Period: d.num(attrLimitPeriod)}, By: d.str(attrBy), At: d.num(attrAt), Newer: newerText(m, limitsKnown),
	}, d.err
}

// decodeRule reads a prefix rule from an item. No item is the zero rule.
func decodeRule(it item) (p lock.PrefixRule, err error) {
	if len(it) == 0 {
		return p, nil
	}
	d := decoder{it: it}
	prefix, ok := strings.CutPrefix(d.str(attrSK), skRule)
	p = lock.PrefixRule{Prefix: prefix, Rev: d.num(attrRev), By: d.str(attrBy), At: d.num(attrAt), TTL: d.num(attrTTL), Unknown: unknownParts(it)}
	if m := d.m(attrFreeze); m != nil {
		of := decoder{it: m}
		p.Freeze = &lock.Freeze{Prefix: prefix, Until: of.num(attrUntil), Reason: of.str(attrReason), By: of.str(attrBy), At: of.num(attrAt)}
		d.err = cmp.Or(d.err, of.err)
	}
	if m := d.m(attrHistory); m != nil {
		of := decoder{it: m}
		p.History = &lock.Keeping{Prefix: prefix, For: of.num(attrKeep), By: of.str(attrBy), At: of.num(attrAt)}
		d.err = cmp.Or(d.err, of.err)
	}
	limits, err := decodeLimits(d.m(attrLimits))
	p.Limits, d.err = limits, cmp.Or(d.err, err)
	if d.err == nil && (!ok || p.Rev < 1) {
		d.err = fmt.Errorf("attribute %q is %d; a rule's is 1 or more", attrRev, p.Rev)
	}
	return p, d.err
}

// ruleKnown are the attributes of a prefix rule that this version knows.
var ruleKnown = map[string]bool{
	attrPK: true, attrSK: true, attrRev: true, attrAt: true, attrTTL: true, attrBy: true, attrFreeze: true, attrLimits: true, attrHistory: true,
}

// unknownParts names the attributes of a rule, and limits.NAME for those of its limits, that this version does not know: what a newer version has set.
func unknownParts(it item) string {
	var names []string
	for attr := range it {
		if !ruleKnown[attr] {
			names = append(names, attr)
		}
	}
	limits := decoder{it: it}
	for attr := range limits.m(attrLimits) {
		if !limitsKnown[attr] {
			names = append(names, attrLimits+"."+attr)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}
