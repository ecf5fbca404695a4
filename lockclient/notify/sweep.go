package notify

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
)

// Swept is the result of [Sweep].
type Swept struct {
	Deleted []string // the URLs of the queues that were deleted
	Alive   int      // the number of queues whose owners live, as far as is known
	Unknown []string // the URLs of queues that say nothing about their owner, which are left
}

// sweepMargin is how long after the end of its owner's time a queue is left: owners' clocks may be slow.
const sweepMargin = time.Hour

// Sweep deletes the notify queues of a deployment that processes have left behind which were killed. A queue carries a time until
// which its owner lives, twelve hours ahead when it is made and moved on while anything waits; Sweep deletes it an hour after that,
// by the clock of SQS. If the owner lives nevertheless, since it slept for that long, it makes another queue when something waits.
// Sweep needs permission to list all queues of the account. After an error the result has what was done until then.
func Sweep(ctx context.Context, cfg Config) (Swept, error) { return visit(ctx, cfg, true) }

// Find is Sweep without deleting: the result's Deleted are the queues that Sweep would delete.
func Find(ctx context.Context, cfg Config) (Swept, error) { return visit(ctx, cfg, false) }

func visit(ctx context.Context, cfg Config, remove bool) (Swept, error) {
	p, err := parsePrefix(cfg)
	if err != nil {
		return Swept{}, err
	}
	client, idle := newClient(cfg, p)
	defer idle()
	return sweep(ctx, client, p, remove)
}

func sweep(ctx context.Context, client sqsClient, p prefix, remove bool) (done Swept, err error) {
	pages := sqs.NewListQueuesPaginator(client, &sqs.ListQueuesInput{QueueNamePrefix: &p.name, MaxResults: aws.Int32(1000)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return done, fault("list the queues", p.name+"*", err)
		}
		for _, url := range page.QueueUrls {
			if err := done.consider(ctx, client, url, remove); err != nil {
				return done, err
			}
		}
	}
	return done, nil
}

// consider deletes a queue if its owner is gone, or only notes it.
func (s *Swept) consider(ctx context.Context, client sqsClient, url string, remove bool) error {
	out, err := client.ListQueueTags(ctx, &sqs.ListQueueTagsInput{QueueUrl: &url})
	if gone(err) {
		return nil
	}
	if err != nil {
		return fault("read the tags of", url, err)
	}
	now, known := awsmiddleware.GetServerTime(out.ResultMetadata)
	if !known || now.IsZero() {
		now = time.Now()
	}
	alive, err := time.Parse(time.RFC3339, out.Tags[aliveTag])
	switch {
	case err != nil: // no tag, or another's
		s.Unknown = append(s.Unknown, url)
		return nil //nolint:nilerr // a queue that says nothing of its owner is left alone
	case now.Before(alive.Add(sweepMargin)):
		s.Alive++
		return nil
	}
	if !remove {
		s.Deleted = append(s.Deleted, url)
		return nil
	}
	if _, err := client.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: &url}); err != nil && !gone(err) {
		return fault("delete the queue", url, err)
	}
	s.Deleted = append(s.Deleted, url)
	return nil
}
