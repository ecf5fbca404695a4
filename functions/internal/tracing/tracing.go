// Package tracing is the switch of the functions' spans. Built without the tag traced, as make build and SAM do by default, it links nothing of
// OpenTelemetry's SDK, whose initialisation would make every cold start longer. Built with the tag, it is package spans, which makes spans if the
// environment names a collector: see docs/tracing.md.
package tracing
