package wirefault_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-lock/holdfast/internal/wirefault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A server answers every request with its number, and keeps what arrived.
type server struct {
	*httptest.Server
	mu     sync.Mutex
	bodies []string
	hosts  []string
	came   chan struct{} // gets a value for each request
}

func newServer(t *testing.T) *server {
	s := &server{came: make(chan struct{}, 100)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.bodies, s.hosts = append(s.bodies, string(body)), append(s.hosts, r.Host)
		s.mu.Unlock()
		w.Header().Set("X-Server", "yes")
		_, _ = io.WriteString(w, "answer to "+string(body))
		s.came <- struct{}{}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) got() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.bodies)
}

// start makes a proxy before a server, with one rule for the next request.
func start(t *testing.T, s *server, rules ...wirefault.Rule) (*wirefault.Proxy, string) {
	t.Helper()
	return startWith(t, wirefault.Config{Upstreams: []string{s.URL}, Plan: wirefault.Plan{Seed: 1, Rules: rules}})
}

func startWith(t *testing.T, cfg wirefault.Config) (*wirefault.Proxy, string) {
	t.Helper()
	p, err := wirefault.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	url, err := p.Listen("127.0.0.1:0", "c1")
	if err != nil {
		t.Fatal(err)
	}
	return p, url
}

func once(kind wirefault.Kind) wirefault.Rule { return wirefault.Rule{Kind: kind, Rate: 1, Limit: 1} }

// client keeps no connections, so that no request is repeated by net/http.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}

type answer struct {
	status int
	body   string
	header http.Header
}

func send(t *testing.T, url, body string, headers ...string) (answer, error) {
	t.Helper()
	return sendCtx(t.Context(), t, url, body, headers...)
}

func sendCtx(ctx context.Context, t *testing.T, url, body string, headers ...string) (answer, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close() //nolint:errcheck // a test
	data, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, string(data), resp.Header}, err
}

func TestWithoutFaults(t *testing.T) {
	s := newServer(t)
	_, url := start(t, s)
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v1/locks/a%2Fb/acquire?x=1", strings.NewReader("one"))
	req.Host = "locks.example"
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // a test
	body, _ := io.ReadAll(resp.Body)
	if string(body) != "answer to one" || resp.Header.Get("X-Server") != "yes" || s.hosts[0] != "locks.example" {
		t.Errorf("answer %q with headers %v; the server saw the host %q", body, resp.Header, s.hosts[0])
	}
}

// What the client and the server see of each kind of fault.
func TestKinds(t *testing.T) {
	for _, c := range []struct {
		kind     wirefault.Kind
		arrives  []string // at the server, of the request "one"
		answered bool     // with the server's answer
		status   int      // of an answer of the proxy's own
	}{
		{wirefault.DropRequest, nil, false, 0},
		{wirefault.DropReply, []string{"one"}, false, 0},
		{wirefault.Delay, []string{"one"}, true, 0},
		{wirefault.DelayReply, []string{"one"}, true, 0},
		{wirefault.Duplicate, []string{"one", "one"}, true, 0},
		{wirefault.Late, []string{"one"}, false, 0},
		{wirefault.Error500, []string{"one"}, false, 500},
		{wirefault.Throttle, nil, false, 400},
	} {
		t.Run(string(c.kind), func(t *testing.T) {
			s := newServer(t)
			p, url := start(t, s, once(c.kind))
			got, err := send(t, url, "one", "X-Amz-Target", "DynamoDB_20120810.UpdateItem")
			switch {
			case c.answered && (err != nil || got.body != "answer to one"):
				t.Errorf("the client got %+v and the error %v, want the server's answer", got, err)
			case c.status != 0 && (err != nil || got.status != c.status):
				t.Errorf("the client got %+v and the error %v, want status %d", got, err, c.status)
			case !c.answered && c.status == 0 && err == nil:
				t.Errorf("the client got %+v, want no answer", got)
			}
			if err := p.Settle(t.Context()); err != nil {
				t.Error(err)
			}
			if arrived := s.got(); !slices.Equal(arrived, c.arrives) {
				t.Errorf("at the server arrived %q, want %q", arrived, c.arrives)
			}
			if stats := p.Stats(); stats.Faults[c.kind] != 1 || stats.Requests != 1 || stats.Pending != 0 {
				t.Errorf("stats are %+v, want one request and one fault", stats)
			}
			if got, err := send(t, url, "two"); err != nil || got.body != "answer to two" {
				t.Errorf("the next request got %+v and the error %v, want the server's answer", got, err)
			}
		})
	}
}

// A connection is reset before the request is delivered, after it, or within the reply.
func TestReset(t *testing.T) {
	s := newServer(t)
	_, url := start(t, s, wirefault.Rule{Kind: wirefault.Reset, Rate: 1})
	lost, cut := 0, 0
	for range 40 {
		got, err := send(t, url, "one")
		if err == nil {
			t.Fatalf("the client got the whole answer %+v", got)
		}
		if got.status != 0 {
			cut++
			if got.body != "answer"[:6] && !strings.HasPrefix("answer to one", got.body) {
				t.Errorf("the client read %q of the answer", got.body)
			}
		} else if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF) {
			lost++
		}
	}
	arrived := len(s.got())
	if cut == 0 || lost == 0 || arrived == 0 || arrived == 40 {
		t.Errorf("of 40 resets %d were within the reply and %d without one, and %d requests arrived; want some of each", cut, lost, arrived)
	}
}

// A late request is delivered after the sender has gone on, in this case after its next request.
func TestLateArrivesAfterTheNextRequest(t *testing.T) {
	s := newServer(t)
	release := make(chan struct{})
	p, url := startWith(t, wirefault.ConfigWith(wirefault.Config{
		Upstreams: []string{s.URL}, Plan: wirefault.Plan{Rules: []wirefault.Rule{once(wirefault.Late)}},
	}, func(ctx context.Context, _ time.Duration) {
		select {
		case <-release:
		case <-ctx.Done():
		}
	}))
	if _, err := send(t, url, "one"); err == nil {
		t.Error("the late request was answered")
	}
	if _, err := send(t, url, "two"); err != nil {
		t.Error(err)
	}
	if p.Stats().Pending != 1 {
		t.Errorf("stats are %+v, want one request to be delivered", p.Stats())
	}
	close(release)
	if err := p.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.got(); !slices.Equal(got, []string{"two", "one"}) {
		t.Errorf("the server got %q", got)
	}
}

// A delayed request arrives although its sender has given up.
func TestDelayOutlivesTheSender(t *testing.T) {
	s := newServer(t)
	waiting, release := make(chan time.Duration, 1), make(chan struct{})
	_, url := startWith(t, wirefault.ConfigWith(wirefault.Config{Upstreams: []string{s.URL}, Plan: wirefault.Plan{Rules: []wirefault.Rule{
		{Kind: wirefault.Delay, Rate: 1, Limit: 1, Min: wirefault.Duration(time.Second), Max: wirefault.Duration(2 * time.Second)},
	}}}, func(_ context.Context, d time.Duration) { waiting <- d; <-release }))
	ctx, giveUp := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() { defer close(gone); _, _ = sendCtx(ctx, t, url, "one") }()
	if d := <-waiting; d < time.Second || d > 2*time.Second {
		t.Errorf("the delay is %v, want 1s to 2s", d)
	}
	giveUp()
	<-gone
	close(release)
	<-s.came
}

func TestPartition(t *testing.T) {
	for direction, arrives := range map[wirefault.Direction]int{wirefault.Both: 0, wirefault.Requests: 0, wirefault.Replies: 1} {
		t.Run(string(direction), func(t *testing.T) {
			s := newServer(t)
			p, url := start(t, s)
			if err := p.Partition("c1", direction); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { _, err := send(t, url, "one"); done <- err }()
			if got, err := send(t, url, "other", wirefault.ClientHeader, "c2"); err != nil || got.body != "answer to other" {
				t.Errorf("another client got %+v and the error %v", got, err)
			}
			waitFor(t, func() bool { return p.Stats().Faults[wirefault.Partitioned] == 1 })
			select {
			case err := <-done:
				t.Fatalf("the client heard something during the partition: %v", err)
			default:
			}
			p.Heal("c1")
			if err := <-done; err == nil {
				t.Error("the request of the partition was answered")
			}
			if got := len(s.got()); got != 1+arrives {
				t.Errorf("%d requests arrived, want %d", got, 1+arrives)
			}
			if _, err := send(t, url, "two"); err != nil {
				t.Errorf("after the partition: %v", err)
			}
		})
	}
}

// A partition that begins while a request is under way holds its reply back.
func TestPartitionHoldsReplies(t *testing.T) {
	s := newServer(t)
	waiting, release := make(chan struct{}), make(chan struct{})
	p, url := startWith(t, wirefault.ConfigWith(wirefault.Config{Upstreams: []string{s.URL}, Plan: wirefault.Plan{Rules: []wirefault.Rule{once(wirefault.DelayReply)}}},
		func(context.Context, time.Duration) { close(waiting); <-release }))
	done := make(chan error, 1)
	go func() { _, err := send(t, url, "one"); done <- err }()
	<-waiting
	if err := p.Partition("c1", wirefault.Both); err != nil {
		t.Fatal(err)
	}
	close(release)
	waitFor(t, func() bool { return p.Stats().Faults[wirefault.Partitioned] == 1 })
	p.Heal("c1")
	if err := <-done; err == nil {
		t.Error("the client got an answer through a partition")
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it did not happen within 30 s")
}

// Each service's own form of a refusal.
func TestShapes(t *testing.T) {
	for _, c := range []struct {
		kind       wirefault.Kind
		path       string
		target     string
		statuses   []int
		text       []string // one of these is in the body
		wantHeader string
	}{
		{wirefault.Throttle, "/", "DynamoDB_20120810.UpdateItem", []int{400}, []string{"#ProvisionedThroughputExceededException", "#ThrottlingException"}, ""},
		{wirefault.Throttle, "/v1/locks/a/acquire", "", []int{429, 503}, []string{`"code":"throttled"`, "Too Many Requests", "Service Unavailable"}, ""},
		{wirefault.Throttle, "/2015-03-31/functions/acquire/invocations", "", []int{429}, []string{"Rate Exceeded"}, "TooManyRequestsException"},
		{wirefault.Error500, "/", "DynamoDB_20120810.UpdateItem", []int{500}, []string{"#InternalServerError"}, ""},
		{wirefault.Error500, "/v1/locks/a/acquire", "", []int{500}, []string{`{"message":"Internal Server Error"}`}, ""},
		{wirefault.Error500, "/2015-03-31/functions/acquire/invocations", "", []int{500}, []string{`"Type":"Service"`}, "ServiceException"},
	} {
		_, url := start(t, newServer(t), wirefault.Rule{Kind: c.kind, Rate: 1})
		seen := map[string]bool{}
		for range 20 {
			headers := []string{}
			if c.target != "" {
				headers = []string{"X-Amz-Target", c.target}
			}
			got, err := send(t, url+c.path, "{}", headers...)
			if err != nil || !slices.Contains(c.statuses, got.status) || got.header.Get("X-Amzn-Errortype") != c.wantHeader || !json.Valid([]byte(got.body)) {
				t.Fatalf("%s of %s: %+v, %v", c.kind, c.path, got, err)
			}
			for _, text := range c.text {
				if strings.Contains(got.body, text) {
					seen[text] = true
				}
			}
		}
		if len(seen) != len(c.text) {
			t.Errorf("%s of %s: bodies with %v, want %q", c.kind, c.path, seen, c.text)
		}
	}
}

// A server that does not answer is the protocol's error of status 500, and the request is not repeated.
func TestUnreachableServer(t *testing.T) {
	s := newServer(t)
	p, url := start(t, s)
	s.Close()
	got, err := send(t, url, "one", "X-Amz-Target", "DynamoDB_20120810.GetItem")
	if err != nil || got.status != 500 || !strings.Contains(got.body, "InternalServerError") || p.Stats().Unreachable != 1 {
		t.Errorf("got %+v, %v, stats %+v", got, err, p.Stats())
	}
}

func TestUpstreamsTakeTurns(t *testing.T) {
	a, b := newServer(t), newServer(t)
	p, url := startWith(t, wirefault.Config{Upstreams: []string{a.URL, b.URL}})
	for range 4 {
		if _, err := send(t, url, "x"); err != nil {
			t.Fatal(err)
		}
	}
	if len(a.got()) != 2 || len(b.got()) != 2 {
		t.Errorf("%d and %d requests arrived, want 2 each", len(a.got()), len(b.got()))
	}
	if err := p.SetUpstreams(b.URL); err != nil {
		t.Fatal(err)
	}
	if _, err := send(t, url, "x"); err != nil || len(b.got()) != 3 {
		t.Errorf("error %v; %d requests arrived at the server that is left, want 3", err, len(b.got()))
	}
}

// Server-sent events pass as they come.
func TestStreams(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: 1\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(s.Close)
	_, url := startWith(t, wirefault.Config{Upstreams: []string{s.URL}})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/events", nil)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // a test
	buf := make([]byte, 9)
	if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != "data: 1\n\n" {
		t.Errorf("read %q, %v", buf, err)
	}
}
