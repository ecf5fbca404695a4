package stream

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/emf"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// A DeadLetter is a dead-letter queue.
type DeadLetter interface {
	// Bury sends it a write that cannot be handled.
	Bury(ctx context.Context, w Write) error
}

// A Consumer handles batches of the stream. It is safe for concurrent use.
type Consumer struct {
	Bus Bus
	// Listens reports whether events of a lock are published. The records of other locks that the stream's filters deliver, for
	// their queues, make no event, and only the timers that waiters need. nil: events of every lock are published.
	Listens    func(lock string) bool
	Timers     Timers     // nil: no timers are set; an expired lease is found by the next request for its lock
	DeadLetter DeadLetter // nil: what cannot be handled is logged and dropped
	// Backlog keeps jobs that failed, so that the records behind theirs do not wait. nil: the record is delivered again, and
	// those behind it wait.
	Backlog Backlog

	// Callbacks sends the callbacks of waiters with a token, and Coordinator stores that it did. nil: waiters have no tokens.
	Callbacks     Callbacks
	Notifications Notifications // nil: waiters get no hints
	Coordinator   *lock.Coordinator

	Skew    time.Duration // the protocol's allowance; a timer is due that much after a lease's expiry
	Log     *slog.Logger
	Metrics string           // CloudWatch namespace of the metrics in log records; empty: no metrics
	Clock   func() time.Time // nil: time.Now

	mu             sync.Mutex
	settleFailures map[string]int // by lock: failures in a row to settle it, without a Backlog
	busPausedUntil time.Time      // with a Backlog: until when events are deferred without a request to the bus
	groups         emf.Groups
}

// Consume does what follows from the writes of a batch. It sets timers, sends callbacks, publishes events and keeps the history, in this order, so
// that neither timers nor callbacks wait for the bus, and nothing waits for the history. Jobs that fail are deferred. It returns the sequence numbers of the
// writes that must be delivered again, in the batch's order: none if every job is done or deferred. Of one lock's events in
// a batch, none is published after one that failed.
func (c *Consumer) Consume(ctx context.Context, batch []Write) (failed []string) {
	work, cancel := workContext(ctx)
	defer cancel()
	bad := make([]bool, len(batch))
	derived := make([]derivation, len(batch))
	var offers []*offer
	for i, w := range batch {
		d := c.derive(work, w)
		if derived[i] = d; d.Poison != nil {
			bad[i] = !c.bury(ctx, d.Write)
			continue
		}
		c.audit(work, d.Write)
		for _, e := range d.events {
			offers = append(offers, &offer{write: i, entry: e})
		}
	}
	failures := c.arm(work, derived)
	failures = append(failures, c.callbacks(work, derived)...)
	failures = append(failures, c.thaws(work, derived)...)
	for _, o := range c.publish(work, offers) {
		failures = append(failures, failure{Job{Kind: JobPublish, Lock: o.entry.Lock, Event: o.entry}, o.write, o.err})
	}
	failures = append(failures, c.histories(work, derived)...)
	for _, i := range c.deferJobs(ctx, failures) {
		bad[i] = true
	}
	for i, w := range batch {
		if bad[i] {
			failed = append(failed, w.Sequence)
		}
	}
	return failed
}

// A derivation is a write with its effects and events.
type derivation struct {
	Write
	effects  lock.Effects
	events   []Entry
	listened bool // events of the lock are published
}

// derive computes the effects and events of a write, once for timers, callbacks and publications. A panic poisons the write.
func (c *Consumer) derive(ctx context.Context, w Write) derivation {
	d := derivation{Write: w}
	if w.Poison != nil {
		return d
	}
	if w.Rule != nil {
		d.events = []Entry{ruleEntry(w.Write)}
		return d
	}
	d.Poison = catchPanic(func() error {
		d.listened = c.Listens == nil || c.Listens(w.Lock)
		d.effects = w.Effects(d.listened)
		if !d.listened {
			c.measureWaits(ctx, w.Lock, d.effects.Changes) // of a semaphore it has no waits, whose texts are not read for a log record
			return nil
		}
		d.effects.Changes = c.withTexts(ctx, w.Lock, d.effects.Changes)
		c.measureWaits(ctx, w.Lock, d.effects.Changes)
		for _, e := range Events(w.Write, d.effects.Changes) {
			c.measureExpiry(ctx, e)
			d.events = append(d.events, entry(e))
		}
		return nil
	})
	return d
}

// withTexts reads the texts that the store keeps apart from the lock's record. Events are published without them if they cannot be read.
func (c *Consumer) withTexts(ctx context.Context, name string, changes []lock.Change) []lock.Change {
	if c.Coordinator == nil {
		return changes
	}
	list, err := c.Coordinator.TextsOf(ctx, name, changes)
	if err != nil {
		c.Log.LogAttrs(ctx, slog.LevelWarn, "events are published without owner and metadata, which cannot be read", slog.String("lock", name), slog.Any("error", err))
	}
	return list
}

// audit logs what an operator did: a change of a rule, or a repair, which changes no lease, so that it makes no event.
func (c *Consumer) audit(ctx context.Context, w Write) {
	if w.Rule != nil {
		c.Log.LogAttrs(ctx, slog.LevelInfo, "rule changed", slog.String("prefix", w.Lock), slog.String("by", w.Rule.After.By), slog.Any("freeze", w.Rule.After.Freeze), slog.Any("limits", w.Rule.After.Limits), slog.Any("history", w.Rule.After.History))
	}
	if w.After.Cause == lock.CauseRepair {
		c.Log.LogAttrs(ctx, slog.LevelWarn, "lock repaired", slog.String("lock", w.Lock), slog.String("by", w.After.By), slog.String("reason", w.After.Reason),
			slog.Int64("fence_before", w.Before.Fence), slog.Int64("fence_after", w.After.Fence))
	}
}

func (c *Consumer) reporter() reporter { return reporter{c.Log, c.Metrics, c.Clock} }

func (c *Consumer) now() time.Time { return c.reporter().now() }

// bury sends a record that cannot be handled to the dead-letter queue. It returns false if the record must be delivered again.
func (c *Consumer) bury(ctx context.Context, w Write) bool {
	var err error
	if c.DeadLetter != nil {
		err = c.DeadLetter.Bury(ctx, w)
	}
	c.reporter().fault(ctx, RecordBuried, "stream record cannot be read", slog.String("lock", w.Lock), slog.String("sequence", w.Sequence),
		slog.Any("error", w.Poison), slog.Any("dead_letter_error", err))
	return err == nil
}
