// Package history has the histories that tests of Holdfast and of other lock services record, and the checks that decide whether a
// history is one that a lock service may produce. The simulation, the fault campaign and the benchmarks share it.
//
// A history is a list of entries: operations as their callers saw them, beliefs of holders, writes at a resource that compares fencing
// tokens, events as a subscriber got them, and rows and prefix rules as the table's stream shows them. A file has one entry a line, in JSON, so that
// programs in other languages can write it. Times are nanoseconds of one monotonic clock, which all processes of a run share, or of a
// simulation. [Check] runs all checks.
package history

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// A Kind is what an operation asks for.
type Kind string

// The kinds of operation.
const (
	Acquire Kind = "acquire"
	Renew   Kind = "renew"
	Release Kind = "release" // also of a place in the queue
	Force   Kind = "force"   // an operator ends leases: all, or the one with the operation's Fence
	// Downgrade gives back all permits of a lease but one; the lease goes on.
	Downgrade Kind = "downgrade"
)

// A Result is the answer to an operation.
type Result string

// The results.
const (
	Granted Result = "granted" // of acquire and renew: the lease is held
	Held    Result = "held"    // of acquire: others hold the lock; with a Ticket, the caller waits
	Lost    Result = "lost"    // the lease is over, or never was; of force: nobody has the fencing token that it names
	OK      Result = "ok"      // of release, force and downgrade: done, now or before
	Unknown Result = "unknown" // no answer, or one that does not say whether the operation took effect
	Refused Result = "refused" // another answer; the operation certainly had no effect, and never will
)

// An Op is one request with its answer, as its caller saw them. A request that is sent again is another Op.
type Op struct {
	Client   string `json:"client"`
	Op       Kind   `json:"op"`
	Lock     string `json:"lock"`
	Lease    string `json:"lease,omitempty"`    // a name of the lease; never its secret
	Permits  int64  `json:"permits,omitempty"`  // 0: 1
	Capacity int64  `json:"capacity,omitempty"` // 0: 1
	Set      string `json:"set,omitempty"`      // all locks of the request, with commas between; empty: it is about one lock. Each of them has an Op
	Began    int64  `json:"began"`
	Ended    int64  `json:"ended"` // when the answer arrived, or the caller gave up
	Result   Result `json:"result"`
	Fence    int64  `json:"fence,omitempty"`
	Ticket   int64  `json:"ticket,omitempty"`
	// Frozen is when the freeze ends that kept the lock from this acquire, as its answer says, in Unix milliseconds; 0: the answer names none.
	Frozen int64 `json:"frozen,omitempty"`
	// NoRules says that the coordinator could not read the rules for this acquire, so that it granted nothing. Only a simulation knows.
	NoRules bool `json:"no_rules,omitempty"`
	// Rated says that a rate kept the lock from this acquire, as its answer says.
	Rated bool `json:"rated,omitempty"`

	TTL  int64 `json:"ttl,omitempty"`  // nanoseconds of life that an acquire or a renewal asks for
	Wait int64 `json:"wait,omitempty"` // nanoseconds for which an acquire keeps a place in the queue; 0: it does not wait
	Left int64 `json:"left,omitempty"` // nanoseconds of life that the answer promises, from some time between Began and Ended on; 0: TTL
	// Late is the latest time at which a copy of the request may reach the coordinator, where that is known; 0: see [Config.Late].
	Late int64 `json:"late,omitempty"`
}

// A Belief is a time in which a client takes itself for a holder.
type Belief struct {
	Client   string `json:"client"`
	Lock     string `json:"lock"`
	Lease    string `json:"lease"`
	Fence    int64  `json:"fence"`
	Permits  int64  `json:"permits,omitempty"`
	Capacity int64  `json:"capacity,omitempty"`
	From     int64  `json:"from"`
	Until    int64  `json:"until"` // exclusive; when the release began, the loss was told, or the client's own clock ended the lease
}

// A Guarded is a write at a resource that refuses fencing tokens lower than the highest that it has seen.
type Guarded struct {
	Client string `json:"client"`
	Lock   string `json:"lock"`
	Fence  int64  `json:"fence"`
	At     int64  `json:"at"`
	OK     bool   `json:"ok"` // accepted
}

// An Event is an event as a subscriber got it.
type Event struct {
	Lock  string `json:"lock"`
	Type  string `json:"type"` // acquired, released, expired or force-released
	Fence int64  `json:"fence"`
	ID    string `json:"id"` // equal for repetitions of one event
}

// A Row is one write of a lock's row, as the table's stream shows it. The rows of one lock are in the order of the writes.
type Row struct {
	Lock   string  `json:"lock"`
	Cause  string  `json:"cause"`
	Quiet  bool    `json:"quiet,omitempty"`  // no events of the lock are published
	At     int64   `json:"at,omitempty"`     // when it was written; 0: unknown
	Before *Record `json:"before,omitempty"` // nil: there was no row
	After  *Record `json:"after,omitempty"`  // nil: the row was purged
}

// A Record is what a row says of the lock. Times are Unix milliseconds of a coordinator's clock.
type Record struct {
	Rev      int64            `json:"rev"`
	Fence    int64            `json:"fence"`
	Capacity int64            `json:"capacity"`
	Waiting  int64            `json:"waiting,omitempty"`
	Retired  string           `json:"retired,omitempty"`       // the lease key that ended last
	Ended    string           `json:"retired_cause,omitempty"` // how it ended
	EndedAt  int64            `json:"retired_at,omitempty"`    // when
	Holders  map[string]Lease `json:"holders,omitempty"`       // by lease key
	SetFirst bool             `json:"set_first,omitempty"`     // the first waiter is a set, as far as that is known: a write of this row alone does not grant it
	Head     int64            `json:"head,omitempty"`          // the lowest ticket of the waiters, or a lower one
	First    int64            `json:"first,omitempty"`         // the permits that the first waiter wants; 0: unknown
	Of       int64            `json:"first_of,omitempty"`      // of how many, as it says
}

// ruled reports whether rules by prefix explain that this acquire was not granted, by what its answer says, or by what a simulation knows.
func (o Op) ruled() bool { return o.Frozen != 0 || o.NoRules || o.Rated }

// A Rule is one write of a prefix rule, as the table shows it. The rules of one prefix are in the order of the writes.
type Rule struct {
	Prefix  string `json:"prefix"` // empty: every lock
	Rev     int64  `json:"rev"`
	At      int64  `json:"at"`                 // when it was stored; or, see [Config.RuleLanding], when the coordinator decided on it
	Until   int64  `json:"until,omitempty"`    // when its freeze ends, in Unix milliseconds; 0: it has none
	Grants  int64  `json:"grants,omitempty"`   // of its rate; 0: it has none
	Period  int64  `json:"period,omitempty"`   // of its rate, in milliseconds
	Seen    int64  `json:"seen,omitempty"`     // when it was read in the table's stream, so that it was stored by then; 0: see [Config.RuleLanding]
	InForce int64  `json:"in_force,omitempty"` // from when on every coordinator goes by it, as an answer says, in Unix milliseconds; 0: nobody was told
}

// A Lease is a lease in a [Record].
type Lease struct {
	Fence    int64  `json:"fence"`
	Permits  int64  `json:"permits"`
	Capacity int64  `json:"capacity"`
	Renewed  int64  `json:"renewed,omitempty"` // when it was granted, claimed or renewed last; 0: unknown
	Expires  int64  `json:"expires"`
	Set      string `json:"set,omitempty"` // all locks that are granted with this one, with commas between; empty: none
}

// A History is the entries of a run by kind, each kind in the order in which its entries were recorded.
type History struct {
	Ops     []Op
	Beliefs []Belief
	Guarded []Guarded
	Events  []Event
	Rows    []Row
	Rules   []Rule
}

// Entries is how many entries the history has.
func (h *History) Entries() int {
	return len(h.Ops) + len(h.Beliefs) + len(h.Guarded) + len(h.Events) + len(h.Rows) + len(h.Rules)
}

// A Writer writes a history as JSON lines. It is safe for concurrent use.
type Writer struct {
	mu sync.Mutex
	w  io.Writer
}

// NewWriter returns a Writer to w. Each entry is one call of w.Write.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Write writes one entry: an [Op], a [Belief], a [Guarded], an [Event], a [Row] or a [Rule].
func (w *Writer) Write(entry any) error {
	var line []byte
	var err error
	switch e := entry.(type) {
	case Op:
		line, err = json.Marshal(struct {
			T string `json:"t"`
			Op
		}{"op", e})
	case Belief:
		line, err = json.Marshal(struct {
			T string `json:"t"`
			Belief
		}{"belief", e})
	case Guarded:
		line, err = json.Marshal(struct {
			T string `json:"t"`
			Guarded
		}{"guarded", e})
	case Event:
		line, err = json.Marshal(struct {
			T string `json:"t"`
			Event
		}{"event", e})
	case Row:
		line, err = json.Marshal(struct {
			T string `json:"t"`
			Row
		}{"row", e})
	case Rule:
		line, err = json.Marshal(struct {
			T string `json:"t"`
			Rule
		}{"rule", e})
	default:
		return fmt.Errorf("history: %T is no entry of a history; give an Op, Belief, Guarded, Event, Row or Rule", entry)
	}
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err = w.w.Write(append(line, '\n'))
	return err
}

// WriteTo writes the whole history.
func (h *History) WriteTo(w *Writer) error {
	var list []any
	for _, e := range h.Ops {
		list = append(list, e)
	}
	for _, e := range h.Beliefs {
		list = append(list, e)
	}
	for _, e := range h.Guarded {
		list = append(list, e)
	}
	for _, e := range h.Events {
		list = append(list, e)
	}
	for _, e := range h.Rows {
		list = append(list, e)
	}
	for _, e := range h.Rules {
		list = append(list, e)
	}
	for _, e := range list {
		if err := w.Write(e); err != nil {
			return err
		}
	}
	return nil
}

// maxLine is the longest line that [Read] takes: a row of a lock with many holders.
const maxLine = 16 << 20

// Read reads a history. It may be called for several files of one run with the same h. An error names the line.
func (h *History) Read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for n := 1; lines.Scan(); n++ {
		if len(lines.Bytes()) == 0 {
			continue
		}
		if err := h.add(lines.Bytes()); err != nil {
			return fmt.Errorf("history: line %d: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	return nil
}

func (h *History) add(line []byte) error {
	var kind struct {
		T string `json:"t"`
	}
	if err := json.Unmarshal(line, &kind); err != nil {
		return err
	}
	switch kind.T {
	case "op":
		return decode(line, &h.Ops)
	case "belief":
		return decode(line, &h.Beliefs)
	case "guarded":
		return decode(line, &h.Guarded)
	case "event":
		return decode(line, &h.Events)
	case "row":
		return decode(line, &h.Rows)
	case "rule":
		return decode(line, &h.Rules)
	}
	return fmt.Errorf("t is %q; it must be op, belief, guarded, event, row or rule", kind.T)
}

func decode[E any](line []byte, list *[]E) error {
	var e E
	if err := json.Unmarshal(line, &e); err != nil {
		return err
	}
	*list = append(*list, e)
	return nil
}

// permits and capacity are those of an operation, with their defaults.
func (o Op) permits() int64  { return max(o.Permits, 1) }
func (o Op) capacity() int64 { return max(o.Capacity, 1) }
