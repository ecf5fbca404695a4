// Package notify lets the waits of a [lockclient.Client] be notified of their grants through an SQS queue, in place of polling.
//
//	notifier, err := notify.New(notify.Config{AWS: cfg, Prefix: prefix}) // the stack's output NotifyPrefix
//	...
//	client, err := lockclient.New(lockclient.Config{Endpoint: endpoint, Credentials: cfg.Credentials, Notify: notifier})
//
// The first wait makes a queue for the process. While anything waits, the queue is read by long polls of 20 s: three requests a
// minute, whatever the number of waits. The client adds at most three requests a minute by which the waits keep their places. A
// message is a hint: a wait believes only the answer to its own acquire.
//
// Closing the client, or the notifier, deletes the queue. A process that is killed leaves its queue behind. An idle queue costs
// nothing; [Sweep] deletes those whose owners are gone. docs/waiting.md says when to use this, and what it costs.
package notify

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/holdfast-lock/holdfast/internal/reach"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// Config configures a [Notifier], and [Sweep].
type Config struct {
	// AWS has the region, the credentials and the HTTP client. Redirects are not followed.
	AWS aws.Config
	// Prefix is how the URLs of the deployment's notify queues begin: the stack's output NotifyPrefix, such as
	// https://sqs.eu-west-1.amazonaws.com/123456789012/Holdfast-notify-. The coordinator sends to such queues only. The queue is made in
	// the account and region of AWS, which must therefore be those of Prefix.
	Prefix string
	// Endpoint is the URL of SQS; empty means the region's.
	Endpoint string
}

// sqsClient is the part of SQS that this package uses.
type sqsClient interface {
	CreateQueue(context.Context, *sqs.CreateQueueInput, ...func(*sqs.Options)) (*sqs.CreateQueueOutput, error)
	GetQueueUrl(context.Context, *sqs.GetQueueUrlInput, ...func(*sqs.Options)) (*sqs.GetQueueUrlOutput, error)
	ReceiveMessage(context.Context, *sqs.ReceiveMessageInput, ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error)
	DeleteMessageBatch(context.Context, *sqs.DeleteMessageBatchInput, ...func(*sqs.Options)) (*sqs.DeleteMessageBatchOutput, error)
	TagQueue(context.Context, *sqs.TagQueueInput, ...func(*sqs.Options)) (*sqs.TagQueueOutput, error)
	DeleteQueue(context.Context, *sqs.DeleteQueueInput, ...func(*sqs.Options)) (*sqs.DeleteQueueOutput, error)
	ListQueues(context.Context, *sqs.ListQueuesInput, ...func(*sqs.Options)) (*sqs.ListQueuesOutput, error)
	ListQueueTags(context.Context, *sqs.ListQueueTagsInput, ...func(*sqs.Options)) (*sqs.ListQueueTagsOutput, error)
}

// requestTimeout limits each request but a long poll, tries included.
const requestTimeout = 10 * time.Second

// A Notifier is a [lockclient.Notifier] over one queue. It is safe for concurrent use.
type Notifier struct {
	sqs    sqsClient
	prefix prefix
	idle   func() // closes the connections that are not in use

	life context.Context // ends when Close begins
	end  context.CancelFunc
	work sync.WaitGroup // requests in the background

	making chan struct{} // has room for whoever makes or renews the queue

	mu        sync.Mutex
	queue     *queue // nil: there is none
	unsure    string // the name of a queue that may have been made by a request without an answer
	failure   error  // why the last attempt to make a queue failed for good
	retry     time.Time
	listeners map[string]*listener // by id
	reading   bool                 // a goroutine reads the queue
}

// New makes a notifier. It sends no request. The error says what is wrong with cfg.
func New(cfg Config) (*Notifier, error) {
	p, err := parsePrefix(cfg)
	if err != nil {
		return nil, err
	}
	client, idle := newClient(cfg, p)
	return newNotifier(client, p, idle), nil
}

func newNotifier(client sqsClient, p prefix, idle func()) *Notifier {
	n := &Notifier{sqs: client, prefix: p, idle: idle, making: make(chan struct{}, 1), listeners: map[string]*listener{}}
	n.life, n.end = context.WithCancel(context.Background())
	return n
}

func newClient(cfg Config, p prefix) (client *sqs.Client, idle func()) {
	connections := reach.New(cfg.AWS.HTTPClient)
	return sqs.NewFromConfig(cfg.AWS, func(o *sqs.Options) {
		o.Region = p.region
		if cfg.Endpoint != "" {
			o.BaseEndpoint = &cfg.Endpoint
		}
		o.HTTPClient = connections
		o.ClientLogMode = 0
	}), connections.CloseIdleConnections
}

// A prefix is a parsed Config.Prefix.
type prefix struct {
	url     string // as given
	account string
	name    string // how the queues' names begin
	region  string
}

const (
	maxQueueName = 80
	randomName   = 20 // characters of 5 bits
)

func parsePrefix(cfg Config) (prefix, error) {
	const example = "give the stack's output NotifyPrefix, such as https://sqs.eu-west-1.amazonaws.com/123456789012/Holdfast-notify-"
	u, err := url.Parse(cfg.Prefix)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return prefix{}, fmt.Errorf("notify: Config.Prefix is %q, which is no URL; %s", cfg.Prefix, example)
	}
	account, name, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	switch {
	case !ok || account == "" || !queueName(name) || u.RawQuery != "" || u.Fragment != "":
		return prefix{}, fmt.Errorf("notify: Config.Prefix is %q, which does not end in an account and the beginning of a queue's name; %s", cfg.Prefix, example)
	case len(name) > maxQueueName-randomName:
		return prefix{}, fmt.Errorf("notify: Config.Prefix has a queue name of %d characters; at most %d are allowed, since SQS allows %d in all", len(name), maxQueueName-randomName, maxQueueName)
	}
	p := prefix{url: cfg.Prefix, account: account, name: name, region: cfg.AWS.Region}
	if labels := strings.Split(u.Hostname(), "."); len(labels) >= 4 && labels[0] == "sqs" && labels[2] == "amazonaws" {
		p.region = labels[1]
	}
	if p.region == "" {
		return prefix{}, errors.New("notify: Config.AWS has no region, and Config.Prefix names none; set AWS_REGION, or a region in the profile")
	}
	return p, nil
}

func queueName(name string) bool {
	return name != "" && strings.IndexFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_'
	}) < 0
}

// A listener is a [lockclient.Listener].
type listener struct {
	n    *Notifier
	id   string
	wake chan struct{}
	err  error // guarded by n.mu: no more messages will be heard
}

// Listen implements [lockclient.Notifier]. It makes the queue if there is none.
func (n *Notifier) Listen(ctx context.Context) (lockclient.Listener, error) {
	if err := n.prepare(ctx); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life.Err() != nil {
		return nil, errClosed
	}
	l := &listener{n: n, id: rand.Text(), wake: make(chan struct{}, 1)}
	n.listeners[l.id] = l
	if !n.reading {
		n.reading = true
		n.work.Go(n.read)
	}
	return l, nil
}

var (
	errClosed = errors.New("notify: the notifier is closed")
	errGone   = errors.New("notify: the queue was deleted")
)

// Address implements [lockclient.Listener].
func (l *listener) Address() (queue, id string, err error) {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	switch {
	case l.err != nil:
		return "", "", l.err
	case l.n.queue == nil:
		return "", "", errGone
	}
	return l.n.queue.url, l.id, nil
}

// Wake implements [lockclient.Listener].
func (l *listener) Wake() <-chan struct{} { return l.wake }

// Stop implements [lockclient.Listener].
func (l *listener) Stop() {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	delete(l.n.listeners, l.id)
}

func (l *listener) signal() {
	select {
	case l.wake <- struct{}{}:
	default: // it has not taken the last one yet
	}
}

// fail ends all listening: the waits poll.
func (n *Notifier) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, l := range n.listeners {
		l.err = err
		l.signal()
		delete(n.listeners, id)
	}
}

// readdress tells all listeners that their address has changed.
func (n *Notifier) readdress() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.listeners {
		l.signal()
	}
}

// Close ends all listening and deletes the queue. Waits that were notified poll from then on. A further Close does nothing. The error
// says which queue may be left: [Sweep] deletes it once its owner's time is over.
func (n *Notifier) Close(ctx context.Context) error {
	n.mu.Lock()
	n.end() // nothing is added to n.work any more, but by what is in it
	n.mu.Unlock()
	n.fail(errClosed)
	ended := make(chan struct{})
	go func() {
		n.work.Wait()
		n.making <- struct{}{} // another Close may be at it
		close(ended)
	}()
	select {
	case <-ended:
		defer func() { <-n.making }()
	case <-ctx.Done():
		go func() {
			<-ended
			<-n.making
		}()
		return fmt.Errorf("notify: close: %w", ctx.Err())
	}
	defer n.idle()
	return n.removeQueue(ctx)
}

var _ lockclient.Notifier = (*Notifier)(nil)
