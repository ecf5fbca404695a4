package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// hub is the local process's bus: every event is a log line, and goes to whoever reads /v1/events.
type hub struct {
	log *slog.Logger

	mu      sync.Mutex
	readers map[chan []byte]bool
	closed  chan struct{}
}

func newHub(log *slog.Logger) *hub {
	return &hub{log: log, readers: map[chan []byte]bool{}, closed: make(chan struct{})}
}

// close ends all streams.
func (h *hub) close() { close(h.closed) }

// Put implements [stream.Bus].
func (h *hub) Put(ctx context.Context, entries []stream.Entry) []error {
	errs := make([]error, len(entries))
	for i, e := range entries {
		decoded, err := events.Decode(e.DetailType, e.Detail)
		if err != nil {
			errs[i] = err
			continue
		}
		l := decoded.Subject()
		h.log.InfoContext(ctx, "event", "type", e.DetailType, "lock", l.Lock, "fence", l.Fence, "owner", l.Owner, "id", l.ID)
		h.send(l.ID, e)
	}
	return errs
}

// readerBuffer is how far a reader may fall behind before it is cut off.
const readerBuffer = 256

func (h *hub) send(id string, e stream.Entry) {
	envelope, err := json.Marshal(map[string]any{ // as EventBridge delivers it
		"version": "0", "id": rand.Text(), "source": events.Source, "detail-type": e.DetailType, "account": "000000000000",
		"region": "local", "time": e.Time.UTC().Format(time.RFC3339), "resources": []string{}, "detail": json.RawMessage(e.Detail),
	})
	if err != nil {
		h.log.Error("event", "error", err)
		return
	}
	message := fmt.Appendf(nil, "id: %s\nevent: %s\ndata: %s\n\n", id, e.DetailType, envelope)
	h.mu.Lock()
	defer h.mu.Unlock()
	for r := range h.readers {
		select {
		case r <- message:
		default:
			delete(h.readers, r)
			close(r)
		}
	}
}

// ServeHTTP streams events as they happen (server-sent events).
func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	_ = control.SetReadDeadline(time.Time{}) // the server's is for reading a request; past it, it would end this one
	messages := make(chan []byte, readerBuffer)
	h.mu.Lock()
	h.readers[messages] = true
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.readers, messages)
		h.mu.Unlock()
	}()
	if _, err := fmt.Fprint(w, ": events of this coordinator, as they happen\n\n"); err != nil || control.Flush() != nil {
		return
	}
	for {
		select {
		case m, ok := <-messages:
			if !ok {
				return // too slow
			}
			if _, err := w.Write(m); err != nil || control.Flush() != nil {
				return
			}
		case <-r.Context().Done():
			return
		case <-h.closed:
			return
		}
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
	c.pending = append(c.pending, stream.Write{Lock: name, Sequence: strconv.Itoa(c.next), Before: before, After: after})
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
