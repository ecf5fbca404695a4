//go:build !memory

package stream

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge/types"

	"github.com/holdfast-lock/holdfast/events"
)

// EventBridge is a [Bus] on an EventBridge event bus.
type EventBridge struct {
	Client *eventbridge.Client
	Name   string // of the bus
}

// Put implements [Bus] with one PutEvents.
func (b *EventBridge) Put(ctx context.Context, entries []Entry) []error {
	in := &eventbridge.PutEventsInput{}
	for _, e := range entries {
		in.Entries = append(in.Entries, types.PutEventsRequestEntry{
			EventBusName: aws.String(b.Name), Source: aws.String(events.Source), DetailType: aws.String(e.DetailType),
			Detail: aws.String(string(e.Detail)), Time: aws.Time(e.Time.Truncate(time.Second)),
		})
	}
	out, err := b.Client.PutEvents(ctx, in)
	if err != nil {
		return errAll(len(entries), err)
	}
	if len(out.Entries) != len(entries) {
		return errAll(len(entries), fmt.Errorf("PutEvents answered for %d entries of %d", len(out.Entries), len(entries)))
	}
	errs := make([]error, len(entries))
	for i, o := range out.Entries {
		if o.ErrorCode != nil {
			errs[i] = fmt.Errorf("%s: %s", aws.ToString(o.ErrorCode), aws.ToString(o.ErrorMessage))
		}
	}
	return errs
}
