package api

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/aws/aws-lambda-go/events"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// An httpEvent has the members of API Gateway's payload format 2.0 (events.APIGatewayV2HTTPRequest) that are read here. To
// decode no others halves the time that a request spends in this package.
type httpEvent struct {
	Version  string `json:"version"`
	RouteKey string `json:"routeKey"` // method and path of the route, with {name} in place of the lock's name
	Headers  struct {
		ContentType string `json:"content-type"` // names come in lower case
		Traceparent string `json:"traceparent"`
	} `json:"headers"`
	QueryStringParameters map[string]string `json:"queryStringParameters"`
	PathParameters        struct {
		Name   *string `json:"name"`
		Prefix *string `json:"prefix"`
		Scope  *string `json:"scope"`
	} `json:"pathParameters"`
	RequestContext struct {
		RequestID  string `json:"requestId"`
		Authorizer struct {
			IAM struct {
				UserARN string `json:"userArn"`
			} `json:"iam"`
		} `json:"authorizer"`
		HTTP struct {
			Method string `json:"method"`
		} `json:"http"`
	} `json:"requestContext"`
	Body            string `json:"body"`
	IsBase64Encoded bool   `json:"isBase64Encoded"`
}

// asHTTP decodes an event of API Gateway's HTTP API, and reports whether the payload is one.
func asHTTP(payload []byte) (*httpEvent, bool) {
	if !bytes.Contains(payload, []byte(`"requestContext"`)) {
		return nil, false
	}
	var event httpEvent
	err := json.Unmarshal(payload, &event)
	return &event, err == nil && event.Version == "2.0" && event.RequestContext.HTTP.Method != ""
}

// historyRoute is the route of a lock's history, which the status function serves, too.
var historyRoute = func() string { method, path := wire.OpHistory.Route(); return method + " " + path }()

// readHTTP completes a call with an event of API Gateway. What the event says about the caller is believed only if API Gateway
// may have sent it ([scope.MayBeAPI]). Anybody who may invoke another alias can send such an event there; admit refuses it.
func (c *call) readHTTP(event *httpEvent) {
	c.http, c.trace = true, event.Headers.Traceparent
	if !c.forged {
		c.principal = event.RequestContext.Authorizer.IAM.UserARN
		c.requestID = cmp.Or(event.RequestContext.RequestID, c.requestID)
	}
	if event.PathParameters.Name != nil {
		c.lock = *event.PathParameters.Name
	}
	if event.PathParameters.Scope != nil && c.op.OfSet() != "" {
		c.op, c.scope = c.op.OfSet(), *event.PathParameters.Scope
	}
	if c.op.OfRules() {
		if prefix := event.PathParameters.Prefix; prefix != nil {
			c.lock = *prefix
		}
		c.op = ruleOp(event.RequestContext.HTTP.Method, event.PathParameters.Prefix != nil)
	}
	if c.op == wire.OpStatus && event.RouteKey == historyRoute {
		c.op = wire.OpHistory
	}
	if c.op.Function() != wire.OpStatus && (!c.op.OfRules() || c.op == wire.OpPutRule) {
		c.fields, c.malformed = bodyObject(event)
		return
	}
	c.fields = queryObject(event.QueryStringParameters)
	if c.op == wire.OpStatus && event.PathParameters.Name == nil {
		c.op = wire.OpList
	}
}

// httpResponse makes API Gateway's response of an answer, or of a problem.
func httpResponse(answer any, problem *wire.Problem) events.APIGatewayV2HTTPResponse {
	resp := events.APIGatewayV2HTTPResponse{
		StatusCode: http.StatusOK, Body: string(encode(answer)),
		Headers: map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store"},
	}
	if problem != nil {
		resp.StatusCode, resp.Body = problem.Status, string(encode(problem))
		resp.Headers["Content-Type"] = "application/problem+json"
		if problem.RetryAfter > 0 {
			resp.Headers["Retry-After"] = strconv.FormatInt((problem.RetryAfter+999)/1000, 10) // in seconds
		}
	}
	return resp
}

// bodyObject returns the fields of a request with a body. Such a request has no query parameters: they would be ignored.
func bodyObject(event *httpEvent) (*object, error) {
	if query := queryObject(event.QueryStringParameters).done(); query != nil {
		return nil, query
	}
	data, err := httpBody(event.Headers.ContentType, event.Body, event.IsBase64Encoded)
	if err != nil {
		return nil, err
	}
	return parseObject(data)
}

// queryObject returns the query parameters as fields, so that they are checked as a body's are. It leaves out those of a SigV4
// signature, which may be part of a query.
func queryObject(query map[string]string) *object {
	o := newObject()
	o.where = "query parameter"
	for k, v := range query {
		if strings.HasPrefix(strings.ToLower(k), "x-amz-") {
			continue
		}
		o.fields[k] = encode(v)
		if n, err := strconv.ParseInt(v, 10, 64); (k == "limit" || k == "waiters") && err == nil && strconv.FormatInt(n, 10) == v {
			o.fields[k] = json.RawMessage(v)
		}
	}
	return o
}

// httpBody checks the content type of a request and returns its body.
func httpBody(contentType, body string, encoded bool) ([]byte, error) {
	if body == "" {
		return nil, invalid("body", "the body is empty; send a JSON object, {} at least")
	}
	switch media, params, err := mime.ParseMediaType(contentType); {
	case contentType == "":
		return nil, invalid("content-type", "the content-type is missing; send application/json")
	case err != nil || media != "application/json":
		return nil, invalid("content-type", "the content-type is %q; send application/json", brief([]byte(contentType)))
	case params["charset"] != "" && !strings.EqualFold(params["charset"], "utf-8"):
		return nil, invalid("content-type", "the charset is %q; send UTF-8", brief([]byte(params["charset"])))
	}
	data := []byte(body)
	if encoded {
		var err error
		if data, err = base64.StdEncoding.DecodeString(body); err != nil {
			return nil, invalid("body", "the body is said to be base64 and is not")
		}
	}
	return data, nil
}
