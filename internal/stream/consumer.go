package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
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
	lock.GrantRef
	Due time.Time
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
	Timers     Timers     // nil: no prompt expiry
	DeadLetter DeadLetter // nil: what cannot be handled is logged, and forgotten
	// Backlog keeps what could not be done at once, so that nothing behind it in the stream waits. nil: its record comes again,
	// and the records behind it wait.
	Backlog Backlog

	// Callbacks tell those who wait with a token, with the help of Coordinator; nil: nobody can wait so.
	Callbacks   Callbacks
	Coordinator *lock.Coordinator

	Skew    time.Duration // the protocol's allowance: a timer comes due that much after a lease's expiry
	Log     *slog.Logger
	Metrics string           // CloudWatch namespace of the metrics that log records carry; empty: none
	Clock   func() time.Time // nil: time.Now

	mu      sync.Mutex
	settles map[string]int // failures in a row to hand a lock on, without a Backlog
	busAway time.Time      // until then the bus is not tried, with a Backlog
}

// Consume does what follows from a batch's writes: it sets timers, tells tasks that wait, and publishes events, in this order,
// so that neither timers nor tasks wait for the bus. What fails is put off. It answers the sequence numbers of the writes that
// must come again, in the batch's order: none when all is done or put off. Within a lock of a batch no event is published after
// one that failed.
func (c *Consumer) Consume(ctx context.Context, batch []Write) (failed []string) {
	work, cancel := working(ctx)
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
	for _, o := range c.publish(work, offers) {
		failures = append(failures, failure{Job{Kind: JobPublish, Lock: o.entry.Lock, Event: o.entry}, o.write, o.err})
	}
	for _, i := range c.putOff(ctx, failures) {
		bad[i] = true
	}
	for i, w := range batch {
		if bad[i] {
			failed = append(failed, w.Sequence)
		}
	}
	return failed
}

// A derivation is a write with what follows from it.
type derivation struct {
	Write
	effects lock.Effects
	events  []Entry
}

// derive derives what follows from a write, once for events, timers and callbacks. A panic poisons the write.
func (c *Consumer) derive(ctx context.Context, w Write) derivation {
	d := derivation{Write: w}
	if w.Poison != nil {
		return d
	}
	d.Poison = safely(func() error {
		d.effects = w.Effects()
		for _, e := range Events(w.Write, d.effects.Changes) {
			c.measure(ctx, e)
			d.events = append(d.events, entry(e))
		}
		return nil
	})
	return d
}

// audit logs what an operator did to a lock that is no change of a lease, and so no event.
func (c *Consumer) audit(ctx context.Context, w Write) {
	if w.After.Cause == lock.CauseRepair {
		c.Log.LogAttrs(ctx, slog.LevelWarn, "lock repaired", slog.String("lock", w.Lock), slog.String("by", w.After.By), slog.String("reason", w.After.Reason),
			slog.Int64("fence_before", w.Before.Fence), slog.Int64("fence_after", w.After.Fence))
	}
}

// arm sets the timers of a batch: those of its grants, and those of leases whose overdue check somebody asked for again. A lease
// that ends within the batch needs none.
func (c *Consumer) arm(ctx context.Context, batch []derivation) (failures []failure) {
	if c.Timers == nil {
		return nil
	}
	var timers []Timer
	var timerOf []int // the write of each timer
	for i, d := range batch {
		if d.Poison != nil {
			continue
		}
		for _, ch := range d.effects.Timed {
			ref := lock.GrantRef{Lock: d.Lock, Key: ch.Key, Fence: ch.Lease.Fence}
			if !endsWithin(batch[i+1:], ref) {
				timers, timerOf = append(timers, Timer{ref, c.due(ch.Lease)}), append(timerOf, i)
			}
		}
	}
	if len(timers) == 0 {
		return nil
	}
	for i, err := range c.Timers.Arm(ctx, timers) {
		if err != nil {
			t := timers[i]
			c.reporter().fault(ctx, TimerFailed, "timer was not set", slog.String("lock", t.Lock), slog.Int64("fence", t.Fence), slog.Any("error", err))
			failures = append(failures, failure{Job{Kind: JobTimer, Lock: t.Lock, Timer: t}, timerOf[i], err})
		}
	}
	return failures
}

// due is when a lease's timer is to come: a skew past its expiry, or when its execution is to be looked at.
func (c *Consumer) due(h lock.Lease) time.Time {
	if h.Execution != "" && !h.Unclaimed {
		return time.UnixMilli(h.CheckAt)
	}
	return time.UnixMilli(h.ExpiresAt).Add(c.Skew)
}

func (c *Consumer) reporter() reporter { return reporter{c.Log, c.Metrics, c.Clock} }

func (c *Consumer) now() time.Time { return c.reporter().now() }

// endsWithin tells whether a grant is over by the end of the batch. Locks that are held for less than the stream's polling
// interval mostly need no timer so.
func endsWithin(rest []derivation, ref lock.GrantRef) bool {
	return slices.ContainsFunc(rest, func(d derivation) bool {
		return d.Lock == ref.Lock && d.Poison == nil && d.After.Holders[ref.Key].Fence != ref.Fence
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

// bury puts a record that cannot be handled into the dead-letter queue. false: it must come again.
func (c *Consumer) bury(ctx context.Context, w Write) bool {
	var err error
	if c.DeadLetter != nil {
		err = c.DeadLetter.Bury(ctx, w)
	}
	c.reporter().fault(ctx, RecordBuried, "stream record cannot be read", slog.String("lock", w.Lock), slog.String("sequence", w.Sequence),
		slog.Any("error", w.Poison), slog.Any("dead_letter_error", err))
	return err == nil
}

// An offer is an event that some write made.
type offer struct {
	write int
	entry Entry
	puts  int
	err   error // of the last try
}

const (
	// putTimeout bounds one request to the bus, the SDK's own retries included.
	putTimeout = 5 * time.Second
	// busPause is for how long the bus is not tried after it took nothing, where there is a backlog.
	busPause = 10 * time.Second
)

// errBusAway is why an event was not offered.
var errBusAway = errors.New("the bus took nothing a moment ago; it was not tried")

// publish offers events to the bus until all are taken, or some were offered too often; those, and all later ones of
// their locks, it returns. No request has two events of one lock: a bus may take the second and refuse the first. A bus that does
// not answer in putTimeout is not tried again.
func (c *Consumer) publish(ctx context.Context, todo []*offer) (failed []*offer) {
	if len(todo) == 0 {
		return nil
	}
	if c.busPaused() {
		for _, o := range todo {
			o.err = errBusAway
		}
		c.reporter().fault(ctx, EventPutOff, "events were not published", slog.Int("events", len(todo)), slog.Any("error", errBusAway))
		return todo
	}
	all := len(todo)
	stuck := map[string]bool{} // locks of which an event was given up
	for delay := putDelay; len(todo) > 0; {
		request, rest := nextRequest(todo, stuck)
		if len(request) == 0 {
			failed = append(failed, rest...)
			break
		}
		refused, hung := c.put(ctx, request)
		var again []*offer
		for _, o := range refused {
			if o.puts++; o.puts == maxPuts || hung || ctx.Err() != nil {
				c.reporter().fault(ctx, EventPutOff, "event was not published", slog.String("lock", o.entry.Lock),
					slog.String("detail_type", o.entry.DetailType), slog.Any("error", o.err))
				stuck[o.entry.Lock] = true
				failed = append(failed, o)
				continue
			}
			again = append(again, o)
		}
		todo = merge(again, rest)
		if hung {
			failed = append(failed, todo...)
			break
		}
		if len(again) > 0 {
			pause(ctx, delay/2+rand.N(delay))
			delay *= 2
		}
	}
	for _, o := range failed {
		if o.err == nil {
			o.err = errors.New("an earlier event of its lock, or of its batch, was not published")
		}
	}
	c.pauseBus(len(failed) == all)
	return failed
}

// put offers one request, and returns what was refused. hung: the bus did not answer in time.
func (c *Consumer) put(ctx context.Context, request []*offer) (refused []*offer, hung bool) {
	entries := make([]Entry, len(request))
	for i, o := range request {
		entries[i] = o.entry
	}
	put, cancel := context.WithTimeout(ctx, putTimeout)
	defer cancel()
	for i, err := range c.Bus.Put(put, entries) {
		if err != nil {
			request[i].err = err
			refused = append(refused, request[i])
		}
	}
	return refused, len(refused) > 0 && put.Err() != nil
}

// busPaused tells whether the bus is not to be tried.
func (c *Consumer) busPaused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Backlog != nil && c.now().Before(c.busAway)
}

// pauseBus remembers whether the bus took nothing.
func (c *Consumer) pauseBus(tookNothing bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busAway = time.Time{}
	if tookNothing {
		c.busAway = c.now().Add(busPause)
	}
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
