package main

import (
	"context"
	"time"

	"github.com/holdfast-lock/holdfast/internal/meter"
)

// Waiting is what a number of waiters consumed in 10 s, while another process held the lock.
type Waiting struct {
	Kind       string
	Waiters    int
	Operations map[string]meter.Count
	Total      meter.Count
}

const waitWindow = 10 * time.Second

// waiting lets a number of waiters, a process each, wait for one lock that is held throughout. It counts their requests in the first
// 10 s. The holder's own requests are not counted.
func waiting(ctx context.Context, kind, endpoint string, waiters int) (Waiting, error) {
	start, err := newTable(ctx, kind, endpoint, 0)
	if err != nil {
		return Waiting{}, err
	}
	holder, err := start(nil)
	if err != nil {
		return Waiting{}, err
	}
	m := meter.New(nil)
	client := m.Client()
	lockers := make([]locker, waiters)
	for i := range lockers {
		if lockers[i], err = start(client); err != nil {
			return Waiting{}, err
		}
	}
	release, err := holder(ctx, "waiting")
	if err != nil {
		return Waiting{}, err
	}
	defer func() { _ = release(ctx) }() // it may fail while the engine is overloaded
	waitCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, lock := range lockers {
		go func() { // it ends without the lock
			if release, err := lock(waitCtx, "waiting"); err == nil {
				_ = release(ctx)
			}
		}()
	}
	time.Sleep(waitWindow)
	m.Stop()
	operations := m.Take()
	cancel()
	m.Quiet()
	return Waiting{kind, waiters, operations, meter.Total(operations)}, nil
}
