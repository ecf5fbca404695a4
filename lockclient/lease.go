package lockclient

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// rateMargin is the divisor of the margin that the client subtracts from a lease's life, for the difference in rate between its
// clock and the coordinator's: 1/1000, twice the 500 ppm by which NTP may slew a clock.
const rateMargin = 1000

// A Lease is a lock that this process holds. It is safe for concurrent use.
type Lease struct {
	client *Client
	name   string
	owner  string // as the answer of the grant names it
	secret string
	ttl    time.Duration
	fence  int64
	waited time.Duration
	fences map[string]int64 // of the locks of a set; nil: it is of one lock
	ctx    context.Context
	end    context.CancelCauseFunc
	renews chan struct{} // closed when the background renewal has ended

	heartbeat time.Duration
	held      reading       // when the answer with the grant arrived
	minHold   time.Duration // Options.MinHold, counted from held
	onRenewal func(error, time.Time)
	observed  *holdSpan

	mu       sync.Mutex
	deadline reading // the lease is proved to be held until then
	renewErr error   // the error of the last renewal; nil if it succeeded
	hold     int64   // not 0: the deadline is the end by a limit of so many milliseconds from the grant on, which no renewal moves
	expiry   *time.Timer
	released chan struct{} // made by the first Release, and closed when its result is known
	result   error
}

// keep makes a Lease of a grant and starts its timers and its renewal. In a Lambda invocation the lease ends with ctx, so that
// nothing of it continues after the environment is frozen and thawed.
func (c *Client) keep(ctx context.Context, name, secret string, opts Options, sent reading, answer wire.Lease, fences map[string]int64) (_ *Lease, err error) {
	ttl := time.Duration(answer.TTL) * time.Millisecond
	heartbeat := cmp.Or(opts.Heartbeat, ttl/3)
	if heartbeat >= ttl { // possible for an adopted lease
		heartbeat = ttl / 3
	}
	l := &Lease{
		client: c, name: name, owner: answer.Owner, secret: secret, ttl: ttl, heartbeat: heartbeat, fence: answer.Fence, fences: fences, waited: time.Duration(answer.Waited) * time.Millisecond,
		renews: make(chan struct{}),
		held:   c.now(), minHold: opts.MinHold, onRenewal: opts.OnRenewal,
	}
	deadline := provedUntil(sent, answer)
	if c.left(deadline) <= 0 {
		return nil, ErrLost // the answer took longer than the lease's life
	}
	inv := invocationOf(ctx)
	held, observed := c.telemetry.holding(context.WithoutCancel(ctx), l)
	defer func() {
		if err != nil {
			observed.ended(nil)
		}
	}()
	l.mu.Lock() // watch may run as soon as the timer is there
	defer l.mu.Unlock()
	l.deadline, l.hold, l.observed = deadline, holdOver(answer), observed
	l.ctx, l.end = context.WithCancelCause(context.WithValue(held, leaseKey{}, l))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isClosed() {
		return nil, ErrClosed
	}
	c.leases[l] = true
	l.expiry = time.AfterFunc(min(c.left(l.deadline), watchEvery), l.watch)
	if inv != nil {
		context.AfterFunc(ctx, func() { l.stop(l.lost(errInvocationOver)) })
	}
	if opts.ManualRenew {
		close(l.renews)
	} else {
		c.work.Go(l.keepRenewing)
	}
	return l, nil
}

// watchEvery is the longest time between two checks of a lease's clocks. Timers run on the monotonic clock, which may have stopped
// while the process was frozen. So the context of a lease that expired meanwhile ends within this time after the thaw; Err is right
// at once.
const watchEvery = time.Second

// provedUntil returns the time until which an answer proves the lease, for a request that was sent at sent.
func provedUntil(sent reading, answer wire.Lease) reading {
	remaining := time.Duration(answer.Remaining) * time.Millisecond
	return sent.add(remaining - remaining/rateMargin)
}

// holdOver is for how long the lease may be held from its grant on, in milliseconds, if the expiry of an answer is the end of that time; else 0.
func holdOver(answer wire.Lease) int64 {
	if answer.EndsAt == nil || answer.ExpiresAt.Before(answer.EndsAt.Time) {
		return 0
	}
	return answer.EndsAt.Sub(answer.AcquiredAt.Time).Milliseconds()
}

// String names the lock and the fencing token, and not the secret.
func (l *Lease) String() string { return l.describe() }

// Format prints String for every verb, so that no way of printing a lease reveals its secret.
func (l *Lease) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, l.String()) }

// Name returns the lock's name, or those of a set of locks with commas between.
func (l *Lease) Name() string { return l.name }

// Fence returns the fencing token of the grant. It is higher than that of every earlier grant of the lock, and below 2^53. A renewal
// does not change it. Of a set of locks it is that of the first name; see [Lease.Fences].
func (l *Lease) Fence() int64 { return l.fence }

// Waited returns for how long the lease's place was in the lock's queue before the grant, by the coordinator's clock; 0 if the lock was granted at
// once. Of a lease that was adopted it may be 0, too.
func (l *Lease) Waited() time.Duration { return l.waited }

// Secret returns the secret by which the coordinator knows the lease. A process that has it can renew and release the lease. Pass it
// only to a process that takes the lease over (see [Client.Adopt]), and keep it out of logs and command lines.
func (l *Lease) Secret() string { return l.secret }

// Context returns a context that ends when the lease is released (its cause is then [ErrReleased]), or is lost or can no longer be
// proved to be held (the cause then matches [ErrLost]). It has the values of Acquire's context, but it ends with that context only
// in a Lambda invocation. The client learns of a force-release at its next renewal.
func (l *Lease) Context() context.Context { return l.ctx }

// ExpiresAt returns the time, on this machine's clock, until which the lease is proved to be held, unless it is renewed.
func (l *Lease) ExpiresAt() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deadline.wall
}

// Remaining returns for how long the lease is still proved to be held, unless it is renewed: the lesser of what the monotonic clock
// and the wall clock say. It is 0 after the lease has ended.
func (l *Lease) Remaining() time.Duration {
	if l.Err() != nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(l.client.left(l.deadline), 0)
}

// Err returns nil while the lease is proved to be held, and otherwise the cause of its end. Unlike Context, Err reads the clock
// itself, so it is right even immediately after the process was paused.
func (l *Lease) Err() error {
	if err := context.Cause(l.ctx); err != nil {
		return err
	}
	l.mu.Lock()
	over := l.client.left(l.deadline) <= 0
	l.mu.Unlock()
	if over {
		return l.ranOut()
	}
	return nil
}

// ranOut returns the loss of a lease that expired before a renewal succeeded.
func (l *Lease) ranOut() error {
	l.mu.Lock()
	last, hold := l.renewErr, l.hold
	l.mu.Unlock()
	if hold > 0 {
		return &OpError{ErrRenew, l.name, &ended{&LimitError{
			Limit: "max_hold_ms", Value: hold, Detail: fmt.Sprintf("a limit for locks below its prefix ended it %v after its grant; acquire the lock again", time.Duration(hold)*time.Millisecond),
		}}}
	}
	if last == nil {
		return l.lost(errRanOut)
	}
	return &OpError{ErrRenew, l.name, fmt.Errorf("%w: not renewed in time: %w", ErrLost, last)}
}

func (l *Lease) lost(why error) error {
	return &OpError{ErrRenew, l.name, fmt.Errorf("%w: %w", ErrLost, why)}
}

// watch ends the lease if it has expired, and otherwise sets the timer for the next check.
func (l *Lease) watch() {
	l.mu.Lock()
	more := l.client.left(l.deadline)
	if more > 0 && l.ctx.Err() == nil {
		l.expiry.Reset(min(more, watchEvery))
	}
	l.mu.Unlock()
	if more <= 0 {
		l.stop(l.ranOut())
	}
}

// stop ends the lease's context. From then on the client considers it lost or released.
func (l *Lease) stop(cause error) {
	l.end(cause)
	l.mu.Lock()
	l.expiry.Stop()
	l.mu.Unlock()
	l.client.mu.Lock()
	delete(l.client.leases, l)
	l.client.mu.Unlock()
	l.observed.ended(context.Cause(l.ctx))
}

// Renew renews the lease: it then expires one TTL after the request. The client does this in the background at every heartbeat,
// unless Options.ManualRenew is set. The error matches [ErrLost] if the lease has ended, also while Renew waits for an answer, and [ErrUnavailable]
// if the coordinator did not answer; the lease is then held until [Lease.ExpiresAt] as before.
func (l *Lease) Renew(ctx context.Context) error { return l.renewByHand(ctx, nil) }

// SetMetadata renews the lease and replaces the metadata that others see while the lock is held. The metadata must encode to a JSON
// object of at most 2,048 bytes; nil means the empty object. Its errors are those of Renew, and [ErrRefused] for other metadata.
func (l *Lease) SetMetadata(ctx context.Context, metadata any) error {
	if metadata == nil {
		metadata = struct{}{}
	}
	encoded, err := encodeMetadata(metadata)
	if err != nil {
		return &OpError{ErrRenew, l.name, err}
	}
	return l.renewByHand(ctx, encoded)
}

// renewByHand renews the lease until ctx or the lease ends: a renewal after the lease's end would be answered as lost.
func (l *Lease) renewByHand(ctx context.Context, metadata json.RawMessage) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	err := l.renew(ctx, metadata, nil)
	if err == nil {
		return nil
	}
	if l.ctx.Err() != nil && !errors.Is(err, ErrLost) {
		err = ErrLost
	}
	return &OpError{ErrRenew, l.name, err}
}

// renew renews the lease. It calls failed, if not nil, for each try that fails.
func (l *Lease) renew(ctx context.Context, metadata json.RawMessage, failed func(error)) error {
	if err := l.Err(); err != nil {
		return ErrLost
	}
	var answer wire.Lease
	var sent reading
	ctx, observed := l.client.telemetry.operation(l.observed.under(ctx), spanRenew, l.name)
	err := l.client.retry(ctx, func() (err error) {
		sent, answer, err = l.sendRenewal(ctx, l.ttl, metadata)
		observed.tried(err)
		if err != nil && failed != nil {
			failed(err)
		}
		return err
	})
	observed.done(err)
	if errors.Is(err, ErrLost) {
		if !errors.Is(err, ErrLimit) {
			err = fmt.Errorf("%w: %w", ErrLost, errSaidLost)
		}
		l.stop(&OpError{ErrRenew, l.name, err})
		if l.fences != nil { // it may be over in some of the locks only: others get the rest now
			l.client.forget(l.ctx, l.name, l.secret)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renewErr = err
	if err != nil {
		return err
	}
	if l.ctx.Err() != nil || l.client.left(l.deadline) <= 0 {
		return ErrLost // the proof had a gap: the lease expired before the answer arrived
	}
	if proved := provedUntil(sent, answer); proved.monotonic > l.deadline.monotonic { // answers may arrive out of order
		l.deadline, l.hold = proved, holdOver(answer)
		l.expiry.Reset(min(l.client.left(proved), watchEvery))
	}
	return nil
}

// sendRenewal makes one try of a renewal. sent is the time before it, from which the answer's remaining time counts.
func (l *Lease) sendRenewal(ctx context.Context, ttl time.Duration, metadata json.RawMessage) (sent reading, answer wire.Lease, err error) {
	sent = l.client.now()
	request := wire.RenewRequest{Lease: l.secret, TTL: ttl.Milliseconds(), Metadata: metadata}
	fences, err := l.client.sendRenew(ctx, l.name, request, &answer)
	if err == nil {
		err = checkGrant(answer, l.name, l.secret)
	}
	if err == nil {
		err = l.checkFences(answer.Fence, fences)
	}
	return sent, answer, err
}

// keepRenewing renews the lease at every heartbeat, and more often after a failure, until the lease's context ends. If the grant's
// answer was slow, less of the lease's life is left, and the first renewal is sooner.
func (l *Lease) keepRenewing() {
	defer close(l.renews)
	report := renewalReport{lease: l}
	life := l.left()
	timer := time.NewTimer(min(l.heartbeat, time.Duration(float64(life)*float64(l.heartbeat)/float64(l.ttl))))
	defer timer.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-timer.C:
		}
		ctx, cancel := context.WithTimeout(l.ctx, max(min(l.heartbeat, l.left()/2), l.ttl/12)) // a try that hangs leaves time for others
		pause := l.heartbeat
		if l.renew(ctx, nil, report.failed) != nil {
			pause = min(l.heartbeat, l.ttl/12)
		} else {
			report.succeeded()
		}
		cancel()
		timer.Reset(pause)
	}
}

// left returns for how long the lease is still proved to be held.
func (l *Lease) left() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.client.left(l.deadline)
}

// A renewalReport calls Options.OnRenewal when renewals begin to fail and when they succeed again.
type renewalReport struct {
	lease   *Lease
	failing bool
}

func (r *renewalReport) failed(err error) {
	if r.lease.ctx.Err() == nil && !errors.Is(err, ErrLost) { // its release and its loss are not reported
		r.report(true, err)
	}
}

func (r *renewalReport) succeeded() { r.report(false, nil) }

func (r *renewalReport) report(failing bool, err error) {
	if r.failing == failing {
		return
	}
	r.failing = failing
	if r.lease.onRenewal != nil {
		r.lease.onRenewal(err, r.lease.ExpiresAt())
	}
}

// Release releases the lock. The lease's context ends, with the cause [ErrReleased], before the request is sent. The error matches
// [ErrLost] if the lease had been lost before, and [ErrUnavailable] if the coordinator did not answer. A second Release returns the
// result of the first. If ctx ends before there is an answer, the request is sent once more in the background, for up to 5 s.
//
// Before [Options.MinHold] has passed, Release leaves the lock held. It makes sure that the lease lasts until then, with a renewal if
// necessary, and returns; the client releases the lock in the background at that time. Two cases have no background: after
// [Client.Close] and in a Lambda invocation, the lease instead expires by itself, when both MinHold and its TTL have passed.
func (l *Lease) Release(ctx context.Context) error { return l.releaseOnce(ctx, nil) }

// releaseOnce is Release. After an error it tries again for as long as more, if not nil, returns true.
func (l *Lease) releaseOnce(ctx context.Context, more func(error) bool) error {
	l.mu.Lock()
	first := l.released == nil
	if first {
		l.released = make(chan struct{})
	}
	l.mu.Unlock()
	if first {
		l.result = l.release(ctx, more)
		close(l.released)
		return l.result
	}
	select {
	case <-l.released:
		return l.result
	case <-ctx.Done():
		return &OpError{ErrRelease, l.name, ctx.Err()}
	}
}

func (l *Lease) release(ctx context.Context, more func(error) bool) error {
	was := l.Err()
	if was != nil { // also if its time ran out, and no timer has noticed it
		l.observed.ended(was)
	}
	l.stop(ErrReleased)
	ctx = l.observed.under(ctx)
	<-l.renews
	if rest := l.minHold - l.client.now().sub(l.held); was == nil && rest > 0 {
		return l.releaseLater(ctx, rest)
	}
	err := l.client.releaseSecret(ctx, l.name, l.secret, more)
	if was != nil {
		err = ErrLost // the request was sent so that others get the lock sooner
	}
	if err != nil {
		if ctx.Err() != nil && was == nil && !l.client.isClosed() { // Close ends with its context
			l.client.forget(ctx, l.name, l.secret)
		}
		return &OpError{ErrRelease, l.name, err}
	}
	return nil
}

// releaseLater keeps the lock held for rest, and then releases it in the background.
func (l *Lease) releaseLater(ctx context.Context, rest time.Duration) error {
	if l.left() < rest {
		ttl := max(rest+time.Millisecond, wire.MinTTL) // rest is truncated to whole milliseconds
		err := l.client.retry(ctx, func() error {
			_, _, err := l.sendRenewal(ctx, ttl, nil)
			return err
		})
		if err != nil {
			return &OpError{ErrRelease, l.name, fmt.Errorf("it is not certain that the lock stays held for Options.MinHold: %w", err)}
		}
	}
	c := l.client
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isClosed() && invocationOf(ctx) == nil {
		c.work.Go(func() {
			if sleep(c.life, rest) != nil {
				return
			}
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastRelease)
			defer cancel()
			_ = c.releaseSecret(ctx, l.name, l.secret, nil)
		})
	}
	return nil
}
