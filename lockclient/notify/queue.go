package notify

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"

	"github.com/holdfast-lock/holdfast/internal/reach"
)

const (
	// aliveTag is the tag with the time until which a queue's owner lives, as far as others must assume. The owner moves it on.
	aliveTag = "holdfast:alive-until"
	// aliveFor is how far ahead the time of aliveTag is set. It is set again when half of it is over, and after a failure an hour later.
	aliveFor   = 12 * time.Hour
	renewAgain = time.Hour
	// remakeEvery is the least time between two queues of a process, so that two programs that delete and make queues do not go on.
	remakeEvery = time.Minute
	// giveUpFor is for how long no queue is made after SQS has refused to make one.
	giveUpFor = 5 * time.Minute
	// maxClockError is how far this process's clock may be from that of SQS before the time of aliveTag is corrected.
	maxClockError = time.Minute
)

// A queue is the queue of a process.
type queue struct {
	url   string // as it is sent to the coordinator: the prefix and a random name
	made  time.Time
	renew time.Time     // when to move on the time of aliveTag
	ahead time.Duration // how far SQS's clock is ahead of this process's
}

// attributes of a queue. A grant that nobody claims lasts ten seconds, so older messages are worth nothing: SQS keeps them for a
// minute, its shortest time. A message that a cut-off poll received is delivered again after two seconds.
var attributes = map[string]string{
	string(types.QueueAttributeNameMessageRetentionPeriod):        "60",
	string(types.QueueAttributeNameVisibilityTimeout):             "2",
	string(types.QueueAttributeNameReceiveMessageWaitTimeSeconds): "20",
	string(types.QueueAttributeNameMaximumMessageSize):            "4096",
	string(types.QueueAttributeNameSqsManagedSseEnabled):          "true",
}

// prepare makes the queue if there is none, and moves on the time until which its owner lives if half of it is over. The requests
// are made in the background, since a queue whose making was cut off would be left behind; ctx limits how long prepare waits.
func (n *Notifier) prepare(ctx context.Context) error {
	if n.ready() {
		return nil
	}
	result := make(chan error, 1)
	n.mu.Lock()
	if n.life.Err() != nil {
		n.mu.Unlock()
		return errClosed
	}
	n.work.Go(func() {
		n.making <- struct{}{}
		defer func() { <-n.making }()
		result <- n.makeQueue()
	})
	n.mu.Unlock()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("notify: SQS did not answer in time: %w", ctx.Err())
	}
}

// ready reports whether there is a queue whose owner's time need not be moved on.
func (n *Notifier) ready() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.queue != nil && time.Now().Before(n.queue.renew)
}

func (n *Notifier) makeQueue() error {
	if n.ready() { // another wait has made it
		return nil
	}
	n.mu.Lock()
	q, failure, name := n.queue, n.failure, n.unsure
	if failure != nil && time.Now().After(n.retry) {
		failure = nil
	}
	n.mu.Unlock()
	switch {
	case n.life.Err() != nil:
		return errClosed
	case q != nil:
		err := n.moveOn(q)
		if !gone(err) { // if the time was not moved on, a sweep takes the queue at worst, and another is made
			return nil
		}
	case failure != nil:
		return failure
	}
	if name == "" {
		name = n.prefix.name + strings.ToLower(rand.Text()[:randomName])
	}
	q, err := n.create(name)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.queue, n.failure, n.unsure = q, nil, ""
	switch {
	case err == nil:
	case lasting(err):
		n.failure, n.retry = err, time.Now().Add(giveUpFor)
	default:
		n.unsure = name // the next attempt uses the same name, and Close deletes it
	}
	return err
}

// create makes a queue, tagged with the time until which this process lives.
func (n *Notifier) create(name string) (*queue, error) {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	now := time.Now()
	q := &queue{url: n.prefix.url + strings.TrimPrefix(name, n.prefix.name), made: now, renew: now.Add(aliveFor / 2)}
	out, err := n.sqs.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: &name, Attributes: attributes, Tags: map[string]string{aliveTag: stamp(now.Add(aliveFor))}})
	if err != nil {
		return nil, fault("make a queue", n.prefix.name+"*", err)
	}
	if account := accountOf(aws.ToString(out.QueueUrl)); account != n.prefix.account {
		_, _ = n.sqs.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: out.QueueUrl})
		return nil, &refusal{fmt.Errorf("notify: the credentials are of the account %s, and the coordinator notifies queues of the account %s only; waits of other accounts poll", account, n.prefix.account)}
	}
	q.ahead = clockError(out.ResultMetadata)
	if q.ahead.Abs() > maxClockError {
		_ = n.moveOn(q)
	}
	return q, nil
}

// moveOn sets the time until which this process lives.
func (n *Notifier) moveOn(q *queue) error {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	now := time.Now()
	out, err := n.sqs.TagQueue(ctx, &sqs.TagQueueInput{QueueUrl: &q.url, Tags: map[string]string{aliveTag: stamp(now.Add(q.ahead + aliveFor))}})
	n.mu.Lock()
	defer n.mu.Unlock()
	if q.renew = now.Add(renewAgain); err == nil {
		q.renew, q.ahead = now.Add(aliveFor/2), clockError(out.ResultMetadata)
	}
	return err
}

// drop forgets a queue that does not exist any more.
func (n *Notifier) drop(q *queue) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.queue == q {
		n.queue = nil
	}
}

// removeQueue deletes the queue, and one that may have been made by a request without an answer.
func (n *Notifier) removeQueue(ctx context.Context) error {
	n.mu.Lock()
	q, unsure := n.queue, n.unsure
	n.queue, n.unsure = nil, ""
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var target *string
	switch {
	case q != nil:
		target = &q.url
	case unsure != "":
		out, err := n.sqs.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: &unsure})
		if gone(err) {
			return nil
		}
		if err != nil {
			return fault("find the queue", unsure, err)
		}
		target = out.QueueUrl
	default:
		return nil
	}
	if _, err := n.sqs.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: target}); err != nil && !gone(err) {
		return fault("delete the queue", *target, err)
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// accountOf returns the account in a queue's URL.
func accountOf(queueURL string) string {
	u, err := url.Parse(queueURL)
	if err != nil {
		return ""
	}
	account, _, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	return account
}

// clockError returns how far SQS's clock is ahead of this process's, to a second and the time that the answer took.
func clockError(m middleware.Metadata) time.Duration {
	server, known := awsmiddleware.GetServerTime(m)
	if received, ok := awsmiddleware.GetResponseAt(m); ok && known && !server.IsZero() {
		return server.Sub(received)
	}
	return 0
}

// gone reports whether a request failed because its queue does not exist.
func gone(err error) bool {
	_, missing := errors.AsType[*types.QueueDoesNotExist](err)
	return missing || code(err) == "AWS.SimpleQueueService.NonExistentQueue" || code(err) == "QueueDoesNotExist"
}

func code(err error) string {
	if failed, ok := errors.AsType[smithy.APIError](err); ok {
		return failed.ErrorCode()
	}
	return ""
}

// A refusal is an error that no retry corrects.
type refusal struct{ err error }

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// fault returns the error of a request.
func fault(what, queue string, err error) error {
	failed, isAPI := errors.AsType[smithy.APIError](err)
	if denied, ok := errors.AsType[*reach.Refusal](err); ok {
		return &refusal{fmt.Errorf("notify: cannot %s: %w", what, denied)}
	}
	if !isAPI {
		return fmt.Errorf("notify: cannot %s: %w", what, err)
	}
	text := fmt.Errorf("notify: cannot %s %s: %s: %s", what, queue, failed.ErrorCode(), failed.ErrorMessage())
	switch failed.ErrorCode() {
	case "AccessDenied", "AccessDeniedException":
		return &refusal{fmt.Errorf("%w; allow it as docs/iam.md says (GrantNotify)", text)}
	case "RequestThrottled", "ThrottlingException", "Throttling", "OverLimit":
		return text
	}
	if failed.ErrorFault() == smithy.FaultServer {
		return text
	}
	return &refusal{text}
}

func lasting(err error) bool {
	_, ok := errors.AsType[*refusal](err)
	return ok
}
