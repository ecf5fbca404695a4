package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// A Job is one thing that follows from a write and could not be done at once. It is done later, apart from the stream, so that
// nothing behind its write waits for it.
type Job struct {
	Kind  JobKind
	Lock  string    // empty for JobEnd
	Since time.Time // when it was put off first
	Tries int       // how often it was put off before
	Due   time.Time // when to do it

	Event     Entry         // of JobPublish
	Timer     Timer         // of JobTimer
	Key       lock.LeaseKey // of JobTell
	Lease     lock.Lease    // of JobTell
	Tokens    lock.Tokens   // of JobFail
	Code      string        // of JobFail
	Cause     string        // of JobFail
	Execution ExecutionEnd  // of JobEnd
}

// A JobKind says what a job does.
type JobKind string

// The kinds of job.
const (
	JobPublish JobKind = "publish" // put an event on the bus
	JobTell    JobKind = "tell"    // tell a task of its grant
	JobFail    JobKind = "fail"    // tell a task that its wait is over without a grant
	JobSettle  JobKind = "settle"  // grant a lock's waiters what is free
	JobTimer   JobKind = "timer"   // do what a timer does, again
	JobEnd     JobKind = "end"     // end the leases of an execution that is over
)

// A Backlog keeps jobs until they are due.
type Backlog interface {
	// PutOff keeps jobs, and answers an error for each that was not kept; nil: all were.
	PutOff(ctx context.Context, jobs []Job) []error
}

const (
	// giveUpAfter is for how long a job is tried: as long as the stream keeps its records.
	giveUpAfter = 24 * time.Hour
	// firstDelay is the delay of a job that is put off for the first time. It doubles with every further time, up to MaxDelay.
	firstDelay = 5 * time.Second
	// writeMargin is what is left of a function's time to put off what it could not do.
	writeMargin = 5 * time.Second
)

// retryDelay is how long a job waits that was put off so many times before.
func retryDelay(tries int) time.Duration {
	if tries > 8 { // 5 s doubled eight times is more than MaxDelay
		return MaxDelay
	}
	return min(firstDelay<<max(tries, 0), MaxDelay)
}

// again is the job as it is put off at now.
func (j Job) again(now time.Time) Job {
	if j.Since.IsZero() {
		j.Since = now
	}
	j.Due = now.Add(retryDelay(j.Tries))
	j.Tries++
	return j
}

// endless tells whether a job is never given up: a lease would stay for ever without it.
func (j Job) endless() bool { return j.Kind == JobTimer || j.Kind == JobEnd }

// passing tells whether an error may go away by itself, so that it is worth trying again.
func passing(err error) bool {
	return errors.Is(err, lock.ErrThrottled) || errors.Is(err, lock.ErrUnavailable) || errors.Is(err, lock.ErrMisconfigured) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// working is the context for the work itself; it ends writeMargin before ctx does.
func working(ctx context.Context) (context.Context, context.CancelFunc) {
	return before(ctx, writeMargin)
}

// before is a context that ends so long before ctx's deadline.
func before(ctx context.Context, margin time.Duration) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-margin))
}

// safely runs f, and turns a panic into an error: a record that this version cannot handle must not stop its shard.
func safely(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{value: p, stack: debug.Stack()}
		}
	}()
	return f()
}

// A panicError is a panic that handling a record or a job caused.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.value, e.stack) }

// A failure is a job that was not done, and why.
type failure struct {
	job   Job
	write int // the write in its batch that it follows from
	err   error
}

// putOff keeps the jobs that were not done for later. It returns the writes that must come again, because some job of theirs could not be
// kept.
func (c *Consumer) putOff(ctx context.Context, failures []failure) (again []int) {
	if c.Backlog == nil {
		for _, f := range failures {
			if !c.setAside(ctx, f) {
				again = append(again, f.write)
			}
		}
		return again
	}
	var keep []failure
	var jobs []Job
	for _, f := range failures {
		if c.hopeless(f) && c.giveUp(ctx, f) {
			continue
		}
		keep, jobs = append(keep, f), append(jobs, f.job.again(c.now()))
	}
	if len(jobs) == 0 {
		return nil
	}
	for i, err := range c.Backlog.PutOff(ctx, jobs) {
		if err != nil {
			c.Log.ErrorContext(ctx, "work was not put off", "lock", jobs[i].Lock, "kind", string(jobs[i].Kind), "error", err)
			again = append(again, keep[i].write)
		}
	}
	return again
}

// hopeless tells whether a job is not worth trying again.
func (c *Consumer) hopeless(f failure) bool {
	if f.job.endless() {
		return false
	}
	if _, panicked := errors.AsType[*panicError](f.err); panicked {
		return true
	}
	return f.job.Kind == JobSettle && !passing(f.err) || !f.job.Since.IsZero() && c.now().Sub(f.job.Since) >= giveUpAfter
}

// giveUp buries a job. false: it could not be buried.
func (c *Consumer) giveUp(ctx context.Context, f failure) bool {
	body, err := EncodeJob(f.job)
	if err == nil && c.DeadLetter != nil {
		err = c.DeadLetter.Bury(ctx, Write{Write: lock.Write{Lock: f.job.Lock}, Raw: body, Poison: fmt.Errorf("%s was given up: %w", f.job.Kind, f.err)})
	}
	if err != nil {
		c.Log.ErrorContext(ctx, "work was not buried", "lock", f.job.Lock, "kind", string(f.job.Kind), "error", err)
		return false
	}
	c.reporter().fault(ctx, WorkGivenUp, "work was given up", slog.String("lock", f.job.Lock), slog.String("kind", string(f.job.Kind)), slog.Any("error", f.err))
	return true
}

// maxSettles is how often in a row a lock that cannot be handed on holds up its shard, where there is no backlog.
const maxSettles = 3

// setAside deals with a job that was not done where there is no backlog: its write comes again, and so does what is behind it in
// the shard. One lock that cannot be handed on would stop them all, so it is buried instead, at once if its fault will not
// pass, or after maxSettles tries. false: the write must come again.
func (c *Consumer) setAside(ctx context.Context, f failure) bool {
	if c.hopeless(f) {
		return c.giveUp(ctx, f)
	}
	if f.job.Kind != JobSettle {
		return false
	}
	c.mu.Lock()
	if c.settles == nil {
		c.settles = map[string]int{}
	}
	c.settles[f.job.Lock]++
	tries := c.settles[f.job.Lock]
	if tries >= maxSettles {
		delete(c.settles, f.job.Lock)
	}
	c.mu.Unlock()
	return tries >= maxSettles && c.giveUp(ctx, f)
}

// settled forgets earlier failures to hand a lock on.
func (c *Consumer) settled(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.settles, name)
}

// Do does jobs that came due, puts off those that fail, and answers an error for each that was neither done nor put off.
func (c *Consumer) Do(ctx context.Context, jobs []Job) []error {
	work, cancel := working(ctx)
	defer cancel()
	errs := make([]error, len(jobs))
	var failures []failure
	var offers []*offer
	for i, j := range jobs {
		if j.Kind == JobPublish {
			offers = append(offers, &offer{write: i, entry: j.Event})
			continue
		}
		if err := safely(func() error { return c.do(work, j) }); err != nil {
			failures = append(failures, failure{j, i, err})
		}
	}
	for _, o := range c.publish(work, offers) {
		failures = append(failures, failure{jobs[o.write], o.write, o.err})
	}
	for _, i := range c.putOff(ctx, failures) {
		errs[i] = errors.New("not done, and not put off")
	}
	return errs
}

// do does one job but JobPublish, JobTimer and JobEnd.
func (c *Consumer) do(ctx context.Context, j Job) error {
	switch j.Kind {
	case JobTell:
		return c.teller().tell(ctx, j.Lock, lock.Change{Kind: lock.LeaseAcquired, Key: j.Key, Lease: j.Lease}, lock.Record{})
	case JobFail:
		return c.teller().fail(ctx, j.Lock, j.Tokens, j.Code, j.Cause)
	case JobSettle:
		return c.settle(ctx, j.Lock)
	}
	return fmt.Errorf("a job of kind %q is unknown to this version", j.Kind)
}
