package lockclient

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
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
	if err := l.renew(ctx); err != nil {
		return &OpError{ErrRenew, l.name, err}
	}
	return nil
}

func (l *Lease) renew(ctx context.Context) error {
	if err := l.Err(); err != nil {
		return ErrLost
	}
	var answer wire.Lease
	var sent reading
	err := l.client.retry(ctx, func() error {
		sent = l.client.now()
		return l.client.send(ctx, opRenew, l.name, wire.RenewRequest{Lease: l.secret, TTL: l.ttl.Milliseconds()}, &answer)
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

// keepRenewing renews at each heartbeat, and more often when that fails, until the lease's context ends. A lease whose grant
// was long in coming has less of its life left, and is renewed sooner.
func (l *Lease) keepRenewing() {
	defer close(l.renews)
	l.mu.Lock()
	life := l.client.left(l.deadline)
	l.mu.Unlock()
	timer := time.NewTimer(min(l.heartbeat, time.Duration(float64(life)*float64(l.heartbeat)/float64(l.ttl))))
	defer timer.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-timer.C:
		}
		ctx, cancel := context.WithTimeout(l.ctx, max(l.heartbeat, l.ttl/12)) // a try that hangs must leave time for others
		pause := l.heartbeat
		if l.renew(ctx) != nil {
			pause = min(l.heartbeat, l.ttl/12)
		}
		cancel()
		timer.Reset(pause)
	}
}

// Release gives the lock back. From the call on the client does not believe in the lease: its context ends before the
// request is sent. A lease that was lost before is an [ErrLost]; a second Release has the first one's result. If ctx ends
// before there is an answer, the request is sent once more, in the background, for up to 5 s.
func (l *Lease) Release(ctx context.Context) error {
	l.mu.Lock()
	first := l.released == nil
	if first {
		l.released = make(chan struct{})
	}
	l.mu.Unlock()
	if first {
		l.result = l.release(ctx)
		close(l.released)
	}
	select {
	case <-l.released:
		return l.result
	case <-ctx.Done():
		return &OpError{ErrRelease, l.name, ctx.Err()}
	}
}

func (l *Lease) release(ctx context.Context) error {
	was := l.Err()
	l.stop(ErrReleased)
	<-l.renews
	err := l.client.releaseSecret(ctx, l.name, l.secret)
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
