package lock

import (
	"context"
	"time"
)

// A Store keeps records and applies commands to them, each in one atomic step. It must be safe for concurrent use. Package
// storetest checks an implementation.
//
// Errors are a [*GuardError] for a guard that does not hold, a [*StoreError] or a [*ClockError] for faults, and ctx.Err()
// after the context ended. After a fault it is unknown whether the command was applied.
type Store interface {
	// Get reads a record with a consistent read. Reply.After is the zero Record if there is none.
	Get(ctx context.Context, name string) (Reply, error)
	// Apply runs a command on a record.
	Apply(ctx context.Context, name string, c Command) (Reply, error)
	// Apply of a [Keep] answers with the Offset alone.

	// ApplyAll runs commands on the records of different locks in one atomic step: all or none. Apply is its case of one. It returns the
	// Offset of the reply. The [*GuardError] of a refusal has no record: the commands must be decided on again.
	ApplyAll(ctx context.Context, parts []Part) (offset time.Duration, err error)
	// Read reads records of different locks, and a waiter of each if it has the ticket asked for. Each item is read consistently; they may be
	// read at different times. Poll is its case of one.
	Read(ctx context.Context, list []Ask) (seen []Seen, offset time.Duration, err error)

	// Waiters reads the head of a lock's queue with a consistent read: up to limit waiters, in the order of their tickets.
	Waiters(ctx context.Context, name string, limit int) ([]Waiter, error)
	// Place reads the place of a lease in a lock's queue with consistent reads; the zero Waiter if it has none. A store may leave out
	// waiters that were among the first [QueueHead] when they joined: Waiters shows these.
	Place(ctx context.Context, name string, key LeaseKey) (Waiter, error)
	// Poll reads a record and the waiter with a ticket; the zero Waiter if there is none. Each is read consistently; they may be
	// read at different times.
	Poll(ctx context.Context, name string, ticket int64) (Reply, Waiter, error)
	// List reads records by name prefix, in pages.
	List(ctx context.Context, q ListQuery) (Page, error)

	// Texts reads the texts of leases that are [Split], by their fencing tokens. A lease whose texts are not there is left out.
	Texts(ctx context.Context, name string, fences []int64) (map[int64]Texts, error)

	// PrefixRules reads all prefix rules with a consistent read, also the empty ones that are still kept.
	PrefixRules(ctx context.Context) ([]PrefixRule, error)
	// PutPrefixRule stores a prefix rule if the stored one has the revision before; without a stored one that is 0. Otherwise the error is
	// [ErrRuleChanged].
	PutPrefixRule(ctx context.Context, rule PrefixRule) error

	// PutHistory stores entries of a lock's history until keep after their time. An entry that is there is replaced.
	PutHistory(ctx context.Context, name string, entries []HistoryEntry, keep time.Duration) error
	// History reads entries of a lock's history in the order of their keys; more says that there may be further ones. It may be a second behind.
	History(ctx context.Context, q HistoryQuery) (list []HistoryEntry, more bool, err error)

	// Bound lists the leases and places in queues that were bound to an execution and are not unbound. Apply binds them.
	Bound(ctx context.Context, execution string) ([]Binding, error)
	// Unbind removes bindings.
	Unbind(ctx context.Context, execution string, list []Binding) error
}

// A Part is one of the commands of an atomic step.
type Part struct {
	Lock    string
	Command Command
	Read    Record // as the command was decided on. For a command other than a swap it may have changed since
}

// after is the record as the part leaves it, with the queue as far as it was read.
func (p Part) after() Record {
	after := p.Command.Next(p.Read)
	if become, ok := p.Command.Effect.(Become); ok {
		after.Queue, after.Own, after.hold = become.To.Queue, become.To.Own, become.To.hold
	}
	return after
}

// An Ask names a record, and a waiter of its queue by the ticket; 0: none.
type Ask struct {
	Lock   string
	Ticket int64
}

// Seen is the answer to an [Ask]. Record is the zero Record if there is none, and Waiter the zero Waiter.
type Seen struct {
	Record Record
	Waiter Waiter
}

// A Binding is the lease, or the place in a queue, of an execution. A set has one, of its first lock.
type Binding struct {
	Lock string
	Key  LeaseKey
	Set  string // the names of the set's locks: see [SetNames]; empty: a single lock
}

// A Reply is a store's answer about one record.
type Reply struct {
	Before Record // as it was before the command; zero for Get
	After  Record
	// Offset is how far this process's clock is from the store's, at least, as this reply proves it: positive if this
	// process is ahead, 0 if the clocks may agree.
	Offset time.Duration
}

// A ListQuery selects records.
type ListQuery struct {
	Prefix    string // of the lock's name; empty: all
	HeldAfter int64  // Unix milliseconds; if not 0: only records that have waiters, or whose FreeAt is later
	Limit     int    // of records on a page
	Cursor    string // the Next of the page before; empty: the first page
}

// Selects reports whether a record is of those that the query asks for, whatever its name.
func (q ListQuery) Selects(r Record) bool {
	return q.HeldAfter == 0 || r.FreeAt > q.HeldAfter || r.Waiting > 0
}

// MaxPageBytes is the size, by [Record.Size], after which no record is added to a page. With the largest record more, a page
// fits the 6 MB that a Lambda function may return.
const MaxPageBytes = 2 << 20

// A Page is part of a list. It may be short or empty and still have a Next.
type Page struct {
	Entries []Entry
	Next    string // the cursor of the next page; empty on the last one
}

// An Entry is a record in a list.
type Entry struct {
	Name   string
	Record Record
}
