package main

import (
	"crypto/rand"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
)

// init adds the index of names to a table that has none, and says then, and only then, that rows which are there may be missing from it.
func TestInitAddsTheIndex(t *testing.T) {
	endpoint := os.Getenv("HOLDFAST_DYNAMODB_ENDPOINT")
	if endpoint == "" {
		t.Fatal("HOLDFAST_DYNAMODB_ENDPOINT is not set: run `make test`, or `scripts/with-dynamodb.sh go test ./...`")
	}
	table := "init-" + rand.Text()
	t.Setenv("HOLDFAST_ENDPOINT", "")
	t.Setenv("HOLDFAST_TABLE", table)
	cfg, err := awsConfig(t.Context(), "", endpoint)
	if err != nil {
		t.Fatal(err)
	}
	db := dynamodb.NewFromConfig(cfg, func(o *dynamodb.Options) { o.BaseEndpoint = &endpoint })
	indexes := func() int {
		out, err := db.DescribeTable(t.Context(), &dynamodb.DescribeTableInput{TableName: &table})
		if err != nil {
			t.Fatal(err)
		}
		return len(out.Table.GlobalSecondaryIndexes)
	}
	for _, says := range []bool{false, false, true, false} {
		if says {
			name := dynamo.IndexName
			if _, err := db.UpdateTable(t.Context(), &dynamodb.UpdateTableInput{TableName: &table, GlobalSecondaryIndexUpdates: []types.GlobalSecondaryIndexUpdate{
				{Delete: &types.DeleteGlobalSecondaryIndexAction{IndexName: &name}},
			}}); err != nil {
				t.Fatal(err)
			}
			for try := 0; indexes() > 0; try++ {
				if try == 1200 {
					t.Fatal("the index is still there after two minutes")
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
		code, _, errs := call(t.Context(), "init")
		if code != 0 || strings.Contains(errs, "holdfast redrive --table "+table+" --apply") != says {
			t.Errorf("%d: %s; want the note of the index: %t", code, errs, says)
		}
		if indexes() != 1 {
			t.Error("the table has no index")
		}
	}
}
