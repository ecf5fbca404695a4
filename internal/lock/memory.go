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

// Memory is the reference store: the interpreter of commands, under a mutex. The zero Memory is empty and ready.
type Memory struct {
	mu      sync.Mutex
	records map[string]Record
}

// Get reads a record.
func (m *Memory) Get(ctx context.Context, name string) (Reply, error) {
	if err := ctx.Err(); err != nil {
		return Reply{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return Reply{After: m.records[name]}, nil
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
		return Reply{}, &GuardError{Current: before}
	}
	after := c.Next(before)
	if m.records == nil {
		m.records = map[string]Record{}
	}
	m.records[name] = after
	return Reply{Before: before, After: after}, nil
}

// List reads records in the order of their names. The cursor is the last name, encoded.
func (m *Memory) List(ctx context.Context, q ListQuery) (Page, error) {
	if err := ctx.Err(); err != nil {
		return Page{}, err
	}
	last, err := base64.RawURLEncoding.DecodeString(q.Cursor)
	if err != nil {
		return Page{}, ErrBadCursor
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var page Page
	for _, name := range slices.Sorted(maps.Keys(m.records)) {
		r := m.records[name]
		if name <= string(last) || !strings.HasPrefix(name, q.Prefix) || q.HeldAfter != 0 && r.FreeAt <= q.HeldAfter {
			continue
		}
		if len(page.Entries) == q.Limit {
			page.Next = base64.RawURLEncoding.EncodeToString([]byte(page.Entries[q.Limit-1].Name))
			break
		}
		page.Entries = append(page.Entries, Entry{name, r})
	}
	return page, nil
}

// Purge removes the records whose native TTL has passed, as DynamoDB does in its own time, and answers how many.
func (m *Memory) Purge(now time.Time) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := len(m.records)
	maps.DeleteFunc(m.records, func(_ string, r Record) bool { return r.TTL != 0 && r.TTL < now.Unix() })
	return before - len(m.records)
}
