// Package inprocess is a transport to a coordinator in this very process: the API's handlers, called as a direct invocation
// calls them.
package inprocess

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// A Transport is a [lockclient.Transport].
type Transport struct{ handlers map[string]lambda.Handler }

// New makes a transport to an API.
func New(a *api.API) *Transport {
	return &Transport{map[string]lambda.Handler{
		"acquire": a.Acquire(), "renew": a.Renew(), "release": a.Release(), "force-release": a.ForceRelease(),
		"status": a.Status(), "list": a.Status(),
	}}
}

// RoundTrip implements [lockclient.Transport].
func (t *Transport) RoundTrip(ctx context.Context, r lockclient.Request) (lockclient.Response, error) {
	handler, ok := t.handlers[r.Op]
	if !ok {
		return lockclient.Response{}, fmt.Errorf("inprocess: there is no operation %q", r.Op)
	}
	payload, err := wire.DirectRequest(r.Op, r.Lock, r.Body)
	if err != nil {
		return lockclient.Response{}, err
	}
	answer, err := handler.Invoke(ctx, payload)
	if failed, ok := errors.AsType[messages.InvokeResponse_Error](err); ok {
		var p wire.Problem
		if err := json.Unmarshal([]byte(failed.Message), &p); err != nil {
			return lockclient.Response{}, err
		}
		return lockclient.Response{Status: p.Status, Body: []byte(failed.Message)}, nil
	}
	return lockclient.Response{Status: http.StatusOK, Body: answer}, err
}
