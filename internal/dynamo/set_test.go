package dynamo_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/storetest"
)

// The requests and units of sets, free and contended, whose rows are there already.
func TestUnitsOfASet(t *testing.T) {
	m, clock := &meter{}, &storetest.Clock{}
	s := newStore(t, func(c *dynamo.Config) { c.AWS.HTTPClient = m })
	c, err := lock.New(lock.Config{Store: s, Clock: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []float64{1, 2, 5, lock.MaxSet} {
		var list []lock.Want
		var names []string
		for i := range int(n) {
			list = append(list, lock.Want{Lock: fmt.Sprintf("%v:%d", n, i), Capacity: 1, Permits: 1})
			names = append(names, list[i].Lock)
		}
		var tickets []int64
		acquire := func(secret string, wait time.Duration) error {
			_, err := c.AcquireAll(t.Context(), lock.SetRequest{Locks: list, Secret: secret, Owner: "host-01.example/12345", TTL: time.Minute, Wait: wait, Tickets: tickets})
			if held, ok := errors.AsType[*lock.HeldError](err); ok && wait > 0 {
				tickets = held.Tickets
				return nil
			}
			return err
		}
		release := func(secret string) error {
			_, err := c.ReleaseAll(t.Context(), lock.SetReleaseRequest{Locks: names, Secret: secret})
			return err
		}
		cost := func(what, actions string, most float64, do func() error) {
			t.Helper()
			m.reset()
			m.units = 0
			if err := do(); err != nil {
				t.Fatal(n, what, err)
			}
			if got := m.actions(); n > 1 && got != actions || m.units > most {
				t.Errorf("%s of %v: %s, %v units; want %s, at most %v", what, n, got, m.units, actions, most)
			}
			t.Logf("%s of %v: %s, %v units", what, n, m.actions(), m.units)
		}
		_ = acquire("first", 0)
		_ = release("first")
		cost("acquire", "BatchGetItem TransactWriteItems", 3*n, func() error { return acquire("a", 0) })
		cost("renew", "BatchGetItem TransactWriteItems", 3*n, func() error {
			_, err := c.RenewAll(t.Context(), lock.SetRenewRequest{Locks: names, Secret: "a", TTL: 2 * time.Minute})
			return err
		})
		cost("refused", "BatchGetItem", 1*n, func() error {
			if err := acquire("b", 0); !errors.Is(err, lock.ErrLockHeld) {
				return fmt.Errorf("not refused: %w", err)
			}
			return nil
		})
		cost("join", "BatchGetItem TransactWriteItems", 5*n, func() error { return acquire("w", time.Minute) })
		cost("poll", "BatchGetItem", 2*n, func() error { return acquire("w", time.Minute) })
		clock.Advance(40 * time.Second)
		if _, err := c.PrefixRules(t.Context()); err != nil { // what rules cost is counted by TestUnitsOfPrefixRules
			t.Fatal(err)
		}
		cost("poll that keeps the places", "BatchGetItem TransactWriteItems", 4*n, func() error { return acquire("w", time.Minute) })
		var hand strings.Builder
		hand.WriteString("BatchGetItem") // the set's own, then that of the one that waits
		for range int(n) {
			hand.WriteString(" Query")
		}
		cost("release that hands on", hand.String()+" TransactWriteItems BatchGetItem TransactWriteItems", 13*n, func() error { return release("a") })
		cost("claim", "BatchGetItem TransactWriteItems", 4*n, func() error { return acquire("w", time.Minute) })
		tickets = nil
		cost("release", "BatchGetItem TransactWriteItems", 3*n, func() error { return release("w") })
	}
}
