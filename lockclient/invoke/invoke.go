// Package invoke lets a client invoke the coordinator's functions directly, without its HTTP API: from within a VPC that
// reaches Lambda only, or to save the API's charge.
//
//	functions, err := invoke.New(invoke.Config{AWS: cfg, Functions: invoke.Functions{Acquire: arn, …}})
//	...
//	client, err := lockclient.New(lockclient.Config{Transport: functions})
//
// What a caller may do is then said by lambda:InvokeFunction on aliases of the functions; see docs/iam.md.
package invoke

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/smithy-go"

	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// Functions are the names or ARNs of the coordinator's functions, or of their aliases. One that is empty is not used: its
// operation is refused. The stack's outputs have them.
type Functions struct {
	Acquire      string
	Renew        string
	Release      string
	ForceRelease string
	Status       string // for Status, List and Watch
}

// Config is how the functions are reached.
type Config struct {
	AWS       aws.Config // region, credentials, HTTP client; its retryer is not used, since the lock client tries again itself
	Functions Functions
	Endpoint  string // of Lambda; empty: the region's
}

// A Transport is a [lockclient.Transport]. It is safe for use by any number of goroutines.
type Transport struct {
	client    *lambda.Client
	functions map[string]string
}

// New makes a transport. It sends nothing.
func New(cfg Config) (*Transport, error) {
	f := cfg.Functions
	switch {
	case cfg.AWS.Region == "":
		return nil, errors.New("invoke: Config.AWS has no region; set AWS_REGION, or a region in the profile")
	case f == Functions{}:
		return nil, errors.New("invoke: Config.Functions is empty; name the coordinator's functions")
	}
	return &Transport{
		client: lambda.NewFromConfig(cfg.AWS, func(o *lambda.Options) {
			if cfg.Endpoint != "" {
				o.BaseEndpoint = &cfg.Endpoint
			}
			o.RetryMaxAttempts, o.Retryer = 0, aws.NopRetryer{}
		}),
		functions: map[string]string{
			"acquire": f.Acquire, "renew": f.Renew, "release": f.Release, "force-release": f.ForceRelease,
			"status": f.Status, "list": f.Status,
		},
	}, nil
}

// RoundTrip implements [lockclient.Transport].
func (t *Transport) RoundTrip(ctx context.Context, r lockclient.Request) (lockclient.Response, error) {
	function := t.functions[r.Op]
	if function == "" {
		return lockclient.Response{}, refused("no function is named for %s; name one in Config.Functions", r.Op)
	}
	payload, err := wire.DirectRequest(r.Op, r.Lock, r.Body)
	if err != nil {
		return lockclient.Response{}, refused("%v", err)
	}
	out, err := t.client.Invoke(ctx, &lambda.InvokeInput{FunctionName: &function, Payload: payload})
	if err != nil {
		return lockclient.Response{}, fault(function, err)
	}
	if out.FunctionError == nil {
		return lockclient.Response{Status: http.StatusOK, Body: out.Payload}, nil
	}
	var failed struct {
		Type    string `json:"errorType"`
		Message string `json:"errorMessage"`
	}
	var p wire.Problem
	if json.Unmarshal(out.Payload, &failed) == nil && json.Unmarshal([]byte(failed.Message), &p) == nil && p.Code != "" {
		return lockclient.Response{Status: p.Status, Body: []byte(failed.Message)}, nil
	}
	// Lambda's own word: the function timed out or crashed, perhaps after it wrote.
	return lockclient.Response{}, fmt.Errorf("invoke: %s failed: %s %s", function, failed.Type, failed.Message)
}

// fault tells what no repetition can mend from what one may.
func fault(function string, err error) error {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		switch code := api.ErrorCode(); code {
		case "AccessDeniedException":
			return refused("%s: %s: allow lambda:InvokeFunction on this function for the role", function, api.ErrorMessage())
		case "ResourceNotFoundException":
			return refused("there is no function %s in this region and account: check Config.Functions and the region", function)
		case "UnrecognizedClientException", "InvalidSignatureException", "ExpiredTokenException", "MissingAuthenticationTokenException",
			"InvalidParameterValueException", "RequestTooLargeException", "ValidationException":
			return refused("%s: %s", code, api.ErrorMessage())
		}
	}
	return fmt.Errorf("invoke: %s: %w", function, err)
}

func refused(format string, args ...any) error {
	return &lockclient.RefusedError{Detail: fmt.Sprintf(format, args...)}
}

var _ lockclient.Transport = (*Transport)(nil)
