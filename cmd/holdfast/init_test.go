package main

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/holdfast-lock/holdfast/internal/awstest"
)

// init adds the index of names to a table that has none, and says then, and only then, that rows which are there may be missing from it.
func TestInitAddsTheIndex(t *testing.T) {
	endpoint := awstest.Endpoint(t)
	t.Setenv("HOLDFAST_ENDPOINT", "")
	cfg, err := awsConfig(t.Context(), "", endpoint)
	if err != nil {
		t.Fatal(err)
	}
	db := dynamodb.NewFromConfig(cfg, func(o *dynamodb.Options) { o.BaseEndpoint = &endpoint })
	for _, old := range []bool{false, true} {
		table := awstest.TableName(t, "init")
		t.Setenv("HOLDFAST_TABLE", table)
		if old {
			awstest.CreateWithoutIndex(t, db, table)
		}
		for try := range 2 {
			says := old && try == 0
			code, _, errs := call(t.Context(), "init")
			if code != 0 || strings.Contains(errs, "holdfast redrive --table "+table+" --apply") != says {
				t.Errorf("old %t, try %d: %d: %s; want the note of the index: %t", old, try, code, errs, says)
			}
			out, err := db.DescribeTable(t.Context(), &dynamodb.DescribeTableInput{TableName: &table})
			if err != nil {
				t.Fatal(err)
			}
			if len(out.Table.GlobalSecondaryIndexes) != 1 {
				t.Errorf("old %t, try %d: the table has no index", old, try)
			}
		}
	}
}
