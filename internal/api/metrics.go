package api

import (
	"errors"
	"log/slog"
	"time"

	"github.com/holdfast-lock/holdfast/internal/emf"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// measure is what a request's log record needs to be metrics:
//
//	latency_ms     by op, and by op and code: its sample count is the number of requests
//	hold_ms        by group, of a release: how long the lease was held
//	clock_guard    when a wrong clock was found, and so nothing granted
//
// Dimensions are few: operations, codes, and the first segment of lock names.
func (h *handler) measure(name string, answer any, err error) []slog.Attr {
	metrics := []emf.Metric{
		{Name: "latency_ms", Unit: emf.Milliseconds, Dimensions: []string{"op"}},
		{Name: "latency_ms", Unit: emf.Milliseconds, Dimensions: []string{"op", "code"}},
	}
	var attrs []slog.Attr
	if released, ok := answer.(wire.Released); ok && released.Fence > 0 { // and not a waiter who left
		// A fence is the time of its grant in microseconds, or later by one for each grant within one.
		held := max(released.ReleasedAt.UnixMilli()-released.Fence/1000, 0)
		attrs = append(attrs, slog.Int64("hold_ms", held), slog.String("group", emf.Group(name)))
		metrics = append(metrics, emf.Metric{Name: "hold_ms", Unit: emf.Milliseconds, Dimensions: []string{"group"}})
	}
	if _, wrong := errors.AsType[*lock.ClockError](err); wrong {
		attrs = append(attrs, slog.Int("clock_guard", 1))
		metrics = append(metrics, emf.Metric{Name: "clock_guard", Unit: emf.Count})
	}
	return append(attrs, emf.Attr(h.api.metrics, time.Now(), metrics...))
}
