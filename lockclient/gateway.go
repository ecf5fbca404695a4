package lockclient

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// gatewayError returns the error for an answer that is not the coordinator's: that of API Gateway, of Lambda, of a proxy, or of a
// server that is no coordinator. Some of them pass, and are retried; the text of the others says what to change.
func gatewayError(resp Response) error {
	message := gatewayMessage(resp.Body)
	switch resp.Status {
	case http.StatusTooManyRequests:
		return &unavailable{after: resp.RetryAfter, throttled: true, err: statusError(resp.Status, message)}
	case http.StatusRequestTimeout, http.StatusTooEarly:
		return &unavailable{after: resp.RetryAfter, err: statusError(resp.Status, message)}
	case http.StatusUnauthorized, http.StatusForbidden:
		return &RefusedError{Status: resp.Status, Detail: join(message, forbiddenFix(message))}
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported: // from servers without POST or HTTP/1.1
		return notCoordinator(resp.Status, statusText(resp.Status))
	case http.StatusBadRequest:
		return &RefusedError{Status: resp.Status, Detail: join(message, "this is not a coordinator's answer: check Config.Endpoint, and whether it begins with https://")}
	}
	if resp.Status >= http.StatusInternalServerError {
		return &unavailable{after: resp.RetryAfter, err: statusError(resp.Status, message)}
	}
	return notCoordinator(resp.Status, join(message, statusText(resp.Status)))
}

// maxMessage is the number of bytes of a gateway's message that an error text repeats.
const maxMessage = 200

// gatewayMessage returns the message of an answer in the form of AWS's services, {"message":"Forbidden"}. Nothing of another answer
// is repeated: it may contain the request, and in it the lease's secret.
func gatewayMessage(body []byte) string {
	var answer struct {
		Message string `json:"message"` // encoding/json accepts "Message" too
	}
	if json.Unmarshal(body, &answer) != nil {
		return ""
	}
	return strings.ToValidUTF8(answer.Message[:min(len(answer.Message), maxMessage)], "")
}

func statusText(status int) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", status, http.StatusText(status)))
}

func statusError(status int, message string) error {
	return fmt.Errorf("%s", join(statusText(status), message))
}

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + ": " + b
}

// forbiddenFix returns what to do about a request that API Gateway refused with a message.
func forbiddenFix(message string) string {
	has := func(text string) bool { return strings.Contains(strings.ToLower(message), text) }
	switch {
	case has("signature expired"), has("signature not yet current"), has("not yet valid"):
		return "set this machine's clock right"
	case has("token") && has("expired"):
		return "the credentials have expired; renew them (with single sign-on: aws sso login)"
	case has("token") && has("invalid"):
		return "the credentials are not valid; check AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN, or Config.Credentials"
	case has("signature"), has("credential"):
		return "check the secret key and Config.Region, and that nothing on the way changes the request"
	case has("missing authentication token"):
		return "sign the requests (Config.Region and Config.Credentials), and check Config.Endpoint, which ends where /v1/locks begins"
	}
	return "sign with credentials that may call execute-api:Invoke on this route (Config.Region and Config.Credentials)"
}
