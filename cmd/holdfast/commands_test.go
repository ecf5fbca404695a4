package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// call runs a command line in this process, and returns its exit code and its output.
func call(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(ctx, args, &streams{in: os.Stdin, out: &out, err: &errs})
	return code, out.String(), errs.String()
}

func (s *service) hold(t *testing.T, name, owner string) lock.LeaseStatus {
	t.Helper()
	l, err := s.coordinator.Acquire(t.Context(), lock.AcquireRequest{
		Lock: name, Secret: rand.Text(), Owner: owner, TTL: time.Minute, Capacity: 1, Permits: 1, Metadata: `{"build":7}`,
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
	want("status free", "free is free\n", 0)
	want("status a/b", "only A-Z a-z", exitFailed)
	want("ls deploy:", "deploy:prod  alice", 0)
	want("ls nothing", "no locks are held whose names begin with nothing", 0)
	want("ls --all nothing", "no locks are held or remembered whose names begin with nothing", 0)
	want("ls --limit 3", "other        carol", 0)
	want("ls --limit 2", "there are more than 2; give a longer prefix, or a higher --limit", 0)
	want("ls --limit 1 other", "other  carol", 0)
	want("ls --limit=-1", "--limit is -1", exitFailed)
	want("force-release deploy:prod", "--reason", exitFailed)
	want("force-release deploy:prod --reason x --fence 1", "lock_changed", exitFailed)
	want(fmt.Sprintf("force-release deploy:prod --reason x --fence %d", l.Lease.Fence), "ended alice's lease of deploy:prod", 0)
	want(fmt.Sprintf("force-release deploy:prod --reason x --fence %d", l.Lease.Fence), "was force-released before", 0)
	want("force-release deploy:prod --reason x", "nobody held deploy:prod", 0)
	want("status deploy:prod", fmt.Sprintf("deploy:prod is free, last held with fence %d\n", l.Lease.Fence), 0)
	want("force-release deploy:prod --reason=", "--reason is empty", exitFailed)
	want("force-release deploy:prod --reason x --fence 0", "--fence is 0", exitFailed)
	want("ls --all deploy:", "deploy:prod  -", 0)
	if _, err := s.coordinator.Acquire(t.Context(), lock.AcquireRequest{
		Lock: "other", Secret: rand.Text(), Owner: "dave", TTL: time.Minute, Capacity: 1, Permits: 1, Wait: time.Minute,
	}); err == nil {
		t.Error("a held lock was granted")
	}
	want("status other", "other is held, 1 wait\n", 0)
	want("status other --waiters 5", "\n  waiter 1: dave, since 20", 0)
	want("status other --waiters 101", "--waiters is 101; give 1 to 100", exitFailed)
	want("--json status other --waiters 5", `"queue":[{"position":1,"owner":"dave","permits":1,"joined_at":"20`, 0)

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

// A writer holds the lock alone until it becomes a reader.
func TestReadAndWrite(t *testing.T) {
	s := newService(t)
	t.Setenv("HOLDFAST_ENDPOINT", s.url)
	dir := t.TempDir()
	for _, step := range []struct {
		args, says string
		code       int
	}{
		{"acquire a --write --lease-file FILE", "", 0},
		{"exec a --read --no-wait -- true", "lock is held by", exitHeld},
		{"release a --downgrade --lease-file FILE", "a is shared with other readers now", 0},
		{"acquire a --read --no-wait --lease-file READER", "acquired a", 0},
		{"exec a --write --no-wait -- true", "lock is held by", exitHeld},
		{"exec a --no-wait -- true", "capacity_mismatch", exitFailed},
		{"release a --lease-file FILE", "released a", 0},
		{"release a --lease-file READER", "released a", 0},
		{"acquire a --write --no-wait --lease-file FILE", "acquired a", 0},
	} {
		args := strings.NewReplacer(" FILE", " "+dir+"/writer", "READER", dir+"/reader").Replace(step.args)
		code, out, errs := call(t.Context(), strings.Fields(args)...)
		if code != step.code || !strings.Contains(out+errs, step.says) {
			t.Errorf("%s: %d: %s%s; want %d and %q", step.args, code, out, errs, step.code, step.says)
		}
	}
}

// renew replaces the metadata that others see.
func TestRenewMetadata(t *testing.T) {
	s := newService(t)
	t.Setenv("HOLDFAST_ENDPOINT", s.url)
	t.Setenv("HOLDFAST_LEASE", "my-secret-lease-0001")
	if _, err := s.coordinator.Acquire(t.Context(), lock.AcquireRequest{
		Lock: "a", Secret: "my-secret-lease-0001", TTL: time.Minute, Capacity: 1, Permits: 1, Metadata: `{"build":7}`,
	}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ flag, metadata string }{{"", `{"build":7}`}, {`--metadata={"build":8}`, `{"build":8}`}, {"--metadata={}", `{}`}} {
		code, _, errs := call(t.Context(), strings.Fields("renew a "+test.flag)...)
		status, err := s.coordinator.Status(t.Context(), "a")
		if code != 0 || err != nil || len(status.Holders) != 1 || status.Holders[0].Metadata != test.metadata {
			t.Errorf("%q: %d: %s %+v %v", test.flag, code, errs, status, err)
		}
	}
	if code, _, errs := call(t.Context(), "renew", "a", "--metadata=[]"); code != exitFailed || !strings.Contains(errs, "--metadata is not a JSON object") {
		t.Errorf("%d: %s", code, errs)
	}
}

func TestName(t *testing.T) {
	for _, test := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"name", "feature/x y"}, 0, "feature=2Fx=20y\n"},
		{[]string{"name", "--decode", "feature=2Fx=20y"}, 0, "feature/x y\n"},
		{[]string{"name", "caf\xe9"}, 0, "caf=E9\n"},
		{[]string{"name", "--json", "a/b"}, 0, `{"name":"a=2Fb","text":"a/b"}` + "\n"},
		{[]string{"name", "--json", "--decode", "a=2Fb"}, 0, `{"name":"a=2Fb","text":"a/b"}` + "\n"},
		{[]string{"name", ""}, exitFailed, "holdfast: there is no lock name for an empty text"},
		{[]string{"name", strings.Repeat("/", 100)}, exitFailed, "300 bytes"},
		{[]string{"name", "--decode", "a=2"}, exitFailed, "holdfast: name \"a=2\" is not as"},
		{[]string{"name", "--decode", "a=2f"}, exitFailed, "upper-case"},
	} {
		code, out, errs := call(t.Context(), test.args...)
		if code != test.code || test.code == 0 && out != test.says || !strings.Contains(out+errs, test.says) {
			t.Errorf("%q: %d: %q %q", test.args, code, out, errs)
		}
	}
	wide := 80
	s, b := terminal(&wide)
	if code := run(t.Context(), []string{"name", "--decode", "=1B"}, s); code != 0 || strings.Contains(b.String(), "\x1b") {
		t.Errorf("on a terminal: %d: %q", code, b)
	}
}

func TestListOfNothing(t *testing.T) {
	s := newService(t)
	for flags, says := range map[string]string{"": "no locks are held\n", "--all": "no locks are held or remembered\n"} {
		if code, out, errs := call(t.Context(), append(strings.Fields("ls --endpoint "+s.url), strings.Fields(flags)...)...); code != 0 || out != "" || errs != "holdfast: "+says {
			t.Errorf("ls %s: %d: %q %q", flags, code, out, errs)
		}
	}
}

// Texts of a holder are escaped, so that they can neither control the reader's terminal nor mislead the reader.
func TestHoldersCannotMislead(t *testing.T) {
	const evil = "\x1b[2J\u009b2J\u202etxt\u2066\u200f\n"
	holder := wire.Holder{Owner: evil, Principal: evil, Fence: 7, Permits: 1, Remaining: 60_000, Metadata: json.RawMessage(`{"k":"\u009b\u202e` + "\u009b\u202e" + `"}`)}
	held := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := wire.Status{Lock: "a", Locked: true, Capacity: 1, Fence: 7, Holders: []wire.Holder{holder}}
		var answer any = status
		switch {
		case strings.HasSuffix(r.URL.Path, "/acquire"):
			w.WriteHeader(http.StatusConflict)
			answer = wire.Problem{Code: wire.LockHeld, Status: http.StatusConflict, Detail: evil, Holders: []wire.ProblemHolder{{Owner: evil, Fence: 7}}}
		case strings.HasSuffix(r.URL.Path, "/renew"), strings.HasSuffix(r.URL.Path, "/refused"):
			w.WriteHeader(http.StatusBadRequest)
			answer = wire.Problem{Code: wire.InvalidRequest, Status: http.StatusBadRequest, Detail: evil}
		case strings.HasSuffix(r.URL.Path, "/force-release"):
			answer = wire.ForceReleased{Lock: "a", Released: []wire.Holder{holder}}
		case r.URL.Path == "/v1/locks":
			answer = wire.List{Locks: []wire.Status{status}}
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	defer held.Close()
	t.Setenv("HOLDFAST_ENDPOINT", held.URL)
	t.Setenv("HOLDFAST_LEASE", "my-secret-lease-0001")
	for args, shows := range map[string]string{
		"status a": `\u001b[2J\u009b2J\u202etxt\u2066\u200f\n`, "ls": `\u202etxt`, "watch a": `\u202etxt`, "force-release a --reason x": `\u202etxt`, "acquire a --no-wait": "",
		"acquire a --wait 1ms": "", "renew a": `\u202etxt`, "status refused": `\u202etxt`,
	} {
		for _, json := range []string{"", " --json"} {
			ctx, cancel := context.WithCancel(t.Context())
			out := newOutput()
			if strings.HasPrefix(args, "watch") {
				go func() { <-out.written; cancel() }()
			}
			run(ctx, strings.Fields(args+json), &streams{in: os.Stdin, out: out, err: out})
			cancel()
			if text := out.String(); strings.ContainsAny(text, "\x1b\u009b\u202e\u2066\u200f") || !strings.Contains(text, shows) || text == "" {
				t.Errorf("%s%s: %q", args, json, text)
			}
		}
	}
}

// Errors name flags, not lockclient's settings.
func TestErrorsAreInTheCommandsWords(t *testing.T) {
	inSource := regexp.MustCompile(`"(?:[^"\\\n]|\\.)*\b(?:Config|Options)\.[A-Z](?:[^"\\\n]|\\.)*"`)
	files, err := filepath.Glob("../../lockclient/*.go")
	direct, _ := filepath.Glob("../../lockclient/direct/*.go")
	if err != nil || len(files) == 0 || len(direct) == 0 {
		t.Fatal("no sources", err)
	}
	n := 0
	dynamo, _ := filepath.Glob("../../internal/dynamo/*.go")
	for _, file := range slices.Concat(files, direct, dynamo) {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, text := range inSource.FindAllString(string(source), -1) {
			n++
			if said := message(errors.New(text)); strings.Contains(said, "Config.") || strings.Contains(said, "Options.") {
				t.Errorf("%s becomes %s", text, said)
			}
		}
	}
	if n < 10 {
		t.Errorf("found %d texts", n)
	}
	for text, want := range map[string]string{
		"lockclient: Config.Owner is 300 bytes long":   "--owner is 300 bytes long",
		"Options.TTL is 0s":                            "--ttl is 0s",
		"check Config.RequestTimeout":                  "check --timeout",
		"direct: Config.Table is \"qp\"":               "--table is \"qp\"",
		"Config.DynamodbEndpoint":                      "--dynamodb-endpoint",
		"acquire failed: a: context deadline exceeded": "acquire failed: a: no answer in time",
		"coordinator is unavailable: it did not answer in time: context deadline exceeded":                       "coordinator is unavailable: it did not answer in time",
		`Post "http://127.0.0.1:1/v1/locks/x/acquire": dial tcp 127.0.0.1:1: connect: connection refused`:        "http://127.0.0.1:1: connection refused",
		`Post "http://[::1]:1/v1/locks/x/acquire": dial tcp [::1]:1: connect: connection refused`:                "http://[::1]:1: connection refused",
		`Get "https://no.invalid/p/v1/locks/a": dial tcp: lookup no.invalid on 10.0.0.1:53: no such host`:        "https://no.invalid/p: no such host",
		`Get "https://127.0.0.1:9/v1/locks": tls: failed to verify certificate`:                                  "https://127.0.0.1:9: tls: failed to verify certificate",
		`Get "http://127.0.0.1:9/v1/locks/a": read tcp 127.0.0.1:1->127.0.0.1:9: read: connection reset by peer`: "http://127.0.0.1:9: read tcp 127.0.0.1:1->127.0.0.1:9: read: connection reset by peer",
	} {
		if said := message(errors.New(text)); said != want {
			t.Errorf("%s becomes %s", text, said)
		}
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

// The error says what to do if no coordinator is named, if two are, or if the coordinator does not answer.
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

// The same commands work on a table directly.
func TestCommandsOnATable(t *testing.T) {
	t.Setenv("HOLDFAST_ENDPOINT", "")
	t.Setenv("HOLDFAST_TABLE", awstest.TableName(t, "cli"))
	endpoint := awstest.Endpoint(t)
	if code, out, errs := call(t.Context(), "doctor"); code != exitFailed || !strings.Contains(out, "does not exist") || strings.Count(out, "run holdfast init") != 1 {
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

// doctor reports what is wrong and how to fix it.
func TestDoctor(t *testing.T) {
	s := newService(t)
	late := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		at, _ := wire.At(time.Now().Add(-5 * time.Second).UnixMilli()).MarshalJSON()
		_, _ = fmt.Fprintf(w, `{"lock":"holdfast:doctor","holders":[],"server_time":%s}`, at)
	}))
	defer late.Close()
	plusless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at, _ := wire.At(time.Now().UnixMilli()).MarshalJSON()
		_, _ = fmt.Fprintf(w, `{"lock":%q,"holders":[],"server_time":%s}`, strings.ReplaceAll(strings.TrimPrefix(r.URL.Path, "/v1/locks/"), "+", " "), at)
	}))
	defer plusless.Close()
	exact := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "+") || r.URL.Path == "/v1/locks" {
			w.WriteHeader(http.StatusForbidden)
			_, _ = fmt.Fprint(w, `{"message":"Forbidden"}`)
			return
		}
		at, _ := wire.At(time.Now().UnixMilli()).MarshalJSON()
		_, _ = fmt.Fprintf(w, `{"lock":%q,"holders":[],"server_time":%s}`, strings.TrimPrefix(r.URL.Path, "/v1/locks/"), at)
	}))
	defer exact.Close()
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_ = json.NewEncoder(w).Encode(wire.Problem{Code: wire.Misconfigured, Status: 500, Detail: "table \"x\" does not exist"})
	}))
	defer broken.Close()
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
		{"doctor --endpoint " + forbidding.URL, "--lock", exitFailed},
		{"doctor --endpoint " + s.url, "ok    names        a name with a + arrives unchanged", 0},
		{"doctor --lock deploy:x --endpoint " + s.url, "ok    endpoint", 0},
		{"doctor --lock a/b --endpoint " + s.url, "give another lock's name with --lock", exitFailed},
		{"doctor --endpoint " + plusless.URL, "FAIL  names        the name holdfast:doctor+, with a +, does not arrive unchanged", exitFailed},
		{"doctor --endpoint " + plusless.URL, "ok    endpoint", exitFailed},
		{"doctor --endpoint " + exact.URL + " --lock deploy:x", "ok    names        not checked whether a name with a + arrives unchanged: the credentials may not read deploy:x+", 0},
		{"doctor --endpoint " + exact.URL + " --lock deploy:x", "ok    stuck locks  not looked for", 0},
		{"doctor --endpoint " + s.url, "is free with waiters", 0},
		{"doctor --endpoint " + broken.URL, "fix the coordinator", exitFailed},
		{"doctor --sign never --endpoint http://nosuch.invalid:1", "fix: the name nosuch.invalid does not resolve", exitFailed},
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
