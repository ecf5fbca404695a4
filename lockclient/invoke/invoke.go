// Package invoke is a transport for package lockclient that invokes the coordinator's Lambda functions directly, without its HTTP
// API. It serves clients in a VPC that reaches Lambda only, and saves the price of the HTTP API.
//
//	functions, err := invoke.New(invoke.Config{AWS: cfg, Functions: invoke.Functions{Acquire: arn, …}})
//	...
//	client, err := lockclient.New(lockclient.Config{Transport: functions})
//
// A caller needs permission for lambda:InvokeFunction on the functions, or on aliases of them that are limited to some lock names;
// see docs/iam.md.
package invoke

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/smithy-go"

	"github.com/holdfast-lock/holdfast/internal/reach"
	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// Functions are the names or ARNs of the coordinator's functions, or of aliases of them, as the stack's outputs list them. The
// operations of a function whose field is empty are refused.
type Functions struct {
	Acquire      string
	Renew        string
	Release      string
	ForceRelease string
	Status       string // serves Status, List and Watch
	Rules        string // serves Freeze, Unfreeze and Rules
}

// ParseFunctions returns the functions of a list such as "acquire=NAME,renew=NAME,release=NAME,force-release=NAME,status=NAME,rules=NAME",
// the stack's output Functions, which the command takes as HOLDFAST_FUNCTIONS. A value is a function's name or ARN, or that of an alias. The
// list may name some of the functions only. It fails if a part is not of that form, or names an operation twice or one that there is not.
func ParseFunctions(list string) (Functions, error) {
	var f Functions
	fields := map[string]*string{
		"acquire": &f.Acquire, "renew": &f.Renew, "release": &f.Release, "force-release": &f.ForceRelease, "status": &f.Status, "rules": &f.Rules,
	}
	for part := range strings.SplitSeq(list, ",") {
		op, function, _ := strings.Cut(strings.TrimSpace(part), "=")
		field := fields[op]
		switch {
		case function == "":
			return Functions{}, fmt.Errorf("invoke: %q names no function; give acquire=NAME, with commas between several, such as the stack's output Functions", part)
		case field == nil:
			return Functions{}, fmt.Errorf("invoke: %q is no function of a coordinator; there are acquire, renew, release, force-release, status and rules", op)
		case *field != "":
			return Functions{}, fmt.Errorf("invoke: the function for %s is named twice; name it once", op)
		}
		*field = function
	}
	return f, nil
}

// Config configures a [Transport].
type Config struct {
	// AWS has the region, the credentials and the HTTP client. Its retryer is not used, since the lock client retries itself. Its log
	// mode is limited, since requests contain the secrets of leases. Redirects are not followed.
	AWS       aws.Config
	Functions Functions
	Endpoint  string // the URL of Lambda; empty means the region's
}

// A Transport is a [lockclient.Transport] to the coordinator's functions. It is safe for concurrent use.
type Transport struct {
	client    *lambda.Client
	http      *reach.Client
	functions map[wire.Op]string
}

// New makes a transport. It sends no request. It fails if there is no region, or if no function is named.
func New(cfg Config) (*Transport, error) {
	f := cfg.Functions
	switch {
	case cfg.AWS.Region == "":
		return nil, errors.New("invoke: Config.AWS has no region; set AWS_REGION, or a region in the profile")
	case f == Functions{}:
		return nil, errors.New("invoke: Config.Functions is empty; name the coordinator's functions")
	}
	connections := reach.New(cfg.AWS.HTTPClient)
	return &Transport{
		http: connections,
		client: lambda.NewFromConfig(cfg.AWS, func(o *lambda.Options) {
			if cfg.Endpoint != "" {
				o.BaseEndpoint = &cfg.Endpoint
			}
			o.RetryMaxAttempts, o.Retryer = 0, aws.NopRetryer{}
			o.ClientLogMode &= aws.LogRetries | aws.LogDeprecatedUsage
			o.HTTPClient = connections
			if o.Credentials != nil || cfg.Endpoint == "" {
				o.Credentials = reach.NewCredentials(o.Credentials)
			}
		}),
		functions: map[wire.Op]string{
			wire.OpAcquire: f.Acquire, wire.OpRenew: f.Renew, wire.OpRelease: f.Release,
			wire.OpForceRelease: f.ForceRelease, wire.OpStatus: f.Status, wire.OpRules: f.Rules,
		},
	}, nil
}

// RoundTrip implements [lockclient.Transport].
func (t *Transport) RoundTrip(ctx context.Context, r lockclient.Request) (lockclient.Response, error) {
	op := wire.Op(r.Op)
	function := t.functions[op.Function()]
	if function == "" {
		return lockclient.Response{}, refused("no function is named for %s; name one in Config.Functions, or in HOLDFAST_FUNCTIONS of the command", op)
	}
	payload, err := wire.DirectRequest(op, r.Lock, r.Body)
	if err != nil {
		return lockclient.Response{}, refused("%v", err)
	}
	out, err := t.client.Invoke(ctx, &lambda.InvokeInput{FunctionName: &function, Payload: payload})
	if throttled(err) {
		return lockclient.Response{Status: http.StatusTooManyRequests, Body: fmt.Appendf(nil, `{"message":"Lambda throttles %s"}`, function)}, nil
	}
	if err != nil {
		return lockclient.Response{}, fault(ctx, function, err)
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
	if initErrors[failed.Type] {
		return lockclient.Response{}, refused("%s does not start: %s: %s; look at its log, and deploy the stack again", function, failed.Type, failed.Message)
	}
	// Lambda reports that the function timed out or crashed. It may have written before.
	return lockclient.Response{}, fmt.Errorf("invoke: %s failed: %s %s", function, failed.Type, failed.Message)
}

// initErrors are Lambda's error types for a function that cannot start as it is deployed.
var initErrors = map[string]bool{"Runtime.InvalidEntrypoint": true, "Runtime.ImportModuleError": true, "Runtime.HandlerNotFound": true}

// fault returns the error for a failed invocation: a refusal if no retry can help.
func fault(ctx context.Context, function string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("invoke: %s: %w", function, context.Cause(ctx))
	}
	if lasting, ok := errors.AsType[*reach.Refusal](err); ok {
		return refused("%s: %v", function, lasting)
	}
	status := httpStatus(err)
	code, message := http.StatusText(status), "this is not an answer of Lambda's"
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		code, message = api.ErrorCode(), api.ErrorMessage()
	}
	if fix, ok := fixes[code]; ok {
		return refused("%s: %s: %s: %s", function, code, message, fix)
	}
	if status/100 != 4 || status == http.StatusConflict || status == http.StatusRequestTimeout { // Lambda answers 409 while the function is being deployed
		return fmt.Errorf("invoke: %s: %w", function, err)
	}
	return refused("%s: %s: %s: check Config.Functions and the endpoint of Lambda", function, code, message)
}

// throttled reports whether Lambda refused an invocation because there are too many.
func throttled(err error) bool { return httpStatus(err) == http.StatusTooManyRequests }

func httpStatus(err error) int {
	if resp, ok := errors.AsType[interface {
		error
		HTTPStatusCode() int
	}](err); ok {
		return resp.HTTPStatusCode()
	}
	return 0
}

const (
	fixCredentials = "the credentials are not valid; check AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN, or the profile"
	fixDeployment  = "the function cannot run as it is deployed; look at it in Lambda, and deploy the stack again"
)

// fixes says what to do about Lambda's errors that no retry corrects.
var fixes = map[string]string{
	"AccessDeniedException":               "allow lambda:InvokeFunction on this function for the role",
	"ResourceNotFoundException":           "there is no such function in this region and account: check Config.Functions and the region",
	"ExpiredTokenException":               "the credentials have expired; renew them (with single sign-on: aws sso login)",
	"ExpiredToken":                        "the credentials have expired; renew them (with single sign-on: aws sso login)",
	"UnrecognizedClientException":         fixCredentials,
	"InvalidClientTokenId":                fixCredentials,
	"MissingAuthenticationTokenException": fixCredentials,
	"IncompleteSignatureException":        fixCredentials,
	"InvalidSignatureException":           "check the secret key, and this machine's clock",
	"SignatureDoesNotMatch":               "check the secret key, and this machine's clock",
	"RequestExpired":                      "set this machine's clock right",
	"InvalidParameterValueException":      "check Config.Functions",
	"ValidationException":                 "check Config.Functions",
	"InvalidRuntimeException":             fixDeployment,
	"InvalidZipFileException":             fixDeployment,
	"InvalidSecurityGroupIDException":     fixDeployment,
	"InvalidSubnetIDException":            fixDeployment,
	"KMSAccessDeniedException":            fixDeployment,
	"KMSDisabledException":                fixDeployment,
	"KMSInvalidStateException":            fixDeployment,
	"KMSNotFoundException":                fixDeployment,
	"EC2AccessDeniedException":            fixDeployment,
}

func refused(format string, args ...any) error {
	return &lockclient.RefusedError{Detail: fmt.Sprintf(format, args...)}
}

// CloseIdleConnections closes the connections to Lambda that are not in use. [lockclient.Client.Close] calls it.
func (t *Transport) CloseIdleConnections() { t.http.CloseIdleConnections() }

var _ lockclient.Transport = (*Transport)(nil)
