package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/scope"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// Any payload gets an answer or an error that says what is wrong. Through an alias with a pattern, no payload of any shape reaches a lock
// that the pattern does not match, and none names its caller.
func FuzzEvent(f *testing.F) {
	for _, s := range []string{
		`{"name":"deploy:a"}`, `{"name":"billing"}`, `{"op":"list"}`, `{"op":"status","name":"deploy:a"}`, `{"name":"deploy:a","lease":"my-secret-lease-0001"}`,
		`{"name":"deploy:a","task_token":"t","lease":"my-secret-lease-0001"}`, `{"name":"billing","name":"deploy:a"}`, `[]`, `null`, `{`,
		`{"version":"2.0","headers":{"content-type":"application/json"},"pathParameters":{"name":"billing"},"requestContext":{"http":{"method":"POST"},` +
			`"authorizer":{"iam":{"userArn":"arn:aws:iam::1:user/forged"}}},"body":"{}"}`,
		`{"version":"2.0","pathParameters":null,"requestContext":{"http":{"method":"GET"}},"queryStringParameters":{"limit":"1"}}`,
		`{"name":"deploy:a","requestContext":{"http":{"method":"GET"}},"version":"2.0"}`,
		`{"name":"deploy:a","lease":"my-secret-lease-0001","wait_ms":1000,"notify":{"queue":"https://sqs.eu-west-1.amazonaws.com/1/holdfast-notify-a","id":"1"}}`,
	} {
		for op := range wire.Ops() {
			f.Add([]byte(s), uint8(op), true)
			f.Add([]byte(s), uint8(op), false)
		}
	}
	alias, err := scope.Alias("deploy:*")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, payload []byte, op uint8, aliased bool) {
		store := &lock.Memory{}
		c, err := lock.New(lock.Config{Store: store})
		if err != nil {
			t.Fatal(err)
		}
		a, err := api.New(api.Config{Coordinator: c, Log: slog.New(slog.DiscardHandler), NotifyPrefix: "https://sqs.eu-west-1.amazonaws.com/1/holdfast-notify-"})
		if err != nil {
			t.Fatal(err)
		}
		arn := "arn:aws:lambda:eu-west-1:1:function:f"
		if aliased {
			arn += ":" + alias
		}
		ctx := lambdacontext.NewContext(t.Context(), &lambdacontext.LambdaContext{InvokedFunctionArn: arn})
		out, err := a.Handler(wire.Ops()[int(op)%len(wire.Ops())]).Invoke(ctx, payload)
		if err == nil && !json.Valid(out) || err != nil && !isProblem(err) || strings.Contains(string(out), `"internal"`) {
			t.Fatalf("answer %s, error %v", out, err)
		}
		list, _, err := c.List(t.Context(), lock.ListRequest{Limit: 10, All: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			for _, h := range s.Holders {
				if aliased && (!strings.HasPrefix(s.Lock, "deploy:") || h.Principal != "") {
					t.Errorf("lock %q, principal %q", s.Lock, h.Principal)
				}
			}
		}
	})
}

// isProblem reports whether a direct invocation failed with a problem that is not the API's own fault.
func isProblem(err error) bool {
	failed, ok := errors.AsType[messages.InvokeResponse_Error](err)
	var p wire.Problem
	return ok && json.Unmarshal([]byte(failed.Message), &p) == nil && p.Code != "" && p.Code != wire.Internal && p.Detail != ""
}

var notifyPattern = regexp.MustCompile(`^https://sqs\.eu-west-1\.amazonaws\.com/123456789012/holdfast-notify-[A-Za-z0-9_-]{1,64}$`)

// The functions send a notification to nothing but a queue of the deployment: no text makes them send a request to another host, account or
// queue.
func FuzzNotifyQueue(f *testing.F) {
	const prefix = "https://sqs.eu-west-1.amazonaws.com/123456789012/holdfast-notify-"
	for _, s := range []string{
		prefix + "a", prefix, prefix + "a.fifo", prefix + "../other", prefix + "a?x", prefix + "a#", prefix + "%2e", prefix + strings.Repeat("a", 64), prefix + strings.Repeat("a", 65),
		"https://sqs.eu-west-1.amazonaws.com@evil.example/123456789012/holdfast-notify-a", "http://169.254.169.254/latest", strings.ToUpper(prefix) + "a", " " + prefix + "a", prefix + "a\n",
	} {
		f.Add(s)
	}
	c, err := lock.New(lock.Config{Store: &lock.Memory{}})
	if err != nil {
		f.Fatal(err)
	}
	a, err := api.New(api.Config{Coordinator: c, Log: slog.New(slog.DiscardHandler), NotifyPrefix: prefix})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, queue string) {
		text, err := json.Marshal(queue)
		if err != nil {
			t.Fatal(err)
		}
		body := fmt.Sprintf(`{"lease":"my-secret-lease-0001","wait_ms":1000,"notify":{"queue":%s,"id":"1"}}`, text)
		_, problem := a.Call(t.Context(), wire.OpAcquire, "a", []byte(body))
		if accepted := problem == nil || problem.Code != wire.InvalidRequest; accepted != notifyPattern.MatchString(queue) {
			t.Errorf("%q: %v", queue, problem)
		}
	})
}
