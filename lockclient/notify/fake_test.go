package notify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

const (
	testPrefix  = "https://sqs.eu-west-1.amazonaws.com/123456789012/Holdfast-notify-"
	testAccount = "https://sqs.eu-west-1.amazonaws.com/123456789012/"
)

// A fakeSQS answers as SQS does, with its rules: long polls, visibility timeouts, retention, limits of batches and names, and names
// that cannot be used again for 60 s after a deletion.
type fakeSQS struct {
	t *testing.T

	mu      sync.Mutex
	account string
	queues  map[string]*fakeQueue // by URL
	deleted map[string]time.Time  // by URL
	fail    func(op string) error // called before each request
	slow    time.Duration         // of CreateQueue
	lost    string                // the operation whose answers are lost
	calls   []string
	changed chan struct{} // closed when a message has come, or a queue has gone
}

type fakeQueue struct {
	attributes, tags map[string]string
	messages         []*fakeMessage
}

type fakeMessage struct {
	body          string
	sent, visible time.Time
	handle        string
}

func newFake(t *testing.T) *fakeSQS {
	return &fakeSQS{t: t, account: testAccount, queues: map[string]*fakeQueue{}, deleted: map[string]time.Time{}, changed: make(chan struct{})}
}

func denied() error {
	return &smithy.GenericAPIError{Code: "AccessDenied", Message: "not authorized", Fault: smithy.FaultClient}
}

func broken() error {
	return &smithyhttp.ResponseError{Response: &smithyhttp.Response{Response: &http.Response{StatusCode: 503}}, Err: &smithy.GenericAPIError{Code: "InternalError", Fault: smithy.FaultServer}}
}

var errLost = errors.New("connection reset by peer")

// call is the beginning of each request.
func (f *fakeSQS) call(op string) error {
	f.calls = append(f.calls, op)
	if f.fail != nil {
		return f.fail(op)
	}
	return nil
}

func (f *fakeSQS) answer(op string) error {
	if f.lost == op {
		return errLost
	}
	return nil
}

func (f *fakeSQS) queue(url *string) (*fakeQueue, error) {
	if q := f.queues[aws.ToString(url)]; q != nil {
		return q, nil
	}
	return nil, &types.QueueDoesNotExist{}
}

func (f *fakeSQS) notify() {
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeSQS) CreateQueue(_ context.Context, in *sqs.CreateQueueInput, _ ...func(*sqs.Options)) (*sqs.CreateQueueOutput, error) {
	time.Sleep(f.slow)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("CreateQueue"); err != nil {
		return nil, err
	}
	name := aws.ToString(in.QueueName)
	url := f.account + name
	switch {
	case !queueName(name) || len(name) > 80:
		f.t.Errorf("the queue's name is %q", name)
	case time.Since(f.deleted[url]) < time.Minute:
		return nil, &types.QueueDeletedRecently{}
	case in.Tags[aliveTag] == "" || in.Attributes["SqsManagedSseEnabled"] != "true" || in.Attributes["MessageRetentionPeriod"] != "60":
		f.t.Errorf("tags %v, attributes %v", in.Tags, in.Attributes)
	}
	if old := f.queues[url]; old != nil && !maps.Equal(old.attributes, in.Attributes) {
		return nil, &types.QueueNameExists{}
	} else if old == nil {
		f.queues[url] = &fakeQueue{attributes: in.Attributes, tags: maps.Clone(in.Tags)}
	}
	return &sqs.CreateQueueOutput{QueueUrl: &url}, f.answer("CreateQueue")
}

func (f *fakeSQS) GetQueueUrl(_ context.Context, in *sqs.GetQueueUrlInput, _ ...func(*sqs.Options)) (*sqs.GetQueueUrlOutput, error) { //nolint:revive // the SDK's name
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("GetQueueUrl"); err != nil {
		return nil, err
	}
	url := f.account + aws.ToString(in.QueueName)
	_, err := f.queue(&url)
	return &sqs.GetQueueUrlOutput{QueueUrl: &url}, err
}

func (f *fakeSQS) ReceiveMessage(ctx context.Context, in *sqs.ReceiveMessageInput, _ ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error) {
	if in.MaxNumberOfMessages < 1 || in.MaxNumberOfMessages > 10 || in.WaitTimeSeconds < 1 || in.WaitTimeSeconds > 20 {
		f.t.Errorf("receive %d messages in %d s", in.MaxNumberOfMessages, in.WaitTimeSeconds)
	}
	f.mu.Lock()
	err := f.call("ReceiveMessage")
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	end := time.After(time.Duration(in.WaitTimeSeconds) * time.Second)
	for {
		f.mu.Lock()
		messages, again, err := f.take(in)
		changed := f.changed
		f.mu.Unlock()
		if err != nil || messages != nil {
			return &sqs.ReceiveMessageOutput{Messages: messages}, err
		}
		var visible <-chan time.Time
		if again > 0 {
			visible = time.After(again)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-end:
			return &sqs.ReceiveMessageOutput{}, nil
		case <-changed:
		case <-visible:
		}
	}
}

// take receives what is visible, or returns when the next message becomes visible.
func (f *fakeSQS) take(in *sqs.ReceiveMessageInput) (list []types.Message, again time.Duration, err error) {
	q, err := f.queue(in.QueueUrl)
	if err != nil {
		return nil, 0, err
	}
	now := time.Now()
	q.messages = slices.DeleteFunc(q.messages, func(m *fakeMessage) bool { return now.Sub(m.sent) > time.Minute })
	for _, m := range q.messages {
		if wait := m.visible.Sub(now); wait > 0 {
			again = max(again, wait)
			continue
		}
		if len(list) == int(in.MaxNumberOfMessages) {
			break
		}
		m.visible, m.handle = now.Add(2*time.Second), fmt.Sprint(m.sent, len(list), now)
		list = append(list, types.Message{Body: &m.body, ReceiptHandle: &m.handle})
	}
	return list, again, nil
}

func (f *fakeSQS) DeleteMessageBatch(_ context.Context, in *sqs.DeleteMessageBatchInput, _ ...func(*sqs.Options)) (*sqs.DeleteMessageBatchOutput, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(in.Entries); n < 1 || n > 10 {
		f.t.Errorf("%d messages deleted at once", n)
	}
	if err := f.call("DeleteMessageBatch"); err != nil {
		return nil, err
	}
	q, err := f.queue(in.QueueUrl)
	if err != nil {
		return nil, err
	}
	ids := map[string]bool{}
	for _, e := range in.Entries {
		if ids[*e.Id] {
			f.t.Errorf("two entries are called %s", *e.Id)
		}
		ids[*e.Id] = true
		q.messages = slices.DeleteFunc(q.messages, func(m *fakeMessage) bool { return m.handle == *e.ReceiptHandle })
	}
	return &sqs.DeleteMessageBatchOutput{}, nil
}

func (f *fakeSQS) TagQueue(_ context.Context, in *sqs.TagQueueInput, _ ...func(*sqs.Options)) (*sqs.TagQueueOutput, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("TagQueue"); err != nil {
		return nil, err
	}
	q, err := f.queue(in.QueueUrl)
	if err != nil {
		return nil, err
	}
	maps.Copy(q.tags, in.Tags)
	return &sqs.TagQueueOutput{}, nil
}

func (f *fakeSQS) DeleteQueue(_ context.Context, in *sqs.DeleteQueueInput, _ ...func(*sqs.Options)) (*sqs.DeleteQueueOutput, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("DeleteQueue"); err != nil {
		return nil, err
	}
	if _, err := f.queue(in.QueueUrl); err != nil {
		return nil, err
	}
	delete(f.queues, *in.QueueUrl)
	f.deleted[*in.QueueUrl] = time.Now()
	f.notify()
	return &sqs.DeleteQueueOutput{}, nil
}

func (f *fakeSQS) ListQueues(_ context.Context, in *sqs.ListQueuesInput, _ ...func(*sqs.Options)) (*sqs.ListQueuesOutput, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("ListQueues"); err != nil {
		return nil, err
	}
	var urls []string
	for _, url := range slices.Sorted(maps.Keys(f.queues)) {
		if strings.HasPrefix(url[strings.LastIndex(url, "/")+1:], aws.ToString(in.QueueNamePrefix)) && url > aws.ToString(in.NextToken) {
			urls = append(urls, url)
		}
	}
	out := &sqs.ListQueuesOutput{QueueUrls: urls}
	if len(urls) > 2 { // small pages
		out.QueueUrls, out.NextToken = urls[:2], &urls[1]
	}
	return out, nil
}

func (f *fakeSQS) ListQueueTags(_ context.Context, in *sqs.ListQueueTagsInput, _ ...func(*sqs.Options)) (*sqs.ListQueueTagsOutput, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.call("ListQueueTags"); err != nil {
		return nil, err
	}
	q, err := f.queue(in.QueueUrl)
	if err != nil {
		return nil, err
	}
	return &sqs.ListQueueTagsOutput{Tags: maps.Clone(q.tags)}, nil
}

// send puts a message into a queue, if there is one, as the coordinator does.
func (f *fakeSQS) send(url, body string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if q := f.queues[url]; q != nil {
		q.messages = append(q.messages, &fakeMessage{body: body, sent: time.Now()})
		f.notify()
	}
}

func granted(id string) string {
	return fmt.Sprintf(`{"type":%q,"lock":"a","fence":7,"expires_at":"2026-11-26T04:00:00.000Z","id":%q}`, wire.NotificationGranted, id)
}

func (f *fakeSQS) do(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

// urls returns the queues that exist.
func (f *fakeSQS) urls() (list []string) {
	f.do(func() { list = slices.Sorted(maps.Keys(f.queues)) })
	return list
}

// count returns the number of requests of an operation since the last call, and of all operations.
func (f *fakeSQS) count(op string) (n, all int) {
	f.do(func() {
		for _, c := range f.calls {
			if c == op {
				n++
			}
		}
		all, f.calls = len(f.calls), nil
	})
	return n, all
}
