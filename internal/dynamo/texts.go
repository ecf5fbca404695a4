package dynamo

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// The texts of a semaphore's leases are items of their own: owner, principal, set, trace and metadata as they were at the grant, and when its waiter joined. The lock's item then has
// about 70 bytes for each lease, and 100 leases cost 8 write units instead of 29. The first lease of a free lock keeps its texts in the
// lock's item, so that its grant is one write, and so does one with a task token or an execution.
//
// The texts are put before the lease is granted, with a native TTL, so that neither a lost reply nor a failed grant leaves anything for ever.
// They are not deleted when the lease ends: the stream's consumer reads them after that.

// textsKept is for how long texts are kept after the expiry of their lease, in seconds: longer than the stream's records and failed work.
const textsKept = 3 * 24 * 60 * 60

// dayMS is a day in milliseconds. A lease or a place that is extended into another day has its texts, or its ticket, kept longer.
const dayMS = 24 * 60 * 60 * 1000

// splits reports whether the texts of a lease that is granted beside others are kept apart.
func splits(l lock.Lease) bool {
	return l.Split == lock.Whole && l.Capacity > 1 && !l.Tokens.OfTask() && l.Execution == ""
}

// withoutTexts is a lease as the lock's item has it, if its texts are kept apart.
func withoutTexts(l lock.Lease) lock.Lease {
	l.Owner, l.Principal, l.Metadata, l.Set, l.Trace, l.Joined, l.Split = "", "", "", "", "", 0, lock.Split
	return l
}

// textsKey names a grant by its fencing token, which is the lock's only grant with it. So a late duplicate of a put changes the texts of no
// other grant.
func textsKey(name string, fence int64) item {
	return item{attrPK: str(name), attrSK: str(skTexts + strconv.FormatInt(fence, 10))}
}

func textsTTL(l lock.Lease) int64 { return l.ExpiresAt/1000 + textsKept }

// newTexts are the items of the leases that a command grants beside others.
func newTexts(name string, c lock.Command) (list []item) {
	become, ok := c.Effect.(lock.Become)
	if !ok || become.From.Rev == 0 {
		return nil
	}
	for k, l := range become.To.Holders {
		if was, there := become.From.Holders[k]; there && was.Fence == l.Fence || !splits(l) {
			continue
		}
		it := textsKey(name, l.Fence)
		it.strings(map[string]string{attrOwner: l.Owner, attrPrincipal: l.Principal, attrMetadata: l.Metadata, attrSet: l.Set, attrTrace: l.Trace})
		it.numbers(map[string]int64{attrTTL: textsTTL(l), attrJoined: l.Joined})
		list = append(list, it)
	}
	return list
}

// putTexts puts items of texts, before the write that grants their leases.
func (s *Store) putTexts(ctx context.Context, list []item) error {
	for _, it := range list {
		if _, err := s.client.PutItem(ctx, &dynamodb.PutItemInput{TableName: aws.String(s.table), Item: it}); err != nil {
			return s.fault(ctx, "PutItem", err)
		}
	}
	return nil
}

// keepTexts moves the native TTL of texts whose lease a write has extended into another day. If that fails, the renewals of the next two days
// do it.
func (s *Store) keepTexts(ctx context.Context, name string, before, after lock.Record) {
	for k, l := range after.Holders {
		was := before.Holders[k]
		if l.Split == lock.Whole || was.Fence != l.Fence || was.ExpiresAt/dayMS == l.ExpiresAt/dayMS {
			continue
		}
		e := newExpression()
		e.assignNum(e.name(attrTTL), textsTTL(l))
		condition := "attribute_exists(" + e.name(attrPK) + ")"
		_, _ = s.client.UpdateItem(ctx, &dynamodb.UpdateItemInput{
			TableName: aws.String(s.table), Key: textsKey(name, l.Fence), ConditionExpression: aws.String(condition),
			UpdateExpression: aws.String("SET " + strings.Join(e.set, ", ")), ExpressionAttributeNames: e.names, ExpressionAttributeValues: e.values,
		})
	}
}

// maxBatch is how many items one BatchGetItem reads at most, by DynamoDB's rules. A lock has as many leases; a write may end some and grant others.
const maxBatch = 100

// Texts implements [lock.Store] with one BatchGetItem for up to a hundred leases.
func (s *Store) Texts(ctx context.Context, name string, fences []int64) (map[int64]lock.Texts, error) {
	all := map[int64]lock.Texts{}
	ask := make([]map[string]types.AttributeValue, len(fences))
	for i, fence := range fences {
		ask[i] = textsKey(name, fence)
	}
	read := func(it item) error {
		d := decoder{it: it}
		fence, err := strconv.ParseInt(strings.TrimPrefix(d.str(attrSK), skTexts), 10, 64)
		if err != nil {
			return err
		}
		all[fence] = lock.Texts{
			Owner: d.str(attrOwner), Principal: d.str(attrPrincipal), Metadata: d.str(attrMetadata), Set: d.str(attrSet), Trace: d.str(attrTrace), Joined: d.num(attrJoined),
		}
		return d.err
	}
	for some := range slices.Chunk(ask, maxBatch) {
		if err := s.batch(ctx, some, read, name); err != nil {
			return nil, err
		}
	}
	return all, nil
}
