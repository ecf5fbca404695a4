// Package boot builds what functions need, once per cold start, from the environment. Package consumer builds what only the
// stream and expire functions need: the SDK's clients take a good part of a cold start to initialise.
//
//	HOLDFAST_TABLE              the lock table; required
//	HOLDFAST_STATE_MACHINES     names of the state machines to whose executions leases may belong, with commas between; a "*"
//	                            at the end of one means any rest. Default: none
//	HOLDFAST_MAX_TTL_MS         the longest TTL a request may ask for, from 60000 to 604800000 (7 days); default 86400000
//	HOLDFAST_METRICS            the CloudWatch namespace of metrics; without it there are none
//	HOLDFAST_DYNAMODB_ENDPOINT  for a local engine; default the region's
//	HOLDFAST_BUS                the event bus; required for the stream and expire functions
//	HOLDFAST_TIMER_QUEUE_URL    the timers' queue, which also keeps what was put off; required for the expire function. Without
//	                            it the stream function sets no timers, leases that run out are told late, and a record that
//	                            cannot be handled now holds up those behind it
//	HOLDFAST_DLQ_URL            where the stream and expire functions bury what they cannot handle; required for both
//
// and the variables of AWS that package awsenv lists.
package boot

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/awsenv"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// API builds the API, or ends the process with an error that names the setting.
func API() *api.API { return Must((*Environment).api) }

// Must builds something from the environment, or ends the process with an error that names the setting.
func Must[T any](build func(*Environment) (T, error)) T {
	log := lambdacontext.NewLogger()
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

// An Environment is what functions are built from.
type Environment struct {
	Getenv func(string) string
	AWS    aws.Config
	Log    *slog.Logger
}

// Required is a setting that must be there.
func (e *Environment) Required(name, what string) (string, error) {
	if v := e.Getenv(name); v != "" {
		return v, nil
	}
	return "", fmt.Errorf("%s is not set; %s", name, what)
}

// Coordinator is one on the lock table.
func (e *Environment) Coordinator() (*lock.Coordinator, error) {
	table, err := e.Required("HOLDFAST_TABLE", "name the lock table")
	if err != nil {
		return nil, err
	}
	store, err := dynamo.New(dynamo.Config{AWS: e.AWS, Table: table, Endpoint: e.Getenv("HOLDFAST_DYNAMODB_ENDPOINT")})
	if err != nil {
		return nil, err
	}
	return lock.New(lock.Config{Store: store})
}

func (e *Environment) api() (*api.API, error) {
	var maxTTL time.Duration
	if s := e.Getenv("HOLDFAST_MAX_TTL_MS"); s != "" {
		ms, err := strconv.ParseInt(s, 10, 64)
		if err != nil || ms < 1 || ms > wire.MaxTTL.Milliseconds() {
			return nil, fmt.Errorf("HOLDFAST_MAX_TTL_MS is %q; give whole milliseconds, from 60000 to 604800000 (7 days)", s)
		}
		maxTTL = time.Duration(ms) * time.Millisecond
	}
	coordinator, err := e.Coordinator()
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
	return api.New(api.Config{Coordinator: coordinator, Log: e.Log, MaxTTL: maxTTL, Machines: machines, Metrics: e.Getenv("HOLDFAST_METRICS")})
}
