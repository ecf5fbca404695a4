package spans

import (
	"context"
	"crypto/sha256"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// ids makes the ids of spans: at random, and of a span of an event by the event's id. So a record of the stream that is delivered again makes the same
// span again, which collectors store once.
type ids struct{ sdktrace.IDGenerator }

type seedKey struct{}

// seeded is ctx, in which the span of a name has an id that follows from an event's.
func seeded(ctx context.Context, event, span string) context.Context {
	return context.WithValue(ctx, seedKey{}, event+"\x00"+span)
}

// NewSpanID implements [sdktrace.IDGenerator].
func (g ids) NewSpanID(ctx context.Context, t trace.TraceID) (id trace.SpanID) {
	seed, ok := ctx.Value(seedKey{}).(string)
	if !ok {
		return g.IDGenerator.NewSpanID(ctx, t)
	}
	sum := sha256.Sum256(append(t[:], seed...))
	copy(id[:], sum[:])
	return id
}
