// Package eventbridge publishes events on an EventBridge event bus.
package eventbridge

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awseventbridge "github.com/aws/aws-sdk-go-v2/service/eventbridge"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge/types"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// A Bus is a [stream.Bus] on an EventBridge event bus.
type Bus struct {
	client *awseventbridge.Client
	name   string
}

// New returns the bus with a name or an ARN.
func New(cfg aws.Config, name string) *Bus {
	return &Bus{awseventbridge.NewFromConfig(cfg), name}
}

// Put implements [stream.Bus] with one PutEvents.
func (b *Bus) Put(ctx context.Context, entries []stream.Entry) []error {
	in := &awseventbridge.PutEventsInput{}
	for _, e := range entries {
		in.Entries = append(in.Entries, types.PutEventsRequestEntry{
			EventBusName: aws.String(b.name), Source: aws.String(events.Source), DetailType: aws.String(e.DetailType),
			Detail: aws.String(string(e.Detail)), Time: aws.Time(e.Time.Truncate(time.Second)),
		})
	}
	out, err := b.client.PutEvents(ctx, in)
	if err != nil {
		return slices.Repeat([]error{err}, len(entries))
	}
	if len(out.Entries) != len(entries) {
		return slices.Repeat([]error{fmt.Errorf("PutEvents answered for %d entries of %d", len(out.Entries), len(entries))}, len(entries))
	}
	errs := make([]error, len(entries))
	for i, o := range out.Entries {
		if o.ErrorCode != nil {
			errs[i] = fmt.Errorf("%s: %s", aws.ToString(o.ErrorCode), aws.ToString(o.ErrorMessage))
		}
	}
	return errs
}
