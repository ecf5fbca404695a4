package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// The history of locks, of which prefix rules ask for it. It comes after all other work of a batch, which so never waits for it, and reads nothing but the rules,
// at most once in their period, as long as no rule covers the locks of the batch.

const (
	// historiesAtOnce is how many writes have their entries stored at the same time.
	historiesAtOnce = 8
	// maxHistoryFailures is the number of writes of a batch whose entries could not be stored, after which the rest is deferred without an attempt.
	maxHistoryFailures = 3
)

// histories stores the entries of a batch's writes. Of locks whose events are not published there is no history: the stream's filters deliver some of
// their writes only, and a history with gaps that nobody sees would be wrong.
func (c *Consumer) histories(ctx context.Context, batch []derivation) (failures []failure) {
	if c.Coordinator == nil {
		return nil
	}
	var all sync.WaitGroup
	var failed atomic.Int32
	var last atomic.Pointer[error]
	turns := make(chan struct{}, historiesAtOnce)
	errs, jobs := make([]error, len(batch)), make([]Job, len(batch))
	for i, d := range batch {
		if !d.listened || d.Poison != nil || len(d.effects.Changes) == 0 {
			continue
		}
		k, err := c.Coordinator.KeepsHistory(ctx, d.Lock)
		if errors.Is(err, lock.ErrMisconfigured) { // it is not known whether any rule asks for it
			c.Log.LogAttrs(ctx, slog.LevelError, "no history is kept, since the rules cannot be read", slog.String("lock", d.Lock), slog.Any("error", err))
			return nil
		}
		if err == nil && k == nil {
			continue
		}
		jobs[i] = Job{Kind: JobHistory, Lock: d.Lock, History: lock.HistoryOf(d.Write.Write, d.effects.Changes)}
		if err != nil {
			errs[i] = err
			continue
		}
		turns <- struct{}{}
		all.Go(func() {
			defer func() { <-turns }()
			if failed.Load() >= maxHistoryFailures {
				errs[i] = fmt.Errorf("%w: %w", errNotTried, *last.Load())
				return
			}
			if errs[i] = c.record(ctx, k, jobs[i]); errs[i] != nil {
				last.Store(&errs[i])
				failed.Add(1)
			}
		})
	}
	all.Wait()
	for i, err := range errs {
		if err != nil {
			failures = append(failures, failure{jobs[i], i, err})
		}
	}
	return failures
}

// record stores the entries of one write.
func (c *Consumer) record(ctx context.Context, k *lock.Keeping, j Job) error {
	err := c.Coordinator.Record(ctx, j.Lock, k, j.History)
	if err != nil {
		c.Log.LogAttrs(ctx, slog.LevelError, "history was not kept", slog.String("lock", j.Lock), slog.Any("error", err))
	}
	return err
}

// recordLater does a JobHistory. If no rule asks for the history any more, nothing is stored.
func (c *Consumer) recordLater(ctx context.Context, j Job) error {
	k, err := c.Coordinator.KeepsHistory(ctx, j.Lock)
	if err != nil || k == nil {
		return err
	}
	return c.record(ctx, k, j)
}
