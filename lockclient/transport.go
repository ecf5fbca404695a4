package lockclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/holdfast-lock/holdfast/internal/reach"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A Transport carries requests to a coordinator, and its answers back. [New] makes one for HTTP; packages invoke and direct
// have others. It must be safe for use by any number of goroutines. If it has a method CloseIdleConnections, closing the
// client calls it.
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

// send makes one try of a request. Its error is one of this package's; when ctx ended first it is ctx's too.
func (c *Client) send(ctx context.Context, op wire.Op, name string, request, answer any) error {
	r := Request{Op: string(op), Lock: name}
	if request != nil {
		var err error
		if r.Body, err = json.Marshal(request); err != nil {
			return refused("", "%v", err)
		}
	}
	tryCtx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.transport.RoundTrip(tryCtx, r)
	if err != nil {
		return noAnswer(ctx, err)
	}
	return readAnswer(resp, answer)
}

// noAnswer is what a transport's error means.
func noAnswer(ctx context.Context, err error) error {
	switch ended := ctx.Err(); {
	case errors.Is(ended, context.DeadlineExceeded):
		return &unavailable{err: fmt.Errorf("it did not answer in time: %w", ended)}
	case ended != nil: // the caller's own wish says nothing of the coordinator
		return ended
	}
	if _, final := errors.AsType[*RefusedError](err); final {
		return err
	}
	if lasting, ok := errors.AsType[*reach.Refusal](err); ok {
		return &RefusedError{Code: string(wire.Misconfigured), Detail: lasting.Error()}
	}
	return &unavailable{err: err}
}

func readAnswer(resp Response, answer any) error {
	if resp.Status == http.StatusOK {
		return readSuccess(resp.Body, answer)
	}
	var p wire.Problem
	if json.Unmarshal(resp.Body, &p) == nil && p.Code != "" {
		p.Status = resp.Status
		return problemError(&p)
	}
	return gatewayError(resp)
}

// readSuccess decodes an answer. One that is cut off may come whole the next time; one that never was JSON will not.
func readSuccess(body []byte, answer any) error {
	err := json.Unmarshal(body, answer)
	switch text := bytes.TrimSpace(body); {
	case err == nil:
		return nil
	case len(text) == 0 || text[0] == '{':
		return &unavailable{err: fmt.Errorf("its answer cannot be read: %w", err)}
	}
	return notCoordinator(http.StatusOK, "an answer that is not JSON")
}

func notCoordinator(status int, what string) error {
	return &RefusedError{Status: status, Detail: fmt.Sprintf("there is no coordinator at this URL (%s); check Config.Endpoint, which ends where /v1/locks begins", what)}
}

// retry sends a request again while it brings no answer, as often as Config.Retries says.
func (c *Client) retry(ctx context.Context, send func() error) error {
	for n := 0; ; n++ {
		err := send()
		down, again := errors.AsType[*unavailable](err)
		if !again || n >= c.retries || ctx.Err() != nil {
			return err
		}
		if ended := sleep(ctx, c.backoff(n, down.after)); ended != nil {
			return fmt.Errorf("%w: %w", ended, err)
		}
	}
}
