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
	build := map[string]func(*Environment) error{
		"api": func(e *Environment) error { _, err := e.api(); return err },
	}
	for _, test := range []struct{ what, set, to, says string }{
		{"api", "", "", ""},
		{"api", "HOLDFAST_TABLE", "", "HOLDFAST_TABLE is not set"},
		{"api", "HOLDFAST_MAX_TTL_MS", "an hour", "whole milliseconds"},
		{"api", "HOLDFAST_MAX_TTL_MS", "1", "MaxTTL"},
	} {
		e := &Environment{AWS: aws.Config{Region: "eu-west-1"}, Log: slog.New(slog.DiscardHandler), Getenv: func(name string) string {
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
	if _, err := (&Environment{Getenv: func(n string) string { return full[n] }, Log: slog.New(slog.DiscardHandler)}).api(); err == nil || !strings.Contains(err.Error(), "region") {
		t.Errorf("without a region: %v", err)
	}
}
