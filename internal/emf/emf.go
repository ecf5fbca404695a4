// Package emf makes log records into CloudWatch metrics with the embedded metric format: CloudWatch reads metrics from records with an
// "_aws" attribute, so no request is needed.
// See https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html.
package emf

import (
	"log/slog"
	"strings"
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

// Group is the part of a lock's name before its first ":", used as a dimension because there are few of those. It is "-" for a name
// without one, of which there may be very many.
func Group(lock string) string {
	if group, _, many := strings.Cut(lock, ":"); many && group != "" {
		return group
	}
	return "-"
}
