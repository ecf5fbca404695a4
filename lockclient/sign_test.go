package lockclient_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// The signature of a request covers the body that is sent, whatever the method: API Gateway refuses any other.
func TestSignatureCoversTheBody(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		keys := credentials.NewStaticCredentialsProvider("AKID", "s", "")
		signer := v4.NewSigner()
		methods := map[string]bool{}
		w.breakWith(func(_ string, _ int, r *http.Request) (*http.Response, error) {
			var body []byte
			if r.Body != nil {
				body, _ = io.ReadAll(r.Body)
				r.Body = io.NopCloser(bytes.NewReader(body))
			}
			methods[r.Method] = true
			if got, want := r.Header.Get("Authorization"), signature(t, signer, keys.Value, r, body); got != want {
				t.Errorf("%s %s is signed with\n%s, want\n%s", r.Method, r.URL.Path, got, want)
			}
			return nil, nil
		}, nil)
		c, err := lockclient.New(lockclient.Config{Endpoint: gatewayURL, HTTPClient: &http.Client{Transport: w}, Credentials: keys})
		if err != nil {
			t.Fatal(err)
		}
		l := w.acquire(c, lockclient.Options{})
		_ = l.Release(t.Context())
		if _, err := c.Status(t.Context(), "a"); err != nil {
			t.Error(err)
		}
		if _, err := c.Freeze(t.Context(), "a", time.Now().Add(time.Hour), "r"); err != nil {
			t.Error(err)
		}
		if _, err := c.Unfreeze(t.Context(), "a"); err != nil {
			t.Error(err)
		}
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
			if !methods[method] {
				t.Errorf("no request with %s", method)
			}
		}
	})
}

// signature is the Authorization header of a request that was signed before, with a body.
func signature(t *testing.T, signer *v4.Signer, keys aws.Credentials, r *http.Request, body []byte) string {
	t.Helper()
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil {
		t.Fatal(err)
	}
	again := r.Clone(t.Context())
	again.Header.Del("Authorization")
	hash := sha256.Sum256(body)
	if err := signer.SignHTTP(t.Context(), keys, again, hex.EncodeToString(hash[:]), "execute-api", "eu-west-1", at); err != nil {
		t.Fatal(err)
	}
	return again.Header.Get("Authorization")
}
