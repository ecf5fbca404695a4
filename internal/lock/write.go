package lock

import (
	"cmp"
	"slices"
)

// A Change is what one write did to one lease.
type Change struct {
	Kind  ChangeKind
	Key   LeaseKey
	Lease Lease // after the write, or before it if the write ended it
}

// A ChangeKind says what happened to a lease.
type ChangeKind string

// The kinds of change.
const (
	LeaseAcquired      ChangeKind = "acquired"
	LeaseReleased      ChangeKind = "released"
	LeaseExpired       ChangeKind = "expired"
	LeaseForceReleased ChangeKind = "force-released"
)

// Changes derives what a write did to leases from the record before and after it; the zero Record stands for no row. Ends
// come first, then grants, each oldest grant first. A lease is identified by its key and its fencing token.
func Changes(before, after Record) (list []Change) {
	for _, key := range byFence(before.Holders) {
		h := before.Holders[key]
		if after.Holders[key].Fence == h.Fence {
			continue
		}
		list = append(list, Change{endOf(key, h, after), key, h})
	}
	granted := byFence(after.Holders)
	granted = slices.DeleteFunc(granted, func(key LeaseKey) bool {
		return before.Holders[key].Fence == after.Holders[key].Fence
	})
	for _, key := range granted {
		list = append(list, Change{LeaseAcquired, key, after.Holders[key]})
	}
	return list
}

// endOf is how the lease under key ended in the write that made the record after. A force-release ended every lease that is
// gone. Another write ended the retired lease by its cause; the others had expired. A write with a cause of a newer version released the
// lease that it retired before the lease's expiry.
func endOf(key LeaseKey, l Lease, after Record) ChangeKind {
	cause, known := causes[after.Cause]
	kind := cause.ends
	if !known && after.Retired.Fence == l.Fence && after.Retired.At < l.ExpiresAt {
		kind = LeaseReleased
	}
	if kind == LeaseForceReleased || kind != "" && after.Retired.Key == key {
		return kind
	}
	return LeaseExpired
}

// CallbacksDue are the grants that need callbacks after a write: new grants with tokens, and those that got another token of a task.
func CallbacksDue(before, after Record) (list []Change) {
	for _, key := range byFence(after.Holders) {
		h, was := after.Holders[key], before.Holders[key]
		if granted := was.Fence != h.Fence; granted && !h.Tokens.Empty() || h.Tokens.OfTask() && was.Tokens != h.Tokens {
			list = append(list, Change{LeaseAcquired, key, h})
		}
	}
	return list
}

// A Write is one write of a lock's record, as a table's stream shows it.
type Write struct {
	Lock   string
	Before Record   // zero for a new row
	After  Record   // zero for a row that was removed
	Ended  []Waiter // waiters with tokens whose places ended without a grant

	Rule *RuleWrite // not nil: the write is of a prefix rule. Lock is then [RuleSubject] of its prefix, and the records are empty
}

// A RuleWrite is one write of a prefix rule. Before is the zero PrefixRule if there was none.
type RuleWrite struct{ Before, After PrefixRule }

// AllLocks stands for the empty prefix of a rule for all locks, where a text must not be empty. No lock's name contains it.
const AllLocks = "*"

// RuleSubject is the prefix of a rule, or [AllLocks].
func RuleSubject(prefix string) string { return cmp.Or(prefix, AllLocks) }

// RulePrefix is the prefix of a [RuleSubject].
func RulePrefix(subject string) string {
	if subject == AllLocks {
		return ""
	}
	return subject
}

// OfWait reports whether this is a record of the stream that shows only the ends of waits: the lock's row has a record of its own.
func (w Write) OfWait() bool { return w.Before.Rev == 0 && w.After.Rev == 0 && len(w.Ended) > 0 }

// OfQueue reports whether the stream's consumer must see the write although no events of the lock are published: others waited before
// it, or its cause says so. All other writes have no [Effects] with listened false. The filters of both templates select these writes.
func (w Write) OfQueue() bool {
	return !w.After.Cause.Quiet() && (w.Before.Waiting > 0 || causes[w.After.Cause].queue)
}

// Effects are what follows from a write.
type Effects struct {
	Changes   []Change // ends first, then grants, each oldest grant first
	Timed     []Change // the leases that need a timer
	Callbacks []Change // the grants that need callbacks
	Unsettled bool     // see [Unsettled]: the lock must be settled now
	// Turn: permits are free, and the head of the queue may be another than before, or permits were not free before. If the head cannot be granted,
	// the lock must be settled again when its place ends: see [HeldUp].
	Turn bool
}

// Effects derives what follows from a write. listened says that events of the lock are published, so that every grant needs a
// timer. Otherwise timers are needed by leases of executions, which are checked, and while others wait: when the first waiter joins,
// for every holder, and for every grant while the queue is not empty. So no waiter has a holder without a timer before it, and an expired
// lease that nobody waits for is ended by the next acquire.
func (w Write) Effects(listened bool) Effects {
	e := Effects{Changes: Changes(w.Before, w.After), Callbacks: CallbacksDue(w.Before, w.After)}
	joined := w.Before.Waiting == 0 && w.After.Waiting > 0
	e.Unsettled = Unsettled(w.After)
	moved := w.After.Cause == CauseTurn || w.Before.Head != w.After.Head
	rated := len(w.After.Grants) > 0 && permits(w.After.Holders) < permits(w.Before.Holders) // the head may fit only now, and a rate may keep it back
	e.Turn = e.Unsettled && (moved || rated || !w.Before.hasFree())
	for _, c := range e.Changes {
		if c.Kind == LeaseAcquired && (listened || c.Lease.Execution != "" || w.After.Waiting > 0) {
			e.Timed = append(e.Timed, c)
		}
	}
	if w.After.Cause.Quiet() { // a check sets the next timer itself
		return e
	}
	for _, key := range byFence(w.After.Holders) {
		l := w.After.Holders[key]
		before := w.Before.Holders[key]
		if before.Fence == l.Fence && (joined || before.CheckAt != l.CheckAt) { // joined, or a refused caller asked for an overdue check again
			e.Timed = append(e.Timed, Change{LeaseAcquired, key, l})
		}
	}
	return e
}
