package lock

import (
	"errors"
	"fmt"
	"time"
)

// The kinds of error that operations return; match them with errors.Is. The first seven are answers, not faults, and are not
// logged as errors.
var (
	// ErrLockHeld: other leases hold the lock. The error is a [*HeldError].
	ErrLockHeld = errors.New("lock is held")
	// ErrLeaseLost: the lease expired, was released or force-released, or never existed.
	ErrLeaseLost = errors.New("lease is lost")
	// ErrCapacityMismatch: the lock is in use with another capacity. The error is a [*CapacityError].
	ErrCapacityMismatch = errors.New("lock is in use with another capacity")
	// ErrMorePermits: the lease has fewer permits than the request names. A lease never gets more: two holders that both wait for more would
	// wait for each other.
	ErrMorePermits = errors.New("lease cannot get more permits")
	// ErrLockChanged: no lease has the fencing token that a force-release names.
	ErrLockChanged = errors.New("no holder has that fence")
	// ErrQueueFull: the lock has [MaxQueue] waiters.
	ErrQueueFull = errors.New("queue is full")
	// ErrLockFull: the lock's record has no room for what the request would add. The error is a [*FullError].
	ErrLockFull = errors.New("lock's record is full")

	// ErrNothingToRepair: the lock's fencing token is not so far ahead of time that it needs a repair.
	ErrNothingToRepair = errors.New("the lock's fencing token is not ahead of time; there is nothing to repair")

	// ErrTold: the callbacks of a grant were answered before; nothing is left to send.
	ErrTold = errors.New("the callbacks of the grant were answered before")

	// ErrSuperseded: a grant has other tokens than the ones that a callback is for.
	ErrSuperseded = errors.New("another token waits for the grant")

	// ErrThrottled: the store throttled the request, or other writes of the record came first too often. It is unknown
	// whether the write was applied. The same request may be sent again.
	ErrThrottled = errors.New("store is throttled")
	// ErrUnavailable: the store did not answer, or the clocks disagree. It is unknown whether the write was applied. The
	// same request may be sent again.
	ErrUnavailable = errors.New("store is unavailable")
	// ErrMisconfigured: the store cannot work as it is set up: the table is missing or has the wrong keys, access is denied,
	// the credentials are not valid or have expired, or the store refused a request as malformed. Nothing was written. The
	// same request fails again until the set-up is changed.
	ErrMisconfigured = errors.New("store is not set up right")
	// ErrBadCursor: a list was given a cursor that this store did not return.
	ErrBadCursor = errors.New("cursor is not one that a list answered")
)

// A HeldError is the answer to an acquire that must wait.
type HeldError struct {
	Holders    []Lease // oldest grant first
	Now        int64   // the coordinator's clock when it decided, Unix milliseconds
	RetryAfter time.Duration
	Position   int64       // in the queue, from 1; 0: not in it
	Ticket     int64       // of the place, for the next poll; 0: none
	Waiting    int64       // how many are in the queue
	Full       bool        // with a Freeze: the queue has no room for the request
	Rate       *LimitError // not nil: permits are free, but nobody is granted the lock before RetryAfter
	Freeze     *Freeze     // not nil: nobody is granted the lock until the freeze ends, whether or not it has holders

	// Of a set of locks:
	Lock    string  // the lock that holds the set up, which Holders, RetryAfter, Waiting and Freeze are about
	Tickets []int64 // of its places, for the next poll; Position is the last of those in its queues
}

func (e *HeldError) Error() string {
	if e.Freeze != nil {
		return fmt.Sprintf("lock is frozen until %v: %s", time.UnixMilli(e.Freeze.Until).UTC().Format(time.RFC3339), e.Freeze.Reason)
	}
	return fmt.Sprintf("%v by %d lease(s); retry after %v", ErrLockHeld, len(e.Holders), e.RetryAfter)
}

// Is makes it an [ErrLockHeld].
func (e *HeldError) Is(target error) bool { return target == ErrLockHeld }

// A CapacityError is the answer to an acquire that does not wait and that names another capacity than the lock in use has.
type CapacityError struct {
	Capacity int64  // the smallest that a holder named; of a lock without holders, the last one
	Asked    int64  // by this request
	Owner    string // of the first holder that named Capacity; empty: unknown
	Rule     Limit  // that set Asked; the zero Limit: the caller did
}

func (e *CapacityError) Error() string {
	return fmt.Sprintf("%v: it has %d permit(s) until it is free, and the request wants it to have %d", ErrCapacityMismatch, e.Capacity, e.Asked)
}

// Is makes it an [ErrCapacityMismatch].
func (e *CapacityError) Is(target error) bool { return target == ErrCapacityMismatch }

// A FullError is the answer to a request whose lease, token or metadata has no room in the lock's record. Nothing was written.
// The same request can succeed after other leases have ended.
type FullError struct {
	Size int64 // bytes that the record would have
	Most int64 // bytes that it may have
}

func (e *FullError) Error() string {
	return fmt.Sprintf("%v: it would have %d bytes, and may have %d", ErrLockFull, e.Size, e.Most)
}

// Is makes it an [ErrLockFull].
func (e *FullError) Is(target error) bool { return target == ErrLockFull }

// A StoreError is a fault of the store. The What and Fix of an [ErrMisconfigured] are shown to callers: they name nothing but
// the table, and contain no secret.
type StoreError struct {
	Kind error  // ErrThrottled, ErrUnavailable or ErrMisconfigured
	What string // what went wrong, for the log
	Fix  string // what a person can do about it
	Err  error  // the cause, if there is one
}

func (e *StoreError) Error() string {
	s := fmt.Sprintf("%v: %s", e.Kind, e.What)
	if e.Fix != "" {
		s += " (" + e.Fix + ")"
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives the kind and the cause.
func (e *StoreError) Unwrap() []error { return []error{e.Kind, e.Err} }

// A ClockError says that this process's clock differs from the store's by more than [MaxClockError].
type ClockError struct{ Offset time.Duration } // positive: this process is ahead

func (e *ClockError) Error() string {
	return fmt.Sprintf("this coordinator's clock is off by at least %v against the store's; it grants nothing until it is right (at more than %v off never)", e.Offset, MaxClockOffset)
}

// Is makes it an [ErrUnavailable].
func (e *ClockError) Is(target error) bool { return target == ErrUnavailable }

// A GuardError is a store's answer to a command whose guard does not hold. Nothing was written.
type GuardError struct {
	Current Record // as it is stored; the zero Record if there is none. Of a [Keep]: not read
	Offset  time.Duration
	Places  bool // a waiter is not as the command expects
}

func (e *GuardError) Error() string {
	return fmt.Sprintf("guard does not hold at rev %d", e.Current.Rev)
}
