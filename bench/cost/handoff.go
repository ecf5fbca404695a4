package main

import (
	"context"
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"sync"
	"time"
)

// Handoff is the time from the release of a lock to the return of the waiter's acquire, in milliseconds.
type Handoff struct {
	Kind    string
	Polling string // "defaults", or the longest pause between two polls
	Count   int
	P50ms   float64
	P99ms   float64
}

const (
	handoffPairs  = 20 // of processes, on a lock each
	handoffRounds = 5
)

// handoffs compares lockclient with dynamolock. Both run in each round, so that other load on the machine affects them alike.
func handoffs(ctx context.Context, endpoint string, interval time.Duration) ([]Handoff, error) {
	polling, hold := "defaults", 3*time.Second
	if interval != 0 {
		polling, hold = interval.String(), 200*time.Millisecond
	}
	kinds := []string{ours, other}
	samples := make([][]time.Duration, len(kinds))
	tables := make([]process, len(kinds))
	for i, kind := range kinds {
		var err error
		if tables[i], err = newTable(ctx, kind, endpoint, interval); err != nil {
			return nil, err
		}
	}
	for range handoffRounds {
		for i := range kinds {
			idle, err := handoffRound(ctx, tables[i], hold)
			if err != nil {
				return nil, err
			}
			samples[i] = append(samples[i], idle...)
		}
	}
	var list []Handoff
	for i, kind := range kinds {
		list = append(list, Handoff{kind, polling, len(samples[i]), milliseconds(percentile(samples[i], 50)), milliseconds(percentile(samples[i], 99))})
	}
	return list, nil
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond).Microseconds()) / 1000
}

// handoffRound lets the first process of each pair hold a lock for about the given time while the second waits, and returns for how
// long each lock was free.
func handoffRound(ctx context.Context, start process, hold time.Duration) ([]time.Duration, error) {
	idle, errs := make([]time.Duration, handoffPairs), make([]error, handoffPairs)
	var work sync.WaitGroup
	for i := range handoffPairs {
		work.Go(func() { idle[i], errs[i] = handoff(ctx, start, hold) })
	}
	work.Wait()
	return idle, errors.Join(errs...)
}

func handoff(ctx context.Context, start process, hold time.Duration) (time.Duration, error) {
	first, err := start(nil)
	if err != nil {
		return 0, err
	}
	second, err := start(nil)
	if err != nil {
		return 0, err
	}
	name := "handoff:" + rand.Text()
	release, err := first(ctx, name)
	if err != nil {
		return 0, err
	}
	var failed error
	released := make(chan time.Time, 1)
	time.AfterFunc(hold+mathrand.N(time.Second), func() {
		failed = release(ctx)
		released <- time.Now()
	})
	release, err = second(ctx, name)
	taken := time.Now()
	idle := max(taken.Sub(<-released), 0) // the waiter may learn of the release before its sender
	if err == nil {
		err = release(ctx)
	}
	return idle, errors.Join(failed, err)
}
