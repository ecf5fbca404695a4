package stream

import (
	"context"
	"log/slog"
	"time"

	"github.com/holdfast-lock/holdfast/internal/emf"
)

// The metrics of what goes wrong. Each counts occurrences, and is logged in the record that says what happened.
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

// A Fault is a metric that a person must hear of.
type Fault struct {
	Metric  string
	Alarm   string // what the alarm says
	Minutes int    // of the last five, in which the metric must be 1 or more
}

// Faults lists the metrics of this package that need an alarm; a test of the templates compares.
func Faults() []Fault {
	return []Fault{
		{CallbackUndeliverable, "A task can never be told of its lock: list its state machine in StateMachines, or its function in DurableFunctions", 1},
		{CallbackFailed, "Tasks cannot be told of their locks; it is tried again: see the stream function's log", 3},
		{EventPutOff, "The event bus does not take events; they are kept and sent later: see the stream function's log", 3},
		{LockNotHandedOn, "A lock cannot be handed on to its waiters: see the log for its name", 1},
		{RecordBuried, "A stream record cannot be read: look at the dead-letter queue", 1},
		{WorkGivenUp, "An event, a callback or a hand-off was tried for a day, or can never succeed: look at the dead-letter queue", 1},
		{TimerFailed, "Timers cannot be set, or what they do fails; it is tried again: see the logs of stream and expire", 3},
		{ExecutionUnknown, "DescribeExecution fails; leases of executions may stay: check the expire function's permission", 3},
		{ExecutionChecksLate, "Checks of executions wait for their turn, since DescribeExecution is called as often as allowed: raise ttl_ms of leases with an execution", 5},
		{ExecutionEndFailed, "Leases of executions that ended are not ended; it is tried again: see the expire function's log", 3},
		{ExecutionEndMissed, "The event of an execution's end never came; a check found it: look at the rule on executions and its dead letters", 1},
		{GrantToldLate, "A check found a task that nobody had told of its lock, and told it: the stream function failed or lost records", 1},
	}
}

// A reporter logs faults and counts them.
type reporter struct {
	log       *slog.Logger
	namespace string // of the metrics; empty: none
	clock     func() time.Time
}

func (r reporter) now() time.Time {
	if r.clock != nil {
		return r.clock()
	}
	return time.Now()
}

// fault logs one occurrence of a metric.
func (r reporter) fault(ctx context.Context, metric, message string, attrs ...slog.Attr) {
	attrs = append(attrs, slog.Int(metric, 1))
	if r.namespace != "" {
		attrs = append(attrs, emf.Attr(r.namespace, r.now(), emf.Metric{Name: metric, Unit: emf.Count}))
	}
	r.log.LogAttrs(ctx, slog.LevelError, message, attrs...)
}
