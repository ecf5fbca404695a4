package lockclient

import (
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// What went wrong; match with errors.Is. Every error of an operation also matches one of [ErrAcquire], [ErrRenew] and
// [ErrRelease], by which operation it was.
var (
	// ErrHeld: others hold the lock, and the time to wait is over. The error is or wraps a [*HeldError].
	ErrHeld = errors.New("lock is held")
	// ErrLost: the lease is over: expired, forced out, or not proved in time.
	ErrLost = errors.New("lease is lost")
	// ErrReleased is the cause of a lease's context after Release.
	ErrReleased = errors.New("lease was released")
	// ErrUnavailable: the coordinator could not be reached, or could not use its store, as often as was tried.
	ErrUnavailable = errors.New("coordinator is unavailable")
	// ErrRefused: the coordinator will not serve this request, however often it is sent: not valid, not allowed, or the
	// lock is in use with another capacity. The text says what to change.
	ErrRefused = errors.New("request is refused")
	// ErrClosed: the client was closed.
	ErrClosed = errors.New("client is closed")

	// ErrAcquire matches every error of Acquire, TryAcquire and Do's acquiring.
	ErrAcquire = errors.New("acquire failed")
	// ErrRenew matches every error of Renew, and the loss of a lease in the background.
	ErrRenew = errors.New("renewal failed")
	// ErrRelease matches every error of Release.
	ErrRelease = errors.New("release failed")
)

// An OpError says which operation on which lock failed.
type OpError struct {
	Op   error // ErrAcquire, ErrRenew or ErrRelease
	Lock string
	Err  error
}

func (e *OpError) Error() string { return fmt.Sprintf("lockclient: %v: %s: %v", e.Op, e.Lock, e.Err) }

// Unwrap gives the operation and the cause.
func (e *OpError) Unwrap() []error { return []error{e.Op, e.Err} }

// A Holder is who has a lock.
type Holder struct {
	Owner     string
	Fence     int64
	ExpiresAt time.Time     // by the coordinator's clock
	Remaining time.Duration // when the coordinator answered
}

// A HeldError is an [ErrHeld] with who is in the way.
type HeldError struct {
	Holders    []Holder
	RetryAfter time.Duration // until the first of them expires, at the latest
	Position   int           // this caller's place in the lock's queue, from 1; 0: not in it
	Waiting    int           // how many are in it
}

func (e *HeldError) Error() string {
	if len(e.Holders) == 0 {
		return ErrHeld.Error()
	}
	h := e.Holders[0]
	return fmt.Sprintf("%v by %q until %s", ErrHeld, h.Owner, h.ExpiresAt.Format(time.RFC3339))
}

// Is makes it an [ErrHeld].
func (e *HeldError) Is(target error) bool { return target == ErrHeld }

// A RefusedError is an [ErrRefused] as the coordinator put it.
type RefusedError struct {
	Code   string // the wire code, or "" when the answer was not the coordinator's (a gateway's 403, say)
	Status int    // HTTP; 0 when the client itself refused, and sent nothing
	Field  string // what of the request is wrong, if one thing is
	Detail string
}

func (e *RefusedError) Error() string {
	if e.Status == 0 {
		return fmt.Sprintf("%v: %s", ErrRefused, e.Detail)
	}
	return fmt.Sprintf("%v (%d %s): %s", ErrRefused, e.Status, e.Code, e.Detail)
}

// refused is what the client itself will not send.
func refused(field, format string, args ...any) error {
	return &RefusedError{Code: string(wire.InvalidRequest), Field: field, Detail: fmt.Sprintf(format, args...)}
}

// Is makes it an [ErrRefused].
func (e *RefusedError) Is(target error) bool { return target == ErrRefused }

// unavailable is a try that came to nothing, where the same request may be sent again. Whether it was carried out is
// not known.
type unavailable struct {
	after time.Duration // the coordinator's hint; 0: none
	err   error
}

func (e *unavailable) Error() string        { return fmt.Sprintf("%v: %v", ErrUnavailable, e.err) }
func (e *unavailable) Unwrap() error        { return e.err }
func (e *unavailable) Is(target error) bool { return target == ErrUnavailable }

// noAnswer is what a transport's error means.
func noAnswer(err error) error {
	if _, final := errors.AsType[*RefusedError](err); final {
		return err
	}
	return &unavailable{err: err}
}

// problemError turns a problem into an error of this package.
func problemError(p wire.Problem) error {
	after := time.Duration(p.RetryAfter) * time.Millisecond
	switch p.Code {
	case wire.LockHeld:
		e := &HeldError{RetryAfter: after, Position: int(p.Position), Waiting: int(p.Waiting)}
		for _, h := range p.Holders {
			e.Holders = append(e.Holders, Holder{h.Owner, h.Fence, h.ExpiresAt.Time, time.Duration(h.Remaining) * time.Millisecond})
		}
		return e
	case wire.LeaseLost:
		return ErrLost
	case wire.QueueFull:
		return &HeldError{RetryAfter: after}
	}
	if p.Status >= 500 || p.Status == 429 {
		return &unavailable{after, fmt.Errorf("%d %s: %s (request %s)", p.Status, p.Code, p.Detail, p.RequestID)}
	}
	return &RefusedError{Code: string(p.Code), Status: p.Status, Field: p.Field, Detail: p.Detail}
}
