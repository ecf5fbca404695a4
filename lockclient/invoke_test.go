package lockclient_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// A refusal of Lambda's that lasts is not retried, and the error says what to do. Other failures are retried.
func TestInvokeFaults(t *testing.T) {
	refusals := map[string]string{
		"AccessDeniedException": "lambda:InvokeFunction", "ResourceNotFoundException": "check Config.Functions", "ExpiredTokenException": "renew them",
		"UnrecognizedClientException": "AWS_ACCESS_KEY_ID", "InvalidSignatureException": "clock", "KMSAccessDeniedException": "deploy the stack",
		"SomethingNewException": "check Config.Functions",
	}
	for code, says := range refusals {
		t.Run(code, func(t *testing.T) { invokeFault(t, 403, code, lockclient.ErrRefused, says, 1) })
	}
	t.Run("502 with a known code", func(t *testing.T) {
		invokeFault(t, 502, "KMSDisabledException", lockclient.ErrRefused, "deploy the stack", 1)
	})
	for code, status := range map[string]int{"ServiceException": 500, "TooManyRequestsException": 429, "ResourceConflictException": 409, "EC2ThrottledException": 502} {
		t.Run(code, func(t *testing.T) { invokeFault(t, status, code, lockclient.ErrUnavailable, "", 3) })
	}
	t.Run("function does not start", func(t *testing.T) {
		c, r := lambdaWith(t, answer(200, map[string]string{"X-Amz-Function-Error": "Unhandled"}, `{"errorType":"Runtime.InvalidEntrypoint","errorMessage":"fork/exec"}`))
		_, err := c.TryAcquire(t.Context(), "a", lockclient.Options{})
		wantIs(t, err, lockclient.ErrRefused)
		if r.harm.sent != 1 {
			t.Errorf("%d requests", r.harm.sent)
		}
		r.harm.next(0, nil)
		_ = c.Close(t.Context())
	})
}

func lambdaWith(t *testing.T, respond func() *http.Response) (*lockclient.Client, reached) {
	r := overLambda(t)
	cfg := r.transport
	cfg.RetryDelay, cfg.Retries = time.Millisecond, 2
	c, err := lockclient.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.harm.next(100, func(*http.Request, func() (*http.Response, error)) (*http.Response, error) { return respond(), nil })
	return c, r
}

func invokeFault(t *testing.T, status int, code string, want error, says string, requests int) {
	c, r := lambdaWith(t, answer(status, map[string]string{"X-Amzn-ErrorType": code}, `{"Message":"no"}`))
	_, err := c.TryAcquire(t.Context(), "a", lockclient.Options{})
	wantIs(t, err, want)
	r.harm.mu.Lock()
	sent := r.harm.sent
	r.harm.mu.Unlock()
	if sent < requests || requests == 1 && sent != 1 || !strings.Contains(err.Error(), says) {
		t.Errorf("%d requests, %v", sent, err)
	}
	r.harm.next(0, nil)
	_ = c.Close(t.Context())
}
