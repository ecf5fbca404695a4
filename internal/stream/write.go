// Package stream turns the lock table's stream into what the rest of the system hears: events on a bus, and timers that
// put out leases whose holders died. The stream is the outbox: an event is made, purely from the images before and after
// a write, if and only if the write happened.
package stream

import (
	"encoding/json"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// A Write is one write of a lock's record, as the stream's consumer gets it.
type Write struct {
	lock.Write
	Sequence string // its number in the stream
	Poison   error  // why the record cannot be read; then only Lock, if it is known, Sequence and Raw are set
	Raw      []byte // the stream's record, for the dead-letter queue
}

// Events are the events of a write's changes, in their order. They do not depend on when or how often the write is read.
func Events(w lock.Write, changes []lock.Change) []events.Event {
	var list []events.Event
	for _, c := range changes {
		h := c.Lease
		lease := events.Lease{
			Version: events.Version, Lock: w.Lock, Prefixes: events.Prefixes(w.Lock), Fence: h.Fence, Owner: h.Owner,
			Principal: h.Principal, Permits: h.Permits, AcquiredAt: events.At(h.AcquiredAt), ExpiresAt: events.At(h.ExpiresAt),
			Waiting: w.After.Waiting,
		}
		if json.Valid([]byte(h.Metadata)) {
			lease.Metadata = []byte(h.Metadata)
		} else {
			lease.MetadataOmitted = h.Metadata != "" // not ours: nothing that the API takes
		}
		list = append(list, event(w, c, lease))
	}
	return list
}

func event(w lock.Write, c lock.Change, lease events.Lease) events.Event {
	ended := func(at int64) events.End {
		return events.End{EndedAt: events.At(at), HeldMS: max(at-c.Lease.AcquiredAt, 0)}
	}
	id := func(e events.Event) string { return events.ID(w.Lock, c.Lease.Fence, e.DetailType()) }
	switch c.Kind {
	case lock.LeaseAcquired:
		e := events.Acquired{Lease: lease}
		e.ID = id(e)
		return e
	case lock.LeaseReleased:
		e := events.Released{Lease: lease, End: ended(w.After.Retired.At)}
		e.ID = id(e)
		return e
	case lock.LeaseForceReleased:
		e := events.ForceReleased{Lease: lease, End: ended(w.After.Retired.At), By: w.After.By, Reason: w.After.Reason}
		e.ID = id(e)
		return e
	default:
		e := events.Expired{Lease: lease, End: ended(c.Lease.ExpiresAt), Purged: w.After.Rev == 0}
		e.ID = id(e)
		return e
	}
}
