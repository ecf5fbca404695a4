package tasks

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sfn"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// errUnknown marks an answer that says nothing of the task.
var errUnknown = errors.New("unknown")

// fakeServices is a fake of Step Functions and Lambda: it keeps what was asked, and answers with an error if there is one.
type fakeServices struct {
	asked  []string
	status int
	code   string
	body   string
}

func (f *fakeServices) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	f.asked = append(f.asked, strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "AWSStepFunctions.")+r.URL.Path+" "+string(body))
	if f.code != "" {
		w.Header().Set("X-Amzn-ErrorType", f.code)
		w.WriteHeader(f.status)
		_, _ = io.WriteString(w, `{"__type":"`+f.code+`","message":"no"}`)
		return
	}
	_, _ = io.WriteString(w, f.body)
}

func newServices(t *testing.T) (*Services, *fakeServices) {
	f := &fakeServices{body: "{}"}
	server := httptest.NewServer(f)
	client := &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		server.Close()
	})
	cfg := aws.Config{Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""), HTTPClient: client, BaseEndpoint: &server.URL}
	return New(cfg), f
}

// A callback goes to the service of its token's kind, once, and the kinds of refusal are distinguished.
func TestServices(t *testing.T) {
	for _, test := range []struct {
		kind   lock.TokenKind
		code   string
		status int
		want   error // nil: nobody knows
	}{
		{lock.TaskToken, "", 0, nil},
		{lock.CallbackToken, "", 0, nil},
		{lock.TaskToken, "TaskTimedOut", 400, stream.ErrTaskGone},
		{lock.TaskToken, "TaskDoesNotExist", 400, stream.ErrTaskGone},
		{lock.TaskToken, "InvalidToken", 400, stream.ErrTaskGone},
		{lock.CallbackToken, "CallbackTimeoutException", 400, stream.ErrTaskGone},
		{lock.CallbackToken, "ResourceNotFoundException", 404, stream.ErrTaskGone},
		{lock.TaskToken, "AccessDeniedException", 400, stream.ErrUndeliverable},
		{lock.CallbackToken, "InvalidParameterValueException", 400, stream.ErrUndeliverable},
		{lock.TaskToken, "ThrottlingException", 400, errUnknown},
		{lock.CallbackToken, "ServiceException", 500, errUnknown},
	} {
		s, f := newServices(t)
		f.status, f.code = test.status, test.code
		token := lock.Token{Kind: test.kind, Text: "abc"}
		for _, err := range []error{s.Succeed(t.Context(), token, []byte(`{"fence":1}`)), s.Fail(t.Context(), token, stream.FailLost, "why")} {
			switch known := errors.Is(err, stream.ErrTaskGone) || errors.Is(err, stream.ErrUndeliverable); {
			case test.want == nil && err != nil, test.want == errUnknown && (err == nil || known), test.want != nil && test.want != errUnknown && !errors.Is(err, test.want): //nolint:errorlint // a mark
				t.Errorf("%s, %s: %v", test.kind, test.code, err)
			}
		}
		if len(f.asked) != 2 { // and nothing was sent again
			t.Errorf("%s, %s: asked %v", test.kind, test.code, f.asked)
			continue
		}
		first, second := `SendTaskSuccess/ {"output":"{\"fence\":1}","taskToken":"abc"}`, "SendTaskFailure/"
		if test.kind == lock.CallbackToken {
			first, second = "abc/succeed", "abc/fail"
		}
		if !strings.Contains(f.asked[0], first) || !strings.Contains(f.asked[1], second) {
			t.Errorf("%s: asked %v", test.kind, f.asked)
		}
	}
	s, f := newServices(t)
	other := lock.Token{Kind: "a later one", Text: "abc"}
	for _, err := range []error{s.Succeed(t.Context(), other, nil), s.Fail(t.Context(), other, "", "")} {
		if !errors.Is(err, stream.ErrUndeliverable) || len(f.asked) > 0 {
			t.Errorf("a token of an unknown kind: %v, asked %v", err, f.asked)
		}
	}
	for body, want := range map[string]bool{`{"status":"RUNNING"}`: true, `{"status":"FAILED"}`: false, `{"status":"TIMED_OUT"}`: false} {
		f.body = body
		if running, err := s.Running(t.Context(), "arn"); running != want || err != nil {
			t.Errorf("%s: %v, %v", body, running, err)
		}
	}
	f.status, f.code = 400, "ExecutionDoesNotExist"
	if running, err := s.Running(t.Context(), "arn"); running || err != nil {
		t.Errorf("an execution that does not exist: %v, %v", running, err)
	}
}

// Only an execution that Step Functions surely ended, or does not know, is over.
func TestRunning(t *testing.T) {
	s, f := newServices(t)
	for status, want := range map[string]bool{
		"RUNNING": true, "PENDING_REDRIVE": true, "SUCCEEDED": false, "FAILED": false, "TIMED_OUT": false, "ABORTED": false,
	} {
		f.body = `{"status":"` + status + `"}`
		if running, err := s.Running(t.Context(), "arn"); running != want || err != nil {
			t.Errorf("%s: %v, %v", status, running, err)
		}
	}
	s.stepFunctions = sfn.New(s.stepFunctions.Options(), func(o *sfn.Options) { o.Retryer = aws.NopRetryer{} })
	f.status = 400
	for code, over := range map[string]bool{
		"ExecutionDoesNotExist": true, "InvalidArn": true, "ValidationException": true, "AccessDeniedException": false, "ThrottlingException": false, "KmsAccessDeniedException": false,
	} {
		f.code = code
		running, err := s.Running(t.Context(), "arn")
		if running || (err == nil) != over {
			t.Errorf("%s: %v, %v", code, running, err)
		}
	}
}
