package lockclient

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

const (
	herdSpread  = 50 * time.Millisecond // by which waiters spread when a lease expires
	keepPlace   = 15 * time.Second      // how long a place in the queue is kept without a poll; polls are RetryDelay apart
	headDivisor = 4                     // how many times as often the head of the queue asks
	lastRelease = 5 * time.Second       // what a release in the background may take
)

// Acquire takes the lock, waiting in its queue while others hold it: until ctx ends or Options.Wait is over, when the error
// is a [*HeldError] if others held the lock at the last look. A coordinator that does not answer is tried for as long (see
// Options.OnUnavailable); then the error is an [ErrUnavailable] and ctx's. What no repetition can mend, such as a host name
// that does not exist, is an [ErrRefused] at once. A lock in use with another capacity, or whose record is full, is waited
// for as well; if it still is at the end, the error is an [ErrRefused] with the code capacity_mismatch or lock_full.
func (c *Client) Acquire(ctx context.Context, name string, opts Options) (*Lease, error) {
	return c.acquire(ctx, name, opts, true)
}

// TryAcquire takes the lock if it is free now; else the error is a [*HeldError]. It does not join the queue, and Options.Wait
// does not count. A request that brings no answer is sent again, Config.Retries times; then the error is an [ErrUnavailable],
// and a grant that was not heard of is released, as far as the coordinator can be reached, or expires.
func (c *Client) TryAcquire(ctx context.Context, name string, opts Options) (*Lease, error) {
	return c.acquire(ctx, name, opts, false)
}

func (c *Client) acquire(ctx context.Context, name string, opts Options, wait bool) (*Lease, error) {
	c.mu.Lock() // so that Close waits for all that it does not refuse
	closed := c.isClosed()
	if !closed {
		c.work.Add(1)
	}
	c.mu.Unlock()
	if closed {
		return nil, &OpError{ErrAcquire, name, ErrClosed}
	}
	defer c.work.Done()
	a := acquisition{client: c, name: name, opts: opts, wait: wait}
	lease, err := a.run(ctx)
	if c.isClosed() && err != nil {
		err = ErrClosed
	}
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
	inv    *invocation // whose life the lease gets; nil: the TTL's

	request  wire.AcquireRequest
	unsure   bool // a try brought no answer, so there may be a grant we know nothing of
	failures int  // tries that brought nothing since the last answer
}

func (a *acquisition) run(ctx context.Context) (*Lease, error) {
	if err := a.prepare(ctx); err != nil {
		return nil, err
	}
	waitCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(a.client.life, cancel)()
	if a.wait && a.opts.Wait > 0 {
		var cancel context.CancelFunc
		waitCtx, cancel = context.WithTimeout(waitCtx, a.opts.Wait)
		defer cancel()
	}
	lease, err := a.loop(waitCtx, ctx)
	if err != nil && a.unsure {
		a.client.forget(ctx, a.name, a.request.Lease)
	}
	if ctx.Err() != nil && err != nil && !errors.Is(err, ctx.Err()) {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return lease, err
}

func (a *acquisition) prepare(ctx context.Context) error {
	if problem := wire.CheckName(a.name); problem != "" {
		return refused("name", "name %s", problem)
	}
	inv := invocationOf(ctx)
	switch {
	case a.opts.TTL != 0:
	case inv != nil:
		a.inv = inv
	default:
		a.opts.TTL = wire.DefaultTTL
	}
	if err := a.opts.validate(); err != nil {
		return err
	}
	if a.opts.Owner == "" {
		a.opts.Owner = a.client.ownerIn(inv)
	}
	metadata, err := encodeMetadata(a.opts.Metadata)
	if err != nil {
		return err
	}
	a.request = wire.AcquireRequest{
		Lease: rand.Text(), Owner: a.opts.Owner, TTL: a.opts.TTL.Milliseconds(), Metadata: metadata,
		Capacity: int64(a.opts.Capacity), Permits: int64(a.opts.Permits),
	}
	if a.wait {
		a.request.Wait = min(max(keepPlace, 3*a.client.retryDelay), wire.MaxWait).Milliseconds()
	}
	return nil
}

// loop tries until there is a grant, a reason to give up, or no time left; then the error is that of the last try that
// had an answer, or else of the last one.
func (a *acquisition) loop(ctx, caller context.Context) (*Lease, error) {
	tries := 0
	var last error
	for {
		if ctx.Err() != nil { // before anything was sent
			return nil, cmp.Or(last, ctx.Err())
		}
		lease, err := a.try(ctx, caller)
		if err == nil {
			return lease, nil
		}
		if ctx.Err() != nil { // in the middle of the try
			a.unsure = true
			if isHeld(last) {
				err = last
			}
			return nil, err
		}
		pause, again := a.after(err, tries)
		if !again {
			return nil, err
		}
		last, tries = err, tries+1
		if sleep(ctx, pause) != nil {
			return nil, last
		}
	}
}

// after decides what follows a failed try: a pause and another, or the end. tries is how many there were before.
func (a *acquisition) after(err error, tries int) (pause time.Duration, again bool) {
	c := a.client
	held, isHeld := errors.AsType[*HeldError](err)
	down, isDown := errors.AsType[*unavailable](err)
	switch {
	case isHeld:
		a.failures = 0
		a.unsure = a.unsure || held.Position > 0 // a place to leave when giving up
		if !a.wait {
			return 0, false
		}
		if a.opts.OnWait != nil {
			a.opts.OnWait(held)
		}
		return a.pollPause(held, tries), true
	case isDown:
		a.unsure = true
		if !a.mayFail() {
			return 0, false
		}
		if a.opts.OnUnavailable != nil {
			a.opts.OnUnavailable(err)
		}
		return c.backoff(a.failures-1, down.after), true
	case errors.Is(err, ErrLost): // a grant of ours that ended before we heard of it: start anew
		a.request.Lease, a.unsure = rand.Text(), false
		if !a.mayFail() {
			return 0, false
		}
		return c.backoff(a.failures-1, 0), true
	case a.wait && isRefusedFor(err, wire.CapacityMismatch, wire.LockFull): // until others are gone
		a.failures = 0
		return c.backoff(tries, 0), true
	}
	return 0, false
}

// mayFail counts a try that brought nothing, and tells whether there may be another: one that waits has no other bound than
// its time.
func (a *acquisition) mayFail() bool {
	a.failures++
	return a.wait || a.failures <= a.client.retries
}

// pollPause is how long a waiter pauses. Polling slows down, but nobody sleeps past the holder's expiry; and the head of the
// queue asks more often, since every hand-off waits for that.
func (a *acquisition) pollPause(held *HeldError, tries int) time.Duration {
	pause := min(a.client.backoff(tries, 0), held.RetryAfter+mathrand.N(herdSpread))
	if held.Position == 1 {
		pause = min(pause, jitter(a.client.retryDelay/headDivisor))
	}
	return pause
}

func isHeld(err error) bool {
	_, ok := errors.AsType[*HeldError](err)
	return ok
}

func isRefusedFor(err error, codes ...wire.Code) bool {
	refused, ok := errors.AsType[*RefusedError](err)
	return ok && slices.Contains(codes, wire.Code(refused.Code))
}

// try sends the request once.
func (a *acquisition) try(ctx, caller context.Context) (*Lease, error) {
	if a.client.isClosed() {
		return nil, ErrClosed
	}
	if a.inv != nil { // less is left of it with every try
		a.opts.TTL, a.opts.ManualRenew = a.inv.ttl(), true
		a.request.TTL = a.opts.TTL.Milliseconds()
	}
	var answer wire.Lease
	sent := a.client.now()
	if err := a.client.send(ctx, wire.OpAcquire, a.name, a.request, &answer); err != nil {
		return nil, err
	}
	a.unsure = true // until somebody keeps it
	if err := checkGrant(answer, a.name, a.request.Lease); err != nil {
		return nil, err
	}
	lease, err := a.client.keep(caller, a.name, a.request.Lease, a.opts, sent, answer)
	if err == nil {
		a.unsure = false
	}
	return lease, err
}

// checkGrant sees that an answer is the lease that was asked for.
func checkGrant(answer wire.Lease, name, secret string) error {
	if answer.Lock != name || answer.Lease != secret || answer.Fence < 1 || answer.TTL < 1 {
		return notCoordinator(http.StatusOK, "an answer that is not a lease of this lock")
	}
	return nil
}

// forget releases, as far as it can, a lease that nobody will use: in the background, so that a caller who gives up is
// not kept; but at once within a Lambda invocation, where nothing runs in the background, and on a closed client, since
// Close waits for what does.
func (c *Client) forget(ctx context.Context, name, lease string) {
	inLambda := invocationOf(ctx) != nil
	most := budget(ctx, lastRelease)
	ctx = context.WithoutCancel(ctx)
	release := func() {
		ctx, cancel := context.WithTimeout(ctx, most)
		defer cancel()
		_ = c.releaseSecret(ctx, name, lease, nil)
	}
	c.mu.Lock()
	now := c.isClosed() || inLambda
	if !now {
		c.work.Go(release)
	}
	c.mu.Unlock()
	if now {
		release()
	}
}

// Release gives back a lease by its secret, as [Lease.Secret] told it, for whoever has no [Lease]: another process, say.
// Repeated, it succeeds again while the coordinator remembers the lease; one that is over otherwise is an [ErrLost].
func (c *Client) Release(ctx context.Context, name, secret string) error {
	if err := checkSecret(name, secret); err != nil {
		return &OpError{ErrRelease, name, err}
	}
	if err := c.releaseSecret(ctx, name, secret, nil); err != nil {
		return &OpError{ErrRelease, name, err}
	}
	return nil
}

// releaseSecret releases, and does so again after an error for as long as more, if given, says so.
func (c *Client) releaseSecret(ctx context.Context, name, secret string, more func(error) bool) error {
	var answer wire.Released
	n := 0
	send := func() error {
		n++
		return c.send(ctx, wire.OpRelease, name, wire.ReleaseRequest{Lease: secret}, &answer)
	}
	err := c.retry(ctx, send)
	for err != nil && more != nil && more(err) {
		err = c.retry(ctx, send)
	}
	switch {
	case errors.Is(err, ErrLost) && n > 1:
		return nil // a repeat: the first try was carried out
	case err != nil:
		return err
	}
	return checkLock(answer.Lock, name)
}

func checkSecret(name, secret string) error {
	if problem := wire.CheckName(name); problem != "" {
		return refused("name", "name %s", problem)
	}
	if problem := wire.CheckLease(secret); problem != "" {
		return refused("lease", "the lease secret %s", problem)
	}
	return nil
}

// Adopt makes a [Lease] of one that is held already, by its secret: one that another process acquired and handed over. It
// renews the lease, by Options.TTL or else its own TTL, and from then on looks after it. Of opts only TTL, Heartbeat,
// ManualRenew, Metadata and OnRenewal count. A lease that is over is an [ErrLost]. Two processes that hold one lease hold it
// together: neither knows that the other released it before its next renewal.
func (c *Client) Adopt(ctx context.Context, name, secret string, opts Options) (*Lease, error) {
	lease, err := c.adopt(ctx, name, secret, opts)
	if err != nil {
		return nil, &OpError{ErrRenew, name, err}
	}
	return lease, nil
}

func (c *Client) adopt(ctx context.Context, name, secret string, opts Options) (*Lease, error) {
	if err := checkSecret(name, secret); err != nil {
		return nil, err
	}
	if err := opts.validate(); err != nil {
		return nil, err
	}
	metadata, err := encodeMetadata(opts.Metadata)
	if err != nil {
		return nil, err
	}
	opts.MinHold = 0
	var answer wire.Lease
	var sent reading
	err = c.retry(ctx, func() error {
		sent = c.now()
		return c.send(ctx, wire.OpRenew, name, wire.RenewRequest{Lease: secret, TTL: opts.TTL.Milliseconds(), Metadata: metadata}, &answer)
	})
	if err != nil {
		return nil, err
	}
	if err := checkGrant(answer, name, secret); err != nil {
		return nil, err
	}
	return c.keep(ctx, name, secret, opts, sent, answer)
}

func (c *Client) isClosed() bool { return c.life.Err() != nil }
