package dynamo_test

import (
	"context"
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
	m, clock, c := metered(t)
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

// The requests and units of sets whose task waits, whose rows are there already: with a task token of a usual length, and an execution.
func TestUnitsOfASetOfATask(t *testing.T) {
	m, clock := &meter{}, &storetest.Clock{}
	s := newStore(t, func(c *dynamo.Config) { c.AWS.HTTPClient = m })
	callbacks := 0
	c, err := lock.New(lock.Config{Store: s, Clock: clock.Now, Granted: func(ctx context.Context, c *lock.Coordinator, writes []lock.Write) {
		for _, w := range writes {
			for _, ch := range lock.CallbacksDue(w.Before, w.After) { // as package stream does
				ref := lock.GrantRef{Lock: w.Lock, Key: ch.Key, Fence: ch.Lease.Fence}
				attempt, err := c.MarkAttempt(ctx, ref, ch.Lease.Tokens, w.After)
				if err == nil {
					_, err = c.LeasesOfSet(ctx, ch.Lease.Set, ch.Key)
				}
				if err == nil {
					callbacks++
					_, err = c.MarkTold(ctx, ref, ch.Lease.Tokens, attempt.Seen)
				}
				if err != nil {
					t.Error(err)
				}
			}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	const arn = "arn:aws:states:eu-west-1:123456789012:execution:Deploy:"
	for _, n := range []float64{2, 5, lock.MaxSet} {
		var list []lock.Want
		var names []string
		for i := range int(n) {
			list = append(list, lock.Want{Lock: fmt.Sprintf("%v:%d", n, i), Capacity: 1, Permits: 1})
			names = append(names, list[i].Lock)
		}
		acquire := func(secret, token string) error {
			req := lock.SetRequest{Locks: list, Secret: secret, Owner: "run-0123456789", TTL: time.Hour}
			if token != "" {
				req.Token, req.Execution, req.Wait = task(token+strings.Repeat("t", 700)), fmt.Sprintf("%s%s-%v", arn, secret, n), 24*time.Hour
			}
			_, err := c.AcquireAll(t.Context(), req)
			if errors.Is(err, lock.ErrLockHeld) {
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
			m.costs(t, fmt.Sprintf("%s of %v", what, n), actions, most, do)
		}
		_ = acquire("first", "")
		_ = release("first")
		callbacks = 0
		const callback = " UpdateItem BatchGetItem UpdateItem"
		cost("acquire and callback", "BatchGetItem TransactWriteItems"+callback, 4*n+6, func() error { return acquire("a", "a") })
		cost("join", "BatchGetItem TransactWriteItems", 5*n+2, func() error { return acquire("w", "w") })
		hand := "BatchGetItem" + strings.Repeat(" Query", int(n)) + " TransactWriteItems BatchGetItem TransactWriteItems" + callback
		cost("release that hands on, and callback", hand, 11*n+4, func() error { return release("a") })
		if callbacks != 2 {
			t.Errorf("%d callbacks", callbacks)
		}
		key := lock.SetKey(names, "w")
		r, err := s.Get(t.Context(), names[0])
		if err != nil {
			t.Fatal(err)
		}
		cost("check", "BatchGetItem TransactWriteItems", 3*n, func() error {
			_, err := c.MarkChecked(t.Context(), lock.GrantRef{Lock: names[0], Key: key, Fence: r.After.Holders[key].Fence}, strings.Join(names, ","), 2*time.Hour)
			return err
		})
		cost("end of the execution", "Query BatchGetItem TransactWriteItems DeleteItem", 3*n+2, func() error {
			return c.EndExecution(t.Context(), fmt.Sprintf("%sw-%v", arn, n), func(context.Context) (bool, error) { return true, nil })
		})
	}
}
