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
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// transport sends one request over HTTP, once, and reads its answer.
type transport struct {
	endpoint    string
	region      string
	credentials aws.CredentialsProvider
	signer      *v4.Signer
	client      *http.Client
	timeout     time.Duration
}

const maxAnswer = 1 << 20

// send makes one try. Its error is one of this package's, or the context's.
func (t *transport) send(ctx context.Context, method, name, op string, request, answer any) error {
	tryCtx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	err := t.try(tryCtx, method, name, op, request, answer)
	if ctx.Err() != nil && err != nil {
		return ctx.Err()
	}
	return err
}

func (t *transport) try(ctx context.Context, method, name, op string, request, answer any) error {
	target := t.endpoint + "/v1/locks/" + url.PathEscape(name)
	if op != "" {
		target += "/" + op
	}
	var body []byte
	if request != nil {
		var err error
		if body, err = json.Marshal(request); err != nil {
			return &RefusedError{Detail: err.Error()}
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return &RefusedError{Detail: err.Error()}
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if t.credentials != nil {
		creds, err := t.credentials.Retrieve(ctx)
		if err != nil {
			return &unavailable{err: fmt.Errorf("credentials: %w", err)}
		}
		hash := sha256.Sum256(body)
		if err := t.signer.SignHTTP(ctx, creds, req, hex.EncodeToString(hash[:]), "execute-api", t.region, time.Now()); err != nil {
			return &unavailable{err: fmt.Errorf("signing: %w", err)}
		}
	}
	resp, err := t.client.Do(req)
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return &RefusedError{Detail: fmt.Sprintf("there is no host %s; check Config.Endpoint", dns.Name)}
	}
	if err != nil {
		return &unavailable{err: err}
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return &unavailable{err: err}
	}
	if resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(data, answer); err != nil {
			return &unavailable{err: fmt.Errorf("answer is not what a coordinator says: %w", err)}
		}
		return nil
	}
	var p wire.Problem
	if json.Unmarshal(data, &p) != nil || p.Code == "" { // a gateway's own answer, not the coordinator's
		p = wire.Problem{Status: resp.StatusCode, Detail: gatewayDetail(resp.StatusCode, data)}
		if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
			p.RetryAfter = int64(s) * 1000
		}
	}
	p.Status = resp.StatusCode
	return problemError(p)
}

// gatewayDetail says what to do about an answer that is not the coordinator's.
func gatewayDetail(status int, body []byte) string {
	text := string(body[:min(len(body), 200)])
	switch status {
	case http.StatusForbidden, http.StatusUnauthorized:
		return text + ": sign with credentials that may call execute-api:Invoke on this route (Config.Region and Config.Credentials)"
	case http.StatusNotFound:
		return text + ": check Config.Endpoint; it ends where /v1/locks begins"
	}
	return text
}
