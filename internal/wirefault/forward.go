package wirefault

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	maxBody        = 16 << 20 // bytes of a request, above DynamoDB's limit of 16 MB for a batch
	deliverTimeout = time.Minute
)

// A request is what a client sent, read whole.
type request struct {
	*http.Request
	client    string
	address   string // of the client: IP and port
	operation string
	number    uint64 // among this client's requests, from 1
	body      []byte
}

// A reply is what a server answered, read whole, unless stream is set.
type reply struct {
	status  int
	header  http.Header
	body    []byte
	stream  io.ReadCloser // of server-sent events, which never end
	failure error         // the server did not answer
}

// serve handles a request that arrived at the listener of a client.
func (p *Proxy) serve(w http.ResponseWriter, raw *http.Request, client string) {
	body, err := io.ReadAll(http.MaxBytesReader(w, raw.Body, maxBody))
	if err != nil {
		abort(w, false) // the client has gone, or sends more than any service accepts
		return
	}
	if name := raw.Header.Get(ClientHeader); name != "" {
		client = name
	} else if client == "" {
		client = raw.RemoteAddr
	}
	r := &request{Request: raw, client: client, address: raw.RemoteAddr, operation: operation(raw), body: body}
	p.secrets.record(body)
	f := p.decide(r)
	if cut, ok := p.cut(r.client, r.address, Requests); ok {
		p.injected(r, fault{Kind: Partitioned})
		p.hold(raw, cut)
		abort(w, false)
		return
	}
	if f.Kind != "" {
		p.injected(r, f)
	}
	p.inject(w, r, f)
}

// decide counts the request and returns its fault.
func (p *Proxy) decide(r *request) fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Requests++
	p.count[r.client]++
	r.number = p.count[r.client]
	f := p.plan.decide(r.client, r.operation, r.number, p.spent)
	if f.Kind != "" {
		p.spent[f.rule]++
	}
	return f
}

// inject delivers the request with a fault, and answers.
func (p *Proxy) inject(w http.ResponseWriter, r *request, f fault) {
	switch f.Kind {
	case DropRequest:
		p.wait(r.Context(), f.time)
		abort(w, false)
	case DropReply:
		p.deliver(r).close()
		p.wait(r.Context(), f.time)
		abort(w, false)
	case Delay:
		p.wait(p.ctx, f.time)
		p.answer(w, r, p.deliver(r))
	case DelayReply:
		got := p.deliver(r)
		p.wait(r.Context(), f.time)
		p.answer(w, r, got)
	case Duplicate:
		got := p.deliver(r)
		p.later(r, f.time)
		p.answer(w, r, got)
	case Late:
		p.later(r, f.time)
		abort(w, false)
	case Error500:
		p.deliver(r).close()
		p.say(w, r, failed(r.Request, f.part))
	case Throttle:
		p.say(w, r, throttled(r.Request, f.part))
	case Reset:
		p.reset(w, r, f.part)
	default:
		p.answer(w, r, p.deliver(r))
	}
}

// reset resets the connection at one of three moments.
func (p *Proxy) reset(w http.ResponseWriter, r *request, part int) {
	if part == 0 {
		abort(w, true)
		return
	}
	got := p.deliver(r)
	if part == 1 || got.failure != nil || got.stream != nil {
		got.close()
		abort(w, true)
		return
	}
	copyHeader(w.Header(), got.header)
	w.Header().Set("Content-Length", strconv.Itoa(len(got.body)))
	w.WriteHeader(got.status)
	_, _ = w.Write(got.body[:len(got.body)/2])
	_ = http.NewResponseController(w).Flush()
	abort(w, true)
}

// later delivers the request once more after a time, whoever has gone until then.
func (p *Proxy) later(r *request, after time.Duration) {
	p.mu.Lock()
	p.stats.Pending++
	p.mu.Unlock()
	p.pending.Go(func() {
		p.wait(p.ctx, after)
		if p.ctx.Err() == nil {
			p.deliver(r).close()
		}
		p.mu.Lock()
		p.stats.Pending--
		p.mu.Unlock()
	})
}

// deliver sends the request to a server and reads the reply. A client that gives up does not end it: its request is on the way.
func (p *Proxy) deliver(r *request) reply {
	ctx, cancel := context.WithTimeout(p.ctx, deliverTimeout)
	out, err := http.NewRequestWithContext(ctx, r.Method, p.upstream(r.URL), bytes.NewReader(r.body))
	if err != nil {
		cancel()
		return p.unreachable(err)
	}
	out.Host, out.GetBody = r.Host, nil // without GetBody the transport cannot repeat the request
	copyHeader(out.Header, r.Header)
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // otherwise Go adds its own
	}
	resp, err := p.transport.RoundTrip(out)
	if err != nil {
		cancel()
		return p.unreachable(err)
	}
	got := reply{status: resp.StatusCode, header: resp.Header}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		got.stream = resp.Body
		context.AfterFunc(r.Context(), cancel)
		return got
	}
	defer cancel()
	got.body, err = io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return p.unreachable(err)
	}
	return got
}

func (p *Proxy) unreachable(err error) reply {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Unreachable++
	return reply{failure: err}
}

// upstream returns the URL of a request at the server whose turn it is.
func (p *Proxy) upstream(u *url.URL) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	to := *u
	server := p.upstreams[p.next%len(p.upstreams)]
	p.next++
	to.Scheme, to.Host = server.Scheme, server.Host
	return to.String()
}

func (got reply) close() {
	if got.stream != nil {
		_ = got.stream.Close()
	}
}

// answer passes a reply to the client, unless a partition holds it back.
func (p *Proxy) answer(w http.ResponseWriter, r *request, got reply) {
	defer got.close()
	if got.failure != nil {
		p.say(w, r, failed(r.Request, 0))
		return
	}
	if p.held(w, r) {
		return
	}
	copyHeader(w.Header(), got.header)
	w.WriteHeader(got.status)
	if got.stream == nil {
		_, _ = w.Write(got.body)
		return
	}
	flush := http.NewResponseController(w)
	buf := make([]byte, 4<<10)
	for {
		n, err := got.stream.Read(buf)
		if _, bad := w.Write(buf[:n]); bad != nil || err != nil || flush.Flush() != nil {
			return
		}
	}
}

// say answers with an error of the protocol's own.
func (p *Proxy) say(w http.ResponseWriter, r *request, a canned) {
	if p.held(w, r) {
		return
	}
	for k, v := range a.headers {
		w.Header().Set(k, v)
	}
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.body)
}

// held reports whether a partition held the reply back; the connection is then closed.
func (p *Proxy) held(w http.ResponseWriter, r *request) bool {
	cut, ok := p.cut(r.client, r.address, Replies)
	if ok {
		p.injected(r, fault{Kind: Partitioned})
		p.hold(r.Request, cut)
		abort(w, false)
	}
	return ok
}

// injected counts a fault and logs it.
func (p *Proxy) injected(r *request, f fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Faults[f.Kind]++
	if p.log == nil {
		return
	}
	line, _ := json.Marshal(struct { // has no value that JSON lacks
		Time      string   `json:"time"`
		Client    string   `json:"client"`
		Request   uint64   `json:"request"`
		Operation string   `json:"operation"`
		Kind      Kind     `json:"kind"`
		For       Duration `json:"for,omitempty"`
	}{time.Now().UTC().Format(time.RFC3339Nano), r.client, r.number, r.operation, f.Kind, Duration(f.time)})
	_, _ = p.log.Write(append(line, '\n'))
}

// copyHeader copies headers, without those of the connection.
func copyHeader(to, from http.Header) {
	for k, v := range from {
		switch k {
		case "Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		default:
			to[k] = v
		}
	}
}

// abort closes the client's connection without an answer, or resets it.
func abort(w http.ResponseWriter, reset bool) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // closes the connection as well
	}
	if tcp, ok := conn.(*net.TCPConn); ok && reset {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
