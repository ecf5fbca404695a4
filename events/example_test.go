package events_test

import (
	"context"
	"errors"
	"fmt"

	lambdaevents "github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"

	"github.com/holdfast-lock/holdfast/events"
)

// A subscriber's Lambda function: pass it to lambda.Start.
func handle(_ context.Context, e lambdaevents.EventBridgeEvent) error {
	event, err := events.Decode(e.DetailType, e.Detail)
	if unknown, ok := errors.AsType[*events.UnknownTypeError](err); ok {
		fmt.Println("skipped:", unknown.DetailType)
		return nil // a newer Holdfast sends further types
	}
	if err != nil {
		return err
	}
	switch e := event.(type) {
	case events.Released:
		fmt.Printf("%s is free after %d ms\n", e.Lock, e.HeldMS)
	case events.Expired:
		fmt.Printf("%s is free: %s let it run out\n", e.Lock, e.Owner)
	case events.ForceReleased:
		fmt.Printf("%s was taken from %s: %s\n", e.Lock, e.Owner, e.Reason)
	}
	return nil
}

func Example() {
	event := `{"version":"0","id":"6a7e8feb-b491-4cf7-a9f1-bf3703467718","source":"holdfast","detail-type":"Lock Expired",
		"account":"123456789012","region":"eu-west-1","time":"2026-03-01T12:01:00Z","resources":[],"detail":{"version":1,"id":"deploy:prod/1772366400123456/expired","lock":"deploy:prod","prefixes":["deploy","deploy:prod"],
		"fence":1772366400123456,"owner":"job-42","permits":1,"acquired_at":"2026-03-01T12:00:00.123Z",
		"expires_at":"2026-03-01T12:01:00.123Z","waiting":0,"ended_at":"2026-03-01T12:01:00.123Z","held_ms":60000}}`
	if _, err := lambda.NewHandler(handle).Invoke(context.Background(), []byte(event)); err != nil {
		fmt.Println(err)
	}
	// Output: deploy:prod is free: job-42 let it run out
}
