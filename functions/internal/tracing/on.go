//go:build traced

package tracing

import (
	"context"
	"log/slog"
	"os"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/holdfast-lock/holdfast/functions/internal/spans"
)

// Made are the spans of this process; nil: the environment names no collector.
var Made = start()

func start() *spans.Spans {
	log := lambdacontext.NewLogger()
	s, err := spans.FromEnvironment(os.Getenv, log)
	if err != nil {
		log.Error("cannot start", "error", err)
		os.Exit(1)
	}
	return s
}

// Start starts a function, with a span for each invocation.
func Start(handler any) { lambda.Start(Made.Handler(lambda.NewHandler(handler))) }

// Log returns a log whose records are also in the span of the invocation.
func Log(log *slog.Logger) *slog.Logger { return slog.New(Made.Log(log.Handler())) }

// Traceparent returns the context of the span of an invocation.
func Traceparent(ctx context.Context) string { return Made.Traceparent(ctx) }
