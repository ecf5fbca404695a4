package lockclient

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// The kinds of failure. Match them with errors.Is.
var (
	// ErrHeld means that others hold the lock and the time to wait is over. The error is or wraps a [*HeldError].
	ErrHeld = errors.New("lock is held")
	// ErrFrozen means that an operator has frozen the lock, and that the time to wait ended before the freeze. The error is or wraps a [*HeldError]
	// with a Frozen, and matches ErrHeld, too.
	ErrFrozen = errors.New("lock is frozen")
	// ErrLimit means that a limit, which an operator has set for the lock's prefix, does not allow the request. The error is or wraps a [*LimitError]. If it can never succeed,
	// it matches ErrRefused, too, and the client does not retry it. If it can, since others wait or the caller's own principal holds permits, it is or wraps a [*HeldError]
	// with a Limit, and matches ErrHeld, too. If a limit ended a lease, the loss matches ErrLost, too.
	ErrLimit = errors.New("a limit does not allow it")
	// ErrLost means that the lease has ended: it expired, was forced out, or was not proved to be held in time.
	ErrLost = errors.New("lease is lost")
	// ErrReleased is the cause of a lease's context after Release.
	ErrReleased = errors.New("lease was released")
	// ErrUnavailable means that every try of a request failed because the coordinator could not be reached or could not use its
	// store. It is not known whether the request took effect. A later request may succeed.
	ErrUnavailable = errors.New("coordinator is unavailable")
	// ErrRefused means that the same request will fail again: it is not valid or not allowed, the lock is in use with another
	// capacity, or the coordinator cannot be reached or cannot work as it is configured (a host name, a certificate,
	// credentials, a missing table). The client does not retry it. The text says what to change. The error is or wraps a
	// [*RefusedError].
	ErrRefused = errors.New("request is refused")
	// ErrClosed means that the client was closed.
	ErrClosed = errors.New("client is closed")
)

// The operations that fail. Every error of an operation is an [*OpError] and matches one of them, beside its kind.
var (
	// ErrAcquire matches the errors of Acquire and TryAcquire, and those of Do if the lock was not acquired.
	ErrAcquire = errors.New("acquire failed")
	// ErrRenew matches the errors of Renew, SetMetadata and Adopt, and the loss of a lease in the background.
	ErrRenew = errors.New("renewal failed")
	// ErrRelease matches the errors of Release.
	ErrRelease = errors.New("release failed")
	// ErrForceRelease matches the errors of ForceRelease.
	ErrForceRelease = errors.New("force-release failed")
	// ErrStatus matches the errors of Status.
	ErrStatus = errors.New("status")
	// ErrWatch matches the errors of Watch.
	ErrWatch = errors.New("watch")
	// ErrList matches the errors of List.
	ErrList = errors.New("list")
	// ErrKeepHistory and ErrHistory match the errors of KeepHistory, History and HistoryPage.
	ErrKeepHistory = errors.New("keep history")
	ErrHistory     = errors.New("history")
	// ErrFreeze, ErrUnfreeze and ErrRules match the errors of Freeze, Unfreeze and Rules.
	ErrFreeze   = errors.New("freeze")
	ErrUnfreeze = errors.New("unfreeze")
	ErrRules    = errors.New("rules")
	// ErrSetLimits and ErrRemoveLimits match the errors of SetLimits and RemoveLimits.
	ErrSetLimits    = errors.New("set limits")
	ErrRemoveLimits = errors.New("remove limits")
)

// An OpError is the error of an operation on a lock.
type OpError struct {
	Op   error  // the operation: ErrAcquire, ErrRenew, ErrRelease, ErrForceRelease, ErrStatus, ErrWatch, ErrList, ErrFreeze, ErrUnfreeze, ErrRules, ErrKeepHistory, ErrHistory, ErrSetLimits or ErrRemoveLimits
	Lock string // the lock's name; for List, and for changes of rules, the prefix
	Err  error  // the kind of failure
}

func (e *OpError) Error() string {
	if e.Lock == "" {
		return fmt.Sprintf("lockclient: %v: %v", e.Op, e.Err)
	}
	name := e.Lock
	if wire.CheckName(name) != "" { // it may contain control characters
		name = strconv.Quote(name)
	}
	return fmt.Sprintf("lockclient: %v: %s: %v", e.Op, name, e.Err)
}

// Unwrap returns e.Op and e.Err, so that errors.Is matches both.
func (e *OpError) Unwrap() []error { return []error{e.Op, e.Err} }

// A Holder is the holder of a lock, as a [HeldError] describes it.
type Holder struct {
	Owner     string        // its name for itself; see Config.Owner
	Fence     int64         // the fencing token of its lease
	ExpiresAt time.Time     // its lease's expiry, by the coordinator's clock
	Remaining time.Duration // the time until then, when the coordinator answered

	Traceparent string // the trace context (W3C) of the acquire that was granted; empty if it carried none
}

// A HeldError matches [ErrHeld] and says who holds the lock. If the lock's queue is full, or the caller's principal has as many permits as it may, it has only RetryAfter and
// Limit.
type HeldError struct {
	Holders    []Holder
	RetryAfter time.Duration // the time until the first of the leases expires, unless it is renewed; or a hint, if the queue is full
	Position   int           // the caller's place in the lock's queue, from 1; 0 if it is not in the queue
	Waiting    int           // the number of waiters in the queue
	Frozen     *Freeze       // not nil: nobody is granted the lock before this ends, whether or not it has holders
	Limit      *LimitError   // not nil: the limit that keeps the request out of the queue until others have left it, or the caller's principal has released permits; or the rate that keeps the lock from being granted for RetryAfter

	Lock string // the lock that is held; of a set, the one that holds the set up

	ticket  int64   // for the next poll
	tickets []int64 // of a set
}

// A Freeze is a time in which nobody is granted a lock, as an operator has set it for all locks whose names begin with a prefix.
type Freeze struct {
	Prefix string    // "*" for all locks
	Until  time.Time // by the coordinator's clock
	Since  time.Time
	Reason string
	By     string // the ARN of the operator; empty if API Gateway did not authenticate the request
}

func newFreeze(f *wire.Freeze) *Freeze {
	if f == nil {
		return nil
	}
	return &Freeze{Prefix: f.Prefix, Until: f.Until.Time, Since: f.Since.Time, Reason: f.Reason, By: f.By}
}

func (e *HeldError) Error() string {
	if f := e.Frozen; f != nil {
		text := fmt.Sprintf("%v until %s", ErrFrozen, f.Until.Format(time.RFC3339))
		if f.By != "" {
			text += " by " + f.By
		}
		return text + ": " + f.Reason
	}
	if e.Limit != nil {
		return fmt.Sprintf("%v: %s", ErrHeld, e.Limit.Detail)
	}
	if len(e.Holders) == 0 {
		return ErrHeld.Error()
	}
	h := e.Holders[0]
	return fmt.Sprintf("%v by %q until %s", ErrHeld, h.Owner, h.ExpiresAt.Format(time.RFC3339))
}

// Is reports whether target is [ErrHeld], or [ErrFrozen] if the lock is frozen, or [ErrLimit] if a limit keeps the request out.
func (e *HeldError) Is(target error) bool {
	return target == ErrHeld || target == ErrFrozen && e.Frozen != nil || target == ErrLimit && e.Limit != nil
}

// A LimitError says which limit does not allow a request. By itself, as the error of a request that can never succeed, it matches [ErrLimit] and [ErrRefused].
type LimitError struct {
	Limit  string        // its name in the API: capacity, max_ttl_ms, max_hold_ms, max_queue, max_per_principal or rate
	Value  int64         // of the limit
	Period time.Duration // of a rate: in any such period the lock is granted Value times at most
	Prefix string        // of the rule that sets it; "*" for all locks
	Field  string        // the field of the request that is more than the limit; empty if it is none
	Detail string        // what is wrong and what to do
}

// limitRate is the name of the limit whose text is made here: the coordinator's names fields of the request.
const limitRate = "rate"

// newLimitError is the limit that a problem names; nil if it names none.
func newLimitError(p *wire.Problem) *LimitError {
	if p.Limit == "" && p.Code != wire.LimitExceeded {
		return nil
	}
	e := &LimitError{p.Limit, p.Value, time.Duration(p.Period) * time.Millisecond, p.Prefix, p.Field, p.Detail}
	if e.Limit == limitRate {
		e.Detail = wire.RateText(e.Prefix, e.Value, e.Period, milliseconds(p.RetryAfter))
	}
	return e
}

func (e *LimitError) Error() string { return fmt.Sprintf("%v: %s", ErrLimit, e.Detail) }

// Is reports whether target is [ErrLimit] or [ErrRefused].
func (e *LimitError) Is(target error) bool { return target == ErrLimit || target == ErrRefused }

// An ended is the loss of a lease that a limit ended.
type ended struct{ limit *LimitError }

func (e *ended) Error() string        { return fmt.Sprintf("%v: %s", ErrLost, e.limit.Detail) }
func (e *ended) Is(target error) bool { return target == ErrLost || target == ErrLimit }

// A RefusedError matches [ErrRefused] and says what is wrong.
type RefusedError struct {
	Code   string // the code of the coordinator's answer (see docs/openapi.yaml); empty if the answer was another's, such as API Gateway's
	Status int    // the HTTP status; 0 if there was no answer: the client refused the request, or cannot reach the coordinator
	Field  string // the field of the request that is wrong; empty if it is none
	Detail string // what is wrong and what to change
}

func (e *RefusedError) Error() string {
	if e.Status == 0 {
		return fmt.Sprintf("%v: %s", ErrRefused, e.Detail)
	}
	return fmt.Sprintf("%v (%s): %s", ErrRefused, strings.TrimSpace(fmt.Sprintf("%d %s", e.Status, e.Code)), e.Detail)
}

// refused returns the error of a request that the client does not send.
func refused(field, format string, args ...any) error {
	return &RefusedError{Code: string(wire.InvalidRequest), Field: field, Detail: fmt.Sprintf(format, args...)}
}

// Is reports whether target is [ErrRefused].
func (e *RefusedError) Is(target error) bool { return target == ErrRefused }

// An unavailable is the error of a try without an answer. The same request may be sent again. It is not known whether the request
// took effect.
type unavailable struct {
	after     time.Duration // when to send it again, as the answer says; 0 if it does not
	throttled bool          // too many requests arrive at once
	err       error
}

func isUnavailable(err error) bool {
	_, ok := errors.AsType[*unavailable](err)
	return ok
}

func (e *unavailable) Error() string        { return fmt.Sprintf("%v: %v", ErrUnavailable, e.err) }
func (e *unavailable) Unwrap() error        { return e.err }
func (e *unavailable) Is(target error) bool { return target == ErrUnavailable }

// Limits of the numbers of a problem, far above those of a coordinator's: a queue has 500 places, and a lease lasts for 367 days at most.
// The answer may be another server's. Larger numbers would overflow where pauses are computed from them.
const (
	maxPosition = 10_000
	maxAfter    = 400 * 24 * time.Hour
)

func position(n int64) int { return int(min(max(n, 0), maxPosition)) }

func milliseconds(n int64) time.Duration {
	return time.Duration(min(max(n, 0), maxAfter.Milliseconds())) * time.Millisecond
}

// problemError returns the error of this package for a problem that the coordinator answered.
func problemError(p *wire.Problem) error {
	after := milliseconds(p.RetryAfter)
	switch p.Code {
	case wire.LockHeld, wire.Frozen:
		e := &HeldError{
			RetryAfter: after, Position: position(p.Position), Waiting: position(p.Waiting), Frozen: newFreeze(p.Freeze), Lock: p.Lock, Limit: newLimitError(p),
			ticket: p.Ticket, tickets: p.Tickets,
		}
		if p.Code == wire.Frozen && e.Frozen == nil { // not a coordinator's
			e.Frozen = &Freeze{Until: time.Now().Add(after)}
		}
		for _, h := range p.Holders {
			e.Holders = append(e.Holders, Holder{h.Owner, h.Fence, h.ExpiresAt.Time, milliseconds(h.Remaining), h.Traceparent})
		}
		return e
	case wire.LeaseLost:
		if limit := newLimitError(p); limit != nil {
			return &ended{limit}
		}
		return ErrLost
	case wire.QueueFull:
		return &HeldError{RetryAfter: after, Limit: newLimitError(p)}
	case wire.LimitExceeded:
		if after == 0 {
			return newLimitError(p)
		}
		return &HeldError{RetryAfter: after, Limit: newLimitError(p)}
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
