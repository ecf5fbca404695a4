// Package emf makes log records into CloudWatch metrics with the embedded metric format: CloudWatch reads metrics from records with an
// "_aws" attribute, so no request is needed.
// See https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html.
package emf

import (
	"log/slog"
	"strings"
	"sync"
	"time"
)

// A Unit is a unit of CloudWatch.
type Unit string

// The units.
const (
	Milliseconds Unit = "Milliseconds"
	Count        Unit = "Count"
)

// A Metric is one value of a record.
type Metric struct {
	Name string
	Unit Unit
	// Dimensions are the names of record attributes with string values; none: the metric has one series.
	Dimensions []string
}

type directive struct {
	Namespace  string       `json:"Namespace"`
	Dimensions [][]string   `json:"Dimensions"`
	Metrics    []definition `json:"Metrics"`
}

type definition struct {
	Name string `json:"Name"`
	Unit Unit   `json:"Unit"`
}

type metadata struct {
	Timestamp  int64       `json:"Timestamp"`
	Directives []directive `json:"CloudWatchMetrics"`
}

// Attr is the attribute that makes a JSON log record into metrics. The record must have the values and the dimensions of the metrics as
// attributes.
func Attr(namespace string, now time.Time, metrics ...Metric) slog.Attr {
	m := metadata{Timestamp: now.UnixMilli()}
	for _, metric := range metrics {
		dimensions := metric.Dimensions
		if dimensions == nil {
			dimensions = []string{}
		}
		m.Directives = append(m.Directives, directive{
			Namespace: namespace, Dimensions: [][]string{dimensions}, Metrics: []definition{{metric.Name, metric.Unit}},
		})
	}
	return slog.Any("_aws", m) //nolint:sloglint // the name is the format's
}

// maxGroups is how many groups one process reports. Each is a metric of its own, which CloudWatch charges for, and callers choose the
// names of locks.
const maxGroups = 100

// Groups are the values of the dimension "group". The zero value is ready, and safe for concurrent use.
type Groups struct {
	mu   sync.Mutex
	seen map[string]bool
}

// Of returns the part of a lock's name before its first ":", used as a dimension because there are few of those. It is "-" for a name
// without one, of which there may be very many, and for further groups when this process has reported [maxGroups].
func (g *Groups) Of(lock string) string {
	group, _, many := strings.Cut(lock, ":")
	if !many || group == "" {
		return "-"
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.seen[group] {
		if len(g.seen) >= maxGroups {
			return "-"
		}
		if g.seen == nil {
			g.seen = map[string]bool{}
		}
		g.seen[group] = true
	}
	return group
}
