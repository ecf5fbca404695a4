package lockclient_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/holdfast-lock/holdfast/lockclient"
)

func TestRequestsAreSigned(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		var auth []string
		w.breakWith(func(_ string, _ int, r *http.Request) (*http.Response, error) {
			auth = append(auth, r.Header.Get("Authorization"))
			return nil, nil
		}, nil)
		c, err := lockclient.New(lockclient.Config{
			Endpoint: "http://holdfast.test/", Region: "eu-west-1", HTTPClient: &http.Client{Transport: w},
			Credentials: credentials.NewStaticCredentialsProvider("AKID", "secret", ""),
		})
		if err != nil {
			t.Fatal(err)
		}
		l := w.acquire(c, lockclient.Options{})
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
		for _, a := range auth {
			if !strings.HasPrefix(a, "AWS4-HMAC-SHA256 Credential=AKID/") || !strings.Contains(a, "/eu-west-1/execute-api/aws4_request") {
				t.Errorf("authorization %q", a)
			}
		}
	})
}

// A + is sent as %2B in a path and in a query: not every gateway passes on a literal one.
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

// Of the answers of a gateway, 5xx and 429 are retried, and others are not.
func TestGatewayAnswers(t *testing.T) {
	for status, target := range map[int]error{
		502: lockclient.ErrUnavailable, 503: lockclient.ErrUnavailable, 429: lockclient.ErrUnavailable,
		403: lockclient.ErrRefused, 404: lockclient.ErrRefused,
	} {
		run(t, func(t *testing.T, w *world) {
			w.breakWith(func(string, int, *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{"message":"from the gateway"}`))}, nil
			}, nil)
			c := w.client()
			_, err := c.TryAcquire(t.Context(), "a", lockclient.Options{})
			wantIs(t, err, target)
			if !strings.Contains(err.Error(), "from the gateway") {
				t.Errorf("error %v", err)
			}
			_ = c.Close(t.Context())
		})
	}
}
