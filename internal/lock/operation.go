package lock

import "time"

// A seeker is a decider that must know whether a lease has a place in the queue, wherever that is.
type seeker interface {
	// place is the key of that lease, given the record; empty if the record decides alone.
	place(r Record) LeaseKey
}

// An operation is one request at a coordinator, as a step machine without I/O. The coordinator drives it over a store, the
// explorer in the tests over a model of one. Every step reads the clock again.
type operation interface {
	// first returns the optimistic command, which is sent before the record was read.
	first(now time.Time) Command
	decider
}

// A decider is the part of an operation that decides on a record that was read.
type decider interface {
	// next returns the command to try on the record as it is stored, or nil and the outcome. A nil command with a nil error
	// means that the record shows the operation done.
	next(now time.Time, r Record) (*Command, error)
	// waiters is how many waiters at the head of the queue next must see.
	waiters(r Record) int
}

// A GrantRef names one grant.
type GrantRef struct {
	Lock  string
	Key   LeaseKey
	Fence int64
}

// in finds the grant in a record; false: it is over.
func (g GrantRef) in(r Record) (Lease, bool) {
	l, held := r.Holders[g.Key]
	return l, held && l.Fence == g.Fence
}
