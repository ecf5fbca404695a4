package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"time"

	"github.com/holdfast-lock/holdfast/internal/meter"
	"github.com/holdfast-lock/holdfast/internal/wirefault"
)

const serveKind = "serve"

// A peer is a lock client of the race.
type peer struct {
	kind string
	name string
	// fastest is the pause between two tries of a waiter at its fastest documented polling, in milliseconds.
	fastest int64
	// renews says whether the client keeps its lock by renewals.
	renews bool
	// checks says whether the client can tell without a request whether it still holds its lock.
	checks bool
}

// The kinds that the code names.
const (
	bare       = "bare"
	bareStream = "bare-stream" // only in the comparison of times: the tables of Holdfast have a stream, which makes writes slower in DynamoDB Local
	direct     = "direct"
	throughAPI = "api"
)

const fastest = 20

var peers = []peer{
	{bare, "bare conditional write", fastest, false, true},
	{"dynamolock", "dynamolock 2.1.0 (Go)", fastest, true, true},
	{"awslabs", "awslabs client 1.4.0 (Java)", fastest, true, true},
	{"python-dynamodb-lock", "python-dynamodb-lock 0.9.1", fastest, true, true},
	{"chainsaws", "chainsaws 0.0.183 (Python)", fastest, true, false},
	{"deliveryhero", "@deliveryhero/dynamodb-lock 2.0.0 (Node.js)", fastest, true, true},
	{direct, "Holdfast, lockclient/direct", fastest, true, true},
	{throughAPI, "Holdfast, lockclient over HTTP", fastest, true, true},
}

// A world has the engine, and what was started on it.
type world struct {
	dir    string // of the drivers
	engine string // the engine's URL
	peers  []peer
	api    string // the URL of the coordinator's API, without faults
}

func (w *world) table(kind string) string { return "race-" + kind }

// prepare makes the tables and starts the API.
func (w *world) prepare() error {
	for _, kind := range append([]string{bareStream}, kinds(w.peers)...) {
		if kind == throughAPI {
			url, _, err := w.serve(w.engine)
			if err != nil {
				return err
			}
			w.api = url
			continue
		}
		p, err := start(w.dir, settings{Kind: kind, Endpoint: w.engine, Table: w.table(kind), Clients: 1})
		if err != nil {
			return err
		}
		a, err := p.do(0, time.Minute, "setup")
		p.kill()
		if err == nil {
			err = a.err()
		}
		if err != nil {
			return fmt.Errorf("the table of %s: %w", kind, err)
		}
	}
	return nil
}

func kinds(list []peer) (names []string) {
	for _, p := range list {
		names = append(names, p.kind)
	}
	return names
}

// serve starts the API over the table at an endpoint, and returns its URL.
func (w *world) serve(endpoint string) (string, *process, error) {
	p, err := start(w.dir, settings{Kind: serveKind, Endpoint: endpoint, Table: w.table(throughAPI)})
	if err != nil {
		return "", nil, err
	}
	return p.url, p, nil
}

// upstream is where the requests of a kind's clients go.
func (w *world) upstream(kind string) string {
	if kind == throughAPI {
		return w.api
	}
	return w.engine
}

// front starts a proxy that counts what it passes on to a server.
func front(target string) (server *httptest.Server, m *meter.Meter, err error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, nil, err
	}
	m = meter.New(monotonic)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }, Transport: m.Client().Transport, ErrorLog: log.New(io.Discard, "", 0),
		// A server that does not answer is passed on as what it is: a connection that ends.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	return httptest.NewServer(proxy), m, nil
}

// metered starts a driver of one client whose DynamoDB requests are counted. stop ends it and its proxy.
func (w *world) metered(p peer, s settings) (proc *process, m *meter.Meter, stop func(), err error) {
	server, m, err := front(w.engine)
	if err != nil {
		return nil, nil, nil, err
	}
	s.Kind, s.Table, s.Endpoint, s.Clients = p.kind, w.table(p.kind), server.URL, 1
	var api *process
	if p.kind == throughAPI {
		if s.Endpoint, api, err = w.serve(server.URL); err != nil {
			return nil, nil, nil, err
		}
	}
	proc, err = start(w.dir, s)
	return proc, m, func() { proc.kill(); api.kill(); server.CloseClientConnections(); server.Close() }, err
}

// A site is a peer with a fault proxy between its processes and the server.
type site struct {
	*world
	peer  peer
	proxy *wirefault.Proxy
	names int
}

func (w *world) site(p peer, seed uint64) (*site, error) {
	proxy, err := wirefault.New(wirefault.Config{Upstreams: []string{w.upstream(p.kind)}, Plan: wirefault.Plan{Seed: seed}})
	return &site{world: w, peer: p, proxy: proxy}, err
}

// join starts a process behind the fault proxy, which knows it by name.
func (s *site) join(name string, lease time.Duration, poll int64) (*process, error) {
	url, err := s.proxy.Listen("127.0.0.1:0", name)
	if err != nil {
		return nil, err
	}
	return s.start(name, url, lease, poll)
}

func (s *site) start(name, endpoint string, lease time.Duration, poll int64) (*process, error) {
	return start(s.dir, settings{
		Kind: s.peer.kind, Name: name, Endpoint: endpoint, Table: s.table(s.peer.kind), LeaseMS: lease.Milliseconds(), PollMS: poll, Clients: 1, Watch: true,
	})
}

// name returns a new name of a lock.
func (s *site) name(what string) string {
	s.names++
	return fmt.Sprintf("%s:%s:%d", what, s.peer.kind, s.names)
}
