package stream

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/chance"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// An Expirer handles timers, events of executions, and deferred jobs.
type Expirer struct {
	Coordinator *lock.Coordinator
	Timers      Timers     // sets a timer again that fired before its lease's expiry; nil: timers are not set again
	Executions  Executions // nil: no lease belongs to an execution
	// Consumer does the deferred jobs, and delivers the callback of a grant that a check finds unanswered. Its
	// Backlog keeps the jobs that fail here. nil: there are no deferred jobs, and a failure is an error.
	Consumer *Consumer
	// ChecksPerSecond bounds how often this process checks executions without an event of their end. Checks above the rate
	// are postponed. 0: no bound.
	ChecksPerSecond float64

	Log     *slog.Logger
	Metrics string           // CloudWatch namespace of the metrics in log records; empty: no metrics
	Clock   func() time.Time // nil: time.Now

	mu     sync.Mutex
	checks float64 // the token bucket of checks
	filled time.Time
}

const (
	// checksAtOnce is the size of the token bucket: how many checks may follow each other at once after a pause.
	checksAtOnce = 10
	// minCheckInterval is the least time between two checks of one execution.
	minCheckInterval = 10 * time.Second
	// checkDelay is the least delay of a check above the rate; the delay is random, and at most twice that.
	checkDelay = 30 * time.Second
)

// ErrStillRunning says that an execution runs, although an event said that it ended. Step Functions reports this for a moment
// after the end, and permanently if the execution was redriven.
var ErrStillRunning = errors.New("the execution still runs, although an event said that it ended")

// An ExecutionEnd is a change of an execution's status.
type ExecutionEnd struct {
	Execution string `json:"executionArn"`
	Status    string `json:"status"`
}

// An ExecutionEvent is EventBridge's event of an [ExecutionEnd].
type ExecutionEvent struct {
	Detail ExecutionEnd `json:"detail"`
}

func (x *Expirer) reporter() reporter { return reporter{x.Log, x.Metrics, x.Clock} }

// Fire handles a timer. It ends the lease that the timer names, if the lease is past its expiry; sets the timer again, if the
// lease was renewed; and does nothing, if the lease is over. After an error the timer must be retried.
func (x *Expirer) Fire(ctx context.Context, t Timer) error {
	again, err := x.Coordinator.Expire(ctx, t.GrantRef)
	if bound, ok := errors.AsType[*lock.ExecutionError](err); ok && x.Executions != nil {
		again, err = x.check(ctx, t, bound)
	}
	attrs := []slog.Attr{slog.String("lock", t.Lock), slog.Int64("fence", t.Fence)}
	if err != nil {
		x.reporter().fault(ctx, TimerFailed, "timer failed", append(attrs, slog.Any("error", err))...)
		return err
	}
	if again.IsZero() || x.Timers == nil {
		return nil
	}
	t.Due = again
	for _, err := range x.Timers.Arm(ctx, []Timer{t}) {
		if err != nil {
			x.reporter().fault(ctx, TimerFailed, "timer was not set again", append(attrs, slog.Any("error", err))...)
			return err
		}
	}
	return nil
}

// check ends a lease whose execution is over, in case the event of the execution's end was lost. While the execution runs, it
// delivers the callback of a grant that was not answered. again is when to check next; zero: not again.
func (x *Expirer) check(ctx context.Context, t Timer, bound *lock.ExecutionError) (again time.Time, err error) {
	attrs := []slog.Attr{slog.String("lock", t.Lock), slog.Int64("fence", t.Fence), slog.String("execution", bound.Execution)}
	if !x.mayCheck() {
		x.reporter().fault(ctx, ExecutionChecksLate, "check of an execution was postponed", attrs...)
		// Stored, so that an acquire that is refused meanwhile does not ask for the check again.
		return x.Coordinator.MarkChecked(ctx, t.GrantRef, bound.Lease.Set, checkDelay+chance.N(checkDelay))
	}
	running, err := x.Executions.Running(ctx, bound.Execution)
	if err != nil {
		x.reporter().fault(ctx, ExecutionUnknown, "execution cannot be checked", append(attrs, slog.Any("error", err))...)
		return time.Time{}, err
	}
	if running {
		if err := x.deliverMissed(ctx, t, bound.Lease); err != nil {
			return time.Time{}, err
		}
		return x.Coordinator.MarkChecked(ctx, t.GrantRef, bound.Lease.Set, max(bound.Every, minCheckInterval))
	}
	x.reporter().fault(ctx, ExecutionEndMissed, "execution ended without an event", attrs...)
	// This lease first: EndExecution finds the others by the execution's bindings, which may lack this one.
	if err := x.Coordinator.EndPlace(ctx, lock.Binding{Lock: t.Lock, Key: t.Key, Set: bound.Lease.Set}, bound.Execution); err != nil {
		return time.Time{}, err
	}
	return time.Time{}, x.Coordinator.EndExecution(ctx, bound.Execution, func(context.Context) (bool, error) { return true, nil })
}

// deliverMissed delivers the callbacks of a grant if they were not answered: the stream's record of the grant was lost, and its
// task may wait for ever. The token of a set is with its first lease.
func (x *Expirer) deliverMissed(ctx context.Context, t Timer, l lock.Lease) error {
	if !lock.LeadsSet(t.Lock, l.Set) {
		leases, err := x.Coordinator.LeasesOfSet(ctx, l.Set, t.Key)
		if errors.Is(err, lock.ErrLeaseLost) {
			return nil
		}
		if err != nil {
			return err
		}
		t.Lock, l = lock.SetNames(l.Set)[0], leases[0]
	}
	if !l.Tokens.OfTask() || l.Told || x.Consumer == nil || x.Consumer.Callbacks == nil {
		return nil
	}
	x.reporter().fault(ctx, GrantToldLate, "callback of a grant was missed", slog.String("lock", t.Lock), slog.Int64("fence", t.Fence), slog.String("owner", l.Owner))
	err := x.Consumer.notifier().deliver(ctx, t.Lock, t.Key, l, new(lock.Record))
	if errors.Is(err, ErrUnknownKind) { // the next check may be a newer version's
		return nil
	}
	return err
}

// mayCheck reports whether a check is within the rate, and counts it.
func (x *Expirer) mayCheck() bool {
	if x.ChecksPerSecond == 0 {
		return true
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	now := x.reporter().now()
	if x.filled.IsZero() {
		x.checks = checksAtOnce
	} else {
		x.checks = min(checksAtOnce, x.checks+max(now.Sub(x.filled), 0).Seconds()*x.ChecksPerSecond)
	}
	x.filled = now
	if x.checks < 1 {
		return false
	}
	x.checks--
	return true
}

// HandleExecution ends the leases and waits of an execution that is over. After an error, [ErrStillRunning] included, the event
// must be retried.
func (x *Expirer) HandleExecution(ctx context.Context, event ExecutionEvent) error {
	d := event.Detail
	switch d.Status {
	case "SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED":
	default: // RUNNING, PENDING_REDRIVE
		return nil
	}
	over := func(ctx context.Context) (bool, error) {
		running, err := x.Executions.Running(ctx, d.Execution)
		if err == nil && running {
			err = ErrStillRunning
		}
		return err == nil, err
	}
	attrs := []slog.Attr{slog.String("execution", d.Execution), slog.String("status", d.Status)}
	switch err := x.Coordinator.EndExecution(ctx, d.Execution, over); {
	case errors.Is(err, ErrStillRunning):
		x.Log.LogAttrs(ctx, slog.LevelInfo, "execution still runs after the event of its end", attrs...)
		return err
	case err != nil:
		x.reporter().fault(ctx, ExecutionEndFailed, "leases of an execution were not ended", append(attrs, slog.Any("error", err))...)
		return err
	}
	x.Log.LogAttrs(ctx, slog.LevelInfo, "execution ended", attrs...)
	return nil
}

// maxStillRunning is how often the end of an execution that still runs is retried. That takes more than a minute, so the
// execution was redriven, and its next end has an event of its own.
const maxStillRunning = 5

// do handles timers and jobs, and defers those that fail. It returns the indexes of those that could not be deferred.
func (x *Expirer) do(ctx context.Context, jobs []Job) (failed []int) {
	work, cancel := workContext(ctx)
	defer cancel()
	var ofConsumer []Job
	var indexes []int // of the consumer's jobs
	var failures []failure
	for i, j := range jobs {
		var err error
		switch j.Kind {
		case JobTimer:
			err = catchPanic(func() error { return x.Fire(work, j.Timer) })
		case JobEnd:
			err = catchPanic(func() error { return x.HandleExecution(work, ExecutionEvent{Detail: j.Execution}) })
			if errors.Is(err, ErrStillRunning) && j.Tries >= maxStillRunning {
				err = nil
			}
		default:
			if x.Consumer == nil {
				failed = append(failed, i)
				continue
			}
			ofConsumer, indexes = append(ofConsumer, j), append(indexes, i)
		}
		if err != nil {
			failures = append(failures, failure{j, i, err})
		}
	}
	if x.Consumer == nil {
		for _, f := range failures {
			failed = append(failed, f.write)
		}
		return failed
	}
	for i, err := range x.Consumer.Do(ctx, ofConsumer) {
		if err != nil {
			failed = append(failed, indexes[i])
		}
	}
	return append(failed, x.Consumer.deferJobs(ctx, failures)...)
}
