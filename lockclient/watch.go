package lockclient

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// Watch returns an iterator that gives a lock's status, and again each time that it has changed: its holders, their metadata, the
// number of waiters, or a freeze. A renewal is no change. Watch polls: every Config.RetryDelay at most, and while nothing changes less and
// less often, down to a tenth of that rate, but always soon after a lease's expiry. It does not see changes between two polls;
// subscribe to events for those (see docs/events.md).
//
// An error is an element of its own, and the iterator continues, except after an [ErrRefused]. When ctx ends, the iterator gives
// ctx's error and ends.
func (c *Client) Watch(ctx context.Context, name string) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		var last *Status
		quiet := 0 // the number of polls since the last change
		for {
			s, err := c.status(ctx, name, 0)
			switch {
			case err != nil:
				if !yield(Status{}, &OpError{ErrWatch, name, err}) || errors.Is(err, ErrRefused) || ctx.Err() != nil {
					return
				}
				last = nil // the first status after an error is given in any case
			case last == nil || !s.same(*last):
				quiet = 0
				if !yield(s, nil) {
					return
				}
				last = &s
			}
			if err := sleep(ctx, c.watchPause(s, quiet)); err != nil {
				yield(Status{}, &OpError{ErrWatch, name, context.Cause(ctx)})
				return
			}
			quiet++
		}
	}
}

// watchSlack is the time after a lease's expiry at which Watch polls again: when the coordinator does not list the lease any more.
const watchSlack = wire.SkewAllowance + 50*time.Millisecond

func (c *Client) watchPause(s Status, quiet int) time.Duration {
	pause := jitter(c.retryDelay * time.Duration(min(1+quiet, 10)))
	for _, h := range s.Holders {
		pause = min(pause, max(h.Remaining+watchSlack, c.retryDelay/10))
	}
	return pause
}

// same reports whether s and o differ in renewals only.
func (s Status) same(o Status) bool {
	frozen := (s.Frozen == nil) == (o.Frozen == nil) && (s.Frozen == nil || *s.Frozen == *o.Frozen)
	return frozen && s.Locked == o.Locked && s.Capacity == o.Capacity && s.Fence == o.Fence && s.Waiting == o.Waiting &&
		slices.EqualFunc(s.Holders, o.Holders, func(a, b StatusHolder) bool {
			return a.Fence == b.Fence && string(a.Metadata) == string(b.Metadata)
		})
}

// WatchPrefix returns an iterator over the locks whose names begin with prefix, all of them if it is empty. It gives the status of each lock that is held or waited for,
// and again each time that it has changed, as [Client.Watch] does; the last status of a lock that came free has no holders. It polls the list of these locks: at the rate of Watch, and
// no more than a page of 100 locks a second.
//
// Errors are as those of Watch.
func (c *Client) WatchPrefix(ctx context.Context, prefix string) iter.Seq2[Status, error] {
	return func(yield func(Status, error) bool) {
		last := map[string]Status{}
		quiet := 0 // the number of polls since the last change
		for {
			now, err := c.heldBelow(ctx, prefix)
			if err == nil {
				err = c.addFreed(ctx, last, now)
			}
			if err != nil && (!yield(Status{}, &OpError{ErrWatch, prefix, err}) || errors.Is(err, ErrRefused) || ctx.Err() != nil) {
				return
			}
			pause := c.watchPause(Status{}, quiet)
			quiet++
			if err == nil {
				for _, name := range slices.Sorted(maps.Keys(now)) {
					s := now[name]
					pause = min(pause, c.watchPause(s, quiet))
					if was, known := last[name]; known && s.same(was) {
						continue
					}
					quiet = 0
					if !yield(s, nil) {
						return
					}
				}
				maps.DeleteFunc(now, func(_ string, s Status) bool { return !s.Locked && s.Waiting == 0 })
				last = now
				pause = max(pause, time.Duration(len(now)/wire.MaxPage)*time.Second)
			}
			if err := sleep(ctx, pause); err != nil {
				yield(Status{}, &OpError{ErrWatch, prefix, context.Cause(ctx)})
				return
			}
		}
	}
}

// heldBelow reads the locks that are held, by their names.
func (c *Client) heldBelow(ctx context.Context, prefix string) (map[string]Status, error) {
	all := map[string]Status{}
	for s, err := range c.List(ctx, prefix, false) {
		if err != nil {
			if op, ok := errors.AsType[*OpError](err); ok {
				err = op.Err
			}
			return nil, err
		}
		all[s.Lock] = s
	}
	return all, nil
}

// addFreed adds to the locks that are held those that were, and are no longer.
func (c *Client) addFreed(ctx context.Context, last, now map[string]Status) error {
	for name := range last {
		if _, held := now[name]; held {
			continue
		}
		s, err := c.status(ctx, name, 0)
		if err != nil {
			return err
		}
		s.Frozen, s.NextGrant = nil, time.Time{} // which a list does not have
		now[name] = s
	}
	return nil
}
