package stream

import (
	"context"
	"sync"
	"time"
)

// LocalTimers are [Timers] in one process. Make them with [NewLocalTimers] and end them with Close.
type LocalTimers struct {
	ctx    context.Context
	cancel context.CancelFunc
	fire   func(context.Context, Timer) error

	mu      sync.Mutex
	closed  bool
	pending map[*time.Timer]bool
	running sync.WaitGroup
}

// NewLocalTimers makes timers that call fire, each in a goroutine of its own, and again after a second if it fails.
func NewLocalTimers(fire func(context.Context, Timer) error) *LocalTimers {
	ctx, cancel := context.WithCancel(context.Background())
	return &LocalTimers{ctx: ctx, cancel: cancel, fire: fire, pending: map[*time.Timer]bool{}}
}

// Arm implements [Timers].
func (l *LocalTimers) Arm(_ context.Context, timers []Timer) []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	for _, t := range timers {
		l.arm(t, max(time.Until(t.Due), minHop))
	}
	return nil
}

// arm needs the mutex.
func (l *LocalTimers) arm(t Timer, in time.Duration) {
	var timer *time.Timer
	l.running.Add(1)
	timer = time.AfterFunc(in, func() {
		defer l.running.Done()
		l.mu.Lock()
		delete(l.pending, timer)
		l.mu.Unlock()
		if l.fire(l.ctx, t) == nil {
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if !l.closed {
			l.arm(t, time.Second)
		}
	})
	l.pending[timer] = true
}

// Close stops all timers and waits for those that run.
func (l *LocalTimers) Close() {
	l.mu.Lock()
	l.closed = true
	for timer := range l.pending {
		if timer.Stop() {
			l.running.Done()
		}
	}
	l.mu.Unlock()
	l.cancel()
	l.running.Wait()
}
