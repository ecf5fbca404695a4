package lockclient

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// What went wrong; match with errors.Is. Every error of an operation also matches that of the operation, such as [ErrAcquire].
var (
	// ErrHeld: others hold the lock, and the time to wait is over. The error is or wraps a [*HeldError].
	ErrHeld = errors.New("lock is held")
	// ErrLost: the lease is over: expired, forced out, or not proved in time.
	ErrLost = errors.New("lease is lost")
	// ErrReleased is the cause of a lease's context after Release.
	ErrReleased = errors.New("lease was released")
	// ErrUnavailable: the coordinator could not be reached, or could not use its store, as often as was tried. It may pass.
	ErrUnavailable = errors.New("coordinator is unavailable")
	// ErrRefused: this request will not be served, however often it is sent: it is not valid or not allowed, the lock is in
	// use with another capacity, or the coordinator cannot be reached or cannot work as things are set up (a host name, a
	// certificate, credentials, a missing table). It is never sent again. The text says what to change.
	ErrRefused = errors.New("request is refused")
	// ErrClosed: the client was closed.
	ErrClosed = errors.New("client is closed")

	// ErrAcquire matches every error of Acquire, TryAcquire and Do's acquiring.
	ErrAcquire = errors.New("acquire failed")
	// ErrRenew matches every error of Renew, and the loss of a lease in the background.
	ErrRenew = errors.New("renewal failed")
	// ErrRelease matches every error of Release.
	ErrRelease = errors.New("release failed")
	// ErrForceRelease matches every error of ForceRelease.
	ErrForceRelease = errors.New("force-release failed")
	// ErrStatus matches every error of Status.
	ErrStatus = errors.New("status")
	// ErrWatch matches every error of Watch.
	ErrWatch = errors.New("watch")
	// ErrList matches every error of List.
	ErrList = errors.New("list")
)

// An OpError says which operation on which lock failed.
type OpError struct {
	Op   error  // ErrAcquire, ErrRenew, ErrRelease, ErrForceRelease, ErrStatus, ErrWatch or ErrList
	Lock string // the lock's name, or the prefix of a list
	Err  error
}

func (e *OpError) Error() string {
	if e.Lock == "" {
		return fmt.Sprintf("lockclient: %v: %v", e.Op, e.Err)
	}
	name := e.Lock
	if wire.CheckName(name) != "" { // it may have a line's end in it, or anything else
		name = strconv.Quote(name)
	}
	return fmt.Sprintf("lockclient: %v: %s: %v", e.Op, name, e.Err)
}

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
	Status int    // HTTP; 0 when there is no answer: the client itself refused, or cannot reach the coordinator as it is set up
	Field  string // what of the request is wrong, if one thing is
	Detail string
}

func (e *RefusedError) Error() string {
	if e.Status == 0 {
		return fmt.Sprintf("%v: %s", ErrRefused, e.Detail)
	}
	return fmt.Sprintf("%v (%s): %s", ErrRefused, strings.TrimSpace(fmt.Sprintf("%d %s", e.Status, e.Code)), e.Detail)
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
	after     time.Duration // the coordinator's hint; 0: none
	throttled bool          // it takes fewer requests than it gets
	err       error
}

func (e *unavailable) Error() string        { return fmt.Sprintf("%v: %v", ErrUnavailable, e.err) }
func (e *unavailable) Unwrap() error        { return e.err }
func (e *unavailable) Is(target error) bool { return target == ErrUnavailable }

// problemError turns a problem into an error of this package.
func problemError(p *wire.Problem) error {
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
	if p.Outage() {
		text := fmt.Sprintf("%d %s: %s", p.Status, p.Code, p.Detail)
		if p.RequestID != "" {
			text += fmt.Sprintf(" (request %s)", p.RequestID)
		}
		return &unavailable{after, p.Code == wire.Throttled || p.Status == 429, errors.New(text)}
	}
	return &RefusedError{Code: string(p.Code), Status: p.Status, Field: p.Field, Detail: p.Detail}
}
