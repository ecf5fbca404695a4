package wire

// A Code names a kind of problem. Programs match on the code: it is stable, while the status and the texts of a problem may
// change.
type Code string

// The codes.
const (
	InvalidRequest   Code = "invalid_request"
	NotFound         Code = "not_found"
	MethodNotAllowed Code = "method_not_allowed"
	LockHeld         Code = "lock_held"
	Frozen           Code = "frozen"
	RuleChanged      Code = "rule_changed"
	TooManyRules     Code = "too_many_rules"
	CapacityMismatch Code = "capacity_mismatch"
	MorePermits      Code = "more_permits"
	LimitExceeded    Code = "limit_exceeded"
	LockChanged      Code = "lock_changed"
	LeaseLost        Code = "lease_lost"
	PayloadTooLarge  Code = "payload_too_large"
	NotifyRefused    Code = "notify_refused"
	QueueFull        Code = "queue_full"
	LockFull         Code = "lock_full"
	Throttled        Code = "throttled"
	StoreUnavailable Code = "store_unavailable"
	Misconfigured    Code = "misconfigured"
	Internal         Code = "internal"
)

// codes is the table of codes.
var codes = []struct {
	code      Code
	status    int    // of the HTTP response
	errorType string // of a direct invocation's error
	outage    bool   // see [Problem.Outage]
	title     string
}{
	{InvalidRequest, 400, "InvalidRequest", false, "The request is not valid"},
	{NotFound, 404, "InvalidRequest", false, "There is no such route"},
	{MethodNotAllowed, 405, "InvalidRequest", false, "The route does not take this method"},
	{LockHeld, 409, "LockHeld", false, "The lock is held"},
	{Frozen, 409, "Frozen", false, "The lock is frozen"},
	{RuleChanged, 409, "RuleChanged", false, "The rule has changed"},
	{TooManyRules, 409, "TooManyRules", false, "There are too many rules"},
	{CapacityMismatch, 409, "CapacityMismatch", false, "The lock is in use with another capacity"},
	{MorePermits, 409, "MorePermits", false, "A lease cannot get more permits"},
	{LimitExceeded, 409, "LimitExceeded", false, "A limit does not allow the request"},
	{LockChanged, 409, "LockChanged", false, "The lock has changed hands"},
	{LeaseLost, 410, "LeaseLost", false, "The lease is over"},
	{PayloadTooLarge, 413, "InvalidRequest", false, "The request is too large"},
	{NotifyRefused, 422, "NotifyRefused", false, "Waiters are not notified here"},
	{QueueFull, 429, "QueueFull", false, "The queue is full"},
	{LockFull, 429, "LockFull", false, "The lock's record is full"},
	{Throttled, 503, "Throttled", true, "Too many requests at once"},
	{StoreUnavailable, 503, "StoreUnavailable", true, "The store cannot be used"},
	{Misconfigured, 500, "Misconfigured", false, "The coordinator is not set up right"},
	{Internal, 500, "Internal", true, "Something went wrong inside"}, // last: the row of codes that are not in the table
}

// Codes lists every code.
func Codes() []Code {
	list := make([]Code, len(codes))
	for i, row := range codes {
		list[i] = row.code
	}
	return list
}

// row is the index of the code in codes; that of [Internal] for a code of a newer version.
func (c Code) row() int {
	for i, row := range codes {
		if row.code == c {
			return i
		}
	}
	return len(codes) - 1
}

// Status returns the HTTP status of a problem with this code: 500 if the code is unknown.
func (c Code) Status() int { return codes[c.row()].status }

// Title returns the code in words.
func (c Code) Title() string { return codes[c.row()].title }

// ErrorType returns the errorType that a direct invocation fails with. The Retry and Catch fields of a state machine match it.
func (c Code) ErrorType() string { return codes[c.row()].errorType }
