package api

import (
	"context"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

func (a *API) history(ctx context.Context, c *call) (any, int64, error) {
	req := lock.HistoryRequest{Lock: c.lock, Limit: wire.DefaultPage}
	from, hasFrom := c.fields.time("from")
	to, hasTo := c.fields.time("to")
	if hasFrom && hasTo && to <= from {
		c.fields.fail("to", "to is not after from; a page has the entries of from and later, before to")
	}
	if req.From = from; hasTo {
		req.To = max(to, 1) // 0 would be no limit
	}
	switch order, given := c.fields.str("order"); {
	case order == wire.OldestFirst:
		req.Oldest = true
	case given && order != wire.NewestFirst:
		c.fields.fail("order", "order is %q; it must be %s or %s", brief([]byte(order)), wire.NewestFirst, wire.OldestFirst)
	}
	if n, given := c.fields.integer("limit", 1, wire.MaxPage, ""); given {
		req.Limit = int(n)
	}
	req.Cursor, _ = c.fields.str("cursor")
	if err := c.fields.done(); err != nil {
		return nil, 0, err
	}
	page, err := a.coordinator.History(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	answer := wire.History{
		Lock: c.lock, Entries: []wire.HistoryEntry{}, Keeping: keepingAnswer(page.Keeping), NextCursor: page.Next, ServerTime: wire.At(page.Now),
	}
	for _, e := range page.Entries {
		answer.Entries = append(answer.Entries, historyEntry(e))
	}
	return answer, 0, nil
}

func historyEntry(e lock.HistoryEntry) wire.HistoryEntry {
	out := wire.HistoryEntry{
		At: wire.At(e.At), Kind: string(e.Kind), Fence: e.Fence, Owner: e.Owner, Principal: e.Principal, Permits: e.Permits, AcquiredAt: wire.At(e.AcquiredAt),
		Waited: e.Waited, Cause: string(e.Cause), By: e.By, Reason: e.Reason, Unclaimed: e.Unclaimed, Purged: e.Purged, InUse: e.Held, Waiting: e.Waiting,
		Set: lock.SetNames(e.Set), Traceparent: e.Trace,
	}
	if e.Kind != lock.LeaseAcquired {
		out.Held = new(max(e.At-e.AcquiredAt, 0))
	}
	return out
}

// time reads a time in RFC 3339, as Unix milliseconds.
func (o *object) time(field string) (ms int64, given bool) {
	text, given := o.str(field)
	if !given {
		return 0, false
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		o.fail(field, "%s is %q; give a time in RFC 3339, like 2026-12-01T02:14:00Z", field, brief([]byte(text)))
		return 0, false
	}
	return at.UnixMilli(), true
}

// readKeeping reads how long a rule asks that the history is kept; nil if it is absent or wrong.
func (c *call) readKeeping() *lock.Keeping {
	o := c.part("history", `{"keep_ms": 7776000000}`)
	if o == nil {
		return nil
	}
	keep, given := o.integer("keep_ms", wire.MinKeep.Milliseconds(), wire.MaxKeep.Milliseconds(), " milliseconds, an hour to 400 days")
	switch err := o.done(); {
	case err != nil:
		c.fields.fail("history", "history: %v", err)
	case !given:
		c.fields.fail("history", "keep_ms of history is missing; say how long an entry is kept, such as 7776000000 for 90 days")
	}
	return &lock.Keeping{For: keep}
}

func keepingAnswer(k *lock.Keeping) *wire.Keeping {
	if k == nil {
		return nil
	}
	return &wire.Keeping{Prefix: lock.RuleSubject(k.Prefix), Keep: k.For, By: k.By, Since: wire.At(k.At)}
}
