package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/internal/local"
	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// output is a buffer that says when something was written.
type output struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	written chan struct{} // closed at the first write
	once    sync.Once
}

func newOutput() *output { return &output{written: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer o.once.Do(func() { close(o.written) })
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// minDevTTL is dev's default: leases that expire while a test waits.
const minDevTTL = 100 * time.Millisecond

// startDev runs `holdfast dev` until the test ends, and returns its URL and what it printed.
func startDev(t *testing.T, d devCmd, conn connection) (url, greeting string) {
	t.Helper()
	out := newOutput()
	d.Listen, d.MinTTL, d.MaxTTL = "127.0.0.1:0", cmp.Or(d.MinTTL, minDevTTL), cmp.Or(d.MaxTTL, wire.DefaultMaxTTL)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx, &streams{out: out}, slog.New(slog.DiscardHandler), &conn) }()
	select {
	case <-out.written:
	case err := <-ended:
		t.Fatalf("dev ended: %v", err)
	}
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("dev: %v", err)
		}
	})
	greeting = out.String()
	return regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(greeting), greeting
}

// The command lines that dev prints work when pasted: as a block, and each twice.
func TestDevPrintsLinesThatWork(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent()) // other tests keep connections for a while
	t.Run("paste", func(t *testing.T) {
		_, greeting := startDev(t, devCmd{}, connection{})
		var block, twice []string
		for line := range strings.SplitSeq(greeting, "\n") {
			if strings.HasPrefix(line, "lease=") || strings.HasPrefix(line, "curl ") {
				line = strings.ReplaceAll(line, "curl ", "curl -sS ")
				block, twice = append(block, line), append(twice, line, line)
			}
		}
		script := strings.Join(slices.Concat(block, block, twice, twice), "\necho\n")
		for _, shell := range []string{"sh", "bash"} {
			out, err := exec.CommandContext(t.Context(), shell, "-c", script).CombinedOutput()
			if err != nil || strings.Contains(string(out), "urn:holdfast:problem") {
				t.Fatalf("%s: %v: %s", shell, err, out)
			}
			if n, m := strings.Count(string(out), `"renewed_at"`), strings.Count(string(out), `"released_at"`); n != 12 || m != 6 {
				t.Errorf("%s: %d leases and %d releases: %s", shell, n, m, out)
			}
		}
	})
}

// dev works on DynamoDB, and creates its table there.
func TestDevOnDynamoDB(t *testing.T) {
	endpoint, table := awstest.Endpoint(t), awstest.TableName(t, "dev")
	for range 2 { // the second finds the table and the first one's fence
		url, _ := startDev(t, devCmd{}, connection{DynamodbEndpoint: endpoint, Table: table})
		client, err := lockclient.New(lockclient.Config{Endpoint: url})
		if err != nil {
			t.Fatal(err)
		}
		lease, err := client.Acquire(t.Context(), "a", lockclient.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := lease.Release(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestDevSaysWhatIsWrong(t *testing.T) {
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	taken := other.Addr().String()
	for _, test := range []struct {
		d    devCmd
		conn connection
		says string
	}{
		{devCmd{Options: local.Options{Listen: "256.0.0.1:1", ListenHint: "make run LISTEN=HOST:PORT"}}, connection{}, "choose another address with make run LISTEN=HOST:PORT"},
		{devCmd{Options: local.Options{Listen: "", ListenHint: "--listen HOST:PORT"}}, connection{}, "with --listen HOST:PORT"},
		{devCmd{Options: local.Options{Listen: ":7420"}}, connection{}, "add --allow-remote"},
		{devCmd{Options: local.Options{Listen: "0.0.0.0:0"}}, connection{}, "0.0.0.0:0 serves anyone who can reach this machine"},
		{devCmd{Options: local.Options{Listen: "[::]:0"}}, connection{}, "add --allow-remote"},
		{devCmd{Options: local.Options{Listen: taken, ListenHint: "--listen HOST:PORT"}}, connection{}, "address already in use; choose another address with --listen"},
		{devCmd{Options: local.Options{Listen: "127.0.0.1:0"}}, connection{DynamodbEndpoint: "127.0.0.1:1"}, "give a URL"},
		{devCmd{Options: local.Options{Listen: "127.0.0.1:0"}}, connection{Table: "locks"}, "need --region or --dynamodb-endpoint"},
		{devCmd{Options: local.Options{Listen: "127.0.0.1:0"}, CreateTable: true}, connection{}, "need --region or --dynamodb-endpoint"},
		{devCmd{Options: local.Options{Listen: "127.0.0.1:0"}}, connection{DynamodbEndpoint: "http://127.0.0.1:1", Table: "locks"}, "check the endpoint"},
		{devCmd{Options: local.Options{Listen: "127.0.0.1:0", MinTTL: time.Microsecond}}, connection{}, "--min-ttl is 1µs; give 1ms to 1m0s"},
		{devCmd{Options: local.Options{Listen: "127.0.0.1:0", MinTTL: time.Hour}}, connection{}, "--min-ttl is 1h0m0s"},
		{devCmd{Options: local.Options{Listen: "127.0.0.1:0", MaxTTL: time.Second}}, connection{}, "--max-ttl is 1s; give 1m0s to 168h0m0s"},
		{devCmd{Options: local.Options{Listen: "127.0.0.1:0", MaxTTL: 169 * time.Hour}}, connection{}, "--max-ttl is 169h0m0s"},
	} {
		test.d.MinTTL, test.d.MaxTTL = cmp.Or(test.d.MinTTL, time.Second), cmp.Or(test.d.MaxTTL, wire.DefaultMaxTTL)
		if err := test.d.Run(t.Context(), &streams{}, slog.New(slog.DiscardHandler), &test.conn); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

// init may be repeated, and creates a table that dev can use.
func TestInit(t *testing.T) {
	endpoint, table := awstest.Endpoint(t), awstest.TableName(t, "init")
	for range 2 {
		out := newOutput()
		if err := (initCmd{}).Run(t.Context(), &streams{out: out}, &connection{DynamodbEndpoint: endpoint, Table: table}); err != nil || !strings.Contains(out.String(), fmt.Sprintf("%q is ready", table)) {
			t.Errorf("%q, %v", out, err)
		}
	}
	if err := (initCmd{}).Run(t.Context(), &streams{}, &connection{DynamodbEndpoint: "x", Table: "t"}); err == nil || !strings.Contains(err.Error(), "give a URL") {
		t.Errorf("error %v", err)
	}
}

// dev accepts the TTLs of AWS with --min-ttl 1s, and longer ones with --max-ttl; it says that its default minimum
// differs.
func TestDevTTLs(t *testing.T) {
	const day = 24 * time.Hour
	for _, test := range []struct {
		least, most time.Duration
		ttl         int64
		status      int
		differs     bool
	}{
		{time.Second, day, 999, 400, false}, {time.Second, day, 1000, 200, false}, {100 * time.Millisecond, day, 100, 200, true}, {100 * time.Millisecond, day, 99, 400, true},
		{time.Second, 7 * day, (7 * day).Milliseconds(), 200, false}, {time.Second, day, day.Milliseconds() + 1, 400, false},
	} {
		url, greeting := startDev(t, devCmd{Options: local.Options{MinTTL: test.least, MaxTTL: test.most}}, connection{})
		resp, err := http.Post(url+"/v1/locks/a/acquire", "application/json", strings.NewReader(fmt.Sprintf(`{"ttl_ms":%d}`, test.ttl)))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != test.status || strings.Contains(greeting, "--min-ttl 1s") != test.differs {
			t.Errorf("%+v: %d: %s", test, resp.StatusCode, greeting)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// Requests from web pages are refused.
func TestDevRefusesWebPages(t *testing.T) {
	url, _ := startDev(t, devCmd{Options: local.Options{AllowHost: []string{"holdfast"}}}, connection{})
	for host, status := range map[string]int{"": 200, "holdfast:1": 200, "evil.example:7420": 400} {
		for _, path := range []string{"/v1/locks/a", "/v1/events?prefix=%"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+path, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = cmp.Or(host, req.Host)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if refused := strings.Contains(string(body), `"field":"host"`); refused != (status == 400) || path == "/v1/locks/a" && resp.StatusCode != status {
				t.Errorf("Host %q, %s: %d %s", host, path, resp.StatusCode, body)
			}
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// Events come live, as EventBridge would deliver them.
func TestDevStreamsEvents(t *testing.T) {
	url, _ := startDev(t, devCmd{}, connection{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/events", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	lines.Scan() // the greeting: from here on nothing is missed
	client, err := lockclient.New(lockclient.Config{Endpoint: url, Owner: "me"})
	if err != nil {
		t.Fatal(err)
	}
	lease, err := client.Acquire(ctx, "dev:x", lockclient.Options{TTL: 300 * time.Millisecond, ManualRenew: true})
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for len(kinds) < 2 && lines.Scan() {
		if kind, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			kinds = append(kinds, kind)
		}
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var envelope struct {
			DetailType string          `json:"detail-type"`
			Detail     json.RawMessage `json:"detail"`
		}
		if err := json.Unmarshal([]byte(data), &envelope); err != nil {
			t.Fatal(err)
		}
		e, err := events.Decode(envelope.DetailType, envelope.Detail)
		if err != nil || e.Subject().Fence != lease.Fence() {
			t.Errorf("event %s, %v", data, err)
		}
	}
	if !slices.Equal(kinds, []string{events.TypeAcquired, events.TypeExpired}) {
		t.Errorf("events %v", kinds)
	}
	_ = client.Close(t.Context())
	http.DefaultClient.CloseIdleConnections()
}
