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

// fakeServices is a fake of Step Functions: it keeps what was asked, and answers with an error if there is one.
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

func newStepFunctions(t *testing.T) (*StepFunctions, *fakeServices) {
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

// A callback is sent once, and the kinds of refusal are distinguished.
func TestCallbacks(t *testing.T) {
	for _, test := range []struct {
		code   string
		status int
		want   error // nil: nobody knows
	}{
		{"", 0, nil},
		{"TaskTimedOut", 400, stream.ErrTaskGone},
		{"TaskDoesNotExist", 400, stream.ErrTaskGone},
		{"InvalidToken", 400, stream.ErrTaskGone},
		{"AccessDeniedException", 400, stream.ErrUndeliverable},
		{"ThrottlingException", 400, errUnknown},
	} {
		s, f := newStepFunctions(t)
		f.status, f.code = test.status, test.code
		token := lock.Token{Kind: lock.TaskToken, Text: "abc"}
		for _, err := range []error{s.Succeed(t.Context(), token, []byte(`{"fence":1}`)), s.Fail(t.Context(), token, stream.FailLost, "why")} {
			switch known := errors.Is(err, stream.ErrTaskGone) || errors.Is(err, stream.ErrUndeliverable); {
			case test.want == nil && err != nil, test.want == errUnknown && (err == nil || known), test.want != nil && test.want != errUnknown && !errors.Is(err, test.want): //nolint:errorlint // a mark
				t.Errorf("%s: %v", test.code, err)
			}
		}
		if len(f.asked) != 2 { // and nothing was sent again
			t.Errorf("%s: asked %v", test.code, f.asked)
			continue
		}
		first, second := `SendTaskSuccess/ {"output":"{\"fence\":1}","taskToken":"abc"}`, "SendTaskFailure/"
		if !strings.Contains(f.asked[0], first) || !strings.Contains(f.asked[1], second) {
			t.Errorf("asked %v", f.asked)
		}
	}
	s, f := newStepFunctions(t)
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
	s, f := newStepFunctions(t)
	for status, want := range map[string]bool{
		"RUNNING": true, "PENDING_REDRIVE": true, "SUCCEEDED": false, "FAILED": false, "TIMED_OUT": false, "ABORTED": false,
	} {
		f.body = `{"status":"` + status + `"}`
		if running, err := s.Running(t.Context(), "arn"); running != want || err != nil {
			t.Errorf("%s: %v, %v", status, running, err)
		}
	}
	s.client = sfn.New(s.client.Options(), func(o *sfn.Options) { o.Retryer = aws.NopRetryer{} })
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
