package local

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/internal/stream"
)

// A reader is a connection of a reader of events. Its writes can be made to fail.
type reader struct {
	mu       sync.Mutex
	header   http.Header
	status   int
	body     bytes.Buffer
	deadline time.Time // of the next write
	broken   bool
}

func newReader() *reader { return &reader{header: http.Header{}} }

func (r *reader) Header() http.Header    { return r.header }
func (r *reader) WriteHeader(status int) { r.status = status }
func (r *reader) Flush()                 {}

func (r *reader) SetWriteDeadline(at time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deadline = at
	return nil
}

func (r *reader) SetReadDeadline(time.Time) error { return nil }

func (r *reader) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch left := time.Until(r.deadline); {
	case left <= 0 || left > writeTimeout:
		return 0, errors.New("written without a deadline")
	case r.broken:
		return 0, errors.New("broken pipe")
	}
	return r.body.Write(p)
}

func (r *reader) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.body.String()
}

// read makes a hub serve a reader until ctx ends, and then closes done.
func read(ctx context.Context, h *hub, r *reader, query string) (done chan bool) {
	done = make(chan bool)
	go func() {
		h.ServeHTTP(r, httptest.NewRequestWithContext(ctx, http.MethodGet, "/v1/events"+query, http.NoBody))
		close(done)
	}()
	synctest.Wait()
	return done
}

func (h *hub) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.readers)
}

// A reader gets the events of the locks below its prefix, and a comment after a time without events.
func TestEventsOfAPrefix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		all, some, other := newReader(), newReader(), newReader()
		var ended []chan bool
		for query, r := range map[string]*reader{"": all, "?prefix=deploy:": some, "?prefix=x": other} {
			ended = append(ended, read(ctx, h, r, query))
		}
		h.send("deploy:prod", "deploy:prod/7/acquired", stream.Entry{DetailType: "Lock Acquired", Detail: []byte("{}")})
		synctest.Wait()
		for r, want := range map[*reader]bool{all: true, some: true, other: false} {
			if got := strings.Contains(r.text(), "id: deploy:prod/7/acquired\nevent: Lock Acquired\n"); got != want {
				t.Errorf("heard %v, want %v: %s", got, want, r.text())
			}
		}
		before := other.text()
		time.Sleep(heartbeat - time.Second)
		if other.text() != before {
			t.Errorf("early: %s", other.text())
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if beat := strings.TrimPrefix(other.text(), before); !strings.HasPrefix(beat, ": ") || !strings.HasSuffix(beat, "\n\n") {
			t.Errorf("heartbeat: %q", beat)
		}
		cancel()
		for _, done := range ended {
			<-done
		}
		if h.count() != 0 {
			t.Errorf("%d readers are left", h.count())
		}
	})
}

// A reader whose connection fails is removed, and the number of readers is limited.
func TestEventReadersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(slog.New(slog.DiscardHandler))
		stuck := newReader()
		stuckDone := read(t.Context(), h, stuck, "")
		var ended []chan bool
		for range maxReaders - 1 {
			ended = append(ended, read(t.Context(), h, newReader(), ""))
		}
		late := newReader()
		<-read(t.Context(), h, late, "")
		if late.status != http.StatusServiceUnavailable || late.header.Get("Retry-After") == "" || h.count() != maxReaders {
			t.Errorf("one more than the most: %d %v", late.status, late.header)
		}
		stuck.mu.Lock()
		stuck.broken = true // as after a write deadline
		stuck.mu.Unlock()
		time.Sleep(heartbeat + time.Second)
		<-stuckDone
		if h.count() != maxReaders-1 {
			t.Errorf("%d readers", h.count())
		}
		h.close()
		for _, done := range ended {
			<-done
		}
	})
}

// A reader that falls too far behind is disconnected.
func TestSlowEventReaders(t *testing.T) {
	h := newHub(slog.New(slog.DiscardHandler))
	messages := h.join("")
	for range readerBuffer + 1 {
		h.send("a", "id", stream.Entry{DetailType: "x", Detail: []byte("{}")})
	}
	n := 0
	for range messages {
		n++
	}
	if n != readerBuffer || h.count() != 0 {
		t.Errorf("%d events, %d readers", n, h.count())
	}
}

func TestEventsParameters(t *testing.T) {
	for query, field := range map[string]string{
		"?prefiks=a": "prefiks", "?prefix=a&x=1": "x", "?prefix=a&prefix=b": "prefix", "?prefix=a/b": "prefix", "?prefix=%zz": "", "?prefix=" + strings.Repeat("a", 256): "prefix",
	} {
		w := httptest.NewRecorder()
		newHub(slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/events"+query, http.NoBody))
		if w.Code != http.StatusBadRequest || field != "" && !strings.Contains(w.Body.String(), `"field":"`+field+`"`) {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
	}
}
