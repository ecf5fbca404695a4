package lockclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A Transport carries requests to a coordinator, and its answers back. [New] makes one for HTTP; packages invoke and direct
// have others. It must be safe for use by any number of goroutines.
type Transport interface {
	// RoundTrip sends a request once. Its error means that there is no answer, and that nobody knows whether the request
	// was carried out: the client sends it again, unless the error is or wraps a [*RefusedError].
	RoundTrip(ctx context.Context, r Request) (Response, error)
}

// A Request is what a client asks.
type Request struct {
	// Op is "acquire", "renew", "release", "force-release", "status" or "list".
	Op string
	// Lock is the lock's name; empty for "list".
	Lock string
	// Body is the operation's fields, as a JSON object; nil for "status".
	Body []byte
}

// A Response is an answer: JSON with a status of 200, or a problem with another.
type Response struct {
	Status     int
	Body       []byte
	RetryAfter time.Duration // a hint, where whoever answered was not the coordinator; 0: none
}

// The operations of a [Request].
const (
	opAcquire      = "acquire"
	opRenew        = "renew"
	opRelease      = "release"
	opForceRelease = "force-release"
	opStatus       = "status"
	opList         = "list"
)

// send makes one try of a request. Its error is one of this package's, or the context's.
func (c *Client) send(ctx context.Context, op, name string, request, answer any) error {
	r := Request{Op: op, Lock: name}
	if request != nil {
		var err error
		if r.Body, err = json.Marshal(request); err != nil {
			return refused("", "%v", err)
		}
	}
	tryCtx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.transport.RoundTrip(tryCtx, r)
	if ctx.Err() != nil && err != nil {
		return ctx.Err()
	}
	if err != nil {
		return noAnswer(err)
	}
	if resp.Status == http.StatusOK {
		if err := json.Unmarshal(resp.Body, answer); err != nil {
			return &unavailable{err: fmt.Errorf("answer is not what a coordinator says: %w", err)}
		}
		return nil
	}
	var p wire.Problem
	if json.Unmarshal(resp.Body, &p) != nil || p.Code == "" { // a gateway's own answer, not the coordinator's
		p = wire.Problem{Detail: gatewayDetail(resp.Status, resp.Body), RetryAfter: resp.RetryAfter.Milliseconds()}
	}
	p.Status = resp.Status
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

// retry sends a request again while it brings no answer, as often as Config.Retries says.
func (c *Client) retry(ctx context.Context, send func() error) error {
	for n := 0; ; n++ {
		err := send()
		down, again := errors.AsType[*unavailable](err)
		if !again || n >= c.retries {
			return err
		}
		if ended := sleep(ctx, c.backoff(n, down.after)); ended != nil {
			return fmt.Errorf("%w: %w", ended, err)
		}
	}
}
