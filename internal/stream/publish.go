package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/chance"
	"github.com/holdfast-lock/holdfast/internal/emf"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// An Entry is an event as a bus takes it.
type Entry struct {
	DetailType string
	Detail     []byte
	Time       time.Time
	Lock       string
}

// A Bus takes events, within [MaxEntries] and [MaxBytes] a request.
type Bus interface {
	// Put sends entries in one request. It returns an error for each entry, nil for one that was taken; a nil slice means
	// that all were.
	Put(ctx context.Context, entries []Entry) []error
}

// The limits of one PutEvents request.
const (
	MaxEntries = 10
	MaxBytes   = 256 * 1024 // of all entries, counted as EventBridge does
)

const (
	// maxPuts is how often one event is sent in one batch. After that its job is deferred.
	maxPuts = 4
	// putDelay is the first delay between two requests with the same event, before jitter. The delay doubles each time.
	putDelay = 50 * time.Millisecond
	// putTimeout bounds one request to the bus, including the SDK's retries.
	putTimeout = 5 * time.Second
	// busPause is how long no request is sent after the bus took no event of a batch, with a backlog.
	busPause = 10 * time.Second
)

// errBusPaused is the error of an event that was deferred without a request.
var errBusPaused = errors.New("not attempted, because the bus took no event of an earlier batch")

// An offer is an event that is to be published.
type offer struct {
	write int // the index of the event's write in its batch
	entry Entry
	puts  int   // the requests that it was in
	err   error // of the last request
}

// publish sends events to the bus until each is taken or was sent maxPuts times. It returns the events that failed, and all
// later events of their locks. No request has two events of one lock, because a bus may take the second and refuse the first.
// After a request that takes putTimeout, no further one is sent.
func (c *Consumer) publish(ctx context.Context, todo []*offer) (failed []*offer) {
	if len(todo) == 0 {
		return nil
	}
	if c.busPaused() {
		for _, o := range todo {
			o.err = errBusPaused
		}
		c.reporter().fault(ctx, EventPutOff, "events were not published", slog.Int("events", len(todo)), slog.Any("error", errBusPaused))
		return todo
	}
	all := len(todo)
	stuck := map[string]bool{} // the locks with an event that failed
	for delay := putDelay; len(todo) > 0; {
		request, rest := nextRequest(todo, stuck)
		if len(request) == 0 {
			failed = append(failed, rest...)
			break
		}
		refused, hung := c.put(ctx, request)
		var retry []*offer
		for _, o := range refused {
			if o.puts++; o.puts == maxPuts || hung || ctx.Err() != nil {
				c.reporter().fault(ctx, EventPutOff, "event was not published", slog.String("lock", o.entry.Lock),
					slog.String("detail_type", o.entry.DetailType), slog.Any("error", o.err))
				stuck[o.entry.Lock] = true
				failed = append(failed, o)
				continue
			}
			retry = append(retry, o)
		}
		todo = inWriteOrder(retry, rest)
		if hung {
			failed = append(failed, todo...)
			break
		}
		if len(retry) > 0 {
			sleep(ctx, delay/2+chance.N(delay))
			delay *= 2
		}
	}
	for _, o := range failed {
		if o.err == nil {
			o.err = errors.New("an earlier event of its lock or batch was not published")
		}
	}
	c.pauseBus(len(failed) == all)
	return failed
}

// put sends one request and returns the refused events. hung reports whether the bus did not reply within putTimeout.
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

// busPaused reports whether events are deferred without a request to the bus.
func (c *Consumer) busPaused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Backlog != nil && c.now().Before(c.busPausedUntil)
}

// pauseBus starts a pause if the bus took no event, and ends it otherwise.
func (c *Consumer) pauseBus(tookNothing bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busPausedUntil = time.Time{}
	if tookNothing {
		c.busPausedUntil = c.now().Add(busPause)
	}
}

// nextRequest takes the first event of each lock that is not stuck, up to the limits of one request.
func nextRequest(todo []*offer, stuck map[string]bool) (request, rest []*offer) {
	seen, bytes := map[string]bool{}, 0
	for _, o := range todo {
		size := o.entry.size()
		if seen[o.entry.Lock] || stuck[o.entry.Lock] || len(request) == MaxEntries || bytes+size > MaxBytes && len(request) > 0 {
			seen[o.entry.Lock] = true // the later events of this lock must wait too
			rest = append(rest, o)
			continue
		}
		seen[o.entry.Lock] = true
		bytes += size
		request = append(request, o)
	}
	return request, rest
}

// inWriteOrder returns the events of both lists in the order of their writes.
func inWriteOrder(a, b []*offer) []*offer {
	list := slices.Concat(a, b)
	slices.SortStableFunc(list, func(x, y *offer) int { return x.write - y.write })
	return list
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// measureExpiry logs how much later than its expiry an expired lease is reported, with the metric expiry_lag_ms.
func (c *Consumer) measureExpiry(ctx context.Context, e events.Event) {
	expired, ok := e.(events.Expired)
	if !ok || c.Metrics == "" {
		return
	}
	lag := max(c.now().Sub(expired.EndedAt.Time), 0).Milliseconds()
	c.Log.LogAttrs(ctx, slog.LevelInfo, "expired", slog.String("lock", expired.Lock), slog.Int64("fence", expired.Fence),
		slog.String("owner", expired.Owner), slog.Int64("expiry_lag_ms", lag), slog.String("group", c.groups.Of(expired.Lock)),
		emf.Attr(c.Metrics, c.now(), emf.Metric{Name: "expiry_lag_ms", Unit: emf.Milliseconds},
			emf.Metric{Name: "expiry_lag_ms", Unit: emf.Milliseconds, Dimensions: []string{"group"}}))
}

// measureWaits logs the waits that a write's grants ended, with the metric waited_ms. It also knows those of locks whose events are not
// published: the stream's filters deliver every write before which others waited.
func (c *Consumer) measureWaits(ctx context.Context, name string, changes []lock.Change) {
	for _, ch := range changes {
		waited := ch.Lease.Waited()
		if ch.Kind != lock.LeaseAcquired || waited == 0 || c.Metrics == "" {
			continue
		}
		c.Log.LogAttrs(ctx, slog.LevelInfo, "granted after a wait", slog.String("lock", name), slog.Int64("fence", ch.Lease.Fence),
			slog.String("owner", ch.Lease.Owner), slog.Int64("waited_ms", waited), slog.String("group", c.groups.Of(name)),
			emf.Attr(c.Metrics, c.now(), emf.Metric{Name: "waited_ms", Unit: emf.Milliseconds},
				emf.Metric{Name: "waited_ms", Unit: emf.Milliseconds, Dimensions: []string{"group"}}))
	}
}

// entry is the entry of an event of a lease. One that would be too large for the bus has no metadata, and says so.
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

// size is the size of an entry as EventBridge counts it: source, detail-type and detail in UTF-8, and 14 bytes for the time.
func (e Entry) size() int { return len(events.Source) + len(e.DetailType) + len(e.Detail) + 14 }

func encode(e events.Event) []byte {
	data, err := json.Marshal(e)
	if err != nil {
		panic(fmt.Errorf("stream: %w", err)) // cannot happen: plain types, and metadata that is valid JSON
	}
	return data
}
