package dynamo

import (
	"cmp"
	"context"
	"errors"
	"hash/fnv"
	"slices"
	"strconv"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// The index of names is a global secondary index with the keys of locks' rows and nothing else: its partition key is one of [indexParts]
// texts, by a hash of the lock's name, and its sort key is the name. Both are the same for as long as the row exists, so a write of an
// existing row changes nothing in the index and costs nothing there. The write that makes a row costs one write unit more. Waiters, places,
// texts and bindings have no attrIndex, and are not in the index.
//
// The parts keep the index from being a bottleneck: DynamoDB holds back writes of a table whose index cannot follow, and takes 1,000
// units a second for one partition key.
const (
	// IndexName is the index's name. Its ARN is the table's and "/index/names".
	IndexName = "names"

	indexParts = 16 // changing it hides rows from lists until they are written again, which `holdfast redrive --apply` does
)

// indexPart is the value of attrIndex for a lock.
func indexPart(name string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	sum := h.Sum32()
	return strconv.FormatUint(uint64((sum^sum>>16)%indexParts), indexParts)
}

// nameIndex is the index as CreateTable makes it.
func nameIndex() types.GlobalSecondaryIndex {
	return types.GlobalSecondaryIndex{
		IndexName: aws.String(IndexName),
		KeySchema: []types.KeySchemaElement{
			{AttributeName: aws.String(attrIndex), KeyType: types.KeyTypeHash},
			{AttributeName: aws.String(attrPK), KeyType: types.KeyTypeRange},
		},
		Projection: &types.Projection{ProjectionType: types.ProjectionTypeKeysOnly},
	}
}

// indexOf returns a table's index of names, or nil.
func indexOf(t *types.TableDescription) *types.GlobalSecondaryIndexDescription {
	for _, i := range t.GlobalSecondaryIndexes {
		if aws.ToString(i.IndexName) == IndexName {
			return &i
		}
	}
	return nil
}

// What DynamoDB charges for reads, and how many rows a page gets with one request.
const (
	unitBytes      = 4096           // of a consistent read unit; an eventually consistent one has twice as many
	indexEntry     = 120            // bytes of an entry in the index, about
	batchRows      = 100            // the most that one BatchGetItem reads
	steps          = 4              // requests one after another of a list by the index, beside those for rows
	probeLimit     = 2000           // names of one part that indexPays counts at most
	unitsOfQueries = indexParts / 2 // one eventually consistent unit is half of a consistent one
)

// indexPays reports whether to list a prefix by the index: if it is there and complete, and if the rows below the prefix take fewer read
// units and fewer requests one after another than a scan of the table. Each row that is found through the index costs a unit, where
// a scan reads about ten rows for one; so the index pays for prefixes of less than a tenth of the table.
//
// It asks DescribeTable for the table's size, which DynamoDB counts about every six hours, and counts the names of one part. The answer is no
// also if the caller may not describe the table or query the index.
func (s *Store) indexPays(ctx context.Context, prefix string) (bool, error) {
	out, err := s.client.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: aws.String(s.table)})
	if err != nil {
		return false, unlessMisconfigured(s.fault(ctx, "DescribeTable", err))
	}
	index := indexOf(out.Table)
	if index == nil || index.IndexStatus != types.IndexStatusActive {
		return false, nil
	}
	names, _, err := s.names(ctx, "0", prefix, "", probeLimit)
	if err != nil {
		return false, unlessMisconfigured(err)
	}
	rows, bytes := aws.ToInt64(out.Table.ItemCount), aws.ToInt64(out.Table.TableSizeBytes)
	below := int64(len(names)) * indexParts
	requests, units := steps+below/batchRows*5/4, unitsOfQueries+below+below*indexEntry/(2*unitBytes)
	return requests < rows/scanLimit && units < bytes/unitBytes, nil
}

// unlessMisconfigured is nil for a lasting refusal, such as a missing permission.
func unlessMisconfigured(err error) error {
	if errors.Is(err, lock.ErrMisconfigured) {
		return nil
	}
	return err
}

// names reads names of one part of the index in their order: up to limit that begin with a prefix and are after a name. more says that
// there may be further ones.
func (s *Store) names(ctx context.Context, part, prefix, after string, limit int) (names []string, more bool, err error) {
	// No name has a byte below '+' or above 'z'.
	from, to := max(prefix, after+"!"), prefix+"~"
	if after == "" {
		from = prefix
	}
	if from > to {
		return nil, false, nil
	}
	out, err := s.client.Query(ctx, &dynamodb.QueryInput{
		TableName: aws.String(s.table), IndexName: aws.String(IndexName), Limit: aws.Int32(int32(limit)),
		KeyConditionExpression:    aws.String(attrIndex + " = :part AND " + attrPK + " BETWEEN :from AND :to"),
		ExpressionAttributeValues: item{":part": str(part), ":from": str(from), ":to": str(to)},
	})
	if err != nil {
		return nil, false, s.fault(ctx, "Query", err)
	}
	for _, it := range out.Items {
		names = append(names, (&decoder{it: it}).str(attrPK))
	}
	return names, len(out.LastEvaluatedKey) > 0, nil
}

// allNames reads names of all parts at once, in their order. They are complete up to the last one; more says that others follow.
func (s *Store) allNames(ctx context.Context, prefix, after string, limit int) (all []string, more bool, err error) {
	var lists [indexParts]struct {
		names []string
		more  bool
		err   error
	}
	var wg sync.WaitGroup
	for i := range lists {
		wg.Go(func() {
			l := &lists[i]
			l.names, l.more, l.err = s.names(ctx, strconv.FormatUint(uint64(i), indexParts), prefix, after, limit)
		})
	}
	wg.Wait()
	end := "" // the names are complete up to here
	for _, l := range lists {
		if l.err != nil {
			return nil, false, l.err
		}
		if l.more && len(l.names) > 0 && (end == "" || l.names[len(l.names)-1] < end) {
			end = l.names[len(l.names)-1]
		}
		all = append(all, l.names...)
	}
	slices.Sort(all)
	if end != "" {
		n, _ := slices.BinarySearch(all, end)
		all = all[:n+1]
	}
	return all, end != "", nil
}

// listByName reads a page in the order of the names. It takes the names from the index, which is eventually consistent: a row that was made
// within the last second or so may be missing. It reads the rows consistently, so whether a lock is held is as it is now.
func (s *Store) listByName(ctx context.Context, q lock.ListQuery, after string) (lock.Page, error) {
	names, more, err := s.allNames(ctx, q.Prefix, after, min(q.Limit, batchRows))
	if err != nil {
		return lock.Page{}, err
	}
	var page lock.Page
	size := 0
	for len(names) > 0 {
		n := batchRows
		if q.HeldAfter == 0 {
			n = q.Limit - len(page.Entries) // each of them is on the page, unless it was purged
		}
		n = min(n, batchRows, len(names))
		rows, err := s.rows(ctx, names[:n])
		if err != nil {
			return lock.Page{}, err
		}
		for i, name := range names[:n] {
			r, there := rows[name]
			if !there || !q.Selects(r) {
				continue
			}
			page.Entries, size = append(page.Entries, lock.Entry{Name: name, Record: r}), size+r.Size()
			if last := !more && i == len(names)-1; !last && (len(page.Entries) == q.Limit || size > lock.MaxPageBytes) {
				page.Next = nameCursor(name)
				return page, nil
			}
		}
		if after, names = names[n-1], names[n:]; len(names) == 0 && more {
			page.Next = nameCursor(after)
		}
	}
	return page, nil
}

// rows reads the records of locks with one BatchGetItem. Those that are not there are left out.
func (s *Store) rows(ctx context.Context, names []string) (map[string]lock.Record, error) {
	keys := make([]map[string]types.AttributeValue, len(names))
	for i, name := range names {
		keys[i] = key(name)
	}
	rows := make(map[string]lock.Record, len(names))
	var bad error // of an item
	err := s.batch(ctx, keys, func(it item) error {
		name := (&decoder{it: it}).str(attrPK)
		r, err := Decode(it)
		if err != nil && bad == nil {
			bad = s.corrupt(name, err)
		}
		rows[name] = r
		return nil
	}, names[0])
	return rows, cmp.Or(err, bad)
}
