package local

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// purgeEvery is how often expired records are removed from memory, as native TTL removes them from DynamoDB.
const purgeEvery = time.Minute

// Memory returns a backend whose locks last as long as the process.
func Memory() Backend {
	feed := newChanges()
	memory := &lock.Memory{Changed: feed.add, RuleChanged: feed.addRule}
	return Backend{
		Store: memory, Name: "in memory: stopping forgets all locks",
		Follow: func(ctx context.Context, consume func(context.Context, []stream.Write) []string, _ *slog.Logger) {
			var purging sync.WaitGroup
			defer purging.Wait()
			purging.Go(func() {
				purge := time.NewTicker(purgeEvery)
				defer purge.Stop()
				for {
					select {
					case now := <-purge.C:
						memory.Purge(now)
					case <-ctx.Done():
						return
					}
				}
			})
			feed.run(ctx, consume)
		},
	}
}

// changes passes the memory store's writes to a consumer in order. It does not make the store wait.
type changes struct {
	mu      sync.Mutex
	pending []stream.Write
	next    int
	wake    chan struct{}
}

func newChanges() *changes { return &changes{wake: make(chan struct{}, 1)} }

// add is the Changed function of the [lock.Memory].
func (c *changes) add(name string, before, after lock.Record) {
	c.append(lock.Write{Lock: name, Before: before, After: after})
}

// addRule is its RuleChanged function.
func (c *changes) addRule(before, after lock.PrefixRule) {
	c.append(lock.Write{Lock: lock.RuleSubject(after.Prefix), Rule: &lock.RuleWrite{Before: before, After: after}})
}

func (c *changes) append(w lock.Write) {
	c.mu.Lock()
	c.next++
	c.pending = append(c.pending, stream.Write{Write: w, Sequence: strconv.Itoa(c.next)})
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run passes batches of writes to consume until ctx ends.
func (c *changes) run(ctx context.Context, consume func(context.Context, []stream.Write) []string) {
	for {
		select {
		case <-c.wake:
		case <-ctx.Done():
			return
		}
		c.mu.Lock()
		batch := c.pending
		c.pending = nil
		c.mu.Unlock()
		consume(ctx, batch) // it cannot fail: neither the hub nor the local timers do
	}
}
