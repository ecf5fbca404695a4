package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/local"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

const queuePrefix = "https://sqs.eu-west-1.amazonaws.com/123456789012/h-notify-"

// A fakeQueues answers SQS's JSON protocol for one queue, and is what the coordinator sends to.
type fakeQueues struct {
	denied   string // the operation that is not allowed
	messages chan string

	mu    sync.Mutex
	calls []string
	tags  map[string]string // of the queues that ListQueues lists, the time of their owners
}

// Notify implements [stream.Notifications].
func (f *fakeQueues) Notify(_ context.Context, _ string, message []byte) error {
	f.messages <- string(message)
	return nil
}

func (f *fakeQueues) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	op := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "AmazonSQS.")
	var in struct {
		QueueName string
		QueueURL  string `json:"QueueUrl"`
	}
	_ = json.NewDecoder(r.Body).Decode(&in)
	f.mu.Lock()
	f.calls = append(f.calls, op)
	f.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	if op == f.denied {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = fmt.Fprintf(w, `{"__type":"com.amazonaws.sqs#AccessDenied","message":"not authorized to perform sqs:%s"}`, op)
		return
	}
	answer := any(map[string]any{})
	switch op {
	case "CreateQueue":
		answer = map[string]any{"QueueUrl": "https://sqs.eu-west-1.amazonaws.com/123456789012/" + in.QueueName}
	case "ReceiveMessage":
		select {
		case m := <-f.messages:
			answer = map[string]any{"Messages": []any{map[string]any{"Body": m, "ReceiptHandle": "r", "MessageId": "m"}}}
		case <-r.Context().Done():
		}
	case "ListQueues":
		var urls []string
		for url := range f.tags {
			urls = append(urls, url)
		}
		answer = map[string]any{"QueueUrls": urls}
	case "ListQueueTags":
		answer = map[string]any{"Tags": map[string]string{"holdfast:alive-until": f.tags[in.QueueURL]}}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (f *fakeQueues) count(op string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		if c == op {
			n++
		}
	}
	return n
}

// newQueues starts a fake SQS and sets the environment for it.
func newQueues(t *testing.T) *fakeQueues {
	f := &fakeQueues{messages: make(chan string, 10)}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	t.Setenv("AWS_ENDPOINT_URL_SQS", server.URL)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	return f
}

// notifyingService is a coordinator that notifies waiters through a fake SQS.
func notifyingService(t *testing.T, f *fakeQueues) (coordinator *lock.Coordinator, acquires *atomic.Int64, url string) {
	log := slog.New(slog.DiscardHandler)
	var err error
	coordinator, err = lock.New(lock.Config{Store: &lock.Memory{}, Granted: stream.AtOnce(nil, f, log, "")})
	if err != nil {
		t.Fatal(err)
	}
	a, err := api.New(api.Config{Coordinator: coordinator, Log: log, NotifyPrefix: queuePrefix})
	if err != nil {
		t.Fatal(err)
	}
	g := local.NewGateway(a, log)
	acquires = new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.ServeHTTP(w, r)
		if strings.HasSuffix(r.URL.Path, "/acquire") {
			acquires.Add(1)
		}
	}))
	t.Cleanup(server.Close)
	return coordinator, acquires, server.URL
}

// A lockedText is what a command has written.
type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// waitFor waits until a condition holds.
func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s has not happened", what)
		}
	}
}

// exec and acquire are notified of their grant by a queue, which they delete. Where they may not, they poll, and say so with --verbose.
func TestNotify(t *testing.T) {
	for _, test := range []struct {
		line   string
		prefix string
		denied string
		says   []string // "": nothing about polling
		polls  bool
	}{
		{line: "acquire a --verbose", prefix: queuePrefix},
		{line: "exec a --verbose -- true", prefix: queuePrefix},
		{line: "exec a --verbose -- true", says: []string{"by polling: --notify-prefix is not set"}, polls: true},
		{line: "exec a -v -- true", prefix: queuePrefix, denied: "CreateQueue", says: []string{"by polling: cannot make a queue", "sqs:CreateQueue"}, polls: true},
		{line: "exec a -v -- true", prefix: queuePrefix, denied: "ReceiveMessage", says: []string{"by polling: cannot read the queue", "sqs:ReceiveMessage"}, polls: true},
		{line: "acquire a --verbose", prefix: queuePrefix, denied: "DeleteQueue", says: []string{"is left: cannot delete the queue", "sqs:DeleteQueue"}},
		{line: "exec a -v -- true", prefix: "https://sqs.eu-west-1.amazonaws.com/123456789012/other-notify-", says: []string{"by polling: the coordinator sends it no notifications", "h-notify-"}, polls: true},
		{line: "exec a -- true", prefix: queuePrefix, denied: "CreateQueue", polls: true},
	} {
		t.Run(test.line+" "+test.denied, func(t *testing.T) {
			f := newQueues(t)
			f.denied = test.denied
			coordinator, acquires, url := notifyingService(t, f)
			t.Setenv("HOLDFAST_NOTIFY_PREFIX", test.prefix)
			if _, err := coordinator.Acquire(t.Context(), lock.AcquireRequest{Lock: "a", Secret: "holder-0123456789", TTL: time.Minute, Capacity: 1, Permits: 1}); err != nil {
				t.Fatal(err)
			}
			cmd := holdfast(t, url, slices.Insert(strings.Fields(test.line), 1, "--ttl=1h")...)
			var said lockedText
			cmd.Stdout, cmd.Stderr = &said, &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the wait", func() bool {
				if test.polls && len(test.says) > 0 {
					return strings.Contains(said.String(), "by polling")
				}
				return acquires.Load() >= 2 // the second has the address
			})
			if _, err := coordinator.Release(t.Context(), lock.ReleaseRequest{Lock: "a", Secret: "holder-0123456789"}); err != nil {
				t.Fatal(err)
			}
			code, text := exitOf(cmd.Wait()), said.String()
			for _, says := range test.says {
				if !strings.Contains(text, says) {
					t.Errorf("it does not say %q: %s", says, text)
				}
			}
			if polling := strings.Contains(text, "by polling"); code != 0 || polling != (test.polls && len(test.says) > 0) || strings.Contains(text, "Config.") {
				t.Errorf("exit code %d: %s", code, text)
			}
			if made := f.count("CreateQueue") > 0 && test.denied != "CreateQueue"; made && f.count("DeleteQueue") == 0 {
				t.Error("the queue was not deleted")
			}
		})
	}
}

// A wait that asks once makes no queue.
func TestNoWaitMakesNoQueue(t *testing.T) {
	f := newQueues(t)
	coordinator, _, url := notifyingService(t, f)
	if _, err := coordinator.Acquire(t.Context(), lock.AcquireRequest{Lock: "a", Secret: "holder-0123456789", TTL: time.Minute, Capacity: 1, Permits: 1}); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := call(t.Context(), "acquire", "a", "--no-wait", "--endpoint="+url, "--notify-prefix="+queuePrefix); code != exitHeld || len(f.calls) > 0 {
		t.Errorf("exit code %d, requests %v: %s", code, f.calls, errs)
	}
}

func TestSweep(t *testing.T) {
	f := newQueues(t)
	stamp := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }
	f.tags = map[string]string{queuePrefix + "old": stamp(-2 * time.Hour), queuePrefix + "alive": stamp(time.Hour), queuePrefix + "odd": ""}
	code, out, errs := call(t.Context(), "sweep", "--notify-prefix="+queuePrefix)
	if code != 0 || !strings.Contains(out, "deleted 1 queues; the owners of 1 live") || !strings.Contains(out, "deleted "+queuePrefix+"old") || !strings.Contains(out, "left 1 ") {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
	code, out, errs = call(t.Context(), "sweep", "--json", "--notify-prefix="+queuePrefix)
	var result struct {
		Deleted, Unknown []string
		Alive            int
	}
	if err := json.Unmarshal(bytes.TrimSpace([]byte(out)), &result); err != nil || code != 0 || len(result.Deleted) != 1 || result.Alive != 1 || len(result.Unknown) != 1 {
		t.Errorf("exit code %d, %v: %s%s", code, err, out, errs)
	}
	f.denied = "ListQueues"
	code, _, errs = call(t.Context(), "sweep", "--notify-prefix="+queuePrefix)
	if code != exitFailed || !strings.Contains(errs, "sqs:ListQueues") {
		t.Errorf("exit code %d: %s", code, errs)
	}
	for args, says := range map[string]string{
		"sweep":                   "which queues? Give --notify-prefix",
		"sweep --notify-prefix x": "--notify-prefix is \"x\", which is no URL",
		"acquire a --notify-prefix x --endpoint=http://x --sign=never": "--notify-prefix is \"x\", which is no URL",
		"sweep --notify-prefix http://127.0.0.1:1/1/a-":                "no region",
		"sweep --endpoint http://x --notify-prefix x":                  "does not use a coordinator",
	} {
		if code, _, errs := call(t.Context(), strings.Fields(args)...); code != exitFailed || !strings.Contains(errs, says) || strings.Contains(errs, "Config.") {
			t.Errorf("%s: exit code %d: %s", args, code, errs)
		}
	}
}
