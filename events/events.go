// Package events has the events that Holdfast puts on its EventBridge bus, for subscribers to decode.
//
// There is one event for each change of a lease: [Acquired], [Released], [Expired] or [ForceReleased]. An event is
// delivered at least once, so it may come again, with the same [Lease.ID]. Holdfast puts a lock's events in order; EventBridge
// does not promise to keep it: compare fences.
//
// A rule matches a lock with detail.lock, and a subtree of names with detail.prefixes:
//
//	{"source": ["holdfast"], "detail-type": ["Lock Released", "Lock Expired"], "detail": {"prefixes": ["deploy:prod"]}}
package events

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Source is the source of every event.
const Source = "holdfast"

// The detail-types.
const (
	TypeAcquired      = "Lock Acquired"
	TypeReleased      = "Lock Released"
	TypeExpired       = "Lock Expired"
	TypeForceReleased = "Lock Force Released"
)

// Version is the version of the details that this package writes. A newer one only adds fields.
const Version = 1

// An Event is one of [Acquired], [Released], [Expired] and [ForceReleased].
type Event interface {
	// DetailType is what EventBridge calls the kind.
	DetailType() string
	// Subject is what all kinds have in common.
	Subject() Lease
}

// A Lease is what every event tells of the lease it is about.
type Lease struct {
	// Version is the schema's; see [Version].
	Version int `json:"version"`
	// ID is the same for every delivery of the same event: lock, fence and kind.
	ID string `json:"id"`
	// Lock is the lock's name.
	Lock string `json:"lock"`
	// Prefixes are the name cut at each ":", shortest first, and the whole name: a rule on one of them matches that lock
	// and all below it.
	Prefixes []string `json:"prefixes"`
	// Fence is the lease's fencing token.
	Fence int64 `json:"fence"`
	// Owner is who the caller said it is; Principal who the authorizer said, if there was one.
	Owner     string `json:"owner"`
	Principal string `json:"principal,omitempty"`
	// Permits is how many the lease has of the lock's.
	Permits int64 `json:"permits"`
	// AcquiredAt is when the lease was granted, ExpiresAt when it runs out, or would have, as of this event.
	AcquiredAt Time `json:"acquired_at"`
	ExpiresAt  Time `json:"expires_at"`
	// Metadata is the lease's JSON object; nil without one, or if it was left out to fit EventBridge's limit, as
	// MetadataOmitted then says.
	Metadata        json.RawMessage `json:"metadata,omitempty"`
	MetadataOmitted bool            `json:"metadata_omitted,omitempty"`
	// Waiting is how many waited for the lock after the change.
	Waiting int64 `json:"waiting"`
}

// Subject is the lease itself.
func (l Lease) Subject() Lease { return l }

// An End is what events of a lease's end add.
type End struct {
	// EndedAt is when the lease ended: for one that expired, its expiry.
	EndedAt Time `json:"ended_at"`
	// HeldMS is how long it was held, in milliseconds.
	HeldMS int64 `json:"held_ms"`
}

// Acquired says that a lease was granted.
type Acquired struct{ Lease }

// Released says that its holder gave a lease back.
type Released struct {
	Lease
	End
}

// Expired says that a lease ran out: its holder died, was cut off, or forgot it.
type Expired struct {
	Lease
	End
	// Purged: native TTL removed the lock's row, so this comes late. A timer was lost.
	Purged bool `json:"purged,omitempty"`
}

// ForceReleased says that somebody ended a lease against its holder's will.
type ForceReleased struct {
	Lease
	End
	// By is who, where the authorizer knew; Reason is why.
	By     string `json:"by,omitempty"`
	Reason string `json:"reason"`
}

// DetailType implements [Event].
func (Acquired) DetailType() string { return TypeAcquired }

// DetailType implements [Event].
func (Released) DetailType() string { return TypeReleased }

// DetailType implements [Event].
func (Expired) DetailType() string { return TypeExpired }

// DetailType implements [Event].
func (ForceReleased) DetailType() string { return TypeForceReleased }

// Decode reads an event from EventBridge's detail-type and detail. Fields that this version doesn't know are ignored; a
// detail-type that it doesn't know is an [*UnknownTypeError], which a subscriber may skip.
func Decode(detailType string, detail []byte) (Event, error) {
	switch detailType {
	case TypeAcquired:
		return decode[Acquired](detail)
	case TypeReleased:
		return decode[Released](detail)
	case TypeExpired:
		return decode[Expired](detail)
	case TypeForceReleased:
		return decode[ForceReleased](detail)
	}
	return nil, &UnknownTypeError{DetailType: detailType}
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

// An UnknownTypeError is a detail-type that this version doesn't know.
type UnknownTypeError struct{ DetailType string }

func (e *UnknownTypeError) Error() string {
	return fmt.Sprintf("events: detail-type %q is not known to this version", e.DetailType)
}

// ID makes an event's id.
func ID(lock string, fence int64, detailType string) string {
	kind := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(detailType, "Lock ")), " ", "-")
	return lock + "/" + strconv.FormatInt(fence, 10) + "/" + kind
}

// Prefixes cuts a lock's name at each ":", shortest first, and ends with the whole name.
func Prefixes(lock string) []string {
	var list []string
	for i, c := range lock {
		if c == ':' && i > 0 {
			list = append(list, lock[:i])
		}
	}
	return append(list, lock)
}

// A Time is a moment, to the millisecond, in JSON as RFC 3339 in UTC.
type Time struct{ time.Time }

// At makes a Time of Unix milliseconds.
func At(ms int64) Time { return Time{time.UnixMilli(ms).UTC()} }

// MarshalJSON writes RFC 3339 with milliseconds.
func (t Time) MarshalJSON() ([]byte, error) {
	return json.Marshal(t.UTC().Format("2006-01-02T15:04:05.000Z"))
}

// UnmarshalJSON reads RFC 3339.
func (t *Time) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &t.Time) }
