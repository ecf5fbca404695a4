/*
Package lock is Holdfast's protocol: what a lock is, how it changes, and who may change it. It imports the standard library
only, does no I/O and starts no goroutine. Stores connect it to a database; see [Store] and [Memory].

# A lock

A lock is one [Record] under a name. Its holders have leases: permits that are granted until an expiry. A mutex has one
permit, a semaphore more; both are the same thing here. A lease is identified by a secret that the caller of Acquire chooses
and uses once. The record contains a hash of it only, the [LeaseKey].

	                  take                             release (of the only lease)
	  free  ─────────────────────────▶  held  ────────────────────────────────▶  free; the record
	(no record,                       ▲   │   │                                 remembers the lease
	 no leases)      ◀────────────────┼───┘   │  expire (past expiry + skew), force-release
	    │                             │       └──────────────────────────────▶
	    │               renew, and swap: further leases,
	    │               queue, hand-off, partial ends
	    ▼
	 record purged by native TTL, a day after its last use; the next take makes a new one

A lock whose leases have all expired is granted by a swap, which also removes them.

Every change is a [Command]: a guard over the record as it is stored, and an effect, in one atomic step. An operation first
tries one command without reading the record. If the guard fails, the refusal returns the record, and the operation decides
on it: the outcome, or another command, up to 8 times. So an acquire, a renewal or a release without contention is one
request to the store.

Each grant has a fencing token: max(now in microseconds, the record's + 1). It grows with every grant of a name, also across
a purge of the record, because the record is kept for longer than any write can be under way (see [Rules.Retention]).

# Where things are decided

  - Whether a lock can be granted: acquiring.next and settle (acquire.go, queue.go).
  - Expiry: for granting to others in blocking and settle, an expiry plus the skew allowance ago; for the holder in the guard
    LeaseOutlives and in the next of renew, release and a repeated acquire, at the expiry; for timers in [Coordinator.Expire] and
    the guard LeaseExpiredBy.
  - A lost reply: after a failed guard, next checks whether the request was carried out already. The table of failures below says
    what the caller gets.
  - A wrong clock: clock.go.

# Time

Coordinators decide expiry by their own clocks. The assumptions about time are:

 1. The clocks of coordinators are within [Rules.Skew] (250 ms) of each other, pairwise, when they decide. A lease is over
    for its holder at its expiry by the coordinator's clock. Others get the lock one skew allowance later.
 2. A client's monotonic clock runs at the rate of real time within 1/1000. The client counts from before it sent the request
    whose answer it relies on, and never beyond the remaining time in that answer.
 3. No write is applied later than [Rules.Retention] after its coordinator read the clock.
 4. The store's Date header, where there is one, is right within a second or so. A coordinator whose clock differs from it by
    more than [MaxClockError], 1 s, grants and renews nothing; see [ClockError]. The Date is cut to whole seconds, so a prompt
    reply always proves an error of more than [MaxClockOffset], 2 s, and may prove one between 1 s and 2 s.

A clock that is off by more than 250 ms breaks assumption 1. Errors up to 1 s are not detected, between 1 s and 2 s
sometimes, above 2 s by every prompt reply. Keep the clocks of your own hosts synchronised; AWS synchronises Lambda's.

# Waiting

An acquire may join the lock's queue; see queue.go. The write that frees the lock also grants it to the waiters at the head of
the queue. A waiter that polls must claim its grant within [ClaimTime], by a repeated acquire or a renewal; the lease then
lasts its whole TTL. A poll with the ticket of the waiter's place is one read of two items, and writes the record only to claim; see
poll.go. A waiter with a token gets a callback, from the process that made the grant ([Config.Granted]) or else
from the stream's consumer. Each of them stores an attempt first ([Coordinator.MarkAttempt]), then sends the callback, then
stores that it was answered ([Coordinator.MarkTold]). The callback of a waiter that polls is a hint: its grant is unclaimed, and
nothing is stored of the callback.

The lease of a state machine's execution ends with the execution; see execution.go.

# Capacity

A lease keeps the capacity that its request named. The capacity of the lock is the smallest of them, and a request is granted
only what fits both that and its own. So the capacity of a lock can be changed while it is in use: requests that wait are
queued and granted as always, and while leases with both capacities exist, no more permits are held than the smaller one
allows. A request that does not wait and names another capacity than the present one gets [ErrCapacityMismatch].

# Sets of locks

Up to [MaxSet] locks are acquired together, all or none; see set.go. A set that waits has a place in each queue, which are joined, extended, granted and
left together, and holds nothing. So all queues have the sets that they share in one order, and there is no deadlock. No write
of one record grants a set: its writer then reads the other locks of the set that is first, and grants it if it is first in all
queues and fits in all locks; see setrun.go.

A task waits for a set with a token in its place in the first lock, by the order of names. So the lease in that lock alone needs a callback, and says whether it
was attempted and answered; the set belongs to its execution by one binding; and what ends it for the task or the execution ends it in all locks. See settask.go.

The head of a queue may so keep those behind it from free permits: a set that waits for another lock, or a waiter for more
permits than are free. When the head's place ends, and its caller is gone, no other write of the lock may come. So the stream's consumer
settles the lock then; see [Coordinator.SettleUntil].

# Prefix rules

An operator may freeze all locks whose names begin with a prefix until a time; see [PrefixRule]. A frozen lock is granted to
nobody: not by an acquire, and not by a write that frees it. Its holders go on, and its waiters keep their places. A
coordinator reads all rules in one request and goes by them for a period, [RulePeriod]; see rulecache.go. The record that an
operation decides on has what keeps the lock back (Record.hold), so that the part of every write that grants waiters,
advance, grants none. When the freeze is over, the next write of the lock grants them: of a poll, or of the stream's
consumer, which looks for them at its end ([Coordinator.Thaw]). While the rules cannot be read, nothing is granted; see
withHold.

Limits are another part of prefix rules: see [Limits]. An acquire compares them with what it would add, a lease or a place, and
with nothing that is there. So a limit that is set later refuses no repetition, poll or claim, and a hand-off goes by the limits that were
compared when the waiter joined. What a lease keeps of them ([Bounds]) is in its terms: a renewal is one request by the clauses LeaseTTLAllows and
LeaseMayLast, without rules. Principals are counted over the whole queue and all leases in the record that the guard of the write
proves.

# Failures

What each party sees, and why that is safe:

	what happens            | the caller                        | the lock                          | safe, because
	------------------------|-----------------------------------|-----------------------------------|---------------------------------------------
	request lost            | no answer; sends it again         | unchanged                         | nothing happened
	reply lost              | no answer; sends it again         | changed once                      | the record shows that the request was
	                        |                                   |                                   | carried out: a repeated acquire gets the
	                        |                                   |                                   | same lease with the time that is left, a
	                        |                                   |                                   | release the same answer, a renewal another
	                        |                                   |                                   | renewal
	request delivered twice | one answer, or two equal ones     | changed once; a renewal twice,    | as above. It also holds for an SDK's retry
	                        |                                   | with one expiry                   | of one write: its guard fails because the
	                        |                                   |                                   | first try was applied, and the record shows
	                        |                                   |                                   | it; a renewal's guard holds again
	acquire delivered late, | nothing, or a lease that it       | held until its TTL with no        | a lease's secret is used once, and its end
	  after its caller gave | ignores                           | holder, unless the lease had      | is remembered; otherwise it costs time only.
	  up                    |                                   | ended before                      | A caller that gives up sends a release
	renewal delivered late  | nothing                           | a live lease is extended from     | only the lease's secret extends it; a renewal
	                        |                                   | then on, and gets the renewal's   | never shortens a lease and never revives one
	                        |                                   | metadata; else unchanged          | that has expired
	poll delivered late     | nothing                           | unchanged, or a place is kept a   | it extends only a place that is as it was
	                        |                                   | little longer                     | read
	a waiter is kept while  | its place, or its grant           | the write is decided on again     | the write's condition on the waiter fails
	  a write removes it    |                                   |                                   |
	holder paused           | its check says that the lease is  | granted to others after expiry    | it counts on a monotonic clock; what it does
	                        | lost, or its context has ended    | + skew                            | between check and effect needs the fencing
	                        |                                   |                                   | token
	holder killed           | -                                 | granted to others after expiry    | nobody renews
	                        |                                   | + skew                            |
	clock of a coordinator  | store_unavailable beyond 2 s      | a free lock may have a lease that | a write without a read needs a lock without
	  steps forward or back |                                   | nobody knows of, until the        | leases; other writes follow a reply that was
	                        |                                   | coordinator undoes the grant, or  | checked. The store's reply proved the error
	                        |                                   | for its TTL                       | before the grant was returned
	clock went back         | the record's fencing token + 1    | -                                 | a proposal that is too small fails its
	                        |                                   |                                   | guard, and is made from the record
	reply to a wrong clock  | store_unavailable                 | cannot be granted until           | no grant is made or returned with a fencing
	  lost, or coordinator  |                                   | Coordinator.Repair: its fencing   | token ahead of time; Repair sets one above
	  died                  |                                   | token is ahead of time            | every token that a client can have received
	both signals of the end | lock_held                         | checked again for the next caller | the check asks Step Functions
	  of an execution lost  |                                   | that is refused                   |
	process dies before it  | callback from the stream          | held                              | the stream's consumer reads the record: it
	  stored the attempt    |                                   |                                   | makes the first attempt
	process dies between    | callback from the stream          | held, also if the task is gone    | Told is not stored: the consumer attempts it
	  attempt and callback  |                                   |                                   | again, and a later attempt ends no lease
	process dies between    | callback; a repetition of it      | held                              | as above: the repetition finds no task that
	  callback and Told     | finds no task                     |                                   | waits, and ends nothing; then Told is stored
	callback never          | the task waits                    | held by its execution; the check  | Told is stored only after every callback was
	  answered, and the     |                                   | sends the callback                | answered; the check sends it while it is not
	  stream's record lost  |                                   |                                   |
	callback attempted      | one callback succeeds             | held                              | only the first attempt may end a lease, and
	  twice at once, by     |                                   |                                   | only while Known is false: a second attempt
	  functions or stream   |                                   |                                   | sets it, and so does another caller
	another token while a   | callbacks to all tokens           | held                              | the new token removes Attempted and Told, and
	  callback is sent      |                                   |                                   | Told is stored for the tokens that it was
	                        |                                   |                                   | sent to only
	notification lost, late | polls to keep its place, and      | held for [ClaimTime], then        | it is a hint: a waiter that polls holds the
	  or sent twice         | claims its grant; else it lost    | granted to the next               | lock only after its acquire was answered. It
	                        | its turn                          |                                   | is sent while the grant is unclaimed
	queue of a waiter gone, | as above                          | as above                          | nothing is stored of notifications, and none
	  or not allowed        |                                   |                                   | ends a lease
	callback's service slow | release answered after a second   | held                              | the write is stored before the callback; what
	                        | at most; callback from the stream |                                   | it did not send, the stream's consumer sends
	store throttled or slow | throttled, or a slow answer       | changed or not                    | the same request may be sent again
	store down              | store_unavailable                 | changed or not                    | likewise; a holder's own clock ends its
	                        |                                   |                                   | lease before anyone else gets the lock
	rules cannot be read    | throttled or store_unavailable,   | as it was                         | what may be frozen is not granted
	                        | also a release to a waiter        |                                   |
	rules can never be read | misconfigured; a release succeeds | a release hands it on to nobody   | the stream's consumer hands it on later
	limit set while an      | a lease, or a place               | as by the limits before           | as for a freeze
	  acquire is under way  |                                   |                                   |
	freeze set while an     | a lease, or a place               | granted, if the write was decided | the rules that a coordinator goes by are a
	  acquire is under way  |                                   | on before                         | period old at most
	end of a freeze not     | polls, and is granted             | granted by the next poll or other | a place is kept by polls; a task's wait is a
	  noticed: the job lost |                                   | write, or by a sweep              | finding of a sweep
	client of a set that is | -                                 | its places end, each by its own   | nobody extends them; a set is granted all
	  first in a queue dies |                                   | time; then the next is granted    | its places or none
	writer dies before it   | waits                             | granted by the stream's consumer  | the consumer sees each write that frees
	  granted a set         |                                   | or by the set's next poll         | permits or changes the head: cause turn
	a lock of a set is lost | callback: LeaseLost               | the others are ended, if it was   | the notifier reads the leases of all locks
	  before its callback   |                                   | the first attempt                 | before it sends the callback
	row purged              | nothing                           | free; late duplicates are not     | only a day after its last use
	                        |                                   | recognised                        |
	coordinator dies        | no answer; sends it again         | changed or not                    | coordinators keep no state

# What is not guaranteed

  - That a holder is alone in the moment of its effect. A process may be paused between a check and what it does next. A
    resource that takes the fencing token and refuses lower ones is safe; another is not.
  - Anything, if clocks differ by more than the skew allowance of 250 ms but by too little for the clock check, up to 2 s.
  - Fairness to callers that do not wait. Waiters take turns in order; a caller that only tries may never find the lock free.
    A waiter for many permits holds up the waiters behind it, also those that would fit.
  - That metadata is the newest: a renewal that is delivered late stores the metadata that it carries.
  - That a late duplicate is recognised for ever: a record remembers the one lease that ended last.
  - That nothing is granted from the moment that a freeze was stored: coordinators go by rules that are up to a period old, and a write that was decided on
    before may land later, for as long as its request takes or its process is suspended.
  - Reentrancy. A second lease of the same owner is another lease.

# Rules

The rules of the protocol, and where the code keeps them. explorer_test.go walks every interleaving of small worlds against
them, with freezes, limits and rates. explore_test.go removes each clause of each guard and expects the explorer to notice. The tests named TestRule are the
quick tests of each rule.

 1. A lease past its expiry is over: LeaseOutlives in renew and release; take wants a record without leases (FreeBy 0). A claimed lease of
    an execution lasts until the execution ends, whether an acquire or a renewal claimed it: LeaseClaimed in renew, and claimed.
 2. A repeated acquire returns the same lease and the time that is left: acquiring.next, Coordinator.lease.
 3. A repeated release succeeds while it is remembered: releasing.next.
 4. A renewal never shortens a lease and never removes another one: FreeBy in renew, renewing.next.
 5. A coordinator whose clock is provably wrong grants nothing: Coordinator.checkOffset, readIfSuspect and undo; and other
    coordinators do not return a lease that such a one granted: doubt. The explorer's clocks are within the allowance; larger errors
    are tested in package dynamo (TestClockGuard, TestClockAheadDisplacesNobody).
 6. No sequence of lost, repeated and late requests exceeds the capacity, repeats a fencing token, or holds a lock for longer
    than a TTL and two skew allowances.
 7. After a failed guard, next first checks whether the request was carried out already.
 8. A timer names its grant. The grant is over, not yet expired (the timer is set again), or ended: expiring.next.
 9. A write that grants or ends a lease, or changes the queue, settles the record: settle, or advance in a force-release. Commands that
    are sent without reading have the clause NobodyWaiting, so they cannot bypass the queue. Coordinator.Settle, or the stream's
    consumer, grants the waiters that one write could not.
 10. Joining the queue is idempotent: acquiring.next finds the place of a repeated request, and extends it. A row is kept for a
    retention after its waiters' places, or half of one if a poll extended them: swap, polled. A waiter relies only on an answer of the
    coordinator, or on a callback that was sent while its lease was stored.
 11. ErrLockHeld and ErrLeaseLost are normal results, no faults.
 12. A poll extends a place without writing the record, so a write that removes or changes a waiter proves that it is as it was read:
    PlaceUntil in swap and keep. A place is never shortened.
 13. Attributes that this version does not know are kept: a swap writes only what differs, attribute by attribute, and those of a waiter's
    terms go to its lease.
 14. While a freeze is in force, or the rules cannot be read, no write grants the lock: advance, acquiring.next, tryAcquire. Holders' requests do not depend on rules.
    After its end no waiter is forgotten: [Coordinator.Thaw], [Coordinator.SettleUntil], which goes by no freeze and no rate that was read before.
 15. A set is granted all its locks or none, and only if it is first in all its queues, fits in all locks, and none is frozen: setFits, setAcquiring.free,
    [Store.ApplyAll]. A part of a set is believed only when two reads in a row show it: leaseSeenTwice, placeSeenTwice.
 16. Nobody waits without limit behind a waiter whose caller is gone: [Coordinator.SettleUntil], Effects.Turn, [CauseTurn].
 17. No request that a limit refuses makes a lease or a place: acquiring.next, tryAcquire. No renewal or claim makes a lease last beyond its EndsAt, or gives it a longer
    TTL than its limit: LeaseMayLast and LeaseTTLAllows in renew, renewing.next, bounded. A limit ends or refuses nothing that is there.
 18. No write grants a lock before its rates allow it, nor more waiters than they allow: Record.heldBack, counting. Nobody waits for a rate without limit: [HeldUp],
    Effects.Turn.
*/
package lock
