package boot

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// A setting that is missing or wrong is named.
func TestSettings(t *testing.T) {
	full := map[string]string{
		"HOLDFAST_TABLE": "locks", "HOLDFAST_BUS": "bus", "HOLDFAST_TIMER_QUEUE_URL": "https://sqs/timers", "HOLDFAST_DLQ_URL": "https://sqs/dlq",
		"HOLDFAST_MAX_TTL_MS": "3600000",
	}
	build := map[string]func(*environment) error{
		"api":      func(e *environment) error { _, err := e.api(); return err },
		"consumer": func(e *environment) error { _, err := e.consumer(); return err },
		"expirer":  func(e *environment) error { _, err := e.expirer(); return err },
	}
	for _, test := range []struct{ what, set, to, says string }{
		{"api", "", "", ""}, {"consumer", "", "", ""}, {"expirer", "", "", ""},
		{"api", "HOLDFAST_TABLE", "", "HOLDFAST_TABLE is not set"},
		{"api", "HOLDFAST_MAX_TTL_MS", "an hour", "whole milliseconds"},
		{"api", "HOLDFAST_MAX_TTL_MS", "1", "MaxTTL"},
		{"consumer", "HOLDFAST_BUS", "", "HOLDFAST_BUS is not set"},
		{"consumer", "HOLDFAST_DLQ_URL", "", "HOLDFAST_DLQ_URL is not set"},
		{"consumer", "HOLDFAST_TIMER_QUEUE_URL", "", ""},
		{"expirer", "HOLDFAST_TABLE", "", "HOLDFAST_TABLE is not set"},
		{"expirer", "HOLDFAST_TIMER_QUEUE_URL", "", "HOLDFAST_TIMER_QUEUE_URL is not set"},
	} {
		e := &environment{aws: aws.Config{Region: "eu-west-1"}, log: slog.New(slog.DiscardHandler), getenv: func(name string) string {
			if name == test.set {
				return test.to
			}
			return full[name]
		}}
		err := build[test.what](e)
		if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s with %s=%q: %v", test.what, test.set, test.to, err)
		}
	}
	if _, err := (&environment{getenv: func(n string) string { return full[n] }, log: slog.New(slog.DiscardHandler)}).api(); err == nil || !strings.Contains(err.Error(), "region") {
		t.Errorf("without a region: %v", err)
	}
}
