package api

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/holdfast-lock/holdfast/internal/emf"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A result is the outcome of a call.
type result struct {
	answer  any
	fence   int64 // 0: none
	err     error
	problem *wire.Problem // what the caller gets for err
	took    time.Duration
}

// record logs a call. The record is also its metrics, if the API has a namespace for them.
func (a *API) record(ctx context.Context, c *call, r result) {
	level, code := slog.LevelInfo, "ok"
	attrs := []slog.Attr{slog.String("op", string(c.op.Function())), slog.String("lock", c.lock), slog.String("principal", c.principal)}
	if r.err != nil {
		code = string(r.problem.Code)
		if r.problem.Status >= 500 {
			level = slog.LevelError
			attrs = append(attrs, slog.Any("error", r.err))
			if clock, ok := errors.AsType[*lock.ClockError](r.err); ok {
				attrs = append(attrs, slog.Int64("clock_offset_ms", clock.Offset.Milliseconds()))
			}
		}
	}
	if l, ok := r.answer.(wire.Lease); ok {
		attrs = append(attrs, slog.String("owner", l.Owner))
	}
	if r.fence != 0 {
		attrs = append(attrs, slog.Int64("fence", r.fence))
	}
	attrs = append(attrs, slog.String("code", code), slog.String("request_id", c.requestID),
		slog.Float64("latency_ms", float64(r.took.Microseconds())/1000))
	if a.metrics != "" {
		attrs = append(attrs, a.measure(c, r)...)
	}
	a.log.LogAttrs(ctx, level, "request", attrs...)
}

// measure returns the attributes that make a call's log record its metrics:
//
//	latency_ms     by op, and by op and code; its sample count is the number of requests
//	hold_ms        of a release, by group: how long the lease was held
//	fault          1 if the answer is a problem of 5xx, by op
//	refused        1 if a direct invocation failed on purpose, by op, since Lambda counts that among the function's Errors, too
//	clock_guard    1 if the coordinator's clock was found to be wrong, so that it granted nothing
//
// The number of dimension values is small: operations, codes, and the first segments of lock names (the groups).
func (a *API) measure(c *call, r result) []slog.Attr {
	metrics := []emf.Metric{
		{Name: "latency_ms", Unit: emf.Milliseconds, Dimensions: []string{"op"}},
		{Name: "latency_ms", Unit: emf.Milliseconds, Dimensions: []string{"op", "code"}},
	}
	var attrs []slog.Attr
	if released, ok := r.answer.(wire.Released); ok && released.Fence > 0 { // 0: a waiter left the queue
		// A fencing token is the time of its grant in microseconds, plus one for each earlier grant within that microsecond.
		held := max(released.ReleasedAt.UnixMilli()-released.Fence/1000, 0)
		attrs = append(attrs, slog.Int64("hold_ms", held), slog.String("group", a.groups.Of(c.lock)))
		metrics = append(metrics, emf.Metric{Name: "hold_ms", Unit: emf.Milliseconds, Dimensions: []string{"group"}})
	}
	if r.problem != nil && r.problem.Status >= 500 {
		attrs = append(attrs, slog.Int("fault", 1))
		metrics = append(metrics, emf.Metric{Name: "fault", Unit: emf.Count, Dimensions: []string{"op"}})
	}
	if r.problem != nil && r.problem.Status < 500 && !c.http {
		attrs = append(attrs, slog.Int("refused", 1))
		metrics = append(metrics, emf.Metric{Name: "refused", Unit: emf.Count, Dimensions: []string{"op"}})
	}
	if _, wrong := errors.AsType[*lock.ClockError](r.err); wrong {
		attrs = append(attrs, slog.Int("clock_guard", 1))
		metrics = append(metrics, emf.Metric{Name: "clock_guard", Unit: emf.Count})
	}
	return append(attrs, emf.Attr(a.metrics, time.Now(), metrics...))
}
