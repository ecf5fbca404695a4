package lockclient

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// httpTransport is the default [Transport]: the coordinator's HTTP API, signed with SigV4 where there are credentials.
type httpTransport struct {
	endpoint    string
	region      string
	credentials aws.CredentialsProvider
	signer      *v4.Signer
	client      *http.Client
}

// EnvCredentials are those of the environment variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, which
// is where Lambda puts a function's. They spare a function the SDK's configuration package, which is larger than this client.
type EnvCredentials struct{}

// Retrieve implements [aws.CredentialsProvider].
func (EnvCredentials) Retrieve(context.Context) (aws.Credentials, error) {
	c := aws.Credentials{
		AccessKeyID: os.Getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: os.Getenv("AWS_SECRET_ACCESS_KEY"),
		SessionToken: os.Getenv("AWS_SESSION_TOKEN"), Source: "environment",
	}
	if !c.HasKeys() {
		return c, errors.New("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set; set them, or give Config.Credentials of the AWS SDK")
	}
	return c, nil
}

const maxAnswer = 8 << 20 // a page of a list is below 6 MB

// RoundTrip implements [Transport].
func (t *httpTransport) RoundTrip(ctx context.Context, r Request) (Response, error) {
	req, err := t.request(ctx, r)
	if err != nil {
		return Response{}, refused("", "%v", err)
	}
	if t.credentials != nil {
		creds, err := t.credentials.Retrieve(ctx)
		if err != nil {
			return Response{}, fmt.Errorf("credentials: %w", err)
		}
		var body []byte
		if req.Method == http.MethodPost {
			body = r.Body
		}
		hash := sha256.Sum256(body)
		if err := t.signer.SignHTTP(ctx, creds, req, hex.EncodeToString(hash[:]), "execute-api", t.region, time.Now()); err != nil {
			return Response{}, fmt.Errorf("signing: %w", err)
		}
	}
	resp, err := t.client.Do(req)
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return Response{}, refused("", "there is no host %s; check Config.Endpoint", dns.Name)
	}
	if err != nil {
		return Response{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return Response{}, err
	}
	out := Response{Status: resp.StatusCode, Body: data}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		out.RetryAfter = time.Duration(s) * time.Second
	}
	return out, nil
}

func (t *httpTransport) request(ctx context.Context, r Request) (*http.Request, error) {
	target := t.endpoint + "/v1/locks"
	if r.Op != opList {
		target += "/" + url.PathEscape(r.Lock)
	}
	switch r.Op {
	case opStatus:
		return t.get(ctx, target)
	case opList:
		var fields map[string]any
		if err := json.Unmarshal(r.Body, &fields); err != nil {
			return nil, err
		}
		query := url.Values{}
		for k, v := range fields {
			query.Set(k, fmt.Sprint(v))
		}
		return t.get(ctx, target+"?"+query.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target+"/"+r.Op, bytes.NewReader(r.Body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", "application/json")
	return req, nil
}

func (t *httpTransport) get(ctx context.Context, target string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err == nil {
		req.Header.Set("Accept", "application/json")
	}
	return req, err
}
