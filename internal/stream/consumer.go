package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/emf"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// An Entry is an event on its way to a bus.
type Entry struct {
	DetailType string
	Detail     []byte
	Time       time.Time
	Lock       string
}

// A Bus takes events. EventBridge's limits are those of [MaxEntries] and [MaxBytes].
type Bus interface {
	// Put sends entries in one request, and answers an error for each that was not taken; nil: all were.
	Put(ctx context.Context, entries []Entry) []error
}

// A Timer is set when a lease is granted, and names it.
type Timer struct {
	Lock  string
	Lease lock.LeaseKey
	Fence int64
	Due   time.Time
}

// Timers set timers off at their time: as often as they like, since a timer for a lease that moved on does nothing.
type Timers interface {
	// Arm sets timers, and answers an error for each that was not set; nil: all were.
	Arm(ctx context.Context, timers []Timer) []error
}

// A DeadLetter keeps what cannot be read.
type DeadLetter interface {
	Bury(ctx context.Context, w Write) error
}

// Limits of one PutEvents request.
const (
	MaxEntries = 10
	MaxBytes   = 256 * 1024 // of all entries, counted as EventBridge does
)

// maxPuts is how often one event is offered in one batch, with jittered backoff from putDelay between; then its write is
// reported as failed, and comes again with the next batch.
const (
	maxPuts  = 4
	putDelay = 50 * time.Millisecond
)

// A Consumer handles batches of the stream. It is safe for concurrent use.
type Consumer struct {
	Bus        Bus
	Timers     Timers // nil: no prompt expiry
	DeadLetter DeadLetter

	// Callbacks tell those who wait with a token, with the help of Coordinator; nil: nobody can wait so.
	Callbacks   Callbacks
	Coordinator *lock.Coordinator

	Skew    time.Duration // the protocol's allowance: a timer comes due that much after a lease's expiry
	Log     *slog.Logger
	Metrics string           // CloudWatch namespace of the metrics that log records carry; empty: none
	Clock   func() time.Time // nil: time.Now
}

// Consume publishes a batch's events and sets its timers. It answers the sequence numbers of the writes that must come
// again, in the batch's order: none when all is done. Within a lock nothing is published after something that failed.
func (c *Consumer) Consume(ctx context.Context, batch []Write) (failed []string) {
	bad := make([]bool, len(batch))
	var offers []*offer
	var timers []Timer
	var timerOf []int // the write of each timer
	for i, w := range batch {
		if w.Poison != nil {
			bad[i] = !c.bury(ctx, w)
			continue
		}
		for _, e := range Events(w) {
			c.measure(ctx, e)
			offers = append(offers, &offer{write: i, entry: entry(e)})
		}
		if c.Timers == nil {
			continue
		}
		for _, ch := range lock.Changes(w.Before, w.After) {
			if ch.Kind == lock.LeaseAcquired && !endsWithin(batch[i+1:], w.Lock, ch) {
				due := time.UnixMilli(ch.Holder.ExpiresAt).Add(c.Skew)
				if ch.Holder.Execution != "" && !ch.Holder.Unclaimed { // to look whether it runs
					due = time.UnixMilli(ch.Holder.CheckAt)
				}
				timers, timerOf = append(timers, Timer{w.Lock, ch.Lease, ch.Holder.Fence, due}), append(timerOf, i)
			}
		}
	}
	if len(timers) > 0 {
		for i, err := range c.Timers.Arm(ctx, timers) {
			if err != nil {
				c.Log.ErrorContext(ctx, "timer was not set", "lock", timers[i].Lock, "fence", timers[i].Fence, "error", err)
				bad[timerOf[i]] = true
			}
		}
	}
	for _, o := range c.publish(ctx, offers) {
		bad[o.write] = true
	}
	if c.Callbacks != nil {
		for i, w := range batch {
			if w.Poison == nil && !bad[i] && !c.callbacks(ctx, w) {
				bad[i] = true
			}
		}
	}
	for i, w := range batch {
		if bad[i] {
			failed = append(failed, w.Sequence)
		}
	}
	return failed
}

// endsWithin tells whether a grant is over by the end of the batch: then it needs no timer. Locks that are held for less
// than the stream's polling interval mostly cost none.
func endsWithin(rest []Write, name string, granted lock.Change) bool {
	return slices.ContainsFunc(rest, func(w Write) bool {
		return w.Lock == name && w.Poison == nil && w.After.Holders[granted.Lease].Fence != granted.Holder.Fence
	})
}

// measure tells how late a lease's expiry was told, from its very expiry.
func (c *Consumer) measure(ctx context.Context, e events.Event) {
	expired, ok := e.(events.Expired)
	if !ok || c.Metrics == "" {
		return
	}
	lag := max(c.now().Sub(expired.EndedAt.Time), 0).Milliseconds()
	c.Log.LogAttrs(ctx, slog.LevelInfo, "expired", slog.String("lock", expired.Lock), slog.Int64("fence", expired.Fence),
		slog.String("owner", expired.Owner), slog.Int64("expiry_lag_ms", lag), slog.String("group", emf.Group(expired.Lock)),
		emf.Attr(c.Metrics, c.now(), emf.Metric{Name: "expiry_lag_ms", Unit: emf.Milliseconds},
			emf.Metric{Name: "expiry_lag_ms", Unit: emf.Milliseconds, Dimensions: []string{"group"}}))
}

func (c *Consumer) bury(ctx context.Context, w Write) bool {
	err := c.DeadLetter.Bury(ctx, w)
	c.Log.ErrorContext(ctx, "stream record cannot be read", "lock", w.Lock, "sequence", w.Sequence, "error", w.Poison, "dead_letter_error", err)
	return err == nil
}

// An offer is an event that some write made.
type offer struct {
	write int
	entry Entry
	puts  int
}

// publish offers events to the bus until all are taken, or some were offered too often; those, and all later ones of
// their locks, it returns. No request has two events of one lock: a bus may take the second and refuse the first.
func (c *Consumer) publish(ctx context.Context, todo []*offer) (failed []*offer) {
	stuck := map[string]bool{} // locks of which an event was given up
	for delay := putDelay; len(todo) > 0; {
		request, rest := nextRequest(todo, stuck)
		if len(request) == 0 {
			return append(failed, rest...)
		}
		entries := make([]Entry, len(request))
		for i, o := range request {
			entries[i] = o.entry
		}
		var again []*offer
		for i, err := range c.Bus.Put(ctx, entries) {
			if err == nil {
				continue
			}
			o := request[i]
			if o.puts++; o.puts == maxPuts || ctx.Err() != nil {
				c.Log.ErrorContext(ctx, "event was not published", "lock", o.entry.Lock, "detail_type", o.entry.DetailType, "error", err)
				stuck[o.entry.Lock] = true
				failed = append(failed, o)
				continue
			}
			again = append(again, o)
		}
		todo = merge(again, rest)
		if len(again) > 0 {
			pause(ctx, delay/2+rand.N(delay))
			delay *= 2
		}
	}
	return failed
}

// nextRequest takes from the queue the first event of each lock that is not stuck, up to the limits of one request.
func nextRequest(todo []*offer, stuck map[string]bool) (request, rest []*offer) {
	seen, bytes := map[string]bool{}, 0
	for _, o := range todo {
		size := o.entry.size()
		if seen[o.entry.Lock] || stuck[o.entry.Lock] || len(request) == MaxEntries || bytes+size > MaxBytes && len(request) > 0 {
			seen[o.entry.Lock] = true // later ones of this lock must wait too
			rest = append(rest, o)
			continue
		}
		seen[o.entry.Lock] = true
		bytes += size
		request = append(request, o)
	}
	return request, rest
}

// merge brings back two queues in the order of their writes.
func merge(a, b []*offer) []*offer {
	list := slices.Concat(a, b)
	slices.SortStableFunc(list, func(x, y *offer) int { return x.write - y.write })
	return list
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// entry makes an event ready for the bus. One that is too large for it goes without its metadata, and says so.
func entry(e events.Event) Entry {
	out := Entry{DetailType: e.DetailType(), Detail: encode(e), Time: eventTime(e), Lock: e.Subject().Lock}
	if out.size() > MaxBytes {
		out.Detail = encode(withoutMetadata(e))
	}
	return out
}

func withoutMetadata(e events.Event) events.Event {
	switch e := e.(type) {
	case events.Acquired:
		e.Metadata, e.MetadataOmitted = nil, true
		return e
	case events.Released:
		e.Metadata, e.MetadataOmitted = nil, true
		return e
	case events.Expired:
		e.Metadata, e.MetadataOmitted = nil, true
		return e
	case events.ForceReleased:
		e.Metadata, e.MetadataOmitted = nil, true
		return e
	}
	return e
}

func eventTime(e events.Event) time.Time {
	switch e := e.(type) {
	case events.Released:
		return e.EndedAt.Time
	case events.Expired:
		return e.EndedAt.Time
	case events.ForceReleased:
		return e.EndedAt.Time
	}
	return e.Subject().AcquiredAt.Time
}

// size is what EventBridge counts of an entry: source, detail-type and detail in UTF-8, and 14 bytes for the time.
func (e Entry) size() int { return len(events.Source) + len(e.DetailType) + len(e.Detail) + 14 }

func encode(e events.Event) []byte {
	data, err := json.Marshal(e)
	if err != nil {
		panic(fmt.Errorf("stream: %w", err)) // plain types, and metadata that was found to be JSON
	}
	return data
}

// errAll answers the same error for each of n.
func errAll(n int, err error) []error {
	if err == nil {
		err = errors.New("unknown error")
	}
	return slices.Repeat([]error{err}, n)
}
