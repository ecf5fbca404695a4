package wire

// A Code tells kinds of problem apart. It is stable; a status or a text is not.
type Code string

// The codes.
const (
	InvalidRequest   Code = "invalid_request"
	NotFound         Code = "not_found"
	MethodNotAllowed Code = "method_not_allowed"
	LockHeld         Code = "lock_held"
	CapacityMismatch Code = "capacity_mismatch"
	LockChanged      Code = "lock_changed"
	LeaseLost        Code = "lease_lost"
	PayloadTooLarge  Code = "payload_too_large"
	QueueFull        Code = "queue_full"
	LockFull         Code = "lock_full"
	Throttled        Code = "throttled"
	StoreUnavailable Code = "store_unavailable"
	Misconfigured    Code = "misconfigured"
	Internal         Code = "internal"
)

// Codes lists every code.
func Codes() []Code {
	return []Code{
		InvalidRequest, NotFound, MethodNotAllowed, LockHeld, CapacityMismatch, LockChanged, LeaseLost, PayloadTooLarge,
		QueueFull, LockFull, Throttled, StoreUnavailable, Misconfigured, Internal,
	}
}

// Status is the HTTP status that goes with the code.
func (c Code) Status() int {
	switch c {
	case InvalidRequest:
		return 400
	case NotFound:
		return 404
	case MethodNotAllowed:
		return 405
	case LockHeld, CapacityMismatch, LockChanged:
		return 409
	case LeaseLost:
		return 410
	case PayloadTooLarge:
		return 413
	case QueueFull, LockFull:
		return 429
	case Throttled, StoreUnavailable:
		return 503
	}
	return 500
}

// Title is the code in words.
func (c Code) Title() string {
	switch c {
	case InvalidRequest:
		return "The request is not valid"
	case NotFound:
		return "There is no such route"
	case MethodNotAllowed:
		return "The route does not take this method"
	case LockHeld:
		return "The lock is held"
	case CapacityMismatch:
		return "The lock is in use with another capacity"
	case LockChanged:
		return "The lock has changed hands"
	case LeaseLost:
		return "The lease is over"
	case PayloadTooLarge:
		return "The request is too large"
	case QueueFull:
		return "The queue is full"
	case LockFull:
		return "The lock's record is full"
	case Throttled:
		return "Too many requests at once"
	case StoreUnavailable:
		return "The store cannot be used"
	case Misconfigured:
		return "The coordinator is not set up right"
	}
	return "Something went wrong inside"
}

// ErrorType is what a direct invocation fails with, for a state machine's Retry and Catch.
func (c Code) ErrorType() string {
	switch c {
	case InvalidRequest, NotFound, MethodNotAllowed, PayloadTooLarge:
		return "InvalidRequest"
	case LockHeld:
		return "LockHeld"
	case CapacityMismatch:
		return "CapacityMismatch"
	case LockChanged:
		return "LockChanged"
	case LeaseLost:
		return "LeaseLost"
	case QueueFull:
		return "QueueFull"
	case LockFull:
		return "LockFull"
	case Throttled:
		return "Throttled"
	case StoreUnavailable:
		return "StoreUnavailable"
	case Misconfigured:
		return "Misconfigured"
	}
	return "Internal"
}

// Problem is every answer that is not a success: RFC 9457, with a code. Holders is there for lock_held; Field names
// what of the request is wrong; RetryAfter is a hint for when to come back; Position is the place in the queue of Waiting.
type Problem struct {
	Type       string          `json:"type"`
	Title      string          `json:"title"`
	Status     int             `json:"status"`
	Detail     string          `json:"detail"`
	Code       Code            `json:"code"`
	Lock       string          `json:"lock,omitempty"`
	Field      string          `json:"field,omitempty"`
	Holders    []ProblemHolder `json:"holders,omitempty"`
	RetryAfter int64           `json:"retry_after_ms,omitempty"`
	Position   int64           `json:"position,omitempty"`
	Waiting    int64           `json:"waiting,omitempty"`
	RequestID  string          `json:"request_id"`
}

// ProblemHolder is who is in the way.
type ProblemHolder struct {
	Owner     string `json:"owner"`
	Fence     int64  `json:"fence"`
	ExpiresAt Time   `json:"expires_at"`
	Remaining int64  `json:"remaining_ms"`
}

// ProblemType is the type member of a problem with a code.
func ProblemType(c Code) string { return "urn:holdfast:problem:" + string(c) }
