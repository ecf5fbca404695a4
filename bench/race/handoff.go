package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"time"
)

// Handoff is the time from the return of a release to the return of the acquire of a waiter in another process, in milliseconds.
type Handoff struct {
	Kind         string
	Polling      string // "defaults", or the pause between two tries
	Count        int
	P50ms, MaxMS float64
	Failed       []string // errors of waiters that did not get the lock
}

// handoffs lets pairs of processes hand a lock each over, in rounds. hold is the least time for which the first holds it.
func (w *world) handoffs(p peer, poll int64, pairs, rounds int, hold time.Duration) (h Handoff, err error) {
	h = Handoff{Kind: p.kind, Polling: "defaults"}
	if poll != 0 {
		h.Polling = fmt.Sprintf("%d ms", poll)
	}
	var procs [2]*process
	for i := range procs {
		s := settings{Kind: p.kind, Name: fmt.Sprint("handoff", i), Endpoint: w.upstream(p.kind), Table: w.table(p.kind), PollMS: poll, Clients: pairs}
		if procs[i], err = start(w.dir, s); err != nil {
			return h, err
		}
		defer procs[i].kill()
	}
	var mu sync.Mutex
	var idle []time.Duration
	var work sync.WaitGroup
	for pair := range pairs {
		work.Go(func() {
			for range rounds {
				d, err := handoff(procs, pair, hold)
				mu.Lock()
				if err != nil {
					h.Failed = append(h.Failed, err.Error())
				} else {
					idle = append(idle, d)
				}
				mu.Unlock()
			}
		})
	}
	work.Wait()
	h.Count, h.P50ms, h.MaxMS = len(idle), milliseconds(percentile(idle, 50)), milliseconds(percentile(idle, 100))
	return h, nil
}

func handoff(procs [2]*process, pair int, hold time.Duration) (time.Duration, error) {
	name := "handoff:" + strings.ToLower(rand.Text())
	if _, err := procs[0].acquire(pair, name, 10*time.Second); err != nil {
		return 0, err
	}
	released := make(chan answer, 1)
	var failed error
	time.AfterFunc(hold+mathrand.N(hold), func() {
		var a answer
		a, failed = procs[0].release(pair)
		released <- a
	})
	a, err := procs[1].acquire(pair, name, time.Minute)
	r := <-released
	if err = errors.Join(err, failed); err != nil {
		return 0, err
	}
	if _, err := procs[1].release(pair); err != nil {
		return 0, err
	}
	return max(0, time.Duration(a.Ended-r.Ended)), nil // the waiter may learn of the release before its sender
}
