// Command redrive is the function that an operator invokes after something was lost: it handles the dead letters again, and sweeps the table. The
// command `holdfast redrive` sends its requests. It has a role of its own, so that whoever may invoke it can do this and nothing else.
package main

import (
	"context"
	"errors"

	"github.com/aws/aws-sdk-go-v2/service/dynamodbstreams"

	"github.com/holdfast-lock/holdfast/functions/internal/boot"
	"github.com/holdfast-lock/holdfast/functions/internal/consumer"
	"github.com/holdfast-lock/holdfast/functions/internal/tracing"
	"github.com/holdfast-lock/holdfast/internal/poller"
	"github.com/holdfast-lock/holdfast/internal/redrive"
	"github.com/holdfast-lock/holdfast/internal/sqs"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

func main() { tracing.Start(boot.Must(build).Handle) }

// build builds the redriver. An error names the setting that is missing or wrong.
func build(e *boot.Environment) (*redrive.Redriver, error) {
	x, err := consumer.NewMender(e)
	if err != nil {
		return nil, err
	}
	store, err := e.Store()
	if err != nil {
		return nil, err
	}
	letters, ok := x.Consumer.DeadLetter.(*sqs.Queue)
	if !ok {
		return nil, errors.New("the dead-letter queue is no queue")
	}
	x.Consumer.DeadLetter = redrive.Refuse
	x.ChecksPerSecond = 0 // an operator asks for these checks; the function does them one after the other
	streams := dynamodbstreams.NewFromConfig(e.Bounded())
	return &redrive.Redriver{
		Store: store, Coordinator: x.Coordinator, Expirer: x, Letters: letters,
		Range: func(ctx context.Context, r poller.Range) ([]stream.Write, error) {
			return poller.ReadRange(ctx, streams, r)
		},
	}, nil
}
