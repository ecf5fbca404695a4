//go:build !traced

// Package leases is the switch of the spans about leases: compare package tracing. It is apart, so that functions without callbacks do not link what
// callbacks need.
package leases

import "github.com/holdfast-lock/holdfast/internal/stream"

// Callbacks returns c.
func Callbacks(c stream.Callbacks) stream.Callbacks { return c }

// Bus returns b.
func Bus(b stream.Bus) stream.Bus { return b }
