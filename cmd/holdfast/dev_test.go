package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-lock/holdfast/events"
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

// startDev runs `holdfast dev` until the test ends, and returns its URL and what it printed.
func startDev(t *testing.T, d devCmd, conn connection) (url, greeting string) {
	t.Helper()
	out := newOutput()
	d.Listen, d.stdout = "127.0.0.1:0", out
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx, slog.New(slog.DiscardHandler), &conn) }()
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

// The lines that dev prints work as they are pasted.
func TestDevPrintsLinesThatWork(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent()) // other tests keep connections for a while
	t.Run("paste", func(t *testing.T) {
		_, greeting := startDev(t, devCmd{}, connection{})
		wants := []string{`"fence":`, `"renewed_at":`, `"released_at":`}
		for line := range strings.SplitSeq(greeting, "\n") {
			if !strings.HasPrefix(line, "curl ") {
				continue
			}
			out, err := exec.CommandContext(t.Context(), "sh", "-c", "curl -sS --fail-with-body"+strings.TrimPrefix(line, "curl")).CombinedOutput()
			if err != nil || len(wants) == 0 || !strings.Contains(string(out), wants[0]) {
				t.Fatalf("%s\n%s, %v", line, out, err)
			}
			wants = wants[1:]
		}
		if len(wants) > 0 {
			t.Errorf("no line for %v in %s", wants, greeting)
		}
	})
}

// The same process works on DynamoDB, and makes its table there.
func TestDevOnDynamoDB(t *testing.T) {
	endpoint := os.Getenv("HOLDFAST_DYNAMODB_ENDPOINT")
	if endpoint == "" {
		t.Fatal("HOLDFAST_DYNAMODB_ENDPOINT is not set: run `make test`, or `scripts/with-dynamodb.sh go test ./...`")
	}
	for range 2 { // the second finds the table and the first one's fence
		url, _ := startDev(t, devCmd{}, connection{DynamodbEndpoint: endpoint, Table: "dev-test"})
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
	for _, test := range []struct {
		d    devCmd
		conn connection
		says string
	}{
		{devCmd{Listen: "256.0.0.1:1"}, connection{}, "--listen"},
		{devCmd{Listen: ""}, connection{}, "give HOST:PORT"},
		{devCmd{Listen: ":7420"}, connection{}, "unauthenticated"},
		{devCmd{Listen: "127.0.0.1:0"}, connection{DynamodbEndpoint: "127.0.0.1:1"}, "give a URL"},
		{devCmd{Listen: "127.0.0.1:0"}, connection{Table: "t"}, "need --region or --dynamodb-endpoint"},
		{devCmd{Listen: "127.0.0.1:0", CreateTable: true}, connection{}, "need --region or --dynamodb-endpoint"},
		{devCmd{Listen: "127.0.0.1:0"}, connection{DynamodbEndpoint: "http://127.0.0.1:1", Table: "t"}, "check the endpoint"},
	} {
		if err := test.d.Run(t.Context(), slog.New(slog.DiscardHandler), &test.conn); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

// init may be repeated, and leaves a table that dev can use.
func TestInit(t *testing.T) {
	endpoint := os.Getenv("HOLDFAST_DYNAMODB_ENDPOINT")
	if endpoint == "" {
		t.Fatal("HOLDFAST_DYNAMODB_ENDPOINT is not set: run `make test`, or `scripts/with-dynamodb.sh go test ./...`")
	}
	for range 2 {
		out := newOutput()
		if err := (initCmd{}).Run(t.Context(), &streams{out: out}, &connection{DynamodbEndpoint: endpoint, Table: "init-test"}); err != nil || !strings.Contains(out.String(), `"init-test" is ready`) {
			t.Errorf("%q, %v", out, err)
		}
	}
	if err := (initCmd{}).Run(t.Context(), &streams{}, &connection{DynamodbEndpoint: "x", Table: "t"}); err == nil || !strings.Contains(err.Error(), "give a URL") {
		t.Errorf("error %v", err)
	}
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
