// Package boot builds what every function needs, once per cold start, from the environment:
//
//	HOLDFAST_TABLE              the lock table; required, but for the stream function
//	HOLDFAST_MAX_TTL_MS         the longest TTL a request may ask for; default 86400000
//	HOLDFAST_METRICS            the CloudWatch namespace of metrics; without it there are none
//	HOLDFAST_DYNAMODB_ENDPOINT  for a local engine; default the region's
//	HOLDFAST_BUS                the event bus; required for the stream function
//	HOLDFAST_TIMER_QUEUE_URL    the timers' queue; required for the expire function. Without it the stream function sets
//	                            no timers, and leases that run out are told late
//	HOLDFAST_DLQ_URL            where the stream function buries what it cannot read; required
//
// and AWS_REGION and credentials as the SDK reads them.
package boot

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// API builds the API, or ends the process with an error that names the setting.
func API() *api.API { return must((*environment).api) }

// Consumer builds the stream's consumer, or ends the process with an error that names the setting.
func Consumer() *stream.Consumer { return must((*environment).consumer) }

// Expirer builds the timers' consumer, or ends the process with an error that names the setting.
func Expirer() *stream.Expirer { return must((*environment).expirer) }

// Decode reads the stream's images.
func Decode(image map[string]types.AttributeValue) (lock.Record, error) { return dynamo.Decode(image) }

func must[T any](build func(*environment) (T, error)) T {
	log := lambdacontext.NewLogger()
	cfg, err := config.LoadDefaultConfig(context.Background())
	var v T
	if err == nil {
		v, err = build(&environment{getenv: os.Getenv, aws: cfg, log: log})
	}
	if err != nil {
		log.Error("cannot start", "error", err)
		os.Exit(1)
	}
	return v
}

type environment struct {
	getenv func(string) string
	aws    aws.Config
	log    *slog.Logger
}

func (e *environment) required(name, what string) (string, error) {
	if v := e.getenv(name); v != "" {
		return v, nil
	}
	return "", fmt.Errorf("%s is not set; %s", name, what)
}

// attemptTimeout bounds one attempt of a request to EventBridge or SQS, of which the SDK makes three.
const attemptTimeout = 5 * time.Second

// timely is the SDK's configuration with a bound on each attempt; by itself it has none.
func (e *environment) timely() aws.Config {
	cfg := e.aws.Copy()
	if b, ok := cfg.HTTPClient.(*awshttp.BuildableClient); ok {
		cfg.HTTPClient = b.WithTimeout(attemptTimeout)
	}
	return cfg
}

func (e *environment) coordinator() (*lock.Coordinator, error) {
	table, err := e.required("HOLDFAST_TABLE", "name the lock table")
	if err != nil {
		return nil, err
	}
	store, err := dynamo.New(dynamo.Config{AWS: e.aws, Table: table, Endpoint: e.getenv("HOLDFAST_DYNAMODB_ENDPOINT")})
	if err != nil {
		return nil, err
	}
	return lock.New(lock.Config{Store: store})
}

func (e *environment) api() (*api.API, error) {
	var maxTTL time.Duration
	if s := e.getenv("HOLDFAST_MAX_TTL_MS"); s != "" {
		ms, err := strconv.ParseInt(s, 10, 64)
		if err != nil || ms < 1 {
			return nil, fmt.Errorf("HOLDFAST_MAX_TTL_MS is %q; give whole milliseconds, 60000 at least", s)
		}
		maxTTL = time.Duration(ms) * time.Millisecond
	}
	coordinator, err := e.coordinator()
	if err != nil {
		return nil, err
	}
	return api.New(api.Config{Coordinator: coordinator, Log: e.log, MaxTTL: maxTTL, Metrics: e.getenv("HOLDFAST_METRICS")})
}

func (e *environment) consumer() (*stream.Consumer, error) {
	bus, err := e.required("HOLDFAST_BUS", "name the event bus")
	if err != nil {
		return nil, err
	}
	dlq, err := e.required("HOLDFAST_DLQ_URL", "give the dead-letter queue's URL")
	if err != nil {
		return nil, err
	}
	queues := sqs.NewFromConfig(e.timely())
	c := &stream.Consumer{
		Bus:        &stream.EventBridge{Client: eventbridge.NewFromConfig(e.timely()), Name: bus},
		DeadLetter: &stream.Queue{Client: queues, URL: dlq}, Skew: lock.DefaultSkew, Log: e.log, Metrics: e.getenv("HOLDFAST_METRICS"),
	}
	if url := e.getenv("HOLDFAST_TIMER_QUEUE_URL"); url != "" {
		c.Timers = &stream.Queue{Client: queues, URL: url}
	}
	return c, nil
}

func (e *environment) expirer() (*stream.Expirer, error) {
	url, err := e.required("HOLDFAST_TIMER_QUEUE_URL", "give the timer queue's URL")
	if err != nil {
		return nil, err
	}
	coordinator, err := e.coordinator()
	if err != nil {
		return nil, err
	}
	return &stream.Expirer{
		Coordinator: coordinator, Timers: &stream.Queue{Client: sqs.NewFromConfig(e.timely()), URL: url}, Log: e.log,
	}, nil
}
