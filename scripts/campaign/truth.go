package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/history"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// The truth of a round is the table's stream, as this process reads it from the engine without faults.
type truth struct {
	cancel context.CancelFunc
	work   sync.WaitGroup
	start  int64 // the time 0 of the history, in Unix milliseconds

	mu      sync.Mutex
	rows    []history.Row
	rules   []history.Rule
	last    map[string]lock.Record
	changes map[history.Event]bool // the events that there must be, without ids
	granted map[string]bool        // tokens of tasks whose leases were granted
	ended   map[string]bool        // tokens of tasks whose wait ended without a grant
	gone    map[string]int64       // tokens of tasks whose leases were ended since nobody waited for them, and the fencing tokens of these
	poison  []string
}

func readTruth(engine, table string) *truth {
	ctx, cancel := context.WithCancel(context.Background())
	t := &truth{cancel: cancel, start: startOfHistory(), last: map[string]lock.Record{}, changes: map[history.Event]bool{}, granted: map[string]bool{}, ended: map[string]bool{}, gone: map[string]int64{}}
	p := newPoller(awsConfig(engine), table, fromBeginning{}, quiet)
	p.Consume = func(_ context.Context, batch []stream.Write) []string {
		for _, w := range batch {
			t.take(w)
		}
		return nil
	}
	t.work.Go(func() { p.Run(ctx) })
	return t
}

// startOfHistory is the time 0 of the history, in Unix milliseconds.
func startOfHistory() int64 { return time.Now().UnixMilli() - now()/int64(time.Millisecond) }

func (t *truth) stop() {
	t.cancel()
	t.work.Wait()
}

func (t *truth) take(w stream.Write) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.Poison != nil {
		t.poison = append(t.poison, fmt.Sprintf("lock %s: record %s cannot be read: %v", w.Lock, w.Sequence, w.Poison))
		return
	}
	if len(w.Ended) > 0 {
		for _, e := range w.Ended {
			for _, token := range e.Tokens.List() {
				t.ended[token.Text] = true
			}
		}
		return
	}
	if w.Rule != nil {
		t.takeRule(w.Rule.After)
		return
	}
	t.rows = append(t.rows, history.RowOf(w.Write, now()))
	t.last[w.Lock] = w.After
	for _, c := range lock.Changes(w.Before, w.After) {
		t.changes[history.Event{Lock: w.Lock, Type: string(c.Kind), Fence: c.Lease.Fence}] = true
	}
	if w.After.Cause == lock.CauseTaskGone {
		for _, token := range w.Before.Holders[w.After.Retired.Key].Tokens.List() {
			t.gone[token.Text] = w.After.Retired.Fence
		}
	}
	for _, c := range lock.CallbacksDue(w.Before, w.After) {
		for _, token := range c.Lease.Tokens.List() {
			if c.Lease.Tokens.OfTask() {
				t.granted[token.Text] = true
			}
		}
	}
}

// stuck are the locks that have a holder or a waiter.
func (t *truth) stuck() (list []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, r := range t.last {
		if len(r.Holders) > 0 || r.Waiting > 0 {
			list = append(list, fmt.Sprintf("stuck: lock %s still has %d holders and %d waiters %v after the clients ended", name, len(r.Holders), r.Waiting, drainTime))
		}
	}
	slices.Sort(list)
	return list
}

// missing is how many events and callbacks are still to come.
func (r *round) missing() (n int) {
	r.truth.mu.Lock()
	defer r.truth.mu.Unlock()
	r.services.mu.Lock()
	defer r.services.mu.Unlock()
	got := map[history.Event]bool{}
	for _, e := range r.services.events {
		e.ID = ""
		got[e] = true
	}
	for e := range r.truth.changes {
		if !got[e] {
			n++
		}
	}
	for _, rule := range r.truth.rules {
		if !r.services.rules[ruleWrite{rule.Prefix, rule.Rev}] {
			n++
		}
	}
	for _, tokens := range []map[string]bool{r.truth.granted, r.truth.ended} {
		for token := range tokens {
			if t := r.services.tasks[token]; t == nil || t.status == "" {
				n++
			}
		}
	}
	return n
}

// fromBeginning are places for a reader of the whole stream that is not killed.
type fromBeginning struct{}

// Load implements [poller.Places].
func (fromBeginning) Load(string) (string, error) { return "", nil }

// Save implements [poller.Places].
func (fromBeginning) Save(string, string) error { return nil }
