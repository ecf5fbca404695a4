package dynamo_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
)

func TestCreateTable(t *testing.T) {
	table := ""
	s := newStore(t, func(c *dynamo.Config) { table = c.Table })
	if err := s.CreateTable(t.Context()); err != nil {
		t.Fatalf("a second time: %v", err)
	}
	out, err := engine(t).DescribeTable(t.Context(), &dynamodb.DescribeTableInput{TableName: &table})
	if err != nil {
		t.Fatal(err)
	}
	if v := out.Table.StreamSpecification; v == nil || v.StreamViewType != types.StreamViewTypeNewAndOldImages {
		t.Errorf("stream %+v", v)
	}
	if b := out.Table.BillingModeSummary; b == nil || b.BillingMode != types.BillingModePayPerRequest {
		t.Errorf("billing %+v", b)
	}
	ttl, err := engine(t).DescribeTimeToLive(t.Context(), &dynamodb.DescribeTimeToLiveInput{TableName: &table})
	if err != nil || aws.ToString(ttl.TimeToLiveDescription.AttributeName) != "ttl" {
		t.Errorf("TTL %+v, %v", ttl, err)
	}
}

// A table of another shape is refused with all its differences, and not changed.
func TestCreateTableRefusesAnotherShape(t *testing.T) {
	table := awstest.TableName(t, "other")
	db := engine(t)
	if _, err := db.CreateTable(t.Context(), &dynamodb.CreateTableInput{
		TableName: &table, BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String("pk"), AttributeType: types.ScalarAttributeTypeN}},
		KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String("pk"), KeyType: types.KeyTypeHash}},
	}); err != nil {
		t.Fatal(err)
	}
	s, err := dynamo.New(dynamo.Config{AWS: awsConfig(), Table: table, Endpoint: awstest.Endpoint(t)})
	if err != nil {
		t.Fatal(err)
	}
	shape, ok := errors.AsType[*dynamo.TableShapeError](s.CreateTable(t.Context()))
	if !ok || len(shape.Problems) != 3 {
		t.Fatalf("error %v", shape)
	}
	for _, word := range []string{"keys", "type N", "stream"} {
		if !strings.Contains(shape.Error(), word) {
			t.Errorf("%q names no %s", shape, word)
		}
	}
	ttl, err := db.DescribeTimeToLive(t.Context(), &dynamodb.DescribeTimeToLiveInput{TableName: &table})
	if err != nil || ttl.TimeToLiveDescription.TimeToLiveStatus != types.TimeToLiveStatusDisabled {
		t.Errorf("TTL is %+v, %v", ttl, err)
	}
}
