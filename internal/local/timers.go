package local

import (
	"context"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/stream"
)

// Timers are [stream.Timers] in one process.
type Timers struct {
	ctx    context.Context
	cancel context.CancelFunc
	fire   func(context.Context, stream.Timer) error

	mu      sync.Mutex
	closed  bool
	pending map[*time.Timer]bool
	running sync.WaitGroup
}

// NewTimers returns timers that call fire, each in a goroutine of its own, and again after a second if it fails. Close ends
// them.
func NewTimers(fire func(context.Context, stream.Timer) error) *Timers {
	ctx, cancel := context.WithCancel(context.Background())
	return &Timers{ctx: ctx, cancel: cancel, fire: fire, pending: map[*time.Timer]bool{}}
}

// Arm implements [stream.Timers].
func (l *Timers) Arm(_ context.Context, list []stream.Timer) []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	for _, t := range list {
		l.arm(t, max(time.Until(t.Due), minHop))
	}
	return nil
}

// arm needs the mutex.
func (l *Timers) arm(t stream.Timer, in time.Duration) {
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
func (l *Timers) Close() {
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

// minHop is the least time until a timer fires. It keeps a timer that is due from firing in a loop if two clocks disagree.
const minHop = 10 * time.Millisecond
