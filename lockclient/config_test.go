package lockclient_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/holdfast-lock/holdfast/lockclient"
)

const gatewayURL = "https://abc123.execute-api.eu-west-1.amazonaws.com"

func TestConfigIsChecked(t *testing.T) {
	creds := credentials.NewStaticCredentialsProvider("a", "b", "")
	for _, test := range []struct {
		cfg  lockclient.Config
		says string
	}{
		{lockclient.Config{}, "Endpoint is empty"},
		{lockclient.Config{Endpoint: "holdfast.test"}, "give a URL"},
		{lockclient.Config{Endpoint: "ftp://holdfast.test"}, "give a URL"},
		{lockclient.Config{Endpoint: "http://holdfast.test", Credentials: creds}, "Region"},
		{lockclient.Config{Endpoint: "http://holdfast.test", RequestTimeout: -1}, "RequestTimeout"},
		{lockclient.Config{Endpoint: "http://holdfast.test", Owner: strings.Repeat("o", 257)}, "Owner"},
	} {
		if _, err := lockclient.New(test.cfg); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%+v: %v", test.cfg, err)
		}
	}
}

func TestBadInputIsRefusedWithoutARequest(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		for _, test := range []struct {
			name string
			opts lockclient.Options
			says string
		}{
			{"", lockclient.Options{}, "name is empty"},
			{"a/b", lockclient.Options{}, `'/'`},
			{"a", lockclient.Options{TTL: -1}, "Options.TTL"},
			{"a", lockclient.Options{TTL: 8 * 24 * time.Hour}, "Options.TTL"},
			{"a", lockclient.Options{Wait: -1}, "Options.Wait"},
			{"a", lockclient.Options{Permits: 2, Capacity: 1}, "Options.Permits"},
			{"a", lockclient.Options{Metadata: func() {}}, "json"},
			{"a", lockclient.Options{Metadata: []int{1}}, "no JSON object"},
			{"a", lockclient.Options{Metadata: map[string]string{"x": strings.Repeat("y", 2048)}}, "2056 bytes"},
			{"a", lockclient.Options{MinHold: -1}, "Options.MinHold"},
			{"a", lockclient.Options{Heartbeat: -1}, "Options.Heartbeat"},
			{"a", lockclient.Options{Heartbeat: time.Minute}, "Options.Heartbeat"},
			{"a", lockclient.Options{Heartbeat: 9 * time.Second, TTL: 9 * time.Second}, "Options.Heartbeat"},
		} {
			_, err := c.Acquire(t.Context(), test.name, test.opts)
			wantIs(t, err, lockclient.ErrRefused, lockclient.ErrAcquire)
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("%+v: %v", test, err)
			}
		}
		if len(w.seen) != 0 {
			t.Errorf("sent %v", w.seen)
		}
		_, err := c.Acquire(t.Context(), "a", lockclient.Options{TTL: time.Millisecond}) // only the coordinator knows the minimum
		refused, ok := errors.AsType[*lockclient.RefusedError](err)
		if !ok || refused.Field != "ttl_ms" || refused.Status != 400 || refused.Code != "invalid_request" {
			t.Errorf("error %v", err)
		}
	})
}

// An owner is a text of any script, with emoji and joiners, and without characters that affect a terminal.
func TestOwnerIsText(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		for _, owner := range []string{"\U0001F468\u200d\U0001F4BB on call", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "a\u00a0b"} {
			c := w.client()
			l := w.acquire(c, lockclient.Options{Owner: owner})
			if s, err := c.Status(t.Context(), "a"); err != nil || s.Holders[0].Owner != owner {
				t.Errorf("%+v, %v", s, err)
			}
			if err := l.Release(t.Context()); err != nil {
				t.Error(err)
			}
		}
		_, err := w.client().TryAcquire(t.Context(), "a", lockclient.Options{Owner: "a\x1b[2Jb"})
		refused, ok := errors.AsType[*lockclient.RefusedError](err)
		if !ok || refused.Field != "owner" {
			t.Errorf("%v", err)
		}
	})
	for _, owner := range []string{"a\u009bb", strings.Repeat("o", 257)} {
		if _, err := lockclient.New(lockclient.Config{Endpoint: "http://a", Owner: owner}); err == nil || !strings.Contains(err.Error(), "Config.Owner") {
			t.Errorf("%q: %v", owner, err)
		}
	}
}

// An endpoint is checked as far as its URL allows, and the error says what to give.
func TestEndpointsAreChecked(t *testing.T) {
	creds := credentials.NewStaticCredentialsProvider("a", "b", "")
	for _, test := range []struct {
		cfg  lockclient.Config
		says string // empty: the endpoint is valid
	}{
		{lockclient.Config{Endpoint: gatewayURL}, "Config.Credentials is nil"},
		{lockclient.Config{Endpoint: gatewayURL + "/prod", Region: "eu-west-1"}, "Config.Credentials is nil"},
		{lockclient.Config{Endpoint: gatewayURL, HTTPClient: http.DefaultClient}, "Config.Credentials is nil"},
		{lockclient.Config{Endpoint: gatewayURL, Credentials: creds}, ""},
		{lockclient.Config{Endpoint: gatewayURL + ":443/", Credentials: creds, Region: "eu-west-1"}, ""},
		{lockclient.Config{Endpoint: gatewayURL, Credentials: creds, Region: "us-east-1"}, `the endpoint is in "eu-west-1"`},
		{lockclient.Config{Endpoint: "http://abc123.execute-api.eu-west-1.amazonaws.com", Credentials: creds}, "https only"},
		{lockclient.Config{Endpoint: "https://abc123.execute-api.cn-north-1.amazonaws.com.cn"}, "Config.Credentials is nil"},
		{lockclient.Config{Endpoint: "https://abc123-vpce-0123.execute-api.eu-west-1.amazonaws.com"}, "Config.Credentials is nil"},
		{lockclient.Config{Endpoint: "https://vpce-0123-abc.execute-api.eu-west-1.vpce.amazonaws.com", Credentials: creds}, ""},
		{lockclient.Config{Endpoint: "https://execute-api.eu-west-1.amazonaws.com"}, ""}, // no API's
		{lockclient.Config{Endpoint: "https://abc.execute-api.example.com"}, ""},
		{lockclient.Config{Endpoint: "https://abc.execute-api.amazonaws"}, ""},
		{lockclient.Config{Endpoint: "https://locks.example.com", Credentials: creds}, "Config.Region is empty"},
		{lockclient.Config{Endpoint: "https://locks.example.com", Credentials: creds, Region: "eu-west-1"}, ""},
		{lockclient.Config{Endpoint: "localhost:7420"}, "http://localhost:7420"},
		{lockclient.Config{Endpoint: "127.0.0.1:7420"}, "http://127.0.0.1:7420"},
		{lockclient.Config{Endpoint: "[::1]:7420"}, "http://[::1]:7420"},
		{lockclient.Config{Endpoint: "10.0.0.1:7420"}, "https://10.0.0.1:7420"},
		{lockclient.Config{Endpoint: "locks.example.com/x"}, "https://locks.example.com/x"},
		{lockclient.Config{Endpoint: "a b:c:d"}, "http:// or https:// and the host"},
		{lockclient.Config{Endpoint: "http://:7420"}, "give a URL like"},
		{lockclient.Config{Endpoint: "http://a:0"}, "give a URL like"},
		{lockclient.Config{Endpoint: "http://a:65535"}, ""},
		{lockclient.Config{Endpoint: "http://a:65536"}, "give a URL like"},
		{lockclient.Config{Endpoint: "http://a:x"}, "give a URL like"},
		{lockclient.Config{Endpoint: "unix:///tmp/x"}, "give a URL like"},
		{lockclient.Config{Endpoint: "http://user:password@a"}, "user name or password"},
		{lockclient.Config{Endpoint: "http://a/v1/locks/"}, "up to where /v1/locks begins"},
		{lockclient.Config{Endpoint: "http://a?x=1"}, "up to where /v1/locks begins"},
		{lockclient.Config{Endpoint: "http://a#x"}, "up to where /v1/locks begins"},
	} {
		_, err := lockclient.New(test.cfg)
		if (err == nil) != (test.says == "") || err != nil && (!strings.Contains(err.Error(), test.says) || !strings.HasPrefix(err.Error(), "lockclient: Config.")) {
			t.Errorf("%s, %q: %v", test.cfg.Endpoint, test.cfg.Region, err)
		}
		if err != nil && strings.Contains(err.Error(), "user:password") {
			t.Errorf("the error has the password: %v", err)
		}
	}
}

// Requests to an endpoint of API Gateway are signed for the region in its name.
func TestRegionOfTheEndpoint(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		var auth string
		w.breakWith(func(_ string, _ int, r *http.Request) (*http.Response, error) {
			auth = r.Header.Get("Authorization")
			return nil, nil
		}, nil)
		c, err := lockclient.New(lockclient.Config{Endpoint: gatewayURL, HTTPClient: &http.Client{Transport: w}, Credentials: credentials.NewStaticCredentialsProvider("AKID", "s", "")})
		if err != nil {
			t.Fatal(err)
		}
		l := w.acquire(c, lockclient.Options{})
		if !strings.Contains(auth, "/eu-west-1/execute-api/aws4_request") {
			t.Errorf("authorization %q", auth)
		}
		_ = l.Release(t.Context())
	})
}

// The number of retries is Config.Retries, and the pauses between them grow.
func TestRetryOptions(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		l := w.acquire(w.client(), lockclient.Options{})
		w.breakWith(cutAll, nil)
		for retries, want := range map[int]int{-1: 1, 0: 4, 1: 2, 6: 7} {
			c, err := lockclient.New(lockclient.Config{Endpoint: "http://holdfast.test", HTTPClient: &http.Client{Transport: w}, Retries: retries, RetryDelay: 10 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			w.breakWith(cutAll, nil)
			start := time.Now()
			_, err = c.TryAcquire(t.Context(), "a", lockclient.Options{})
			took := time.Since(start)
			wantIs(t, err, lockclient.ErrUnavailable)
			if n := w.count("acquire"); n != want {
				t.Errorf("%d retries: %d requests", retries, n)
			}
			if retries == 6 && (took < 17*time.Second || took > 45*time.Second) { // 1, 2, 4, 8, 10 and 10 s, at least half of each
				t.Errorf("6 retries took %v", took)
			}
			_ = c.Close(t.Context())
		}
		w.breakWith(nil, nil)
		_ = l.Release(t.Context())
	})
}
