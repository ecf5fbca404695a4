package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// The end of a freeze. The write of a rule sets a job for the end of its freeze, or at once if the write ended one, or changed a rate that may have kept waiters back. The job looks through the
// locks below the prefix, and grants those that others wait for. Without it, a lock is granted by the next poll of a waiter, or by the next write of the
// lock, or by an operator's sweep.

// ruleEntry is the event of a write of a prefix rule.
func ruleEntry(w lock.Write) Entry {
	p := w.Rule.After
	e := events.RuleChanged{
		Version: events.Version, ID: events.RuleID(w.Lock, p.Rev, p.At), Prefix: w.Lock, Rev: p.Rev, ChangedAt: events.At(p.At), By: p.By,
	}
	if f := p.Freeze; f != nil {
		e.Freeze = &events.Freeze{Until: events.At(f.Until), Since: events.At(f.At), Reason: f.Reason, By: f.By}
	}
	if k := p.History; k != nil {
		e.History = &events.Keeping{KeepMS: k.For, Since: events.At(k.At), By: k.By}
	}
	if l := p.Limits; l != nil {
		e.Limits = &events.Limits{
			Capacity: l.Capacity, MaxTTL: l.MaxTTL, MaxHold: l.MaxHold, MaxQueue: l.MaxQueue, MaxPerPrincipal: l.MaxPerPrincipal, Rate: events.Rate(l.Rate), Since: events.At(l.At), By: l.By,
		}
	}
	return Entry{DetailType: e.DetailType(), Detail: encode(e), Time: e.ChangedAt.Time, Lock: w.Lock}
}

// thaws sets the jobs that end the freezes of a batch's rules. Without a backlog, nothing waits for the end of a freeze: polls find it.
func (c *Consumer) thaws(ctx context.Context, batch []derivation) (failures []failure) {
	for i, d := range batch {
		if d.Rule == nil || d.Poison != nil || c.Coordinator == nil {
			continue
		}
		job := Job{Kind: JobThaw, Lock: d.Lock, Due: c.now()}
		switch before, after := d.Rule.Before.Freeze, d.Rule.After.Freeze; {
		case before == nil && after == nil, before != nil && after != nil && *before == *after: // another part of the rule has changed
			if was := rateOf(d.Rule.Before); was == (lock.Rate{}) || was == rateOf(d.Rule.After) {
				continue
			}
		case after != nil:
			job.Due = time.UnixMilli(after.Until).Add(c.Skew) // by any clock it is over then
		}
		if err := c.later(ctx, job); err != nil {
			failures = append(failures, failure{job, i, err})
		}
	}
	return failures
}

// rateOf is the rate of a rule; the zero Rate if it has none.
func rateOf(p lock.PrefixRule) lock.Rate {
	if p.Limits == nil {
		return lock.Rate{}
	}
	return p.Limits.Rate
}

// later keeps a JobThaw or a JobSettle until it is due; without a backlog it does the job now.
func (c *Consumer) later(ctx context.Context, j Job) error {
	switch {
	case c.Backlog == nil && j.Kind == JobThaw:
		return c.thaw(ctx, j)
	case c.Backlog == nil:
		return c.settle(ctx, j)
	}
	if err := errors.Join(c.Backlog.Defer(ctx, []Job{j})...); err != nil {
		return fmt.Errorf("%w: %w", errNotDeferred, err)
	}
	return nil
}

// errNotDeferred is the error of a job that could not be kept for later. It may succeed when it is done again.
var errNotDeferred = errors.New("the queue for later work took no message")

// maxThawPages is how many pages of locks one job looks through. Another job does the rest.
const maxThawPages = 20

// thaw settles the locks below a prefix whose freeze is over, from a cursor on. Locks that cannot be settled become jobs of their own.
func (c *Consumer) thaw(ctx context.Context, j Job) error {
	next := Job{Kind: JobThaw, Lock: j.Lock, Cursor: j.Cursor, Due: c.now(), Newer: j.Newer}
	for range maxThawPages {
		done, err := c.Coordinator.Thaw(ctx, lock.RulePrefix(j.Lock), next.Cursor)
		switch {
		case err != nil:
			c.reporter().fault(ctx, LockNotHandedOn, "waiters were not granted their locks after a freeze", slog.String("prefix", j.Lock), slog.Any("error", err))
			return err
		case !done.Again.IsZero() && c.Backlog == nil:
			return nil
		case !done.Again.IsZero():
			return c.later(ctx, Job{Kind: JobThaw, Lock: j.Lock, Due: done.Again.Add(c.Skew), Newer: j.Newer})
		}
		for _, name := range done.Waiting {
			j := Job{Kind: JobSettle, Lock: name, Due: c.now().Add(firstDelay)}
			if err := c.settle(ctx, j); err == nil {
				continue
			}
			if err := c.later(ctx, j); err != nil {
				return err // all of the page is done again
			}
		}
		if next.Cursor = done.Next; next.Cursor == "" {
			return nil
		}
	}
	return c.later(ctx, next)
}
