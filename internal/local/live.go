package local

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A hub is the event bus of the local process: it logs every event, and sends it to the readers of /v1/events.
type hub struct {
	log *slog.Logger

	mu      sync.Mutex
	readers map[chan []byte]string // the readers, and the prefix of lock names that each asked for
	closed  chan struct{}
}

const (
	readerBuffer = 256 // events; a reader that falls further behind is disconnected
	maxReaders   = 64
	heartbeat    = 15 * time.Second // between two comments without an event; proxies close connections that are silent for longer
	writeTimeout = 10 * time.Second // of one event or comment
)

func newHub(log *slog.Logger) *hub {
	return &hub{log: log, readers: map[chan []byte]string{}, closed: make(chan struct{})}
}

// close ends all streams of events.
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
		if rule, ok := decoded.(events.RuleChanged); ok {
			h.log.InfoContext(ctx, "event", "type", e.DetailType, "prefix", rule.Prefix, "by", rule.By, "id", rule.ID)
			h.send(lock.RulePrefix(rule.Prefix), rule.ID, e)
			continue
		}
		l := decoded.Subject()
		h.log.InfoContext(ctx, "event", "type", e.DetailType, "lock", l.Lock, "fence", l.Fence, "owner", l.Owner, "id", l.ID)
		h.send(l.Lock, l.ID, e)
	}
	return errs
}

func (h *hub) send(name, id string, e stream.Entry) {
	envelope, err := json.Marshal(map[string]any{ // the form in which EventBridge delivers an event
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
	for r, prefix := range h.readers {
		isRule := e.DetailType == events.TypeRuleChanged // which concerns all locks below it
		if !strings.HasPrefix(name, prefix) && (!isRule || !strings.HasPrefix(prefix, name)) {
			continue
		}
		select {
		case r <- message:
		default:
			delete(h.readers, r)
			close(r)
		}
	}
}

// prefixOf returns the prefix of lock names in the query. If the query is wrong, it answers the request and returns false.
func prefixOf(w http.ResponseWriter, r *http.Request) (prefix string, ok bool) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		refuse(w, wire.InvalidRequest, "", "the query is not percent-encoded right")
		return "", false
	}
	for name, values := range query {
		var problem string
		switch {
		case name != "prefix":
			problem = "is no parameter of this route; the only one is prefix"
		case len(values) > 1:
			problem = "is given more than once"
		default:
			problem = wire.CheckPrefix(values[0])
		}
		if problem != "" {
			refuse(w, wire.InvalidRequest, name, fmt.Sprintf("%q %s", name, problem))
			return "", false
		}
	}
	return query.Get("prefix"), true
}

// join adds a reader. It returns nil if there are maxReaders.
func (h *hub) join(prefix string) chan []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.readers) >= maxReaders {
		return nil
	}
	messages := make(chan []byte, readerBuffer)
	h.readers[messages] = prefix
	return messages
}

func (h *hub) leave(messages chan []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.readers, messages)
}

// ServeHTTP streams the events of the locks whose names begin with the query's prefix, as they happen (server-sent events). Between
// events it sends comments, which show that the connection works.
func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	prefix, ok := prefixOf(w, r)
	if !ok {
		return
	}
	messages := h.join(prefix)
	if messages == nil {
		w.Header().Set("Retry-After", "10")
		refuse(w, wire.Throttled, "", fmt.Sprintf("%d others read events already, which is the most", maxReaders))
		return
	}
	defer h.leave(messages)
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	_ = control.SetReadDeadline(time.Time{}) // the server's read deadline would end the stream
	write := func(message []byte) bool {
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, err := w.Write(message)
		return err == nil && control.Flush() == nil
	}
	if !write([]byte(": events of this coordinator, as they happen\n\n")) {
		return
	}
	quiet := time.NewTicker(heartbeat)
	defer quiet.Stop()
	for {
		select {
		case m, ok := <-messages:
			if !ok || !write(m) { // the reader was too slow, or has disconnected
				return
			}
		case <-quiet.C:
			if !write([]byte(": nothing happened for a while\n\n")) {
				return
			}
		case <-r.Context().Done():
			return
		case <-h.closed:
			return
		}
	}
}
