//go:build cloud

package e2e

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/smithy-go"

	"github.com/holdfast-lock/holdfast/internal/scope"
	"github.com/holdfast-lock/holdfast/lockclient"
)

func TestRequestsMustBeSigned(t *testing.T) {
	c := newCloud(t)
	_, err := c.client(nil).TryAcquire(t.Context(), "deploy:x", lockclient.Options{})
	if refused, ok := errors.AsType[*lockclient.RefusedError](err); !ok || refused.Status != http.StatusForbidden {
		t.Errorf("an unsigned request: %v", err)
	}
	_, err = c.client(credentials.NewStaticCredentialsProvider("AKIAUNKNOWN", "x", "")).TryAcquire(t.Context(), "deploy:x", lockclient.Options{})
	if refused, ok := errors.AsType[*lockclient.RefusedError](err); !ok || refused.Status != http.StatusForbidden {
		t.Errorf("an unknown key: %v", err)
	}
}

// A policy by lock name lets a caller have those locks and no others, and not more than it says of them.
func TestCallersAreHeldToTheirLocks(t *testing.T) {
	c := newCloud(t)
	client, creds := c.caller("deployer", c.mayLock("deploy:*", "acquire", "renew", "release"))
	lease, err := client.TryAcquire(t.Context(), "deploy:allowed", lockclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := lease.Renew(t.Context()); err != nil {
		t.Error(err)
	}
	if err := lease.Release(t.Context()); err != nil {
		t.Error(err)
	}
	for what, err := range map[string]error{
		"another lock": second(client.TryAcquire(t.Context(), "billing:x", lockclient.Options{})),
		"status":       second(client.Status(t.Context(), "deploy:allowed")),
	} {
		if refused, ok := errors.AsType[*lockclient.RefusedError](err); !ok || refused.Status != http.StatusForbidden {
			t.Errorf("%s: %v", what, err)
		}
	}
	if status := c.post(creds, "/v1/locks/deploy:allowed/force-release", `{"reason":"x"}`); status != http.StatusForbidden {
		t.Errorf("force-release: %d", status)
	}
}

// Direct invocations answer as the API does, and fail with types that a state machine can catch.
func TestDirectInvocation(t *testing.T) {
	c := newCloud(t)
	acquire, release, status := c.id("Acquire"), c.id("Release"), c.id("Status")
	if answer, failure := c.invoke(acquire, map[string]any{"name": "direct:x", "lease": "direct-lease-00000001"}); failure != "" {
		t.Fatalf("acquire: %s", answer)
	}
	for _, test := range []struct {
		function string
		payload  map[string]any
		want     string
	}{
		{acquire, map[string]any{"name": "direct:x", "lease": "direct-lease-00000002"}, "LockHeld"},
		{acquire, map[string]any{"name": "direct:x", "capacity": 0}, "InvalidRequest"},
		{acquire, map[string]any{"name": "direct:x", "capacity": 2}, "CapacityMismatch"},
		{c.id("Renew"), map[string]any{"name": "direct:x", "lease": "direct-lease-00000002"}, "LeaseLost"},
		{c.id("ForceRelease"), map[string]any{"name": "direct:x", "reason": "x", "fence": 1}, "LockChanged"},
		{status, map[string]any{"name": "direct:x", "op": "status"}, ""},
		{release, map[string]any{"name": "direct:x", "lease": "direct-lease-00000001"}, ""},
		{release, map[string]any{"name": "direct:x", "lease": "direct-lease-00000002"}, "LeaseLost"},
	} {
		if answer, failure := c.invoke(test.function, test.payload); failure != test.want {
			t.Errorf("%v: %q, want %q: %s", test.payload, failure, test.want, answer)
		}
	}
}

// A caller that may invoke one alias of a function has that alias's locks, and not the function.
func TestAliasesHoldInvokersToTheirLocks(t *testing.T) {
	c := newCloud(t)
	function := c.id("Acquire")
	name, err := scope.Alias("deploy:*")
	if err != nil {
		t.Fatal(err)
	}
	alias, err := c.lambda.CreateAlias(t.Context(), &lambda.CreateAliasInput{FunctionName: &function, FunctionVersion: aws.String("$LATEST"), Name: &name})
	if err != nil {
		t.Fatal(err)
	}
	_, creds := c.caller("invoker", statement{"Allow", "lambda:InvokeFunction", *alias.AliasArn})
	asCaller := *c
	asCaller.lambda = lambda.NewFromConfig(c.aws, func(o *lambda.Options) { o.Credentials = creds })
	if answer, failure := asCaller.invoke(*alias.AliasArn, map[string]any{"name": "deploy:alias"}); failure != "" {
		t.Errorf("a lock of the alias's: %s", answer)
	}
	if answer, failure := asCaller.invoke(*alias.AliasArn, map[string]any{"name": "billing:alias"}); failure != "InvalidRequest" || !strings.Contains(string(answer), "alias") {
		t.Errorf("another lock: %s", answer)
	}
	_, err = asCaller.lambda.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: &function, Payload: []byte(`{"name":"billing:alias"}`)})
	if denied, ok := errors.AsType[smithy.APIError](err); !ok || denied.ErrorCode() != "AccessDeniedException" {
		t.Errorf("the whole function: %v", err)
	}
}
