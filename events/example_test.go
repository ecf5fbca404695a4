package events_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-lock/holdfast/events"
)

// CloudWatchEvent is the part of aws-lambda-go's events.EventBridgeEvent that a subscriber needs.
type CloudWatchEvent struct {
	DetailType string
	Detail     []byte
}

// A subscriber Lambda: hand this function to lambda.Start.
func handle(_ context.Context, e CloudWatchEvent) error {
	event, err := events.Decode(e.DetailType, e.Detail)
	if unknown, ok := errors.AsType[*events.UnknownTypeError](err); ok {
		fmt.Println("skipped:", unknown.DetailType)
		return nil // a newer Holdfast tells more than we know
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
	detail := `{"version":1,"id":"deploy:prod/1772366400123456/expired","lock":"deploy:prod","prefixes":["deploy","deploy:prod"],
		"fence":1772366400123456,"owner":"job-42","permits":1,"acquired_at":"2026-03-01T12:00:00.123Z",
		"expires_at":"2026-03-01T12:01:00.123Z","waiting":0,"ended_at":"2026-03-01T12:01:00.123Z","held_ms":60000}`
	if err := handle(context.Background(), CloudWatchEvent{"Lock Expired", []byte(detail)}); err != nil {
		fmt.Println(err)
	}
	// Output: deploy:prod is free: job-42 let it run out
}
