package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/redrive"
	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/notify"
)

// sweep reads the table's items and reports what nobody will free or tell.
func (c examination) sweep(ctx context.Context) (list []finding) {
	if c.NoSweep {
		return nil
	}
	r, err := sweeper(ctx, c.connection)
	if err != nil {
		return append(list, bad("stuck locks", "see the error", err))
	}
	r.ScansPerAnswer = 1
	req := redrive.Request{Work: redrive.WorkSweep, Prefix: c.Prefix}
	var all redrive.Answer
	stuck, unlisted := map[string]bool{}, []string{}
	for {
		a, err := r.Do(ctx, req)
		if fault, ok := errors.AsType[*lock.StoreError](err); ok && strings.Contains(fault.What, "dynamodb:Scan") { // it is an operator's permission
			return append(list, finding{"stuck locks", true, "not looked for: " + fault.What + " to these credentials", ""})
		}
		if err != nil {
			return append(list, bad("stuck locks", "repeat it; --no-sweep leaves it out", err))
		}
		for _, o := range a.Outcomes {
			if o.What == redrive.NoIndex { // of a table that was imported, or filled by an older version, each lock is
				unlisted = append(unlisted, o.Lock)
				continue
			}
			stuck[o.Lock] = true
			list = append(list, finding{"stuck locks", false, fmt.Sprintf("%s: %s: %s", printable(o.Lock), o.What, printable(o.Detail)), o.Fix})
		}
		all.Items, all.Locks, all.Units = all.Items+a.Items, all.Locks+a.Locks, all.Units+a.Units
		if req.Cursor = a.Cursor; a.Cursor == "" || c.Limit > 0 && all.Items >= c.Limit {
			break
		}
	}
	if n := len(unlisted); n > 0 {
		list = append(list, finding{"index", false, fmt.Sprintf("%d of %d locks are not in the index of names, so that lists of a prefix may leave them out: %s, …", n, all.Locks, printable(unlisted[0])),
			"holdfast redrive --apply, or the next acquire of each lock"})
	}
	text, fix := fmt.Sprintf("%d of %d locks are stuck; %d items were read for %.1f read units", len(stuck), all.Locks, all.Items, all.Units), "holdfast redrive shows what it would do, and --apply does it"
	if req.Cursor != "" {
		text += "; the rest of the table was not read: --limit 0 reads all of it"
	}
	if len(stuck) == 0 {
		text, fix = strings.Replace(text, "0 of", "none of", 1), ""
	}
	return append(list, finding{"stuck locks", len(stuck) == 0, text, fix})
}

// stuck lists the coordinator's locks, and reports those that are free and have waiters: an answer shows neither timers nor callbacks.
func (c examination) stuck(ctx context.Context, client *lockclient.Client) (list []finding) {
	if c.NoSweep {
		return nil
	}
	n, seem := 0, []lockclient.Status{}
	for status, err := range client.List(ctx, c.Prefix, true) {
		refused, ok := errors.AsType[*lockclient.RefusedError](err)
		if ok && refused.Status == http.StatusForbidden {
			return append(list, finding{"stuck locks", true, "not looked for: the credentials may not list locks (execute-api:Invoke on GET /v1/locks)", ""})
		}
		if ok && c.Functions != "" && refused.Code == string(wire.InvalidRequest) {
			return append(list, finding{"stuck locks", true, "not looked for: this alias of the status function serves single locks only", ""})
		}
		if err != nil {
			return append(list, bad("stuck locks", "repeat it; --no-sweep leaves it out", err))
		}
		if n++; status.Waiting > 0 && status.Available > 0 {
			seem = append(seem, status)
		}
		if c.Limit > 0 && n >= c.Limit {
			break
		}
	}
	for _, status := range c.stay(ctx, client, seem) {
		list = append(list, finding{"stuck locks", false, fmt.Sprintf("%s: %d wait, and %d permits are free since %v at least", printable(status.Lock), status.Waiting, status.Available, stuckFor),
			"acquire the lock once, or run holdfast redrive --apply; the first waiter may also want more permits than are free"})
	}
	if len(list) > 0 {
		return list
	}
	return append(list, finding{"stuck locks", true, fmt.Sprintf("none of %d locks is free with waiters; doctor --table sees more", n), ""})
}

// stuckFor is how long a lock must have free permits and waiters.
const stuckFor = 3 * time.Second

// stay returns those of some locks that are as they were some seconds later. It waits once for all of them.
func (c examination) stay(ctx context.Context, client *lockclient.Client, before []lockclient.Status) (list []lockclient.Status) {
	if len(before) == 0 {
		return nil
	}
	select {
	case <-time.After(stuckFor):
	case <-ctx.Done():
		return nil
	}
	for _, was := range before {
		now, err := client.Status(ctx, was.Lock)
		if err == nil && now.Waiting == was.Waiting && now.Available == was.Available && now.Fence == was.Fence {
			list = append(list, was)
		}
	}
	return list
}

// queues reports the notify queues that killed processes have left.
func (c examination) queues(ctx context.Context) finding {
	cfg, err := c.notifying.config(ctx, c.connection)
	var found notify.Swept
	if err == nil {
		found, err = notify.Find(ctx, cfg)
	}
	switch {
	case err != nil:
		return bad("queues", "give sqs:ListQueues, and sqs:ListQueueTags on the deployment's notify queues (docs/iam.md), and check --notify-prefix", err)
	case len(found.Deleted) > 0:
		return finding{"queues", false, fmt.Sprintf("%d notify queues are left of processes that are gone; the owners of %d live", len(found.Deleted), found.Alive),
			"holdfast sweep --notify-prefix " + c.NotifyPrefix}
	}
	return finding{"queues", true, fmt.Sprintf("no notify queue is left behind; the owners of %d live", found.Alive), ""}
}
