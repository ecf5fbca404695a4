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
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"go.opentelemetry.io/otel/propagation"

	"github.com/holdfast-lock/holdfast/internal/reach"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// An httpTransport is the default [Transport]: the coordinator's HTTP API, with requests signed by SigV4 if there are credentials.
type httpTransport struct {
	endpoint    string
	region      string
	credentials aws.CredentialsProvider
	signer      *v4.Signer
	client      *reach.Client
	propagator  propagation.TextMapPropagator // nil: no request has a trace context
}

func newHTTPTransport(cfg Config) *httpTransport {
	t := &httpTransport{endpoint: strings.TrimRight(cfg.Endpoint, "/"), region: cfg.signingRegion(), signer: v4.NewSigner()}
	if cfg.Credentials != nil {
		t.credentials = reach.NewCredentials(cfg.Credentials)
	}
	if cfg.TracerProvider != nil {
		t.propagator = cfg.Propagator
		if t.propagator == nil {
			t.propagator = propagation.TraceContext{}
		}
	}
	if cfg.HTTPClient != nil {
		t.client = reach.New(cfg.HTTPClient)
	} else {
		t.client = reach.New(nil)
	}
	return t
}

// CloseIdleConnections closes the connections that are not in use.
func (t *httpTransport) CloseIdleConnections() { t.client.CloseIdleConnections() }

// EnvCredentials provides the credentials of the environment variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and
// AWS_SESSION_TOKEN, in which Lambda passes a function's. It spares a function the SDK's configuration package, which is larger
// than this one.
type EnvCredentials struct{}

// Retrieve implements [aws.CredentialsProvider].
func (EnvCredentials) Retrieve(context.Context) (aws.Credentials, error) {
	c := reach.EnvironmentCredentials(os.Getenv)
	if !c.HasKeys() {
		return c, errors.New("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set; set them, or give Config.Credentials of the AWS SDK")
	}
	return c, nil
}

const maxAnswer = 8 << 20 // bytes; the largest answer, a page of a list, is below 6 MB

// RoundTrip implements [Transport].
func (t *httpTransport) RoundTrip(ctx context.Context, r Request) (Response, error) {
	req, err := t.request(ctx, r)
	if err != nil {
		return Response{}, refused("", "%v", err)
	}
	if t.credentials != nil {
		if err := t.sign(ctx, req, r.Body); err != nil {
			return Response{}, err
		}
	}
	if t.propagator != nil { // after the signature, so that who passes the request on may change the context
		t.propagator.Inject(ctx, propagation.HeaderCarrier(req.Header))
	}
	resp, err := t.client.Do(req)
	if err != nil {
		return Response{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return Response{}, err
	}
	out := Response{Status: resp.StatusCode, Body: data}
	if s, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 32); err == nil {
		out.RetryAfter = time.Duration(s) * time.Second
	}
	return out, nil
}

func (t *httpTransport) sign(ctx context.Context, req *http.Request, body []byte) error {
	creds, err := t.credentials.Retrieve(ctx)
	if err != nil {
		return fmt.Errorf("credentials: %w", err)
	}
	if req.Body == nil { // the fields are in the query
		body = nil
	}
	hash := sha256.Sum256(body)
	if err := t.signer.SignHTTP(ctx, creds, req, hex.EncodeToString(hash[:]), "execute-api", t.region, time.Now()); err != nil {
		return fmt.Errorf("signing: %w", err)
	}
	return nil
}

// request makes the HTTP request of an operation: the fields are the body of a POST or PUT, and the query of a GET or DELETE.
func (t *httpTransport) request(ctx context.Context, r Request) (*http.Request, error) {
	method, path := wire.Op(r.Op).Route()
	name := strings.ReplaceAll(url.PathEscape(r.Lock), "+", "%2B") // some gateways decode a literal + as a space
	name = strings.ReplaceAll(name, "%2A", "*")                    // of a scope, as a policy of IAM has it
	target := t.endpoint + strings.NewReplacer("{name}", name, "{scope}", name, "{prefix}", name).Replace(path)
	var body io.Reader
	if method == http.MethodPost || method == http.MethodPut {
		body = bytes.NewReader(r.Body)
	} else if r.Body != nil {
		query, err := queryOf(r.Body)
		if err != nil {
			return nil, err
		}
		target += "?" + query
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// queryOf returns the members of a JSON object as a query.
func queryOf(object []byte) (string, error) {
	var fields map[string]any
	if err := json.Unmarshal(object, &fields); err != nil {
		return "", err
	}
	query := url.Values{}
	for k, v := range fields {
		query.Set(k, fmt.Sprint(v))
	}
	return query.Encode(), nil
}
