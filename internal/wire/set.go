package wire

import (
	"encoding/json"
	"strings"
)

// MaxSet is how many locks a set may have.
const MaxSet = 10

// AcquireSetRequest asks for permits of several locks, all or none. Absent fields have the defaults of docs/openapi.yaml.
type AcquireSetRequest struct {
	Locks    []SetLock       `json:"locks"`
	Lease    string          `json:"lease,omitzero"`
	Owner    string          `json:"owner,omitzero"`
	TTL      int64           `json:"ttl_ms,omitzero"`
	Metadata json.RawMessage `json:"metadata,omitempty"`
	Wait     int64           `json:"wait_ms,omitzero"`  // join the queues; the places are kept for this long after the request
	Tickets  []int64         `json:"tickets,omitempty"` // of the last answer to the same request, if it had any

	Execution string `json:"execution,omitzero"`   // the ARN of the execution with which the lease ends
	TaskToken string `json:"task_token,omitzero"`  // not over HTTP: the task that gets the grant by callback
	Callback  string `json:"callback_id,omitzero"` // not over HTTP: the same for a Lambda durable function

	Traceparent string `json:"traceparent,omitzero"` // the caller's trace context (W3C), which is kept with the lease
}

// SetLock is what a set asks of one of its locks.
type SetLock struct {
	Name     string `json:"name"`
	Capacity int64  `json:"capacity,omitzero"`
	Permits  int64  `json:"permits,omitzero"`
}

// RenewSetRequest extends the lease of a set. A nil Metadata leaves the metadata as it is.
type RenewSetRequest struct {
	Locks    []string        `json:"locks"`
	Lease    string          `json:"lease"`
	TTL      int64           `json:"ttl_ms,omitzero"`
	Metadata json.RawMessage `json:"metadata,omitempty"`
}

// ReleaseSetRequest ends the lease of a set, or leaves the queues.
type ReleaseSetRequest struct {
	Locks []string `json:"locks"`
	Lease string   `json:"lease"`
}

// SetLease is the answer to acquire and renew of a set. ExpiresAt and Remaining are of the first of its leases that expires.
type SetLease struct {
	Locks      []SetMember     `json:"locks"` // in the order of their names
	Lease      string          `json:"lease"`
	Owner      string          `json:"owner"`
	AcquiredAt Time            `json:"acquired_at"`
	RenewedAt  Time            `json:"renewed_at"`
	ExpiresAt  Time            `json:"expires_at"`
	EndsAt     *Time           `json:"ends_at,omitempty"` // no renewal makes the lease last longer, by a limit of one of the locks
	TTL        int64           `json:"ttl_ms"`
	Remaining  int64           `json:"remaining_ms"`
	Waited     int64           `json:"waited_ms,omitzero"` // from joining the queues to the grant
	Metadata   json.RawMessage `json:"metadata,omitempty"`
}

// SetMember is one lock of a set's lease.
type SetMember struct {
	Lock     string `json:"lock"`
	Fence    int64  `json:"fence"`
	Capacity int64  `json:"capacity"`
	Permits  int64  `json:"permits"`
}

// SetGranted is the output of a callback to a task that waited for a set: its leases without their secret, which the caller chose. ExpiresAt is that of
// the first of them that expires.
type SetGranted struct {
	Locks      []GrantedLock   `json:"locks"` // in the order of their names
	Owner      string          `json:"owner"`
	AcquiredAt Time            `json:"acquired_at"`
	ExpiresAt  Time            `json:"expires_at"`
	EndsAt     *Time           `json:"ends_at,omitempty"` // no renewal, and no execution, makes the lease last longer, by a limit of one of the locks
	TTL        int64           `json:"ttl_ms"`
	Waited     int64           `json:"waited_ms,omitzero"` // from joining the queues to the grant
	Metadata   json.RawMessage `json:"metadata,omitempty"`

	Traceparent string `json:"traceparent,omitempty"` // the trace context (W3C) of the acquire
}

// GrantedLock is one lock of a [SetGranted].
type GrantedLock struct {
	Lock    string `json:"lock"`
	Fence   int64  `json:"fence"`
	Permits int64  `json:"permits"`
}

// SetQueued is the answer to an acquire of a set with a task token that has joined the queues.
type SetQueued struct {
	Locks    []string `json:"locks"` // in the order of their names
	Queued   bool     `json:"queued"`
	Lock     string   `json:"lock"`     // the one that holds the set up
	Position int64    `json:"position"` // the highest of all queues
	Waiting  int64    `json:"waiting"`  // in the queue of Lock
	Tickets  []int64  `json:"tickets"`

	Freeze    *Freeze `json:"freeze,omitempty"`        // Lock is granted to nobody before it ends
	NextGrant *Time   `json:"next_grant_at,omitempty"` // a rate keeps Lock from being granted before
}

// SetReleased is the answer to release of a set: the locks whose leases ended, or whose queues were left.
type SetReleased struct {
	Locks []Released `json:"locks"`
}

// SetScope is the narrowest scope of a set: the name of its only lock, or the beginning that all names share and a "*".
func SetScope(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	prefix := names[0]
	for _, name := range names[1:] {
		for !strings.HasPrefix(name, prefix) {
			prefix = prefix[:len(prefix)-1]
		}
	}
	return prefix + "*"
}
