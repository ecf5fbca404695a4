// Command tracepicture runs a state machine whose task is gated on a lock that a program holds, on the stack that scripts/cloud/run.sh has deployed,
// and draws the traces of both as the functions and the program send them: see make trace-picture. It is the collector.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/holdfast-lock/holdfast/internal/loopback"
	"github.com/holdfast-lock/holdfast/lockclient"
)

const (
	lockName = "deploy:prod"
	hold     = 1500 * time.Millisecond // of the program
	patience = time.Minute             // for the last span
)

func main() {
	listen := flag.String("listen", "127.0.0.1:4318", "the address of the collector, as the stack's TraceEndpoint has it")
	out := flag.String("out", "docs/tracing/task.svg", "the picture")
	flag.Parse()
	if err := run(context.Background(), *listen, *out); err != nil {
		fmt.Fprintln(os.Stderr, "tracepicture:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, listen, out string) error {
	var outputs map[string]string
	if err := json.Unmarshal([]byte(os.Getenv("HOLDFAST_CLOUD_OUTPUTS")), &outputs); err != nil {
		return errors.New("HOLDFAST_CLOUD_OUTPUTS has no outputs of a stack; run make trace-picture")
	}
	engine, err := url.Parse(os.Getenv("AWS_ENDPOINT_URL"))
	if err != nil {
		return err
	}
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return err
	}
	spans := newCollector()
	listener, err := loopback.Listen(ctx, listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: spans, ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(listener) }()
	defer func() { _ = server.Close() }()

	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL("http://"+listen))
	if err != nil {
		return err
	}
	about := resource.NewSchemaless(semconv.ServiceName("a program"))
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter), sdktrace.WithResource(about))
	client, err := lockclient.New(lockclient.Config{
		Endpoint: outputs["Endpoint"], Region: cfg.Region, Credentials: cfg.Credentials, Owner: "a program", TracerProvider: provider,
		HTTPClient: &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, engine.Host) // whose names resolvers do not know
		}}},
	})
	if err != nil {
		return err
	}
	machines := sfn.NewFromConfig(cfg)
	ctx, work := provider.Tracer("tracepicture").Start(ctx, "deploy")
	err = client.Do(ctx, lockName, lockclient.Options{}, func(ctx context.Context, _ *lockclient.Lease) error {
		_, err := machines.StartExecution(ctx, &sfn.StartExecutionInput{
			StateMachineArn: aws.String(outputs["HoldfastExampleGateCallbackArn"]), Name: aws.String("nightly-42"), Input: aws.String(`{"lock":"` + lockName + `"}`),
		})
		time.Sleep(hold)
		return err
	})
	work.End()
	if err != nil {
		return err
	}
	fmt.Println("tracepicture: waiting for the span of the task's lease")
	select {
	case <-spans.complete:
	case <-time.After(patience):
		return fmt.Errorf("there is no span of the task's lease after %v; there are %d spans: %v", patience, len(spans.all()), spans.names())
	}
	return os.WriteFile(out, draw(spans.all()), 0o600)
}
