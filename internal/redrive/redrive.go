// Package redrive does what an operator asks for after something was lost: it handles the dead letters again, and sweeps the table for what
// nobody will free or tell. In both it goes by what the table says now, so that everything it does may be done twice. The redrive function
// and the command (doctor, redrive) use it.
package redrive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/poller"
	"github.com/holdfast-lock/holdfast/internal/stream"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// The kinds of work of a [Request].
const (
	WorkLetters = "letters" // handle the messages of the dead-letter queue
	WorkSweep   = "sweep"   // sweep the table
)

// A Request asks for some work. The zero Apply shows what would be done and changes nothing.
type Request struct {
	Work  string `json:"work"`
	Apply bool   `json:"apply,omitzero"`

	// Of letters. Swept are the messages of lost ranges of the stream whose windows were given to a sweep that has mended the whole table since: they
	// have been dealt with, and are deleted. No others are: the sweep did not name their events, and may have read a lock before its record
	// was lost. Discard deletes messages that can never be handled.
	Limit   int      `json:"limit,omitzero"` // messages at most; 0: 1,000
	Swept   []string `json:"swept,omitzero"`
	Discard bool     `json:"discard,omitzero"`

	// Of a sweep. Lost are the times in which records of the stream were lost: the sweep names the events that may be missing, and sets the timers
	// again that may be. Timers sets those of all live leases again, which costs each a message, an invocation and a read for each TTL that its lease
	// lives, also if the lease has another timer.
	Prefix string   `json:"prefix,omitzero"` // of the locks' names
	Cursor string   `json:"cursor,omitzero"` // of the answer before
	Lost   []Window `json:"lost,omitzero"`
	Timers bool     `json:"timers,omitzero"`
}

// A Window is a time in which records of the stream were lost.
type Window struct {
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Message string    `json:"message,omitzero"` // the id of the dead letter that says so
}

// An Answer says what was done.
type Answer struct {
	Outcomes []Outcome `json:"outcomes"`
	More     bool      `json:"more,omitzero"`   // of letters: the limit or the time ended before the messages did
	Cursor   string    `json:"cursor,omitzero"` // of a sweep: where to go on; empty at the end
	Locks    int       `json:"locks,omitzero"`  // of a sweep: how many locks it has seen
	Items    int       `json:"items,omitzero"`  // how many items it has read
	Units    float64   `json:"units,omitzero"`  // the read units of its scans
	Timers   int       `json:"timers,omitzero"` // how many timers of live leases it has set again
	Lost     []Window  `json:"lost,omitzero"`   // of letters: ranges of the stream that only a sweep can make good
}

// An Outcome is what became of one message, or of one finding of a sweep.
type Outcome struct {
	Message string   `json:"message,omitzero"` // the id of a dead letter
	What    string   `json:"what"`             // what kind of work it is
	Lock    string   `json:"lock,omitzero"`
	State   State    `json:"state"`
	Detail  string   `json:"detail"`
	Fix     string   `json:"fix,omitzero"`  // what is left to a person
	Lost    []string `json:"lost,omitzero"` // events that are lost, or may be
	Deleted bool     `json:"deleted,omitzero"`
}

// A State says how far a piece of work is.
type State string

// The states.
const (
	Due       State = "due"       // it would be done with Apply
	Done      State = "done"      // it was done now
	Pointless State = "pointless" // the table says that there is nothing to do any more
	Kept      State = "kept"      // it is left to a person, or to a sweep
	Failed    State = "failed"    // it was tried, and must be tried again
)

// over reports whether nothing is left to do.
func (s State) over() bool { return s == Done || s == Pointless }

// A Redriver does the work. The parts that are nil limit what it can mend.
type Redriver struct {
	Store       *dynamo.Store
	Coordinator *lock.Coordinator
	Expirer     *stream.Expirer  // does jobs. It needs its Coordinator; its Consumer has Callbacks, a Bus and Timers, or tasks, events and timers are left
	Letters     stream.Letters   // the dead letters; nil: there is only the sweep
	Range       RangeReader      // nil: the stream's records are not read again
	Clock       func() time.Time // nil: time.Now
	// ScansPerAnswer is after how many Scan requests, of up to a thousand items each, a sweep answers with a cursor; 0: only when its time is
	// over.
	ScansPerAnswer int

	pause func(context.Context, time.Duration) error // nil: wait; tests do not
}

// A RangeReader reads the records of a range of the stream; [poller.ErrTrimmed] says that they are gone.
type RangeReader func(ctx context.Context, r poller.Range) ([]stream.Write, error)

func (r *Redriver) now() time.Time {
	if r.Clock != nil {
		return r.Clock()
	}
	return time.Now()
}

// wait waits, or returns the context's error.
func (r *Redriver) wait(ctx context.Context, d time.Duration) error {
	if r.pause != nil {
		return r.pause(ctx, d)
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// margin is the part of the time of ctx that is kept for the answer.
const margin = 15 * time.Second

// late reports whether the context ends within a margin, so that no further work should begin.
func late(ctx context.Context, margin time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && time.Until(deadline) < margin
}

// Handle does the work of a request in JSON: it is the handler of the redrive function. An error names the field that is wrong.
func (r *Redriver) Handle(ctx context.Context, raw json.RawMessage) (Answer, error) {
	var req Request
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&req); err != nil {
		return Answer{}, fmt.Errorf("redrive: the request cannot be read: %w; the command `holdfast redrive` writes it", err)
	}
	return r.Do(ctx, req)
}

// Do does the work of a request.
func (r *Redriver) Do(ctx context.Context, req Request) (Answer, error) {
	switch {
	case req.Limit < 0:
		return Answer{}, fmt.Errorf("redrive: limit is %d; give a number of messages, or 0 for %d", req.Limit, defaultLimit)
	case req.Work == WorkSweep && wire.CheckPrefix(req.Prefix) != "":
		return Answer{}, fmt.Errorf("redrive: prefix %s", wire.CheckPrefix(req.Prefix))
	case req.Work == WorkSweep:
		return r.sweep(ctx, req)
	case req.Work == WorkLetters && r.Letters == nil:
		return Answer{}, errors.New("redrive: there is no dead-letter queue here; ask for a sweep")
	case req.Work == WorkLetters:
		return r.letters(ctx, req)
	}
	return Answer{}, fmt.Errorf("redrive: work is %q; it must be %q or %q", req.Work, WorkLetters, WorkSweep)
}
