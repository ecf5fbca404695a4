package lockclient

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/holdfast-lock/holdfast/internal/chance"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

const (
	keepPlace   = 20 * time.Second // the coordinator keeps a place in the queue for this long after the last poll
	lastRelease = 5 * time.Second  // the time limit of a release in the background
)

// Acquire acquires the lock. While others hold it, Acquire waits in the lock's queue until ctx ends or Options.Wait has passed.
//
// The error is an [*OpError] with one of these kinds: a [*HeldError] if others still held the lock at the last answer; an
// [ErrUnavailable], joined with ctx's error, if the coordinator did not answer until the end of the wait (Acquire retries until
// then: see Options.OnUnavailable); an [ErrRefused] if no retry can help. A lock that is in use with another capacity, or whose
// record is full, is waited for too; if it still is at the end of the wait, the error is an [ErrRefused] with the code
// capacity_mismatch or lock_full. A grant whose answer was lost is released in the background as far as the coordinator can be
// reached; otherwise it expires.
func (c *Client) Acquire(ctx context.Context, name string, opts Options) (*Lease, error) {
	return c.acquire(ctx, name, opts, true)
}

// TryAcquire acquires the lock if it is free now. If it is not, the error is a [*HeldError]. TryAcquire does not join the queue,
// and ignores Options.Wait. It retries a request without an answer Config.Retries times; then the error is an [ErrUnavailable], and
// a grant whose answer was lost is released in the background as far as the coordinator can be reached, or expires.
func (c *Client) TryAcquire(ctx context.Context, name string, opts Options) (*Lease, error) {
	return c.acquire(ctx, name, opts, false)
}

func (c *Client) acquire(ctx context.Context, name string, opts Options, wait bool) (*Lease, error) {
	return c.acquireAs(ctx, acquisition{client: c, name: name, opts: opts, wait: wait})
}

func (c *Client) acquireAs(ctx context.Context, a acquisition) (*Lease, error) {
	c.mu.Lock() // Close refuses this acquisition, or waits for it
	closed := c.isClosed()
	if !closed {
		c.work.Add(1)
	}
	c.mu.Unlock()
	if closed {
		return nil, &OpError{ErrAcquire, a.name, ErrClosed}
	}
	defer c.work.Done()
	a.observed = c.telemetry.acquiring(ctx, a.name, a.opts)
	lease, err := a.run(ctx)
	if c.isClosed() && err != nil {
		err = ErrClosed
	}
	a.observed.done(lease, err)
	if err != nil {
		return nil, &OpError{ErrAcquire, a.name, err}
	}
	return lease, nil
}

// An acquisition is one call of Acquire or TryAcquire. All its requests carry the same secret. So the coordinator answers a retry
// with the grant whose answer was lost. Only after an answer that the secret's lease has ended does the acquisition take a new one.
type acquisition struct {
	client *Client
	name   string
	set    []wire.SetLock // of a set of locks; its name is then all names
	opts   Options
	wait   bool
	inv    *invocation // the lease lasts until the end of this invocation; nil: it lasts for its TTL

	request   wire.AcquireRequest
	observed  *acquireSpan
	tickets   []int64          // of a set: those of the last answer
	fences    map[string]int64 // of a set that was granted
	pace      pace
	wake      chan struct{}    // has an element when the client has released the lock
	sent      time.Time        // of the last try
	notified  *notifiedWait    // nil: it polls
	onlyPolls bool             // it polls to the end, although the client has a Notifier
	owners    map[int64]string // of the holders of the last answer, by fencing token
	polling   int64            // wait_ms of its polls
	unsure    bool             // there may be a grant, or a place in the queue, that has to be released when giving up
	failures  int              // the number of tries without an answer since the last answer
}

func (a *acquisition) run(ctx context.Context) (*Lease, error) {
	if err := a.prepare(ctx); err != nil {
		return nil, err
	}
	waitCtx, cancel := context.WithCancel(a.observed.within(ctx))
	defer cancel()
	defer context.AfterFunc(a.client.life, cancel)()
	if a.wait && a.opts.Wait > 0 {
		var cancel context.CancelFunc
		waitCtx, cancel = context.WithTimeout(waitCtx, a.opts.Wait)
		defer cancel()
	}
	defer a.stopListening()
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
	if problem := wire.CheckName(a.name); problem != "" && a.set == nil {
		return refused("name", "name %s", problem)
	}
	inv, defaultTTL := invocationOf(ctx), false
	switch {
	case a.opts.TTL != 0:
	case inv != nil:
		a.inv = inv
	default:
		a.opts.TTL, defaultTTL = wire.DefaultTTL, true
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
		Capacity: int64(a.opts.Capacity), Permits: int64(a.opts.Permits), Mode: wire.Mode(a.opts.Mode),
		Traceparent: a.observed.traceparent(),
	}
	if defaultTTL { // the coordinator has the same, and a shorter one where a limit says so
		a.request.TTL = 0
	}
	if a.wait {
		place := min(max(keepPlace, 3*a.client.pollDelay), wire.MaxWait)
		a.request.Wait = place.Milliseconds()
		a.pace, a.wake = pace{delay: a.client.pollDelay, place: place}, make(chan struct{}, 1)
		a.onlyPolls = a.client.notifiedWaits.notifier == nil || a.set != nil
	}
	return nil
}

// loop tries until there is a grant, an error that ends the acquisition, or no time left. Then the error is that of the last try
// that had an answer, or else of the last try.
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
		if a.rest(ctx, err, pause) != nil {
			return nil, last
		}
	}
}

// after decides what follows a failed try: another try after a pause, or the end. tries is the number of tries before it.
func (a *acquisition) after(err error, tries int) (pause time.Duration, again bool) {
	c := a.client
	held, isHeld := errors.AsType[*HeldError](err)
	down, isDown := errors.AsType[*unavailable](err)
	switch {
	case isHeld:
		a.failures = 0
		a.nameHolders(held)
		a.observed.held(held)
		a.unsure = a.unsure || held.Position > 0 // the place has to be left when giving up
		a.request.Ticket, a.tickets = held.ticket, held.tickets
		if !a.wait {
			return 0, false
		}
		if a.opts.OnWait != nil {
			a.opts.OnWait(held)
		}
		if held.Position == 0 { // the queue is full
			return min(c.backoff(tries, 0), held.RetryAfter+chance.N(herdSpread)), true
		}
		return a.pace.next(time.Now(), held), true
	case isDown:
		a.unsure = true
		a.observed.noAnswer(err)
		if !a.mayFail() {
			return 0, false
		}
		if a.opts.OnUnavailable != nil {
			a.opts.OnUnavailable(err)
		}
		return c.backoff(a.failures-1, down.after), true
	case errors.Is(err, ErrLost): // the lease was granted, and ended before its answer arrived
		if a.set != nil { // it may be over in some of the locks only
			c.forget(a.client.life, a.name, a.request.Lease)
		}
		a.request.Lease, a.request.Ticket, a.tickets, a.unsure = rand.Text(), 0, nil, false
		a.observed.newLease()
		if !a.mayFail() {
			return 0, false
		}
		return c.backoff(a.failures-1, 0), true
	case a.wait && (isRefusedFor(err, wire.LockFull) || a.opts.Mode == "" && isRefusedFor(err, wire.CapacityMismatch)): // they pass when others release the lock
		a.failures = 0
		return c.backoff(tries, 0), true
	}
	return 0, false
}

// nameHolders adds the owners that an earlier answer named: the answer to a poll names none of the holders of a semaphore.
func (a *acquisition) nameHolders(held *HeldError) {
	owners := make(map[int64]string, len(held.Holders))
	for i, h := range held.Holders {
		if h.Owner == "" {
			held.Holders[i].Owner = a.owners[h.Fence]
		}
		owners[h.Fence] = held.Holders[i].Owner
	}
	a.owners = owners
}

// mayFail counts a try that led to nothing, and reports whether another may follow. An acquisition that waits is limited by its
// time only.
func (a *acquisition) mayFail() bool {
	a.failures++
	return a.wait || a.failures <= a.client.retries
}

// pause waits for d, or until this client releases the lock. It returns ctx's error if ctx has ended.
func (a *acquisition) pause(ctx context.Context, d time.Duration) error {
	if !a.wait {
		return sleep(ctx, d)
	}
	a.client.await(a, true)
	defer a.client.await(a, false)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-a.wake:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// await adds an acquisition to those that a release wakes, or removes it.
func (c *Client) await(a *acquisition, waits bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := slices.DeleteFunc(c.waiting[a.name], func(other *acquisition) bool { return other == a })
	if waits {
		list = append(list, a)
	}
	if c.waiting[a.name] = list; len(list) == 0 {
		delete(c.waiting, a.name)
	}
}

// wakeNext wakes this client's first waiter for a lock that it has released: the release may have granted the lock to it.
func (c *Client) wakeNext(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var next *acquisition
	for _, a := range c.waiting[name] {
		if a.request.Ticket > 0 && (next == nil || a.request.Ticket < next.request.Ticket) {
			next = a
		}
	}
	if next != nil {
		select {
		case next.wake <- struct{}{}:
		default: // it is awake
		}
	}
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
	if a.inv != nil { // its remaining time has become shorter
		a.opts.TTL, a.opts.ManualRenew = a.inv.ttl(), true
		a.request.TTL = a.opts.TTL.Milliseconds()
	}
	var answer wire.Lease
	sent, err := a.send(ctx, &answer)
	if a.notNotifiedHere(err) {
		a.pollHere(err)
		sent, err = a.send(ctx, &answer)
	}
	if a.observed.refusedTraceparent(err) {
		a.request.Traceparent = ""
		sent, err = a.send(ctx, &answer)
	}
	if err != nil {
		return nil, err
	}
	a.unsure = true // until keep has made a Lease of it
	if err := checkGrant(answer, a.name, a.request.Lease); err != nil {
		return nil, err
	}
	lease, err := a.client.keep(caller, a.name, a.request.Lease, a.opts, sent, answer, a.fences)
	if err == nil {
		a.unsure = false
	}
	return lease, err
}

func (a *acquisition) send(ctx context.Context, answer *wire.Lease) (sent reading, err error) {
	sent, a.sent = a.client.now(), time.Now()
	a.observed.sent()
	if a.set != nil {
		a.fences, err = a.sendSet(ctx, answer)
		return sent, err
	}
	return sent, a.client.send(ctx, wire.OpAcquire, a.name, a.request, answer)
}

// checkGrant returns an error if an answer is not the lease that was asked for.
func checkGrant(answer wire.Lease, name, secret string) error {
	if answer.Lock != name || answer.Lease != secret || answer.Fence < 1 || answer.TTL < 1 {
		return notCoordinator(http.StatusOK, "an answer that is not a lease of this lock")
	}
	return nil
}

// forget releases a lease that nobody uses, as far as the coordinator can be reached. It does so in the background, so that a caller
// who gives up is not kept. It does so at once in a Lambda invocation, where nothing runs in the background after the handler, and
// on a closed client, since Close waits for it.
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

// Release releases a lease by its secret (see [Lease.Secret]), for a process that has no [Lease] of it. A repetition succeeds while
// the coordinator remembers the lease. The error matches [ErrLost] if the lease ended otherwise.
func (c *Client) Release(ctx context.Context, name, secret string) error {
	if err := checkSecret(name, secret); err != nil {
		return &OpError{ErrRelease, name, err}
	}
	if err := c.releaseSecret(ctx, name, secret, nil); err != nil {
		return &OpError{ErrRelease, name, err}
	}
	return nil
}

// releaseSecret releases a lease. After an error it tries again for as long as more, if not nil, returns true.
func (c *Client) releaseSecret(ctx context.Context, name, secret string, more func(error) bool) (err error) {
	ctx, observed := c.telemetry.operation(ctx, spanRelease, name)
	defer func() { observed.done(err) }()
	n := 0
	send := func() error {
		n++
		err := c.sendRelease(ctx, name, secret)
		observed.tried(err)
		return err
	}
	err = c.retry(ctx, send)
	for err != nil && more != nil && more(err) {
		err = c.retry(ctx, send)
	}
	switch {
	case errors.Is(err, ErrLost) && n > 1:
		return nil // a retry: an earlier try released it
	case err != nil:
		return err
	}
	c.wakeNext(name)
	return nil
}

// Downgrade makes a reader's lease of a writer's (see [Options].Mode): other readers are granted the lock now, and the lease goes on, with its fencing
// token and its renewals. There is no other way: a reader that needs to write releases the lock and acquires it anew, and what it read may then
// have changed. Repeated, it changes nothing. The error matches [ErrRelease]; a lease that was not acquired with a Mode is refused, and
// [ErrLost] says that the lease is over.
func (l *Lease) Downgrade(ctx context.Context) error {
	if err := l.Err(); err != nil {
		return &OpError{ErrRelease, l.name, err}
	}
	return l.client.Downgrade(ctx, l.name, l.secret)
}

// Downgrade makes a reader's lease of a writer's by its secret, for a process that has no [Lease] of it; compare [Lease.Downgrade].
func (c *Client) Downgrade(ctx context.Context, name, secret string) error {
	err := checkSecret(name, secret)
	ctx, observed := c.telemetry.operation(ctx, spanDowngrade, name)
	defer func() { observed.done(err) }()
	if err == nil {
		var answer wire.Released
		err = c.retry(ctx, func() error {
			return c.send(ctx, wire.OpRelease, name, wire.ReleaseRequest{Lease: secret, Mode: wire.ModeRead}, &answer)
		})
		if err == nil {
			err = checkLock(answer.Lock, name)
		}
	}
	if err != nil {
		return &OpError{ErrRelease, name, err}
	}
	c.wakeNext(name)
	return nil
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

// Adopt makes a [Lease] of a lease that another process acquired and handed over by its secret. It renews the lease at once, by
// Options.TTL or else by the lease's TTL, and renews it in the background from then on. It uses only the options TTL, Heartbeat,
// ManualRenew, Metadata and OnRenewal. The error matches [ErrLost] if the lease has ended.
//
// Two processes that have the same lease hold it together: each learns only at its next renewal that the other released it.
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
	sendCtx, observed := c.telemetry.operation(ctx, spanAdopt, name)
	err = c.retry(sendCtx, func() error {
		sent = c.now()
		return c.send(sendCtx, wire.OpRenew, name, wire.RenewRequest{Lease: secret, TTL: opts.TTL.Milliseconds(), Metadata: metadata}, &answer)
	})
	observed.done(err)
	if err != nil {
		return nil, err
	}
	if err := checkGrant(answer, name, secret); err != nil {
		return nil, err
	}
	return c.keep(ctx, name, secret, opts, sent, answer, nil)
}

func (c *Client) isClosed() bool { return c.life.Err() != nil }
