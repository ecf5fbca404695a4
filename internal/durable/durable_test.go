package durable

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// A callback is sent once, and the kinds of refusal are distinguished.
func TestCallbacks(t *testing.T) {
	for _, test := range []struct {
		code   string
		status int
		want   error // nil with a code: nobody knows
	}{
		{"", 200, nil},
		{"CallbackTimeoutException", 400, stream.ErrTaskGone},
		{"ResourceNotFoundException", 404, stream.ErrTaskGone},
		{"InvalidParameterValueException", 400, stream.ErrUndeliverable},
		{"AccessDeniedException", 403, stream.ErrUndeliverable},
		{"ServiceException", 500, nil},
		{"TooManyRequestsException", 429, nil},
	} {
		var asked []string
		f := New(awstest.Config(awstest.Doer(func(r *http.Request) (*http.Response, error) {
			asked = append(asked, r.URL.Path)
			answer := awstest.Answer(test.status, `{"message":"no"}`)
			answer.Header.Set("X-Amzn-ErrorType", test.code)
			return answer, nil
		})))
		token := lock.Token{Kind: lock.CallbackToken, Text: "abc"}
		for _, err := range []error{f.Succeed(t.Context(), token, []byte(`{"fence":1}`)), f.Fail(t.Context(), token, stream.FailLost, "why")} {
			known := errors.Is(err, stream.ErrTaskGone) || errors.Is(err, stream.ErrUndeliverable)
			if (err == nil) != (test.code == "") || known != (test.want != nil) || known && !errors.Is(err, test.want) {
				t.Errorf("%s: %v", test.code, err)
			}
		}
		if len(asked) != 2 || !strings.HasSuffix(asked[0], "abc/succeed") || !strings.HasSuffix(asked[1], "abc/fail") {
			t.Errorf("%s: asked %v", test.code, asked)
		}
	}
}
