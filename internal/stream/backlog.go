package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// A Job is one effect of a write, or one event of an execution, that failed and is retried later, apart from the stream. So the
// records behind its write do not wait for it.
type Job struct {
	Kind  JobKind
	Lock  string    // empty for JobEnd; of JobThaw, the rule's prefix, or [lock.AllLocks]
	Since time.Time // when the job was first deferred
	Tries int       // how often the job was deferred before
	Due   time.Time // when to do the job

	Event     Entry               // of JobPublish
	Timer     Timer               // of JobTimer
	Key       lock.LeaseKey       // of JobDeliver
	Lease     lock.Lease          // of JobDeliver
	Tokens    lock.Tokens         // of JobFail
	Code      string              // of JobFail
	Cause     string              // of JobFail
	Execution ExecutionEnd        // of JobEnd
	Cursor    string              // of JobThaw: where to go on; empty: from the beginning
	Head      int64               // of JobSettle: the Head of the record with which the job is repeated; 0: any; noHead: none
	History   []lock.HistoryEntry // of JobHistory: the entries of one write

	// Newer are the fields of the job's message that this version does not know; they are in the message again when the job is deferred. Of a
	// kind that this version does not know, they are all fields but those of every job.
	Newer map[string]json.RawMessage
}

// A JobKind says what a job does. Its values are in messages on the queue.
type JobKind string

// The kinds of job; jobKinds has the properties of each.
const (
	JobPublish JobKind = "publish" // publish an event
	JobDeliver JobKind = "tell"    // deliver the callbacks of a grant
	JobFail    JobKind = "fail"    // deliver the callbacks of a wait that ended without a grant
	JobSettle  JobKind = "settle"  // grant the free permits of a lock to its waiters
	JobThaw    JobKind = "thaw"    // settle the locks below a prefix whose freeze is over
	JobHistory JobKind = "history" // keep the entries of a lock's history
	JobTimer   JobKind = "timer"   // do what a timer does
	JobEnd     JobKind = "end"     // end the leases of an execution that is over
)

// noHead is the Head of a JobSettle that is not repeated.
const noHead = -1

// A Backlog keeps jobs until they are due.
type Backlog interface {
	// Defer keeps jobs. It returns an error for each job, nil for one that is kept; a nil slice means that all are.
	Defer(ctx context.Context, jobs []Job) []error
}

const (
	// giveUpAfter is how long a job is retried. It is how long a DynamoDB stream keeps its records.
	giveUpAfter = 24 * time.Hour
	// firstDelay is the delay of a job that is deferred for the first time. The delay doubles each time, up to MaxDelay.
	firstDelay = 5 * time.Second
	// writeMargin is the part of a function's time that is kept for deferring the jobs that failed.
	writeMargin = 5 * time.Second
)

// retryDelay is the delay of a job that was deferred tries times before.
func retryDelay(tries int) time.Duration {
	if tries > 8 { // 5 s doubled eight times is more than MaxDelay
		return MaxDelay
	}
	return min(firstDelay<<max(tries, 0), MaxDelay)
}

// deferred is the job with the times and the count of one more deferral.
func (j Job) deferred(now time.Time) Job {
	if j.Since.IsZero() {
		j.Since = now
	}
	j.Due = now.Add(retryDelay(j.Tries))
	j.Tries++
	return j
}

// transient reports whether a retry may succeed without a change of the lock's record.
func transient(err error) bool {
	return errors.Is(err, lock.ErrThrottled) || errors.Is(err, lock.ErrUnavailable) || errors.Is(err, lock.ErrMisconfigured) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errNotTried) || errors.Is(err, errNotDeferred)
}

// workContext is the context of the work itself. It ends writeMargin before ctx, so that there is time to defer what failed.
func workContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return withMargin(ctx, writeMargin)
}

// withMargin returns a context whose deadline is margin before that of ctx. Without a deadline, there is none.
func withMargin(ctx context.Context, margin time.Duration) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-margin))
}

// catchPanic calls f and returns its panic as an error: a record that this version cannot handle must not block its shard.
func catchPanic(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{value: p, stack: debug.Stack()}
		}
	}()
	return f()
}

// A panicError is a panic in the handling of a record or a job.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.value, e.stack) }

// A failure is a job that failed.
type failure struct {
	job   Job
	write int // the index of the job's write in its batch
	err   error
}

// deferJobs defers the jobs that failed, or gives them up. It returns the indexes of the writes that must be delivered again,
// because one of their jobs could not be deferred.
func (c *Consumer) deferJobs(ctx context.Context, failures []failure) (redeliver []int) {
	if c.Backlog == nil {
		for _, f := range failures {
			if !c.retryInStream(ctx, f) {
				redeliver = append(redeliver, f.write)
			}
		}
		return redeliver
	}
	var keep []failure
	var jobs []Job
	for _, f := range failures {
		if c.shouldGiveUp(f) && c.giveUp(ctx, f) {
			continue
		}
		keep, jobs = append(keep, f), append(jobs, f.job.deferred(c.now()))
	}
	if len(jobs) == 0 {
		return nil
	}
	for i, err := range c.Backlog.Defer(ctx, jobs) {
		if err != nil {
			c.Log.ErrorContext(ctx, "job was not deferred", "lock", jobs[i].Lock, "kind", string(jobs[i].Kind), "error", err)
			redeliver = append(redeliver, keep[i].write)
		}
	}
	return redeliver
}

// shouldGiveUp reports whether a job should not be retried.
func (c *Consumer) shouldGiveUp(f failure) bool {
	if jobKinds[f.job.Kind].endless {
		return false
	}
	if _, panicked := errors.AsType[*panicError](f.err); panicked {
		return true
	}
	if c.Backlog == nil && errors.Is(f.err, ErrUnknownKind) { // only another version can do it: the shard does not wait for that
		return true
	}
	if c.Backlog == nil && f.job.Kind == JobHistory && errors.Is(f.err, lock.ErrMisconfigured) { // nothing waits for a permission that the history lacks
		return true
	}
	return f.job.Kind == JobSettle && !transient(f.err) || !f.job.Since.IsZero() && c.now().Sub(f.job.Since) >= giveUpAfter
}

// giveUp sends a job to the dead-letter queue. It returns false if that fails.
func (c *Consumer) giveUp(ctx context.Context, f failure) bool {
	body, err := EncodeJob(f.job)
	if err == nil && c.DeadLetter != nil {
		err = c.DeadLetter.Bury(ctx, Write{Write: lock.Write{Lock: f.job.Lock}, Raw: body, Poison: fmt.Errorf("%s was given up: %w", f.job.Kind, f.err)})
	}
	if err != nil {
		c.Log.ErrorContext(ctx, "job was not sent to the dead-letter queue", "lock", f.job.Lock, "kind", string(f.job.Kind), "error", err)
		return false
	}
	c.reporter().fault(ctx, WorkGivenUp, "job was given up", slog.String("lock", f.job.Lock), slog.String("kind", string(f.job.Kind)), slog.Any("error", f.err))
	return true
}

// maxSettleFailures is how many failures in a row to settle one lock block its shard, without a backlog.
const maxSettleFailures = 3

// retryInStream handles a job that failed, without a backlog: its write must be delivered again, and the records behind it in
// the shard wait. So that one lock that cannot be settled does not block its shard for a day, a settle job is given up
// after maxSettleFailures failures, or at once if its error is not transient. It returns false if the write must be
// delivered again.
func (c *Consumer) retryInStream(ctx context.Context, f failure) bool {
	if c.shouldGiveUp(f) {
		return c.giveUp(ctx, f)
	}
	if f.job.Kind != JobSettle {
		return false
	}
	c.mu.Lock()
	if c.settleFailures == nil {
		c.settleFailures = map[string]int{}
	}
	c.settleFailures[f.job.Lock]++
	failures := c.settleFailures[f.job.Lock]
	if failures >= maxSettleFailures {
		delete(c.settleFailures, f.job.Lock)
	}
	c.mu.Unlock()
	return failures >= maxSettleFailures && c.giveUp(ctx, f)
}

// clearSettleFailures resets the count of failures to settle a lock.
func (c *Consumer) clearSettleFailures(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.settleFailures, name)
}

// Do does jobs that are due, and defers those that fail. It returns an error for each job, nil for one that was done or
// deferred.
func (c *Consumer) Do(ctx context.Context, jobs []Job) []error {
	work, cancel := workContext(ctx)
	defer cancel()
	errs := make([]error, len(jobs))
	var failures []failure
	var offers []*offer
	for i, j := range jobs {
		if j.Kind == JobPublish {
			offers = append(offers, &offer{write: i, entry: j.Event})
			continue
		}
		if err := catchPanic(func() error { return c.do(work, j) }); err != nil {
			failures = append(failures, failure{j, i, err})
		}
	}
	for _, o := range c.publish(work, offers) {
		failures = append(failures, failure{jobs[o.write], o.write, o.err})
	}
	for _, i := range c.deferJobs(ctx, failures) {
		errs[i] = errors.New("the job failed, and was not deferred")
	}
	return errs
}

// do does one job whose kind has a do.
func (c *Consumer) do(ctx context.Context, j Job) error {
	if do := jobKinds[j.Kind].do; do != nil {
		return do(ctx, c, j)
	}
	return fmt.Errorf("a job of kind %q is unknown to this version", j.Kind)
}
