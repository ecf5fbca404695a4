/*
Package lock is Holdfast's protocol: what a lock is, how it changes, and who may change it. It imports nothing but the
standard library, does no I/O and starts no goroutine. Stores carry it to a database; see [Store] and [Memory].

# A lock

A lock is one [Record], under a name. Its holders are leases: permits that somebody has until a time. A mutex has one
permit, a semaphore more, and both are the same thing here. A lease is known by a secret that the caller of Acquire
chooses and uses once; the record keeps only its hash, the [LeaseKey].

	                  take                             release (only holder)
	  free  ─────────────────────────▶  held  ────────────────────────────────▶  free, remembering
	(no row,                          ▲   │   │                                 the lease that ended
	 no holders, or  ◀────────────────┼───┘   │  expire (past expiry + skew), force-release,
	 all past expiry                  │       └──▶ ─────────────────────────────────────────────▶
	 + skew)            renew, and swap: join,
	    │               leave, partial expiry,
	    │               enqueue, hand-off
	    ▼
	 row purged by native TTL, a day after its last use; the next take makes it anew

Every change is a [Command]: a guard over the record as it is stored and an effect, in one atomic step. An operation first
tries one command blind. If the guard fails, the record comes back with the refusal, and the operation decides on it: an
answer, or another command, at most 8 times. So an uncontended acquire, renew or release is one request to the store.

Each grant has a fencing token, max(now in µs, the record's + 1): it grows with every grant for the life of the name, also
over a purge of the row, because the row is kept for longer than any write is under way (see [Rules.Retention]).

# Time

Coordinators judge expiry by their own clocks. What is assumed of time:

 1. Coordinators' clocks are within [Rules.Skew] (250 ms) of each other, pairwise, when they judge. A lease is over for
    its holder at its expiry by the coordinator's clock; others get the lock only a skew later.
 2. A client's monotonic clock keeps the rate of real time within 1/1000. It counts from before it sent the request whose
    answer it believes, and never believes past that answer's remaining life.
 3. No write lands later than [Rules.Retention] after its coordinator read the clock.
 4. The store's Date, where it tells one, is right within a second or so. A coordinator whose clock provably disagrees
    with it by more than [MaxClockError], 1 s, grants and renews nothing; see [ClockError]. The Date is cut to whole
    seconds, so a prompt reply proves a clock wrong that is more than [MaxClockOffset], 2 s, off, and may prove one that
    is between 1 s and 2 s off.

A clock that is off by more than 250 ms breaks assumption 1. Up to 1 s that is never noticed, up to 2 s not always, beyond 2 s
always: keep clocks synchronised. Lambda's are.

# Waiting

An acquire may join the lock's queue; see queue.go. The write that frees the lock also grants it to the waiters at the head of the
queue. A waiter that polls has [ClaimTime] to claim its grant, by a repeated acquire or by a renewal; the lease then lasts its
whole TTL. A waiter with a token is told by a callback.

A lease may belong to an execution of a state machine instead of lasting a TTL. It ends with the execution, by
[Coordinator.EndExecution], or by a timer that checks whether the execution runs. If the word of the end and the timer are both
lost, the next acquire that is refused asks for the check again, [RecheckAfter] after it was due: a write with [CauseRecheck], for
which the stream's consumer sets a timer. A check also finds grants whose callback nobody tried.

# Capacity

A holder remembers the capacity that it asked for. The lock's capacity is the smallest one of its holders', and a newcomer is
granted only what fits both that and its own. So a capacity may be changed while the lock is in use: callers that wait are queued and
granted as before, and as long as holders with both capacities are there, no more is held than the smaller one allows. A newcomer
that does not wait and names another capacity than the present one gets [ErrCapacityMismatch].

# Failures

What each party sees, and why that is safe:

	what happens            | the caller                        | the lock                          | safe, because
	------------------------|-----------------------------------|-----------------------------------|---------------------------------------------
	request lost            | no answer; sends it again         | unchanged                         | nothing happened
	reply lost              | no answer; sends it again         | changed once                      | a repeat is known by its lease secret: an
	                        |                                   |                                   | acquire gets the same lease with the life
	                        |                                   |                                   | that is left, a release the same answer, a
	                        |                                   |                                   | renewal another renewal
	request delivered twice | one answer, or two alike          | changed once                      | as above; it also holds for an SDK's retry
	                        |                                   |                                   | of one write: its guard fails on its own
	                        |                                   |                                   | success, and the record shows it
	acquire delivered late, | hears nothing, or a lease it      | held until its TTL by a ghost, if | a lease's secret is used once, and its end
	  after its caller left | ignores                           | the lease has not ended before    | is remembered; else it only costs time.
	                        |                                   |                                   | Whoever gives up sends a release
	renewal delivered late  | nothing                           | unchanged                         | a renewal never shortens, and never revives
	                        |                                   |                                   | a lease that is over by the clock it read
	holder paused           | its check says lost, or its       | passes on after expiry + skew     | it counts on a monotonic clock; what it does
	                        | context has ended                 |                                   | between check and effect needs the fence
	holder killed           | -                                 | passes on after expiry + skew     | nobody renews
	clock steps forward, or | store_unavailable beyond 2 s      | a free lock may be granted to     | a blind write needs a lock without holders;
	  back, at a coordinator|                                   | nobody, for its TTL at most       | others follow a reply that was judged
	                        |                                   | ; the grant and fence are taken    | the store's reply proved it before anybody
	                        |                                   | back                              | was told of the grant
	clock went back         | a fence one higher than the last  | -                                 | a proposal that is too small fails its
	                        |                                   |                                   | guard, and is made from the record
	a wrong clock's reply   | store_unavailable                 | closed: its fence is ahead of     | no grant is made or told with such a
	  lost, or it died      |                                   | time, until Coordinator.Repair    | fence; Repair keeps what can have been
	                        |                                   |                                   | told
	both signals of the end | lock_held                         | checked again for the next caller | the check asks the execution's service
	  of an execution lost  |                                   | that is refused                   |
	callback never tried    | the task waits                    | held by its execution; the check  | a callback is tried under the lease and its
	                        |                                   | tells it                          | fence, and Attempted is stored before
	callback tried twice at | a task is told once               | held                              | only the first attempt may end a lease,
	  once                  |                                   |                                   | and not once Known is stored, by a later
	                        |                                   |                                   | attempt or for a caller
	store throttled or slow | throttled, or a slow answer       | changed or not                    | it sends the same request again
	store down              | store_unavailable                 | changed or not                    | likewise; a holder's lease runs out on its
	                        |                                   |                                   | own clock before anyone else's
	row purged              | nothing                           | free, with no memory              | only a day after it was last used
	coordinator dies        | no answer; sends it again         | changed or not                    | coordinators keep nothing

# What is not guaranteed

  - That a holder is alone in the moment of its effect. A process may be paused between a check and what it does next;
    a resource that takes the fencing token and refuses older ones is safe, one that doesn't is not.
  - Anything, if clocks are further apart than assumed and within what rule 4 of Time can prove.
  - Fairness to those who do not wait. Who joins the queue takes turns in order; who only tries may never find it free. A waiter
    for many permits holds up those behind it that would fit.
  - That a late duplicate is recognised forever: a record remembers the one lease that ended last.
  - Reentrancy. A second lease for the same owner is another lease.

# Rules

The design's rules, and where they are kept; explorer_test.go walks every interleaving of small worlds against them, and
explore_test.go removes each clause of each guard and has it caught. rules_test.go has a quick test of each rule.

 1. A lease past its expiry is over: LeaseOutlives in renew and release, FreeBy and NotRetired in take. The lease of an execution
    lasts as long as that, however its grant was claimed: LeaseClaimed in renew, and claimed.
 2. A repeated acquire gives the same lease and what is left: acquisition.next, Coordinator.lease.
 3. A repeated release succeeds while remembered: releasing.next.
 4. A renewal never shortens and never prunes: FreeBy in renew, renewal.next.
 5. A provably wrong clock grants nothing: Coordinator.judge, checkClock and undo; and no other coordinator tells what it
    granted: doubt. The explorer's clocks are within the allowance; what lies beyond is tested in package dynamo (TestClockGuard,
    TestClockAheadDisplacesNobody).
 6. No sequence of lost, repeated and late requests exceeds the capacity, repeats a fence, or holds a lock for longer than
    a TTL and two skews.
 7. A failed guard is read for "already mine" first: the first lines of every next.
 8. A timer names its grant: gone, not yet due (ask again then), or out: expiring.next.
 9. Whoever ends a holder, or meets one that is over, hands on: settle in every next; NobodyWaiting in every fast command, so
    that none of them acts over the heads of waiters. What one write cannot move, Coordinator.Settle does next, or the
    stream's consumer.
 10. Enqueueing is idempotent: acquisition.next finds a repeat's place, and keeps it. A row outlasts its waiters' places by a
    retention: swap. A waiter believes only an answer of the coordinator's own, or a callback sent while its lease is stored.
 11. Contention is an answer: ErrLockHeld and ErrLeaseLost are no faults.
 12. Attributes that this version doesn't know are kept: swaps write what differs, holder by holder.
*/
package lock
