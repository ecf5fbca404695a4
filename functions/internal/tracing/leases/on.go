//go:build traced

// Package leases is the switch of the spans about leases: compare package tracing. It is apart, so that functions without callbacks do not link what
// callbacks need.
package leases

import (
	"github.com/holdfast-lock/holdfast/functions/internal/tracing"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// Callbacks returns c with a span for each callback of a grant.
func Callbacks(c stream.Callbacks) stream.Callbacks { return tracing.Made.Callbacks(c) }

// Bus returns b with spans for the leases and the events.
func Bus(b stream.Bus) stream.Bus { return tracing.Made.Bus(b) }
