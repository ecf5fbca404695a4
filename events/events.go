// Package events defines the events that Holdfast puts on its EventBridge bus, and decodes them for subscribers.
//
// Every change of a lease is one event: [Acquired], [Released], [Expired] or [ForceReleased]. Renewals are no events. Every change of a prefix
// rule is a [RuleChanged]. An event is
// delivered at least once; further deliveries have the same [Lease.ID]. Holdfast sends the events of a lock in order, but
// EventBridge does not guarantee the order of delivery: compare [Lease.Fence], which grows with every grant of the lock.
//
// An EventBridge rule selects one lock by detail.lock, or all names below a prefix by detail.prefixes:
//
//	{"source": ["holdfast"], "detail-type": ["Lock Released", "Lock Expired"], "detail": {"prefixes": ["deploy:prod"]}}
//
// The package depends on the standard library only.
package events

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Source is the source of every event, as EventBridge rules match it.
const Source = "holdfast"

// The detail-types of the events.
const (
	TypeAcquired      = "Lock Acquired"
	TypeReleased      = "Lock Released"
	TypeExpired       = "Lock Expired"
	TypeForceReleased = "Lock Force Released"
	TypeRuleChanged   = "Rule Changed"
)

// decoders is the table of event types: each detail-type and the decoder of its details.
var decoders = map[string]func(detail []byte) (Event, error){
	TypeAcquired:      decode[Acquired],
	TypeReleased:      decode[Released],
	TypeExpired:       decode[Expired],
	TypeForceReleased: decode[ForceReleased],
	TypeRuleChanged:   decodeRule,
}

// Version is the version of the details that this package writes. A higher version only adds fields.
const Version = 1

// An Event is an [Acquired], [Released], [Expired], [ForceReleased] or [RuleChanged].
type Event interface {
	// DetailType returns the event's detail-type, such as [TypeAcquired].
	DetailType() string
	// Subject returns the lease that the event is about; the zero Lease of a [RuleChanged].
	Subject() Lease
}

// A Lease holds the fields that all events have: the lease that was granted or that ended.
type Lease struct {
	// Version is the version of the schema. See the constant [Version].
	Version int `json:"version"`
	// ID identifies the event: lock, fencing token and kind, such as deploy:prod/1772366400123456/released. All deliveries of
	// one event have the same ID.
	ID string `json:"id"`
	// Lock is the lock's name.
	Lock string `json:"lock"`
	// Prefixes are the name up to each ":" in it, shortest first, and the whole name. A rule that matches one of them selects the
	// lock of that name and all locks below it.
	Prefixes []string `json:"prefixes"`
	// Fence is the lease's fencing token. It is below 2^53.
	Fence int64 `json:"fence"`
	// Owner is the holder's name for itself; it may be empty. Principal is the caller's ARN as API Gateway's authorizer gave it;
	// it is empty for direct invocations and direct clients.
	Owner     string `json:"owner"`
	Principal string `json:"principal,omitempty"`
	// Permits is the number of the lock's permits that the lease has.
	Permits int64 `json:"permits"`
	// AcquiredAt is the time of the grant. ExpiresAt is the lease's expiry as of this event; an event of its end has the expiry
	// that the lease last had.
	AcquiredAt Time `json:"acquired_at"`
	ExpiresAt  Time `json:"expires_at"`
	// Metadata is the JSON object that the holder gave. It is nil if there is none, and also if MetadataOmitted is true: then the
	// event would have exceeded EventBridge's size limit with it.
	Metadata        json.RawMessage `json:"metadata,omitempty"`
	MetadataOmitted bool            `json:"metadata_omitted,omitempty"`
	// WaitedMS is the time from when the holder joined the lock's queue to the grant, in milliseconds. It is 0 if the holder did not wait, and where
	// an older version of Holdfast made its place in the queue.
	WaitedMS int64 `json:"waited_ms,omitempty"`
	// Waiting is the number of waiters in the lock's queue after the change.
	Waiting int64 `json:"waiting"`
	// Set are the names of the locks that the lease's caller acquired together, in order, this lock's included. It is nil for a lease of one
	// lock, and where the store keeps the lease's texts apart and they could not be read.
	Set []string `json:"set,omitempty"`
	// Traceparent is the trace context (W3C) that the acquire carried, for spans of subscribers. It is empty if there is none, and where Set is nil for
	// want of the texts.
	Traceparent string `json:"traceparent,omitempty"`
}

// Subject returns l. It implements [Event] for the types that embed a Lease.
func (l Lease) Subject() Lease { return l }

// An End holds the fields that all events of a lease's end have.
type End struct {
	// EndedAt is the time at which the lease ended. The end of an expired lease is its expiry, however late the event is.
	EndedAt Time `json:"ended_at"`
	// HeldMS is the time from the grant to the end, in milliseconds.
	HeldMS int64 `json:"held_ms"`
}

// Acquired is the event of a grant.
type Acquired struct{ Lease }

// Released is the event of a lease that its holder released.
type Released struct {
	Lease
	End
}

// Expired is the event of a lease that was not renewed before its expiry.
type Expired struct {
	Lease
	End
	// Purged is true if DynamoDB's native TTL removed the lock's row before the lease's expiry was processed: the event is hours
	// late, because the lease's timer was lost.
	Purged bool `json:"purged,omitempty"`
}

// ForceReleased is the event of a lease that was ended by a force-release.
type ForceReleased struct {
	Lease
	End
	// By is the principal that force-released it; it is empty where the caller was not authenticated.
	By string `json:"by,omitempty"`
	// Reason is the reason that was given.
	Reason string `json:"reason"`
}

// RuleChanged is the event of a change of a rule for all locks whose names begin with a prefix.
type RuleChanged struct {
	// Version is the version of the schema. See the constant [Version].
	Version int `json:"version"`
	// ID identifies the event: rules, prefix and revision, and the time of the change in Unix milliseconds, such as
	// rules/deploy:/3/1772366400123. All deliveries of one event have the same ID.
	ID string `json:"id"`
	// Prefix is how the names begin; "*" for all locks.
	Prefix string `json:"prefix"`
	// Rev counts the changes of the rule. Of two events of one prefix, the one with the higher Rev is the later change; after a rule was
	// removed for a week it counts from 1 again.
	Rev int64 `json:"rev"`
	// ChangedAt is the time of the change. By is the principal that made it, the caller's ARN; it is empty where the caller was not authenticated.
	ChangedAt Time   `json:"changed_at"`
	By        string `json:"by,omitempty"`
	// Freeze is the freeze that the locks are under from now on; nil if there is none, or none any more.
	Freeze *Freeze `json:"freeze,omitempty"`
	// History says for how long the history of the locks is kept from now on; nil if it is not, or not any more.
	History *Keeping `json:"history,omitempty"`
	// Limits are those of the locks from now on; nil if there are none, or none any more.
	Limits *Limits `json:"limits,omitempty"`
}

// Keeping says for how long the history of locks is kept.
type Keeping struct {
	KeepMS int64  `json:"keep_ms"` // an entry, from the change that it describes, in milliseconds
	Since  Time   `json:"since"`
	By     string `json:"by,omitempty"` // the principal that asked for it
}

// Limits bind locks. A number that is 0 sets no limit.
type Limits struct {
	Capacity        int64  `json:"capacity,omitempty"`          // permits of each lock
	MaxTTL          int64  `json:"max_ttl_ms,omitempty"`        // of a lease
	MaxHold         int64  `json:"max_hold_ms,omitempty"`       // from a grant on, with all renewals
	MaxQueue        int64  `json:"max_queue,omitempty"`         // waiters of one lock
	MaxPerPrincipal int64  `json:"max_per_principal,omitempty"` // permits of one lock that one principal holds and waits for
	Rate            Rate   `json:"rate,omitzero"`               // how often one lock is granted
	Since           Time   `json:"since"`
	By              string `json:"by,omitempty"` // the principal that set them
}

// A Rate is how often a lock is granted: at most Grants times in any Period, in milliseconds.
type Rate struct {
	Grants int64 `json:"grants"`
	Period int64 `json:"period_ms"`
}

// A Freeze is a time in which locks are granted to nobody.
type Freeze struct {
	Until  Time   `json:"until"`
	Since  Time   `json:"since"`
	Reason string `json:"reason"`
	By     string `json:"by,omitempty"` // the principal that froze the locks
}

// DetailType returns [TypeRuleChanged].
func (RuleChanged) DetailType() string { return TypeRuleChanged }

// Subject returns the zero Lease.
func (RuleChanged) Subject() Lease { return Lease{} }

// RuleID returns the ID of a [RuleChanged].
func RuleID(prefix string, rev, changedAt int64) string {
	return fmt.Sprintf("rules/%s/%d/%d", prefix, rev, changedAt)
}

func decodeRule(detail []byte) (Event, error) {
	var e RuleChanged
	if err := json.Unmarshal(detail, &e); err != nil {
		return nil, fmt.Errorf("events: %s: %w", TypeRuleChanged, err)
	}
	if e.Version < 1 || e.Prefix == "" || e.Rev < 1 {
		return nil, fmt.Errorf("events: %s: the detail has no version, prefix or rev: it is not Holdfast's", TypeRuleChanged)
	}
	return e, nil
}

// DetailType returns [TypeAcquired].
func (Acquired) DetailType() string { return TypeAcquired }

// DetailType returns [TypeReleased].
func (Released) DetailType() string { return TypeReleased }

// DetailType returns [TypeExpired].
func (Expired) DetailType() string { return TypeExpired }

// DetailType returns [TypeForceReleased].
func (ForceReleased) DetailType() string { return TypeForceReleased }

// Decode decodes an event from the detail-type and the detail of an EventBridge event. The result is an [Acquired], [Released],
// [Expired], [ForceReleased] or [RuleChanged], not a pointer to one. Decode ignores fields that this version of the package does not know. It
// returns an [*UnknownTypeError] for a detail-type that this version does not know, and another error for a detail that is not
// Holdfast's.
func Decode(detailType string, detail []byte) (Event, error) {
	decode, known := decoders[detailType]
	if !known {
		return nil, &UnknownTypeError{DetailType: detailType}
	}
	return decode(detail)
}

func decode[E Event](detail []byte) (Event, error) {
	var e E
	if err := json.Unmarshal(detail, &e); err != nil {
		return nil, fmt.Errorf("events: %s: %w", e.DetailType(), err)
	}
	if l := e.Subject(); l.Version < 1 || l.Lock == "" || l.Fence < 1 {
		return nil, fmt.Errorf("events: %s: the detail has no version, lock or fence: it is not Holdfast's", e.DetailType())
	}
	return e, nil
}

// An UnknownTypeError is returned for a detail-type that this version of the package does not know. A subscriber should skip the
// event: newer versions of Holdfast may send further types.
type UnknownTypeError struct{ DetailType string }

func (e *UnknownTypeError) Error() string {
	return fmt.Sprintf("events: detail-type %q is not known to this version", e.DetailType)
}

// ID returns the [Lease.ID] of an event.
func ID(lock string, fence int64, detailType string) string {
	kind := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(detailType, "Lock ")), " ", "-")
	return lock + "/" + strconv.FormatInt(fence, 10) + "/" + kind
}

// Prefixes returns the [Lease.Prefixes] of a lock.
func Prefixes(lock string) []string {
	var list []string
	for i, c := range lock {
		if c == ':' && i > 0 {
			list = append(list, lock[:i])
		}
	}
	return append(list, lock)
}

// A Time is a time with millisecond precision. Its JSON form is RFC 3339 in UTC, such as "2026-03-01T12:00:00.123Z".
type Time struct{ time.Time }

// At returns the Time of Unix milliseconds.
func At(ms int64) Time { return Time{time.UnixMilli(ms).UTC()} }

// MarshalJSON implements [json.Marshaler].
func (t Time) MarshalJSON() ([]byte, error) {
	return json.Marshal(t.UTC().Format("2006-01-02T15:04:05.000Z"))
}

// UnmarshalJSON implements [json.Unmarshaler]. It accepts RFC 3339 in any time zone.
func (t *Time) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &t.Time) }
