package spans

import (
	"context"
	"log/slog"
	"maps"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// request is the message of the record of a request: see internal/api.
const request = "request"

// attributeOf is the attribute of a span for an attribute of a log record. Others are left out.
var attributeOf = map[string]attribute.Key{
	"op": "holdfast.op", "lock": "holdfast.lock", "owner": "holdfast.owner", "fence": "holdfast.fence", "code": "holdfast.code", "request_id": "holdfast.request_id",
	"error": "exception.message", "detail_type": "holdfast.event.type", "waited_ms": "holdfast.waited_ms",
}

// Log is a handler of log records that are also in the span of the invocation: the record of a request as its attributes, others as events. A record of an
// error gives the span the status error.
func (s *Spans) Log(h slog.Handler) slog.Handler {
	if s == nil {
		return h
	}
	return logged{Handler: h}
}

type logged struct {
	slog.Handler
	with map[attribute.Key]attribute.KeyValue // of WithAttrs
}

// Handle implements [slog.Handler].
func (l logged) Handle(ctx context.Context, r slog.Record) error {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		var list []attribute.KeyValue
		for _, a := range l.with {
			list = append(list, a)
		}
		r.Attrs(func(a slog.Attr) bool {
			if kv, ok := known(a); ok {
				list = append(list, kv)
			}
			return true
		})
		if r.Message == request {
			span.SetAttributes(list...)
		} else {
			span.AddEvent(r.Message, trace.WithAttributes(list...))
		}
		if r.Level >= slog.LevelError {
			span.SetStatus(codes.Error, r.Message)
		}
	}
	return l.Handler.Handle(ctx, r)
}

// WithAttrs implements [slog.Handler].
func (l logged) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := maps.Clone(l.with)
	if with == nil {
		with = map[attribute.Key]attribute.KeyValue{}
	}
	for _, a := range attrs {
		if kv, ok := known(a); ok {
			with[kv.Key] = kv
		}
	}
	return logged{l.Handler.WithAttrs(attrs), with}
}

// WithGroup implements [slog.Handler].
func (l logged) WithGroup(name string) slog.Handler { return logged{l.Handler.WithGroup(name), l.with} }

func known(a slog.Attr) (attribute.KeyValue, bool) {
	key, ok := attributeOf[a.Key]
	switch v := a.Value.Resolve(); {
	case !ok || v.Kind() == slog.KindString && v.String() == "":
		return attribute.KeyValue{}, false
	case v.Kind() == slog.KindInt64:
		return key.Int64(v.Int64()), true
	default:
		return key.String(v.String()), true
	}
}
