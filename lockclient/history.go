package lockclient

import (
	"context"
	"iter"
	"net/http"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// Keeping says for how long the history of locks is kept.
type Keeping struct {
	Prefix string        // of the rule; "*" for all locks
	For    time.Duration // how long an entry is kept, from the change that it describes
	By     string        // the ARN of the operator who asked for it; empty if it is not known
	Since  time.Time
}

// KeepHistory asks that the history of all locks whose names begin with prefix, or "*" for all locks, is kept from [Rule.InForceAt] on: an entry for each
// grant and each end of a lease, which [Client.History] reads. An entry is kept for keep, an hour to 400 days. With 0 nothing further is
// recorded; entries that exist stay until their time. The caller needs the permission of [Client.Freeze].
func (c *Client) KeepHistory(ctx context.Context, prefix string, keep time.Duration) (Rule, error) {
	op, request := wire.OpPutRule, any(wire.RuleRequest{History: &wire.KeepRequest{Keep: keep.Milliseconds()}})
	if keep == 0 {
		op, request = wire.OpDeleteRule, wire.RuleRemoval{Part: "history"}
	}
	r, err := c.changeRule(ctx, op, prefix, request)
	if err != nil {
		return Rule{}, &OpError{ErrKeepHistory, prefix, err}
	}
	return r, nil
}

func newKeeping(k *wire.Keeping) *Keeping {
	if k == nil {
		return nil
	}
	return &Keeping{k.Prefix, time.Duration(k.Keep) * time.Millisecond, k.By, k.Since.Time}
}

// The kinds of a [HistoryEntry].
const (
	HistoryAcquired      = "acquired"
	HistoryReleased      = "released"
	HistoryExpired       = "expired"
	HistoryForceReleased = "force-released"
)

// A HistoryEntry is a grant, or an end of a lease. That of an end has all that the one of its grant has.
type HistoryEntry struct {
	At         time.Time // of the grant or of the end; an expired lease ended at its expiry
	Kind       string    // such as [HistoryAcquired]
	Fence      int64     // the lease's fencing token
	Owner      string    // the holder's name for itself
	Principal  string    // the holder's ARN; empty if it is not known
	Set        []string  // the names of the locks that the holder acquired together, in order; nil: this one alone
	Permits    int       // of the lease
	AcquiredAt time.Time // the time of the grant
	Held       time.Duration
	Waited     time.Duration // in the queue before the grant; 0 if the holder did not wait
	Cause      string        // of an end: what ended the lease: release, expire, force-release, task-gone, execution-end, acquire (which found it expired), …
	By         string        // of a force-release: the ARN of the operator
	Reason     string        // of a force-release
	Unclaimed  bool          // of an end: the waiter never asked for its grant
	Purged     bool          // of an end: DynamoDB's native TTL removed the lock first
	InUse      int           // the lock's permits that were held after the change
	Waiting    int           // waiters after the change

	Traceparent string // the trace context (W3C) that the acquire carried; empty: none
}

// HistoryOptions select entries of a lock's history.
type HistoryOptions struct {
	From   time.Time // entries of this time and later; zero: from the beginning
	To     time.Time // entries before this time; zero: all
	Oldest bool      // oldest first; otherwise newest first
	Limit  int       // of [Client.HistoryPage]: entries on the page, 1 to 100; 0: 50
	Cursor string    // of [Client.HistoryPage]: the Next of the page before
}

// A HistoryPage is part of a lock's history.
type HistoryPage struct {
	Entries []HistoryEntry
	Keeping *Keeping  // the rule by which the history is kept now; nil: nothing is added
	Next    string    // the Cursor of the next page; empty on the last one
	At      time.Time // when the coordinator answered, by its clock
}

// History returns an iterator over the history of a lock, in pages of 100. It has the changes since a rule asked for it (see [Client.KeepHistory]), some
// seconds after they were made. An error is the iterator's last element. The caller needs a permission of its own (see docs/iam.md).
func (c *Client) History(ctx context.Context, name string, opts HistoryOptions) iter.Seq2[HistoryEntry, error] {
	return func(yield func(HistoryEntry, error) bool) {
		for opts.Limit = wire.MaxPage; ; {
			page, err := c.HistoryPage(ctx, name, opts)
			if err != nil {
				yield(HistoryEntry{}, err)
				return
			}
			for _, e := range page.Entries {
				if !yield(e, nil) {
					return
				}
			}
			if opts.Cursor = page.Next; opts.Cursor == "" {
				return
			}
		}
	}
}

// HistoryPage reads a page of the history of a lock.
func (c *Client) HistoryPage(ctx context.Context, name string, opts HistoryOptions) (HistoryPage, error) {
	page, err := c.historyPage(ctx, name, opts)
	if err != nil {
		return HistoryPage{}, &OpError{ErrHistory, name, err}
	}
	return page, nil
}

func (c *Client) historyPage(ctx context.Context, name string, opts HistoryOptions) (HistoryPage, error) {
	if problem := wire.CheckName(name); problem != "" {
		return HistoryPage{}, refused("name", "name %s", problem)
	}
	request := wire.HistoryRequest{Limit: opts.Limit, Cursor: opts.Cursor}
	if opts.Oldest {
		request.Order = wire.OldestFirst
	}
	if !opts.From.IsZero() {
		request.From = &wire.Time{Time: opts.From}
	}
	if !opts.To.IsZero() {
		request.To = &wire.Time{Time: opts.To}
	}
	var answer wire.History
	err := c.retry(ctx, func() error { return c.send(ctx, wire.OpHistory, name, request, &answer) })
	if err == nil && answer.Entries == nil {
		err = notCoordinator(http.StatusOK, "an answer that is no history of a lock")
	}
	if err != nil {
		return HistoryPage{}, err
	}
	page := HistoryPage{Keeping: newKeeping(answer.Keeping), Next: answer.NextCursor, At: answer.ServerTime.Time}
	for _, e := range answer.Entries {
		page.Entries = append(page.Entries, newHistoryEntry(e))
	}
	return page, checkLock(answer.Lock, name)
}

func newHistoryEntry(e wire.HistoryEntry) HistoryEntry {
	out := HistoryEntry{
		At: e.At.Time, Kind: e.Kind, Fence: e.Fence, Owner: e.Owner, Principal: e.Principal, Permits: int(e.Permits), AcquiredAt: e.AcquiredAt.Time,
		Waited: time.Duration(e.Waited) * time.Millisecond, Cause: e.Cause, By: e.By, Reason: e.Reason, Unclaimed: e.Unclaimed, Purged: e.Purged,
		InUse: int(e.InUse), Waiting: int(e.Waiting), Set: e.Set, Traceparent: e.Traceparent,
	}
	if e.Held != nil {
		out.Held = time.Duration(*e.Held) * time.Millisecond
	}
	return out
}
