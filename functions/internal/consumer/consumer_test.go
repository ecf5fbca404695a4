package consumer

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"

	"github.com/holdfast-lock/holdfast/functions/internal/boot"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/sqs"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// A setting that is missing or wrong is named.
func TestSettings(t *testing.T) {
	full := map[string]string{
		"HOLDFAST_TABLE": "locks", "HOLDFAST_BUS": "bus", "HOLDFAST_TIMER_QUEUE_URL": "https://sqs/timers", "HOLDFAST_DLQ_URL": "https://sqs/dlq",
	}
	build := map[string]func(*boot.Environment) error{
		"consumer": func(e *boot.Environment) error { _, err := New(e); return err },
		"expirer":  func(e *boot.Environment) error { _, err := NewExpirer(e); return err },
	}
	for _, test := range []struct{ what, set, to, says string }{
		{"consumer", "", "", ""}, {"expirer", "", "", ""},
		{"consumer", "HOLDFAST_BUS", "", "HOLDFAST_BUS is not set"},
		{"consumer", "HOLDFAST_DLQ_URL", "", "HOLDFAST_DLQ_URL is not set"},
		{"consumer", "HOLDFAST_TIMER_QUEUE_URL", "", ""},
		{"consumer", "HOLDFAST_EVENTS", "deploy:,report:", ""},
		{"consumer", "HOLDFAST_EVENTS", "deploy:*", "HOLDFAST_EVENTS: \"deploy:*\""},
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

// What is built has all of its parts: with the queue of timers a backlog as well, without it neither.
func TestParts(t *testing.T) {
	settings := map[string]string{
		"HOLDFAST_TABLE": "locks", "HOLDFAST_BUS": "bus", "HOLDFAST_TIMER_QUEUE_URL": "https://sqs/timers", "HOLDFAST_DLQ_URL": "https://sqs/dlq", "HOLDFAST_METRICS": "Holdfast/x",
	}
	e := &boot.Environment{
		AWS: aws.Config{Region: "eu-west-1", HTTPClient: awshttp.NewBuildableClient()}, Log: slog.New(slog.DiscardHandler), Getenv: func(name string) string { return settings[name] },
	}
	x, err := NewExpirer(e)
	if err != nil {
		t.Fatal(err)
	}
	c := x.Consumer
	if x.ChecksPerSecond != checksPerSecond || x.Metrics != "Holdfast/x" || x.Coordinator == nil || x.Executions == nil || x.Timers == nil || x.Log == nil {
		t.Errorf("expirer %+v", x)
	}
	if c.Metrics != "Holdfast/x" || c.Skew != lock.DefaultSkew || c.Coordinator != x.Coordinator || c.Callbacks == nil || c.Bus == nil || c.Log == nil {
		t.Errorf("consumer %+v", c)
	}
	queue, ok := c.Backlog.(*sqs.Queue)
	if dead, _ := c.DeadLetter.(*sqs.Queue); !ok || queue.URL() != "https://sqs/timers" || c.Timers != stream.Timers(queue) || x.Timers != c.Timers || dead == nil || dead.URL() != "https://sqs/dlq" {
		t.Errorf("queues %v, %v, %v", c.Backlog, c.Timers, c.DeadLetter)
	}
	if !c.Listens("a") {
		t.Error("without HOLDFAST_EVENTS nobody listens")
	}
	settings["HOLDFAST_TIMER_QUEUE_URL"], settings["HOLDFAST_EVENTS"] = "", "deploy:"
	if c, err := New(e); err != nil || c.Timers != nil || c.Backlog != nil {
		t.Errorf("without a queue: %v, %v, %v", c.Timers, c.Backlog, err)
	}
}
