// Package wirefault is an HTTP/1.1 reverse proxy on loopback that injects faults between a client and a server, by a plan with a seed. It
// knows the protocols of DynamoDB (and services like it), of Lambda's Invoke and of the coordinator's API, whose own errors it answers with.
//
// A [Proxy] passes requests to one or more upstreams, in turn. Clients are told apart by the header [ClientHeader], or by the listener that
// they use ([Proxy.Listen]), or by their address and port. [Plan] says which requests get which [Kind] of fault, and [Proxy.Partition] cuts
// one client off. [Proxy.Control] is the same over HTTP, for a harness in another process; scripts/wirefault runs a proxy with it.
//
// Requests arrive with their Host, headers and body as the client sent them. The proxy never repeats a request on its own: a server that
// does not answer is the protocol's error of status 500. What the proxy cannot do is lose single packets: a partition holds requests and
// replies back, while connections to the proxy still open.
package wirefault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/loopback"
)

// ClientHeader names the client that sent a request. It is passed on.
const ClientHeader = "X-Wirefault-Client"

// Config configures a [Proxy].
type Config struct {
	// Upstreams are the URLs of the servers, http://HOST:PORT each. Requests go to them in turn.
	Upstreams []string
	Plan      Plan
	// Log receives a line of JSON for each fault. Nil: nothing is logged.
	Log io.Writer
	// Secrets receives each secret of a lease that passes in a request's body, one a line and each once. Nil: they are not kept.
	Secrets io.Writer
	// wait waits for a time or until the channel is closed; nil: in real time. Tests replace it.
	wait func(ctx context.Context, d time.Duration)
}

// A Proxy is a fault proxy. It is safe for concurrent use.
type Proxy struct {
	transport *http.Transport
	wait      func(ctx context.Context, d time.Duration)
	ctx       context.Context // ends with Close
	stop      context.CancelFunc
	pending   sync.WaitGroup // requests that are delivered in the background
	secrets   *secrets
	log       io.Writer

	mu         sync.Mutex
	plan       Plan
	spent      []int // for each rule of the plan
	upstreams  []*url.URL
	next       int               // index of the upstream of the next request
	count      map[string]uint64 // of requests, by client
	partitions map[string]partition
	stats      Stats
	servers    []*http.Server
	listening  sync.WaitGroup
}

// Stats are counts since the proxy started.
type Stats struct {
	Requests    int64          `json:"requests"`    // that clients sent
	Unreachable int64          `json:"unreachable"` // deliveries that the server did not answer
	Pending     int64          `json:"pending"`     // requests that will be delivered later
	Faults      map[Kind]int64 `json:"faults"`      // injected, by kind
}

// New makes a proxy without listeners. The error names the field of cfg that is wrong.
func New(cfg Config) (*Proxy, error) {
	ctx, stop := context.WithCancel(context.Background())
	p := &Proxy{
		transport: &http.Transport{
			DisableCompression: true, MaxIdleConns: 0, MaxIdleConnsPerHost: 1024, IdleConnTimeout: 30 * time.Second,
			DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		},
		wait: cfg.wait, ctx: ctx, stop: stop, log: cfg.Log, count: map[string]uint64{}, partitions: map[string]partition{},
		stats: Stats{Faults: map[Kind]int64{}},
	}
	if p.wait == nil {
		p.wait = sleep
	}
	if cfg.Secrets != nil {
		p.secrets = &secrets{out: cfg.Secrets, seen: map[string]bool{}}
	}
	if err := errors.Join(p.SetUpstreams(cfg.Upstreams...), p.SetPlan(cfg.Plan)); err != nil {
		stop()
		return nil, err
	}
	return p, nil
}

func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// SetUpstreams changes the servers that requests go to, in turn: http://HOST:PORT each, at least one.
func (p *Proxy) SetUpstreams(upstreams ...string) error {
	if len(upstreams) == 0 {
		return errors.New("wirefault: there is no upstream; give the URL of the server, such as http://127.0.0.1:8000")
	}
	var parsed []*url.URL
	for _, text := range upstreams {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" || u.Host == "" {
			return fmt.Errorf("wirefault: upstream %q is not http://HOST:PORT", text)
		}
		parsed = append(parsed, u)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.upstreams, p.next = parsed, 0
	return nil
}

// SetPlan replaces the plan. The counts of requests by client, on which decisions depend, go on.
func (p *Proxy) SetPlan(plan Plan) error {
	if err := plan.validate(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plan, p.spent = plan, make([]int, len(plan.Rules))
	return nil
}

// AddRules puts rules before those of the plan, such as a fault for the next request of a kind.
func (p *Proxy) AddRules(rules ...Rule) error {
	if err := (Plan{Rules: rules}).validate(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plan.Rules = slices.Concat(rules, p.plan.Rules)
	p.spent = slices.Concat(make([]int, len(rules)), p.spent)
	return nil
}

// Listen opens a listener on an address of this machine, such as 127.0.0.1:0, and returns its URL. Requests that name no client in
// [ClientHeader] are those of the client; empty: of the address and port that they come from.
func (p *Proxy) Listen(address, client string) (string, error) {
	l, err := loopback.Listen(p.ctx, address)
	if errors.Is(err, loopback.ErrRemote) {
		return "", fmt.Errorf("wirefault: the address %q is not on loopback; give one such as 127.0.0.1:0", address)
	}
	if err != nil {
		return "", fmt.Errorf("wirefault: %w", err)
	}
	server := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(w, r, client) }),
		ReadHeaderTimeout: 30 * time.Second,
	}
	p.mu.Lock()
	p.servers = append(p.servers, server)
	p.mu.Unlock()
	p.listening.Go(func() { _ = server.Serve(l) }) // ends with Close
	return "http://" + l.Addr().String(), nil
}

// Stats returns the counts so far.
func (p *Proxy) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Faults = maps.Clone(s.Faults)
	return s
}

// Settle waits until the requests that were to be delivered later have been, or ctx ends.
func (p *Proxy) Settle(ctx context.Context) error {
	for {
		p.mu.Lock()
		pending := p.stats.Pending
		p.mu.Unlock()
		if pending == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wirefault: %d requests are still to be delivered: %w", pending, ctx.Err())
		}
		sleep(ctx, 10*time.Millisecond)
	}
}

// Close closes the listeners and drops the requests that were to be delivered later.
func (p *Proxy) Close() error {
	p.stop()
	p.mu.Lock()
	servers := p.servers
	p.mu.Unlock()
	var err error
	for _, s := range servers {
		err = errors.Join(err, s.Close())
	}
	p.listening.Wait()
	p.pending.Wait()
	p.transport.CloseIdleConnections()
	return err
}
