package lock

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Config is what a [Coordinator] is made of.
type Config struct {
	Store Store            // required
	Clock func() time.Time // nil: time.Now
	Rules Rules

	// Granted, if not nil, is called after a write that needs callbacks (see [CallbacksDue]), and before the operation that
	// made it returns. It sends the callbacks; what it does not send, the stream's consumer does. The writes are of one
	// lock, in their order. It may call the coordinator, and must return in a time that a request may take longer.
	Granted func(ctx context.Context, c *Coordinator, writes []Write)
}

// A Coordinator answers requests for locks over a store. Its only state is whether its clock was found wrong, and the prefix rules as it
// last read them, so any number of coordinators can serve one table. It is safe for concurrent use and starts no goroutine.
type Coordinator struct {
	store   Store
	clock   func() time.Time
	rules   Rules
	granted func(context.Context, *Coordinator, []Write)
	suspect atomic.Bool // the last reply proved the clock wrong
	cache   ruleCache
}

// maxTries is how often an operation is tried while other writes come first. Each failed try means that another caller's
// write succeeded, so only a lock with very many callers reaches it.
const maxTries = 8

// New returns a coordinator. An error names the field of cfg that is wrong.
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
	return &Coordinator{store: cfg.Store, clock: cfg.Clock, rules: cfg.Rules.withDefaults(), granted: cfg.Granted}, nil
}

// Now is the time by the coordinator's clock.
func (c *Coordinator) Now() time.Time { return c.clock() }

// outcome is the reply on which an operation ended. wrote reports whether this operation made the last write, or found the
// record as it wants it.
type outcome struct {
	Reply
	wrote bool
	at    time.Time // of the decision, by this coordinator's clock; not set by a blind write
}

// writeFirst tries the operation's optimistic command. If its guard fails, it decides on the record that the refusal returns.
func (c *Coordinator) writeFirst(ctx context.Context, name string, op operation) (outcome, error) {
	asked := c.clock()
	reply, err := c.store.Apply(ctx, name, op.first(asked))
	if err == nil {
		return outcome{Reply: reply, wrote: true}, nil
	}
	failed, ok := errors.AsType[*GuardError](err)
	if !ok {
		return outcome{}, c.noteClock(err)
	}
	return c.decide(ctx, name, Reply{After: failed.Current, Offset: failed.Offset}, asked, op)
}

// readFirst reads the record and decides on it.
func (c *Coordinator) readFirst(ctx context.Context, name string, op decider) (outcome, error) {
	asked := c.clock()
	reply, err := c.store.Get(ctx, name)
	if err != nil {
		return outcome{}, err
	}
	return c.decide(ctx, name, reply, asked, op)
}

// withQueue adds to a record the waiters that an operation must see. They are read after the record and may be newer; a
// command on the two then fails its guard, or the error is errMoved. last is the record of the try before, with its waiters. If waiters
// have only joined since, the head of the queue is as it was read then; a joiner that is a duplicate of this request has its place behind
// that head, where the store finds it when this one joins.
func (c *Coordinator) withQueue(ctx context.Context, name string, r, last Record, op decider) (Record, error) {
	limit := op.waiters(r)
	if r.Waiting == 0 || limit == 0 {
		return r, nil
	}
	if len(last.Queue) >= QueueHead && len(last.Queue) == limit && r.onlyJoined(last) {
		r.Queue, r.Own = last.Queue, last.Own
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
		return r, errMoved
	}
	return c.withOwn(ctx, name, r, op)
}

// withOwn adds the caller's own place to a record, if the operation must see it and the head of the queue does not show it.
func (c *Coordinator) withOwn(ctx context.Context, name string, r Record, op decider) (Record, error) {
	seeks, ok := op.(seeker)
	if !ok || len(r.Queue) < QueueHead { // with ten, the caller's place may be behind them, or the store may keep an old one, which it then removes
		return r, nil
	}
	key := seeks.place(r)
	if _, known := r.place(key); key == "" || known {
		return r, nil
	}
	var err error
	if r.Own, err = c.store.Place(ctx, name, key); err == nil && r.Own.Ticket > r.NextTicket {
		err = errMoved
	}
	return r, err
}

// decide runs an operation from a record that was read until it has an outcome. If its write left waiters that fit, finish settles the lock.
// Then the callbacks of all its grants are sent.
func (c *Coordinator) decide(ctx context.Context, name string, read Reply, asked time.Time, op decider) (outcome, error) {
	out, err := c.run(ctx, name, read, asked, op)
	if err != nil || !out.wrote {
		return out, err
	}
	c.finish(ctx, c.due(nil, name, out.Reply), "", left{lock: name, after: out.After})
	return out, nil
}

// due adds a write to a list if it needs callbacks that this coordinator may send. One whose reply proves its clock wrong may not.
func (c *Coordinator) due(list []Write, name string, reply Reply) []Write {
	if c.granted == nil || reply.Offset.Abs() > MaxClockError || len(CallbacksDue(reply.Before, reply.After)) == 0 {
		return list
	}
	return append(list, Write{Lock: name, Before: reply.Before, After: reply.After})
}

// run tries the commands of an operation on a record that was read, and asked for at a time, until one is applied or it has another outcome. It checks
// what each reply says of this coordinator's clock before it writes: a decision under a wrong clock could end a live lease.
func (c *Coordinator) run(ctx context.Context, name string, read Reply, asked time.Time, op decider) (outcome, error) {
	moved := int64(-1) // the revision whose queue did not fit it
	var last Record    // of the try before, with its waiters
	for range maxTries {
		if err := c.checkOffset(read.Offset); err != nil {
			return outcome{}, err
		}
		r, err := c.withQueue(ctx, name, read.After, last, op)
		if errors.Is(err, errMoved) {
			if moved != read.After.Rev { // read both again, once
				moved, asked = read.After.Rev, c.clock()
				if read, err = c.store.Get(ctx, name); err == nil {
					continue
				}
			} else { // the record is the same: an operator added or deleted waiters in the table
				r, err = recounted(r), nil
			}
		}
		if err != nil {
			return outcome{}, c.noteClock(err)
		}
		if r, err = c.withPrincipals(ctx, name, r, op); err == nil {
			r, err = c.withHold(ctx, name, r, op) // the rules last, so that the decision follows at once
		}
		if err != nil {
			return outcome{}, err
		}
		read.After = r
		now := c.clock()
		cmd, err := op.next(now, r)
		if errors.Is(err, ErrLeaseLost) && endsSince(asked, now, r) {
			asked, last = c.clock(), Record{}
			if read, err = c.store.Get(ctx, name); err == nil {
				continue
			}
		}
		if err != nil {
			return outcome{}, err
		}
		if cmd == nil {
			return outcome{read, false, now}, nil
		}
		asked = now
		reply, err := c.store.Apply(ctx, name, *cmd)
		if err == nil {
			if become, ok := cmd.Effect.(Become); ok {
				reply.After.Queue, reply.After.Own, reply.After.hold = become.To.Queue, become.To.Own, become.To.hold
			}
			return outcome{reply, true, now}, nil
		}
		failed, ok := errors.AsType[*GuardError](err)
		if !ok {
			return outcome{}, c.noteClock(err)
		}
		read, last = Reply{After: failed.Current, Offset: failed.Offset}, r
		if failed.Places {
			last = Record{}
		}
	}
	return outcome{}, tooManyTries()
}

// endsSince reports whether a lease of records that were asked for at a time has expired since then. The records may then be those of before its renewal,
// however late they arrived, and do not prove that it is lost.
func endsSince(asked, now time.Time, rs ...Record) bool {
	for _, r := range rs {
		for _, h := range r.Holders {
			if h.ExpiresAt > asked.UnixMilli() && h.ExpiresAt <= now.UnixMilli() {
				return true
			}
		}
	}
	return false
}

func tooManyTries() error {
	return &StoreError{
		Kind: ErrThrottled, What: fmt.Sprintf("another write came first %d times", maxTries),
		Fix: "many callers use this one lock; use several locks, or let the callers pause longer between tries",
	}
}

// errMoved says that the queue that was read belongs to a later record.
var errMoved = errors.New("the queue changed between two reads")

// recounted is a record whose count and tickets are those of its queue.
func recounted(r Record) Record {
	r.Waiting, r.Own = int64(len(r.Queue)), Waiter{}
	for _, w := range r.Queue {
		r.NextTicket = max(r.NextTicket, w.Ticket)
	}
	return r
}
