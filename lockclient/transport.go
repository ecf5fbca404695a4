package lockclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"time"

	"github.com/holdfast-lock/holdfast/internal/reach"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A Transport carries requests to a coordinator and answers back. Package lockclient has one for HTTP; packages invoke and direct
// have others. A Transport must be safe for concurrent use. If it has a method CloseIdleConnections(), [Client.Close] calls it.
type Transport interface {
	// RoundTrip sends a request once. An error means that there is no answer and that it is not known whether the request took
	// effect: the client sends it again, unless the error is or wraps a [*RefusedError].
	RoundTrip(ctx context.Context, r Request) (Response, error)
}

// A Request is a request to a coordinator.
type Request struct {
	// Op is the operation: "acquire", "renew", "release", "force-release", "status", "list", "rules", "put-rule" or "delete-rule".
	Op string
	// Lock is the lock's name, or the prefix of a rule; empty for "list" and "rules".
	Lock string
	// Body is a JSON object with the operation's fields; nil for "rules", and for "status" without waiters.
	Body []byte
}

// A Response is an answer to a request.
type Response struct {
	Status     int           // the HTTP status: 200 for a success
	Body       []byte        // the operation's answer in JSON, or a problem (RFC 9457) if Status is not 200
	RetryAfter time.Duration // when to send the request again, as an answer that is not the coordinator's says; 0 if it does not

	// Answer, if not nil, takes the place of Body: the answer or the problem as a coordinator in the same process made it, without an
	// encoding between. The transports of packages direct and locktest set it. A transport around them passes it on as it is.
	Answer any
}

// send makes one try of a request. Its error is of this package; if ctx ended first, it wraps ctx's error.
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
	if resp.Status != http.StatusOK && len(resp.Body) > 0 {
		resp.Body = withoutSecret(resp.Body, r.Body)
	}
	return readAnswer(resp, answer)
}

// withoutSecret replaces the lease's secret in an answer whose text may become that of an error: a proxy's answer may repeat the request.
func withoutSecret(answer, request []byte) []byte {
	var sent struct {
		Lease string `json:"lease"`
	}
	if json.Unmarshal(request, &sent) != nil || sent.Lease == "" {
		return answer
	}
	return bytes.ReplaceAll(answer, []byte(sent.Lease), []byte("(the lease's secret)"))
}

// noAnswer returns this package's error for the error of a transport.
func noAnswer(ctx context.Context, err error) error {
	switch ended := ctx.Err(); {
	case errors.Is(ended, context.DeadlineExceeded):
		return &unavailable{err: fmt.Errorf("it did not answer in time: %w", ended)}
	case ended != nil: // the caller gave up, which says nothing about the coordinator
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

// readAnswer stores an answer in the struct of package wire that answer points to, or returns the error of a problem.
func readAnswer(resp Response, answer any) error {
	if resp.Answer != nil {
		return takeAnswer(resp.Answer, answer)
	}
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

// takeAnswer is readAnswer for an answer that was not encoded.
func takeAnswer(from, answer any) error {
	if p, ok := from.(*wire.Problem); ok {
		return problemError(p)
	}
	to, value := reflect.ValueOf(answer).Elem(), reflect.ValueOf(from)
	if value.Type() != to.Type() {
		return refused("", "the transport's Response.Answer is %T, but this operation's answer is %v", from, to.Type())
	}
	to.Set(value)
	return nil
}

// readSuccess decodes an answer. An answer that was cut off may be complete the next time; one that is not JSON will not be JSON the
// next time.
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

// retry sends a request up to Config.Retries times again while it has no answer.
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
