package redrive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// A kit is a coordinator on a table of DynamoDB Local whose stream nobody consumes, and a redriver with fakes of all other services. Its clock
// stands still but for what a test adds.
type kit struct {
	*Redriver
	t     *testing.T
	table string
	db    *dynamodb.Client
	began time.Time
	ahead time.Duration

	mu      sync.Mutex
	letters []stream.Letter // the fake queue
	events  []stream.Entry
	timers  []stream.Timer
	told    []string // token, and the lock or the error's code
	over    map[string]bool
	down    bool // the fake services fail
	pauses  int  // how often the redriver waited, which takes no time

	requests int                     // that were sent to the table
	fails    func(body string) error // of a request; nil: none fails
}

// A tableClient is the HTTP client of a kit's store: it counts requests, and fails those that a test wants to fail.
type tableClient struct{ k *kit }

// Do implements the SDK's HTTP client.
func (c tableClient) Do(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	c.k.requests++
	if c.k.fails != nil {
		if err := c.k.fails(r.Header.Get("X-Amz-Target") + string(body)); err != nil {
			return nil, err
		}
	}
	return http.DefaultClient.Do(r)
}

func newKit(t *testing.T) *kit {
	t.Helper()
	endpoint := awstest.Endpoint(t)
	k := &kit{t: t, began: time.Now(), table: awstest.TableName(t, "redrive"), over: map[string]bool{}}
	sdk := aws.Config{Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")}
	k.db = dynamodb.NewFromConfig(sdk, func(o *dynamodb.Options) { o.BaseEndpoint = aws.String(endpoint) })
	sdk.HTTPClient = tableClient{k}
	store, err := dynamo.New(dynamo.Config{AWS: sdk, Table: k.table, Endpoint: endpoint})
	if err != nil {
		t.Fatal(err)
	}
	for try := 1; ; try++ { // a busy machine may be too slow for the store's time-outs
		err := store.CreateTable(t.Context())
		if err == nil {
			break
		}
		if !errors.Is(err, lock.ErrUnavailable) || try == 5 {
			t.Fatal(err)
		}
	}
	coordinator, err := lock.New(lock.Config{Store: store, Clock: k.clock})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	c := &stream.Consumer{
		Bus: k, Timers: k, DeadLetter: Refuse, Callbacks: k, Coordinator: coordinator, Skew: lock.DefaultSkew, Log: log, Clock: k.clock,
	}
	x := &stream.Expirer{Coordinator: coordinator, Timers: k, Executions: k, Consumer: c, Log: log, Clock: k.clock}
	k.Redriver = &Redriver{Store: store, Coordinator: coordinator, Expirer: x, Letters: k, Clock: k.clock, pause: func(context.Context, time.Duration) error {
		k.pauses++
		return nil
	}}
	return k
}

func (k *kit) clock() time.Time { return k.began.Add(k.ahead) }

var errDown = errors.New("the fake service is down")

// Put implements [stream.Bus].
func (k *kit) Put(_ context.Context, entries []stream.Entry) []error {
	k.mu.Lock()
	defer k.mu.Unlock()
	errs := make([]error, len(entries))
	for i := range entries {
		if errs[i] = k.failing(); errs[i] == nil {
			k.events = append(k.events, entries[i])
		}
	}
	return errs
}

// Arm implements [stream.Timers].
func (k *kit) Arm(_ context.Context, timers []stream.Timer) []error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.timers = append(k.timers, timers...)
	return nil
}

func (k *kit) failing() error {
	if k.down {
		return errDown
	}
	return nil
}

// Succeed implements [stream.Callbacks].
func (k *kit) Succeed(_ context.Context, token lock.Token, _ []byte) error {
	return k.tell(token.Text + " granted")
}

// Fail implements [stream.Callbacks].
func (k *kit) Fail(_ context.Context, token lock.Token, code, _ string) error {
	return k.tell(token.Text + " " + code)
}

func (k *kit) tell(what string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.failing(); err != nil {
		return err
	}
	k.told = append(k.told, what)
	return nil
}

// Running implements [stream.Executions].
func (k *kit) Running(_ context.Context, arn string) (bool, error) { return !k.over[arn], nil }

// Receive implements [stream.Letters]. What it returns is hidden until it is released.
func (k *kit) Receive(_ context.Context, n int) (list []stream.Letter, _ error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.letters {
		if l := &k.letters[i]; l.Receipt == "" && len(list) < n {
			l.Receipt = "hidden"
			list = append(list, *l)
		}
	}
	return list, nil
}

// Delete implements [stream.Letters].
func (k *kit) Delete(_ context.Context, l stream.Letter) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.letters {
		if k.letters[i].ID == l.ID {
			k.letters = append(k.letters[:i], k.letters[i+1:]...)
			return nil
		}
	}
	return errors.New("no such message")
}

// Release implements [stream.Letters].
func (k *kit) Release(_ context.Context, l stream.Letter) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.letters {
		if k.letters[i].ID == l.ID {
			k.letters[i].Receipt = ""
		}
	}
	return nil
}

// send puts a message into the fake queue.
func (k *kit) send(id, body string) {
	k.letters = append(k.letters, stream.Letter{ID: id, Body: body})
}

// bury puts a write into the fake queue, as the functions do.
func (k *kit) bury(id string, w stream.Write) {
	k.t.Helper()
	body, err := stream.EncodeBuried(w)
	if err != nil {
		k.t.Fatal(err)
	}
	k.send(id, string(body))
}

// job is a job that was given up, as a write.
func (k *kit) job(j stream.Job) stream.Write {
	k.t.Helper()
	body, err := stream.EncodeJob(j)
	if err != nil {
		k.t.Fatal(err)
	}
	return stream.Write{Write: lock.Write{Lock: j.Lock}, Raw: body, Poison: errors.New("it was given up")}
}

// acquire asks for a lock; held means that it waits.
func (k *kit) acquire(name, secret string, change ...func(*lock.AcquireRequest)) {
	k.t.Helper()
	req := lock.AcquireRequest{Lock: name, Secret: secret, Owner: secret, TTL: 10 * time.Minute, Capacity: 1, Permits: 1}
	for _, c := range change {
		c(&req)
	}
	if _, err := k.Coordinator.Acquire(k.t.Context(), req); err != nil && !errors.Is(err, lock.ErrLockHeld) {
		k.t.Fatal(err)
	}
}

func waits(r *lock.AcquireRequest) { r.Wait = time.Hour }

func task(token string) func(*lock.AcquireRequest) {
	return func(r *lock.AcquireRequest) {
		r.Wait, r.Token = time.Hour, lock.Token{Kind: lock.TaskToken, Text: token}
	}
}

func of(execution string) func(*lock.AcquireRequest) {
	return func(r *lock.AcquireRequest) { r.Execution, r.TTL = execution, time.Minute }
}

func (k *kit) record(name string) lock.Record {
	k.t.Helper()
	reply, err := k.Store.Get(k.t.Context(), name)
	if err != nil {
		k.t.Fatal(err)
	}
	return reply.After
}

// grant is the only lease of a lock.
func (k *kit) grant(name string) (ref lock.GrantRef, l lock.Lease) {
	k.t.Helper()
	for key, l := range k.record(name).Holders {
		return lock.GrantRef{Lock: name, Key: key, Fence: l.Fence}, l
	}
	k.t.Fatalf("%s has no holder", name)
	return ref, l
}

func (k *kit) do(req Request) Answer {
	k.t.Helper()
	a, err := k.Do(k.t.Context(), req)
	if err != nil {
		k.t.Fatal(err)
	}
	return a
}

// change writes an attribute of an item as an operator, or a fault, might.
func (k *kit) change(name, sk, expression string, values map[string]types.AttributeValue) {
	k.t.Helper()
	var names map[string]string
	if strings.Contains(expression, "ttl") { // a reserved word
		expression, names = strings.ReplaceAll(expression, "ttl", "#ttl"), map[string]string{"#ttl": "ttl"}
	}
	if _, err := k.db.UpdateItem(k.t.Context(), &dynamodb.UpdateItemInput{
		TableName: &k.table, ExpressionAttributeNames: names, Key: map[string]types.AttributeValue{"pk": &types.AttributeValueMemberS{Value: name}, "sk": &types.AttributeValueMemberS{Value: sk}},
		UpdateExpression: &expression, ExpressionAttributeValues: values,
	}); err != nil {
		k.t.Fatal(err)
	}
}

// remove deletes an item.
func (k *kit) remove(name, sk string) {
	k.t.Helper()
	if _, err := k.db.DeleteItem(k.t.Context(), &dynamodb.DeleteItemInput{
		TableName: &k.table, Key: map[string]types.AttributeValue{"pk": &types.AttributeValueMemberS{Value: name}, "sk": &types.AttributeValueMemberS{Value: sk}},
	}); err != nil {
		k.t.Fatal(err)
	}
}

// short is an answer in one line for each outcome: the message or lock, the state, and whether it was deleted.
func short(a Answer) string {
	var lines []string
	for _, o := range a.Outcomes {
		name := o.Message
		if name == "" {
			name = o.Lock
		}
		line := fmt.Sprintf("%s %s %s", name, o.What, o.State)
		if o.Deleted {
			line += " deleted"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
