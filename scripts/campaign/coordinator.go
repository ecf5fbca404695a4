package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/local"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/loopback"
	"github.com/holdfast-lock/holdfast/internal/sqs"
	"github.com/holdfast-lock/holdfast/internal/stream"
	"github.com/holdfast-lock/holdfast/internal/tasks"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A coordinatorConfig configures a coordinator's process.
type coordinatorConfig struct {
	DynamoDB string `json:"dynamodb"` // URL
	Services string `json:"services"` // URL of the queue, the bus and the tasks
	Table    string `json:"table"`
	Offset   int64  `json:"offset"` // of its clock, in milliseconds
	Listen   string `json:"listen"`
}

const region = "us-east-1"

// awsConfig is the SDK's configuration for a service on this machine.
func awsConfig(endpoint string) aws.Config {
	cfg := aws.Config{
		Region: region, Credentials: credentials.NewStaticCredentialsProvider("campaign", "campaign", ""),
		HTTPClient: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 5 * time.Second},
	}
	if endpoint != "" {
		cfg.BaseEndpoint = aws.String(endpoint)
	}
	return cfg
}

// runCoordinator serves the coordinator's HTTP API and Lambda's Invoke with the real handlers. A line "offset MS" on its input moves its
// clock.
func runCoordinator(text string) error {
	var cfg coordinatorConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return err
	}
	var offset atomic.Int64
	offset.Store(cfg.Offset)
	clock := func() time.Time { return time.Now().Add(time.Duration(offset.Load()) * time.Millisecond) }
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	store, err := dynamo.New(dynamo.Config{AWS: awsConfig(""), Table: cfg.Table, Endpoint: cfg.DynamoDB, Clock: clock})
	if err != nil {
		return err
	}
	services := awsConfig(cfg.Services)
	coordinator, err := lock.New(lock.Config{
		Store: store, Clock: clock,
		Granted: stream.AtOnce(stream.ByKind{lock.TaskToken: tasks.New(services)}, sqs.NewSender(services), log, ""),
	})
	if err != nil {
		return err
	}
	a, err := api.New(api.Config{Coordinator: coordinator, Log: log})
	if err != nil {
		return err
	}
	listener, err := loopback.Listen(context.Background(), cfg.Listen)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/2015-03-31/functions/", newInvoker(a))
	mux.Handle("/", local.NewGateway(a, log))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	ready("http://" + listener.Addr().String())
	untilInputEnds(func(line string) {
		if ms, ok := strings.CutPrefix(line, "offset "); ok {
			if d, err := time.ParseDuration(ms + "ms"); err == nil {
				offset.Store(d.Milliseconds())
			}
		}
	})
	return server.Close()
}

// An invoker is a fake of the front of Lambda's Invoke: it passes the payload to the real handler of the function that is named after
// an operation, and answers as Lambda does. It checks no signature and no permission, and has no limits but the function's time.
type invoker map[string]lambda.Handler

func newInvoker(a *api.API) invoker {
	handlers := invoker{}
	for _, op := range wire.Ops() {
		handlers[string(op.Function())] = a.Handler(op.Function())
	}
	return handlers
}

const functionTimeout = 10 * time.Second

// ServeHTTP implements [http.Handler].
func (v invoker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/2015-03-31/functions/"), "/")
	name, _ = url.PathUnescape(name)
	payload, err := io.ReadAll(io.LimitReader(r.Body, 6<<20))
	handler, ok := v[name]
	w.Header().Set("Content-Type", "application/json")
	if !ok || err != nil {
		w.Header().Set("X-Amzn-Errortype", "ResourceNotFoundException")
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"Type":"User","Message":"Function not found"}`)
		return
	}
	// Lambda goes on with an invocation whose caller has gone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), functionTimeout)
	defer cancel()
	answer, err := handler.Invoke(lambdacontext.NewContext(ctx, &lambdacontext.LambdaContext{AwsRequestID: "campaign"}), payload)
	if err == nil {
		_, _ = w.Write(answer)
		return
	}
	failed := struct {
		Type    string `json:"errorType"`
		Message string `json:"errorMessage"`
	}{"Error", err.Error()}
	if known, ok := errors.AsType[messages.InvokeResponse_Error](err); ok {
		failed.Type, failed.Message = known.Type, known.Message
	}
	w.Header().Set("X-Amz-Function-Error", "Unhandled")
	_ = json.NewEncoder(w).Encode(failed)
}
