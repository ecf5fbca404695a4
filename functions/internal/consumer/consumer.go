// Package consumer builds the stream's consumer for the stream function and the expire function. The first does the work of a write at
// once, the second does the jobs that were deferred. Package boot lists the settings.
package consumer

import (
	"fmt"

	"github.com/holdfast-lock/holdfast/functions/internal/boot"
	"github.com/holdfast-lock/holdfast/functions/internal/tracing/leases"
	"github.com/holdfast-lock/holdfast/internal/durable"
	"github.com/holdfast-lock/holdfast/internal/eventbridge"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/scope"
	"github.com/holdfast-lock/holdfast/internal/sqs"
	"github.com/holdfast-lock/holdfast/internal/stream"
	"github.com/holdfast-lock/holdfast/internal/tasks"
)

// New builds the consumer. An error names the setting that is missing or wrong.
func New(e *boot.Environment) (*stream.Consumer, error) {
	c, _, err := build(e)
	return c, err
}

// build builds the consumer, and returns the service that tells whether executions run.
func build(e *boot.Environment) (*stream.Consumer, stream.Executions, error) {
	bus, err := e.Required("HOLDFAST_BUS", "name the event bus")
	if err != nil {
		return nil, nil, err
	}
	dlq, err := e.Required("HOLDFAST_DLQ_URL", "give the dead-letter queue's URL")
	if err != nil {
		return nil, nil, err
	}
	listens, err := scope.Events(e.Getenv("HOLDFAST_EVENTS"))
	if err != nil {
		return nil, nil, fmt.Errorf("HOLDFAST_EVENTS: %w", err)
	}
	cfg := e.Bounded()
	stepFunctions := tasks.New(cfg)
	callbacks := stream.ByKind{lock.TaskToken: leases.Callbacks(stepFunctions), lock.CallbackToken: leases.Callbacks(durable.New(cfg))}
	c := &stream.Consumer{
		Bus: leases.Bus(eventbridge.New(cfg, bus)), Listens: listens, DeadLetter: sqs.New(cfg, dlq), Callbacks: callbacks, Notifications: sqs.NewSender(cfg),
		Skew: lock.DefaultSkew, Log: e.Log, Metrics: e.Metrics(),
	}
	if c.Coordinator, err = e.Coordinator(stream.AtOnce(callbacks, c.Notifications, e.Log, c.Metrics)); err != nil {
		return nil, nil, err
	}
	if url := e.Getenv("HOLDFAST_TIMER_QUEUE_URL"); url != "" {
		timers := sqs.New(cfg, url)
		c.Timers, c.Backlog = timers, timers
	}
	return c, stepFunctions, nil
}

// checksPerSecond bounds the calls of DescribeExecution by one process of the expire function. Its event source allows about ten
// processes, and an account may call DescribeExecution 10 to 15 times a second in all.
const checksPerSecond = 1

// NewExpirer builds what the expire function needs. An error names the setting that is missing or wrong.
func NewExpirer(e *boot.Environment) (*stream.Expirer, error) {
	if _, err := e.Required("HOLDFAST_TIMER_QUEUE_URL", "give the timer queue's URL"); err != nil {
		return nil, err
	}
	return NewMender(e)
}

// NewMender is NewExpirer for the redrive function, which also works without the queue of timers.
func NewMender(e *boot.Environment) (*stream.Expirer, error) {
	c, executions, err := build(e)
	if err != nil {
		return nil, err
	}
	return &stream.Expirer{
		Coordinator: c.Coordinator, Timers: c.Timers, Executions: executions, Consumer: c,
		ChecksPerSecond: checksPerSecond, Log: e.Log, Metrics: c.Metrics,
	}, nil
}
