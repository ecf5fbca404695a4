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

// outcome is how an operation ended: on a reply, written by us or found to be done already.
type outcome struct {
	Reply
	wrote bool
}

// writeFirst tries the optimistic command, and decides on the record that comes back when its guard fails.
func (c *Coordinator) writeFirst(ctx context.Context, name string, op operation) (outcome, error) {
	reply, err := c.store.Apply(ctx, name, op.first(c.clock()))
	if err == nil {
		return outcome{reply, true}, nil
	}
	failed, ok := errors.AsType[*GuardError](err)
	if !ok {
		return outcome{}, c.noteClock(err)
	}
	return c.decide(ctx, name, Reply{After: failed.Current, Offset: failed.Offset}, op)
}

// readFirst reads a record, and decides on it.
func (c *Coordinator) readFirst(ctx context.Context, name string, op decider) (outcome, error) {
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
		if err := c.checkOffset(read.Offset); err != nil {
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
			return outcome{}, c.noteClock(err)
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
			return outcome{}, c.noteClock(err)
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
