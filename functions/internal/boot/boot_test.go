package boot

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// The error names a setting that is missing or wrong.
func TestSettings(t *testing.T) {
	full := map[string]string{"HOLDFAST_TABLE": "locks", "HOLDFAST_MAX_TTL_MS": "3600000"}
	for _, test := range []struct{ set, to, says string }{
		{"", "", ""},
		{"HOLDFAST_TABLE", "", "HOLDFAST_TABLE is not set"},
		{"HOLDFAST_NOTIFY_PREFIX", "https://sqs.eu-west-1.amazonaws.com/123456789012/holdfast-notify-", ""},
		{"HOLDFAST_NOTIFY_PREFIX", "holdfast-notify-", "HOLDFAST_NOTIFY_PREFIX"},
		{"HOLDFAST_NOTIFY_PREFIX", "https://sqs.eu-west-1.amazonaws.com/", "HOLDFAST_NOTIFY_PREFIX"},
		{"HOLDFAST_NO_API", "true", ""},
		{"HOLDFAST_NO_API", "none", "HOLDFAST_NO_API"},
		{"HOLDFAST_MAX_TTL_MS", "an hour", "whole milliseconds"},
		{"HOLDFAST_MAX_TTL_MS", "1", "MaxTTL"},
		{"HOLDFAST_MAX_TTL_MS", "604800000", ""},
		{"HOLDFAST_MAX_TTL_MS", "604800001", "HOLDFAST_MAX_TTL_MS"},
		{"HOLDFAST_MAX_TTL_MS", "18446747673710", "HOLDFAST_MAX_TTL_MS"}, // an hour, if it overflowed
	} {
		e := &Environment{AWS: aws.Config{Region: "eu-west-1"}, Log: slog.New(slog.DiscardHandler), Getenv: func(name string) string {
			if name == test.set {
				return test.to
			}
			return full[name]
		}}
		_, err := e.API(nil)
		if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("with %s=%q: %v", test.set, test.to, err)
		}
	}
	if _, err := (&Environment{Getenv: func(n string) string { return full[n] }, Log: slog.New(slog.DiscardHandler)}).API(nil); err == nil || !strings.Contains(err.Error(), "region") {
		t.Errorf("without a region: %v", err)
	}
}
