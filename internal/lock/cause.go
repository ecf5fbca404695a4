package lock

import (
	"maps"
	"slices"
)

// A Cause says what kind of write made a record what it is. It is stored with the record. The stream's filter, the stream's
// consumer and auditors read it.
type Cause string

// The causes.
const (
	CauseAcquire      Cause = "acquire"       // an acquire changed the holders: its own, or others by settling
	CauseTask         Cause = "task"          // an acquire with a task's token or an execution was granted at once, or in its turn
	CauseJoin         Cause = "join"          // the first waiter joined a queue that was empty: its holders need timers
	CauseClaim        Cause = "claim"         // a waiter that polls claimed its grant, or a caller without a token asked for a task's lease
	CauseToken        Cause = "token"         // a task's further callback token was added to its lease
	CauseRenew        Cause = "renew"         // a lease was extended
	CauseRelease      Cause = "release"       // a lease was released by its secret, or a waiter left the queue
	CauseGiveBack     Cause = "give-back"     // a holder gave some of its permits back, and kept the lease
	CauseExpire       Cause = "expire"        // a timer found a lease expired
	CauseForceRelease Cause = "force-release" // an operator ended leases
	CauseTaskGone     Cause = "task-gone"     // a callback found that the only task that a lease was granted for is gone
	CauseExecutionEnd Cause = "execution-end" // the execution that a lease or a place belonged to ended
	CauseQueue        Cause = "queue"         // only the queue changed: a further waiter joined, extended its place or lost it
	CauseTurn         Cause = "turn"          // only the queue changed, its head is another, and permits are free
	CauseSettle       Cause = "settle"        // waiters were granted what an earlier write left free
	CauseAttempt      Cause = "attempt"       // a callback is about to be attempted
	CauseTold         Cause = "told"          // the callbacks of a grant were answered
	CauseCheck        Cause = "check"         // a check found that an execution still runs
	CauseRecheck      Cause = "recheck"       // a refused caller asked for an overdue check of an execution
	CauseRepair       Cause = "repair"        // an operator lowered a fencing token that a wrong clock wrote
	CauseUndo         Cause = "undo"          // a coordinator took back a grant that it made under a wrong clock
)

// causes is the table of causes.
var causes = map[Cause]struct {
	// quiet: the write changed no holder and needs no timer, event or callback.
	quiet bool
	// queue: the stream's consumer must see the write although no events of the lock are published and it had no waiters before: see [Write.OfQueue].
	queue bool
	// ends is what happened to the lease that the write retired; LeaseExpired for the causes that say nothing of it.
	ends ChangeKind
	// released: a late release of the lease that ended so is answered as if it had done it.
	released bool
}{
	CauseAcquire:      {},
	CauseTask:         {queue: true},
	CauseJoin:         {queue: true},
	CauseClaim:        {quiet: true},
	CauseToken:        {queue: true},
	CauseRenew:        {quiet: true},
	CauseRelease:      {ends: LeaseReleased, released: true},
	CauseGiveBack:     {},
	CauseExpire:       {},
	CauseForceRelease: {ends: LeaseForceReleased},
	CauseTaskGone:     {ends: LeaseReleased},
	CauseExecutionEnd: {ends: LeaseReleased, released: true},
	CauseQueue:        {quiet: true},
	CauseTurn:         {queue: true},
	CauseSettle:       {},
	CauseAttempt:      {quiet: true},
	CauseTold:         {quiet: true},
	CauseCheck:        {quiet: true},
	CauseRecheck:      {queue: true},
	CauseRepair:       {queue: true},
	CauseUndo:         {queue: true, ends: LeaseReleased, released: true},
}

// Quiet reports whether a write with this cause changed no holder and needs no timer, event or callback. The filters of both
// templates drop these writes.
func (c Cause) Quiet() bool { return causes[c].quiet }

// Causes are all causes, sorted.
func Causes() []Cause { return slices.Sorted(maps.Keys(causes)) }

// QuietCauses are the causes of quiet writes, sorted.
func QuietCauses() []Cause {
	return slices.DeleteFunc(Causes(), func(c Cause) bool { return !c.Quiet() })
}

// QueueCauses are the causes of writes that the stream's consumer must see, whoever listens and whoever waits, sorted.
func QueueCauses() []Cause {
	return slices.DeleteFunc(Causes(), func(c Cause) bool { return !causes[c].queue })
}
