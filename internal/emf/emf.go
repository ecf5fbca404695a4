// Package emf makes CloudWatch metrics out of log records, by its embedded metric format: a record that carries the right
// "_aws" attribute becomes metrics, with no request to CloudWatch.
// See https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html.
package emf

import (
	"log/slog"
	"strings"
	"time"
)

// A Unit is one of CloudWatch's.
type Unit string

// Units in use.
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

// Attr is the attribute that makes metrics of a JSON log record. The record must have the metrics' values, and their
// dimensions', as attributes of its own.
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

// Group is a lock's name up to its first ":", to have metrics by: there are few of those. A name without one has none,
// "-", for it may be one of very many.
func Group(lock string) string {
	if group, _, many := strings.Cut(lock, ":"); many && group != "" {
		return group
	}
	return "-"
}
