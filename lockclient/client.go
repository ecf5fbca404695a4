package lockclient

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// Config is how a client reaches its coordinator. Only Endpoint or Transport is required.
type Config struct {
	// Endpoint is the coordinator's URL, up to where /v1/locks begins.
	Endpoint string
	// Region and Credentials sign requests (SigV4, service execute-api). With no Credentials requests go unsigned, as a
	// local coordinator takes them; an endpoint of API Gateway needs them. Region is taken from such an endpoint if empty.
	Region      string
	Credentials aws.CredentialsProvider
	// HTTPClient sends requests; nil: one of the client's own, which uses the environment's proxies for https only. Redirects
	// are not followed. Connections on which a try timed out are not used again if its Transport is an [http.Transport], or
	// has a method CloseIdleConnections that sees to it.
	HTTPClient *http.Client
	// Transport carries requests another way than over HTTP, in place of the four fields above: see packages invoke and
	// direct.
	Transport Transport

	// RequestTimeout bounds one try of a request. Zero: 5 s.
	RequestTimeout time.Duration
	// Retries is how often a request that brought no answer is sent again: the connection failed, the coordinator was
	// throttled or its store was away. Acquire goes on for as long as it may wait. Zero: 3. Negative: never.
	Retries int
	// RetryDelay is the longest pause between two tries, of a request that brought no answer and of an acquire while others
	// hold the lock alike. The first pause is a tenth of it, each further one twice the last, all drawn from their upper
	// halves, so that callers spread; whoever is next in a lock's queue pauses for a quarter of it at most. Zero: 1 s.
	RetryDelay time.Duration
	// Owner is told to others while this client holds a lock; Options can say another. Empty: host name and process id; in
	// a Lambda invocation the function's name and the request's id.
	Owner string
}

// validate returns an error that names a field that is wrong and says how to correct it.
func (c Config) validate() error {
	if c.Transport == nil {
		if err := c.validateHTTP(); err != nil {
			return err
		}
	}
	switch {
	case c.Transport != nil && (c.Endpoint != "" || c.HTTPClient != nil || c.Credentials != nil || c.Region != ""):
		return errors.New("lockclient: Config.Transport is given, and so is a field of HTTP's (Endpoint, Region, Credentials, HTTPClient); give one or the other")
	case c.RequestTimeout < 0:
		return fmt.Errorf("lockclient: Config.RequestTimeout is %v; give a time above 0, or 0 for 5 s", c.RequestTimeout)
	case c.RetryDelay < 0:
		return fmt.Errorf("lockclient: Config.RetryDelay is %v; give a time above 0, or 0 for 1 s", c.RetryDelay)
	}
	if problem := wire.CheckText(c.Owner, wire.MaxOwner, false); problem != "" {
		return fmt.Errorf("lockclient: Config.Owner %s", problem)
	}
	return nil
}

// Options say how a lock is taken. The zero value waits as long as the context lasts, with a TTL of 60 s.
type Options struct {
	// TTL is how long the lease lasts without a renewal, 1 s to as much as the deployment allows: 24 h unless it sets another,
	// 7 days at most. Zero: 60 s; but within a Lambda invocation what is left of the context, which Lambda ends with the
	// invocation, and about a second, and then nothing renews it: a function that was killed cannot hold a lock for longer
	// than it could have run.
	TTL time.Duration
	// Heartbeat is how often the lease is renewed in the background, less than the TTL. Zero: a third of the TTL.
	Heartbeat time.Duration
	// ManualRenew leaves renewing to the caller.
	ManualRenew bool

	// MinHold keeps the lock held for at least this long after the grant, however soon it is released: a short periodic
	// job then runs once a period, though the clocks of its hosts differ. See [Lease.Release].
	MinHold time.Duration

	// Wait is how long Acquire goes on trying while others hold the lock. Zero: as long as its context lasts.
	Wait time.Duration
	// OnWait, if set, is called each time that Acquire learns that others hold the lock, before it waits.
	OnWait func(*HeldError)
	// OnUnavailable, if set, is called each time that a try to acquire brought no answer and will be repeated, with an
	// [ErrUnavailable] that says why.
	OnUnavailable func(error)
	// OnRenewal, if set, is called when renewing the lease in the background begins to fail, with the reason and the time
	// until which the lease is proved all the same; and with nil when renewals succeed again. It is not called for the loss
	// of the lease, which ends its context. It must not block, since the next renewal waits for it.
	OnRenewal func(err error, proved time.Time)

	// Owner replaces Config.Owner.
	Owner string
	// Metadata is told to others while the lock is held: anything that encodes to a JSON object of at most 2,048 bytes.
	Metadata any
	// Capacity and Permits make the lock a semaphore: at most Capacity permits are held at a time, of which this takes
	// Permits. Zero: 1.
	Capacity, Permits int
}

func (o Options) validate() error {
	switch {
	case o.TTL < 0 || o.TTL > wire.MaxTTL || o.TTL%time.Millisecond != 0: // the least is the coordinator's to say
		return refused("TTL", "Options.TTL is %v; give %v to %v, in whole milliseconds", o.TTL, wire.MinTTL, wire.MaxTTL)
	case o.Heartbeat < 0 || o.TTL > 0 && o.Heartbeat >= o.TTL: // without a TTL it is the lease's that counts
		return refused("Heartbeat", "Options.Heartbeat is %v; give less than the TTL, which is %v, or 0 for a third of it", o.Heartbeat, o.TTL)
	case o.Wait < 0:
		return refused("Wait", "Options.Wait is %v; give a time above 0, or 0 for as long as the context lasts", o.Wait)
	case o.MinHold < 0 || o.MinHold > wire.MaxTTL:
		return refused("MinHold", "Options.MinHold is %v; give a time up to %v, or 0 for none", o.MinHold, wire.MaxTTL)
	case o.Capacity < 0 || o.Capacity > wire.MaxCapacity:
		return refused("Capacity", "Options.Capacity is %d; give 1 to %d, or 0 for 1", o.Capacity, wire.MaxCapacity)
	case o.Permits < 0 || o.Permits > max(o.Capacity, 1):
		return refused("Permits", "Options.Permits is %d; give 1 to the capacity, which is %d, or 0 for 1", o.Permits, max(o.Capacity, 1))
	}
	return nil
}

// encodeMetadata encodes Options.Metadata; nil: none.
func encodeMetadata(metadata any) (json.RawMessage, error) {
	if metadata == nil {
		return nil, nil
	}
	m, err := json.Marshal(metadata)
	switch {
	case err != nil:
		return nil, refused("metadata", "Options.Metadata: %v", err)
	case m[0] != '{':
		return nil, refused("metadata", "Options.Metadata is %T, which encodes to no JSON object; give a struct or a map", metadata)
	case len(m) > wire.MaxMetadata:
		return nil, refused("metadata", "Options.Metadata is %d bytes of JSON; at most %d are allowed", len(m), wire.MaxMetadata)
	}
	return m, nil
}

// A Client takes locks. It is safe for use by any number of goroutines.
type Client struct {
	transport  Transport
	timeout    time.Duration // of one try
	retries    int
	retryDelay time.Duration
	owner      string // empty: of each invocation
	now        func() reading

	life context.Context // ends when the client is closed
	end  context.CancelCauseFunc

	mu     sync.Mutex
	leases map[*Lease]bool // those whose context has not ended
	work   sync.WaitGroup  // acquisitions, renewals and last releases
}

// New makes a client. It sends nothing.
func New(cfg Config) (*Client, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	c := &Client{
		transport: cfg.Transport, timeout: cmp.Or(cfg.RequestTimeout, 5*time.Second), retries: max(cmp.Or(cfg.Retries, 3), 0),
		retryDelay: cmp.Or(cfg.RetryDelay, time.Second), owner: cfg.Owner, now: newClock(), leases: map[*Lease]bool{},
	}
	c.life, c.end = context.WithCancelCause(context.Background())
	if c.transport == nil {
		c.transport = newHTTPTransport(cfg)
	}
	return c, nil
}

// ownerIn is who holds what is acquired in ctx, if nobody said.
func (c *Client) ownerIn(inv *invocation) string {
	if c.owner != "" {
		return c.owner
	}
	if inv != nil {
		return inv.owner()
	}
	host, _ := os.Hostname()
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}

// Do runs fn while it holds the lock, and releases it. fn's context ends when ctx does, or the lease is lost: see
// context.Cause. The error is fn's, joined with that of losing or releasing the lease, if that failed.
func (c *Client) Do(ctx context.Context, name string, opts Options, fn func(ctx context.Context, lease *Lease) error) error {
	return c.do(ctx, name, opts, true, fn)
}

func (c *Client) do(ctx context.Context, name string, opts Options, wait bool, fn func(ctx context.Context, lease *Lease) error) (err error) {
	lease, err := c.acquire(ctx, name, opts, wait)
	if err != nil {
		return err
	}
	defer func() { // also when fn panics
		releaseCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), budget(ctx, 2*c.timeout))
		defer cancel()
		if failed := lease.Release(releaseCtx); failed != nil {
			err = errors.Join(err, failed)
		}
	}()
	fnCtx, cancel := context.WithCancelCause(context.WithValue(ctx, leaseKey{}, lease))
	defer cancel(nil)
	defer context.AfterFunc(lease.Context(), func() { cancel(context.Cause(lease.Context())) })()
	return fn(fnCtx, lease)
}
