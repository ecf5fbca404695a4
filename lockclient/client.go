package lockclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// Config is how a client reaches its coordinator. Only Endpoint is required.
type Config struct {
	// Endpoint is the coordinator's URL, up to where /v1/locks begins.
	Endpoint string
	// Region and Credentials sign requests (SigV4, service execute-api). With no Credentials requests go unsigned, as a
	// local coordinator takes them.
	Region      string
	Credentials aws.CredentialsProvider
	// HTTPClient sends requests; nil: one of the client's own.
	HTTPClient *http.Client
	// RequestTimeout bounds one try. Zero: 5 s.
	RequestTimeout time.Duration
	// Owner is told to others while this client holds a lock; Options can say another. Empty: host name and process id.
	Owner string
}

// Validate says which field is wrong, and how to put it right.
func (c Config) Validate() error {
	u, err := url.Parse(c.Endpoint)
	switch {
	case c.Endpoint == "":
		return errors.New("lockclient: Config.Endpoint is empty; give the coordinator's URL")
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("lockclient: Config.Endpoint is %q; give a URL like https://ID.execute-api.REGION.amazonaws.com", c.Endpoint)
	case u.RawQuery != "" || u.Fragment != "" || strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/v1/locks"):
		return fmt.Errorf("lockclient: Config.Endpoint is %q; give the URL only up to where /v1/locks begins", c.Endpoint)
	case c.Credentials != nil && c.Region == "":
		return errors.New("lockclient: Config.Region is empty; requests are signed for a region")
	case c.RequestTimeout < 0:
		return fmt.Errorf("lockclient: Config.RequestTimeout is %v; give a time above 0, or 0 for 5 s", c.RequestTimeout)
	case len(c.Owner) > wire.MaxOwner:
		return fmt.Errorf("lockclient: Config.Owner is %d bytes long; at most %d are allowed", len(c.Owner), wire.MaxOwner)
	}
	return nil
}

// Options say how a lock is taken. The zero value waits as long as the context lasts, with a TTL of 60 s.
type Options struct {
	// TTL is how long the lease lasts without a renewal, 1 s to 24 h. Zero: 60 s.
	TTL time.Duration
	// Wait is how long Acquire goes on trying while others hold the lock. Zero: as long as its context lasts.
	Wait time.Duration
	// Owner replaces Config.Owner.
	Owner string
	// Metadata is told to others while the lock is held: anything that encodes to a JSON object of at most 2,048 bytes.
	Metadata any
	// Capacity and Permits make the lock a semaphore: at most Capacity permits are held at a time, of which this takes
	// Permits. Zero: 1.
	Capacity, Permits int
	// ManualRenew leaves renewing to the caller.
	ManualRenew bool
}

func (o Options) validate() error {
	switch {
	case o.TTL < 0 || o.TTL > wire.MaxTTL || o.TTL%time.Millisecond != 0: // the least is the coordinator's to say
		return refused("TTL", "Options.TTL is %v; give %v to %v, in whole milliseconds", o.TTL, wire.MinTTL, wire.MaxTTL)
	case o.Wait < 0:
		return refused("Wait", "Options.Wait is %v; give a time above 0, or 0 for as long as the context lasts", o.Wait)
	case o.Capacity < 0 || o.Capacity > wire.MaxCapacity:
		return refused("Capacity", "Options.Capacity is %d; give 1 to %d, or 0 for 1", o.Capacity, wire.MaxCapacity)
	case o.Permits < 0 || o.Permits > max(o.Capacity, 1):
		return refused("Permits", "Options.Permits is %d; give 1 to the capacity, which is %d, or 0 for 1", o.Permits, max(o.Capacity, 1))
	}
	return nil
}

// A Client takes locks. It is safe for use by any number of goroutines.
type Client struct {
	transport *transport
	owner     string
	ownHTTP   bool // the HTTP client is the client's own

	mu     sync.Mutex
	closed bool
	leases map[*Lease]bool // those whose context has not ended
	work   sync.WaitGroup  // renewals and last releases
}

// New makes a client. It sends nothing.
func New(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	own := cfg.HTTPClient == nil
	if own {
		cfg.HTTPClient = &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}
	}
	if cfg.RequestTimeout == 0 {
		cfg.RequestTimeout = 5 * time.Second
	}
	if cfg.Owner == "" {
		host, _ := os.Hostname()
		cfg.Owner = fmt.Sprintf("%s/%d", host, os.Getpid())
	}
	return &Client{
		transport: &transport{
			endpoint: strings.TrimRight(cfg.Endpoint, "/"), region: cfg.Region, credentials: cfg.Credentials,
			signer: v4.NewSigner(), client: cfg.HTTPClient, timeout: cfg.RequestTimeout,
		},
		owner: cfg.Owner, ownHTTP: own, leases: map[*Lease]bool{},
	}, nil
}

// Close releases every lease that this client holds, all at once, and waits until nothing of it runs any more. It goes on
// past failures and returns them joined. If ctx ends first, it returns
// at once, and the rest expires by itself. Status still works afterwards.
func (c *Client) Close(ctx context.Context) error {
	c.mu.Lock()
	c.closed = true
	var held []*Lease
	for l := range c.leases {
		held = append(held, l)
	}
	c.mu.Unlock()
	errs := make([]error, len(held))
	var releases sync.WaitGroup
	for i, l := range held {
		releases.Go(func() { errs[i] = l.Release(ctx) })
	}
	releases.Wait()
	ended := make(chan struct{})
	go func() {
		c.work.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		errs = append(errs, ctx.Err())
	}
	if c.ownHTTP {
		c.transport.client.CloseIdleConnections()
	}
	return errors.Join(errs...)
}

// Do runs fn while it holds the lock, and releases it. fn's context ends when ctx does, or the lease is lost: see
// context.Cause. The error is fn's, joined with that of losing or releasing the lease, if that failed.
func (c *Client) Do(ctx context.Context, name string, opts Options, fn func(ctx context.Context, lease *Lease) error) (err error) {
	lease, err := c.Acquire(ctx, name, opts)
	if err != nil {
		return err
	}
	defer func() { // also when fn panics
		releaseCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*c.transport.timeout)
		defer cancel()
		err = errors.Join(err, lease.Release(releaseCtx))
	}()
	fnCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(lease.Context(), func() { cancel(context.Cause(lease.Context())) })()
	return fn(fnCtx, lease)
}

// A Status is what anyone may know of a lock.
type Status struct {
	Lock      string
	Locked    bool
	Capacity  int
	Available int
	Fence     int64 // the highest ever granted
	Holders   []StatusHolder
	Waiting   int
	At        time.Time // by the coordinator's clock
}

// A StatusHolder is a lease as others may see it.
type StatusHolder struct {
	Holder
	Permits    int
	AcquiredAt time.Time
	RenewedAt  time.Time
	Metadata   json.RawMessage // nil: none
	Principal  string          // who the coordinator's authorizer said it is; empty without one
}

// Status reads a lock. A lock that nobody ever took is free.
func (c *Client) Status(ctx context.Context, name string) (Status, error) {
	if problem := wire.CheckName(name); problem != "" {
		return Status{}, refused("name", "name %s", problem)
	}
	var s wire.Status
	err := c.retry(ctx, func() error { return c.transport.send(ctx, http.MethodGet, name, "", nil, &s) })
	if err != nil {
		return Status{}, fmt.Errorf("lockclient: status: %s: %w", name, err)
	}
	out := Status{
		Lock: s.Lock, Locked: s.Locked, Capacity: int(s.Capacity), Available: int(s.Available), Fence: s.Fence,
		Waiting: int(s.Waiting), At: s.ServerTime.Time,
	}
	for _, h := range s.Holders {
		out.Holders = append(out.Holders, StatusHolder{
			Holder:  Holder{h.Owner, h.Fence, h.ExpiresAt.Time, time.Duration(h.Remaining) * time.Millisecond},
			Permits: int(h.Permits), AcquiredAt: h.AcquiredAt.Time, RenewedAt: h.RenewedAt.Time, Metadata: h.Metadata, Principal: h.Principal,
		})
	}
	return out, nil
}
