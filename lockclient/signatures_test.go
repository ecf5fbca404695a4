package lockclient_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// The clients in other languages compare their signatures with those of clients/testdata/signatures.json. This client sends the same paths, and
// the AWS SDK's signer makes the same signatures.
func TestSignaturesOfOtherClients(t *testing.T) {
	data, err := os.ReadFile("../clients/testdata/signatures.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Endpoint, Region, Service string
		AccessKeyID               string    `json:"access_key_id"`
		SecretAccessKey           string    `json:"secret_access_key"`
		At                        time.Time `json:"at"`
		Requests                  []struct {
			Operation, Lock, Method, Path, Query, Body string
			SessionToken                               string `json:"session_token"`
			Authorization                              string
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Requests) < 6 {
		t.Fatalf("%d requests", len(file.Requests))
	}
	for _, want := range file.Requests {
		sent := sentFor(t, file.Endpoint, want.Operation, want.Lock)
		if sent.Method != want.Method || sent.URL.EscapedPath() != want.Path {
			t.Errorf("%s of %q is sent as %s %s, want %s %s", want.Operation, want.Lock, sent.Method, sent.URL.EscapedPath(), want.Method, want.Path)
		}
		target := file.Endpoint + want.Path
		if want.Query != "" {
			target += "?" + want.Query
		}
		r, err := http.NewRequestWithContext(t.Context(), want.Method, target, bytes.NewReader([]byte(want.Body)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", "application/json")
		if want.Body != "" {
			r.Header.Set("Content-Type", "application/json")
		}
		r.ContentLength = 0 // the length is no part of the signatures in the file
		hash := sha256.Sum256([]byte(want.Body))
		keys := aws.Credentials{AccessKeyID: file.AccessKeyID, SecretAccessKey: file.SecretAccessKey, SessionToken: want.SessionToken}
		if err := v4.NewSigner().SignHTTP(t.Context(), keys, r, hex.EncodeToString(hash[:]), file.Service, file.Region, file.At); err != nil {
			t.Fatal(err)
		}
		if got := r.Header.Get("Authorization"); got != want.Authorization {
			t.Errorf("%s of %q is signed with\n%s, want\n%s", want.Operation, want.Lock, got, want.Authorization)
		}
	}
}

// sentFor returns the request that a client sends for an operation.
func sentFor(t *testing.T, endpoint, operation, lock string) *http.Request {
	t.Helper()
	var sent *http.Request
	c, err := lockclient.New(lockclient.Config{
		Endpoint: endpoint, Retries: -1, Credentials: credentials.NewStaticCredentialsProvider("a", "b", ""),
		HTTPClient: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			if sent == nil {
				sent = r
			}
			return nil, errors.New("not sent")
		})},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.WithoutCancel(t.Context())) }()
	const secret = "0123456789abcdef"
	switch operation {
	case "acquire":
		_, err = c.TryAcquire(t.Context(), lock, lockclient.Options{})
	case "renew":
		_, err = c.Adopt(t.Context(), lock, secret, lockclient.Options{})
	case "release":
		err = c.Release(t.Context(), lock, secret)
	case "force-release":
		_, err = c.ForceRelease(t.Context(), lock, "r", 0)
	case "status":
		_, err = c.Status(t.Context(), lock)
	case "list":
		for _, failed := range c.List(t.Context(), lock, false) {
			err = failed
		}
	}
	if sent == nil {
		t.Fatalf("%s of %q sent nothing: %v", operation, lock, err)
	}
	return sent
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
