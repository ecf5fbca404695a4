package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// The example events of the functions are API Gateway's, and are served.
func TestFunctionEvents(t *testing.T) {
	for dir, op := range map[string]string{
		"acquire": "acquire", "renew": "renew", "release": "release", "status": "status", "forcerelease": "force-release",
	} {
		event, err := os.ReadFile(filepath.Join("..", "..", "functions", dir, "event.json"))
		if err != nil {
			t.Fatal(err)
		}
		s := newSystem(t)
		s.call("acquire", "deploy:prod", `{"lease":"my-secret-lease-0001"}`)
		if resp := s.invoke(op, event); resp.StatusCode != 200 {
			t.Errorf("%s: %d %s", dir, resp.StatusCode, resp.Body)
		}
	}
}

// The caller in an event of API Gateway is believed only if the function itself or the API's alias was invoked, and if there is an API. An event
// that is sent to another alias or a version, which callers may be allowed to invoke, is refused, and its caller is not logged.
func TestOnlyTheGatewaySaysWhoCalls(t *testing.T) {
	const function = "arn:aws:lambda:eu-west-1:123456789012:function:f"
	const forger = "arn:aws:iam::123456789012:user/other"
	bodies := map[string]string{
		"acquire": `{"owner":"x"}`, "renew": `{"lease":"` + secret + `"}`, "release": `{"lease":"` + secret + `"}`,
		"force-release": `{"reason":"x"}`, "status": "", "list": "",
	}
	for _, test := range []struct {
		qualifier       string
		noAPI, believed bool
	}{
		{"", false, true},
		{":live", false, true},
		{":only-ZGVwbG95Oio", false, false}, // deploy:*
		{":only-Kg", false, false},          // *
		{":$LATEST", false, false},
		{":7", false, false},
		{"", true, false},
		{":live", true, false},
	} {
		for op, body := range bodies {
			s := newSystem(t, func(_ *system, c *api.Config) { c.NoHTTP = test.noAPI })
			event := events.APIGatewayV2HTTPRequest{
				Version: "2.0", Headers: map[string]string{"content-type": "application/json"}, Body: body,
				RequestContext: events.APIGatewayV2HTTPRequestContext{
					RequestID: "forged-id", HTTP: events.APIGatewayV2HTTPRequestContextHTTPDescription{Method: "POST"},
					Authorizer: &events.APIGatewayV2HTTPRequestContextAuthorizerDescription{
						IAM: &events.APIGatewayV2HTTPRequestContextAuthorizerIAMDescription{UserARN: forger},
					},
				},
			}
			if op != "list" {
				event.PathParameters = map[string]string{"name": "deploy:prod"}
			}
			payload, err := json.Marshal(event)
			if err != nil {
				t.Fatal(err)
			}
			ctx := lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{AwsRequestID: "lambda-id", InvokedFunctionArn: function + test.qualifier})
			var resp events.APIGatewayV2HTTPResponse
			if out, err := s.handler(op).Invoke(ctx, payload); err != nil || json.Unmarshal(out, &resp) != nil {
				t.Fatalf("%s, %v", out, err)
			}
			what := fmt.Sprintf("%s through %q, no API: %v: %d %s, log %s", op, test.qualifier, test.noAPI, resp.StatusCode, resp.Body, s.log.String())
			if test.believed {
				if resp.StatusCode == 400 || !strings.Contains(s.log.String(), forger) || !strings.Contains(s.log.String(), "forged-id") {
					t.Error(what)
				}
				continue
			}
			if resp.StatusCode != 400 || !strings.Contains(resp.Body, `"code":"invalid_request"`) || !strings.Contains(resp.Body, `"request_id":"lambda-id"`) {
				t.Error(what)
			}
			if strings.Contains(s.log.String(), forger) || strings.Contains(s.log.String(), "forged-id") || !strings.Contains(s.log.String(), "lambda-id") {
				t.Error(what)
			}
			if r, _ := s.store.Get(t.Context(), "deploy:prod"); r.After.Rev != 0 {
				t.Errorf("%s; stored %+v", what, r.After)
			}
		}
	}
}

// Every answer has a request id, even if neither API Gateway nor Lambda gives one.
func TestRequestIDIsNeverEmpty(t *testing.T) {
	s := newSystem(t)
	resp := s.call("renew", "a", `{}`, func(e *events.APIGatewayV2HTTPRequest) { e.RequestContext.RequestID = "" })
	_, err := s.Handler(wire.OpRenew).Invoke(t.Context(), []byte(`{"name":"a"}`))
	failed, _ := errors.AsType[messages.InvokeResponse_Error](err)
	ids := map[string]bool{}
	for _, body := range []string{resp.Body, failed.Message} {
		var p wire.Problem
		if err := json.Unmarshal([]byte(body), &p); err != nil || len(p.RequestID) < 16 || ids[p.RequestID] {
			t.Errorf("%s, %v", body, err)
		}
		ids[p.RequestID] = true
		if !strings.Contains(s.log.String(), p.RequestID) {
			t.Errorf("%s is not in the log", p.RequestID)
		}
	}
}

func TestContentTypes(t *testing.T) {
	for media, says := range map[string]string{
		"application/json": "", "APPLICATION/JSON": "", "application/json; charset=utf-8": "", `application/json;charset="UTF-8"`: "", "application/json; v=1": "",
		"application/json; charset": "send application/json", "application/json,application/json": "send application/json", "text/json": "send application/json",
		"application/problem+json": "send application/json", "application/json; charset=utf8": `the charset is "utf8"; send UTF-8`,
		strings.Repeat("x", 5000): `"` + strings.Repeat("x", 40) + `…"; send application/json`,
	} {
		s := newSystem(t)
		resp := s.call("acquire", "a", `{}`, contentType(media))
		if says == "" {
			if resp.StatusCode != 200 {
				t.Errorf("%s: %s", media, resp.Body)
			}
			continue
		}
		if p := s.problem(resp); p.Field != "content-type" || !strings.Contains(p.Detail, says) {
			t.Errorf("%.50s: %+v", media, p)
		}
	}
}

// A query is checked as strictly as a body. The parameters of a signature are ignored.
func TestQueries(t *testing.T) {
	signature := []string{"X-Amz-Algorithm", "AWS4-HMAC-SHA256", "X-Amz-Signature", "0", "x-amz-security-token", "t"}
	for _, test := range []struct {
		op, body    string
		query       []string
		field, says string
	}{
		{op: "list", query: []string{"limit", "007"}, field: "limit", says: `limit is "007"; it must be a whole number`},
		{op: "list", query: []string{"limit", "+5"}, field: "limit", says: `limit is "+5"`},
		{op: "list", query: []string{"limit", ""}, field: "limit", says: `limit is ""`},
		{op: "list", query: []string{"limit", "1,1"}, field: "limit", says: `limit is "1,1"`},
		{op: "list", query: []string{"limit", "-1"}, field: "limit", says: "from 1 to 100"},
		{op: "list", query: []string{"limit", "101"}, field: "limit", says: "from 1 to 100"},
		{op: "list", query: []string{"limit", "99999999999999999999"}, field: "limit", says: "whole number"},
		{op: "list", query: []string{"state", ""}, field: "state", says: "held or all"},
		{op: "list", query: []string{"state", "HELD"}, field: "state", says: "held or all"},
		{op: "list", query: []string{"state", "all", "limit", "100", "prefix", "", "cursor", ""}},
		{op: "list", query: []string{"state", "held", "limit", "1", "prefix", "123"}},
		{op: "list", query: []string{"name", "a"}, field: "name", says: `the query parameter "name" is unknown`},
		{op: "list", query: signature},
		{op: "status", query: signature},
		{op: "status", query: []string{"name", "b"}, field: "name", says: "query parameter"},
		{op: "acquire", body: `{}`, query: signature},
		{op: "acquire", body: `{}`, query: []string{"ttl_ms", "5000"}, field: "ttl_ms", says: `the query parameter "ttl_ms" is unknown`},
		{op: "release", body: `{"lease":"` + secret + `"}`, query: []string{"lease", secret}, field: "lease", says: "query parameter"},
		{op: "force-release", body: `{"reason":"x"}`, query: []string{"fence", "1"}, field: "fence", says: "query parameter"},
	} {
		s := newSystem(t)
		name := "a"
		if test.op == "list" {
			name = ""
		}
		resp := s.call(test.op, name, test.body, query(test.query...))
		if test.says == "" {
			if resp.StatusCode != 200 {
				t.Errorf("%+v: %s", test, resp.Body)
			}
			continue
		}
		if p := s.problem(resp); p.Code != wire.InvalidRequest || p.Field != test.field || !strings.Contains(p.Detail, test.says) {
			t.Errorf("%+v: %+v", test, p)
		}
	}
}

// All parameters of a query are read, in any order, beside those of a signature.
func TestSignedQueries(t *testing.T) {
	s := newSystem(t)
	kv := []string{"state", "free"}
	for i := range 30 {
		kv = append(kv, fmt.Sprintf("X-Amz-%d", i), "x")
	}
	for range 10 {
		if p := s.problem(s.call("list", "", "", query(kv...))); p.Field != "state" {
			t.Errorf("%+v", p)
		}
	}
}
