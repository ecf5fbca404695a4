// Package boot builds the API's functions from the environment, once per cold start. Packages callbacks and consumer do so for the
// functions that send callbacks, and for the stream and expire functions: they need further clients of the SDK, and linking a client
// makes every cold start longer. The settings of all are:
//
//	HOLDFAST_TABLE              the lock table; required
//	HOLDFAST_STATE_MACHINES     the names of the state machines whose executions leases may belong to, separated by commas. A "*"
//	                            at the end of a name matches any rest. Default: none
//	HOLDFAST_MAX_TTL_MS         the longest TTL that a request may ask for, from 60000 to 604800000 (7 days). Default: 86400000
//	HOLDFAST_NOTIFY_PREFIX      how the URLs of the queues begin by which waiters may be notified, such as
//	                            https://sqs.eu-west-1.amazonaws.com/123456789012/holdfast-notify-. Default: waiters are not notified
//	HOLDFAST_NO_API             true: the deployment has no HTTP API, so that events of API Gateway are refused. Default: they are served
//	HOLDFAST_METRICS            the CloudWatch namespace of the metrics. Default: no metrics
//	HOLDFAST_DYNAMODB_ENDPOINT  the URL of a local DynamoDB. Default: the region's
//	HOLDFAST_BUS                the event bus; required for the stream, expire and redrive functions
//	HOLDFAST_EVENTS             the beginnings of the names of the locks whose events the stream, expire and redrive functions publish, separated
//	                            by commas; "-" for none. Default: all. The stream's filters must agree
//	HOLDFAST_TIMER_QUEUE_URL    the queue of timers and of deferred jobs; required for the expire function. Without it the stream
//	                            function sets no timers, so that the expiry of a lease is found late, and a record of the stream
//	                            that fails blocks those behind it
//	OTEL_EXPORTER_OTLP_ENDPOINT the collector that gets the functions' spans, in a build with the tag traced. Default: there are none
//	HOLDFAST_DLQ_URL            the dead-letter queue; required for the stream, expire and redrive functions
//
// Package awsenv lists the variables of AWS.
package boot

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"

	"github.com/holdfast-lock/holdfast/functions/internal/tracing"
	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/awsenv"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// API builds the API of a function that sends no callbacks. If a setting is missing or wrong, it logs an error that names the
// setting, and ends the process.
func API() *api.API {
	return Must(func(e *Environment) (*api.API, error) { return e.API(nil) })
}

// Must builds a value from the environment. If build fails, it logs the error and ends the process.
func Must[T any](build func(*Environment) (T, error)) T {
	log := tracing.Log(lambdacontext.NewLogger())
	cfg, err := awsenv.Config(os.Getenv)
	var v T
	if err == nil {
		v, err = build(&Environment{Getenv: os.Getenv, AWS: cfg, Log: log})
	}
	if err != nil {
		log.Error("cannot start", "error", err)
		os.Exit(1)
	}
	return v
}

// An Environment is what the functions are built from.
type Environment struct {
	Getenv func(string) string
	AWS    aws.Config
	Log    *slog.Logger
}

// Required returns a setting, or an error that names it and says what to do.
func (e *Environment) Required(name, what string) (string, error) {
	if v := e.Getenv(name); v != "" {
		return v, nil
	}
	return "", fmt.Errorf("%s is not set; %s", name, what)
}

// attemptTimeout bounds one attempt of a request to EventBridge, SQS or Step Functions, of which the SDK makes three.
const attemptTimeout = 5 * time.Second

// Bounded returns the SDK's configuration with a bound on each attempt, which it does not have by itself.
func (e *Environment) Bounded() aws.Config {
	cfg := e.AWS.Copy()
	if b, ok := cfg.HTTPClient.(*awshttp.BuildableClient); ok {
		cfg.HTTPClient = b.WithTimeout(attemptTimeout)
	}
	return cfg
}

// Metrics returns the CloudWatch namespace of the metrics, or "".
func (e *Environment) Metrics() string { return e.Getenv("HOLDFAST_METRICS") }

// Granted is the type of [lock.Config.Granted].
type Granted = func(context.Context, *lock.Coordinator, []lock.Write)

// Coordinator builds a coordinator on the lock table. granted is its [lock.Config.Granted].
func (e *Environment) Coordinator(granted Granted) (*lock.Coordinator, error) {
	store, err := e.Store()
	if err != nil {
		return nil, err
	}
	return lock.New(lock.Config{Store: store, Granted: granted})
}

// Store builds the store on the lock table.
func (e *Environment) Store() (*dynamo.Store, error) {
	table, err := e.Required("HOLDFAST_TABLE", "name the lock table")
	if err != nil {
		return nil, err
	}
	return dynamo.New(dynamo.Config{AWS: e.AWS, Table: table, Endpoint: e.Getenv("HOLDFAST_DYNAMODB_ENDPOINT")})
}

// API builds the API on a coordinator with this [lock.Config.Granted].
func (e *Environment) API(granted Granted) (*api.API, error) {
	var maxTTL time.Duration
	if s := e.Getenv("HOLDFAST_MAX_TTL_MS"); s != "" {
		ms, err := strconv.ParseInt(s, 10, 64)
		if err != nil || ms < 1 || ms > wire.MaxTTL.Milliseconds() {
			return nil, fmt.Errorf("HOLDFAST_MAX_TTL_MS is %q; give whole milliseconds, from 60000 to 604800000 (7 days)", s)
		}
		maxTTL = time.Duration(ms) * time.Millisecond
	}
	notify := e.Getenv("HOLDFAST_NOTIFY_PREFIX")
	if u, err := url.Parse(notify); notify != "" && (err != nil || u.Host == "" || strings.Count(u.Path, "/") != 2) {
		return nil, fmt.Errorf("HOLDFAST_NOTIFY_PREFIX is %q; give the beginning of a queue's URL, such as https://sqs.REGION.amazonaws.com/ACCOUNT/holdfast-notify-", notify)
	}
	noAPI := false
	if s := e.Getenv("HOLDFAST_NO_API"); s != "" {
		var err error
		if noAPI, err = strconv.ParseBool(s); err != nil {
			return nil, fmt.Errorf("HOLDFAST_NO_API is %q; give true or false", s)
		}
	}
	coordinator, err := e.Coordinator(granted)
	if err != nil {
		return nil, err
	}
	var machines []string
	if s := e.Getenv("HOLDFAST_STATE_MACHINES"); s != "" {
		for machine := range strings.SplitSeq(s, ",") {
			if machine = strings.TrimSpace(machine); machine != "" {
				machines = append(machines, machine)
			}
		}
	}
	return api.New(api.Config{Coordinator: coordinator, Log: e.Log, MaxTTL: maxTTL, Machines: machines, NotifyPrefix: notify, NoHTTP: noAPI, Metrics: e.Metrics(), Traceparent: tracing.Traceparent})
}
