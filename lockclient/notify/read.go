package notify

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

const (
	longPoll     = 20 * time.Second // SQS's maximum
	pollTimeout  = longPoll + 10*time.Second
	maxMessages  = 10               // SQS's maximum, for receiving and for deleting
	newQueue     = 10 * time.Second // how long a new queue may be unknown to SQS: a second, by its documentation
	maxSilence   = 10 * time.Second // how long the queue may not be readable until the waits poll: as long as an unclaimed grant lasts
	firstBackoff = 200 * time.Millisecond
	lastBackoff  = 2 * time.Second
)

// read reads the queue for as long as anything listens. When the last listener has stopped, it ends with the long poll: a poll that
// is cut off may take a message with it.
func (n *Notifier) read() {
	var failing time.Time // since when the queue cannot be read
	backoff := firstBackoff
	for {
		q := n.listening()
		if q == nil {
			return
		}
		messages, err := n.receive(q)
		switch {
		case n.life.Err() != nil:
			n.listening()
			return
		case err == nil:
			failing, backoff = time.Time{}, firstBackoff
			n.handle(q, messages)
			if !n.ready() {
				_ = n.prepare(n.life) // moves on the time until which this process lives
			}
			continue
		case gone(err) && time.Since(q.made) > newQueue:
			n.remake(q)
			continue
		}
		if failing.IsZero() {
			failing = time.Now()
		}
		if failed := fault("read the queue", q.url, err); lasting(failed) && !gone(err) || time.Since(failing) >= maxSilence {
			n.fail(failed)
			failing = time.Time{}
			continue
		}
		select {
		case <-time.After(backoff):
		case <-n.life.Done():
		}
		backoff = min(2*backoff, lastBackoff)
	}
}

// listening returns the queue to read, or nil if the reading has ended: nothing listens, or the notifier is closed.
func (n *Notifier) listening() *queue {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.listeners) == 0 || n.queue == nil || n.life.Err() != nil {
		n.reading = false
		return nil
	}
	return n.queue
}

// remake makes another queue after one was deleted, and tells the listeners its address. If that fails, or the deleted one had been
// made just before, the waits poll.
func (n *Notifier) remake(q *queue) {
	n.drop(q)
	err := errGone
	if time.Since(q.made) >= remakeEvery {
		err = n.prepare(n.life)
	}
	if err != nil {
		n.fail(err)
		return
	}
	n.readdress()
}

func (n *Notifier) receive(q *queue) ([]types.Message, error) {
	ctx, cancel := context.WithTimeout(n.life, pollTimeout)
	defer cancel()
	out, err := n.sqs.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl: &q.url, MaxNumberOfMessages: maxMessages, WaitTimeSeconds: int32(longPoll / time.Second),
	}, func(o *sqs.Options) { o.Retryer = aws.NopRetryer{} })
	if err != nil {
		return nil, err
	}
	return out.Messages, nil
}

// handle wakes the waits that messages are for, and then deletes the messages. A message that is for no wait of this process is old,
// repeated or not the coordinator's.
func (n *Notifier) handle(q *queue, messages []types.Message) {
	if len(messages) == 0 {
		return
	}
	n.mu.Lock()
	for _, m := range messages {
		var granted wire.Notification
		if json.Unmarshal([]byte(aws.ToString(m.Body)), &granted) == nil && n.listeners[granted.ID] != nil {
			n.listeners[granted.ID].signal()
		}
	}
	n.work.Go(func() { n.remove(q, messages) }) // not before the next poll, which may have the next message
	n.mu.Unlock()
}

// remove deletes messages. One that is left is delivered again, and wakes a wait once more, or is gone after a minute.
func (n *Notifier) remove(q *queue, messages []types.Message) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(n.life), requestTimeout)
	defer cancel()
	var list []types.DeleteMessageBatchRequestEntry
	for i, m := range messages {
		list = append(list, types.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: m.ReceiptHandle})
	}
	_, _ = n.sqs.DeleteMessageBatch(ctx, &sqs.DeleteMessageBatchInput{QueueUrl: &q.url, Entries: list})
}
