package dynamo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// tableTimeout is how long CreateTable waits for a table to become active.
const tableTimeout = 2 * time.Minute

// A TableShapeError says that a table of the name exists and is no lock table. It was not changed.
type TableShapeError struct {
	Table    string
	Problems []string
}

func (e *TableShapeError) Error() string {
	return fmt.Sprintf("table %q is not a lock table: %s; use another name, or change it by hand", e.Table, strings.Join(e.Problems, "; "))
}

// CreateTable creates the lock table, or completes one that was created in part: keys pk and sk, the index of names, pay per request, a
// stream of new and old images, native TTL on ttl, and, where the engine has them, point-in-time recovery and deletion protection. It
// returns when the table can be used, and may be repeated. DynamoDB fills an index that is added to a table in the background; lists scan
// the table until then. A table of another shape is a [*TableShapeError]; nothing of it is changed.
func (s *Store) CreateTable(ctx context.Context) error {
	_, err := s.EnsureTable(ctx)
	return err
}

// EnsureTable is [Store.CreateTable], and reports whether it added the index of names to a table that had none. Rows which that table has may be missing
// from the index.
func (s *Store) EnsureTable(ctx context.Context) (indexAdded bool, err error) {
	_, err = s.client.CreateTable(ctx, &dynamodb.CreateTableInput{
		TableName:              aws.String(s.table),
		AttributeDefinitions:   stringAttributes(attrPK, attrSK, attrIndex),
		GlobalSecondaryIndexes: []types.GlobalSecondaryIndex{nameIndex()},
		KeySchema: []types.KeySchemaElement{
			{AttributeName: aws.String(attrPK), KeyType: types.KeyTypeHash},
			{AttributeName: aws.String(attrSK), KeyType: types.KeyTypeRange},
		},
		BillingMode: types.BillingModePayPerRequest,
		StreamSpecification: &types.StreamSpecification{
			StreamEnabled: aws.Bool(true), StreamViewType: types.StreamViewTypeNewAndOldImages,
		},
		DeletionProtectionEnabled: aws.Bool(true),
	})
	if _, exists := errors.AsType[*types.ResourceInUseException](err); err != nil && !exists {
		return false, s.fault(ctx, "CreateTable", err)
	}
	table, err := dynamodb.NewTableExistsWaiter(s.client, func(o *dynamodb.TableExistsWaiterOptions) {
		o.MinDelay = 100 * time.Millisecond
	}).WaitForOutput(ctx, &dynamodb.DescribeTableInput{TableName: aws.String(s.table)}, tableTimeout)
	if err != nil {
		return false, s.fault(ctx, "DescribeTable", err)
	}
	ttl, err := s.client.DescribeTimeToLive(ctx, &dynamodb.DescribeTimeToLiveInput{TableName: aws.String(s.table)})
	if err != nil {
		return false, s.fault(ctx, "DescribeTimeToLive", err)
	}
	if problems := shape(table.Table, ttl.TimeToLiveDescription); len(problems) > 0 {
		return false, &TableShapeError{Table: s.table, Problems: problems}
	}
	return indexOf(table.Table) == nil, s.completeTable(ctx, table.Table, ttl.TimeToLiveDescription)
}

// completeTable adds what a lock table lacks.
func (s *Store) completeTable(ctx context.Context, table *types.TableDescription, ttl *types.TimeToLiveDescription) error {
	if indexOf(table) == nil {
		if err := s.addIndex(ctx); err != nil {
			return err
		}
	}
	if ttlOff(ttl) {
		if _, err := s.client.UpdateTimeToLive(ctx, &dynamodb.UpdateTimeToLiveInput{
			TableName:               aws.String(s.table),
			TimeToLiveSpecification: &types.TimeToLiveSpecification{AttributeName: aws.String(attrTTL), Enabled: aws.Bool(true)},
		}); err != nil {
			return s.fault(ctx, "UpdateTimeToLive", err)
		}
	}
	_, err := s.client.UpdateContinuousBackups(ctx, &dynamodb.UpdateContinuousBackupsInput{
		TableName:                        aws.String(s.table),
		PointInTimeRecoverySpecification: &types.PointInTimeRecoverySpecification{PointInTimeRecoveryEnabled: aws.Bool(true)},
	})
	if api, ok := errors.AsType[smithy.APIError](err); ok && api.ErrorCode() == "UnknownOperationException" {
		err = nil // DynamoDB Local has no point-in-time recovery
	}
	if err != nil {
		return s.fault(ctx, "UpdateContinuousBackups", err)
	}
	return nil
}

// stringAttributes defines attributes that are keys.
func stringAttributes(names ...string) (list []types.AttributeDefinition) {
	for _, name := range names {
		list = append(list, types.AttributeDefinition{AttributeName: aws.String(name), AttributeType: types.ScalarAttributeTypeS})
	}
	return list
}

// addIndex adds the index of names to a table that has none.
func (s *Store) addIndex(ctx context.Context) error {
	index := nameIndex()
	_, err := s.client.UpdateTable(ctx, &dynamodb.UpdateTableInput{
		TableName:            aws.String(s.table),
		AttributeDefinitions: stringAttributes(attrIndex, attrPK),
		GlobalSecondaryIndexUpdates: []types.GlobalSecondaryIndexUpdate{{Create: &types.CreateGlobalSecondaryIndexAction{
			IndexName: index.IndexName, KeySchema: index.KeySchema, Projection: index.Projection,
		}}},
	})
	if err != nil {
		return s.fault(ctx, "UpdateTable", err)
	}
	return nil
}

// A Problem is a setting in which a table differs from a lock table.
type Problem struct{ What, Fix string }

// Inspect compares the table's keys, stream, native TTL and replicas with a lock table's. It changes nothing.
func (s *Store) Inspect(ctx context.Context) (problems []Problem, err error) {
	table, err := s.client.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: aws.String(s.table)})
	if err != nil {
		return nil, s.fault(ctx, "DescribeTable", err)
	}
	ttl, err := s.client.DescribeTimeToLive(ctx, &dynamodb.DescribeTimeToLiveInput{TableName: aws.String(s.table)})
	if err != nil {
		return nil, s.fault(ctx, "DescribeTimeToLive", err)
	}
	for _, p := range shape(table.Table, ttl.TimeToLiveDescription) {
		problems = append(problems, Problem{p, "use another table, or change this one by hand"})
	}
	if p := replicated(table.Table); p != "" {
		problems = append(problems, Problem{p, "remove all replicas but one, and let one region's coordinators write it (docs/deploy.md)"})
	}
	if indexOf(table.Table) == nil {
		problems = append(problems, Problem{"it has no index " + IndexName + ", so a list of a prefix scans the table", "run holdfast init, or add the index as docs/scale.md says"})
	}
	if ttlOff(ttl.TimeToLiveDescription) {
		problems = append(problems, Problem{"native TTL is off, so rows of locks that nobody uses stay for ever", "run holdfast init, or switch TTL on for the attribute " + attrTTL})
	}
	return problems, nil
}

// replicated says why a table with replicas in other regions excludes nobody; empty for a table of one region. Each replica of an eventually
// consistent global table judges a condition by its own version of the item, so that two regions grant a lock at once, and the later
// write wins. A strongly consistent one has neither transactions, which the queue needs, nor native TTL.
// https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/V2globaltables_HowItWorks.html
func replicated(t *types.TableDescription) string {
	if len(t.Replicas) == 0 && t.MultiRegionConsistency == "" {
		return ""
	}
	regions := []string{}
	for _, r := range t.Replicas {
		regions = append(regions, aws.ToString(r.RegionName))
	}
	if t.MultiRegionConsistency == types.MultiRegionConsistencyStrong {
		return fmt.Sprintf("it is a global table with strong consistency (replicas in %v), which has no transactions and no native TTL: queues do not work", regions)
	}
	return fmt.Sprintf("it is a global table (replicas in %v): two regions can grant a lock at the same time, and the later write wins", regions)
}

func ttlOff(d *types.TimeToLiveDescription) bool {
	return d == nil || d.TimeToLiveStatus == types.TimeToLiveStatusDisabled
}

// shape lists the differences from a lock table that cannot be changed, or that CreateTable must not change silently.
func shape(t *types.TableDescription, ttl *types.TimeToLiveDescription) (problems []string) {
	keys := []string{}
	for _, k := range t.KeySchema {
		keys = append(keys, describeKey(k))
	}
	if want := []string{attrPK + " HASH", attrSK + " RANGE"}; !slices.Equal(keys, want) {
		problems = append(problems, fmt.Sprintf("its keys are %v, not %v", keys, want))
	}
	for _, a := range t.AttributeDefinitions {
		if n := aws.ToString(a.AttributeName); (n == attrPK || n == attrSK) && a.AttributeType != types.ScalarAttributeTypeS {
			problems = append(problems, fmt.Sprintf("its key %s is of type %s, not S", n, a.AttributeType))
		}
	}
	if index := indexOf(t); index != nil && !slices.EqualFunc(index.KeySchema, nameIndex().KeySchema, func(a, b types.KeySchemaElement) bool { return describeKey(a) == describeKey(b) }) {
		problems = append(problems, fmt.Sprintf("its index %s has other keys than %s and %s", IndexName, attrIndex, attrPK))
	}
	if v := t.StreamSpecification; v == nil || !aws.ToBool(v.StreamEnabled) {
		problems = append(problems, "it has no stream; one of NEW_AND_OLD_IMAGES is needed")
	} else if v.StreamViewType != types.StreamViewTypeNewAndOldImages {
		problems = append(problems, fmt.Sprintf("its stream is of %s, not NEW_AND_OLD_IMAGES", v.StreamViewType))
	}
	if ttl != nil && ttl.TimeToLiveStatus != types.TimeToLiveStatusDisabled && aws.ToString(ttl.AttributeName) != attrTTL {
		problems = append(problems, fmt.Sprintf("its native TTL is on %q, not %q", aws.ToString(ttl.AttributeName), attrTTL))
	}
	return problems
}

func describeKey(k types.KeySchemaElement) string {
	return fmt.Sprintf("%s %s", aws.ToString(k.AttributeName), k.KeyType)
}

var _ lock.Store = (*Store)(nil)
