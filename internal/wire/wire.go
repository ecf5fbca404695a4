// Package wire is the contract between callers and the coordinator: requests, answers, problems and limits, as they
// travel in JSON. The API and the client share it. docs/openapi.yaml says the same for everyone else, and a test holds
// the two to each other.
//
// Times in answers are RFC 3339 in UTC with milliseconds; durations are whole milliseconds.
package wire

import (
	"encoding/json"
	"fmt"
	"time"
)

// Limits of requests.
const (
	MaxName          = 255 // bytes
	MinLease         = 16  // bytes
	MaxLease         = 128
	MaxOwner         = 256 // bytes
	MaxMetadata      = 2048
	MaxMetadataDepth = 8
	MaxCapacity      = 100
	MaxReason        = 512       // bytes
	MaxBody          = 16 * 1024 // bytes
	MaxToken         = 2048      // bytes of a task token or a callback's id
	MaxExecution     = 256       // bytes of an execution's ARN, as in Step Functions
	MaxPage          = 100
	DefaultPage      = 50

	MinTTL        = time.Second
	MaxTTL        = 7 * 24 * time.Hour // the most that a deployment may allow
	DefaultMaxTTL = 24 * time.Hour     // the most that one allows which says nothing
	DefaultTTL    = time.Minute
	// DefaultCheck is the ttl_ms of a lease that belongs to an execution: how often to look whether that runs, should the event of
	// its end be lost.
	DefaultCheck = 15 * time.Minute

	MinWait       = time.Second
	MaxWait       = 15 * time.Minute     // of who polls: how long a place is kept without a poll
	MaxTokenWait  = 366 * 24 * time.Hour // of a task: in all; a task may wait for a year
	TaskPrefix    = "task:"              // of a stored token: a Step Functions task's
	DurablePrefix = "callback:"          // a Lambda durable function's
)

// A Time is a moment, to the millisecond.
type Time struct{ time.Time }

// At makes a Time of Unix milliseconds.
func At(ms int64) Time { return Time{time.UnixMilli(ms).UTC()} }

const timeFormat = "2006-01-02T15:04:05.000Z"

// MarshalJSON writes RFC 3339 with milliseconds.
func (t Time) MarshalJSON() ([]byte, error) { return json.Marshal(t.UTC().Format(timeFormat)) }

// UnmarshalJSON reads RFC 3339.
func (t *Time) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &t.Time) }

// AcquireRequest asks for permits on a lock. Absent fields take the coordinator's defaults.
type AcquireRequest struct {
	Lease    string          `json:"lease,omitzero"`
	Owner    string          `json:"owner,omitzero"`
	TTL      int64           `json:"ttl_ms,omitzero"`
	Metadata json.RawMessage `json:"metadata,omitempty"`
	Capacity int64           `json:"capacity,omitzero"`
	Permits  int64           `json:"permits,omitzero"`

	Wait      int64  `json:"wait_ms,omitzero"`     // join the queue, and keep the place for so long
	Execution string `json:"execution,omitzero"`   // the lease lives as long as this execution of a state machine
	TaskToken string `json:"task_token,omitzero"`  // direct invocation only: told of the grant, instead of polling
	Callback  string `json:"callback_id,omitzero"` // the same, of a Lambda durable function
}

// Queued is the answer to an acquire with a task token that has to wait.
type Queued struct {
	Lock     string `json:"lock"`
	Queued   bool   `json:"queued"`
	Position int64  `json:"position"`
	Waiting  int64  `json:"waiting"`
}

// Granted is what a callback brings: the lease, without its secret, which the caller chose.
type Granted struct {
	Lock       string          `json:"lock"`
	Fence      int64           `json:"fence"`
	Owner      string          `json:"owner"`
	AcquiredAt Time            `json:"acquired_at"`
	ExpiresAt  Time            `json:"expires_at"`
	TTL        int64           `json:"ttl_ms"`
	Permits    int64           `json:"permits"`
	Metadata   json.RawMessage `json:"metadata,omitempty"`
}

// RenewRequest extends a lease.
type RenewRequest struct {
	Lease    string          `json:"lease"`
	TTL      int64           `json:"ttl_ms,omitzero"`
	Metadata json.RawMessage `json:"metadata,omitempty"`
}

// ReleaseRequest ends a lease.
type ReleaseRequest struct {
	Lease string `json:"lease"`
}

// ForceReleaseRequest ends leases against their holders' will.
type ForceReleaseRequest struct {
	Reason string `json:"reason"`
	Fence  int64  `json:"fence,omitzero"`
}

// Lease is the answer to acquire and renew. Lease is the secret; nothing else ever carries it.
type Lease struct {
	Lock       string          `json:"lock"`
	Lease      string          `json:"lease"`
	Fence      int64           `json:"fence"`
	Owner      string          `json:"owner"`
	AcquiredAt Time            `json:"acquired_at"`
	RenewedAt  Time            `json:"renewed_at"`
	ExpiresAt  Time            `json:"expires_at"`
	TTL        int64           `json:"ttl_ms"`
	Remaining  int64           `json:"remaining_ms"`
	Capacity   int64           `json:"capacity"`
	Permits    int64           `json:"permits"`
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

// Holder is a lease as others may see it.
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
}

// Status is the answer to a read of one lock.
type Status struct {
	Lock       string   `json:"lock"`
	Locked     bool     `json:"locked"`
	Capacity   int64    `json:"capacity"`
	Available  int64    `json:"available"`
	Fence      int64    `json:"fence"`
	Holders    []Holder `json:"holders"`
	Waiting    int64    `json:"waiting"`
	ServerTime Time     `json:"server_time"`
}

// List is the answer to a list.
type List struct {
	Locks      []Status `json:"locks"`
	NextCursor string   `json:"next_cursor,omitempty"`
}

// nameHelper ends the texts about names that cannot be.
const nameHelper = "lockclient.EscapeName, or holdfast name, makes a name of any string"

// CheckName says what is wrong with a lock's name, or "".
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

// CheckPrefix says what is wrong with the start of a lock's name, which may be empty, or "".
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

// CheckLease says what is wrong with a lease secret, or "". It never repeats the secret.
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
