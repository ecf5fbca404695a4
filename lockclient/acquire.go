package lockclient

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

const (
	tries       = 3                      // of a request that brings no answer, where there is no longer wait
	firstDelay  = 100 * time.Millisecond // between tries; doubled up to maxDelay, each drawn from the upper half
	maxDelay    = 5 * time.Second
	herdSpread  = 50 * time.Millisecond // by which waiters spread when a lease expires
	lastRelease = 5 * time.Second       // what a release in the background may take
)

// Acquire takes the lock, waiting while others hold it: until ctx ends or Options.Wait is over, when the error is a
// [*HeldError], or ctx's. A coordinator that cannot be reached is tried for as long.
func (c *Client) Acquire(ctx context.Context, name string, opts Options) (*Lease, error) {
	return c.acquire(ctx, name, opts, true)
}

// TryAcquire takes the lock if it is free now; else the error is a [*HeldError]. Options.Wait does not count.
func (c *Client) TryAcquire(ctx context.Context, name string, opts Options) (*Lease, error) {
	return c.acquire(ctx, name, opts, false)
}

func (c *Client) acquire(ctx context.Context, name string, opts Options, wait bool) (*Lease, error) {
	a := acquisition{client: c, name: name, opts: opts, wait: wait}
	lease, err := a.run(ctx)
	if err != nil {
		return nil, &OpError{ErrAcquire, name, err}
	}
	return lease, nil
}

// acquisition is one Acquire or TryAcquire. All its requests carry one secret, so that a grant whose answer was lost is
// given again, until the coordinator says that this secret's lease is over.
type acquisition struct {
	client *Client
	name   string
	opts   Options
	wait   bool

	request wire.AcquireRequest
	unsure  bool // a try brought no answer, so there may be a grant we know nothing of
}

func (a *acquisition) run(ctx context.Context) (*Lease, error) {
	if err := a.prepare(); err != nil {
		return nil, err
	}
	waitCtx := ctx
	if a.wait && a.opts.Wait > 0 {
		var cancel context.CancelFunc
		waitCtx, cancel = context.WithTimeout(ctx, a.opts.Wait)
		defer cancel()
	}
	lease, err := a.loop(waitCtx)
	if err != nil && a.unsure {
		a.client.forget(ctx, a.name, a.request.Lease)
	}
	if ctx.Err() != nil && err != nil && !errors.Is(err, ctx.Err()) {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return lease, err
}

func (a *acquisition) prepare() error {
	if problem := wire.CheckName(a.name); problem != "" {
		return refused("name", "name %s", problem)
	}
	if err := a.opts.validate(); err != nil {
		return err
	}
	if a.opts.TTL == 0 {
		a.opts.TTL = wire.DefaultTTL
	}
	if a.opts.Owner == "" {
		a.opts.Owner = a.client.owner
	}
	a.request = wire.AcquireRequest{
		Lease: rand.Text(), Owner: a.opts.Owner, TTL: a.opts.TTL.Milliseconds(), Capacity: int64(a.opts.Capacity), Permits: int64(a.opts.Permits),
	}
	if a.opts.Metadata != nil {
		m, err := json.Marshal(a.opts.Metadata)
		if err != nil {
			return refused("metadata", "Options.Metadata: %v", err)
		}
		a.request.Metadata = m
	}
	return nil
}

// loop tries until there is a grant, a reason to give up, or no time left; then the error is that of the last try that
// had an answer.
func (a *acquisition) loop(ctx context.Context) (*Lease, error) {
	delay, failures := firstDelay, 0
	var last error
	for {
		lease, err := a.try(ctx)
		if err == nil {
			return lease, nil
		}
		held, isHeld := errors.AsType[*HeldError](err)
		down, isDown := errors.AsType[*unavailable](err)
		var pause time.Duration
		switch {
		case ctx.Err() != nil: // in the middle of the try
			a.unsure = true
			return nil, cmp.Or(last, err)
		case isHeld && a.wait: // polling slows down, but nobody sleeps past the holder's expiry
			failures = 0
			pause = min(jitter(delay), held.RetryAfter+mathrand.N(herdSpread))
		case isDown:
			a.unsure = true
			if failures++; !a.wait && failures == tries {
				return nil, err
			}
			pause = max(jitter(delay), min(down.after, maxDelay))
		case errors.Is(err, ErrLost): // a grant of ours that ended before we heard of it: start anew
			a.request.Lease, a.unsure = rand.Text(), false
			if failures++; !a.wait && failures == tries {
				return nil, err
			}
			pause = jitter(delay)
		default:
			return nil, err
		}
		last, delay = err, min(2*delay, maxDelay)
		if sleep(ctx, pause) != nil {
			return nil, last
		}
	}
}

// sleep waits, or answers ctx's error if that ends first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// try sends the request once.
func (a *acquisition) try(ctx context.Context) (*Lease, error) {
	if a.client.isClosed() {
		return nil, ErrClosed
	}
	var answer wire.Lease
	sent := time.Now()
	if err := a.client.transport.send(ctx, http.MethodPost, a.name, "acquire", a.request, &answer); err != nil {
		return nil, err
	}
	a.unsure = true // until somebody keeps it
	if answer.Lock != a.name || answer.Lease != a.request.Lease || answer.Fence < 1 {
		return nil, &RefusedError{Status: http.StatusOK, Detail: "the answer is not a grant of this lock; check Config.Endpoint"}
	}
	lease, err := a.client.keep(ctx, a, sent, answer)
	if err == nil {
		a.unsure = false
	}
	return lease, err
}

func jitter(d time.Duration) time.Duration { return d/2 + mathrand.N(d/2+1) }

// forget releases, as far as it can, a lease that nobody will use: in the background, so that a caller who gives up is
// not kept; on a closed client at once, since Close waits for what runs in the background.
func (c *Client) forget(ctx context.Context, name, lease string) {
	ctx = context.WithoutCancel(ctx)
	release := func() {
		ctx, cancel := context.WithTimeout(ctx, lastRelease)
		defer cancel()
		var answer wire.Released
		_ = c.retry(ctx, func() error {
			return c.transport.send(ctx, http.MethodPost, name, "release", wire.ReleaseRequest{Lease: lease}, &answer)
		})
	}
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.work.Go(release)
	}
	c.mu.Unlock()
	if closed {
		release()
	}
}

// retry sends a request again, a few times, while it brings no answer.
func (c *Client) retry(ctx context.Context, send func() error) error {
	delay := firstDelay
	for n := 1; ; n++ {
		err := send()
		down, again := errors.AsType[*unavailable](err)
		if !again || n == tries {
			return err
		}
		if err := sleep(ctx, max(jitter(delay), min(down.after, maxDelay))); err != nil {
			return err
		}
		delay *= 2
	}
}

func (c *Client) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}
