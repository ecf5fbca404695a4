package ui

import (
	"bytes"
	"encoding/json"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A line is a lock in the list, as the page gets it.
type line struct {
	Name     string     `json:"name"`
	Capacity int64      `json:"capacity"`
	Free     int64      `json:"free"` // permits
	Waiting  int64      `json:"waiting"`
	Holders  []lineHold `json:"holders"` // the first maxLineHolders
	Count    int        `json:"count"`   // of all holders
}

// A lineHold is a holder in a line. Times are Unix milliseconds of the coordinator's clock.
type lineHold struct {
	Owner string `json:"owner"`
	Fence int64  `json:"fence"`
	Since int64  `json:"since"`
	From  int64  `json:"from"` // the last renewal, or the grant
	Until int64  `json:"until"`
}

const maxLineHolders = 3

func encodeLine(s wire.Status) json.RawMessage {
	l := line{Name: s.Lock, Capacity: s.Capacity, Free: s.Available, Waiting: s.Waiting, Holders: []lineHold{}, Count: len(s.Holders)}
	for _, h := range s.Holders[:min(len(s.Holders), maxLineHolders)] {
		l.Holders = append(l.Holders, lineHold{h.Owner, h.Fence, h.AcquiredAt.UnixMilli(), h.RenewedAt.UnixMilli(), h.ExpiresAt.UnixMilli()})
	}
	text, _ := json.Marshal(l) // it has nothing that cannot be encoded
	return text
}

// A row is what the board knows of a lock.
type row struct {
	text    json.RawMessage // the line; nil: the lock is not listed any more
	version uint64          // of the board at the row's last change
	asked   time.Time       // when the request was sent whose answer this is
}

// A board holds the list of locks for all tabs. Each change has a version, so that a tab that is slow, or asleep, gets at once all that has changed since
// its last message, however much that was.
type board struct {
	mu      sync.Mutex
	rows    map[string]row
	version uint64
	state   state
	clock   time.Duration // the coordinator's clock, from this one's
	changed chan struct{} // closed at the next change
	readers map[*reader]bool
	wake    chan struct{} // a reader has come, or wants more
}

// A state is what the page shows of the list as a whole.
type state struct {
	Listed    int64    `json:"listed"`    // when the last list began that succeeded, by the coordinator's clock; 0: none yet
	Failure   *Failure `json:"failure"`   // of the last list; null if it succeeded
	Truncated int      `json:"truncated"` // 0, or the number of locks after which the list was cut
	Every     int64    `json:"every"`     // milliseconds until the next list
}

// A reader is a tab.
type reader struct {
	all     bool   // also locks that are free
	version uint64 // of the board at the last message; 0: there was none
}

func newBoard() *board {
	return &board{rows: map[string]row{}, version: 1, changed: make(chan struct{}), readers: map[*reader]bool{}, wake: make(chan struct{}, 1)}
}

// join adds a tab, which has seen nothing so far.
func (b *board) join(all bool) *reader {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := &reader{all: all}
	b.readers[r] = true
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return r
}

func (b *board) leave(r *reader) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.readers, r)
}

// wanted reports whether a tab is open, and whether one shows free locks, too.
func (b *board) wanted() (open, all bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for r := range b.readers {
		all = all || r.all
	}
	return len(b.readers) > 0, all
}

// put records a lock's status, unless a later request has told more.
func (b *board) put(s wire.Status, asked time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !s.ServerTime.IsZero() {
		b.clock = time.Until(s.ServerTime.Time)
	}
	b.set(s.Lock, encodeLine(s), asked)
}

func (b *board) set(name string, text json.RawMessage, asked time.Time) {
	old, known := b.rows[name]
	switch {
	case known && old.asked.After(asked):
	case bytes.Equal(old.text, text): // also: not listed before and now
		if known {
			old.asked = asked
			b.rows[name] = old
		}
	default:
		b.version++
		b.rows[name] = row{text, b.version, asked}
		b.notify()
	}
}

func (b *board) notify() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// listed records that a list is complete: locks that it does not name are gone, unless they were read after it began.
func (b *board) listed(names map[string]bool, began time.Time, s state) {
	b.mu.Lock()
	defer b.mu.Unlock()
	oldest := b.version
	for r := range b.readers {
		oldest = min(oldest, r.version)
	}
	for name, old := range b.rows {
		switch {
		case old.text == nil && old.version <= oldest && old.asked.Before(began):
			delete(b.rows, name) // every tab knows that it is gone
		case old.text != nil && !names[name] && s.Truncated == 0:
			b.set(name, nil, began)
		}
	}
	s.Listed = began.Add(b.clock).UnixMilli()
	b.setState(s)
}

// failed records that a list failed; what is known stays.
func (b *board) failed(f *Failure, every time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.state
	s.Failure, s.Every = f, every.Milliseconds()
	b.setState(s)
}

func (b *board) setState(s state) {
	b.state = s
	b.notify()
}

// A message is what a tab gets.
type message struct {
	Reset bool  `json:"reset,omitempty"` // forget all locks first
	Now   int64 `json:"now"`             // the coordinator's clock
	state
	Locks []json.RawMessage `json:"locks"`
	Gone  []string          `json:"gone"`
	Where string            `json:"where,omitempty"`
	Below string            `json:"prefix,omitempty"`
}

// next returns what has changed for a tab since its last message, and a channel that is closed at the next change.
func (b *board) next(r *reader) (m message, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m = message{Reset: r.version == 0, Now: time.Now().Add(b.clock).UnixMilli(), state: b.state, Locks: []json.RawMessage{}, Gone: []string{}}
	for name, row := range b.rows {
		switch {
		case row.version <= r.version && !m.Reset:
		case row.text != nil:
			m.Locks = append(m.Locks, row.text)
		case !m.Reset:
			m.Gone = append(m.Gone, name)
		}
	}
	r.version = b.version
	return m, b.changed
}
