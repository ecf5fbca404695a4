package secrets_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/local"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/secrets"
	"github.com/holdfast-lock/holdfast/internal/stream"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

const queueURL = "https://sqs.eu-west-1.amazonaws.com/1/holdfast-notify-"

// A run is the coordinator's real handlers, with everything that they write down. Its writes go to the stream's consumer.
type run struct {
	t        *testing.T
	api      *api.API
	gateway  *httptest.Server
	consumer *stream.Consumer
	writes   []stream.Write // if the store is in memory

	secrets []secrets.Secret
	keys    []string // the keys of leases that are stored at the end
	mu      sync.Mutex
	outputs map[string]*bytes.Buffer // what was written, by what it is
}

// newRun starts a run on a store; nil: in memory.
func newRun(t *testing.T, store lock.Store) *run {
	r := &run{t: t, outputs: map[string]*bytes.Buffer{}}
	if store == nil {
		store = &lock.Memory{Changed: func(name string, before, after lock.Record) {
			r.writes = append(r.writes, stream.Write{Write: lock.Write{Lock: name, Before: before, After: after}, Sequence: fmt.Sprint(len(r.writes))})
		}}
	}
	log := slog.New(slog.NewJSONHandler(r.writer("log"), &slog.HandlerOptions{Level: slog.LevelDebug}))
	callbacks := stream.ByKind{lock.TaskToken: refusing{}, lock.CallbackToken: refusing{}}
	coordinator, err := lock.New(lock.Config{Store: store, Granted: stream.AtOnce(callbacks, refusing{}, log, "Holdfast")})
	if err != nil {
		t.Fatal(err)
	}
	if r.api, err = api.New(api.Config{Coordinator: coordinator, Log: log, Metrics: "Holdfast", NotifyPrefix: queueURL}); err != nil {
		t.Fatal(err)
	}
	r.gateway = httptest.NewServer(local.NewGateway(r.api, log))
	t.Cleanup(r.gateway.Close)
	r.consumer = &stream.Consumer{
		Bus: kept{r, "events"}, Timers: kept{r, "timers"}, DeadLetter: kept{r, "dead letters"}, Backlog: kept{r, "jobs"},
		Callbacks: callbacks, Notifications: refusing{}, Coordinator: coordinator, Log: log, Metrics: "Holdfast",
	}
	return r
}

// writer returns where one kind of output goes.
func (r *run) writer(name string) io.Writer {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.outputs[name] == nil {
		r.outputs[name] = &bytes.Buffer{}
	}
	return lockedWriter{r, r.outputs[name]}
}

type lockedWriter struct {
	r *run
	b *bytes.Buffer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	return w.b.Write(p)
}

// refusing is a fake of the services that get callbacks and notifications. Its errors repeat what it was sent, as validations do.
type refusing struct{}

func (refusing) Succeed(_ context.Context, token lock.Token, output []byte) error {
	return fmt.Errorf("Value '%s' at 'taskToken' with %s is not valid", token.Text, output)
}

func (f refusing) Fail(ctx context.Context, token lock.Token, code, cause string) error {
	return f.Succeed(ctx, token, []byte(code+cause))
}

func (refusing) Notify(context.Context, string, []byte) error { return errors.New("no such queue") }

// kept keeps what the stream's consumer sends.
type kept struct {
	r    *run
	name string
}

func (k kept) Put(_ context.Context, entries []stream.Entry) []error {
	for _, e := range entries {
		_, _ = fmt.Fprintf(k.r.writer(k.name), "%s %s\n", e.DetailType, e.Detail)
	}
	return nil
}

func (k kept) Arm(_ context.Context, timers []stream.Timer) []error {
	for _, timer := range timers {
		body, err := stream.EncodeTimer(timer)
		_, _ = fmt.Fprintln(k.r.writer(k.name), string(body), err)
	}
	return nil
}

func (k kept) Bury(_ context.Context, w stream.Write) error {
	_, err := fmt.Fprintln(k.r.writer(k.name), w.Lock, w.Poison, string(w.Raw))
	return err
}

func (k kept) Defer(_ context.Context, jobs []stream.Job) []error {
	for _, j := range jobs {
		body, err := stream.EncodeJob(j)
		_, _ = fmt.Fprintln(k.r.writer(k.name), string(body), err)
	}
	return nil
}

// secret makes a secret of a kind that the run is searched for.
func (r *run) secret(kind string) string {
	value := rand.Text()
	if kind == secrets.Token {
		value += "/+<&>\"" + rand.Text() + "=="
	}
	r.secrets = append(r.secrets, secrets.Secret{Kind: kind, Value: value})
	return value
}

// http sends a request through the gateway. The answer is output, unless it is the caller's own lease.
func (r *run) http(method, path, contentType, body string) int {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.gateway.URL+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := r.gateway.Client().Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if own := resp.StatusCode == 200 && (strings.HasSuffix(path, "/acquire") || strings.HasSuffix(path, "/renew")); !own {
		_, _ = fmt.Fprintf(r.writer("answers"), "%v %s\n", resp.Header, answer)
	}
	return resp.StatusCode
}

func (r *run) post(name, op, body string) int {
	r.t.Helper()
	return r.http("POST", "/v1/locks/"+name+"/"+op, "application/json", body)
}

// invoke invokes a function directly.
func (r *run) invoke(op wire.Op, payload string) {
	ctx := lambdacontext.NewContext(r.t.Context(), &lambdacontext.LambdaContext{InvokedFunctionArn: "arn:aws:lambda:eu-west-1:1:function:f"})
	_, err := r.api.Handler(op).Invoke(ctx, []byte(payload))
	if failed, ok := errors.AsType[messages.InvokeResponse_Error](err); ok {
		_, _ = fmt.Fprintln(r.writer("answers"), failed.Type, failed.Message)
	}
}

// work sends requests of every kind, right and wrong.
func (r *run) work() {
	holder, queued, told, task, callback := r.secret(secrets.Lease), r.secret(secrets.Lease), r.secret(secrets.Lease), r.secret(secrets.Lease), r.secret(secrets.Lease)
	want := func(status, got int) {
		r.t.Helper()
		if got != status {
			r.t.Errorf("status %d, want %d", got, status)
		}
	}
	lease := func(secret, more string) string { return fmt.Sprintf(`{"lease":%q%s}`, secret, more) }
	want(200, r.post("a", "acquire", lease(holder, `,"owner":"me","metadata":{"build":7}`)))
	want(200, r.post("a", "acquire", lease(holder, "")))
	want(409, r.post("a", "acquire", lease(queued, "")))
	want(409, r.post("a", "acquire", lease(queued, `,"wait_ms":60000`)))
	want(409, r.post("a", "acquire", lease(told, fmt.Sprintf(`,"wait_ms":60000,"notify":{"queue":%q,"id":%q}`, queueURL+"q", r.secret(secrets.Notify)))))
	direct := func(field, token, secret string) string {
		text, err := json.Marshal(token)
		if err != nil {
			r.t.Fatal(err)
		}
		return fmt.Sprintf(`{"name":"a","lease":%q,%q:%s}`, secret, field, text)
	}
	r.invoke(wire.OpAcquire, direct("task_token", r.secret(secrets.Token), task))
	r.invoke(wire.OpAcquire, direct("callback_id", r.secret(secrets.Token), callback))
	want(200, r.post("a", "renew", lease(holder, `,"metadata":{"build":8}`)))
	want(200, r.http("GET", "/v1/locks/a", "", ""))
	want(200, r.http("GET", "/v1/locks?state=all", "", ""))
	want(200, r.post("a", "release", lease(holder, "")))
	want(200, r.post("a", "release", lease(holder, "")))
	want(200, r.post("a", "acquire", lease(queued, `,"wait_ms":60000`)))
	for range 3 { // those that are told, or whose callback is refused, come and go
		r.post("a", "force-release", `{"reason":"stuck"}`)
	}
	r.wrong(holder)
	want(200, r.post("b", "acquire", lease(holder, "")))
	r.keys = append(r.keys, string(lock.KeyOf("b", holder)))
	r.post("c", "acquire", lease(told, "")) // a queue with places of every kind stays
	r.post("c", "acquire", lease(queued, fmt.Sprintf(`,"wait_ms":60000,"notify":{"queue":%q,"id":%q}`, queueURL+"q", r.secret(secrets.Notify))))
	r.invoke(wire.OpAcquire, strings.Replace(direct("task_token", r.secret(secrets.Token), task), `"a"`, `"c"`, 1))
	r.keys = append(r.keys, string(lock.KeyOf("c", told)), string(lock.KeyOf("c", queued)), string(lock.KeyOf("c", task)))
}

// wrong sends requests that are refused, with a secret in each.
func (r *run) wrong(secret string) {
	for _, body := range []string{
		`{"lease":"%s"`, `{"lease":"%s","lease":"%[1]s"}`, `{"lease":"%s!"}`, `{"lease":"%s","ttl_ms":"%[1]s"}`, `{"lease":"%s","metadata":"%[1]s"}`, `{"lease":"%s","owner":7}`,
		`{"lease":"%s","unknown":"%[1]s"}`, `["%s"]`, `"%s"`, `{"lease":{"x":"%s"}}`, `{"lease":["%s"]}`, `{"lease":"%s","wait_ms":5}`, `{"lease":"%s","notify":{"queue":7,"id":"%[1]s"}}`, "{\"lease\":\"%s\xff\"}",
		`{"lease":"%s","fence":1}`, `{"lease":"%s","task_token":"%[1]s"}`, `{"lease":"%s","execution":7}`, `{"lease":"%s"}` + strings.Repeat(" ", wire.MaxBody), `{"lease":"%s"} {}`,
	} {
		body = fmt.Sprintf(body, secret)
		for _, op := range []string{"acquire", "renew", "release", "force-release"} {
			r.post("w", op, body)
			r.http("POST", "/v1/locks/w/"+op, "text/plain", body)
			r.invoke(wire.Op(op), body)
		}
	}
	r.post("w", "renew", fmt.Sprintf(`{"lease":%q}`, secret))
	r.post("w", "release", fmt.Sprintf(`{"lease":%q}`, secret))
	r.http("POST", "/v1/locks/w/release?lease="+secret, "application/json", "{}")
	r.http("GET", "/v1/locks?lease="+secret, "", "")
	r.http("PUT", "/v1/locks/w", "application/json", fmt.Sprintf(`{"lease":%q}`, secret))
}

// found searches all outputs, and returns the kinds of secrets that each has.
func (r *run) found() map[string]map[string]bool {
	searcher, err := secrets.NewSearcher(r.secrets)
	if err != nil {
		r.t.Fatal(err)
	}
	all := map[string]map[string]bool{}
	for name, output := range r.outputs {
		list, read, err := searcher.Search(bytes.NewReader(output.Bytes()))
		if err != nil || read == 0 {
			r.t.Errorf("%s: %d bytes, %v", name, read, err)
		}
		for _, f := range list {
			if all[name] == nil {
				all[name] = map[string]bool{}
			}
			all[name][f.Kind] = true
			if f.Kind == secrets.Lease {
				r.t.Errorf("%s has the secret of a lease as %s, at byte %d", name, f.Form, f.Offset)
			}
		}
	}
	return all
}

// Nothing that the coordinator writes has a lease's secret. Callback tokens, and the ids of notifications, are in the jobs and the dead
// letters only.
func TestOutputsHaveNoSecrets(t *testing.T) {
	r := newRun(t, nil)
	r.work()
	for range 2 {
		batch := r.writes
		r.writes = nil
		r.consumer.Consume(t.Context(), batch)
	}
	token := r.secrets[len(r.secrets)-1].Value
	text, err := json.Marshal(token)
	if err != nil {
		t.Fatal(err)
	}
	const record = `{"dynamodb":{"Keys":{"pk":{"S":"p"},"sk":{"S":"lock"}},"SequenceNumber":"7","NewImage":{"rev":{"N":"1"},"holders":{"M":{"k":{"M":{"tokens":{"S":%s}}}}}}}}`
	raw := fmt.Appendf(nil, record, text)
	w, sequence, _, poison := dynamo.ReadRecord(raw)
	if poison == nil {
		t.Fatal("the record can be read")
	}
	r.consumer.Consume(t.Context(), []stream.Write{{Write: w, Sequence: sequence, Poison: poison, Raw: raw}})
	for _, output := range []string{"log", "events", "timers", "dead letters", "jobs", "answers"} {
		if r.outputs[output] == nil {
			t.Errorf("there is no output of the kind %q: the run is too small", output)
		}
	}
	for output, kinds := range r.found() {
		if output != "dead letters" && output != "jobs" {
			t.Errorf("%s has secrets: %v", output, kinds)
		}
	}
	if log := r.outputs["log"].String(); !strings.Contains(log, `"_aws"`) || !strings.Contains(log, "(the token)") || strings.Contains(log, queueURL) {
		t.Errorf("the log lacks metrics or the error of a callback, or has a queue's URL")
	}
}

// The table's items have no lease's secret, but its hash with the lock's name; and the callback tokens, which the functions need.
func TestItemsHaveNoSecrets(t *testing.T) {
	endpoint := awstest.Endpoint(t)
	cfg := aws.Config{Region: "eu-west-1", Credentials: credentials.NewStaticCredentialsProvider("a", "b", ""), BaseEndpoint: &endpoint}
	table := awstest.TableName(t, "secrets")
	store, err := dynamo.New(dynamo.Config{AWS: cfg, Table: table, Endpoint: endpoint})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.CreateTable(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := newRun(t, store)
	r.work()
	pages := dynamodb.NewScanPaginator(dynamodb.NewFromConfig(cfg), &dynamodb.ScanInput{TableName: &table})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range page.Items {
			writeItem(r.writer("items"), &types.AttributeValueMemberM{Value: item})
		}
	}
	found := r.found()
	if !found["items"][secrets.Token] || !found["items"][secrets.Notify] || len(found) != 1 {
		t.Errorf("found %v; the items have tokens, and nothing else has", found)
	}
	for _, key := range r.keys {
		if !strings.Contains(r.outputs["items"].String(), key) {
			t.Errorf("the items lack the lease key %s", key)
		}
	}
}

// writeItem writes the names and texts of an item.
func writeItem(w io.Writer, v types.AttributeValue) {
	switch v := v.(type) {
	case *types.AttributeValueMemberM:
		for name, e := range v.Value {
			_, _ = fmt.Fprint(w, name, " ")
			writeItem(w, e)
		}
	case *types.AttributeValueMemberL:
		for _, e := range v.Value {
			writeItem(w, e)
		}
	case *types.AttributeValueMemberS:
		_, _ = fmt.Fprintln(w, v.Value)
	case *types.AttributeValueMemberN:
		_, _ = fmt.Fprintln(w, v.Value)
	default:
		_, _ = fmt.Fprintf(w, "%v\n", v)
	}
}
