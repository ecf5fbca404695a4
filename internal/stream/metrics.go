package stream

import (
	"context"
	"log/slog"
	"time"

	"github.com/holdfast-lock/holdfast/internal/emf"
)

// The metrics of faults. Each counts occurrences; the log record of an occurrence carries it.
const (
	CallbackUndeliverable = "callback_undeliverable"
	CallbackFailed        = "callback_failed"
	EventPutOff           = "event_put_off"
	LockNotHandedOn       = "lock_not_handed_on"
	RecordBuried          = "record_buried"
	WorkGivenUp           = "work_given_up"
	TimerFailed           = "timer_failed"
	ExecutionUnknown      = "execution_unknown"
	ExecutionChecksLate   = "execution_checks_delayed"
	ExecutionEndFailed    = "execution_end_failed"
	ExecutionEndMissed    = "execution_end_missed"
	GrantToldLate         = "grant_told_late"
)

// A Fault is a metric that has an alarm. Each alarm is raised when the metric is 1 or more in so many of the last five minutes.
type Fault struct {
	Metric      string
	Alarm       string // the alarm's name in both templates, where Alarm is appended to it
	Description string
	Minutes     int
	Timers      bool // it only occurs with timers, in the expire function
}

// Faults lists the faults. The CDK construct derives its alarms from them, and template.yaml is compared with the construct.
func Faults() []Fault {
	return []Fault{
		{CallbackUndeliverable, "CallbackUndeliverable", "A task can never get its callback: list its state machine in StateMachines, or its function in DurableFunctions", 1, false},
		{CallbackFailed, "CallbackFailed", "Callbacks to tasks fail and are retried: see the stream function's log", 3, false},
		{EventPutOff, "EventPutOff", "The event bus does not accept events; they are kept and sent later: see the stream function's log", 3, false},
		{LockNotHandedOn, "LockNotHandedOn", "A free lock cannot be granted to its waiters: see the log for its name", 1, false},
		{RecordBuried, "RecordBuried", "A stream record cannot be decoded: see the dead-letter queue", 1, false},
		{WorkGivenUp, "WorkGivenUp", "An event, a callback or a hand-off has failed for a day, or can never succeed: see the dead-letter queue", 1, true},
		{TimerFailed, "TimerFailed", "Timers cannot be set or handled, and are retried: see the logs of stream and expire", 3, true},
		{ExecutionUnknown, "ExecutionUnknown", "DescribeExecution fails, so that leases of ended executions may stay: check the expire function's permission", 3, true},
		{ExecutionChecksLate, "ExecutionChecksLate", "Checks of executions are delayed by the limit of DescribeExecution calls: raise ttl_ms of leases with an execution", 5, true},
		{ExecutionEndFailed, "ExecutionEndFailed", "Leases of ended executions cannot be ended, which is retried: see the expire function's log", 3, true},
		{ExecutionEndMissed, "ExecutionEndMissed", "A check found an ended execution whose event did not arrive: see the rule on executions and its dead letters", 1, true},
		{GrantToldLate, "GrantToldLate", "A check found a task that had not got its callback, and sent it: the stream function failed or lost records", 1, true},
	}
}

// A reporter logs faults and counts them.
type reporter struct {
	log       *slog.Logger
	namespace string // of the metrics; empty: no metrics
	clock     func() time.Time
}

func (r reporter) now() time.Time {
	if r.clock != nil {
		return r.clock()
	}
	return time.Now()
}

// fault logs one occurrence of a fault, with its metric.
func (r reporter) fault(ctx context.Context, metric, message string, attrs ...slog.Attr) {
	attrs = append(attrs, slog.Int(metric, 1))
	if r.namespace != "" {
		attrs = append(attrs, emf.Attr(r.namespace, r.now(), emf.Metric{Name: metric, Unit: emf.Count}))
	}
	r.log.LogAttrs(ctx, slog.LevelError, message, attrs...)
}
