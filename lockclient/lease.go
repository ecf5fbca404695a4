package lockclient

import (
	"context"
	"errors"
	"fmt"
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
	renews chan struct{} // closed when the background renewal has ended

	mu       sync.Mutex
	deadline time.Time // until when the lease is proved, on the monotonic clock
	renewErr error     // of the last renewal, if it failed
	expiry   *time.Timer
	released chan struct{} // made by the first Release, closed when it has its answer
	result   error
}

// keep makes a lease of a grant, and starts to look after it.
func (c *Client) keep(ctx context.Context, a *acquisition, sent time.Time, answer wire.Lease) (*Lease, error) {
	l := &Lease{client: c, name: a.name, secret: a.request.Lease, ttl: a.opts.TTL, fence: answer.Fence, renews: make(chan struct{})}
	l.mu.Lock() // against expire, which may run as soon as there is a timer
	defer l.mu.Unlock()
	l.deadline = provedUntil(sent, answer)
	if left(l.deadline) <= 0 {
		return nil, ErrLost // the answer took longer than the lease lasts
	}
	l.ctx, l.end = context.WithCancelCause(context.WithoutCancel(ctx))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	c.leases[l] = true
	l.expiry = time.AfterFunc(left(l.deadline), l.expire)
	if a.opts.ManualRenew {
		close(l.renews)
	} else {
		c.work.Go(l.keepRenewing)
	}
	return l, nil
}

func provedUntil(sent time.Time, answer wire.Lease) time.Time {
	remaining := time.Duration(answer.Remaining) * time.Millisecond
	return sent.Add(remaining - remaining/rateMargin)
}

// left is how long it is until a deadline, by the monotonic clock or by the wall clock, whichever says less: the monotonic
// one may stand still while a machine sleeps or a Lambda environment is frozen, and the wall clock may be set back.
func left(deadline time.Time) time.Duration {
	now := time.Now()
	return min(deadline.Sub(now), deadline.Round(0).Sub(now.Round(0)))
}

// String names the lease without its secret.
func (l *Lease) String() string { return fmt.Sprintf("lease of %s, fence %d", l.name, l.fence) }

// GoString is String: a lease printed in any way keeps its secret.
func (l *Lease) GoString() string { return l.String() }

// Name is the lock's.
func (l *Lease) Name() string { return l.name }

// Fence is the fencing token of this grant: higher than that of every grant of this lock before it, below 2^53.
func (l *Lease) Fence() int64 { return l.fence }

// Context ends when the lease is released ([ErrReleased]), is lost, or can no longer be proved ([ErrLost]): see
// context.Cause. It has the values of Acquire's context, but does not end with it. That somebody forced the lock free is
// heard at the next renewal, within a third of the TTL.
func (l *Lease) Context() context.Context { return l.ctx }

// ExpiresAt is when the lease ends, as far as the client can prove, unless it is renewed.
func (l *Lease) ExpiresAt() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deadline
}

// Err is nil while the lease is proved to be held, and else says why not. Unlike the context, it looks at the clock: it
// is right even at the first instruction after the process was paused.
func (l *Lease) Err() error {
	if err := context.Cause(l.ctx); err != nil {
		return err
	}
	if left(l.ExpiresAt()) <= 0 {
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
		return &OpError{ErrRenew, l.name, fmt.Errorf("%w: its time ran out", ErrLost)}
	}
	return &OpError{ErrRenew, l.name, fmt.Errorf("%w: not renewed in time: %w", ErrLost, last)}
}

// expire ends a lease whose time is over, or waits on if it was renewed.
func (l *Lease) expire() {
	l.mu.Lock()
	more := left(l.deadline)
	if more > 0 {
		l.expiry.Reset(more)
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
	l.mu.Unlock()
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
	var sent time.Time
	err := l.client.retry(ctx, func() error {
		sent = time.Now()
		return l.client.transport.send(ctx, http.MethodPost, l.name, "renew", wire.RenewRequest{Lease: l.secret, TTL: l.ttl.Milliseconds()}, &answer)
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
	if l.ctx.Err() != nil || left(l.deadline) <= 0 {
		return ErrLost // the answer came too late to be believed without a gap
	}
	if proved := provedUntil(sent, answer); proved.After(l.deadline) {
		l.deadline = proved
		l.expiry.Reset(left(proved))
	}
	return nil
}

// keepRenewing renews when a third of the lease's life is over, and more often when that fails, until the lease's context
// ends. A lease whose grant was long in coming has less of its life left, and is renewed sooner.
func (l *Lease) keepRenewing() {
	defer close(l.renews)
	timer := time.NewTimer(min(l.ttl, left(l.ExpiresAt())) / 3)
	defer timer.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-timer.C:
		}
		ctx, cancel := context.WithTimeout(l.ctx, l.ttl/3) // a try that hangs must leave time for others
		pause := l.ttl / 3
		if l.renew(ctx) != nil {
			pause = l.ttl / 12
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
	var answer wire.Released
	n := 0
	err := l.client.retry(ctx, func() error {
		n++
		return l.client.transport.send(ctx, http.MethodPost, l.name, "release", wire.ReleaseRequest{Lease: l.secret}, &answer)
	})
	switch {
	case was != nil:
		err = ErrLost // we had lost it; what was sent only helps others to it sooner
	case errors.Is(err, ErrLost) && n > 1:
		err = nil // a repeat: the first try was carried out
	}
	if err != nil {
		if ctx.Err() != nil && was == nil && !l.client.isClosed() { // Close does not outlast its context
			l.client.forget(ctx, l.name, l.secret)
		}
		return &OpError{ErrRelease, l.name, err}
	}
	return nil
}
