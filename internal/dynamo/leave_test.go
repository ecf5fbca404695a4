package dynamo_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// What it costs to join a queue and to leave it, by the number of locks and of their holders: docs/sets.md has the figures.
func TestUnitsOfLeaving(t *testing.T) {
	m, _, c := metered(t)
	for _, f := range []struct {
		locks, holders, capacity int
		join, leave              string
	}{
		{1, 1, 1, "UpdateItem TransactWriteItems: 5", "UpdateItem Queries TransactWriteItems: 6"},
		{2, 1, 1, "BatchGetItem TransactWriteItems: 10", "BatchGetItem Queries TransactWriteItems: 12"},
		{5, 1, 1, "BatchGetItem TransactWriteItems: 25", "BatchGetItem Queries TransactWriteItems: 30"},
		{10, 1, 1, "BatchGetItem TransactWriteItems: 50", "BatchGetItem Queries TransactWriteItems: 60"},
		{1, 1, 50, "UpdateItem TransactWriteItems: 5", "UpdateItem Queries TransactWriteItems: 6"},
		{1, 5, 50, "UpdateItem TransactWriteItems BatchGetItem: 9", "UpdateItem Queries TransactWriteItems: 6"},
		{1, 50, 50, "UpdateItem TransactWriteItems BatchGetItem: 23", "UpdateItem Queries TransactWriteItems: 15"},
		{2, 1, 50, "BatchGetItem TransactWriteItems: 10", "BatchGetItem Queries TransactWriteItems: 12"},
		{2, 5, 50, "BatchGetItem TransactWriteItems BatchGetItem: 14", "BatchGetItem Queries TransactWriteItems: 12"},
		{2, 50, 50, "BatchGetItem TransactWriteItems BatchGetItem: 31", "BatchGetItem Queries TransactWriteItems: 24"},
	} {
		what := fmt.Sprintf("%d locks of capacity %d with %d holders", f.locks, f.capacity, f.holders)
		var names []string
		var wants []lock.Want
		for i := range f.locks {
			name := fmt.Sprintf("%d-%d-%d:%d", f.locks, f.holders, f.capacity, i)
			names, wants = append(names, name), append(wants, lock.Want{Lock: name, Capacity: int64(f.capacity), Permits: 1})
			for h := range f.holders {
				req := lock.AcquireRequest{Lock: name, Secret: fmt.Sprint("holder ", h), Owner: "host-01.example/12345", TTL: time.Hour, Capacity: int64(f.capacity), Permits: 1}
				if h == 0 { // all permits are held
					req.Permits = int64(f.capacity - f.holders + 1)
				}
				if _, err := c.Acquire(t.Context(), req); err != nil {
					t.Fatal(what, err)
				}
			}
		}
		m.reset()
		if _, err := c.Renew(t.Context(), lock.RenewRequest{Lock: names[0], Secret: "holder 0", TTL: time.Hour}); err != nil || m.actions() != "UpdateItem" {
			t.Fatal(what, m.actions(), err)
		}
		size := m.units // of the lock's row in KB: the meter counts a transaction as if every item had one, and a refused write as nothing
		cost := func(want string, do func() error) {
			t.Helper()
			m.reset()
			if err := do(); err != nil {
				t.Fatal(what, err)
			}
			units := m.units + 2*(size-1)*float64(f.locks)
			if f.locks == 1 {
				units += size
			}
			if got := fmt.Sprintf("%s: %v", strings.ReplaceAll(m.actions(), strings.TrimSpace(strings.Repeat("Query ", f.locks)), "Queries"), units); got != want {
				t.Errorf("%s: %s; want %s", what, got, want)
			}
		}
		cost(f.join, func() error {
			_, err := c.AcquireAll(t.Context(), lock.SetRequest{Locks: wants, Secret: "w", Owner: "host-02.example/12345", TTL: time.Minute, Wait: time.Minute})
			if held, ok := errors.AsType[*lock.HeldError](err); !ok || len(held.Tickets) != f.locks {
				return fmt.Errorf("it does not wait: %w", err)
			}
			return nil
		})
		cost(f.leave, func() error {
			_, err := c.ReleaseAll(t.Context(), lock.SetReleaseRequest{Locks: names, Secret: "w"})
			return err
		})
	}
}
