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
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// Config configures a [Client]. Either Endpoint or Transport is required.
type Config struct {
	// Endpoint is the coordinator's URL without the /v1/locks part of its routes, such as
	// https://ID.execute-api.REGION.amazonaws.com.
	Endpoint string
	// Region and Credentials sign the requests (SigV4, service execute-api). Without Credentials requests are not signed, which
	// only a local coordinator accepts. If Region is empty, it is taken from an API Gateway endpoint's host name.
	Region      string
	Credentials aws.CredentialsProvider
	// HTTPClient sends the requests. If it is nil, the client makes its own, which uses the environment's proxy for https only.
	// Redirects are not followed in either case. After a request timed out, its connection is not used again, provided that
	// HTTPClient.Transport is an [http.Transport] or has a working method CloseIdleConnections.
	HTTPClient *http.Client
	// Transport carries the requests in place of HTTP. Endpoint, Region, Credentials and HTTPClient must then be unset. See
	// packages invoke and direct.
	Transport Transport

	// RequestTimeout limits one try of a request. Zero means 5 s.
	RequestTimeout time.Duration
	// Retries is how many times a request without an answer is sent again: the connection failed, or the coordinator was throttled
	// or could not use its store. Zero means 3; a negative number means never. Acquire ignores it, and retries until the end of its
	// wait.
	Retries int
	// RetryDelay is the longest pause between two tries of a request without an answer, and between two polls of the first waiter in a
	// lock's queue. Pauses begin with a part of it and grow; all are a little random, so that clients spread. Waiters behind the first
	// poll less often: about RetryDelay times their position, and at least four times in the time for which their place is kept
	// (20 s, or three times RetryDelay if that is more). If the queue moves fast, its waiters poll more often. A waiter of this Client
	// polls at once when the Client releases the lock. Zero means 1 s, and 2 s for the polls of waiters: a waiter then sends at most ten
	// requests in its first ten seconds.
	RetryDelay time.Duration
	// Owner is the name that others see while this client holds a lock, at most 256 bytes. Options.Owner replaces it. If it is
	// empty, it is HOST/PID, and in a Lambda invocation FUNCTION/REQUEST-ID.
	Owner string
	// Notify lets waits be notified of their grants by messages, where the coordinator can send them: see package notify. Nil means that waits
	// poll, and so do those that cannot be notified (see Options.OnPolling). The client closes it; give each client one of its own.
	Notify Notifier

	// TracerProvider makes the client's spans: of acquires, waits, holds, renewals and releases. Nil means none; give otel.GetTracerProvider() for the
	// program's. An acquire then carries its trace context, if it is sampled, to the coordinator, which keeps it with the lease and shows it in
	// events and to others. See docs/tracing.md.
	TracerProvider trace.TracerProvider
	// MeterProvider receives the client's metrics: the durations of acquires, waits and holds, and the number of losses. Nil means none.
	MeterProvider metric.MeterProvider
	// Propagator writes the trace context into the headers of HTTP requests. Nil means W3C's, [propagation.TraceContext]. It is used only with a
	// TracerProvider.
	Propagator propagation.TextMapPropagator
}

// Where Config.RetryDelay is zero.
const (
	defaultRetryDelay = time.Second
	defaultPollDelay  = 2 * time.Second
)

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
		return fmt.Errorf("lockclient: Config.RetryDelay is %v; give a time above 0, or 0 for %v", c.RetryDelay, defaultRetryDelay)
	}
	if problem := wire.CheckText(c.Owner, wire.MaxOwner, false); problem != "" {
		return fmt.Errorf("lockclient: Config.Owner %s", problem)
	}
	return nil
}

// Options say how a lock is acquired. The zero value waits until the context ends, for a lease with a TTL of 60 s.
type Options struct {
	// TTL is the time from a grant or renewal to the lease's expiry, in whole milliseconds: from 1 s to the maximum of the
	// deployment, which is 24 h by default and at most 7 days. Zero means 60 s, or less where a limit of the lock's prefix says so. Within a Lambda invocation zero means the rest of the
	// invocation plus about a second, without renewals: the lease of a function that is killed does not outlive its invocation by
	// more than that.
	TTL time.Duration
	// Heartbeat is the interval between renewals in the background. It must be less than the TTL. Zero means a third of the TTL.
	Heartbeat time.Duration
	// ManualRenew turns background renewal off. The caller renews with [Lease.Renew].
	ManualRenew bool

	// MinHold is the least time for which the lock stays held after the grant, even if the lease is released sooner. It makes a short
	// periodic job run once a period although the clocks of its hosts differ. At most 7 days. See [Lease.Release].
	MinHold time.Duration

	// Wait limits how long Acquire waits while others hold the lock. Zero means until its context ends. TryAcquire ignores it.
	Wait time.Duration
	// OnWait, if not nil, is called before each pause of a wait, with the holders and the place in the queue.
	OnWait func(*HeldError)
	// OnPolling, if not nil, is called at most once in a wait, with the reason, if the wait polls although Config.Notify is set: the
	// coordinator does not notify, or the messages cannot be received.
	OnPolling func(reason error)
	// OnUnavailable, if not nil, is called before an acquire is retried because the last try had no answer. The error matches
	// [ErrUnavailable].
	OnUnavailable func(error)
	// OnRenewal, if not nil, is called with an error when background renewals begin to fail, and with nil when they succeed again.
	// proved is the time until which the lease is proved to be held nevertheless. It is not called when the lease is lost, since that
	// ends the lease's context. It must return quickly: the next renewal waits for it.
	OnRenewal func(err error, proved time.Time)

	// Owner replaces Config.Owner.
	Owner string
	// Metadata is shown to others while the lock is held. It must encode to a JSON object of at most 2,048 bytes. Nil means none.
	Metadata any
	// Capacity and Permits make the lock a semaphore: the lease takes Permits of the lock's Capacity, from 1 to 100. All holders and
	// waiters of a lock must give the same Capacity. Zero Permits are 1. Zero Capacity is that of a limit of the lock's prefix, if there is one (see
	// docs/rules.md), and otherwise 1.
	Capacity, Permits int
	// Mode makes the lock one that readers share and a writer has alone; it is instead of Capacity and Permits. All callers of the lock must
	// give a Mode: where the lock is in use otherwise, Acquire fails at once with an error that matches [ErrRefused]. A reader cannot become a writer: two that both wait for
	// that would wait for each other. A writer becomes a reader by [Lease.Downgrade].
	Mode Mode
}

// A Mode is how a caller shares a lock with others. It is a semaphore of 100 permits, of which a reader takes one, and a writer all. Waiters are
// granted in their order: a writer waits for the readers before it, and readers that come later wait for the writer.
type Mode string

// The modes.
const (
	ModeRead  Mode = "read"
	ModeWrite Mode = "write"
)

func (o Options) validate() error {
	switch {
	case o.TTL < 0 || o.TTL > wire.MaxTTL || o.TTL%time.Millisecond != 0: // the coordinator checks the minimum
		return refused("TTL", "Options.TTL is %v; give %v to %v, in whole milliseconds", o.TTL, wire.MinTTL, wire.MaxTTL)
	case o.Heartbeat < 0 || o.TTL > 0 && o.Heartbeat >= o.TTL: // keep checks it against the TTL of the answer
		return refused("Heartbeat", "Options.Heartbeat is %v; give less than the TTL, which is %v, or 0 for a third of it", o.Heartbeat, o.TTL)
	case o.Wait < 0:
		return refused("Wait", "Options.Wait is %v; give a time above 0, or 0 for as long as the context lasts", o.Wait)
	case o.MinHold < 0 || o.MinHold > wire.MaxTTL:
		return refused("MinHold", "Options.MinHold is %v; give a time up to %v, or 0 for none", o.MinHold, wire.MaxTTL)
	case o.Capacity < 0 || o.Capacity > wire.MaxCapacity:
		return refused("Capacity", "Options.Capacity is %d; give 1 to %d, or 0 for 1", o.Capacity, wire.MaxCapacity)
	case o.Mode != "" && wire.Mode(o.Mode).Permits() == 0:
		return refused("Mode", "Options.Mode is %q; give ModeRead or ModeWrite, or leave it out", string(o.Mode))
	case o.Mode != "" && (o.Capacity != 0 || o.Permits != 0):
		return refused("Mode", "Options.Mode is there with Capacity or Permits; give one or the other")
	case o.Permits < 0 || o.Permits > cmp.Or(o.Capacity, wire.MaxCapacity):
		return refused("Permits", "Options.Permits is %d; give 1 to the capacity, which is %d, or 0 for 1", o.Permits, max(o.Capacity, 1))
	}
	return nil
}

// encodeMetadata encodes Options.Metadata. It returns nil if there is none.
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

// A Client acquires locks. It is safe for concurrent use.
type Client struct {
	transport  Transport
	timeout    time.Duration // Config.RequestTimeout
	retries    int
	retryDelay time.Duration // Config.RetryDelay
	pollDelay  time.Duration // the same for waiters
	owner      string        // Config.Owner
	now        func() reading
	telemetry  *telemetry // nil: there are no spans and no metrics

	notifiedWaits notifiedWaits // the waits that are notified of their grants

	life context.Context // ends when Close begins
	end  context.CancelCauseFunc

	mu      sync.Mutex
	leases  map[*Lease]bool           // the leases whose contexts have not ended
	waiting map[string][]*acquisition // by the lock's name: those that pause between two polls
	work    sync.WaitGroup            // acquisitions, and what runs in the background: renewals and releases
}

// New makes a client. It sends no request. The error names the field of cfg that is wrong.
func New(cfg Config) (*Client, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	c := &Client{
		transport: cfg.Transport, timeout: cmp.Or(cfg.RequestTimeout, 5*time.Second), retries: max(cmp.Or(cfg.Retries, 3), 0),
		retryDelay: cmp.Or(cfg.RetryDelay, defaultRetryDelay), pollDelay: cmp.Or(cfg.RetryDelay, defaultPollDelay), owner: cfg.Owner, now: newClock(), leases: map[*Lease]bool{}, waiting: map[string][]*acquisition{},
	}
	c.notifiedWaits.notifier, c.notifiedWaits.asked = cfg.Notify, map[*notifiedWait]time.Time{}
	c.life, c.end = context.WithCancelCause(context.Background())
	var err error
	if c.telemetry, err = newTelemetry(cfg); err != nil {
		return nil, fmt.Errorf("lockclient: Config.MeterProvider: %w", err)
	}
	if c.transport == nil {
		c.transport = newHTTPTransport(cfg)
	}
	return c, nil
}

// ownerIn returns the owner of a lock that is acquired in an invocation, or outside of one if inv is nil.
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

// Do acquires the lock as [Client.Acquire] does, runs fn, and releases the lock. The context that fn gets has the lease (see
// [LeaseFrom]) and ends when ctx ends or when the lease is lost; its cause is then the lease's. Do returns fn's error, joined with
// the error of the release if that failed, which matches [ErrLost] if the lease was lost. If the lock was not acquired, fn does not
// run, and the error is Acquire's.
func (c *Client) Do(ctx context.Context, name string, opts Options, fn func(ctx context.Context, lease *Lease) error) error {
	return c.do(ctx, name, opts, true, fn)
}

func (c *Client) do(ctx context.Context, name string, opts Options, wait bool, fn func(ctx context.Context, lease *Lease) error) error {
	lease, err := c.acquire(ctx, name, opts, wait)
	if err != nil {
		return err
	}
	return c.holding(ctx, lease, fn)
}

// holding runs fn under a lease, and releases it.
func (c *Client) holding(ctx context.Context, lease *Lease, fn func(ctx context.Context, lease *Lease) error) (err error) {
	defer func() { // also when fn panics
		releaseCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), budget(ctx, 2*c.timeout))
		defer cancel()
		if failed := lease.Release(releaseCtx); failed != nil {
			err = errors.Join(err, failed)
		}
	}()
	fnCtx, cancel := context.WithCancelCause(context.WithValue(lease.observed.within(ctx), leaseKey{}, lease))
	defer cancel(nil)
	defer context.AfterFunc(lease.Context(), func() { cancel(context.Cause(lease.Context())) })()
	return fn(fnCtx, lease)
}
