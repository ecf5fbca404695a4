package lockclient_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/holdfast-lock/holdfast/lockclient"
)

const gatewayURL = "https://abc123.execute-api.eu-west-1.amazonaws.com"

// An endpoint is checked as far as its name tells: each error says what to give.
func TestEndpointsAreChecked(t *testing.T) {
	creds := credentials.NewStaticCredentialsProvider("a", "b", "")
	for _, test := range []struct {
		cfg  lockclient.Config
		says string // empty: it is right
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
		err := test.cfg.Validate()
		if (err == nil) != (test.says == "") || err != nil && (!strings.Contains(err.Error(), test.says) || !strings.HasPrefix(err.Error(), "lockclient: Config.")) {
			t.Errorf("%s, %q: %v", test.cfg.Endpoint, test.cfg.Region, err)
		}
		if err != nil && strings.Contains(err.Error(), "user:password") {
			t.Errorf("the error has the password: %v", err)
		}
	}
}

// Requests to an endpoint of API Gateway are signed for its region.
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

// A + goes out as %2B, in a path and in a query: what a literal one means on the way is not certain.
func TestPlusIsEncoded(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		var sent []string
		w.breakWith(func(_ string, _ int, r *http.Request) (*http.Response, error) {
			sent = append(sent, r.URL.RequestURI())
			return nil, nil
		}, nil)
		c := w.client()
		l, err := c.Acquire(t.Context(), "a+b:c@d=e", lockclient.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if s, err := c.Status(t.Context(), "a+b:c@d=e"); err != nil || !s.Locked || s.Lock != "a+b:c@d=e" {
			t.Errorf("%+v, %v", s, err)
		}
		listed := 0
		for s, err := range c.List(t.Context(), "a+", false) {
			if listed++; err != nil || s.Lock != l.Name() {
				t.Errorf("%+v, %v", s, err)
			}
		}
		if err := l.Release(t.Context()); err != nil || listed != 1 {
			t.Error(err, listed)
		}
		for i, want := range []string{"/v1/locks/a%2Bb:c@d=e/acquire", "/v1/locks/a%2Bb:c@d=e", "/v1/locks?limit=100&prefix=a%2B&state=held", "/v1/locks/a%2Bb:c@d=e/release"} {
			if sent[i] != want {
				t.Errorf("sent %s, want %s", sent[i], want)
			}
		}
	})
}

// The release of a finished handler ends before the invocation does, and its failure is not the handler's.
func TestExclusiveEndsInTime(t *testing.T) {
	for _, left := range []time.Duration{3 * time.Second, 400 * time.Millisecond, 20 * time.Second} {
		run(t, func(t *testing.T, w *world) {
			ctx, cancel := invocation(t, 30*time.Second)
			defer cancel()
			c := w.lambdaClient()
			w.breakWith(func(op string, n int, r *http.Request) (*http.Response, error) {
				if op == "release" {
					return hangs(op, n, r)
				}
				return nil, nil
			}, nil)
			start := time.Now()
			var done time.Time
			handler := lockclient.Exclusive(c, orderName, func(context.Context, order) (string, error) {
				time.Sleep(30*time.Second - left)
				done = time.Now()
				return "done", nil
			})
			out, err := handler(ctx, order{"7"})
			after := time.Since(start)
			if out != "done" || err != nil {
				t.Errorf("with %v left: %q, %v", left, out, err)
			}
			if most := 30*time.Second - min(500*time.Millisecond, left/2); after > most || time.Since(done) == 0 || time.Since(done) > 10*time.Second {
				t.Errorf("with %v left: returned after %v, %v after the handler", left, after, time.Since(done))
			}
			w.breakWith(nil, nil)
			_ = c.Close(t.Context())
		})
	}
}

// What the handler says is told, whatever becomes of the release; a lease that was lost meanwhile is told too.
func TestExclusiveErrors(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		ctx, cancel := invocation(t, time.Minute)
		defer cancel()
		c := w.lambdaClient()
		handler := lockclient.Exclusive(c, func(s string) string { return "a" }, func(ctx context.Context, what string) (string, error) {
			switch what {
			case "forced":
				_, _ = c.ForceRelease(ctx, "a", "test", 0)
			case "fails":
				return what, errCut
			case "holds":
				return what, &lockclient.HeldError{}
			}
			return what, nil
		})
		cutRelease := func(op string, _ int, _ *http.Request) (*http.Response, error) {
			if op == "release" {
				return answer(400, nil, `{"code":"invalid_request","detail":"no"}`)(), nil
			}
			return nil, nil
		}
		w.breakWith(cutRelease, nil)
		if out, err := handler(ctx, "fails"); out != "fails" || err != errCut { //nolint:errorlint // it alone
			t.Errorf("%q, %v", out, err)
		}
		w.breakWith(nil, nil)
		if _, err := c.ForceRelease(ctx, "a", "test", 0); err != nil {
			t.Fatal(err)
		}
		out, err := handler(ctx, "forced")
		wantIs(t, err, lockclient.ErrLost, lockclient.ErrRelease)
		if out != "forced" {
			t.Errorf("%q", out)
		}
		if _, err := handler(ctx, "holds"); err == nil || strings.Contains(err.Error(), "acquire failed") {
			t.Errorf("%v", err)
		}
		_ = c.Close(t.Context())
	})
}

// Within an invocation Do gives back its lease in time as well, and says that it could not.
func TestDoInAnInvocation(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		ctx, cancel := invocation(t, 10*time.Second)
		defer cancel()
		c := w.lambdaClient()
		start := time.Now()
		err := c.Do(ctx, "a", lockclient.Options{}, func(context.Context, *lockclient.Lease) error {
			w.breakWith(hangs, nil)
			time.Sleep(8 * time.Second)
			return nil
		})
		wantIs(t, err, lockclient.ErrRelease, lockclient.ErrUnavailable)
		if took := time.Since(start); took != 9500*time.Millisecond {
			t.Errorf("took %v", took)
		}
		w.breakWith(nil, nil)
		_ = c.Close(t.Context())
	})
}
