package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// call runs a command line in this process, and answers its exit code and what it wrote.
func call(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(ctx, args, &streams{in: os.Stdin, out: &out, err: &errs})
	return code, out.String(), errs.String()
}

func (s *service) hold(t *testing.T, name, owner string) lock.Lease {
	t.Helper()
	l, err := s.coordinator.Acquire(t.Context(), lock.AcquireRequest{
		Lock: name, Lease: rand.Text(), Owner: owner, TTL: time.Minute, Capacity: 1, Permits: 1, Metadata: `{"build":7}`,
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestStatusListForceRelease(t *testing.T) {
	s := newService(t)
	t.Setenv("HOLDFAST_ENDPOINT", s.url)
	l := s.hold(t, "deploy:prod", "alice")
	s.hold(t, "deploy:test", "bob")
	s.hold(t, "other", "carol")
	want := func(args, says string, wantCode int) {
		t.Helper()
		code, out, errs := call(t.Context(), strings.Fields(args)...)
		if code != wantCode || !strings.Contains(out+errs, says) {
			t.Errorf("%s: exit code %d\n%s%s\nwant %d and %q", args, code, out, errs, wantCode, says)
		}
	}
	want("status deploy:prod", "deploy:prod is held\n  alice\n    fence", 0)
	want("status deploy:prod", `{"build":7}`, 0)
	want("status free", "free is free", 0)
	want("status a/b", "only A-Z a-z", exitFailed)
	want("ls deploy:", "deploy:prod  alice", 0)
	want("ls nothing", "no such locks", 0)
	want("force-release deploy:prod", "--reason", exitFailed)
	want("force-release deploy:prod --reason x --fence 1", "lock_changed", exitFailed)
	want(fmt.Sprintf("force-release deploy:prod --reason x --fence %d", l.Holder.Fence), "ended alice's lease of deploy:prod", 0)
	want("force-release deploy:prod --reason x", "nobody held deploy:prod", 0)
	want("ls --all deploy:", "deploy:prod  -", 0)

	code, out, _ := call(t.Context(), "--json", "ls", "deploy:")
	var status wire.Status
	if err := json.Unmarshal([]byte(out), &status); code != 0 || err != nil || status.Lock != "deploy:test" || status.Holders[0].Owner != "bob" {
		t.Errorf("ls --json: %d, %v: %s", code, err, out)
	}
	code, _, errs := call(t.Context(), "--json", "exec", "deploy:test", "--no-wait", "--", "true")
	var failed struct {
		Event string `json:"event"`
		Code  int    `json:"exit_code"`
	}
	if err := json.Unmarshal([]byte(errs), &failed); code != exitHeld || err != nil || failed.Event != "failed" || failed.Code != exitHeld {
		t.Errorf("exec --json: %d, %v: %s", code, err, errs)
	}
}

func TestWatchCommand(t *testing.T) {
	s := newService(t)
	t.Setenv("HOLDFAST_ENDPOINT", s.url)
	ctx, cancel := context.WithCancel(t.Context())
	out := newOutput()
	done := make(chan int)
	go func() { done <- run(ctx, []string{"--json", "watch", "a"}, &streams{in: os.Stdin, out: out, err: out}) }()
	<-out.written
	s.hold(t, "a", "alice")
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(out.String(), "alice") && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if code := <-done; code != 0 || strings.Count(out.String(), "\n") != 2 || !strings.Contains(out.String(), `"owner":"alice"`) {
		t.Errorf("exit code %d: %s", code, out)
	}
}

// Without a coordinator, with two, or with one that does not answer, the error says what to do.
func TestConnectionErrors(t *testing.T) {
	t.Setenv("HOLDFAST_ENDPOINT", "")
	for args, says := range map[string]string{
		"status a": "HOLDFAST_ENDPOINT",
		"status a --endpoint http://127.0.0.1:1 --table t": "give one",
		"status a --endpoint http://127.0.0.1:1/v1/locks":  "--endpoint",
		"status a --endpoint http://127.0.0.1:1":           "connection refused",
		"renew a --endpoint http://127.0.0.1:1":            "HOLDFAST_LEASE",
	} {
		code, _, errs := call(t.Context(), strings.Fields(args)...)
		if code != exitFailed || !strings.Contains(errs, says) {
			t.Errorf("%s: exit code %d: %s", args, code, errs)
		}
	}
	if r := regionOf("https://abc.execute-api.eu-west-1.amazonaws.com"); r != "eu-west-1" {
		t.Errorf("region %q", r)
	}
	for url, signs := range map[string]bool{"http://127.0.0.1:7420": false, "http://localhost:1": false, "http://[::1]:1": false, "https://x.execute-api.eu-west-1.amazonaws.com": true, "http://10.0.0.1": true} {
		if c := (connection{Endpoint: url, Sign: "auto"}); c.signs() != signs {
			t.Errorf("%s: signs %v", url, c.signs())
		}
	}
}

// The same commands work on a table, with no service.
func TestCommandsOnATable(t *testing.T) {
	t.Setenv("HOLDFAST_ENDPOINT", "")
	t.Setenv("HOLDFAST_TABLE", "cli-"+rand.Text())
	endpoint := os.Getenv("HOLDFAST_DYNAMODB_ENDPOINT")
	if endpoint == "" {
		t.Fatal("HOLDFAST_DYNAMODB_ENDPOINT is not set: run `make test`, or `scripts/with-dynamodb.sh go test ./...`")
	}
	if code, out, errs := call(t.Context(), "doctor"); code != exitFailed || !strings.Contains(out, "does not exist") {
		t.Errorf("doctor without a table: %d: %s%s", code, out, errs)
	}
	if code, out, errs := call(t.Context(), "init", "--table", os.Getenv("HOLDFAST_TABLE"), "--dynamodb-endpoint", endpoint); code != 0 {
		t.Fatalf("init: %d: %s%s", code, out, errs)
	}
	code, out, errs := call(t.Context(), "acquire", "a")
	lease, ok := strings.CutPrefix(strings.Split(out, "\n")[0], "HOLDFAST_LEASE=")
	if code != 0 || !ok || strings.Contains(errs, lease) {
		t.Fatalf("acquire: %d: %s%s", code, out, errs)
	}
	t.Setenv("HOLDFAST_LEASE", lease)
	for _, args := range []string{"renew a --ttl 2m", "status a", "release a", "release a", "doctor"} {
		if code, out, errs := call(t.Context(), strings.Fields(args)...); code != 0 || strings.Contains(out+errs, lease) {
			t.Errorf("%s: %d: %s%s", args, code, out, errs)
		}
	}
}

// doctor says what is wrong and what to do.
func TestDoctor(t *testing.T) {
	s := newService(t)
	late := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		at, _ := wire.At(time.Now().Add(-5 * time.Second).UnixMilli()).MarshalJSON()
		_, _ = fmt.Fprintf(w, `{"lock":"holdfast:doctor","holders":[],"server_time":%s}`, at)
	}))
	defer late.Close()
	forbidding := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = fmt.Fprint(w, `{"message":"Forbidden"}`)
	}))
	defer forbidding.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE0001")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "very-secret-key")
	for _, test := range []struct {
		args, says string
		code       int
	}{
		{"doctor --endpoint " + s.url, "ok    endpoint", 0},
		{"doctor --endpoint " + s.url + " --sign always --region eu-west-1", "key …0001", 0},
		{"doctor --endpoint http://127.0.0.1:1", "fix: check the URL and the network", exitFailed},
		{"doctor --endpoint " + late.URL, "ahead of", exitFailed},
		{"doctor --endpoint " + forbidding.URL, "execute-api:Invoke", exitFailed},
		{"doctor --endpoint ftp://x", "fix:", exitFailed},
	} {
		code, out, errs := call(t.Context(), strings.Fields(test.args)...)
		if code != test.code || !strings.Contains(out, test.says) || strings.Contains(out+errs, "very-secret-key") {
			t.Errorf("%s: exit code %d: %s%s", test.args, code, out, errs)
		}
	}
	if code, out, _ := call(t.Context(), "--json", "doctor", "--endpoint", late.URL); code != exitFailed || !strings.Contains(out, `"ok":false`) || !strings.Contains(out, `"fix":`) {
		t.Errorf("--json: %d: %s", code, out)
	}
}
