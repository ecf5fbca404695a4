// Command client is a minimal function with a lock, to measure what lockclient adds to hello.
package main

import (
	"context"
	"os"

	"github.com/aws/aws-lambda-go/lambda"

	"github.com/holdfast-lock/holdfast/lockclient"
)

func main() {
	client, err := lockclient.New(lockclient.Config{
		Endpoint: os.Getenv("HOLDFAST_ENDPOINT"), Region: os.Getenv("AWS_REGION"), Credentials: lockclient.EnvCredentials{},
	})
	if err != nil {
		panic(err)
	}
	lambda.Start(lockclient.Exclusive(client, func(map[string]any) string { return "hello" },
		func(context.Context, map[string]any) (string, error) { return "hello", nil }))
}
