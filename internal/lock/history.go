package lock

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The history of a lock: an entry for each grant and each end of a lease, for the locks of which a prefix rule asks for it. The stream's consumer
// derives the entries from the writes, as it derives events, so that requests for locks do not wait for them. An entry is named by what it says,
// so that a write that is delivered again makes no further entry.

// Keeping is the part of a prefix rule that asks for the history of the locks.
type Keeping struct {
	Prefix string // of the rule
	For    int64  // how long an entry is kept, in milliseconds from the change that it describes
	By     string // the principal that asked for it; empty: unknown
	At     int64  // when it did
}

// A HistoryEntry says what one write did to one lease. Times are Unix milliseconds.
type HistoryEntry struct {
	At    int64      `json:"at"` // of the grant, or of the end; the end of an expired lease is its expiry
	Kind  ChangeKind `json:"kind"`
	Fence int64      `json:"fence"`
	// Cause is that of the write which ended the lease, such as task-gone; empty for a grant.
	Cause      Cause  `json:"cause,omitzero"`
	Owner      string `json:"owner,omitzero"`
	Principal  string `json:"principal,omitzero"`
	Set        string `json:"set,omitzero"` // the names of the set's locks: see [SetNames]; empty: a single lock
	Permits    int64  `json:"permits"`
	AcquiredAt int64  `json:"acquired_at"`
	Waited     int64  `json:"waited,omitzero"`    // milliseconds in the queue before the grant
	Unclaimed  bool   `json:"unclaimed,omitzero"` // of an end: the waiter never asked for its grant
	Purged     bool   `json:"purged,omitzero"`    // of an end: native TTL removed the lock's row
	By         string `json:"by,omitzero"`        // of a force-release: the principal that did it
	Reason     string `json:"reason,omitzero"`    // of a force-release
	Held       int64  `json:"held"`               // permits of the lock that are held after the change: of one write, the ends come first
	Waiting    int64  `json:"waiting"`            // waiters after the write
	Trace      string `json:"trace,omitzero"`     // the trace context of the lease: see [Terms]
	// Split says that the owner, the principal, the set, the trace and the wait were not read: see [Store.Texts]. No stored entry is split.
	Split bool `json:"split,omitzero"`
}

// HistoryOf are the entries of a write's changes. They depend on the write alone.
func HistoryOf(w Write, changes []Change) (list []HistoryEntry) {
	held := permits(w.Before.Holders)
	for _, c := range changes {
		l := c.Lease
		if c.Kind == LeaseAcquired {
			held += l.Permits
		} else {
			held -= l.Permits
		}
		e := HistoryEntry{
			At: l.AcquiredAt, Kind: c.Kind, Fence: l.Fence, Owner: l.Owner, Principal: l.Principal, Set: l.Set, Permits: l.Permits, AcquiredAt: l.AcquiredAt,
			Waited: l.Waited(), Held: held, Waiting: w.After.Waiting, Trace: l.Trace, Split: l.Split != Whole,
		}
		switch c.Kind {
		case LeaseAcquired:
		case LeaseExpired:
			e.At, e.Purged = l.ExpiresAt, w.After.Rev == 0
		case LeaseForceReleased:
			e.By, e.Reason = w.After.By, w.After.Reason
			fallthrough
		default:
			e.At = w.After.Retired.At
		}
		if c.Kind != LeaseAcquired {
			e.Cause, e.Unclaimed = w.After.Cause, l.Unclaimed
		}
		list = append(list, e)
	}
	return list
}

// Key names an entry among those of its lock. Keys are in the order of the entries: by time, then by fencing token.
func (e HistoryEntry) Key() string {
	return fmt.Sprintf("%s#%016d#%s", historyTime(e.At), e.Fence, e.Kind)
}

// historyTime is the beginning of the keys of entries of a time.
func historyTime(at int64) string { return fmt.Sprintf("%015d", max(at, 0)) }

// HistoryKey reads a [HistoryEntry.Key].
func HistoryKey(key string) (at, fence int64, kind ChangeKind, ok bool) {
	parts := strings.Split(key, "#")
	if len(parts) != 3 {
		return 0, 0, "", false
	}
	at, err := strconv.ParseInt(parts[0], 10, 64)
	fence, wrong := strconv.ParseInt(parts[1], 10, 64)
	e := HistoryEntry{At: at, Fence: fence, Kind: ChangeKind(parts[2])}
	return at, fence, e.Kind, err == nil && wrong == nil && e.Key() == key && strings.Trim(parts[2], "abcdefghijklmnopqrstuvwxyz-") == ""
}

// A HistoryQuery selects entries of a lock.
type HistoryQuery struct {
	Lock     string
	From, To string // of the keys: from the first to the last, both included
	After    string // the key after which to go on, in the order of the query; empty: from the beginning
	Oldest   bool   // oldest first; otherwise newest first
	Limit    int
}

// A HistoryRequest asks for a page of a lock's history.
type HistoryRequest struct {
	Lock   string
	From   int64 // Unix milliseconds; entries of this time are included
	To     int64 // entries of this time and later are left out; 0: no limit
	Oldest bool  // oldest first; otherwise newest first
	Limit  int
	Cursor string // the Next of the page before; empty: the first page
}

// A HistoryPage is part of a lock's history.
type HistoryPage struct {
	Entries []HistoryEntry
	Keeping *Keeping // the rule that asks for the lock's history now; nil: none does, and nothing is added
	Next    string   // the cursor of the next page; empty on the last one
	Now     int64    // the coordinator's clock
}

// History reads a page of a lock's history. A cursor that History did not return is [ErrBadCursor].
func (c *Coordinator) History(ctx context.Context, req HistoryRequest) (HistoryPage, error) {
	q := HistoryQuery{Lock: req.Lock, From: historyTime(req.From), To: "~", Oldest: req.Oldest, Limit: req.Limit}
	if req.To != 0 {
		q.To = historyTime(req.To)
	}
	if req.Cursor != "" {
		raw, err := base64.RawURLEncoding.DecodeString(req.Cursor)
		q.After = string(raw)
		if _, _, _, ok := HistoryKey(q.After); err != nil || !ok || q.After < q.From || q.After > q.To { // DynamoDB refuses a start outside of the range
			return HistoryPage{}, ErrBadCursor
		}
	}
	rules, err := c.freshRules(ctx)
	if err != nil {
		return HistoryPage{}, err
	}
	list, more, err := c.store.History(ctx, q)
	if err != nil {
		return HistoryPage{}, err
	}
	page := HistoryPage{Entries: list, Keeping: keepingOf(rules, req.Lock), Now: c.clock().UnixMilli()}
	if more {
		page.Next = base64.RawURLEncoding.EncodeToString([]byte(list[len(list)-1].Key()))
	}
	return page, nil
}

// keepingOf is the part of the rules by which the history of a lock is kept: of several, the one that keeps it longest. nil: none.
func keepingOf(rules []PrefixRule, name string) (longest *Keeping) {
	for _, p := range rules {
		if k := p.History; k != nil && p.covers(name) && (longest == nil || k.For > longest.For) {
			longest = k
		}
	}
	return longest
}

// KeepsHistory is the rule by which the history of a lock is kept; nil: it is not. It goes by the rules that this coordinator has read within their
// period, and if they cannot be read, by those that it read last.
func (c *Coordinator) KeepsHistory(ctx context.Context, name string) (*Keeping, error) {
	rules, err := c.freshRules(ctx)
	if err != nil {
		last, known := c.cache.last()
		if !known {
			return nil, err
		}
		rules = last
	}
	return keepingOf(rules, name), nil
}

// Record keeps entries of a lock's history, of which those are left out whose time is over. What is stored already is stored again, with the
// same content.
func (c *Coordinator) Record(ctx context.Context, name string, k *Keeping, entries []HistoryEntry) error {
	now := c.clock().UnixMilli()
	entries = slices.DeleteFunc(slices.Clone(entries), func(e HistoryEntry) bool { return e.At+k.For <= now })
	var split []int64
	for _, e := range entries {
		if e.Split {
			split = append(split, e.Fence)
		}
	}
	if len(split) > 0 {
		texts, err := c.store.Texts(ctx, name, split)
		if err != nil {
			return err
		}
		for i, e := range entries {
			if e.Split {
				entries[i] = e.with(texts[e.Fence])
			}
		}
	}
	if len(entries) == 0 {
		return nil
	}
	return c.store.PutHistory(ctx, name, entries, time.Duration(k.For)*time.Millisecond)
}

// with is the entry with texts that the store keeps apart.
func (e HistoryEntry) with(t Texts) HistoryEntry {
	l := Lease{Terms: Terms{Joined: t.Joined}, AcquiredAt: e.AcquiredAt}
	e.Owner, e.Principal, e.Set, e.Trace, e.Waited, e.Split = t.Owner, t.Principal, t.Set, cmp.Or(e.Trace, t.Trace), cmp.Or(e.Waited, l.Waited()), false
	return e
}
