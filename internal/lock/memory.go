package lock

import (
	"context"
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Memory is the reference store: it interprets commands under a mutex. The zero Memory is empty and ready to use.
type Memory struct {
	// Changed, if set, is called after every write and purge, in their order, in place of a table's stream. For a purge,
	// after is the zero Record. The mutex is held: Changed must not call the Memory.
	Changed func(name string, before, after Record)
	// RuleChanged, if set, is the same for every write of a prefix rule.
	RuleChanged func(before, after PrefixRule)

	mu      sync.Mutex
	records map[string]Record
	rules   map[string]PrefixRule
	history map[string]map[string]keptEntry // by lock and key
}

// A keptEntry is an entry of the history, and until when it is kept, in Unix milliseconds.
type keptEntry struct {
	HistoryEntry
	until int64
}

// Get reads a record.
func (m *Memory) Get(ctx context.Context, name string) (Reply, error) {
	if err := ctx.Err(); err != nil {
		return Reply{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return Reply{After: withoutQueue(m.records[name])}, nil
}

// Apply runs a command.
func (m *Memory) Apply(ctx context.Context, name string, c Command) (Reply, error) {
	if err := ctx.Err(); err != nil {
		return Reply{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.records[name]
	if !c.Allows(before) {
		record := func(cl Clause) bool { return cl.Test != PlaceUntil && !cl.Holds(before) }
		return Reply{}, &GuardError{Current: withoutQueue(before), Places: before.Rev > 0 && !slices.ContainsFunc(c.Guard, record)}
	}
	after := m.put(name, c)
	if c.Kind == Extends {
		return Reply{}, nil
	}
	return Reply{Before: withoutQueue(before), After: withoutQueue(after)}, nil
}

// ApplyAll runs commands.
func (m *Memory) ApplyAll(ctx context.Context, parts []Part) (time.Duration, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range parts {
		if !p.Command.Allows(m.records[p.Lock]) {
			return 0, &GuardError{}
		}
	}
	for _, p := range parts {
		m.put(p.Lock, p.Command)
	}
	return 0, nil
}

// put applies a command that its guard allows.
func (m *Memory) put(name string, c Command) Record {
	before := m.records[name]
	after := c.Next(before)
	if m.records == nil {
		m.records = map[string]Record{}
	}
	m.records[name] = after
	if c.Kind != Extends && m.Changed != nil {
		m.Changed(name, before, after)
	}
	return after
}

// withoutQueue is a record as replies contain it.
func withoutQueue(r Record) Record {
	r.Queue = nil
	return r
}

// Waiters reads the queue.
func (m *Memory) Waiters(ctx context.Context, name string, limit int) ([]Waiter, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	q := m.records[name].Queue
	return slices.Clone(q[:min(limit, len(q))]), nil
}

// Place reads a lease's place.
func (m *Memory) Place(ctx context.Context, name string, key LeaseKey) (Waiter, error) {
	if err := ctx.Err(); err != nil {
		return Waiter{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	w, _ := m.records[name].place(key)
	return w, nil
}

// Poll reads a record and one waiter.
func (m *Memory) Poll(ctx context.Context, name string, ticket int64) (Reply, Waiter, error) {
	seen, _, err := m.Read(ctx, []Ask{{name, ticket}})
	if err != nil {
		return Reply{}, Waiter{}, err
	}
	return Reply{After: seen[0].Record}, seen[0].Waiter, nil
}

// Read reads records and waiters.
func (m *Memory) Read(ctx context.Context, list []Ask) (all []Seen, _ time.Duration, _ error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ask := range list {
		r := m.records[ask.Lock]
		seen := Seen{Record: withoutQueue(r)}
		if i := slices.IndexFunc(r.Queue, func(w Waiter) bool { return w.Ticket == ask.Ticket }); i >= 0 {
			seen.Waiter = r.Queue[i]
		}
		all = append(all, seen)
	}
	return all, 0, nil
}

// Texts reads nothing: the records have all texts.
func (m *Memory) Texts(context.Context, string, []int64) (map[int64]Texts, error) {
	return nil, nil
}

// PrefixRules reads all prefix rules.
func (m *Memory) PrefixRules(ctx context.Context) ([]PrefixRule, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []PrefixRule
	for _, prefix := range slices.Sorted(maps.Keys(m.rules)) {
		list = append(list, m.rules[prefix])
	}
	return list, nil
}

// PutPrefixRule stores a prefix rule.
func (m *Memory) PutPrefixRule(ctx context.Context, rule PrefixRule) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.rules[rule.Prefix]
	if before.Rev != rule.Rev-1 {
		return ErrRuleChanged
	}
	if m.rules == nil {
		m.rules = map[string]PrefixRule{}
	}
	m.rules[rule.Prefix] = rule
	if m.RuleChanged != nil {
		m.RuleChanged(before, rule)
	}
	return nil
}

// PutHistory stores entries of a lock's history.
func (m *Memory) PutHistory(ctx context.Context, name string, entries []HistoryEntry, keep time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.history == nil {
		m.history = map[string]map[string]keptEntry{}
	}
	if m.history[name] == nil {
		m.history[name] = map[string]keptEntry{}
	}
	for _, e := range entries {
		m.history[name][e.Key()] = keptEntry{e, e.At + keep.Milliseconds()}
	}
	return nil
}

// History reads entries of a lock's history.
func (m *Memory) History(ctx context.Context, q HistoryQuery) (list []HistoryEntry, more bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := slices.Sorted(maps.Keys(m.history[q.Lock]))
	if !q.Oldest {
		slices.Reverse(keys)
	}
	for _, key := range keys {
		passed := q.After != "" && (q.Oldest && key <= q.After || !q.Oldest && key >= q.After)
		if passed || key < q.From || key > q.To {
			continue
		}
		if len(list) == q.Limit {
			return list, true, nil
		}
		list = append(list, m.history[q.Lock][key].HistoryEntry)
	}
	return list, false, nil
}

// Bound lists the leases and places that belong to an execution.
func (m *Memory) Bound(ctx context.Context, execution string) (list []Binding, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	add := func(b Binding) {
		if !slices.Contains(list, b) {
			list = append(list, b)
		}
	}
	for name, r := range m.records {
		for key, h := range r.Holders {
			if h.Execution == execution {
				add(bindingOf(name, key, h.Terms))
			}
		}
		for _, w := range r.Queue {
			if w.Execution == execution {
				add(bindingOf(name, w.Key, w.Terms))
			}
		}
	}
	return list, nil
}

// Unbind does nothing: Bound derives its answer from the records.
func (m *Memory) Unbind(context.Context, string, []Binding) error { return nil }

// cursorMark is the prefix of a cursor, by which List recognises its own.
const cursorMark = "after\x00"

// List reads records in the order of their names. The cursor is the last name, encoded.
func (m *Memory) List(ctx context.Context, q ListQuery) (Page, error) {
	if err := ctx.Err(); err != nil {
		return Page{}, err
	}
	raw, err := base64.RawURLEncoding.DecodeString(q.Cursor)
	last, ok := strings.CutPrefix(string(raw), cursorMark)
	if err != nil || !ok && q.Cursor != "" {
		return Page{}, ErrBadCursor
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var page Page
	size := 0
	for _, name := range slices.Sorted(maps.Keys(m.records)) {
		r := m.records[name]
		if name <= last || !strings.HasPrefix(name, q.Prefix) || !q.Selects(r) {
			continue
		}
		if len(page.Entries) == q.Limit || size > MaxPageBytes {
			page.Next = base64.RawURLEncoding.EncodeToString([]byte(cursorMark + page.Entries[len(page.Entries)-1].Name))
			break
		}
		page.Entries, size = append(page.Entries, Entry{name, withoutQueue(r)}), size+r.Size()
	}
	return page, nil
}

// Purge removes the records whose native TTL has passed, as DynamoDB does within days, and returns how many.
func (m *Memory) Purge(now time.Time) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for prefix, rule := range m.rules {
		if rule.TTL != 0 && rule.TTL < now.Unix() {
			delete(m.rules, prefix)
		}
	}
	for name, entries := range m.history {
		maps.DeleteFunc(entries, func(_ string, e keptEntry) bool { return e.until < now.UnixMilli() })
		if len(entries) == 0 {
			delete(m.history, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.records)) { // in the same order each time
		r := m.records[name]
		if r.TTL == 0 || r.TTL >= now.Unix() {
			continue
		}
		delete(m.records, name)
		n++
		if m.Changed != nil {
			m.Changed(name, r, Record{})
		}
	}
	return n
}
