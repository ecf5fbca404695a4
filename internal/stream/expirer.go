package stream

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// An Expirer is what happens when a timer comes due.
type Expirer struct {
	Coordinator *lock.Coordinator
	Timers      Timers     // for those that came early
	Executions  Executions // nil: no lease belongs to one
	// Consumer does the jobs that were put off, and tells a grant that a check finds untold; its Backlog keeps what fails here.
	// nil: there are no such jobs, and what fails is an error.
	Consumer *Consumer
	// ChecksPerSecond bounds how often this process asks for executions that were not said to have ended; those whose turn
	// has not come are put off. 0: no bound.
	ChecksPerSecond float64

	Log     *slog.Logger
	Metrics string           // CloudWatch namespace of the metrics that log records carry; empty: none
	Clock   func() time.Time // nil: time.Now

	mu     sync.Mutex
	tokens float64 // checks of executions that may be made now
	filled time.Time
}

const (
	// checksAtOnce is how many checks may be made at once after a pause.
	checksAtOnce = 10
	// minCheckInterval is the least time between two checks of one execution.
	minCheckInterval = 10 * time.Second
	// checkDelay is for how long a check is put off at least whose turn has not come; at most it is twice that.
	checkDelay = 30 * time.Second
)

// ErrStillRunning says that an execution runs, although an event said that it ended. Step Functions answers so for a moment
// after the end, and for good if the execution was started again.
var ErrStillRunning = errors.New("the execution is said to have ended, and is still found running")

// An ExecutionEnd is the news that an execution's status changed.
type ExecutionEnd struct {
	Execution string `json:"executionArn"`
	Status    string `json:"status"`
}

// An ExecutionEvent is EventBridge's message of it.
type ExecutionEvent struct {
	Detail ExecutionEnd `json:"detail"`
}

func (x *Expirer) reporter() reporter { return reporter{x.Log, x.Metrics, x.Clock} }

// Fire puts out the lease that a timer names, if it is past its expiry; sets the timer again if the lease was renewed;
// and does nothing if the lease is gone. An error means that the timer must come again.
func (x *Expirer) Fire(ctx context.Context, t Timer) error {
	again, err := x.Coordinator.Expire(ctx, t.GrantRef)
	if bound, ok := errors.AsType[*lock.ExecutionError](err); ok && x.Executions != nil {
		again, err = x.check(ctx, t, bound)
	}
	about := []slog.Attr{slog.String("lock", t.Lock), slog.Int64("fence", t.Fence)}
	if err != nil {
		x.reporter().fault(ctx, TimerFailed, "timer failed", append(about, slog.Any("error", err))...)
		return err
	}
	if again.IsZero() {
		return nil
	}
	t.Due = again
	for _, err := range x.Timers.Arm(ctx, []Timer{t}) {
		if err != nil {
			x.reporter().fault(ctx, TimerFailed, "timer was not set again", append(about, slog.Any("error", err))...)
			return err
		}
	}
	return nil
}

// check looks whether a lease's execution still runs: the backstop of the event that says that it ended. It also tells a grant
// that was never told.
func (x *Expirer) check(ctx context.Context, t Timer, bound *lock.ExecutionError) (again time.Time, err error) {
	about := []slog.Attr{slog.String("lock", t.Lock), slog.Int64("fence", t.Fence), slog.String("execution", bound.Execution)}
	req := t.GrantRef
	if !x.mayCheck() {
		x.reporter().fault(ctx, ExecutionChecksLate, "check of an execution waits for its turn", about...)
		return x.Coordinator.MarkChecked(ctx, req, checkDelay+rand.N(checkDelay)) // so that nobody who is refused asks for it meanwhile
	}
	running, err := x.Executions.Running(ctx, bound.Execution)
	if err != nil {
		x.reporter().fault(ctx, ExecutionUnknown, "execution cannot be looked at", append(about, slog.Any("error", err))...)
		return time.Time{}, err
	}
	if running {
		if err := x.tellUntold(ctx, t, bound.Lease); err != nil {
			return time.Time{}, err
		}
		return x.Coordinator.MarkChecked(ctx, req, max(bound.Every, minCheckInterval))
	}
	x.reporter().fault(ctx, ExecutionEndMissed, "execution ended unheard", about...)
	if err := x.Coordinator.EndPlace(ctx, t.Lock, t.Key, bound.Execution); err != nil { // whatever is known of its other locks
		return time.Time{}, err
	}
	return time.Time{}, x.Coordinator.EndExecution(ctx, bound.Execution, func(context.Context) (bool, error) { return true, nil })
}

// tellUntold tells a grant whose callback was never tried: the stream's record of it was lost, and its task would wait for ever.
func (x *Expirer) tellUntold(ctx context.Context, t Timer, h lock.Lease) error {
	if h.Tokens.Empty() || h.Attempted || x.Consumer == nil || x.Consumer.Callbacks == nil {
		return nil
	}
	x.reporter().fault(ctx, GrantToldLate, "grant was never told", slog.String("lock", t.Lock), slog.Int64("fence", t.Fence), slog.String("owner", h.Owner))
	return x.Consumer.teller().tell(ctx, t.Lock, lock.Change{Kind: lock.LeaseAcquired, Key: t.Key, Lease: h}, lock.Record{})
}

// mayCheck takes one of the checks that this process may make.
func (x *Expirer) mayCheck() bool {
	if x.ChecksPerSecond == 0 {
		return true
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	now := x.reporter().now()
	if x.filled.IsZero() {
		x.tokens = checksAtOnce
	} else {
		x.tokens = min(checksAtOnce, x.tokens+max(now.Sub(x.filled), 0).Seconds()*x.ChecksPerSecond)
	}
	x.filled = now
	if x.tokens < 1 {
		return false
	}
	x.tokens--
	return true
}

// HandleExecution ends what belonged to an execution that is over. [ErrStillRunning] and any other error mean that the event must
// come again.
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
	about := []slog.Attr{slog.String("execution", d.Execution), slog.String("status", d.Status)}
	switch err := x.Coordinator.EndExecution(ctx, d.Execution, over); {
	case errors.Is(err, ErrStillRunning):
		x.Log.LogAttrs(ctx, slog.LevelInfo, "execution is still found running; it is asked for again", about...)
		return err
	case err != nil:
		x.reporter().fault(ctx, ExecutionEndFailed, "leases of an execution were not ended", append(about, slog.Any("error", err))...)
		return err
	}
	x.Log.LogAttrs(ctx, slog.LevelInfo, "execution ended", about...)
	return nil
}

// maxStillRunning is how often an execution that is said to have ended is asked for again while it is found running. By then
// more than a minute has passed: it was started again, and has an end of its own.
const maxStillRunning = 5

// do does timers and jobs, puts off what fails, and answers the places of those that could not be put off.
func (x *Expirer) do(ctx context.Context, jobs []Job) (failed []int) {
	work, cancel := working(ctx)
	defer cancel()
	var ofConsumer []Job
	var places []int
	var failures []failure
	for i, j := range jobs {
		var err error
		switch j.Kind {
		case JobTimer:
			err = safely(func() error { return x.Fire(work, j.Timer) })
		case JobEnd:
			err = safely(func() error { return x.HandleExecution(work, ExecutionEvent{Detail: j.Execution}) })
			if errors.Is(err, ErrStillRunning) && j.Tries >= maxStillRunning {
				err = nil
			}
		default:
			if x.Consumer == nil {
				failed = append(failed, i)
				continue
			}
			ofConsumer, places = append(ofConsumer, j), append(places, i)
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
			failed = append(failed, places[i])
		}
	}
	return append(failed, x.Consumer.putOff(ctx, failures)...)
}
