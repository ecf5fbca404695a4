//go:build cloud

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/notify"
)

// mayBeTold is what [infra.Coordinator.GrantNotify] grants, without some actions.
func (c *cloud) mayBeTold(without ...string) statement {
	actions := []string{"sqs:CreateQueue", "sqs:TagQueue", "sqs:GetQueueUrl", "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:DeleteQueue"}
	return statement{"Allow", slices.DeleteFunc(actions, func(a string) bool { return slices.Contains(without, a) }), c.notifyARN()}
}

// notifyARN is the ARN of the waiters' queues.
func (c *cloud) notifyARN() string {
	parts := strings.Split(c.outputs["NotifyPrefix"], "/")
	return fmt.Sprintf("arn:aws:sqs:%s:%s:%s*", c.aws.Region, parts[3], parts[4])
}

// waiter creates a user, and returns a client that is notified of its grants, and its notifier.
func (c *cloud) waiter(name string, statements ...statement) (*lockclient.Client, *notify.Notifier) {
	c.t.Helper()
	_, creds := c.caller(name, append(statements, c.mayLock("notified:*", "acquire", "renew", "release"))...)
	cfg := c.aws.Copy()
	cfg.Credentials = creds
	notifier, err := notify.New(notify.Config{AWS: cfg, Prefix: c.outputs["NotifyPrefix"]})
	if err != nil {
		c.t.Fatal(err)
	}
	client, err := lockclient.New(lockclient.Config{
		Endpoint: c.outputs["Endpoint"], Region: c.aws.Region, Credentials: creds, HTTPClient: c.http, RequestTimeout: patience, Notify: notifier,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return client, notifier
}

// queuesLeft returns the waiters' queues that exist.
func (c *cloud) queuesLeft() []string {
	c.t.Helper()
	parts := strings.Split(c.outputs["NotifyPrefix"], "/")
	out, err := c.sqs.ListQueues(c.t.Context(), &sqs.ListQueuesInput{QueueNamePrefix: &parts[4]})
	if err != nil {
		c.t.Fatal(err)
	}
	return out.QueueUrls
}

// A handOff is the time from a release until the next holder has the lock.
type handOff struct {
	fromRequest, fromAnswer time.Duration // of the release
}

// handOff holds a lock, lets a client wait for it until it is notified or polls, releases the lock, and returns how long the waiter took
// until it had the lock, and why it polled.
func (c *cloud) handOff(holder, waiter *lockclient.Client, name string) (took handOff, polled error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	lease, err := holder.Acquire(ctx, name, lockclient.Options{TTL: time.Hour})
	if err != nil {
		c.t.Fatal(err)
	}
	waits, polls := make(chan bool, 100), make(chan error, 1)
	done := make(chan time.Time, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		next, err := waiter.Acquire(ctx, name, lockclient.Options{TTL: time.Hour, OnWait: func(*lockclient.HeldError) { waits <- true }, OnPolling: func(err error) { polls <- err }})
		done <- time.Now()
		if err != nil {
			c.t.Error(err)
			return
		}
		if err := next.Release(ctx); err != nil {
			c.t.Error(err)
		}
	}()
	<-waits // the coordinator knows of the wait
	select {
	case <-waits: // and where to send the message
	case polled = <-polls:
	}
	time.Sleep(200 * time.Millisecond) // the long poll, or the polls, are under way
	select {
	case polled = <-polls:
	default:
	}
	start := time.Now()
	if err := lease.Release(ctx); err != nil {
		c.t.Fatal(err)
	}
	released := time.Now()
	got := <-done
	<-ended
	return handOff{got.Sub(start), got.Sub(released)}, polled
}

// A waiter is notified of its grant through a queue of its own, under the policy that GrantNotify makes, and leaves no queue.
func TestToldWaiter(t *testing.T) {
	c := newCloud(t)
	before := len(c.queuesLeft())
	holder, _ := c.waiter("told-holder")
	waiter, _ := c.waiter("told-waiter", c.mayBeTold())
	var fromRequest, fromAnswer []time.Duration
	for i := range 21 {
		d, polled := c.handOff(holder, waiter, fmt.Sprintf("notified:%d", i%3))
		if polled != nil {
			t.Fatal(polled)
		}
		if i > 0 { // the first makes the queue
			fromRequest, fromAnswer = append(fromRequest, d.fromRequest), append(fromAnswer, d.fromAnswer)
		}
	}
	slices.Sort(fromRequest)
	slices.Sort(fromAnswer)
	n, last := len(fromRequest)/2, len(fromRequest)-1
	fmt.Printf("e2e: to the notified waiter's lease from the release's request: p50 %v, max %v; from its answer: p50 %v, max %v\n", fromRequest[n], fromRequest[last], fromAnswer[n], fromAnswer[last])
	if n := len(c.queuesLeft()); n != before+1 {
		t.Errorf("%d queues, %d before: the waits of a process share one", n, before)
	}
	for _, client := range []*lockclient.Client{holder, waiter} {
		if err := client.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if n := len(c.queuesLeft()); n != before {
		t.Errorf("%d queues are left, %d before", n, before)
	}
}

// Without one of the permissions the waiter polls, or says what it cannot do. With them it has no other queues.
func TestToldWaiterWithout(t *testing.T) {
	c := newCloud(t)
	holder, _ := c.waiter("without-holder")
	for _, action := range []string{"sqs:CreateQueue", "sqs:ReceiveMessage", "sqs:DeleteQueue"} {
		waiter, _ := c.waiter("without-"+strings.TrimPrefix(action, "sqs:"), c.mayBeTold(action))
		_, polled := c.handOff(holder, waiter, "notified:without")
		closed := waiter.Close(t.Context())
		said := polled
		if action == "sqs:DeleteQueue" {
			said = closed
		}
		if said == nil || !strings.Contains(said.Error(), "AccessDenied") {
			t.Errorf("without %s: polled because of %v, close: %v", action, polled, closed)
		}
		for _, url := range c.queuesLeft() { // what DeleteQueue could not delete
			if _, err := c.sqs.DeleteQueue(t.Context(), &sqs.DeleteQueueInput{QueueUrl: &url}); err != nil {
				t.Error(err)
			}
		}
	}
	_, creds := c.caller("without-others", c.mayBeTold())
	mine := sqs.NewFromConfig(c.aws, func(o *sqs.Options) { o.Credentials = creds })
	dead := c.outputs["DeadLettersUrl"]
	for what, err := range map[string]error{
		"CreateQueue":    second(mine.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("mine")})),
		"ReceiveMessage": second(mine.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &dead})),
		"DeleteQueue":    second(mine.DeleteQueue(t.Context(), &sqs.DeleteQueueInput{QueueUrl: &dead})),
		"SendMessage":    second(mine.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: aws.String(c.outputs["NotifyPrefix"] + "x"), MessageBody: aws.String("{}")})),
	} {
		if err == nil || !strings.Contains(err.Error(), "AccessDenied") {
			t.Errorf("%s on another queue: %v", what, err)
		}
	}
}

// A sweep deletes the queue of a process that is gone, and no other, under the policy that GrantSweep makes.
func TestSweepOfQueues(t *testing.T) {
	c := newCloud(t)
	prefix := c.outputs["NotifyPrefix"]
	for name, alive := range map[string]time.Duration{"e2e-gone": -2 * time.Hour, "e2e-alive": time.Hour} {
		full := prefix[strings.LastIndexByte(prefix, '/')+1:] + name
		if _, err := c.sqs.CreateQueue(t.Context(), &sqs.CreateQueueInput{
			QueueName: &full, Tags: map[string]string{"holdfast:alive-until": time.Now().Add(alive).UTC().Format(time.RFC3339)},
		}); err != nil {
			t.Fatal(err)
		}
	}
	_, creds := c.caller("sweeper", statement{"Allow", "sqs:ListQueues", "*"}, statement{"Allow", []string{"sqs:ListQueueTags", "sqs:DeleteQueue"}, c.notifyARN()})
	cfg := c.aws.Copy()
	cfg.Credentials = creds
	done, err := notify.Sweep(t.Context(), notify.Config{AWS: cfg, Prefix: prefix})
	if err != nil || len(done.Deleted) != 1 || !strings.HasSuffix(done.Deleted[0], "e2e-gone") || done.Alive != 1 {
		t.Errorf("%+v, %v", done, err)
	}
	if _, err := c.iam.DeleteUserPolicy(t.Context(), &iam.DeleteUserPolicyInput{UserName: aws.String("sweeper"), PolicyName: aws.String("caller")}); err != nil {
		t.Fatal(err)
	}
	if _, err := notify.Sweep(t.Context(), notify.Config{AWS: cfg, Prefix: prefix}); err == nil || !strings.Contains(err.Error(), "sqs:ListQueues") && !strings.Contains(err.Error(), "AccessDenied") {
		t.Errorf("without permission: %v", err)
	}
	for _, url := range c.queuesLeft() {
		_, _ = c.sqs.DeleteQueue(t.Context(), &sqs.DeleteQueueInput{QueueUrl: &url})
	}
}
