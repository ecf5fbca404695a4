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

// write replaces the record from by another one, as it is.
func write(t *testing.T, s *dynamo.Store, name string, from, to lock.Record) error {
	t.Helper()
	_, err := s.Apply(t.Context(), name, lock.Command{
		Kind: lock.Swap, Absent: from.Rev == 0, Guard: []lock.Clause{{Test: lock.RevIs, N: from.Rev}},
		Effect: lock.Become{From: from, To: to}, Stamp: lock.Stamp{Cause: lock.CauseAcquire, By: to.By, Reason: to.Reason, TTL: 4_000_000_000},
	})
	return err
}

// The largest record that package lock allows fits a DynamoDB item, and a larger one is refused by the engine.
func TestLargestRecord(t *testing.T) {
	s := newStore(t)
	const ms = 1_800_000_000_123
	holder := func(i, token int) lock.Lease {
		return lock.Lease{
			Terms: lock.Terms{Owner: strings.Repeat("o", 256), Principal: strings.Repeat("p", 700), Metadata: strings.Repeat("m", lock.MaxMetadata), Tokens: lock.Tokens{task(strings.Repeat("t", token))}, Permits: 1, Capacity: 100, TTL: 604_800_123},
			Fence: ms*1000 + int64(i), AcquiredAt: ms, RenewedAt: ms, ExpiresAt: ms, CheckAt: ms, Unclaimed: true, Attempted: true,
		}
	}
	record := func(token int) lock.Record {
		r := lock.Record{
			Capacity: 100, Fence: ms * 1000, By: strings.Repeat("b", 700), Reason: strings.Repeat("r", 512), NextTicket: ms,
			Retired: lock.Retired{Key: lock.KeyOf("s", "x"), Fence: ms * 1000, At: ms, Cause: lock.CauseForceRelease}, Holders: map[lock.LeaseKey]lock.Lease{},
		}
		for i := range 99 {
			r.Holders[lock.KeyOf("s", fmt.Sprint(i))] = holder(i, token)
		}
		return r
	}
	token := 1 + (lock.MaxRecordBytes-int(record(1).Bytes()))/99
	if r := record(token); r.Bytes() > lock.MaxRecordBytes || r.Bytes() < lock.MaxRecordBytes-99 {
		t.Fatalf("the largest record has %d bytes", r.Bytes())
	}
	if err := write(t, s, strings.Repeat("n", 255), lock.Record{}, record(token)); err != nil {
		t.Errorf("the largest record: %v", err)
	}
	if err := write(t, s, "s", lock.Record{}, record(token+400)); !errors.Is(err, lock.ErrLockFull) {
		t.Errorf("too large: %v", err)
	}
	r := record(0)
	if err := write(t, s, "w", lock.Record{}, r); err != nil {
		t.Fatal(err)
	}
	r.Rev = 1
	to := record(token + 400)
	to.Waiting, to.Queue = 1, []lock.Waiter{{Ticket: 1, Key: "l", Until: ms}}
	for key, h := range to.Holders { // new grants, so that they are written whole
		h.Fence += ms
		to.Holders[key] = h
	}
	if err := write(t, s, "w", r, to); !errors.Is(err, lock.ErrLockFull) {
		t.Errorf("too large, in a transaction: %v", err)
	}
}

// The largest hand-off fits a transaction and its expressions: a semaphore whose 100 leases have expired, and whose waiters have tokens
// and executions, half of their places abandoned.
func TestLargestHandOff(t *testing.T) {
	s := newStore(t)
	c, err := lock.New(lock.Config{Store: s})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	r := lock.Record{Capacity: 100, Fence: now.Add(-time.Hour).UnixMicro(), Holders: map[lock.LeaseKey]lock.Lease{}}
	for i := range 100 {
		r.Holders[lock.KeyOf("s", fmt.Sprint("h", i))] = lock.Lease{Terms: lock.Terms{Permits: 1, Capacity: 100}, Fence: int64(i + 1), ExpiresAt: now.Add(-time.Minute).UnixMilli()}
	}
	if err := write(t, s, "s", lock.Record{}, r); err != nil {
		t.Fatal(err)
	}
	for r.Waiting < 120 { // as many as one transaction puts, with their places and bindings
		r.Rev++
		to := r
		for range 30 {
			to.Waiting++
			until := now.Add(time.Hour)
			if to.Waiting%2 == 0 {
				until = now.Add(-time.Hour)
			}
			n := fmt.Sprint(to.Waiting)
			to.Queue = append(to.Queue, lock.Waiter{Ticket: to.Waiting, Key: lock.KeyOf("s", n), Until: until.UnixMilli(), Terms: lock.Terms{
				Owner: strings.Repeat("o", 256), Permits: 1, Capacity: 100, TTL: 60_000, Tokens: lock.Tokens{task(n + strings.Repeat("t", 2000))}, Execution: "arn:aws:states:::execution:m:" + n,
			}})
		}
		to.NextTicket = to.Waiting
		if err := write(t, s, "s", r, to); err != nil {
			t.Fatal(err)
		}
		r = to
	}
	for range 3 {
		if err := c.Settle(t.Context(), "s"); err != nil {
			t.Fatal(err)
		}
	}
	reply, err := s.Get(t.Context(), "s")
	if err != nil || len(reply.After.Holders) != 60 || reply.After.Waiting != 0 {
		t.Errorf("%d holders, %d wait, %v", len(reply.After.Holders), reply.After.Waiting, err)
	}
}

// The largest set of a task fits every transaction: ten locks with the longest names, three tokens, metadata and owner as long as they may be. Its joining
// removes abandoned tasks from all queues, and its grant grants a task in each of them.
func TestLargestSetOfATask(t *testing.T) {
	s, clock := newStore(t), &storetest.Clock{}
	c, err := lock.New(lock.Config{Store: s, Clock: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	long := func(text string, n int) string { return text + strings.Repeat("x", n-len(text)) }
	var wants []lock.Want
	var names []string
	for i := range lock.MaxSet {
		wants = append(wants, lock.Want{Lock: long(fmt.Sprint(i), 255), Capacity: 2, Permits: 1})
		names = append(names, wants[i].Lock)
	}
	held := func(err error) {
		t.Helper()
		if !errors.Is(err, lock.ErrLockHeld) {
			t.Fatal(err)
		}
	}
	single := func(name, secret string, permits int64, wait time.Duration, tokens int) {
		t.Helper()
		req := lock.AcquireRequest{
			Lock: name, Secret: secret, Owner: long("o", 256), Principal: long("p", 700), TTL: time.Hour, Metadata: long("m", lock.MaxMetadata), Capacity: 2, Permits: permits, Wait: wait,
		}
		if tokens == 0 {
			if _, err := c.Acquire(t.Context(), req); err != nil {
				t.Fatal(err)
			}
		}
		for i := range tokens {
			req.Token, req.Execution = task(long(fmt.Sprint(name[:1], secret, i), 2048)), long("arn:"+name[:1]+secret, 256)
			_, err := c.Acquire(t.Context(), req)
			held(err)
		}
	}
	for i, name := range names {
		single(name, "holder", 2, 0, 0)
		for range 1 + i%2 {
			single(name, fmt.Sprint("dead", i), 1, time.Minute, 3)
		}
	}
	for i := range lock.QueueHead { // in the first queue the set is behind the first ten
		single(names[0], fmt.Sprint("early", i), 1, 2*time.Minute, 1)
	}
	clock.Advance(90 * time.Second) // now the first abandoned places are removed by the joining of the set
	for i := range 3 {
		_, err := c.AcquireAll(t.Context(), lock.SetRequest{
			Locks: wants, Secret: "set", Owner: long("o", 256), Principal: long("p", 700), TTL: time.Hour, Metadata: long("m", lock.MaxMetadata), Wait: time.Hour,
			Token: task(long(fmt.Sprint("set", i), 2048)), Execution: long("arn:set", 256),
		})
		held(err)
	}
	for _, name := range names {
		single(name, "next", 1, time.Hour, 3)
	}
	clock.Advance(2 * time.Minute)
	if _, err := c.ReleaseAll(t.Context(), lock.SetReleaseRequest{Locks: names, Secret: "holder"}); !errors.Is(err, lock.ErrLeaseLost) { // they are no set
		t.Fatal(err)
	}
	for _, name := range names {
		if _, err := c.Release(t.Context(), lock.ReleaseRequest{Lock: name, Secret: "holder"}); err != nil {
			t.Fatal(err)
		}
	}
	leases, err := c.LeasesOfSet(t.Context(), strings.Join(names, ","), lock.SetKey(names, "set"))
	if err != nil || len(leases) != lock.MaxSet || len(leases[0].Tokens.List()) != 3 {
		t.Fatalf("%d leases, %v", len(leases), err)
	}
	for _, name := range names {
		r, err := s.Get(t.Context(), name)
		if err != nil || len(r.After.Holders) != 2 || r.After.Waiting != 0 {
			t.Errorf("%d holders, %d wait, %v", len(r.After.Holders), r.After.Waiting, err)
		}
	}
	if err := c.EndExecution(t.Context(), long("arn:set", 256), func(context.Context) (bool, error) { return true, nil }); err != nil {
		t.Error(err)
	}
	if _, err := c.LeasesOfSet(t.Context(), strings.Join(names, ","), lock.SetKey(names, "set")); !errors.Is(err, lock.ErrLeaseLost) {
		t.Errorf("after the end of its execution: %v", err)
	}
}
