package api_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A direct invocation is the same request with the name in the payload. It fails with Lambda's form of errors.
func TestDirectInvocation(t *testing.T) {
	s := newSystem(t)
	ctx := lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{AwsRequestID: "direct-1"})
	for _, step := range []struct{ op, payload, want, errorType string }{
		{"acquire", `{"name":"a","lease":"` + secret + `","owner":"me"}`, `"lease":"` + secret + `"`, ""},
		{"acquire", `{"name":"a"}`, `"code":"lock_held"`, "LockHeld"},
		{"acquire", `{"name":"a","capacity":2}`, `"code":"capacity_mismatch"`, "CapacityMismatch"},
		{"acquire", `{}`, `"field":"name"`, "InvalidRequest"},
		{"acquire", `{"name":"a b"}`, `"field":"name"`, "InvalidRequest"},
		{"acquire", `{"name":"a","requestContext":{}}`, `"field":"requestContext"`, "InvalidRequest"},
		{"renew", `{"name":"a","lease":"` + secret + `"}`, `"remaining_ms":60000`, ""},
		{"renew", `{"name":"a","lease":"another-secret-lease"}`, `"code":"lease_lost"`, "LeaseLost"},
		{"status", `{"op":"status","name":"a"}`, `"locked":true`, ""},
		{"status", `{"op":"list","limit":5}`, `"locks":[{`, ""},
		{"status", `{"name":"a"}`, `"field":"op"`, "InvalidRequest"},
		{"status", `{"op":"list","name":"a"}`, `"field":"name"`, "InvalidRequest"},
		{"force-release", `{"name":"a","reason":"x","fence":5}`, `"code":"lock_changed"`, "LockChanged"},
		{"release", `{"name":"a","lease":"` + secret + `"}`, `"released_at"`, ""},
		{"release", `not JSON`, `"field":"body"`, "InvalidRequest"},
	} {
		out, err := s.handler(step.op).Invoke(ctx, []byte(step.payload))
		if step.errorType == "" {
			if err != nil || !strings.Contains(string(out), step.want) {
				t.Errorf("%s %s: %s, %v", step.op, step.payload, out, err)
			}
			continue
		}
		lambdaErr, ok := err.(messages.InvokeResponse_Error) //nolint:errorlint // by value, outermost: else Lambda loses the type
		if !ok || lambdaErr.Type != step.errorType || !strings.Contains(lambdaErr.Message, step.want) {
			t.Errorf("%s %s: %#v", step.op, step.payload, err)
			continue
		}
		if !strings.Contains(lambdaErr.Message, `"request_id":"direct-1"`) || !json.Valid([]byte(lambdaErr.Message)) {
			t.Errorf("message %s", lambdaErr.Message)
		}
	}
}

// An alias with a pattern serves only the locks that match it.
func TestAliasServesItsLocks(t *testing.T) {
	s := newSystem(t)
	ctx := lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{
		InvokedFunctionArn: "arn:aws:lambda:eu-west-1:123456789012:function:f:only-ZGVwbG95Oio", // deploy:*
	})
	for _, test := range []struct {
		op, payload string
		served      bool
	}{
		{"acquire", `{"name":"deploy:x"}`, true},
		{"acquire", `{"name":"billing:x"}`, false},
		{"status", `{"op":"status","name":"deploy:x"}`, true},
		{"status", `{"op":"list"}`, false},
	} {
		out, err := s.handler(test.op).Invoke(ctx, []byte(test.payload))
		said := string(out)
		if err != nil {
			said = err.Error()
		}
		if strings.Contains(said, "this alias") == test.served {
			t.Errorf("%s %s: %s", test.op, test.payload, said)
		}
	}
	if r, _ := s.store.Get(t.Context(), "billing:x"); r.After.Rev != 0 {
		t.Errorf("it was written: %+v", r.After)
	}
}

// A payload that is not API Gateway's event of format 2.0 is a direct invocation, and is decoded strictly.
func TestWhatIsAnEvent(t *testing.T) {
	for payload, says := range map[string]string{
		`{"version":"1.0","requestContext":{"http":{"method":"POST"}}}`:   `"field":"name"`,
		`{"version":"2.0","requestContext":{}}`:                           `"field":"name"`,
		`{"version":2.0,"requestContext":{"http":{"method":"POST"}}}`:     `"field":"name"`,
		`{"name":"a","version":"2.0"}`:                                    `"field":"version"`,
		`{"name":"a","metadata":{"requestContext":{}}}`:                   ``,
		`{"name":"a","owner":"\"requestContext\""}`:                       ``,
		`{"name":"a","principal":"arn:aws:iam::123456789012:user/other"}`: `"field":"principal"`,
		`{"name":"a","request_id":"mine"}`:                                `"field":"request_id"`,
		`{"name":"a","op":"acquire"}`:                                     `"field":"op"`,
		`[]`:                                                              `"field":"body"`,
		``:                                                                `"field":"body"`,
	} {
		s := newSystem(t)
		ctx := lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{AwsRequestID: "direct-1", InvokedFunctionArn: ownFunction})
		out, err := s.Handler(wire.OpAcquire).Invoke(ctx, []byte(payload))
		if says == "" {
			if err != nil || !strings.Contains(string(out), `"lock":"a"`) {
				t.Errorf("%s: %s, %v", payload, out, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), strings.ReplaceAll(says, `"`, `\"`)) && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %s, %v", payload, out, err)
		}
	}
}
