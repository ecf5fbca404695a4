package main

import (
	"cmp"
	"encoding/hex"
	"io"
	"net/http"
	"slices"
	"sync"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// A span is what the picture shows of a span.
type span struct {
	trace, id, parent string
	service, name     string
	from, to          int64 // Unix nanoseconds
	attributes        map[string]string
	links             []string // the ids of the spans that it is linked to
}

// A spanCollector takes spans by OTLP over HTTP.
type spanCollector struct {
	complete chan struct{} // closed when the span of a lease that waited has come

	mu   sync.Mutex
	list map[string]span // by trace and id
}

func newCollector() *spanCollector {
	return &spanCollector{complete: make(chan struct{}), list: map[string]span{}}
}

// ServeHTTP takes spans.
func (c *spanCollector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var sent collector.ExportTraceServiceRequest
	if err != nil || proto.Unmarshal(body, &sent) != nil {
		http.Error(w, "the body is no ExportTraceServiceRequest in protobuf", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range sent.ResourceSpans {
		service := ""
		for _, a := range of.GetResource().GetAttributes() {
			if a.Key == "service.name" {
				service = a.Value.GetStringValue()
			}
		}
		for _, scope := range of.ScopeSpans {
			for _, s := range scope.Spans {
				one := span{
					trace: hex.EncodeToString(s.TraceId), id: hex.EncodeToString(s.SpanId), parent: hex.EncodeToString(s.ParentSpanId), service: service, name: s.Name,
					from: int64(s.StartTimeUnixNano), to: int64(s.EndTimeUnixNano), attributes: map[string]string{},
				}
				for _, a := range s.Attributes {
					one.attributes[a.Key] = a.Value.GetStringValue()
				}
				for _, l := range s.Links {
					one.links = append(one.links, hex.EncodeToString(l.SpanId))
				}
				c.list[one.trace+one.id] = one
			}
		}
	}
	if c.waitedLease() {
		select {
		case <-c.complete:
		default:
			close(c.complete)
		}
	}
}

// waitedLease reports whether the span of a lease has come in whose trace a task was told of its grant.
func (c *spanCollector) waitedLease() bool {
	told, lease := map[string]bool{}, map[string]bool{}
	for _, s := range c.list {
		told[s.trace] = told[s.trace] || s.name == "holdfast.callback"
		lease[s.trace] = lease[s.trace] || s.name == "holdfast.lease"
	}
	for trace := range told {
		if told[trace] && lease[trace] {
			return true
		}
	}
	return false
}

// all are the spans, in the order of their beginnings.
func (c *spanCollector) all() (list []span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.list {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b span) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.id, b.id)) })
	return list
}

func (c *spanCollector) names() (list []string) {
	for _, s := range c.all() {
		list = append(list, s.service+": "+s.name)
	}
	return list
}
