//go:build cloud

// Package e2e tests the deployed stack on a local engine of the AWS services that it uses, with authorisation enforced.
// Run it with `make e2e`, which synthesises and deploys the stack first.
package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

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
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// patience is the time limit of a wait: how long a failure takes to show.
const patience = 30 * time.Second

const stackName = "Holdfast"

// cloud is the deployed stack, with clients of the account's root user.
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
	// All connections go to the engine, also those to the API's host name, which resolvers do not know.
	transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, u.Host)
	}}
	c.http = &http.Client{Transport: transport}
	t.Cleanup(transport.CloseIdleConnections)
	return c
}

// id is the physical id of the resource whose logical id is logical and a hash.
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

// caller creates a user with a policy, and returns a client that signs as this user.
func (c *cloud) caller(name string, statements ...statement) (*lockclient.Client, aws.CredentialsProvider) {
	c.t.Helper()
	creds := c.user(name, statements...)
	return c.client(creds), creds
}

// user creates a user with a policy, and returns its credentials.
func (c *cloud) user(name string, statements ...statement) aws.CredentialsProvider {
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
	return credentials.NewStaticCredentialsProvider(*key.AccessKey.AccessKeyId, *key.AccessKey.SecretAccessKey, "")
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

// A subscriber receives events through a rule and a queue.
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

// next receives the next event.
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

// receive waits for a message of a queue, and deletes it.
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

// invoke calls a function directly, and returns its answer and the type of its error.
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

func rowKey(name string) map[string]dbtypes.AttributeValue {
	return map[string]dbtypes.AttributeValue{"pk": &dbtypes.AttributeValueMemberS{Value: name}, "sk": &dbtypes.AttributeValueMemberS{Value: "lock"}}
}

func s(v string) map[string]any { return map[string]any{"S": v} }

func n(v int64) map[string]any { return map[string]any{"N": fmt.Sprint(v)} }

func sign(t *testing.T, req *http.Request, provider aws.CredentialsProvider, body, region string) {
	t.Helper()
	creds, err := provider.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256([]byte(body))
	if err := v4.NewSigner().SignHTTP(t.Context(), creds, req, hex.EncodeToString(hash[:]), "execute-api", region, time.Now()); err != nil {
		t.Fatal(err)
	}
}
