// Package wire is the contract between callers and the coordinator: operations, requests, answers, problems and limits, as they
// travel in JSON. The API and the client share it. docs/openapi.yaml describes the same contract for other clients, and a test
// compares the two.
//
// Times in answers are RFC 3339 in UTC with milliseconds. Durations are whole milliseconds. The names of fields end in _at or _ms
// accordingly.
package wire

import (
	"encoding/json"
	"fmt"
	"time"
)

// Limits of requests. Sizes are in bytes of UTF-8.
const (
	MaxName          = 255
	MinLease         = 16
	MaxLease         = 128
	MaxOwner         = 256
	MaxMetadata      = 2048 // as the JSON object was sent
	MaxMetadataDepth = 8    // levels of nesting
	MaxCapacity      = 100  // permits
	MaxReason        = 512
	MaxBody          = 16 * 1024
	MaxToken         = 2048 // of a task token or a callback's id
	MaxQueueURL      = 256  // of the URL of a queue of notifications
	MaxNotifyID      = 64   // of the id of a notification
	MaxExecution     = 256  // of an execution's ARN, as in Step Functions
	MaxPage          = 100  // locks in a page of a list
	DefaultPage      = 50

	MinTTL        = time.Second
	MaxTTL        = 7 * 24 * time.Hour // the longest that a deployment may allow
	DefaultMaxTTL = 24 * time.Hour     // the longest that a deployment allows by default
	DefaultTTL    = time.Minute
	// DefaultCheck is the default TTL of a lease that belongs to an execution. After each TTL the coordinator checks whether the
	// execution still runs, in case the event of its end was lost. Each check is a DescribeExecution, of which an account may make 10 to 15 a
	// second: with an hour, 36,000 executions that hold leases take 10 a second.
	DefaultCheck = time.Hour

	// MinWait and MaxWait limit the wait_ms of a waiter that polls: for how long its place is kept after a poll.
	MinWait = time.Second
	MaxWait = 15 * time.Minute
	// MaxTicket is the largest ticket: the largest integer that every JSON parser keeps.
	MaxTicket = 1<<53 - 1
	// MaxTokenWait limits the whole wait of a waiter with a task token: an execution lasts for a year at most. It also limits the
	// wait_ms of a waiter that polls and is notified.
	MaxTokenWait = 366 * 24 * time.Hour

	// SkewAllowance is how long after its expiry a lease still counts as live, by default: the largest difference that the protocol
	// allows between the clocks of two coordinators.
	SkewAllowance = 250 * time.Millisecond
)

// A Time is a time with millisecond precision.
type Time struct{ time.Time }

// At returns the Time of Unix milliseconds.
func At(ms int64) Time { return Time{time.UnixMilli(ms).UTC()} }

// AtOrNone returns the Time of Unix milliseconds; nil for 0.
func AtOrNone(ms int64) *Time {
	if ms == 0 {
		return nil
	}
	return new(At(ms))
}

const timeFormat = "2006-01-02T15:04:05.000Z"

// MarshalJSON implements [json.Marshaler].
func (t Time) MarshalJSON() ([]byte, error) { return json.Marshal(t.UTC().Format(timeFormat)) }

// UnmarshalJSON implements [json.Unmarshaler]. It accepts RFC 3339 in any time zone.
func (t *Time) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &t.Time) }

// AcquireRequest asks for permits of a lock. Absent fields have the defaults of docs/openapi.yaml.
type AcquireRequest struct {
	Lease    string          `json:"lease,omitzero"`
	Owner    string          `json:"owner,omitzero"`
	TTL      int64           `json:"ttl_ms,omitzero"`
	Metadata json.RawMessage `json:"metadata,omitempty"`
	Capacity int64           `json:"capacity,omitzero"`
	Permits  int64           `json:"permits,omitzero"`
	Mode     Mode            `json:"mode,omitzero"` // instead of Capacity and Permits

	Wait      int64   `json:"wait_ms,omitzero"`     // join the queue; the place is kept for this long after the request
	Ticket    int64   `json:"ticket,omitzero"`      // of the last answer to the same request, if it had one
	Notify    *Notify `json:"notify,omitempty"`     // with wait_ms: the queue that gets a Notification of the grant
	Execution string  `json:"execution,omitzero"`   // the ARN of the execution with which the lease ends
	TaskToken string  `json:"task_token,omitzero"`  // not over HTTP: the task that gets the grant by callback
	Callback  string  `json:"callback_id,omitzero"` // not over HTTP: the same for a Lambda durable function

	Traceparent string `json:"traceparent,omitzero"` // the caller's trace context (W3C), which is kept with the lease
}

// A Mode is how a lock is shared between readers and a writer: as a semaphore of [ModeCapacity] permits, of which a reader takes one and a writer
// all.
type Mode string

// The modes.
const (
	ModeRead  Mode = "read"
	ModeWrite Mode = "write"
)

// ModeCapacity is the capacity of a lock that readers and a writer share.
const ModeCapacity = MaxCapacity

// Permits is how many permits a mode takes; 0 if there is no such mode.
func (m Mode) Permits() int64 {
	switch m {
	case ModeRead:
		return 1
	case ModeWrite:
		return ModeCapacity
	}
	return 0
}

// Notify says where a waiter hears of its grant.
type Notify struct {
	Queue string `json:"queue"` // the URL of an SQS queue
	ID    string `json:"id"`    // chosen by the waiter, to know its notifications by
}

// A Notification is the message that tells a waiter of its grant. It is a hint: it may be lost, late, or there twice. The waiter
// holds the lock only when its own acquire was answered so.
type Notification struct {
	Type      string `json:"type"` // NotificationGranted
	Lock      string `json:"lock"`
	Fence     int64  `json:"fence"`
	ExpiresAt Time   `json:"expires_at"` // when the grant ends if the waiter does not acquire
	ID        string `json:"id"`
}

// NotificationGranted is the Type of a Notification.
const NotificationGranted = "granted"

// Queued is the answer to an acquire with a task token that has joined the queue.
type Queued struct {
	Lock     string `json:"lock"`
	Queued   bool   `json:"queued"`
	Position int64  `json:"position"`
	Waiting  int64  `json:"waiting"`
	Ticket   int64  `json:"ticket"`

	Freeze    *Freeze `json:"freeze,omitempty"`        // nobody is granted the lock before it ends
	NextGrant *Time   `json:"next_grant_at,omitempty"` // a rate keeps the lock from being granted before
}

// Granted is the output of a callback to a task that waited for one lock: the lease without its secret, which the caller chose. Its Locks are this lock.
type Granted struct {
	Lock    string `json:"lock"`
	Fence   int64  `json:"fence"`
	Permits int64  `json:"permits"`
	SetGranted
}

// RenewRequest extends a lease. A nil Metadata leaves the metadata as it is.
type RenewRequest struct {
	Lease    string          `json:"lease"`
	TTL      int64           `json:"ttl_ms,omitzero"`
	Metadata json.RawMessage `json:"metadata,omitempty"`
}

// ReleaseRequest ends a lease, or leaves the queue. With Mode "read" a writer's lease becomes a reader's.
type ReleaseRequest struct {
	Lease string `json:"lease"`
	Mode  Mode   `json:"mode,omitzero"`
}

// ForceReleaseRequest ends leases without their holders' consent: the one with the fencing token Fence, or all if Fence is 0.
type ForceReleaseRequest struct {
	Reason string `json:"reason"`
	Fence  int64  `json:"fence,omitzero"`
}

// Lease is the answer to acquire and renew. Its field Lease is the secret, which no other answer has.
type Lease struct {
	Lock       string          `json:"lock"`
	Lease      string          `json:"lease"`
	Fence      int64           `json:"fence"`
	Owner      string          `json:"owner"`
	AcquiredAt Time            `json:"acquired_at"`
	RenewedAt  Time            `json:"renewed_at"`
	ExpiresAt  Time            `json:"expires_at"`
	EndsAt     *Time           `json:"ends_at,omitempty"` // no renewal makes the lease last longer, by a limit
	TTL        int64           `json:"ttl_ms"`
	Remaining  int64           `json:"remaining_ms"`
	Capacity   int64           `json:"capacity"`
	Permits    int64           `json:"permits"`
	Waited     int64           `json:"waited_ms,omitzero"` // from joining the queue to the grant
	Metadata   json.RawMessage `json:"metadata,omitempty"`
}

// Released is the answer to release.
type Released struct {
	Lock       string `json:"lock"`
	Fence      int64  `json:"fence"`
	ReleasedAt Time   `json:"released_at"`
}

// ForceReleased is the answer to force-release.
type ForceReleased struct {
	Lock     string   `json:"lock"`
	Released []Holder `json:"released"`
}

// Holder is a live lease as all callers may see it.
type Holder struct {
	Owner      string          `json:"owner"`
	Fence      int64           `json:"fence"`
	Permits    int64           `json:"permits"`
	AcquiredAt Time            `json:"acquired_at"`
	RenewedAt  Time            `json:"renewed_at"`
	ExpiresAt  Time            `json:"expires_at"`
	Remaining  int64           `json:"remaining_ms"`
	Metadata   json.RawMessage `json:"metadata,omitempty"`
	Principal  string          `json:"principal,omitempty"`

	Traceparent string `json:"traceparent,omitempty"` // of the acquire that was granted
}

// Status is the answer to a status request.
type Status struct {
	Lock       string   `json:"lock"`
	Locked     bool     `json:"locked"`
	Capacity   int64    `json:"capacity"`
	Available  int64    `json:"available"`
	Fence      int64    `json:"fence"`
	Holders    []Holder `json:"holders"`
	Waiting    int64    `json:"waiting"`
	Queue      []Waiter `json:"queue,omitempty"`         // the first waiters, if the request asks for them
	Freeze     *Freeze  `json:"freeze,omitempty"`        // not in lists
	NextGrant  *Time    `json:"next_grant_at,omitempty"` // if a rate keeps the lock from being granted before; not in lists
	ServerTime Time     `json:"server_time"`
}

// StatusRequest is a status request.
type StatusRequest struct {
	Waiters int `json:"waiters,omitzero"` // how many waiters the answer names at most: 1 to [MaxPage]; 0: none
}

// Waiter is a place in a lock's queue as all callers may see it.
type Waiter struct {
	Position  int64    `json:"position"` // from 1
	Owner     string   `json:"owner"`
	Principal string   `json:"principal,omitempty"`
	Permits   int64    `json:"permits"`
	JoinedAt  *Time    `json:"joined_at,omitempty"` // absent: an older version made the place
	Task      bool     `json:"task,omitzero"`       // a task of a state machine
	Set       []string `json:"set,omitempty"`       // the locks that it acquires together
}

// List is the answer to a list request. An empty NextCursor means that this is the last page.
type List struct {
	Locks      []Status `json:"locks"`
	NextCursor string   `json:"next_cursor,omitempty"`
}

// nameHelper ends the error texts about names that are not allowed.
const nameHelper = "lockclient.EscapeName, or holdfast name, makes a name of any string"

// CheckName returns what is wrong with a lock's name, or "". The text follows the word "name".
func CheckName(name string) string {
	switch {
	case name == "":
		return "is empty; give 1 to 255 of A-Z a-z 0-9 . _ : @ + = -"
	case len(name) > MaxName:
		return fmt.Sprintf("is %d bytes long; at most %d are allowed", len(name), MaxName)
	case name == "." || name == "..":
		return fmt.Sprintf("is %q, which URLs cannot carry; add another character (%s)", name, nameHelper)
	}
	return CheckPrefix(name)
}

// CheckPrefix returns what is wrong with the first part of a lock's name, which may be empty, or "".
func CheckPrefix(prefix string) string {
	if len(prefix) > MaxName {
		return fmt.Sprintf("is %d bytes long; at most %d are allowed", len(prefix), MaxName)
	}
	for _, c := range prefix {
		if !nameChar(c) {
			return fmt.Sprintf("has the character %q; only A-Z a-z 0-9 . _ : @ + = - are allowed, with : for hierarchy (%s)", c, nameHelper)
		}
	}
	return ""
}

func nameChar(c rune) bool {
	switch {
	case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		return true
	}
	switch c {
	case '.', '_', ':', '@', '+', '=', '-':
		return true
	}
	return false
}

// CheckLease returns what is wrong with a lease's secret, or "". The text does not contain the secret.
func CheckLease(lease string) string {
	if len(lease) < MinLease || len(lease) > MaxLease {
		return fmt.Sprintf("is %d bytes long; it must be %d to %d of A-Z a-z 0-9 _ -", len(lease), MinLease, MaxLease)
	}
	for _, c := range lease {
		if !nameChar(c) || c == '.' || c == ':' || c == '@' || c == '+' || c == '=' {
			return "has a character that is not allowed; only A-Z a-z 0-9 _ - are"
		}
	}
	return ""
}
