package dynamo_test

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
)

func awsConfig() aws.Config {
	return aws.Config{Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")}
}

// engine is a plain client of DynamoDB Local.
func engine(t testing.TB) *dynamodb.Client {
	return dynamodb.NewFromConfig(awsConfig(), func(o *dynamodb.Options) { o.BaseEndpoint = aws.String(awstest.Endpoint(t)) })
}

// newStore returns a store with its own table.
func newStore(t testing.TB, change ...func(*dynamo.Config)) *dynamo.Store {
	t.Helper()
	cfg := dynamo.Config{AWS: awsConfig(), Table: awstest.TableName(t, "locks"), Endpoint: awstest.Endpoint(t)}
	for _, c := range change {
		c(&cfg)
	}
	s, err := dynamo.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CreateTable(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// wire is an HTTP client between the SDK and the engine. It counts requests, and a test makes it fail.
type wire struct {
	mu       sync.Mutex
	requests []string                                                                  // X-Amz-Target of each
	harm     func(n int, req *http.Request) (resp *http.Response, err error, hit bool) // n counts from 1 since reset
	after    func(n int, resp *http.Response) (*http.Response, error)
}

func (w *wire) Do(req *http.Request) (*http.Response, error) {
	w.mu.Lock()
	w.requests = append(w.requests, req.Header.Get("X-Amz-Target"))
	n, harm, after := len(w.requests), w.harm, w.after
	w.mu.Unlock()
	if harm != nil {
		if resp, err, hit := harm(n, req); hit {
			return resp, err
		}
	}
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err == nil && after != nil {
		return after(n, resp)
	}
	return resp, err
}

func (w *wire) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests, w.harm, w.after = nil, nil, nil
}

func (w *wire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.requests)
}

// otherKeys returns a store on a table with another key schema.
func otherKeys(t testing.TB) *dynamo.Store {
	t.Helper()
	table := awstest.TableName(t, "other")
	if _, err := engine(t).CreateTable(t.Context(), &dynamodb.CreateTableInput{
		TableName: &table, BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String("id"), AttributeType: types.ScalarAttributeTypeS}},
		KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String("id"), KeyType: types.KeyTypeHash}},
	}); err != nil {
		t.Fatal(err)
	}
	s, err := dynamo.New(dynamo.Config{AWS: awsConfig(), Table: table, Endpoint: awstest.Endpoint(t)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
