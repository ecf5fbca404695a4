//go:build cloud

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"github.com/holdfast-lock/holdfast/internal/scope"
	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/invoke"
)

// withoutAPI is the stack without an API, in a VPC.
func withoutAPI(t *testing.T) *cloud {
	t.Helper()
	c := newCloud(t)
	outputs := os.Getenv("HOLDFAST_CLOUD_OUTPUTS_WITHOUT_API")
	if outputs == "" {
		t.Fatal("HOLDFAST_CLOUD_OUTPUTS_WITHOUT_API is not set: run `make e2e`")
	}
	c.outputs = nil
	if err := json.Unmarshal([]byte(outputs), &c.outputs); err != nil {
		t.Fatal(err)
	}
	return c
}

// invoked are the functions of the stack's output Functions, and their ARNs.
func (c *cloud) invoked() (functions invoke.Functions, arns []string) {
	c.t.Helper()
	functions, err := invoke.ParseFunctions(c.outputs["Functions"])
	if err != nil {
		c.t.Fatal(err)
	}
	for _, f := range []string{functions.Acquire, functions.Renew, functions.Release, functions.ForceRelease, functions.Status, functions.Rules} {
		arns = append(arns, fmt.Sprintf("arn:aws:lambda:%s:000000000000:function:%s", c.aws.Region, f))
	}
	return functions, arns
}

// binary builds the command once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "holdfast-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "holdfast")
	build := exec.Command("go", "build", "-o", path, "./cmd/holdfast")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// command returns a function that makes a command line of the command, for a caller with the functions of a list.
func (c *cloud) command(creds aws.CredentialsProvider, functions string) func(ctx context.Context, args ...string) *exec.Cmd {
	c.t.Helper()
	path, err := binary()
	if err != nil {
		c.t.Fatal(err)
	}
	key, err := creds.Retrieve(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.Env = append(os.Environ(), "HOLDFAST_FUNCTIONS="+functions, "HOLDFAST_TIMEOUT=20s", "AWS_ACCESS_KEY_ID="+key.AccessKeyID,
			"AWS_SECRET_ACCESS_KEY="+key.SecretAccessKey)
		return cmd
	}
}

// runs is command, run: it returns the exit code and what the command wrote.
func (c *cloud) runs(creds aws.CredentialsProvider, functions string) func(args ...string) (code int, said string) {
	c.t.Helper()
	command := c.command(creds, functions)
	return func(args ...string) (int, string) {
		c.t.Helper()
		ctx, cancel := context.WithTimeout(c.t.Context(), patience)
		defer cancel()
		cmd := command(ctx, args...)
		out, err := cmd.CombinedOutput()
		if exited, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok || ok && exited.ExitCode() < 0 {
			c.t.Fatalf("%v: %v: %s", args, err, out)
		}
		return cmd.ProcessState.ExitCode(), string(out)
	}
}

// A stack without an API has none, and the endpoints that its functions need. (The local engine drops the VPC of a function, which
// TestFunctionsInAVPC of package infra checks in the template.)
func TestResourcesWithoutAPI(t *testing.T) {
	c := withoutAPI(t)
	endpoints := 0
	pages := cloudformation.NewListStackResourcesPaginator(cloudformation.NewFromConfig(c.aws), &cloudformation.ListStackResourcesInput{StackName: aws.String("HoldfastWithoutApi")})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.StackResourceSummaries {
			switch kind := aws.ToString(r.ResourceType); {
			case strings.HasPrefix(kind, "AWS::ApiGateway"):
				t.Errorf("%s %s", kind, aws.ToString(r.LogicalResourceId))
			case kind == "AWS::EC2::VPCEndpoint":
				endpoints++
			}
		}
	}
	if endpoints != 4 || c.outputs["Endpoint"] != "" {
		t.Errorf("%d endpoints, endpoint %q", endpoints, c.outputs["Endpoint"])
	}
}

// The command works without an API: a caller that may invoke the functions, and nothing else.
func TestCommandWithoutAPI(t *testing.T) {
	c := withoutAPI(t)
	_, arns := c.invoked()
	creds := c.user("direct", statement{"Allow", "lambda:InvokeFunction", arns})
	run := c.runs(creds, c.outputs["Functions"])
	for _, step := range []struct {
		args string
		code int
		says string
	}{
		{"exec a:script -- sh -c echo_got_$HOLDFAST_FENCE", 0, "got_1"},
		{"acquire a:x --ttl 5m --owner me", 0, "HOLDFAST_LEASE="},
		{"acquire a:x --no-wait --owner you", 123, "me"},
		{"status a:x", 0, "me"},
		{"ls a:", 0, "a:x"},
		{"limit b: --capacity 2", 0, ""},
		{"keep-history b: --for 1d", 0, ""},
		{"freeze c: --until 1h --reason release", 0, ""},
		{"rules", 0, "release"},
		{"unfreeze c:", 0, ""},
		{"acquire b:two --no-wait --capacity 2", 0, "HOLDFAST_LEASE="},
		{"force-release a:x --reason test", 0, ""},
		{"status a:x", 0, "free"},
		{"history b:two", 0, ""},
		{"doctor", 0, "ok    functions"},
	} {
		args := strings.Fields(step.args)
		for i, a := range args {
			if strings.HasPrefix(a, "echo_") {
				args[i] = strings.ReplaceAll(a, "echo_", "echo ")
			}
		}
		code, said := run(args...)
		if code != step.code || !strings.Contains(said, step.says) {
			t.Errorf("holdfast %s: exit code %d: %s", step.args, code, said)
		}
	}
	other := c.user("stranger", statement{"Allow", "lambda:InvokeFunction", arns[0]}) // acquire alone
	if code, said := c.runs(other, c.outputs["Functions"])("status", "a:x"); code != 125 || !strings.Contains(said, "allow lambda:InvokeFunction") {
		t.Errorf("a caller that may not read: exit code %d: %s", code, said)
	}
}

// holdfast ui serves the live page, with what the functions answer.
func TestLivePageWithoutAPI(t *testing.T) {
	c := withoutAPI(t)
	_, arns := c.invoked()
	creds := c.user("watcher", statement{"Allow", "lambda:InvokeFunction", arns})
	run := c.runs(creds, c.outputs["Functions"])
	if code, said := run("acquire", "page:x", "--owner", "page-owner"); code != 0 {
		t.Fatalf("%d: %s", code, said)
	}
	ui := c.command(creds, c.outputs["Functions"])(t.Context(), "ui", "--json")
	out, err := ui.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := ui.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = ui.Process.Kill(), ui.Wait() })
	var said struct{ Link string }
	if err := json.NewDecoder(out).Decode(&said); err != nil {
		t.Fatal(err)
	}
	link, token, ok := strings.Cut(said.Link, "/#token=")
	if !ok {
		t.Fatalf("the link is %q", said.Link)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, link+"/api/lock?name=page:x", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Holdfast-Token", token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK || !bytes.Contains(body, []byte("page-owner")) {
		t.Errorf("%d, %v: %s", resp.StatusCode, err, body)
	}
}

// A client that may invoke the aliases for some locks has these locks, through the Go client and the command, and an event that only API Gateway
// could send is refused.
func TestScopedAliasesWithoutAPI(t *testing.T) {
	c := withoutAPI(t)
	functions, _ := c.invoked()
	name, err := scope.Alias("deploy:*")
	if err != nil {
		t.Fatal(err)
	}
	scoped := func(function string) string {
		function, _, _ = strings.Cut(function, ":")
		alias, err := c.lambda.CreateAlias(t.Context(), &lambda.CreateAliasInput{FunctionName: &function, FunctionVersion: aws.String("$LATEST"), Name: &name})
		if err != nil {
			t.Fatal(err)
		}
		return *alias.AliasArn
	}
	only := invoke.Functions{Acquire: scoped(functions.Acquire), Renew: scoped(functions.Renew), Release: scoped(functions.Release), Status: scoped(functions.Status)}
	creds := c.user("scoped", statement{"Allow", "lambda:InvokeFunction", []string{only.Acquire, only.Renew, only.Release, only.Status}})
	cfg := c.aws.Copy()
	cfg.Credentials = creds
	transport, err := invoke.New(invoke.Config{AWS: cfg, Functions: only})
	if err != nil {
		t.Fatal(err)
	}
	client, err := lockclient.New(lockclient.Config{Transport: transport, RequestTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close(context.Background()) })
	lease, err := client.TryAcquire(t.Context(), "deploy:scoped", lockclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(lease.Renew(t.Context()), lease.Release(t.Context())); err != nil {
		t.Error(err)
	}
	if _, err := client.TryAcquire(t.Context(), "billing:scoped", lockclient.Options{}); !errors.Is(err, lockclient.ErrRefused) {
		t.Errorf("another lock: %v", err)
	}
	list := fmt.Sprintf("acquire=%s,renew=%s,release=%s,status=%s", only.Acquire, only.Renew, only.Release, only.Status)
	run := c.runs(creds, list)
	if code, said := run("exec", "deploy:scoped", "--", "true"); code != 0 {
		t.Errorf("exec: %d: %s", code, said)
	}
	if code, said := run("exec", "billing:scoped", "--", "true"); code != 125 || !strings.Contains(said, "this alias of the function serves other locks only") {
		t.Errorf("exec of another lock: %d: %s", code, said)
	}
	if code, said := run("doctor", "--lock", "deploy:scoped"); code != 0 || !strings.Contains(said, "not looked for") {
		t.Errorf("doctor: %d: %s", code, said)
	}
	event := `{"version":"2.0","routeKey":"GET /v1/locks/{name}","headers":{},"pathParameters":{"name":"deploy:x"},
		"requestContext":{"http":{"method":"GET"},"authorizer":{"iam":{"userArn":"arn:aws:iam::000000000000:user/forged"}}}}`
	for _, function := range []string{functions.Status, only.Status, strings.TrimSuffix(functions.Status, ":live")} {
		out, err := c.lambda.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: &function, Payload: []byte(event)})
		if err != nil || !bytes.Contains(out.Payload, []byte("API Gateway did not send it")) {
			t.Errorf("%s: %v: %s", function, err, out.Payload)
		}
	}
}
