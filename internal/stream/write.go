// Package stream handles the lock table's stream: from each write of a record it derives events for a bus, timers that end
// leases at their expiry, and callbacks of waiters. The stream is the outbox: an event is computed from the record before and
// after a write alone, so it is published if and only if the write happened.
//
// A [Consumer] handles the stream. What fails becomes a [Job] in a [Backlog]. An [Expirer] handles timers, jobs, and the
// events of executions. The package uses no SDK; packages eventbridge, sqs, tasks and dynamo implement its interfaces.
package stream

import (
	"encoding/json"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// A Write is one record of the stream: a write of a lock's record.
type Write struct {
	lock.Write
	Sequence string // the record's number in the stream
	Poison   error  // why the record cannot be handled; if it cannot be read, only Lock, where known, Sequence and Raw are set
	Raw      []byte // the record, for the dead-letter queue
}

// Events are the events of a write's changes, in their order. They depend on the write alone, so a record that is delivered again
// gives equal events.
func Events(w lock.Write, changes []lock.Change) []events.Event {
	var list []events.Event
	for _, c := range changes {
		l := c.Lease
		lease := events.Lease{
			Version: events.Version, Lock: w.Lock, Prefixes: events.Prefixes(w.Lock), Fence: l.Fence, Owner: l.Owner,
			Principal: l.Principal, Permits: l.Permits, AcquiredAt: events.At(l.AcquiredAt), ExpiresAt: events.At(l.ExpiresAt),
			WaitedMS: l.Waited(), Waiting: w.After.Waiting, Set: lock.SetNames(l.Set), Traceparent: l.Trace,
		}
		if json.Valid([]byte(l.Metadata)) {
			lease.Metadata = []byte(l.Metadata)
		} else {
			lease.MetadataOmitted = l.Metadata != "" // the API accepts JSON only; another program wrote this
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
