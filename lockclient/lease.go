package lockclient

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// rateMargin is the part of a lease's life that the client gives up for the difference in rate between its clock and the
// coordinator's: 1/1000, twice the 500 ppm by which NTP may slew one.
const rateMargin = 1000

// A Lease is a lock that is held. It is safe for use by any number of goroutines.
type Lease struct {
	client *Client
	name   string
	secret string
	ttl    time.Duration
	fence  int64
	ctx    context.Context
	end    context.CancelCauseFunc
	unbind func() bool   // from its invocation
	renews chan struct{} // closed when the background renewal has ended

	heartbeat time.Duration
	held      reading       // when the grant was heard of
	minHold   time.Duration // counted from then
	onRenewal func(error, time.Time)

	mu       sync.Mutex
	deadline reading // until when the lease is proved
	renewErr error   // of the last renewal, if it failed
	expiry   *time.Timer
	released chan struct{} // made by the first Release, closed when it has its answer
	result   error
}

// keep makes a lease of a grant, and starts to look after it. In a Lambda invocation the lease ends with ctx, so that
// nothing of it runs on in an environment that is frozen and thawed.
func (c *Client) keep(ctx context.Context, name, secret string, opts Options, sent reading, answer wire.Lease) (*Lease, error) {
	ttl := time.Duration(answer.TTL) * time.Millisecond
	heartbeat := cmp.Or(opts.Heartbeat, ttl/3)
	if heartbeat >= ttl { // of an adopted lease, whose TTL is shorter than was thought
		heartbeat = ttl / 3
	}
	l := &Lease{
		client: c, name: name, secret: secret, ttl: ttl, heartbeat: heartbeat, fence: answer.Fence,
		renews: make(chan struct{}), unbind: func() bool { return true },
		held: c.now(), minHold: opts.MinHold, onRenewal: opts.OnRenewal,
	}
	l.mu.Lock() // against watch, which may run as soon as there is a timer
	defer l.mu.Unlock()
	l.deadline = provedUntil(sent, answer)
	if c.left(l.deadline) <= 0 {
		return nil, ErrLost // the answer took longer than the lease lasts
	}
	l.ctx, l.end = context.WithCancelCause(context.WithValue(context.WithoutCancel(ctx), leaseKey{}, l))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isClosed() {
		return nil, ErrClosed
	}
	c.leases[l] = true
	l.expiry = time.AfterFunc(min(c.left(l.deadline), watchEvery), l.watch)
	if invocationOf(ctx) != nil {
		l.unbind = context.AfterFunc(ctx, func() { l.stop(l.lost("its invocation is over")) })
	}
	if opts.ManualRenew {
		close(l.renews)
	} else {
		c.work.Go(l.keepRenewing)
	}
	return l, nil
}

// watchEvery is how often a lease looks at its clocks. Its timers run on the monotonic one, which may have stood still; so
// after a thaw a lease that is over ends within this time, and Err says so at once.
const watchEvery = time.Second

func provedUntil(sent reading, answer wire.Lease) reading {
	remaining := time.Duration(answer.Remaining) * time.Millisecond
	return sent.add(remaining - remaining/rateMargin)
}

// String names the lease without its secret.
func (l *Lease) String() string { return fmt.Sprintf("lease of %s, fence %d", l.name, l.fence) }

// Format is String with every verb: a lease printed in any way keeps its secret.
func (l *Lease) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, l.String()) }

// Name is the lock's.
func (l *Lease) Name() string { return l.name }

// Fence is the fencing token of this grant: higher than that of every grant of this lock before it, below 2^53.
func (l *Lease) Fence() int64 { return l.fence }

// Secret is what the coordinator knows the lease by. Whoever has it can renew and release the lease: hand it to another
// process only (see [Client.Adopt]), and keep it out of logs and command lines.
func (l *Lease) Secret() string { return l.secret }

// Context ends when the lease is released ([ErrReleased]), is lost, or can no longer be proved ([ErrLost]): see
// context.Cause. It has the values of Acquire's context, but ends with it only within a Lambda invocation. That somebody forced the lock free is
// heard at the next renewal, within a third of the TTL.
func (l *Lease) Context() context.Context { return l.ctx }

// ExpiresAt is when the lease ends, as far as the client can prove, unless it is renewed.
func (l *Lease) ExpiresAt() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deadline.wall
}

// Remaining is how long the lease is still proved, unless it is renewed, by the client's monotonic clock and by its wall clock,
// whichever says less. It is 0 when the lease is over.
func (l *Lease) Remaining() time.Duration {
	if l.Err() != nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(l.client.left(l.deadline), 0)
}

// Err is nil while the lease is proved to be held, and else says why not. Unlike the context, it looks at the clock: it
// is right even at the first instruction after the process was paused.
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

// ranOut is the loss of a lease whose time is over without anyone saying so.
func (l *Lease) ranOut() error {
	l.mu.Lock()
	last := l.renewErr
	l.mu.Unlock()
	if last == nil {
		return l.lost("its time ran out")
	}
	return &OpError{ErrRenew, l.name, fmt.Errorf("%w: not renewed in time: %w", ErrLost, last)}
}

func (l *Lease) lost(why string) error {
	return &OpError{ErrRenew, l.name, fmt.Errorf("%w: %s", ErrLost, why)}
}

// watch ends a lease whose time is over, or looks again later.
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

// stop makes the client stop believing in the lease.
func (l *Lease) stop(cause error) {
	l.end(cause)
	l.mu.Lock()
	l.expiry.Stop()
	unbind := l.unbind
	l.mu.Unlock()
	unbind()
	l.client.mu.Lock()
	delete(l.client.leases, l)
	l.client.mu.Unlock()
}

// Renew extends the lease by its TTL from now. In the background this happens by itself at a third of it.
func (l *Lease) Renew(ctx context.Context) error {
	if err := l.renew(ctx, nil, nil); err != nil {
		return &OpError{ErrRenew, l.name, err}
	}
	return nil
}

// SetMetadata renews the lease, and replaces what is told to others while the lock is held: by anything that encodes to a
// JSON object of at most 2,048 bytes; nil is the empty object. Its errors are [ErrRenew]s.
func (l *Lease) SetMetadata(ctx context.Context, metadata any) error {
	if metadata == nil {
		metadata = struct{}{}
	}
	encoded, err := encodeMetadata(metadata)
	if err == nil {
		err = l.renew(ctx, encoded, nil)
	}
	if err != nil {
		return &OpError{ErrRenew, l.name, err}
	}
	return nil
}

// renew renews the lease; failed, if given, is told of each try that failed.
func (l *Lease) renew(ctx context.Context, metadata json.RawMessage, failed func(error)) error {
	if err := l.Err(); err != nil {
		return ErrLost
	}
	var answer wire.Lease
	var sent reading
	err := l.client.retry(ctx, func() (err error) {
		sent, answer, err = l.sendRenewal(ctx, l.ttl, metadata)
		if err != nil && failed != nil {
			failed(err)
		}
		return err
	})
	if errors.Is(err, ErrLost) {
		err = fmt.Errorf("%w: the coordinator says that it expired, was released or was forced out", ErrLost)
		l.stop(&OpError{ErrRenew, l.name, err})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renewErr = err
	if err != nil {
		return err
	}
	if l.ctx.Err() != nil || l.client.left(l.deadline) <= 0 {
		return ErrLost // the answer came too late to be believed without a gap
	}
	if proved := provedUntil(sent, answer); proved.monotonic > l.deadline.monotonic { // a later proof
		l.deadline = proved
		l.expiry.Reset(min(l.client.left(proved), watchEvery))
	}
	return nil
}

// sendRenewal makes one try of a renewal. Its answer counts from sent, which is read before the request goes out.
func (l *Lease) sendRenewal(ctx context.Context, ttl time.Duration, metadata json.RawMessage) (sent reading, answer wire.Lease, err error) {
	sent = l.client.now()
	request := wire.RenewRequest{Lease: l.secret, TTL: ttl.Milliseconds(), Metadata: metadata}
	if err = l.client.send(ctx, wire.OpRenew, l.name, request, &answer); err == nil {
		err = checkGrant(answer, l.name, l.secret)
	}
	if err == nil && answer.Fence != l.fence {
		err = notCoordinator(http.StatusOK, "an answer with another fence than this lease's")
	}
	return sent, answer, err
}

// keepRenewing renews at each heartbeat, and more often when that fails, until the lease's context ends. A lease whose grant
// was long in coming has less of its life left, and is renewed sooner.
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
		ctx, cancel := context.WithTimeout(l.ctx, max(min(l.heartbeat, l.left()/2), l.ttl/12)) // a try that hangs must leave time for others
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

// left is how long the lease is proved.
func (l *Lease) left() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.client.left(l.deadline)
}

// A renewalReport tells Options.OnRenewal when renewals begin to fail, and when they succeed again.
type renewalReport struct {
	lease   *Lease
	failing bool
}

func (r *renewalReport) failed(err error) {
	if r.lease.ctx.Err() == nil && !errors.Is(err, ErrLost) { // neither its release nor its loss
		r.tell(true, err)
	}
}

func (r *renewalReport) succeeded() { r.tell(false, nil) }

func (r *renewalReport) tell(failing bool, err error) {
	if r.failing == failing {
		return
	}
	r.failing = failing
	if r.lease.onRenewal != nil {
		r.lease.onRenewal(err, r.lease.ExpiresAt())
	}
}

// Release gives the lock back. From the call on the client does not believe in the lease: its context ends before the
// request is sent. A lease that was lost before is an [ErrLost]; a second Release has the first one's result. If ctx ends
// before there is an answer, the request is sent once more, in the background, for up to 5 s.
//
// Before [Options.MinHold] has passed, Release leaves the lock held: it sees that the lease lasts until then, with a renewal
// if need be, and returns; the client releases it in the background when the time has come. After [Client.Close], and in a
// Lambda invocation, nothing does: the lease then expires by itself, when both MinHold and what was left of the TTL are over.
func (l *Lease) Release(ctx context.Context) error { return l.releaseOnce(ctx, nil) }

// releaseOnce is Release; more, if given, tells whether to go on after an error in spite of all retries.
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
	l.stop(ErrReleased)
	<-l.renews
	if rest := l.minHold - l.client.now().sub(l.held); was == nil && rest > 0 {
		return l.releaseLater(ctx, rest)
	}
	err := l.client.releaseSecret(ctx, l.name, l.secret, more)
	if was != nil {
		err = ErrLost // we had lost it; what was sent only helps others to it sooner
	}
	if err != nil {
		if ctx.Err() != nil && was == nil && !l.client.isClosed() { // Close does not outlast its context
			l.client.forget(ctx, l.name, l.secret)
		}
		return &OpError{ErrRelease, l.name, err}
	}
	return nil
}

// releaseLater keeps the lock for the rest of its least time.
func (l *Lease) releaseLater(ctx context.Context, rest time.Duration) error {
	if l.left() < rest {
		ttl := max(rest+time.Millisecond, wire.MinTTL) // whole milliseconds are sent
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
