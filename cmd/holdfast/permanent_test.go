package main

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// answer is a server that always gives one answer, and counts its requests.
func answer(t *testing.T, secure bool, status int, body string) (url string, requests *atomic.Int64) {
	t.Helper()
	requests = &atomic.Int64{}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		if strings.Contains(body, "__type") {
			w.Header().Set("Content-Type", "application/x-amz-json-1.0")
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	if secure {
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	return server.URL, requests
}

// Permanent failures end every command at once, and the error names the fix.
func TestPermanentFailures(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_REGION", "eu-west-1")
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	t.Setenv("HOLDFAST_LEASE", "my-secret-lease-0001")
	t.Setenv("HOLDFAST_ENDPOINT", "")
	t.Setenv("HOLDFAST_TABLE", "")
	fault := func(kind, message string) string {
		return fmt.Sprintf(`{"__type":"com.amazonaws.dynamodb.v20120810#%s","message":%q}`, kind, message)
	}
	commands := []string{"exec", "acquire", "renew", "release", "status", "ls", "watch", "force-release", "doctor"}
	for _, test := range []struct {
		what   string
		table  bool // through a table itself
		secure bool
		url    string // in place of the server
		status int
		body   string
		says   []string
	}{
		{what: "missing table", table: true, status: 400, body: fault("ResourceNotFoundException", "Requested resource not found"), says: []string{`"locks" does not exist`, "holdfast init"}},
		{what: "wrong key schema", table: true, status: 400, body: fault("ValidationException", "The provided key element does not match the schema"), says: []string{"another key schema", "pk"}},
		{what: "no permission on the table", table: true, status: 400, body: fault("AccessDeniedException", "no"), says: []string{"not allowed", "allow this role dynamodb:"}},
		{what: "expired credentials for the table", table: true, status: 400, body: fault("ExpiredTokenException", "expired"), says: []string{"credentials", "renew"}},
		{what: "a table's host that does not exist", table: true, url: "http://nosuch.invalid:1", says: []string{"there is no host nosuch.invalid", "check the endpoint"}},
		{what: "a table's TLS", table: true, secure: true, says: []string{"certificate"}},
		{what: "the coordinator's table", status: 500, body: `{"code":"misconfigured","detail":"table \"x\" does not exist; create it with holdfast init"}`, says: []string{"does not exist", "holdfast init"}},
		{what: "no permission", status: 403, body: `{"message":"User: arn:aws:iam::1:user/x is not authorized to perform: execute-api:Invoke on resource: ` + strings.Repeat("x", 300) + `"}`, says: []string{"not authorized", "execute-api:Invoke on this route"}},
		{what: "forbidden", status: 403, body: `{"message":"Forbidden"}`, says: []string{"Forbidden", "execute-api:Invoke"}},
		{what: "expired credentials", status: 403, body: `{"message":"The security token included in the request is expired"}`, says: []string{"aws sso login"}},
		{what: "no coordinator", status: 404, body: "<html>not here</html>", says: []string{"no coordinator at this URL", "--endpoint"}},
		{what: "a web page", status: 200, body: "<html>hello</html>", says: []string{"no coordinator at this URL"}},
		{what: "a host that does not exist", url: "http://nosuch.invalid:1", says: []string{"nosuch.invalid", "check the endpoint"}},
		{what: "TLS refused", secure: true, says: []string{"certificate"}},
	} {
		for _, command := range commands {
			t.Run(test.what+"/"+command, func(t *testing.T) {
				url, requests := answer(t, test.secure, test.status, test.body)
				if test.url != "" {
					url = test.url
				}
				flags := []string{"--endpoint=" + url, "--sign=never"}
				if test.table {
					flags = []string{"--table=locks", "--dynamodb-endpoint=" + url}
				}
				code, out, errs := call(t.Context(), with(commandLines[command], false, flags...)...)
				said := out + errs
				for _, text := range test.says {
					if !strings.Contains(said, text) {
						t.Errorf("it does not say %q: %s", text, said)
					}
				}
				for _, text := range []string{"Config.", "Options.", `{"message"`, "trying", "(request )"} {
					if strings.Contains(said, text) {
						t.Errorf("it says %q: %s", text, said)
					}
				}
				if code != exitFailed || requests.Load() > 2 || command == "force-release" && strings.Contains(said, "release failed") && !strings.Contains(said, "force-release failed") {
					t.Errorf("exit code %d after %d requests: %s", code, requests.Load(), said)
				}
			})
		}
	}
}

// Missing credentials are one notice, without messages of the SDK.
func TestMissingCredentialsAreOneNotice(t *testing.T) {
	metadata, _ := answer(t, false, http.StatusForbidden, "")
	cmd := holdfast(t, "https://abc.execute-api.eu-west-1.amazonaws.com", "status", "a")
	cmd.Env = append(slices.DeleteFunc(cmd.Environ(), func(v string) bool { return strings.HasPrefix(v, "AWS_") }),
		"HOME="+t.TempDir(), "AWS_EC2_METADATA_SERVICE_ENDPOINT="+metadata)
	out, err := cmd.CombinedOutput()
	if exitOf(err) != exitFailed || strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), "set AWS_PROFILE") {
		t.Errorf("exit code %d: %s", exitOf(err), out)
	}
}
