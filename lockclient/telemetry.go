package lockclient

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// scopeName is the instrumentation scope of the client's spans and metrics.
const scopeName = "github.com/holdfast-lock/holdfast/lockclient"

// The names of spans, metrics and attributes. docs/tracing.md lists them. Metrics have none of the attributes whose values are without limit:
// lock, owner and fence.
const (
	spanAcquire   = "holdfast.acquire"
	spanWait      = "holdfast.wait"
	spanHold      = "holdfast.hold"
	spanRenew     = "holdfast.renew"
	spanAdopt     = "holdfast.adopt"
	spanRelease   = "holdfast.release"
	spanDowngrade = "holdfast.downgrade"

	eventNoAnswer = "holdfast.no_answer" // a try had no answer
	eventNewLease = "holdfast.new_lease" // the lease ended before its answer came, and another is asked for

	metricAcquire = "holdfast.client.acquire.duration"
	metricWait    = "holdfast.client.wait.duration"
	metricHold    = "holdfast.client.hold.duration"
	metricLosses  = "holdfast.client.losses"

	keyLock     = attribute.Key("holdfast.lock")
	keyOwner    = attribute.Key("holdfast.owner")
	keyFence    = attribute.Key("holdfast.fence")
	keySet      = attribute.Key("holdfast.set.size") // of a set of locks
	keyMode     = attribute.Key("holdfast.mode")
	keyPermits  = attribute.Key("holdfast.permits")
	keyTTL      = attribute.Key("holdfast.ttl")    // seconds
	keyWaited   = attribute.Key("holdfast.waited") // seconds in the queue, by the coordinator's clock
	keyRequests = attribute.Key("holdfast.requests")
	keyPosition = attribute.Key("holdfast.position")
	keyOutcome  = attribute.Key("holdfast.outcome")
	keyCause    = attribute.Key("holdfast.loss.cause")
	keyError    = attribute.Key("error.type") // of OpenTelemetry's semantic conventions
)

// The outcomes of an acquisition that are not those of an error.
const (
	outcomeGranted  = "granted"
	outcomeReleased = "released"
	outcomeLost     = "lost"
	outcomeUnused   = "unused" // the client was closed before the caller got the lease
)

// seconds are the boundaries of the histograms: from a request in the same zone to a wait of a day.
var seconds = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400}

// telemetry makes a client's spans and measurements. A nil telemetry makes none, and so do the nil observations that it returns.
type telemetry struct {
	tracer  trace.Tracer
	acquire metric.Float64Histogram
	wait    metric.Float64Histogram
	hold    metric.Float64Histogram
	losses  metric.Int64Counter

	older atomic.Bool // the coordinator is older than the field traceparent, and refuses it
}

// newTelemetry returns nil if cfg has no provider. The error is that of a provider that refuses a name.
func newTelemetry(cfg Config) (*telemetry, error) {
	if cfg.TracerProvider == nil && cfg.MeterProvider == nil {
		return nil, nil
	}
	traces, meters := cfg.TracerProvider, cfg.MeterProvider
	if traces == nil {
		traces = tracenoop.NewTracerProvider()
	}
	if meters == nil {
		meters = metricnoop.NewMeterProvider()
	}
	meter := meters.Meter(scopeName)
	t := &telemetry{tracer: traces.Tracer(scopeName)}
	var errs [4]error
	histogram := func(name, description string) (metric.Float64Histogram, error) {
		return meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(description), metric.WithExplicitBucketBoundaries(seconds...))
	}
	t.acquire, errs[0] = histogram(metricAcquire, "Time from the call of an acquire to its end, by outcome")
	t.wait, errs[1] = histogram(metricWait, "Time from the first answer that others hold the lock to the end of the acquire, by outcome")
	t.hold, errs[2] = histogram(metricHold, "Time from a grant to the release or the loss of the lease")
	t.losses, errs[3] = meter.Int64Counter(metricLosses, metric.WithUnit("{lease}"), metric.WithDescription("Leases that ended otherwise than by their release, by cause"))
	return t, errors.Join(errs[:]...)
}

// lockAttributes describe a lock, or a set of locks, by its name.
func lockAttributes(name string) []attribute.KeyValue {
	if n := strings.Count(name, setSeparator) + 1; n > 1 {
		return []attribute.KeyValue{keyLock.String(name), keySet.Int(n)}
	}
	return []attribute.KeyValue{keyLock.String(name)}
}

// An acquireSpan observes one acquisition, from one goroutine.
type acquireSpan struct {
	t        *telemetry
	ctx      context.Context // with span, and the wait's from its begin
	span     trace.Span
	wait     trace.Span // nil: others did not hold the lock so far
	began    time.Time
	waits    time.Time
	requests int
}

// acquiring begins the observation of an acquisition.
func (t *telemetry) acquiring(ctx context.Context, name string, opts Options) *acquireSpan {
	if t == nil {
		return nil
	}
	attributes := lockAttributes(name)
	if opts.Mode != "" {
		attributes = append(attributes, keyMode.String(string(opts.Mode)))
	}
	if opts.Permits > 0 {
		attributes = append(attributes, keyPermits.Int(opts.Permits))
	}
	s := &acquireSpan{t: t, began: time.Now()}
	s.ctx, s.span = t.tracer.Start(ctx, spanAcquire, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attributes...))
	return s
}

// within is ctx with the span, which is then the parent of its requests.
func (s *acquireSpan) within(ctx context.Context) context.Context {
	if s == nil {
		return ctx
	}
	return trace.ContextWithSpan(ctx, s.span)
}

// traceparent is the span's context as an acquire carries it; empty if the span is not sampled, so that nothing of it would be found, and if the
// coordinator refuses the field.
func (s *acquireSpan) traceparent() string {
	if s == nil || !s.span.SpanContext().IsSampled() || s.t.older.Load() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(s.ctx, carrier)
	return carrier.Get("traceparent")
}

// refusedTraceparent notes that the coordinator refuses the field traceparent, and reports whether an error says so.
func (s *acquireSpan) refusedTraceparent(err error) bool {
	refused, ok := errors.AsType[*RefusedError](err)
	if s == nil || !ok || refused.Field != "traceparent" || wire.Code(refused.Code) != wire.InvalidRequest {
		return false
	}
	s.t.older.Store(true)
	return true
}

func (s *acquireSpan) sent() {
	if s != nil {
		s.requests++
	}
}

// held notes an answer that others hold the lock. The first begins the wait, which is linked to the spans of the holders.
func (s *acquireSpan) held(e *HeldError) {
	switch {
	case s == nil:
		return
	case s.wait != nil:
		s.wait.SetAttributes(keyPosition.Int(e.Position))
		return
	}
	s.waits = time.Now()
	var links []trace.Link
	for _, h := range e.Holders[:min(len(e.Holders), maxLinks)] {
		if at := spanContextOf(h.Traceparent); at.IsValid() {
			links = append(links, trace.Link{SpanContext: at, Attributes: []attribute.KeyValue{keyOwner.String(h.Owner), keyFence.Int64(h.Fence)}})
		}
	}
	_, s.wait = s.t.tracer.Start(s.ctx, spanWait, trace.WithLinks(links...), trace.WithAttributes(keyLock.String(e.Lock), keyPosition.Int(e.Position)))
}

// maxLinks is how many holders a wait is linked to: a refusal names no more owners.
const maxLinks = 10

// spanContextOf reads a traceparent; the result is not valid if text is none.
func spanContextOf(text string) trace.SpanContext {
	if text == "" {
		return trace.SpanContext{}
	}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": text}))
}

func (s *acquireSpan) noAnswer(err error) {
	if s != nil {
		addNoAnswer(s.span, err)
	}
}

// addNoAnswer adds the event of a try without an answer to a span.
func addNoAnswer(span trace.Span, err error) {
	span.AddEvent(eventNoAnswer, trace.WithAttributes(attribute.String("exception.message", err.Error())))
}

func (s *acquireSpan) newLease() {
	if s != nil {
		s.span.AddEvent(eventNewLease)
	}
}

// done ends the observation.
func (s *acquireSpan) done(lease *Lease, err error) {
	if s == nil {
		return
	}
	outcome, failed := outcomeOf(err)
	set := metric.WithAttributes(keyOutcome.String(outcome))
	if failed {
		set = metric.WithAttributes(keyOutcome.String(outcome), keyError.String(outcome))
	}
	if s.wait != nil {
		s.t.wait.Record(s.ctx, time.Since(s.waits).Seconds(), set)
		s.wait.SetAttributes(keyOutcome.String(outcome))
		s.wait.End()
	}
	s.t.acquire.Record(s.ctx, time.Since(s.began).Seconds(), set)
	s.span.SetAttributes(keyOutcome.String(outcome), keyRequests.Int(s.requests))
	if lease != nil {
		s.span.SetAttributes(keyFence.Int64(lease.fence), keyWaited.Float64(lease.waited.Seconds()))
	}
	end(s.span, err, outcome, failed)
}

// end ends a span, with an error status if the operation failed.
func end(span trace.Span, err error, kind string, failed bool) {
	if failed {
		span.SetAttributes(keyError.String(kind))
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

// outcomeOf is the outcome of an operation, and whether that is a failure. That others hold a lock, and that the caller gave up, are none.
func outcomeOf(err error) (outcome string, failed bool) {
	switch {
	case err == nil:
		return outcomeGranted, false
	case errors.Is(err, ErrClosed):
		return "closed", false
	case errors.Is(err, context.Canceled):
		return "canceled", false
	case errors.Is(err, ErrFrozen):
		return "frozen", false
	case errors.Is(err, ErrHeld):
		return "held", false
	case errors.Is(err, ErrRefused):
		return "refused", true
	case errors.Is(err, ErrUnavailable):
		return "unavailable", true
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout", true
	case errors.Is(err, ErrLost):
		return outcomeLost, true
	}
	return "_OTHER", true
}

// A holdSpan observes a lease from its grant on. It is safe for concurrent use.
type holdSpan struct {
	t     *telemetry
	ctx   context.Context // with span
	span  trace.Span
	began time.Time
	once  sync.Once
}

// holding begins the observation of a lease, and returns ctx with its span. The span is a child of the caller's: it outlives the acquire.
func (t *telemetry) holding(ctx context.Context, l *Lease) (context.Context, *holdSpan) {
	if t == nil {
		return ctx, nil
	}
	s := &holdSpan{t: t, began: time.Now()}
	attributes := append(lockAttributes(l.name), keyFence.Int64(l.fence), keyOwner.String(l.owner), keyTTL.Float64(l.ttl.Seconds()), keyWaited.Float64(l.waited.Seconds()))
	s.ctx, s.span = t.tracer.Start(ctx, spanHold, trace.WithAttributes(attributes...))
	return s.ctx, s
}

// within is ctx with the span of the lease.
func (s *holdSpan) within(ctx context.Context) context.Context {
	if s == nil {
		return ctx
	}
	return trace.ContextWithSpan(ctx, s.span)
}

// under is ctx, with the span of the lease if it has none.
func (s *holdSpan) under(ctx context.Context) context.Context {
	if s == nil || trace.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	return s.within(ctx)
}

// ended ends the observation, once, with the cause of the lease's end.
func (s *holdSpan) ended(cause error) {
	if s == nil {
		return
	}
	s.once.Do(func() {
		outcome := outcomeReleased
		if cause == nil {
			s.span.SetAttributes(keyOutcome.String(outcomeUnused))
			s.span.End()
			return
		}
		lost := !errors.Is(cause, ErrReleased)
		if lost {
			outcome = outcomeLost
			why := lossCause(cause)
			s.span.SetAttributes(keyCause.String(why))
			s.t.losses.Add(s.ctx, 1, metric.WithAttributes(keyCause.String(why)))
		}
		s.t.hold.Record(s.ctx, time.Since(s.began).Seconds(), metric.WithAttributes(keyOutcome.String(outcome)))
		s.span.SetAttributes(keyOutcome.String(outcome))
		end(s.span, cause, outcomeLost, lost)
	})
}

// The reasons of a loss that have no kind of error of their own.
var (
	errInvocationOver = errors.New("its invocation is over")
	errRanOut         = errors.New("its time ran out")
	errSaidLost       = errors.New("the coordinator says that it expired, was released or was forced out")
)

// lossCause classifies the loss of a lease.
func lossCause(err error) string {
	switch {
	case errors.Is(err, ErrLimit):
		return "limit"
	case errors.Is(err, errInvocationOver):
		return "invocation_over"
	case errors.Is(err, errSaidLost):
		return "ended_elsewhere"
	case errors.Is(err, errRanOut):
		return "expired"
	}
	return "not_renewed"
}

// An opSpan observes one call of an operation but acquire.
type opSpan struct{ span trace.Span }

// operation begins the observation of an operation.
func (t *telemetry) operation(ctx context.Context, span, name string) (context.Context, *opSpan) {
	if t == nil {
		return ctx, nil
	}
	ctx, s := t.tracer.Start(ctx, span, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(lockAttributes(name)...))
	return ctx, &opSpan{s}
}

// tried notes the result of a try.
func (s *opSpan) tried(err error) {
	if s != nil && isUnavailable(err) {
		addNoAnswer(s.span, err)
	}
}

func (s *opSpan) done(err error) {
	if s == nil {
		return
	}
	kind, failed := outcomeOf(err)
	end(s.span, err, kind, failed)
}
