package wirefault

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A protocol is how a service names its operations and says that it failed.
type protocol int

const (
	coordinator protocol = iota // Holdfast's HTTP API, behind API Gateway
	amazonJSON                  // DynamoDB, DynamoDB Streams, SQS: the operation is in a header
	lambda                      // Lambda's Invoke
)

const lambdaPrefix = "/2015-03-31/functions/"

func protocolOf(r *http.Request) protocol {
	switch {
	case r.Header.Get("X-Amz-Target") != "":
		return amazonJSON
	case strings.HasPrefix(r.URL.Path, lambdaPrefix):
		return lambda
	}
	return coordinator
}

// operation names what a request asks for: "UpdateItem" for DynamoDB, the function's name for Lambda, "acquire" and so on, "list" or "status"
// for the coordinator.
func operation(r *http.Request) string {
	switch protocolOf(r) {
	case amazonJSON:
		target := r.Header.Get("X-Amz-Target")
		return target[strings.LastIndexByte(target, '.')+1:]
	case lambda:
		name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), lambdaPrefix), "/")
		if text, err := url.PathUnescape(name); err == nil {
			return text
		}
		return name
	}
	parts := strings.Split(strings.Trim(r.URL.EscapedPath(), "/"), "/") // v1, locks, name, operation
	switch {
	case len(parts) == 2:
		return "list"
	case len(parts) == 3:
		return "status"
	}
	return parts[len(parts)-1]
}

// A canned answer is an error of the protocol's own.
type canned struct {
	status  int
	headers map[string]string
	body    string
}

// throttled returns the refusal of a request that came too fast. Where a service has several forms, part chooses one.
func throttled(r *http.Request, part int) canned {
	switch protocolOf(r) {
	case amazonJSON: // the errors of a partition that is too hot, and of a request rate of the account
		if part%2 == 0 {
			return amazonError(http.StatusBadRequest, "ProvisionedThroughputExceededException",
				"The level of configured provisioned throughput for the table was exceeded. Consider increasing your provisioning level with the UpdateTable API.")
		}
		return amazonError(http.StatusBadRequest, "ThrottlingException",
			"Throughput exceeds the current capacity of your table or index.")
	case lambda:
		return canned{http.StatusTooManyRequests, map[string]string{"X-Amzn-Errortype": "TooManyRequestsException", "Content-Type": "application/json"},
			`{"Reason":"ReservedFunctionConcurrentInvocationLimitExceeded","Type":"User","message":"Rate Exceeded."}`}
	}
	switch part { // API Gateway's own limit, Lambda's behind it, the coordinator's
	case 0:
		return canned{http.StatusTooManyRequests, map[string]string{"Content-Type": "application/json"}, `{"message":"Too Many Requests"}`}
	case 1:
		return canned{http.StatusServiceUnavailable, map[string]string{"Content-Type": "application/json"}, `{"message":"Service Unavailable"}`}
	}
	p := wire.NewProblem(wire.Throttled, "wirefault")
	p.Detail, p.RetryAfter = "the fault proxy throttles this request", 100
	body, _ := json.Marshal(p) // has no value that JSON lacks
	return canned{p.Status, map[string]string{"Content-Type": "application/problem+json"}, string(body)}
}

// failed returns the answer of a service that failed inside.
func failed(r *http.Request, _ int) canned {
	switch protocolOf(r) {
	case amazonJSON:
		return amazonError(http.StatusInternalServerError, "InternalServerError", "Internal server error")
	case lambda:
		return canned{http.StatusInternalServerError, map[string]string{"X-Amzn-Errortype": "ServiceException", "Content-Type": "application/json"},
			`{"Type":"Service","message":"An error occurred and the request cannot be processed."}`}
	}
	return canned{http.StatusInternalServerError, map[string]string{"Content-Type": "application/json"}, `{"message":"Internal Server Error"}`}
}

func amazonError(status int, name, message string) canned {
	body, _ := json.Marshal(map[string]string{"__type": "com.amazonaws.dynamodb.v20120810#" + name, "message": message}) // strings only
	return canned{status, map[string]string{"Content-Type": "application/x-amz-json-1.0", "X-Amzn-Requestid": "WIREFAULT"}, string(body)}
}
