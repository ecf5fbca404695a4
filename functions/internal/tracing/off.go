//go:build !traced

package tracing

import (
	"context"
	"log/slog"
	"os"

	"github.com/aws/aws-lambda-go/lambda"
)

// Start starts a function.
func Start(handler any) { lambda.Start(handler) }

// Log returns log. It warns if the environment asks for spans, which this build does not make.
func Log(log *slog.Logger) *slog.Logger {
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != "" {
		log.Warn("OTEL_EXPORTER_OTLP_ENDPOINT is set, but this function was built without the tag traced, and makes no spans; see docs/tracing.md")
	}
	return log
}

// Traceparent is nil: a request has no span.
var Traceparent func(context.Context) string
