package lockclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// An observed world's clients have a tracer and a meter.
type observed struct {
	*world
	spans  *tracetest.SpanRecorder
	traces *sdktrace.TracerProvider
	reader *metric.ManualReader
	meters *metric.MeterProvider
}

func observe(w *world, options ...sdktrace.TracerProviderOption) *observed {
	o := &observed{world: w, spans: tracetest.NewSpanRecorder(), reader: metric.NewManualReader()}
	o.traces = sdktrace.NewTracerProvider(append(options, sdktrace.WithSpanProcessor(o.spans))...)
	o.meters = metric.NewMeterProvider(metric.WithReader(o.reader))
	return o
}

func (o *observed) client() *lockclient.Client {
	c, err := lockclient.New(lockclient.Config{
		Endpoint: "http://holdfast.test", HTTPClient: &http.Client{Transport: o.world}, Owner: "tester", TracerProvider: o.traces, MeterProvider: o.meters,
	})
	if err != nil {
		o.t.Fatal(err)
	}
	return c
}

// named returns the ended spans of a name.
func (o *observed) named(name string) (list []sdktrace.ReadOnlySpan) {
	for _, s := range o.spans.Ended() {
		if s.Name() == name {
			list = append(list, s)
		}
	}
	return list
}

// only returns the one ended span of a name.
func (o *observed) only(name string) sdktrace.ReadOnlySpan {
	o.t.Helper()
	list := o.named(name)
	if len(list) != 1 {
		o.t.Fatalf("%d spans %s among %d", len(list), name, len(o.spans.Ended()))
	}
	return list[0]
}

func value(s sdktrace.ReadOnlySpan, key attribute.Key) string {
	set := attribute.NewSet(s.Attributes()...)
	v, there := set.Value(key)
	if !there {
		return ""
	}
	return v.String()
}

// measured lists the metrics as name{attributes}=count.
func (o *observed) measured() (list []string) {
	var all metricdata.ResourceMetrics
	if err := o.reader.Collect(o.t.Context(), &all); err != nil {
		o.t.Fatal(err)
	}
	of := func(set attribute.Set) string { return set.Encoded(attribute.DefaultEncoder()) }
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			name := strings.TrimPrefix(m.Name, "holdfast.client.")
			switch data := m.Data.(type) {
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					list = append(list, fmt.Sprintf("%s{%s}=%d", name, of(p.Attributes), p.Count))
				}
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					list = append(list, fmt.Sprintf("%s{%s}=%d", name, of(p.Attributes), p.Value))
				}
			}
		}
	}
	slices.Sort(list)
	return list
}

func (o *observed) wantMeasured(want ...string) {
	o.t.Helper()
	if got := o.measured(); !slices.Equal(got, want) {
		o.t.Errorf("metrics\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func runObserved(t *testing.T, test func(t *testing.T, o *observed)) {
	synctest.Test(t, func(t *testing.T) { test(t, observe(newWorld(t))) })
}

// The spans of a wait, of the work under the lock and of the release are in the caller's trace, and the requests and the lease carry it.
func TestSpansOfDo(t *testing.T) {
	runObserved(t, func(t *testing.T, o *observed) {
		c := o.client()
		ctx, caller := o.traces.Tracer("test").Start(t.Context(), "caller")
		first := o.acquire(o.world.client(), lockclient.Options{})
		time.AfterFunc(3*time.Second, func() { _ = first.Release(t.Context()) })
		var headers sync.Map
		header := func(op string) string { text, _ := headers.Load(op); return fmt.Sprint(text) }
		o.breakWith(func(op string, _ int, r *http.Request) (*http.Response, error) {
			headers.Store(op, r.Header.Get("Traceparent"))
			return nil, nil
		}, nil)
		var work trace.SpanContext
		err := c.Do(ctx, "a", lockclient.Options{TTL: 30 * time.Second}, func(ctx context.Context, lease *lockclient.Lease) error {
			work = trace.SpanContextFromContext(ctx)
			if at := trace.SpanContextFromContext(lease.Context()); at.SpanID() != work.SpanID() {
				t.Errorf("the lease's context has another span: %v", at)
			}
			s, err := o.coordinator.Status(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			acquire := o.only("holdfast.acquire").SpanContext()
			if want := fmt.Sprintf("00-%s-%s-01", acquire.TraceID(), acquire.SpanID()); s.Holders[0].Trace != want || header("acquire") != want {
				t.Errorf("the lease has %q, the header %q, want %q", s.Holders[0].Trace, header("acquire"), want)
			}
			time.Sleep(15 * time.Second) // a renewal
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		caller.End()
		acquire, wait, hold, release := o.only("holdfast.acquire"), o.only("holdfast.wait"), o.only("holdfast.hold"), o.only("holdfast.release")
		renew := o.only("holdfast.renew")
		for _, s := range []struct {
			span   sdktrace.ReadOnlySpan
			parent trace.SpanID
			kind   trace.SpanKind
		}{
			{acquire, caller.SpanContext().SpanID(), trace.SpanKindClient},
			{wait, acquire.SpanContext().SpanID(), trace.SpanKindInternal},
			{hold, caller.SpanContext().SpanID(), trace.SpanKindInternal},
			{renew, hold.SpanContext().SpanID(), trace.SpanKindClient},
			{release, caller.SpanContext().SpanID(), trace.SpanKindClient},
		} {
			if s.span.Parent().SpanID() != s.parent || s.span.SpanContext().TraceID() != caller.SpanContext().TraceID() || s.span.SpanKind() != s.kind {
				t.Errorf("%s has the parent %v and the kind %v", s.span.Name(), s.span.Parent().SpanID(), s.span.SpanKind())
			}
			if value(s.span, "holdfast.lock") != "a" || s.span.Status().Code != codes.Unset {
				t.Errorf("%s: %v %v", s.span.Name(), s.span.Attributes(), s.span.Status())
			}
		}
		if work.SpanID() != hold.SpanContext().SpanID() {
			t.Error("the work is not under the span of the hold")
		}
		if value(acquire, "holdfast.outcome") != "granted" || value(hold, "holdfast.outcome") != "released" || value(hold, "holdfast.owner") != "tester" || value(hold, "holdfast.fence") == "" ||
			value(hold, "holdfast.fence") != value(acquire, "holdfast.fence") || value(hold, "holdfast.ttl") != "30" || value(hold, "holdfast.waited") == "0" || value(acquire, "holdfast.requests") != fmt.Sprint(o.count("acquire")) {
			t.Errorf("acquire %v, hold %v", acquire.Attributes(), hold.Attributes())
		}
		if took := wait.EndTime().Sub(wait.StartTime()); took < 3*time.Second || took > 10*time.Second || !wait.EndTime().Equal(acquire.EndTime()) {
			t.Errorf("the wait took %v", took)
		}
		if took := hold.EndTime().Sub(hold.StartTime()); took != 15*time.Second {
			t.Errorf("the hold took %v", took)
		}
		if header("renew") != fmt.Sprintf("00-%s-%s-01", renew.SpanContext().TraceID(), renew.SpanContext().SpanID()) || header("release") == "" {
			t.Errorf("renew %q, release %q", header("renew"), header("release"))
		}
		o.wantMeasured(`acquire.duration{holdfast.outcome=granted}=1`, `hold.duration{holdfast.outcome=released}=1`, `wait.duration{holdfast.outcome=granted}=1`)
	})
}

// A waiter's span is linked to the spans of the holders, which are in other traces.
func TestWaitIsLinkedToTheHolder(t *testing.T) {
	runObserved(t, func(t *testing.T, o *observed) {
		holder := o.acquire(o.client(), lockclient.Options{Owner: "holder"})
		_, err := o.client().Acquire(t.Context(), "a", lockclient.Options{Wait: time.Second})
		wantIs(t, err, lockclient.ErrHeld)
		held, _ := errors.AsType[*lockclient.HeldError](err)
		acquires := o.named("holdfast.acquire")
		links := o.only("holdfast.wait").Links()
		if len(links) != 1 || links[0].SpanContext.SpanID() != acquires[0].SpanContext().SpanID() || links[0].SpanContext.TraceID() == acquires[1].SpanContext().TraceID() {
			t.Errorf("links %v", links)
		}
		if held.Holders[0].Traceparent == "" || value(acquires[1], "holdfast.outcome") != "held" || acquires[1].Status().Code != codes.Unset {
			t.Errorf("%+v, %v", held.Holders[0], acquires[1].Attributes())
		}
		if err := holder.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		o.wantMeasured(`acquire.duration{holdfast.outcome=granted}=1`, `acquire.duration{holdfast.outcome=held}=1`, `hold.duration{holdfast.outcome=released}=1`, `wait.duration{holdfast.outcome=held}=1`)
	})
}

// Each way to lose a lease ends its span with an error, once, and counts one loss with its cause.
func TestLosses(t *testing.T) {
	gone := func(o *observed) { o.breakWith(cutAll, nil) }
	for cause, lose := range map[string]func(o *observed, l *lockclient.Lease){
		"ended_elsewhere": func(o *observed, _ *lockclient.Lease) {
			if _, err := o.coordinator.ForceRelease(o.t.Context(), forceOf("a")); err != nil {
				o.t.Fatal(err)
			}
		},
		"not_renewed": func(o *observed, _ *lockclient.Lease) { gone(o) },
		"expired":     func(*observed, *lockclient.Lease) {},
	} {
		t.Run(cause, func(t *testing.T) {
			runObserved(t, func(t *testing.T, o *observed) {
				l := o.acquire(o.client(), lockclient.Options{TTL: 10 * time.Second, ManualRenew: cause == "expired"})
				lose(o, l)
				<-l.Context().Done()
				_ = l.Release(t.Context())
				hold := o.only("holdfast.hold")
				if hold.Status().Code != codes.Error || value(hold, "holdfast.loss.cause") != cause || value(hold, "error.type") != "lost" || value(hold, "holdfast.outcome") != "lost" {
					t.Errorf("%v %v", hold.Status(), hold.Attributes())
				}
				o.wantMeasured(`acquire.duration{holdfast.outcome=granted}=1`, `hold.duration{holdfast.outcome=lost}=1`, `losses{holdfast.loss.cause=`+cause+`}=1`)
			})
		})
	}
}

// An acquisition that fails says how, and notes each try without an answer.
func TestSpanOfAFailedAcquire(t *testing.T) {
	runObserved(t, func(t *testing.T, o *observed) {
		o.breakWith(cutAll, nil)
		c := o.client()
		if _, err := c.TryAcquire(t.Context(), "a", lockclient.Options{}); !errors.Is(err, lockclient.ErrUnavailable) {
			t.Fatal(err)
		}
		_ = c.Close(t.Context()) // waits for the release of what may have been granted
		s := o.only("holdfast.acquire")
		if s.Status().Code != codes.Error || value(s, "error.type") != "unavailable" || len(s.Events()) != 4 || s.Events()[0].Name != "holdfast.no_answer" || value(s, "holdfast.requests") != "4" {
			t.Errorf("%v %v %v", s.Status(), s.Attributes(), s.Events())
		}
		if o.named("holdfast.hold") != nil || o.named("holdfast.wait") != nil {
			t.Error("there is a span of a hold or a wait")
		}
		o.wantMeasured(`acquire.duration{error.type=unavailable,holdfast.outcome=unavailable}=1`)
	})
}

// A set is one hold, an adopted lease is another, and a reader that was a writer is a third.
func TestSpansOfOtherLeases(t *testing.T) {
	runObserved(t, func(t *testing.T, o *observed) {
		c := o.client()
		set, err := c.TryAcquireAll(t.Context(), []lockclient.Want{{Lock: "b"}, {Lock: "a"}}, lockclient.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a", "b"} {
			if s, err := o.coordinator.Status(t.Context(), name); err != nil || s.Holders[0].Trace == "" {
				t.Errorf("%s: %+v, %v", name, s, err)
			}
		}
		writer, err := c.TryAcquire(t.Context(), "w", lockclient.Options{Mode: lockclient.ModeWrite})
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.Downgrade(t.Context()); err != nil {
			t.Fatal(err)
		}
		adopted, err := c.Adopt(t.Context(), "w", writer.Secret(), lockclient.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range []*lockclient.Lease{set, adopted, writer} {
			_ = l.Release(t.Context())
		}
		var holds []string
		for _, s := range o.named("holdfast.hold") {
			holds = append(holds, value(s, "holdfast.lock")+value(s, "holdfast.set.size"))
		}
		if !slices.Equal(holds, []string{"a,b2", "w", "w"}) || len(o.named("holdfast.adopt")) != 1 || len(o.named("holdfast.downgrade")) != 1 || value(o.named("holdfast.acquire")[1], "holdfast.mode") != "write" {
			t.Errorf("holds %v", holds)
		}
	})
}

// A trace that is not sampled costs the coordinator nothing: the acquire does not carry it. The header does, as W3C asks for.
func TestTraceThatIsNotSampled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := observe(newWorld(t), sdktrace.WithSampler(sdktrace.NeverSample()))
		var body, header string
		o.breakWith(func(_ string, _ int, r *http.Request) (*http.Response, error) {
			b, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(b))
			body, header = string(b), r.Header.Get("Traceparent")
			return nil, nil
		}, nil)
		l := o.acquire(o.client(), lockclient.Options{})
		if strings.Contains(body, "traceparent") || !strings.HasSuffix(header, "-00") {
			t.Errorf("body %s, header %q", body, header)
		}
		_ = l.Release(t.Context())
	})
}

// A coordinator that is older than the field refuses it once; the client leaves it out from then on, and no lock fails.
func TestTraceAndAnOlderCoordinator(t *testing.T) {
	runObserved(t, func(t *testing.T, o *observed) {
		refusals := 0
		o.breakWith(func(op string, _ int, r *http.Request) (*http.Response, error) {
			b, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(b))
			if op != "acquire" || !bytes.Contains(b, []byte(`"traceparent"`)) {
				return nil, nil
			}
			refusals++
			return &http.Response{StatusCode: 400, Header: http.Header{"Content-Type": {"application/problem+json"}}, Body: io.NopCloser(strings.NewReader(
				`{"type":"urn:holdfast:problem:invalid_request","title":"The request is not valid","status":400,"detail":"the field \"traceparent\" is not known","code":"invalid_request","field":"traceparent","request_id":"r"}`))}, nil
		}, nil)
		c := o.client()
		for range 3 {
			l, err := c.TryAcquire(t.Context(), "a", lockclient.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Release(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if refusals != 1 || o.count("acquire") != 4 {
			t.Errorf("%d refusals, %d acquires", refusals, o.count("acquire"))
		}
	})
}

// The header with the trace context is not signed: what passes a request on may replace it.
func TestTraceHeaderIsNotSigned(t *testing.T) {
	runObserved(t, func(t *testing.T, o *observed) {
		var signed, header string
		o.breakWith(func(_ string, _ int, r *http.Request) (*http.Response, error) {
			signed, header = r.Header.Get("Authorization"), r.Header.Get("Traceparent")
			return nil, nil
		}, nil)
		c, err := lockclient.New(lockclient.Config{
			Endpoint: "http://holdfast.test", HTTPClient: &http.Client{Transport: o.world}, TracerProvider: o.traces,
			Region: "eu-west-1", Credentials: credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", "x", ""),
		})
		if err != nil {
			t.Fatal(err)
		}
		l, err := c.TryAcquire(t.Context(), "a", lockclient.Options{})
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Release(t.Context())
		if signed == "" || header == "" || strings.Contains(signed, "traceparent") {
			t.Errorf("traceparent %q, signed %q", header, signed)
		}
	})
}

// Without providers a request has neither the field nor the header, whatever trace the caller is in.
func TestNoTelemetry(t *testing.T) {
	runObserved(t, func(t *testing.T, o *observed) {
		ctx, span := o.traces.Tracer("test").Start(t.Context(), "caller")
		defer span.End()
		requests := 0
		o.breakWith(func(_ string, _ int, r *http.Request) (*http.Response, error) {
			b, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(b))
			if requests++; bytes.Contains(b, []byte("traceparent")) || r.Header.Get("Traceparent") != "" {
				t.Errorf("%s %v", b, r.Header)
			}
			return nil, nil
		}, nil)
		l, err := o.world.client().Acquire(ctx, "a", lockclient.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Release(ctx); err != nil {
			t.Fatal(err)
		}
		if requests != 2 || len(o.spans.Started()) != 1 {
			t.Errorf("%d requests, %d spans", requests, len(o.spans.Started()))
		}
		o.wantMeasured()
	})
}

func forceOf(name string) lock.ForceReleaseRequest {
	return lock.ForceReleaseRequest{Lock: name, Reason: "test"}
}
