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

// purgeEvery is how often the memory store forgets what native TTL would.
const purgeEvery = time.Minute

// Memory is a backend that forgets everything with the process.
func Memory() Backend {
	feed := newChanges()
	memory := &lock.Memory{Changed: feed.add}
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

// changes carries the memory store's writes to a consumer, in order, without holding the store up.
type changes struct {
	mu      sync.Mutex
	pending []stream.Write
	next    int
	wake    chan struct{}
}

func newChanges() *changes { return &changes{wake: make(chan struct{}, 1)} }

// add is [lock.Memory]'s Changed.
func (c *changes) add(name string, before, after lock.Record) {
	c.mu.Lock()
	c.next++
	c.pending = append(c.pending, stream.Write{
		Write: lock.Write{Lock: name, Before: before, After: after}, Sequence: strconv.Itoa(c.next),
	})
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run hands batches on until ctx ends.
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
		consume(ctx, batch) // the hub takes everything, and timers in process cannot fail
	}
}
