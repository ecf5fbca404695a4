package lock

import (
	"context"
	"time"
)

// A Store keeps records and applies commands to them, each in one atomic step.
//
// Errors are [*GuardError] for a guard that does not hold, [*StoreError] or [*ClockError] for faults, and ctx.Err() when
// the context ended. After a fault nobody knows whether the command was applied.
type Store interface {
	// Get reads a record, strongly consistent; Reply.After is the zero Record if there is none.
	Get(ctx context.Context, name string) (Reply, error)
	// Apply runs a command.
	Apply(ctx context.Context, name string, c Command) (Reply, error)
	// Waiters reads the head of a lock's queue, strongly consistent, in the order of tickets: limit of them at most.
	Waiters(ctx context.Context, name string, limit int) ([]Waiter, error)
	// List reads records by name prefix, in pages.
	List(ctx context.Context, q ListQuery) (Page, error)

	// Bound lists the leases and places in queues that were ever bound to an execution, and are not unbound.
	Bound(ctx context.Context, execution string) ([]Binding, error)
	// Unbind forgets them.
	Unbind(ctx context.Context, execution string, list []Binding) error
}

// A Binding is a lease, or a place in a queue, that belongs to an execution.
type Binding struct {
	Lock string
	Key  LeaseKey
}

// A Reply is what a store says of one record.
type Reply struct {
	Before Record // as it was before the command; zero for Get
	After  Record
	// Offset is how far this process's clock provably is from the store's, as told by the very reply: positive when ours
	// is ahead, 0 when they may agree.
	Offset time.Duration
}

// A ListQuery selects records.
type ListQuery struct {
	Prefix    string // of the lock's name; empty: all
	HeldAfter int64  // if not 0: only those whose FreeAt is later than this
	Limit     int    // at most so many on a page
	Cursor    string // where the last page ended; empty: from the start
}

// MaxPageBytes ends a page of a list: past it no record is added. With the largest record it leaves room in the 6 MB that a
// Lambda function may answer.
const MaxPageBytes = 2 << 20

// A Page is part of a list. It may be short, even empty, and still have a Next.
type Page struct {
	Entries []Entry
	Next    string // empty at the end
}

// An Entry is a record in a list.
type Entry struct {
	Name   string
	Record Record
}
