package streamboot

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/holdfast-lock/holdfast/functions/internal/boot"
)

// A setting that is missing or wrong is named.
func TestSettings(t *testing.T) {
	full := map[string]string{
		"HOLDFAST_TABLE": "locks", "HOLDFAST_BUS": "bus", "HOLDFAST_TIMER_QUEUE_URL": "https://sqs/timers", "HOLDFAST_DLQ_URL": "https://sqs/dlq",
	}
	build := map[string]func(*boot.Environment) error{
		"consumer": func(e *boot.Environment) error { _, err := consumer(e); return err },
		"expirer":  func(e *boot.Environment) error { _, err := expirer(e); return err },
	}
	for _, test := range []struct{ what, set, to, says string }{
		{"consumer", "", "", ""}, {"expirer", "", "", ""},
		{"consumer", "HOLDFAST_BUS", "", "HOLDFAST_BUS is not set"},
		{"consumer", "HOLDFAST_DLQ_URL", "", "HOLDFAST_DLQ_URL is not set"},
		{"consumer", "HOLDFAST_TIMER_QUEUE_URL", "", ""},
		{"expirer", "HOLDFAST_BUS", "", "HOLDFAST_BUS is not set"},
		{"expirer", "HOLDFAST_DLQ_URL", "", "HOLDFAST_DLQ_URL is not set"},
		{"expirer", "HOLDFAST_TABLE", "", "HOLDFAST_TABLE is not set"},
		{"expirer", "HOLDFAST_TIMER_QUEUE_URL", "", "HOLDFAST_TIMER_QUEUE_URL is not set"},
	} {
		e := &boot.Environment{AWS: aws.Config{Region: "eu-west-1"}, Log: slog.New(slog.DiscardHandler), Getenv: func(name string) string {
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
}
