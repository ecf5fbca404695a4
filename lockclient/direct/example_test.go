package direct_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/direct"
)

// CreateTable makes the table, and the client uses it without a deployed coordinator. The example uses DynamoDB Local; in AWS leave
// out Endpoint and Credentials.
func ExampleNew() {
	ctx := context.Background()

	table, err := direct.New(ctx, direct.Config{
		Table: "example-locks", Region: "eu-west-1", PoolSize: 16,
		Endpoint:    os.Getenv("HOLDFAST_DYNAMODB_ENDPOINT"),
		Credentials: credentials.NewStaticCredentialsProvider("local", "local", ""),
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := table.CreateTable(ctx); err != nil { // needed once; repeating it changes nothing
		log.Fatal(err)
	}
	client, err := lockclient.New(lockclient.Config{Transport: table})
	if err != nil {
		log.Fatal(err)
	}

	fmt.Println(client.Do(ctx, "report:daily", lockclient.Options{}, func(context.Context, *lockclient.Lease) error { return nil }))
	// Output: <nil>
}
