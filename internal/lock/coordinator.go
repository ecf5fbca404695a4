package lock

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// A Store keeps records and applies commands to them, each in one atomic step.
//
// Errors are [*GuardError] for a guard that does not hold, [*StoreError] or [*ClockError] for faults, and ctx.Err() when
// the context ended. After a fault nobody knows whether the command was applied.
type Store interface {
	// Get reads a record, strongly consistent; Reply.After is the zero Record if there is none.
	Get(ctx context.Context, name string) (Reply, error)
	// Apply runs a command.
	Apply(ctx context.Context, name string, c Command) (Reply, error)
	// Waiters reads the head of a lock's queue, strongly consistent, in the order of tickets: limit of them at most.
	Waiters(ctx context.Context, name string, limit int) ([]Waiter, error)
	// List reads records by name prefix, in pages.
	List(ctx context.Context, q ListQuery) (Page, error)

	// Bound lists the leases and places in queues that were ever bound to an execution, and are not unbound.
	Bound(ctx context.Context, execution string) ([]Binding, error)
	// Unbind forgets them.
	Unbind(ctx context.Context, execution string, list []Binding) error
}

// A Binding is a lease, or a place in a queue, that belongs to an execution.
type Binding struct {
	Lock string
	Key  LeaseKey
}

// A Reply is what a store says of one record.
type Reply struct {
	Before Record // as it was before the command; zero for Get
	After  Record
	// Offset is how far this process's clock provably is from the store's, as told by the very reply: positive when ours
	// is ahead, 0 when they may agree.
	Offset time.Duration
}

// A ListQuery selects records.
type ListQuery struct {
	Prefix    string // of the lock's name; empty: all
	HeldAfter int64  // if not 0: only those whose FreeAt is later than this
	Limit     int    // at most so many on a page
	Cursor    string // where the last page ended; empty: from the start
}

// MaxPageBytes ends a page of a list: past it no record is added. With the largest record it leaves room in the 6 MB that a
// Lambda function may answer.
const MaxPageBytes = 2 << 20

// A Page is part of a list. It may be short, even empty, and still have a Next.
type Page struct {
	Entries []Entry
	Next    string // empty at the end
}

// An Entry is a record in a list.
type Entry struct {
	Name   string
	Record Record
}

// Config is what a [Coordinator] is made of.
type Config struct {
	Store Store            // required
	Clock func() time.Time // nil: time.Now
	Rules Rules
}

// A Coordinator answers requests for locks. It keeps nothing but its opinion of its own clock, so any number may serve
// one table. It is safe for use by any number of goroutines, and starts none.
type Coordinator struct {
	store   Store
	clock   func() time.Time
	rules   Rules
	suspect atomic.Bool // the last reply showed a wrong clock: look before the next grant
}

// maxTries bounds how often an operation is tried again because another write came first. Each such failure is the
// success of someone else, so only a lock under a storm of writes ever gets there.
const maxTries = 8

// New makes a coordinator.
func New(cfg Config) (*Coordinator, error) {
	if cfg.Store == nil {
		return nil, errors.New("lock: Config.Store is nil; give it a store")
	}
	if err := cfg.Rules.Validate(); err != nil {
		return nil, err
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	return &Coordinator{store: cfg.Store, clock: cfg.Clock, rules: cfg.Rules.withDefaults()}, nil
}

// A LeaseStatus is a holder's place on a lock, as the coordinator tells it.
type LeaseStatus struct {
	Lock      string
	Lease     Lease
	Capacity  int64
	Remaining time.Duration // life left when the coordinator answered; a caller counts it from before it sent the request
}

// Acquire grants permits, or answers [ErrLockHeld], [ErrCapacityMismatch], [ErrQueueFull] or, for a secret whose lease is
// over, [ErrLeaseLost]. Repeated with the secret of a live lease it gives that lease again, with what is left of its life.
// With a Wait, an [ErrLockHeld] tells the place in the queue.
func (c *Coordinator) Acquire(ctx context.Context, req AcquireRequest) (LeaseStatus, error) {
	if err := c.checkClock(ctx, req.Lock); err != nil {
		return LeaseStatus{}, err
	}
	key := KeyOf(req.Lock, req.Secret)
	op := acquisition{c.rules, key, req}
	var out outcome
	var err error
	if op.blind() {
		out, err = c.run(ctx, req.Lock, op)
	} else {
		out, err = c.look(ctx, req.Lock, op)
	}
	if err != nil {
		return LeaseStatus{}, err
	}
	if err := c.judge(out.Offset); err != nil {
		if out.wrote && out.Before.Waiting == 0 && out.After.Waiting == 0 {
			c.undo(ctx, req.Lock, key, out.Reply)
		}
		return LeaseStatus{}, err
	}
	if _, mine := out.After.Holders[key]; !mine {
		return LeaseStatus{}, op.refusal(c.clock(), out.After)
	}
	return c.lease(req.Lock, key, out.After)
}

// Renew extends a live lease to at least TTL from now and never shortens it; a lease that is over is [ErrLeaseLost].
func (c *Coordinator) Renew(ctx context.Context, req RenewRequest) (LeaseStatus, error) {
	if err := c.checkClock(ctx, req.Lock); err != nil {
		return LeaseStatus{}, err
	}
	key := KeyOf(req.Lock, req.Secret)
	out, err := c.run(ctx, req.Lock, renewal{c.rules, key, req})
	if err != nil {
		return LeaseStatus{}, err
	}
	if err := c.judge(out.Offset); err != nil {
		return LeaseStatus{}, err
	}
	return c.lease(req.Lock, key, out.After)
}

// A Released is the answer to a release.
type Released struct {
	Lock  string
	Fence int64
	At    int64 // Unix milliseconds
}

// Release ends a live lease. Repeated, it gives the same answer while the record remembers the lease; a lease that is
// over otherwise, or never was, is [ErrLeaseLost].
func (c *Coordinator) Release(ctx context.Context, req ReleaseRequest) (Released, error) {
	out, err := c.run(ctx, req.Lock, releasing{c.rules, KeyOf(req.Lock, req.Secret), req})
	if err != nil {
		return Released{}, err
	}
	return Released{Lock: req.Lock, Fence: out.After.Retired.Fence, At: out.After.Retired.At}, nil
}

// Expire puts out the holders of a lock that are past their expiry, if the grant that the request names is one of them, and
// hands on to waiters. It answers when to ask again: the zero time if that grant is gone, by this call or before. A grant
// that belongs to an execution, and is to be looked after, is an [*ExecutionError]. It reads first: most leases are released
// before their timer comes due, a read costs a fifth of a write, and a wrong clock must not write.
func (c *Coordinator) Expire(ctx context.Context, req GrantRef) (again time.Time, err error) {
	_, err = c.look(ctx, req.Lock, expiring{c.rules, req})
	if early, ok := errors.AsType[notDue](err); ok {
		return time.UnixMilli(early.at), nil
	}
	return time.Time{}, err
}

// End ends a grant of which nobody can be told: its only token, as the grant was stored, is nobody's. by says who knows. A
// grant that is gone is no error.
func (c *Coordinator) End(ctx context.Context, req GrantRef, tokens Tokens, by string) error {
	_, err := c.look(ctx, req.Lock, ending{c.rules, req, by, tokens})
	return err
}

// Settle hands on what a write left undone that could not move all who wait at once.
func (c *Coordinator) Settle(ctx context.Context, name string) error {
	_, err := c.look(ctx, name, settling{c.rules})
	return err
}

// Attempt notes, before a grant's callback is tried, that it is: first tells whether it never was before, and nobody else
// can have been told. A grant that is over is [ErrLeaseLost]; one with other tokens since is [ErrSuperseded]. seen is the
// record as it was last heard of, which spares a read.
func (c *Coordinator) Attempt(ctx context.Context, req GrantRef, tokens Tokens, seen Record) (first bool, err error) {
	op := &marking{rules: c.rules, req: req, attempt: true, tokens: tokens}
	if h, held := seen.Holders[req.Key]; held && h.Fence == req.Fence && !h.Attempted {
		_, err = c.decide(ctx, req.Lock, Reply{After: seen}, op)
	} else {
		_, err = c.look(ctx, req.Lock, op)
	}
	if errors.Is(err, errGone) {
		err = ErrLeaseLost
	}
	return op.first && err == nil, err
}

// Checked notes that a grant's execution was seen to run. It answers when to look again; the zero time if the grant is gone.
func (c *Coordinator) Checked(ctx context.Context, req GrantRef, every time.Duration) (again time.Time, err error) {
	again = c.clock().Add(every)
	_, err = c.look(ctx, req.Lock, &marking{rules: c.rules, req: req, checked: again.UnixMilli()})
	if errors.Is(err, errGone) {
		return time.Time{}, nil
	}
	return again, err
}

// EndExecution ends every lease that belongs to an execution which is over, and takes it out of every queue. over is asked
// first, if anything belongs to it: the word that it ended may be an old one, of before it was started again.
func (c *Coordinator) EndExecution(ctx context.Context, execution string, over func(context.Context) (bool, error)) error {
	list, err := c.store.Bound(ctx, execution)
	if err != nil || len(list) == 0 {
		return err
	}
	if is, err := over(ctx); err != nil || !is {
		return err
	}
	for _, b := range list {
		if err := c.Depart(ctx, b.Lock, b.Key, execution); err != nil {
			return err
		}
	}
	return c.store.Unbind(ctx, execution, list)
}

// Depart ends one lease, or one wait, of an execution that is over. One that is gone, or another's, is no error.
func (c *Coordinator) Depart(ctx context.Context, name string, lease LeaseKey, execution string) error {
	_, err := c.look(ctx, name, departing{c.rules, lease, execution})
	return err
}

// ForceRelease ends every lease on a lock, or the one with the fence given, and answers those it ended, oldest grant
// first: none if nobody held it, or if this was a repeat. A fence that is no holder's is [ErrLockChanged]. Where the hand-off
// to waiters cannot be written, the leases end without it, and the waiters are left to the next write.
func (c *Coordinator) ForceRelease(ctx context.Context, req ForceReleaseRequest) ([]Lease, error) {
	op := &forcing{rules: c.rules, req: req}
	_, err := c.look(ctx, req.Lock, op)
	if errors.Is(err, ErrMisconfigured) || errors.Is(err, ErrLockFull) || errors.Is(err, ErrThrottled) {
		op.alone = true
		_, err = c.look(ctx, req.Lock, op)
	}
	if err != nil {
		return nil, err
	}
	if op.sent == nil {
		return nil, nil
	}
	var ended []Lease
	for _, key := range byFence(op.sent.From.Holders) {
		if h := op.sent.From.Holders[key]; op.sent.To.Holders[key].Fence != h.Fence {
			ended = append(ended, h)
		}
	}
	return ended, nil
}

// A Status is what anyone may know of a lock.
type Status struct {
	Lock      string
	Capacity  int64 // 1 for a lock never seen
	Available int64 // permits that an acquire of that capacity could get
	Fence     int64 // the highest ever granted
	Holders   []Lease
	Waiting   int64
	Now       int64 // the coordinator's clock, Unix milliseconds
}

// Status reads a lock. A holder is listed as long as it bars others: until its expiry plus the skew allowance.
func (c *Coordinator) Status(ctx context.Context, name string) (Status, error) {
	reply, err := c.store.Get(ctx, name)
	if err != nil {
		return Status{}, err
	}
	return c.status(name, reply.After), nil
}

func (c *Coordinator) status(name string, r Record) Status {
	now := c.clock().UnixMilli()
	live := r.blocking(now, c.rules.skew())
	s := Status{Lock: name, Capacity: max(r.Capacity, 1), Fence: r.Fence, Waiting: r.Waiting, Now: now}
	s.Available = s.Capacity - permits(live)
	for _, key := range byFence(live) {
		s.Holders = append(s.Holders, live[key])
	}
	return s
}

// A ListRequest asks for a page of statuses.
type ListRequest struct {
	Prefix string
	All    bool // also locks that nobody holds, as long as their rows are kept
	Limit  int
	Cursor string
}

// List reads locks by name prefix. A page may be short, even empty, and still have a next cursor; at the end that is
// empty. A cursor that no list answered is [ErrBadCursor].
func (c *Coordinator) List(ctx context.Context, req ListRequest) (list []Status, next string, err error) {
	q := ListQuery{Prefix: req.Prefix, Limit: req.Limit, Cursor: req.Cursor}
	if !req.All {
		q.HeldAfter = c.clock().UnixMilli() - c.rules.skew()
	}
	page, err := c.store.List(ctx, q)
	if err != nil {
		return nil, "", err
	}
	for _, e := range page.Entries {
		list = append(list, c.status(e.Name, e.Record))
	}
	return list, page.Next, nil
}

// outcome is how an operation ended: on a reply, written by us or found to be done already.
type outcome struct {
	Reply
	wrote bool
}

// run tries the optimistic command, and decides on the record that comes back when its guard fails.
func (c *Coordinator) run(ctx context.Context, name string, op operation) (outcome, error) {
	reply, err := c.store.Apply(ctx, name, op.first(c.clock()))
	if err == nil {
		return outcome{reply, true}, nil
	}
	failed, ok := errors.AsType[*GuardError](err)
	if !ok {
		return outcome{}, c.heed(err)
	}
	return c.decide(ctx, name, Reply{After: failed.Current, Offset: failed.Offset}, op)
}

// look reads a record, and decides on it.
func (c *Coordinator) look(ctx context.Context, name string, op decider) (outcome, error) {
	reply, err := c.store.Get(ctx, name)
	if err != nil {
		return outcome{}, err
	}
	return c.decide(ctx, name, reply, op)
}

// withQueue adds to a record that was read as much of its queue as an operation wants. The queue may be a later one than the
// record: then whatever is written fails its guard.
func (c *Coordinator) withQueue(ctx context.Context, name string, r Record, limit int) (Record, error) {
	if r.Waiting == 0 || limit == 0 {
		return r, nil
	}
	var err error
	if r.Queue, err = c.store.Waiters(ctx, name, limit); err != nil {
		return r, err
	}
	known := int64(0)
	for _, w := range r.Queue {
		if w.Ticket <= r.NextTicket {
			known++
		}
	}
	if known != int64(len(r.Queue)) || known != min(r.Waiting, int64(limit)) {
		return r, errMoved // the queue is of a later record
	}
	return r, nil
}

// decide drives an operation from a record that was read until it has an answer. What a reply proves of our clock is
// judged before anything is written on it: a decision under a wrong clock could put out a holder that lives.
func (c *Coordinator) decide(ctx context.Context, name string, read Reply, op decider) (outcome, error) {
	moved := int64(-1) // the revision whose queue did not fit it
	for range maxTries {
		if err := c.judge(read.Offset); err != nil {
			return outcome{}, err
		}
		r, err := c.withQueue(ctx, name, read.After, op.waiters(read.After))
		if errors.Is(err, errMoved) {
			if moved != read.After.Rev { // look again, once
				moved = read.After.Rev
				if read, err = c.store.Get(ctx, name); err == nil {
					continue
				}
			} else { // nobody moves it: somebody deleted or added waiters by hand. What is there counts
				r, err = recounted(r), nil
			}
		}
		if err != nil {
			return outcome{}, c.heed(err)
		}
		read.After = r
		cmd, err := op.next(c.clock(), r)
		if err != nil {
			return outcome{}, err
		}
		if cmd == nil {
			return outcome{read, false}, nil
		}
		reply, err := c.store.Apply(ctx, name, *cmd)
		if err == nil {
			if become, ok := cmd.Effect.(Become); ok {
				reply.After.Queue = become.To.Queue
			}
			if Unsettled(reply.After) { // as far as it can now: what this leaves, the stream's consumer does
				_ = c.Settle(ctx, name)
			}
			return outcome{reply, true}, nil
		}
		failed, ok := errors.AsType[*GuardError](err)
		if !ok {
			return outcome{}, c.heed(err)
		}
		read = Reply{After: failed.Current, Offset: failed.Offset}
	}
	return outcome{}, &StoreError{
		Kind: ErrThrottled, What: fmt.Sprintf("another write came first %d times", maxTries),
		Fix: "many callers are at this one lock; spread them, or let them wait longer between tries",
	}
}

// errMoved says that a queue was read that is of a later record.
var errMoved = errors.New("the queue moved on")

// recounted is a record whose count and tickets follow from the queue that is there.
func recounted(r Record) Record {
	r.Waiting = int64(len(r.Queue))
	for _, w := range r.Queue {
		r.NextTicket = max(r.NextTicket, w.Ticket)
	}
	return r
}

// lease tells a holder its lease as the record has it, with the life that is left now.
func (c *Coordinator) lease(name string, key LeaseKey, r Record) (LeaseStatus, error) {
	h := r.Holders[key]
	remaining := time.Duration(h.ExpiresAt-c.clock().UnixMilli()) * time.Millisecond
	if remaining <= 0 {
		return LeaseStatus{}, ErrLeaseLost // the store's reply took longer than the lease lasted
	}
	return LeaseStatus{Lock: name, Lease: h, Capacity: r.Capacity, Remaining: remaining}, nil
}

// judge is the clock guard (rule 5): a reply that proves our clock wrong makes no grant.
func (c *Coordinator) judge(offset time.Duration) error {
	wrong := offset.Abs() > MaxClockError
	c.suspect.Store(wrong)
	if wrong {
		return &ClockError{Offset: offset}
	}
	return nil
}

// heed remembers what an error says of our clock.
func (c *Coordinator) heed(err error) error {
	if _, wrong := errors.AsType[*ClockError](err); wrong {
		c.suspect.Store(true)
	}
	return err
}

// checkClock reads the lock before the first grant after a reply that proved our clock wrong, so that a clock that is
// known to be wrong writes nothing.
func (c *Coordinator) checkClock(ctx context.Context, name string) error {
	if !c.suspect.Load() {
		return nil
	}
	reply, err := c.store.Get(ctx, name)
	if err != nil {
		return err
	}
	return c.judge(reply.Offset)
}

// undo takes back a grant made under a wrong clock, as far as it can: the holders it displaced that were live by the store's clock
// are back, its secret is spent, and so is its fencing token, which nobody was told: the lock has the token of before. If it fails,
// the grant expires by itself, and a token that is far ahead is for [Coordinator.Repair].
func (c *Coordinator) undo(ctx context.Context, name string, key LeaseKey, granted Reply) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	theirs := c.clock().Add(-granted.Offset)
	_, _ = c.store.Apply(ctx, name, c.rules.undo(theirs, key, granted.Before, granted.After)) // nothing more to do if it fails
}
