package spans

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-lambda-go/lambdacontext"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

const (
	traceID = "0af7651916cd43dd8448eb211c80319c"
	traced  = "00-" + traceID + "-b7ad6b7169203331-01"
	xrayed  = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
)

func newSpans() (*Spans, *kept) {
	k := &kept{}
	return New("acquire", k, nil), k
}

// kept keeps what was exported.
type kept struct{ tracetest.InMemoryExporter }

// Shutdown keeps the spans.
func (*kept) Shutdown(context.Context) error { return nil }

func (k *kept) only(t *testing.T, name string) tracetest.SpanStub {
	t.Helper()
	var found []tracetest.SpanStub
	for _, s := range k.GetSpans() {
		if s.Name == name {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d spans %s in %v", len(found), name, k.GetSpans())
	}
	return found[0]
}

func value(s tracetest.SpanStub, key attribute.Key) string {
	set := attribute.NewSet(s.Attributes...)
	v, _ := set.Value(key)
	return v.String()
}

type invoke func(context.Context, []byte) ([]byte, error)

func (f invoke) Invoke(ctx context.Context, payload []byte) ([]byte, error) { return f(ctx, payload) }

// The parent of an invocation's span is that of the header, of the field, or X-Ray's, in this order; and the answer comes after the spans were sent.
func TestParentOfAnInvocation(t *testing.T) {
	const other = "00-" + traceID + "-00f067aa0ba902b7-01"
	for name, test := range map[string]struct{ payload, xray, parent, sent string }{
		"header":                {`{"headers":{"traceparent":"` + traced + `"},"body":"{\"traceparent\":\"x\"}"}`, xrayed, "b7ad6b7169203331", traceID},
		"header before field":   {`{"headers":{"traceparent":"` + traced + `"},"traceparent":"` + other + `"}`, "", "b7ad6b7169203331", traceID},
		"field":                 {`{"name":"a","traceparent":"` + other + `"}`, xrayed, "00f067aa0ba902b7", traceID},
		"X-Ray":                 {`{"name":"a"}`, xrayed, "53995c3f42cd8ad8", "5759e988bd862e3fe1be46a994272793"},
		"X-Ray, malformed W3C":  {`{"name":"a","traceparent":"00-1"}`, xrayed, "53995c3f42cd8ad8", "5759e988bd862e3fe1be46a994272793"},
		"malformed payload":     {`"traceparent"`, "", "0000000000000000", ""},
		"X-Ray, malformed":      {`{}`, "Root=x;Parent=y", "0000000000000000", ""},
		"no trace of a caller":  {`{}`, "", "0000000000000000", ""},
		"a traceparent of 7":    {`{"traceparent":7}`, "", "0000000000000000", ""},
		"X-Ray without samples": {`{}`, strings.Replace(xrayed, "Sampled=1", "Sampled=0", 1), "", ""},
	} {
		s, k := newSpans()
		ctx := context.WithValue(t.Context(), "x-amzn-trace-id", test.xray) //nolint:staticcheck // package lambda's key
		ctx = lambdacontext.NewContext(ctx, &lambdacontext.LambdaContext{AwsRequestID: "r-1", InvokedFunctionArn: "arn:f"})
		carried := ""
		answer, err := s.Handler(invoke(func(ctx context.Context, p []byte) ([]byte, error) {
			carried = s.Traceparent(ctx)
			return p, nil
		})).Invoke(ctx, []byte(test.payload))
		if err != nil || string(answer) != test.payload {
			t.Errorf("%s: %s, %v", name, answer, err)
		}
		if strings.Contains(name, "without samples") {
			if carried != "" || len(k.GetSpans()) != 0 {
				t.Errorf("%s: carries %q", name, carried)
			}
			continue
		}
		span := k.only(t, "acquire")
		if span.Parent.SpanID().String() != test.parent || test.sent != "" && span.SpanContext.TraceID().String() != test.sent {
			t.Errorf("%s: parent %v of %v", name, span.Parent.SpanID(), span.SpanContext.TraceID())
		}
		if want := fmt.Sprintf("00-%s-%s-01", span.SpanContext.TraceID(), span.SpanContext.SpanID()); carried != want {
			t.Errorf("%s: the request carries %q, want %q", name, carried, want)
		}
		if span.SpanKind != trace.SpanKindServer || value(span, "faas.coldstart") != "true" || value(span, "faas.invocation_id") != "r-1" || value(span, "cloud.resource_id") != "arn:f" {
			t.Errorf("%s: %v", name, span.Attributes)
		}
	}
}

// A problem, such as that the lock is held, is the type of an error and no failure; other errors and panics are, and the span is sent all the same.
func TestOutcomeOfAnInvocation(t *testing.T) {
	s, k := newSpans()
	run := func(f invoke) (span tracetest.SpanStub) {
		k.Reset()
		defer func() { _ = recover(); span = k.only(t, "acquire") }()
		_, _ = s.Handler(f).Invoke(t.Context(), []byte(`{}`))
		return span
	}
	held := run(func(context.Context, []byte) ([]byte, error) {
		return nil, messages.InvokeResponse_Error{Type: "LockHeld"}
	})
	if held.Status.Code != codes.Unset || value(held, "error.type") != "LockHeld" || value(held, "faas.coldstart") != "true" {
		t.Errorf("held: %v %v", held.Status, held.Attributes)
	}
	failed := run(func(context.Context, []byte) ([]byte, error) { return nil, errors.New("boom") })
	if failed.Status.Code != codes.Error || value(failed, "faas.coldstart") != "false" {
		t.Errorf("failed: %v %v", failed.Status, failed.Attributes)
	}
	if span := run(func(context.Context, []byte) ([]byte, error) { panic("x") }); span.Name != "acquire" {
		t.Errorf("panic: %v", span)
	}
}

// The record of a request gives the span its attributes; others are events; one of an error makes the span one. What is logged does not change.
func TestLogOfAnInvocation(t *testing.T) {
	s, k := newSpans()
	var with, without bytes.Buffer
	plain := &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}
	work := func(ctx context.Context, log *slog.Logger) {
		log = log.With("lock", "deploy:prod")
		log.InfoContext(ctx, "request", "op", "acquire", "owner", "o", "fence", int64(7), "code", "ok", "principal", "arn:secret", "latency_ms", 1.5)
		log.WarnContext(ctx, "callback of a grant was not delivered", "error", errors.New("cut"))
		log.WithGroup("g").ErrorContext(ctx, "event was not published", "owner", "")
	}
	_, _ = s.Handler(invoke(func(ctx context.Context, _ []byte) ([]byte, error) {
		work(ctx, slog.New(s.Log(slog.NewJSONHandler(&with, plain))))
		return nil, nil
	})).Invoke(t.Context(), nil)
	work(t.Context(), slog.New(slog.NewJSONHandler(&without, plain)))
	work(t.Context(), slog.New(s.Log(slog.NewJSONHandler(&bytes.Buffer{}, nil)))) // outside of an invocation
	span := k.only(t, "acquire")
	if with.String() != without.String() || with.Len() == 0 {
		t.Errorf("logged\n%s\nwant\n%s", &with, &without)
	}
	if value(span, "holdfast.lock") != "deploy:prod" || value(span, "holdfast.fence") != "7" || value(span, "holdfast.code") != "ok" || value(span, "holdfast.op") != "acquire" || strings.Contains(fmt.Sprint(span.Attributes), "arn:secret") {
		t.Errorf("%v", span.Attributes)
	}
	if len(span.Events) != 2 || span.Events[0].Name != "callback of a grant was not delivered" || span.Status.Code != codes.Error || span.Status.Description != "event was not published" {
		t.Errorf("%v %v", span.Events, span.Status)
	}
}

type fakeCallbacks struct {
	stream.Callbacks
	err error
	in  trace.SpanContext
}

func (f *fakeCallbacks) Succeed(ctx context.Context, _ lock.Token, _ []byte) error {
	f.in = trace.SpanContextFromContext(ctx)
	return f.err
}

// The callback of a grant is in the trace of the waiter, with a link to the invocation that sends it.
func TestSpanOfACallback(t *testing.T) {
	s, k := newSpans()
	fake := &fakeCallbacks{err: stream.ErrTaskGone}
	c := s.Callbacks(fake)
	_, _ = s.Handler(invoke(func(ctx context.Context, _ []byte) ([]byte, error) {
		token := lock.Token{Kind: lock.TaskToken, Text: "the token"}
		if err := c.Succeed(ctx, token, []byte(`{"lock":"a","fence":7,"locks":[{"lock":"a","fence":7}],"owner":"o","traceparent":"`+traced+`"}`)); !errors.Is(err, stream.ErrTaskGone) {
			t.Error(err)
		}
		return nil, nil
	})).Invoke(t.Context(), nil)
	invocation, span := k.only(t, "acquire"), k.only(t, "holdfast.callback")
	if span.Parent.SpanID().String() != "b7ad6b7169203331" || span.SpanContext.TraceID().String() != traceID || len(span.Links) != 1 || span.Links[0].SpanContext.SpanID() != invocation.SpanContext.SpanID() || fake.in.SpanID() != span.SpanContext.SpanID() {
		t.Errorf("%v of %v, links %v", span.SpanContext, span.Parent, span.Links)
	}
	if value(span, "holdfast.lock") != "a" || value(span, "holdfast.fence") != "7" || span.Status.Code != codes.Error || strings.Contains(fmt.Sprint(span), "the token") {
		t.Errorf("%v %v", span.Attributes, span.Status)
	}
	k.Reset()
	fake.err = nil
	_, _ = s.Handler(invoke(func(ctx context.Context, _ []byte) ([]byte, error) {
		return nil, c.Succeed(ctx, lock.Token{}, []byte(`{}`))
	})).Invoke(t.Context(), nil)
	if span, invocation := k.only(t, "holdfast.callback"), k.only(t, "acquire"); span.Parent.SpanID() != invocation.SpanContext.SpanID() || span.Status.Code != codes.Unset {
		t.Errorf("without a trace of the waiter: %v of %v", span.SpanContext, span.Parent)
	}
}

type fakeBus struct{ errs []error }

func (f fakeBus) Put(context.Context, []stream.Entry) []error { return f.errs }

func entry(t *testing.T, e events.Event) stream.Entry {
	detail, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return stream.Entry{DetailType: e.DetailType(), Detail: detail}
}

// Events tell the wait and the life of a lease, in its trace. A second delivery makes the same spans; what the bus refused makes none.
func TestSpansOfEvents(t *testing.T) {
	at := func(s int64) events.Time { return events.At(1_772_366_400_000 + 1000*s) }
	lease := events.Lease{Version: 1, ID: "a/7/x", Lock: "a", Fence: 7, Owner: "o", AcquiredAt: at(0), ExpiresAt: at(60), WaitedMS: 5000, Traceparent: traced}
	untraced := lease
	untraced.Traceparent = ""
	ended := events.End{EndedAt: at(30), HeldMS: 30000}
	all := []stream.Entry{
		entry(t, events.Acquired{Lease: lease}), entry(t, events.Released{Lease: lease, End: ended}), entry(t, events.Acquired{Lease: untraced}), {DetailType: "Lock Painted", Detail: []byte(`{}`)},
	}
	s, k := newSpans()
	put := func(b stream.Bus) {
		_, _ = s.Handler(invoke(func(ctx context.Context, _ []byte) ([]byte, error) {
			b.Put(ctx, all)
			return nil, nil
		})).Invoke(t.Context(), nil)
	}
	put(s.Bus(fakeBus{}))
	queue, life := k.only(t, "holdfast.queue"), k.only(t, "holdfast.lease")
	if !queue.StartTime.Equal(at(-5).Time) || !queue.EndTime.Equal(at(0).Time) || !life.StartTime.Equal(at(0).Time) || !life.EndTime.Equal(at(30).Time) || value(life, "holdfast.outcome") != "released" {
		t.Errorf("queue %v to %v, life %v to %v", queue.StartTime, queue.EndTime, life.StartTime, life.EndTime)
	}
	for _, span := range []tracetest.SpanStub{queue, life} {
		if span.Parent.SpanID().String() != "b7ad6b7169203331" || value(span, "holdfast.fence") != "7" {
			t.Errorf("%v of %v", span, span.Parent)
		}
	}
	if n := len(k.GetSpans()); n != 5 { // with the invocation and two events
		t.Errorf("%d spans", n)
	}
	k.Reset()
	put(s.Bus(fakeBus{}))
	if k.only(t, "holdfast.lease").SpanContext.SpanID() != life.SpanContext.SpanID() || k.only(t, "holdfast.queue").SpanContext.SpanID() != queue.SpanContext.SpanID() || queue.SpanContext.SpanID() == life.SpanContext.SpanID() {
		t.Error("a second delivery makes other spans")
	}
	k.Reset()
	refused := errors.New("refused")
	put(s.Bus(fakeBus{[]error{nil, refused, nil, nil}}))
	if n := len(k.GetSpans()); n != 3 {
		t.Errorf("%d spans of what the bus took", n)
	}
}

type failing struct {
	sdktrace.SpanExporter
	calls int
	err   error
}

func (f *failing) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error {
	f.calls++
	return f.err
}

// A collector that is down is asked again after a pause only, and the log says so once.
func TestCollectorThatIsDown(t *testing.T) {
	var log bytes.Buffer
	now := time.Unix(1_800_000_000, 0)
	down := &failing{err: errors.New("connection refused")}
	g := &guarded{SpanExporter: down, log: slog.New(slog.NewTextHandler(&log, nil)), now: func() time.Time { return now }}
	export := func() {
		if err := g.ExportSpans(t.Context(), nil); err != nil {
			t.Error(err)
		}
	}
	export()
	export()
	now = now.Add(exportPause - 1)
	export()
	if down.calls != 1 || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("%d calls, log %s", down.calls, &log)
	}
	now, down.err = now.Add(1), nil
	export()
	export()
	if down.calls != 3 {
		t.Errorf("%d calls after the pause", down.calls)
	}
}

// Nothing is made where the environment names no collector.
func TestNoCollector(t *testing.T) {
	s, err := FromEnvironment(func(string) string { return "" }, slog.New(slog.DiscardHandler))
	if s != nil || err != nil {
		t.Fatal(s, err)
	}
	h, b, c := invoke(nil), fakeBus{}, &fakeCallbacks{}
	if _, same := s.Handler(h).(invoke); !same || s.Callbacks(c) != stream.Callbacks(c) || s.Traceparent(t.Context()) != "" {
		t.Error("something is decorated")
	}
	if _, same := s.Bus(b).(fakeBus); !same {
		t.Error("the bus is decorated")
	}
}
