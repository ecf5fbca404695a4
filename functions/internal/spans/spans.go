// Package spans makes the functions' spans, by OpenTelemetry, and sends them to a collector by OTLP over HTTP. It decorates what the functions are put
// together from, so that the packages of the coordinator know nothing of spans:
//
//   - Handler: a span for each invocation. Its parent is the caller's, by the header or the field traceparent, or else X-Ray's.
//   - Log: the record of a request gives the span its attributes; other records are its events.
//   - Callbacks: a span for the callback of a grant, in the trace of the waiter.
//   - Bus: a span for each event, and for the wait and the life of a lease that events tell, in the trace of the lease's acquire.
//
// A nil *Spans makes none.
package spans

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-lambda-go/lambdacontext"
	"go.opentelemetry.io/contrib/propagators/aws/xray"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

const scopeName = "github.com/holdfast-lock/holdfast/functions"

const (
	// exportLimit bounds what a collector may add to an invocation, which waits until its spans are sent: Lambda may freeze the process after the answer.
	exportLimit = 300 * time.Millisecond
	// exportPause is for how long spans are dropped after the collector did not take some.
	exportPause = 30 * time.Second
)

// Spans makes spans.
type Spans struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	function string // the name of the spans of invocations
	warm     atomic.Bool
}

// FromEnvironment makes Spans by OpenTelemetry's variables, such as OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME,
// OTEL_RESOURCE_ATTRIBUTES and OTEL_TRACES_SAMPLER. It returns nil if the first is not set.
func FromEnvironment(getenv func(string) string, log *slog.Logger) (*Spans, error) {
	if getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
		return nil, nil
	}
	exporter, err := otlptracehttp.New(context.Background(), otlptracehttp.WithRetry(otlptracehttp.RetryConfig{}), otlptracehttp.WithTimeout(exportLimit))
	if err != nil {
		return nil, err
	}
	function := getenv("AWS_LAMBDA_FUNCTION_NAME")
	// The detector of OpenTelemetry for Lambda is deprecated.
	about, err := resource.New(context.Background(), resource.WithAttributes(
		semconv.ServiceName(cmp.Or(function, "holdfast")), semconv.CloudProviderAWS, semconv.CloudPlatformAWSLambda, semconv.CloudRegion(getenv("AWS_REGION")),
		semconv.FaaSName(function), semconv.FaaSVersion(getenv("AWS_LAMBDA_FUNCTION_VERSION")), semconv.FaaSInstance(getenv("AWS_LAMBDA_LOG_STREAM_NAME")),
	), resource.WithFromEnv())
	if err != nil {
		return nil, err
	}
	return New(function, &guarded{SpanExporter: exporter, log: log, now: time.Now}, about), nil
}

// New makes Spans that an exporter gets at the end of each invocation. function is the name of the spans of invocations.
func New(function string, exporter sdktrace.SpanExporter, about *resource.Resource) *Spans {
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter, sdktrace.WithBatchTimeout(time.Hour), sdktrace.WithExportTimeout(exportLimit)), // it is flushed
		sdktrace.WithIDGenerator(ids{xray.NewIDGenerator()}), sdktrace.WithResource(about),
	)
	return &Spans{provider: provider, tracer: provider.Tracer(scopeName), function: cmp.Or(function, "holdfast")}
}

// Handler is a handler with a span for each invocation.
func (s *Spans) Handler(h lambda.Handler) lambda.Handler {
	if s == nil {
		return h
	}
	return handler{s, h}
}

type handler struct {
	spans *Spans
	next  lambda.Handler
}

// Invoke implements [lambda.Handler].
func (h handler) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	attributes := []attribute.KeyValue{semconv.FaaSColdstart(!h.spans.warm.Swap(true))}
	if lc, ok := lambdacontext.FromContext(ctx); ok {
		attributes = append(attributes, semconv.FaaSInvocationID(lc.AwsRequestID), semconv.CloudResourceID(lc.InvokedFunctionArn))
	}
	ctx, span := h.spans.tracer.Start(caller(ctx, payload), h.spans.function, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attributes...))
	defer func() { // also when the handler panics
		span.End()
		flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), exportLimit)
		defer cancel()
		_ = h.spans.provider.ForceFlush(flush) // guarded logs its error
	}()
	answer, err := h.next.Invoke(ctx, payload)
	if failed, ok := errors.AsType[messages.InvokeResponse_Error](err); ok { // a problem, such as that the lock is held
		span.SetAttributes(semconv.ErrorTypeKey.String(failed.Type))
	} else if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	return answer, err
}

// caller is ctx with the span context of who invoked the function: of the HTTP header or the field traceparent, or else of X-Ray.
func caller(ctx context.Context, payload []byte) context.Context {
	if bytes.Contains(payload, []byte(`"traceparent"`)) {
		var sent struct {
			Headers struct {
				Traceparent string `json:"traceparent"`
			} `json:"headers"`
			Traceparent string `json:"traceparent"`
		}
		_ = json.Unmarshal(payload, &sent) // what is not valid is refused by the handler
		if at := remote(cmp.Or(sent.Headers.Traceparent, sent.Traceparent)); at.IsValid() {
			return trace.ContextWithRemoteSpanContext(ctx, at)
		}
	}
	header, _ := ctx.Value("x-amzn-trace-id").(string) // as package lambda sets it
	return xray.Propagator{}.Extract(ctx, propagation.MapCarrier{"X-Amzn-Trace-Id": header})
}

// remote reads a traceparent.
func remote(text string) trace.SpanContext {
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": text}))
}

// Traceparent is the context of the span in ctx, if it is sampled; else empty.
func (s *Spans) Traceparent(ctx context.Context) string {
	if s == nil || !trace.SpanContextFromContext(ctx).IsSampled() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier.Get("traceparent")
}

// A guarded exporter sends nothing for a while after it has failed, so that a collector that is down does not make every invocation longer.
type guarded struct {
	sdktrace.SpanExporter
	log *slog.Logger
	now func() time.Time

	mu    sync.Mutex
	until time.Time
}

// ExportSpans implements [sdktrace.SpanExporter]. Its error is logged, once a pause, and not returned.
func (g *guarded) ExportSpans(ctx context.Context, list []sdktrace.ReadOnlySpan) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.now().Before(g.until) {
		return nil
	}
	if err := g.SpanExporter.ExportSpans(ctx, list); err != nil {
		g.until = g.now().Add(exportPause)
		g.log.LogAttrs(ctx, slog.LevelWarn, "spans were not sent to the collector; none are sent for a while",
			slog.Int("spans", len(list)), slog.Duration("pause", exportPause), slog.Any("error", err))
	}
	return nil
}
