package awstest

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"os"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// Endpoint is DynamoDB Local's. `make test` starts one; a test without it fails, so that no test is skipped unseen.
func Endpoint(t testing.TB) string {
	t.Helper()
	e := os.Getenv("HOLDFAST_DYNAMODB_ENDPOINT")
	if e == "" {
		t.Fatal("HOLDFAST_DYNAMODB_ENDPOINT is not set: run `make test`, or `scripts/with-dynamodb.sh go test ./...`")
	}
	return e
}

// TableName is a new name of a table. If there is such a table when the test ends, it is deleted, since DynamoDB Local becomes slower with each
// table that it has.
func TableName(t testing.TB, prefix string) string {
	t.Helper()
	table := prefix + "-" + rand.Text()
	endpoint := Endpoint(t)
	t.Cleanup(func() { drop(t, endpoint, table) })
	return table
}

func drop(t testing.TB, endpoint, table string) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	db := dynamodb.New(dynamodb.Options{
		Region: "us-east-1", BaseEndpoint: &endpoint, Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""),
		HTTPClient: &http.Client{Transport: transport},
	})
	ctx := context.WithoutCancel(t.Context())
	_, err := db.UpdateTable(ctx, &dynamodb.UpdateTableInput{TableName: &table, DeletionProtectionEnabled: aws.Bool(false)})
	if _, none := errors.AsType[*types.ResourceNotFoundException](err); none {
		return
	}
	if err == nil {
		_, err = db.DeleteTable(ctx, &dynamodb.DeleteTableInput{TableName: &table})
	}
	if err != nil {
		t.Logf("deleting the table %s of the test: %v", table, err)
	}
}

// CreateWithoutIndex creates the lock table of a version that had no index of names.
func CreateWithoutIndex(t testing.TB, db *dynamodb.Client, table string) {
	t.Helper()
	in := &dynamodb.CreateTableInput{
		TableName: &table, BillingMode: types.BillingModePayPerRequest,
		StreamSpecification: &types.StreamSpecification{StreamEnabled: aws.Bool(true), StreamViewType: types.StreamViewTypeNewAndOldImages},
	}
	for i, name := range []string{"pk", "sk"} {
		in.AttributeDefinitions = append(in.AttributeDefinitions, types.AttributeDefinition{AttributeName: aws.String(name), AttributeType: types.ScalarAttributeTypeS})
		in.KeySchema = append(in.KeySchema, types.KeySchemaElement{AttributeName: aws.String(name), KeyType: []types.KeyType{types.KeyTypeHash, types.KeyTypeRange}[i]})
	}
	if _, err := db.CreateTable(t.Context(), in); err != nil {
		t.Fatal(err)
	}
}
