// Package reach has the HTTP client with which this module's clients reach a service: the coordinator, Lambda or DynamoDB. It adds
// three things to an [http.Client]:
//
//   - It follows no redirect. A redirected request would carry its body, and in it a lease's secret, to another host.
//   - After a time-out it uses new connections. A connection whose peer has vanished would otherwise be used for the next request
//     too, and with HTTP/2 for minutes.
//   - It tells failures that no retry corrects, such as a host that does not exist, from outages: see [Refusal].
package reach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// A Doer is the AWS SDK's interface of an HTTP client.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

// A Client sends requests to one service. It is safe for concurrent use.
type Client struct {
	reached atomic.Bool // the service has answered at least once

	mu      sync.Mutex
	current *http.Client
	own     bool // nobody else uses current's connections
}

// New makes a client over base: an [*http.Client], the SDK's buildable client, another Doer, or nil for connections of the client's
// own. After a time-out the connections of an [*http.Transport] are replaced; another transport is asked to close its idle
// connections if it has a method for that.
func New(base Doer) *Client {
	var c http.Client
	own := true
	switch b := base.(type) {
	case nil:
		c.Transport = ownTransport()
	case *http.Client:
		c, own = *b, false
	case interface { // the SDK's buildable client
		GetTransport() *http.Transport
		GetTimeout() time.Duration
	}:
		c.Transport, c.Timeout = b.GetTransport(), b.GetTimeout()
	default:
		c.Transport, own = roundTripper{b}, false
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{current: &c, own: own}
}

type roundTripper struct{ Doer }

func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return r.Do(req) }

// idlePerHost is the number of idle connections that are kept to a service with HTTP/1.1.
const idlePerHost = 32

// ownTransport returns a transport with the settings of the default transport and its own connections. It ignores proxies for plain
// HTTP, since a proxy could read the requests.
func ownTransport() *http.Transport {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok { // the program has replaced it
		t = &http.Transport{ForceAttemptHTTP2: true, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second}
	}
	t = t.Clone()
	t.MaxIdleConnsPerHost = idlePerHost
	t.Proxy = proxyForTLS
	return t
}

func proxyForTLS(r *http.Request) (*url.URL, error) {
	if r.URL.Scheme != "https" {
		return nil, nil
	}
	return http.ProxyFromEnvironment(r)
}

// Do sends a request. A failure that no retry corrects is a [*Refusal], unless the service has answered before: then the same
// failure is an outage that may pass.
func (c *Client) Do(r *http.Request) (*http.Response, error) {
	client := c.client()
	resp, err := client.Do(r)
	if err != nil {
		c.afterFailure(client, err)
		return nil, c.judge(err)
	}
	if to := resp.Header.Get("Location"); resp.StatusCode/100 == 3 && to != "" {
		_ = resp.Body.Close()
		return nil, redirected(r.URL, to)
	}
	c.reached.Store(true)
	resp.Body = &body{resp.Body, func(err error) { c.afterFailure(client, err) }}
	return resp, nil
}

// CloseIdleConnections closes the connections that are not in use, except those of an HTTP client that was passed to New.
func (c *Client) CloseIdleConnections() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.own {
		c.current.CloseIdleConnections()
	}
}

func (c *Client) client() *http.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current
}

func (c *Client) judge(err error) error {
	if fix := lasting(err); fix != "" && !c.reached.Load() {
		return &Refusal{Fix: fix, Err: err}
	}
	return err
}

// afterFailure replaces the connections that a request used if it timed out.
func (c *Client) afterFailure(used *http.Client, err error) {
	if failed, ok := errors.AsType[net.Error](err); !errors.Is(err, context.DeadlineExceeded) && (!ok || !failed.Timeout()) {
		return
	}
	c.mu.Lock()
	if c.current == used { // otherwise another request has replaced them already
		fresh := *used
		switch t := used.Transport.(type) {
		case nil:
			fresh.Transport, c.own = ownTransport(), true
		case *http.Transport:
			clone := t.Clone()
			if clone.IdleConnTimeout == 0 { // so that idle connections end by themselves after the clone is replaced
				clone.IdleConnTimeout = 90 * time.Second
			}
			fresh.Transport, c.own = clone, true
		}
		c.current = &fresh
	}
	c.mu.Unlock()
	used.CloseIdleConnections()
}

// A body reports a failure to read it.
type body struct {
	io.ReadCloser
	failed func(error)
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.failed(err)
	}
	return n, err
}

// redirected returns the error of a redirect. It names only the host of the target: the rest of the URL may contain a secret.
func redirected(from *url.URL, to string) error {
	target := "another place"
	if u, err := from.Parse(to); err == nil {
		target = u.Scheme + "://" + u.Host
	}
	return &Refusal{
		Fix: fmt.Sprintf("%s redirects to %s, and redirects are not followed, since the request may hold a secret; if that is the right host, name it as the endpoint", from.Host, target),
		Err: errors.New("the request was redirected"),
	}
}
