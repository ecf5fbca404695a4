//go:build cloud

// Package e2e proves the deployed stack, on a local engine of the AWS services it uses, with authorisation enforced. Run it
// with `make e2e`, which synthesises and deploys the stack first.
package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	dbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	ebtypes "github.com/aws/aws-sdk-go-v2/service/eventbridge/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	lambdatypes "github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/scope"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// patience bounds waits for what comes in its own time; it only decides how long a failure takes to show.
const patience = 30 * time.Second

const stackName = "Holdfast"

// cloud is the deployed stack, and the account's root user in front of it.
type cloud struct {
	t       *testing.T
	aws     aws.Config
	outputs map[string]string
	http    *http.Client
	db      *dynamodb.Client
	iam     *iam.Client
	lambda  *lambda.Client
	sqs     *sqs.Client
	bus     *eventbridge.Client
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	engine, outputs := os.Getenv("AWS_ENDPOINT_URL"), os.Getenv("HOLDFAST_CLOUD_OUTPUTS")
	if engine == "" || outputs == "" {
		t.Fatal("AWS_ENDPOINT_URL or HOLDFAST_CLOUD_OUTPUTS is not set: run `make e2e`")
	}
	cfg, err := config.LoadDefaultConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := &cloud{
		t: t, aws: cfg, db: dynamodb.NewFromConfig(cfg), iam: iam.NewFromConfig(cfg), lambda: lambda.NewFromConfig(cfg),
		sqs: sqs.NewFromConfig(cfg), bus: eventbridge.NewFromConfig(cfg),
	}
	if err := json.Unmarshal([]byte(outputs), &c.outputs); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(engine)
	if err != nil {
		t.Fatal(err)
	}
	// The API's host name is the engine's, whatever the resolver thinks of it.
	transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, u.Host)
	}}
	c.http = &http.Client{Transport: transport}
	t.Cleanup(transport.CloseIdleConnections)
	return c
}

// id is the physical id of a resource of the stack, by the beginning of its logical one.
func (c *cloud) id(logical string) string {
	c.t.Helper()
	var found []string
	pages := cloudformation.NewListStackResourcesPaginator(cloudformation.NewFromConfig(c.aws), &cloudformation.ListStackResourcesInput{StackName: aws.String(stackName)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(c.t.Context())
		if err != nil {
			c.t.Fatal(err)
		}
		for _, r := range page.StackResourceSummaries {
			name := aws.ToString(r.LogicalResourceId)
			if strings.HasPrefix(name, "Locks"+logical) && len(name) == len("Locks"+logical)+8 { // and a hash
				found = append(found, aws.ToString(r.PhysicalResourceId))
			}
		}
	}
	if len(found) != 1 {
		c.t.Fatalf("%d resources are called %s: %v", len(found), logical, found)
	}
	return found[0]
}

// caller is a new user with a policy, and a client that signs as it.
func (c *cloud) caller(name string, statements ...statement) (*lockclient.Client, aws.CredentialsProvider) {
	c.t.Helper()
	ctx := c.t.Context()
	if _, err := c.iam.CreateUser(ctx, &iam.CreateUserInput{UserName: &name}); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.iam.PutUserPolicy(ctx, &iam.PutUserPolicyInput{
		UserName: &name, PolicyName: aws.String("caller"), PolicyDocument: aws.String(policy(statements)),
	}); err != nil {
		c.t.Fatal(err)
	}
	key, err := c.iam.CreateAccessKey(ctx, &iam.CreateAccessKeyInput{UserName: &name})
	if err != nil {
		c.t.Fatal(err)
	}
	creds := credentials.NewStaticCredentialsProvider(*key.AccessKey.AccessKeyId, *key.AccessKey.SecretAccessKey, "")
	return c.client(creds), creds
}

func (c *cloud) client(creds aws.CredentialsProvider) *lockclient.Client {
	c.t.Helper()
	client, err := lockclient.New(lockclient.Config{
		Endpoint: c.outputs["Endpoint"], Region: c.aws.Region, Credentials: creds, HTTPClient: c.http, RequestTimeout: patience,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = client.Close(context.Background()) })
	return client
}

type statement struct {
	Effect   string
	Action   any
	Resource any
}

func policy(statements []statement) string {
	data, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": statements})
	if err != nil {
		panic(err)
	}
	return string(data)
}

// mayLock is what [infra.Coordinator.GrantLock] grants.
func (c *cloud) mayLock(pattern string, ops ...string) statement {
	var arns []string
	for _, op := range ops {
		arns = append(arns, fmt.Sprintf("arn:aws:execute-api:%s:000000000000:%s/$default/POST/v1/locks/%s/%s", c.aws.Region, c.id("Api"), pattern, op))
	}
	return statement{"Allow", "execute-api:Invoke", arns}
}

func (c *cloud) root() *lockclient.Client { return c.client(c.aws.Credentials) }

// A subscriber hears events through a rule into a queue.
type subscriber struct {
	c   *cloud
	url string
}

func (c *cloud) subscribe(name string, pattern map[string]any) *subscriber {
	c.t.Helper()
	ctx := c.t.Context()
	q, err := c.sqs.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: &name})
	if err != nil {
		c.t.Fatal(err)
	}
	attrs, err := c.sqs.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: q.QueueUrl, AttributeNames: []sqstypes.QueueAttributeName{"QueueArn"}})
	if err != nil {
		c.t.Fatal(err)
	}
	data, _ := json.Marshal(pattern)
	bus := c.outputs["BusName"]
	if _, err := c.bus.PutRule(ctx, &eventbridge.PutRuleInput{Name: &name, EventBusName: &bus, EventPattern: aws.String(string(data))}); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.bus.PutTargets(ctx, &eventbridge.PutTargetsInput{Rule: &name, EventBusName: &bus, Targets: []ebtypes.Target{
		{Id: aws.String("queue"), Arn: aws.String(attrs.Attributes["QueueArn"])},
	}}); err != nil {
		c.t.Fatal(err)
	}
	return &subscriber{c: c, url: *q.QueueUrl}
}

// next is the next event that was not heard before.
func (s *subscriber) next() events.Event {
	s.c.t.Helper()
	var envelope struct {
		DetailType string          `json:"detail-type"`
		Source     string          `json:"source"`
		Detail     json.RawMessage `json:"detail"`
	}
	body := s.c.receive(s.url)
	if err := json.Unmarshal([]byte(body), &envelope); err != nil {
		s.c.t.Fatal(err)
	}
	e, err := events.Decode(envelope.DetailType, envelope.Detail)
	if err != nil || envelope.Source != events.Source {
		s.c.t.Fatalf("event %s: %v", body, err)
	}
	return e
}

// receive takes one message of a queue, waiting for it.
func (c *cloud) receive(queue string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for {
		out, err := c.sqs.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: &queue, MaxNumberOfMessages: 1, WaitTimeSeconds: 1})
		if err != nil {
			c.t.Fatalf("nothing came: %v", err)
		}
		if len(out.Messages) == 0 {
			continue
		}
		m := out.Messages[0]
		if _, err := c.sqs.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: &queue, ReceiptHandle: m.ReceiptHandle}); err != nil {
			c.t.Fatal(err)
		}
		return *m.Body
	}
}

// invoke calls a function directly: its answer, and its error's type.
func (c *cloud) invoke(function string, payload any) (answer []byte, errorType string) {
	c.t.Helper()
	data, err := json.Marshal(payload)
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := c.lambda.Invoke(c.t.Context(), &lambda.InvokeInput{FunctionName: &function, Payload: data})
	if err != nil {
		c.t.Fatal(err)
	}
	if out.FunctionError != nil {
		var failure struct {
			ErrorType string `json:"errorType"`
		}
		_ = json.Unmarshal(out.Payload, &failure)
		return out.Payload, failure.ErrorType
	}
	return out.Payload, ""
}

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

func second[T any](_ T, err error) error { return err }

// post sends a signed request that no client sends.
func (c *cloud) post(creds aws.CredentialsProvider, path, body string) int {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, c.outputs["Endpoint"]+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	sign(c.t, req, creds, body, c.aws.Region)
	resp, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// The whole life of a lock, and who hears of it: only the rule whose prefix matches, exactly once each, in order.
func TestLifeOfALock(t *testing.T) {
	c := newCloud(t)
	all := c.subscribe("life", map[string]any{"source": []string{"holdfast"}, "detail": map[string]any{"prefixes": []string{"life:a"}}})
	other := c.subscribe("other", map[string]any{"source": []string{"holdfast"}, "detail": map[string]any{"prefixes": []string{"lif", "life:b"}}})
	client := c.root()
	lease, err := client.TryAcquire(t.Context(), "life:a:x", lockclient.Options{Owner: "first", Metadata: map[string]int{"build": 7}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.TryAcquire(t.Context(), "life:a:x", lockclient.Options{})
	if held, ok := errors.AsType[*lockclient.HeldError](err); !ok || len(held.Holders) != 1 || held.Holders[0].Owner != "first" {
		t.Errorf("contention: %v", err)
	}
	if err := lease.Renew(t.Context()); err != nil {
		t.Error(err)
	}
	status, err := client.Status(t.Context(), "life:a:x")
	if err != nil || !status.Locked || status.Holders[0].Fence != lease.Fence() || !strings.Contains(status.Holders[0].Principal, "arn:aws:") {
		t.Errorf("status %+v, %v", status, err)
	}
	if err := lease.Release(t.Context()); err != nil {
		t.Error(err)
	}
	forced, err := client.TryAcquire(t.Context(), "life:a:x", lockclient.Options{Owner: "second"})
	if err != nil {
		t.Fatal(err)
	}
	if forced.Fence() <= lease.Fence() {
		t.Errorf("fence went from %d to %d", lease.Fence(), forced.Fence())
	}
	if status := c.post(c.aws.Credentials, "/v1/locks/life:a:x/force-release", `{"reason":"test"}`); status != http.StatusOK {
		t.Errorf("force-release: %d", status)
	}
	if err := forced.Renew(t.Context()); !errors.Is(err, lockclient.ErrLost) {
		t.Errorf("renewal after force-release: %v", err)
	}
	unrelated, err := client.TryAcquire(t.Context(), "life:b", lockclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_ = unrelated.Release(t.Context())
	for i, want := range []struct {
		kind  string
		fence int64
	}{
		{events.TypeAcquired, lease.Fence()}, {events.TypeReleased, lease.Fence()},
		{events.TypeAcquired, forced.Fence()}, {events.TypeForceReleased, forced.Fence()},
	} {
		e := all.next()
		if e.DetailType() != want.kind || e.Subject().Fence != want.fence || e.Subject().Lock != "life:a:x" {
			t.Errorf("event %d: %s %+v, want %+v", i, e.DetailType(), e.Subject(), want)
		}
	}
	if e := other.next(); e.Subject().Lock != "life:b" {
		t.Errorf("another subtree's rule heard of %+v", e.Subject())
	}
}

// A holder that dies is told expired by its timer, and the lock is free.
func TestPromptExpiry(t *testing.T) {
	c := newCloud(t)
	heard := c.subscribe("prompt", map[string]any{"detail-type": []string{events.TypeExpired}, "detail": map[string]any{"lock": []string{"prompt:dead"}}})
	lease, err := c.root().TryAcquire(t.Context(), "prompt:dead", lockclient.Options{TTL: 2 * time.Second, ManualRenew: true})
	if err != nil {
		t.Fatal(err)
	}
	e := heard.next().(events.Expired)
	if e.Fence != lease.Fence() || e.Purged {
		t.Errorf("event %+v", e)
	}
	fmt.Printf("e2e: Lock Expired came %d ms after the lease's expiry\n", time.Since(e.ExpiresAt.Time).Milliseconds())
}

// A held row that native TTL removes, because its timer was lost, is told expired all the same.
func TestNativeTTLIsTheBackstop(t *testing.T) {
	c := newCloud(t)
	heard := c.subscribe("backstop", map[string]any{"detail-type": []string{events.TypeExpired}, "detail": map[string]any{"lock": []string{"backstop:x"}}})
	lease, err := c.root().TryAcquire(t.Context(), "backstop:x", lockclient.Options{TTL: time.Hour, ManualRenew: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.db.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{
		TableName: aws.String(c.outputs["TableName"]), Key: rowKey("backstop:x"), UpdateExpression: aws.String("SET #t = :past"),
		ExpressionAttributeNames: map[string]string{"#t": "ttl"},
		ExpressionAttributeValues: map[string]dbtypes.AttributeValue{
			":past": &dbtypes.AttributeValueMemberN{Value: fmt.Sprint(time.Now().Add(-time.Hour).Unix())},
		},
	}); err != nil {
		t.Fatal(err)
	}
	if e := heard.next().(events.Expired); e.Fence != lease.Fence() || !e.Purged {
		t.Errorf("event %+v", e)
	}
}

func rowKey(name string) map[string]dbtypes.AttributeValue {
	return map[string]dbtypes.AttributeValue{"pk": &dbtypes.AttributeValueMemberS{Value: name}, "sk": &dbtypes.AttributeValueMemberS{Value: "lock"}}
}

// A record that cannot be read goes to the dead letters, and what follows it is told.
func TestPoisonRecord(t *testing.T) {
	c := newCloud(t)
	heard := c.subscribe("poison", map[string]any{"detail": map[string]any{"lock": []string{"poison:after"}}})
	item := rowKey("poison:x")
	item["rev"], item["cause"] = &dbtypes.AttributeValueMemberS{Value: "not a number"}, &dbtypes.AttributeValueMemberS{Value: "acquire"}
	if _, err := c.db.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: aws.String(c.outputs["TableName"]), Item: item}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.root().TryAcquire(t.Context(), "poison:after", lockclient.Options{}); err != nil {
		t.Fatal(err)
	}
	if e := heard.next(); e.DetailType() != events.TypeAcquired {
		t.Errorf("event %s", e.DetailType())
	}
	if body := c.receive(c.outputs["DeadLettersUrl"]); !strings.Contains(body, "poison:x") || !strings.Contains(body, "rev") {
		t.Errorf("dead letter %s", body)
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

// putOff matches the log, which the engine has in text, of an invocation that could not do all, and put the rest off.
var putOff = regexp.MustCompile(`(callback_failed|event_put_off|execution_unknown|timer_failed)("?:|=)1`)

// Every function works with its own role, and fails, or puts its work off, when one statement of it is taken away.
func TestEveryStatementIsNeeded(t *testing.T) {
	c := newCloud(t)
	now := time.Now()
	due := lock.KeyOf("least:timer", "least-lease-00000000")
	streamEvent := map[string]any{"Records": []any{map[string]any{
		"eventID": "1", "eventName": "INSERT", "eventSource": "aws:dynamodb", "dynamodb": map[string]any{
			"SequenceNumber": "111", "Keys": map[string]any{"pk": s("least:stream"), "sk": s("lock")},
			"NewImage": map[string]any{
				"pk": s("least:stream"), "sk": s("lock"), "rev": n(1), "fence": n(now.UnixMicro()), "capacity": n(1), "cause": s("acquire"),
				"free_at": n(now.Add(time.Hour).UnixMilli()), "waiting": n(0), "next_ticket": n(0),
				"holders": map[string]any{"M": map[string]any{"k": map[string]any{"M": map[string]any{
					"owner": s("o"), "permits": n(1), "fence": n(now.UnixMicro()), "acquired_at": n(now.UnixMilli()), "renewed_at": n(now.UnixMilli()),
					"expires_at": n(now.Add(time.Hour).UnixMilli()), "ttl_ms": n(3_600_000),
				}}}},
			},
		},
	}}}
	poison := map[string]any{"Records": []any{map[string]any{
		"eventName": "INSERT", "eventSource": "aws:dynamodb", "dynamodb": map[string]any{
			"SequenceNumber": "112", "Keys": map[string]any{"pk": s("least:poison"), "sk": s("lock")},
			"NewImage": map[string]any{"pk": s("least:poison"), "sk": s("lock"), "rev": s("x")},
		},
	}}}
	timer, _ := json.Marshal(map[string]any{"v": 1, "lock": "least:timer", "lease": due, "fence": 1})
	timerEvent := map[string]any{"Records": []any{map[string]any{"messageId": "m1", "body": string(timer), "eventSource": "aws:sqs"}}}
	// A task that waits, with its token; a grant to it that is over, its wait's end, and a lease of its execution that is to be
	// looked at.
	m := newMachines(t)
	holding, err := c.root().Acquire(t.Context(), "example:least", lockclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	execution := m.start("Construct", "least", map[string]any{"lock": "example:least"})
	m.until(c.root(), "example:least", "waited for", func(s lockclient.Status) bool { return s.Waiting == 1 })
	waiter, err := c.db.GetItem(t.Context(), &dynamodb.GetItemInput{TableName: aws.String(c.outputs["TableName"]), Key: map[string]dbtypes.AttributeValue{
		"pk": &dbtypes.AttributeValueMemberS{Value: "example:least"}, "sk": &dbtypes.AttributeValueMemberS{Value: fmt.Sprintf("wait#%016d", 1)},
	}})
	if err != nil || waiter.Item == nil {
		t.Fatalf("%v, %v", waiter, err)
	}
	token := waiter.Item["want"].(*dbtypes.AttributeValueMemberM).Value["token"].(*dbtypes.AttributeValueMemberS).Value
	running := m.start("Construct", "least-running", map[string]any{"lock": "example:least"})
	m.until(c.root(), "example:least", "waited for by both", func(s lockclient.Status) bool { return s.Waiting == 2 })
	if answer, failure := c.invoke(c.id("Acquire"), map[string]any{"name": "least:check", "lease": "least-lease-00000000", "ttl_ms": 1000, "execution": running}); failure != "" {
		t.Fatalf("%s: %s", failure, answer)
	}
	checked, err := c.root().Status(t.Context(), "least:check")
	if err != nil {
		t.Fatal(err)
	}
	holder := func(fence int64) map[string]any {
		return map[string]any{"M": map[string]any{
			"permits": n(1), "fence": n(fence), "acquired_at": n(now.UnixMilli()), "renewed_at": n(now.UnixMilli()),
			"expires_at": n(now.Add(time.Hour).UnixMilli()), "ttl_ms": n(3_600_000), "token": s(token),
		}}
	}
	tokenEvent := map[string]any{"Records": []any{map[string]any{
		"eventName": "INSERT", "eventSource": "aws:dynamodb", "dynamodb": map[string]any{
			"SequenceNumber": "113", "Keys": map[string]any{"pk": s("example:least"), "sk": s("lock")},
			"NewImage": map[string]any{
				"pk": s("example:least"), "sk": s("lock"), "rev": n(1), "fence": n(7), "capacity": n(1), "cause": s("acquire"), "free_at": n(1),
				"waiting": n(0), "next_ticket": n(0), "holders": map[string]any{"M": map[string]any{"none": holder(7)}},
			},
		},
	}}}
	check, _ := json.Marshal(map[string]any{"v": 1, "lock": "least:check", "lease": lock.KeyOf("least:check", "least-lease-00000000"), "fence": checked.Fence})
	checkEvent := map[string]any{"Records": []any{map[string]any{"messageId": "m2", "body": string(check), "eventSource": "aws:sqs"}}}
	said := ""
	fails := func(function string, payload any) bool {
		data, err := json.Marshal(payload)
		if err != nil {
			t.Fatal(err)
		}
		out, err := c.lambda.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: &function, Payload: data, LogType: lambdatypes.LogTypeTail})
		if err != nil {
			t.Fatal(err)
		}
		var batch struct {
			Failures []any `json:"batchItemFailures"`
		}
		_ = json.Unmarshal(out.Payload, &batch)
		log, err := base64.StdEncoding.DecodeString(aws.ToString(out.LogResult))
		if err != nil {
			t.Fatal(err)
		}
		said = string(log) + " and answered " + string(out.Payload)
		return out.FunctionError != nil || len(batch.Failures) > 0 || putOff.Match(log)
	}
	lease := 0
	for _, test := range []struct {
		id      string
		actions string // of the statement that is taken away, its first
		payload func() any
	}{
		{"Acquire", "dynamodb:", func() any {
			lease++
			return map[string]any{"name": fmt.Sprint("least:", lease), "lease": fmt.Sprintf("least-lease-%08d", lease)}
		}},
		{"Renew", "dynamodb:", func() any { return map[string]any{"name": "least:1", "lease": "least-lease-00000001"} }},
		{"Status", "dynamodb:", func() any { return map[string]any{"name": "least:1", "op": "status"} }},
		{"ForceRelease", "dynamodb:", func() any { return map[string]any{"name": "least:2", "reason": "x"} }},
		{"Release", "dynamodb:", func() any { return map[string]any{"name": "least:1", "lease": "least-lease-00000001"} }},
		{"Expire", "dynamodb:", func() any { return timerEvent }},
		{"Stream", "sqs:", func() any { return streamEvent }},
		{"Stream", "sqs:", func() any { return poison }},
		{"Stream", "dynamodb:DeleteItem", func() any { return tokenEvent }},
		{"Stream", "events:", func() any { return streamEvent }}, // the last of Stream: it does not try the bus for a while afterwards
		{"Expire", "states:Describe", func() any { return checkEvent }},
	} {
		role, function := c.id(test.id+"Role"), c.id(test.id)
		whole := c.rolePolicy(role)
		if fails(function, test.payload()) {
			t.Errorf("%s fails with its own role", test.id)
			continue
		}
		var rest []statement
		for _, st := range whole {
			if !strings.HasPrefix(first(st.Action), test.actions) {
				rest = append(rest, st)
			}
		}
		if len(rest) != len(whole)-1 {
			t.Errorf("%s has %d statements of %s", test.id, len(whole)-len(rest), test.actions)
		}
		c.setRolePolicy(role, rest)
		failed := fails(function, test.payload())
		for deadline := time.Now().Add(patience); !failed && test.id == "Expire" && test.actions == "states:Describe" && time.Now().Before(deadline); {
			failed = fails(function, test.payload()) // until the check is due
		}
		if !failed {
			t.Errorf("%s works without %s; it said %s", test.id, test.actions, said)
		}
		c.setRolePolicy(role, whole)
	}
	_ = holding.Release(t.Context())
	m.ended(execution)
	m.succeeds(running)
}

func s(v string) map[string]any { return map[string]any{"S": v} }

func n(v int64) map[string]any { return map[string]any{"N": fmt.Sprint(v)} }

func first(action any) string {
	switch a := action.(type) {
	case string:
		return a
	case []any:
		return fmt.Sprint(a[0])
	}
	return ""
}

func (c *cloud) rolePolicy(role string) []statement {
	c.t.Helper()
	out, err := c.iam.GetRolePolicy(c.t.Context(), &iam.GetRolePolicyInput{RoleName: &role, PolicyName: aws.String("function")})
	if err != nil {
		c.t.Fatal(err)
	}
	text, err := url.QueryUnescape(*out.PolicyDocument)
	if err != nil {
		c.t.Fatal(err)
	}
	var document struct{ Statement []statement }
	if err := json.Unmarshal([]byte(text), &document); err != nil {
		c.t.Fatal(err)
	}
	return document.Statement
}

func (c *cloud) setRolePolicy(role string, statements []statement) {
	c.t.Helper()
	if _, err := c.iam.PutRolePolicy(c.t.Context(), &iam.PutRolePolicyInput{
		RoleName: &role, PolicyName: aws.String("function"), PolicyDocument: aws.String(policy(statements)),
	}); err != nil {
		c.t.Fatal(err)
	}
}
