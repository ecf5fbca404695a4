// Package streamboot builds what the functions behind the stream and the timers need, from the settings that package boot
// lists.
package streamboot

import (
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/holdfast-lock/holdfast/functions/internal/boot"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// Consumer builds the stream's consumer, or ends the process with an error that names the setting.
func Consumer() *stream.Consumer { return boot.Must(consumer) }

// Expirer builds the timers' consumer, or ends the process with an error that names the setting.
func Expirer() *stream.Expirer { return boot.Must(expirer) }

// Decode reads the stream's images.
func Decode() stream.Decoder { return stream.Decoder{Record: dynamo.Decode, Ended: dynamo.DecodeEnded} }

// attemptTimeout bounds one attempt of a request to EventBridge or SQS, of which the SDK makes three.
const attemptTimeout = 5 * time.Second

// timely is the SDK's configuration with a bound on each attempt; by itself it has none.
func timely(e *boot.Environment) aws.Config {
	cfg := e.AWS.Copy()
	if b, ok := cfg.HTTPClient.(*awshttp.BuildableClient); ok {
		cfg.HTTPClient = b.WithTimeout(attemptTimeout)
	}
	return cfg
}

// consumer is what both functions need to do what follows from a write: the stream function at first, the expire function later, if
// it was put off.
func consumer(e *boot.Environment) (*stream.Consumer, error) {
	bus, err := e.Required("HOLDFAST_BUS", "name the event bus")
	if err != nil {
		return nil, err
	}
	dlq, err := e.Required("HOLDFAST_DLQ_URL", "give the dead-letter queue's URL")
	if err != nil {
		return nil, err
	}
	cfg := timely(e)
	queues := sqs.NewFromConfig(cfg)
	c := &stream.Consumer{
		Bus:        &stream.EventBridge{Client: eventbridge.NewFromConfig(cfg), Name: bus},
		DeadLetter: &stream.Queue{Client: queues, URL: dlq}, Skew: lock.DefaultSkew, Log: e.Log, Metrics: e.Getenv("HOLDFAST_METRICS"),
		Callbacks: &stream.Services{Tasks: sfn.NewFromConfig(cfg), Durable: lambda.NewFromConfig(cfg)},
	}
	if c.Coordinator, err = e.Coordinator(); err != nil {
		return nil, err
	}
	if url := e.Getenv("HOLDFAST_TIMER_QUEUE_URL"); url != "" {
		timers := &stream.Queue{Client: queues, URL: url}
		c.Timers, c.Backlog = timers, timers
	}
	return c, nil
}

// checksPerSecond bounds DescribeExecution in one process of the expire function, of which its event source allows some ten: an account
// has 10 to 15 a second, for everything in it.
const checksPerSecond = 1

func expirer(e *boot.Environment) (*stream.Expirer, error) {
	if _, err := e.Required("HOLDFAST_TIMER_QUEUE_URL", "give the timer queue's URL"); err != nil {
		return nil, err
	}
	c, err := consumer(e)
	if err != nil {
		return nil, err
	}
	return &stream.Expirer{
		Coordinator: c.Coordinator, Timers: c.Timers, Executions: &stream.Services{Tasks: sfn.NewFromConfig(timely(e))}, Consumer: c,
		ChecksPerSecond: checksPerSecond, Log: e.Log, Metrics: c.Metrics,
	}, nil
}
