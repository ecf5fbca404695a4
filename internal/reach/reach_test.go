package reach_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/reach"
	"github.com/holdfast-lock/holdfast/internal/reach/relay"
)

func post(ctx context.Context, t *testing.T, c *reach.Client, url string) (*http.Response, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(`{"lease":"secret-of-a-lease"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err == nil {
		t.Cleanup(func() { _ = resp.Body.Close() })
	}
	return resp, err
}

// No redirect is followed, whatever its status and the HTTP client: the request would carry its secret along. The refusal names
// only the host of the target.
func TestRedirectsAreNotFollowed(t *testing.T) {
	var elsewhere atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+"/take?token=of-the-redirect", status)
		}))
		follows := server.Client()
		follows.CheckRedirect = func(*http.Request, []*http.Request) error { return nil }
		for name, c := range map[string]*reach.Client{"own": reach.New(nil), "given": reach.New(follows), "sdk": reach.New(buildable{follows.Transport.(*http.Transport)})} {
			_, err := post(t.Context(), t, c, server.URL)
			refusal, ok := errors.AsType[*reach.Refusal](err)
			if !ok || !strings.Contains(err.Error(), other.URL) || strings.Contains(err.Error(), "of-the-redirect") || refusal.Fix == "" {
				t.Errorf("%d with %s client: %v", status, name, err)
			}
			c.CloseIdleConnections()
		}
		if follows.CheckRedirect(nil, nil) != nil {
			t.Error("the given client was changed")
		}
		server.Close()
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d requests went elsewhere", n)
	}
}

// buildable has the methods of the SDK's BuildableClient.
type buildable struct{ transport *http.Transport }

func (b buildable) Do(*http.Request) (*http.Response, error) {
	return nil, errors.New("not to be called")
}
func (b buildable) GetTransport() *http.Transport { return b.transport }
func (b buildable) GetTimeout() time.Duration     { return 0 }

// A 304, and a redirect without a target, are returned as answers.
func TestAnswerThatIsNoRedirect(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) }))
	defer server.Close()
	c := reach.New(nil)
	defer c.CloseIdleConnections()
	if resp, err := post(t.Context(), t, c, server.URL); err != nil || resp.StatusCode != 304 {
		t.Errorf("%v, %v", resp, err)
	}
}

// No request uses the connection of a request that timed out: neither over HTTP/2, where requests share one, nor over HTTP/1.1,
// where idle ones are kept. Requests on new connections are not affected by time-outs on old ones.
func TestConnectionsAfterATimeOut(t *testing.T) {
	for _, version := range []string{"HTTP/2.0", "HTTP/1.1"} {
		t.Run(version, func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto+" "+r.RemoteAddr) }))
			server.Config.ErrorLog = log.New(io.Discard, "", 0)
			server.EnableHTTP2 = version == "HTTP/2.0"
			server.StartTLS()
			defer server.Close()
			r := relay.New(t, server.Listener.Addr().String())
			c := reach.New(server.Client())
			defer c.CloseIdleConnections()
			url := "https://" + r.Addr().String()
			all := func(ctx context.Context) (connections map[string]bool, failed int32) {
				var wg sync.WaitGroup
				var mu sync.Mutex
				connections = map[string]bool{}
				for range 4 {
					wg.Go(func() {
						resp, err := post(ctx, t, c, url)
						if err != nil {
							atomic.AddInt32(&failed, 1)
							return
						}
						data, err := io.ReadAll(resp.Body)
						used, from, _ := strings.Cut(string(data), " ")
						if used != version || err != nil {
							t.Errorf("%s, %v", data, err)
						}
						_ = resp.Body.Close()
						mu.Lock()
						defer mu.Unlock()
						connections[from] = true
					})
				}
				wg.Wait()
				return connections, failed
			}
			if _, n := all(t.Context()); n != 0 {
				t.Fatal("the first requests failed")
			}
			r.Cut()
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if _, n := all(ctx); n == 0 || version == "HTTP/2.0" && n != 4 { // over HTTP/1.1 some may have opened new connections
				t.Errorf("%d requests failed on connections that were cut", n)
			}
			connections, n := all(t.Context()) // on a dead connection these would hang
			if n != 0 {
				t.Errorf("%d requests after the time-out failed", n)
			}
			again, n := all(t.Context())
			if n != 0 {
				t.Errorf("%d of the last requests failed", n)
			}
			for from := range again {
				if version == "HTTP/2.0" && !connections[from] { // over HTTP/1.1 a request that finds no idle one opens another
					t.Errorf("the connection %s is new; the requests before used %v", from, connections)
				}
			}
		})
	}
}

// A body that stops arriving is a time-out too.
func TestBodyThatHangs(t *testing.T) {
	hang := make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		if r.URL.Path == "/hang" {
			<-hang
		}
		_, _ = io.WriteString(w, r.RemoteAddr)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	defer close(hang)
	c := reach.New(server.Client())
	defer c.CloseIdleConnections()
	from := func(path string, most time.Duration) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), most)
		defer cancel()
		resp, err := post(ctx, t, c, server.URL+path)
		if err != nil {
			return "", err
		}
		data, err := io.ReadAll(resp.Body)
		return string(data), err
	}
	first, err := from("/", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := from("/", time.Minute); same != first || err != nil {
		t.Fatalf("a second connection with no reason: %s, %v", same, err)
	}
	if _, err := from("/hang", 50*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if again, err := from("/", time.Minute); again == first || err != nil {
		t.Errorf("the connection was used again: %v", err)
	}
}

// A request that its caller cancels does not end its connection.
func TestCancelledRequestKeepsConnections(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
		}
		_, _ = io.WriteString(w, r.RemoteAddr)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	c := reach.New(server.Client())
	defer c.CloseIdleConnections()
	read := func() string {
		resp, err := post(t.Context(), t, c, server.URL)
		if err != nil {
			t.Fatal(err)
		}
		data, _ := io.ReadAll(resp.Body)
		return string(data)
	}
	first := read()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := post(ctx, t, c, server.URL+"/hang"); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if again := read(); again != first {
		t.Error("the connection was not used again")
	}
}

// dialTo makes a client whose connections are made by dial.
func dialTo(base *http.Transport, dial func(ctx context.Context, network, addr string) (net.Conn, error)) *reach.Client {
	t := base.Clone()
	t.DialContext = dial
	return reach.New(&http.Client{Transport: t})
}

func dialError(err error) *reach.Client {
	return dialTo(&http.Transport{}, func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	})
}

// Lasting failures are distinguished from transient ones, and say what to change.
func TestRefusals(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	quiet := log.New(io.Discard, "", 0)
	secure.Config.ErrorLog = quiet
	secure.TLS = &tls.Config{ClientAuth: tls.NoClientCert, MinVersion: tls.VersionTLS12}
	secure.StartTLS()
	defer secure.Close()
	strict := httptest.NewUnstartedServer(http.NotFoundHandler())
	strict.Config.ErrorLog = quiet
	strict.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12}
	strict.StartTLS()
	defer strict.Close()
	trusting := func(s *httptest.Server) *http.Transport { return s.Client().Transport.(*http.Transport).Clone() }
	later := trusting(secure)
	later.TLSClientConfig.Time = func() time.Time { return time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC) }
	_, port, _ := net.SplitHostPort(secure.Listener.Addr().String())
	talksFirst := newTalker(t, "SSH-2.0-OpenSSH_9.9\r\n")
	for what, test := range map[string]struct {
		client *reach.Client
		url    string
		says   string // empty: the failure may pass
	}{
		"unknown host":        {dialError(&net.DNSError{Name: "nosuch.test", IsNotFound: true}), "http://nosuch.test", "there is no host nosuch.test"},
		"name server away":    {dialError(&net.DNSError{Name: "nosuch.test", IsTemporary: true}), "http://nosuch.test", ""},
		"bad port":            {dialError(&net.AddrError{Err: "invalid port", Addr: "99999"}), "http://a.test", "port"},
		"refused":             {dialError(errors.New("connect: connection refused")), "http://a.test", ""},
		"unknown authority":   {reach.New(nil), secure.URL, "authority"},
		"another name":        {reach.New(&http.Client{Transport: trusting(secure)}), "https://localhost:" + port, "by a name that its certificate has"},
		"expired":             {reach.New(&http.Client{Transport: later}), secure.URL, "clock"},
		"plain HTTP":          {reach.New(nil), "https://" + plain.Listener.Addr().String(), "http://"},
		"not HTTP":            {reach.New(nil), "http://" + talksFirst, "does not speak HTTP"},
		"not TLS":             {reach.New(nil), "https://" + talksFirst, "does not speak TLS"},
		"client certificates": {reach.New(&http.Client{Transport: trusting(strict)}), strict.URL, "refuses the TLS connection"},
	} {
		_, err := post(t.Context(), t, test.client, test.url)
		refusal, lasting := errors.AsType[*reach.Refusal](err)
		if err == nil || lasting != (test.says != "") || lasting && !strings.Contains(refusal.Fix, test.says) {
			t.Errorf("%s: %v", what, err)
		}
		test.client.CloseIdleConnections()
	}
}

// newTalker listens, and sends a greeting to each client that has sent a byte.
func newTalker(t *testing.T, greeting string) string {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); work.Wait() })
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				_, _ = c.Read(make([]byte, 1)) // bytes that arrive before the request are not an answer to it
				_, _ = io.WriteString(c, greeting)
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			})
		}
	})
	return l.Addr().String()
}

// After the service has answered once, the same failure is an outage.
func TestOutageAfterAnAnswer(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	var gone atomic.Bool
	c := dialTo(&http.Transport{DisableKeepAlives: true}, func(ctx context.Context, network, _ string) (net.Conn, error) {
		if gone.Load() {
			return nil, &net.DNSError{Name: "a.test", IsNotFound: true}
		}
		return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
	})
	if _, err := post(t.Context(), t, c, "http://a.test"); err != nil {
		t.Fatal(err)
	}
	gone.Store(true)
	_, err := post(t.Context(), t, c, "http://a.test")
	if _, lasting := errors.AsType[*reach.Refusal](err); err == nil || lasting {
		t.Errorf("%v", err)
	}
}

// The environment's proxy gets no plain HTTP, which it could read. (ProxyFromEnvironment reads the environment once, so the test
// checks the transport's function.)
func TestNoProxyForPlainHTTP(t *testing.T) {
	if url, err := reach.ProxyForTLS(httptest.NewRequest(http.MethodPost, "http://holdfast.test/", nil)); url != nil || err != nil {
		t.Errorf("%v, %v", url, err)
	}
}
