package lock

import (
	"errors"
	"fmt"
	"time"
)

// The kinds of error that operations return; match them with errors.Is. The first six are answers, not faults: the
// system works, and they are never logged as errors.
var (
	// ErrLockHeld: others hold the lock; the error is a [*HeldError].
	ErrLockHeld = errors.New("lock is held")
	// ErrLeaseLost: the lease is over (expired, released, forced out) or never was.
	ErrLeaseLost = errors.New("lease is lost")
	// ErrCapacityMismatch: the lock is in use with another capacity; the error is a [*CapacityError].
	ErrCapacityMismatch = errors.New("lock is in use with another capacity")
	// ErrLockChanged: no holder has the fence given for a force-release (any more).
	ErrLockChanged = errors.New("no holder has that fence")
	// ErrQueueFull: [MaxQueue] wait for the lock already.
	ErrQueueFull = errors.New("queue is full")
	// ErrLockFull: what the request would add does not fit the lock's record; the error is a [*FullError].
	ErrLockFull = errors.New("lock's record is full")

	// ErrNothingToRepair: the lock's fencing token is not ahead of time.
	ErrNothingToRepair = errors.New("the lock's fencing token is not ahead of time; there is nothing to repair")

	// ErrSuperseded: a grant has other tokens than the one that was to be told.
	ErrSuperseded = errors.New("another token waits for the grant")

	// ErrThrottled: the store, or contention on one record, allowed no more writes for now. Whether the write happened
	// is not known; the same request may be sent again.
	ErrThrottled = errors.New("store is throttled")
	// ErrUnavailable: the store did not answer, or the clocks disagree. Whether the write
	// happened is not known; the same request may be sent again.
	ErrUnavailable = errors.New("store is unavailable")
	// ErrMisconfigured: the store can never work as it is set up: the table is missing or has the wrong keys, access is denied,
	// the credentials are not valid or have expired, or the store refused a request as malformed. Nothing was written, and
	// sending the same request again fails in the same way until a person mends the set-up.
	ErrMisconfigured = errors.New("store is not set up right")
	// ErrBadCursor: a list cursor that this store did not make.
	ErrBadCursor = errors.New("cursor is not one that a list answered")
)

// A HeldError is the answer to an acquire that must wait.
type HeldError struct {
	Holders    []Lease // oldest grant first
	Now        int64   // the coordinator's clock when it decided, Unix milliseconds
	RetryAfter time.Duration
	Position   int64 // in the queue, from 1; 0: not in it
	Waiting    int64 // how many are in the queue
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("%v by %d lease(s); retry after %v", ErrLockHeld, len(e.Holders), e.RetryAfter)
}

// Is makes it an [ErrLockHeld].
func (e *HeldError) Is(target error) bool { return target == ErrLockHeld }

// A CapacityError is the answer to an acquire that does not wait and names another capacity than the lock has in use.
type CapacityError struct{ Capacity int64 }

func (e *CapacityError) Error() string {
	return fmt.Sprintf("%v: it has %d permit(s) until it is free", ErrCapacityMismatch, e.Capacity)
}

// Is makes it an [ErrCapacityMismatch].
func (e *CapacityError) Is(target error) bool { return target == ErrCapacityMismatch }

// A FullError is the answer to a request whose metadata or token does not fit the lock's record beside what is stored there.
// Nothing was written; the same request succeeds when others have left.
type FullError struct {
	Size int64 // bytes that the record would have
	Most int64 // bytes that it may have
}

func (e *FullError) Error() string {
	return fmt.Sprintf("%v: it would have %d bytes, and may have %d", ErrLockFull, e.Size, e.Most)
}

// Is makes it an [ErrLockFull].
func (e *FullError) Is(target error) bool { return target == ErrLockFull }

// A StoreError is a fault of the store or of what it stands on. The What and Fix of an [ErrMisconfigured] are shown to
// callers: they name the table at most, and carry no secret.
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

// A ClockError says that this process's clock provably disagrees with the store's by more than [MaxClockError].
type ClockError struct{ Offset time.Duration } // positive: ours is ahead

func (e *ClockError) Error() string {
	return fmt.Sprintf("this coordinator's clock is off by at least %v against the store's; it grants nothing until it is right (at more than %v off never)", e.Offset, MaxClockOffset)
}

// Is makes it an [ErrUnavailable].
func (e *ClockError) Is(target error) bool { return target == ErrUnavailable }

// A GuardError is a store's answer to a command whose guard does not hold; nothing was written.
type GuardError struct {
	Current Record // as it is stored; the zero Record if there is none
	Offset  time.Duration
}

func (e *GuardError) Error() string {
	return fmt.Sprintf("guard does not hold at rev %d", e.Current.Rev)
}
