package spans

import (
	"context"
	"encoding/json"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// The names of spans about leases. docs/tracing.md lists them.
const (
	spanQueue    = "holdfast.queue"    // of the coordinator: from when the caller joined the queue to the grant
	spanLease    = "holdfast.lease"    // of the coordinator: from the grant to the end
	spanEvent    = "holdfast.event"    // an event is published
	spanCallback = "holdfast.callback" // a task is told of its grant
)

// in is ctx in the trace of a lease, with a link to the span that is current. Without a trace it is ctx.
func in(ctx context.Context, traceparent string) (context.Context, []trace.SpanStartOption) {
	at := remote(traceparent)
	if !at.IsValid() {
		return ctx, nil
	}
	var options []trace.SpanStartOption
	if trace.SpanContextFromContext(ctx).IsValid() {
		options = append(options, trace.WithLinks(trace.LinkFromContext(ctx)))
	}
	return trace.ContextWithRemoteSpanContext(ctx, at), options
}

// Callbacks are callbacks with a span for each grant that a task is told of, in the trace of the waiter.
func (s *Spans) Callbacks(c stream.Callbacks) stream.Callbacks {
	if s == nil {
		return c
	}
	return callbacks{c, s}
}

type callbacks struct {
	stream.Callbacks
	spans *Spans
}

// Succeed implements [stream.Callbacks].
func (c callbacks) Succeed(ctx context.Context, token lock.Token, output []byte) error {
	var told wire.SetGranted
	_ = json.Unmarshal(output, &told) // ours
	spanCtx, options := in(ctx, told.Traceparent)
	attributes := []attribute.KeyValue{attribute.String("holdfast.owner", told.Owner), attribute.String("holdfast.callback", string(token.Kind))}
	if len(told.Locks) > 0 {
		attributes = append(attributes, attribute.String("holdfast.lock", told.Locks[0].Lock), attribute.Int64("holdfast.fence", told.Locks[0].Fence))
	}
	spanCtx, span := c.spans.tracer.Start(spanCtx, spanCallback, append(options, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(attributes...))...)
	defer span.End()
	err := c.Callbacks.Succeed(spanCtx, token, output)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	return err
}

// Bus is a bus with spans for what the events tell of leases that have a trace.
func (s *Spans) Bus(b stream.Bus) stream.Bus {
	if s == nil {
		return b
	}
	return bus{b, s}
}

type bus struct {
	stream.Bus
	spans *Spans
}

// Put implements [stream.Bus].
func (b bus) Put(ctx context.Context, entries []stream.Entry) []error {
	began := time.Now()
	errs := b.Bus.Put(ctx, entries)
	for i, e := range entries {
		if errs == nil || errs[i] == nil { // else it is sent again
			b.spans.published(ctx, e, began)
		}
	}
	return errs
}

// published makes the spans of an event.
func (s *Spans) published(ctx context.Context, entry stream.Entry, began time.Time) {
	e, err := events.Decode(entry.DetailType, entry.Detail)
	if err != nil {
		return
	}
	l := e.Subject()
	if l.Traceparent == "" {
		return
	}
	ctx, options := in(ctx, l.Traceparent)
	about := trace.WithAttributes(attribute.String("holdfast.lock", l.Lock), attribute.Int64("holdfast.fence", l.Fence), attribute.String("holdfast.owner", l.Owner))
	span := func(name string, from, to time.Time, more ...trace.SpanStartOption) trace.Span {
		_, span := s.tracer.Start(seeded(ctx, l.ID, name), name, append(more, about, trace.WithTimestamp(from))...)
		span.End(trace.WithTimestamp(to))
		return span
	}
	span(spanEvent, began, time.Now(), append(options, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(attribute.String("holdfast.event.type", entry.DetailType)))...)
	life := func(end events.End, outcome string) {
		span(spanLease, l.AcquiredAt.Time, end.EndedAt.Time, trace.WithAttributes(attribute.String("holdfast.outcome", outcome)))
	}
	switch e := e.(type) {
	case events.Acquired:
		if l.WaitedMS > 0 {
			span(spanQueue, l.AcquiredAt.Add(-time.Duration(l.WaitedMS)*time.Millisecond), l.AcquiredAt.Time)
		}
	case events.Released:
		life(e.End, "released")
	case events.Expired:
		life(e.End, "expired")
	case events.ForceReleased:
		life(e.End, "force-released")
	}
}
