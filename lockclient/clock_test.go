package lockclient_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// frozen is a pair of clocks. A test can move each of them.
type frozen struct {
	mu              sync.Mutex
	start           time.Time
	monotonic, wall time.Duration // the error of each clock
}

func (f *frozen) move(monotonic, wall time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.monotonic, f.wall = f.monotonic+monotonic, f.wall+wall
}

func (f *frozen) now() (time.Duration, time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	return now.Sub(f.start) + f.monotonic, now.Add(f.wall).Round(0)
}

// A lease expires by elapsed time: by the wall clock after a thaw, when the monotonic clock stood still; and by the monotonic clock
// when the wall clock was set back.
func TestClocksThatStandStill(t *testing.T) {
	for what, step := range map[string]struct{ monotonic, wall time.Duration }{
		"frozen: the monotonic clock stood still":         {0, 30 * time.Second},
		"frozen: both went on":                            {30 * time.Second, 30 * time.Second},
		"the wall clock was set back while it was paused": {30 * time.Second, -time.Hour},
	} {
		t.Run(what, func(t *testing.T) {
			run(t, func(t *testing.T, w *world) {
				c := w.client()
				f := &frozen{start: time.Now()}
				lockclient.SetClock(c, f.now)
				l := w.acquire(c, lockclient.Options{TTL: 30 * time.Second, ManualRenew: true})
				if l.Err() != nil {
					t.Fatal(l.Err())
				}
				f.move(step.monotonic, step.wall)
				wantIs(t, l.Err(), lockclient.ErrLost) // at once after the thaw
				time.Sleep(time.Second)                // the context ends within a second
				synctest.Wait()
				wantIs(t, context.Cause(l.Context()), lockclient.ErrLost)
				wantIs(t, l.Renew(t.Context()), lockclient.ErrLost)
				if w.count("renew") != 0 {
					t.Error("a renewal was sent for a lease that was over")
				}
				_ = c.Close(t.Context())
			})
		})
	}
}

// A wall clock that is set back neither extends a lease nor ends it.
func TestWallClockSetBack(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		f := &frozen{start: time.Now()}
		lockclient.SetClock(c, f.now)
		l := w.acquire(c, lockclient.Options{TTL: 30 * time.Second})
		f.move(0, -time.Hour)
		time.Sleep(time.Hour)
		if l.Err() != nil {
			t.Error(l.Err())
		}
		w.breakWith(cutAll, nil)
		start := time.Now()
		<-l.Context().Done()
		if took := time.Since(start); took > 31*time.Second {
			t.Errorf("believed for %v", took)
		}
		w.breakWith(nil, nil)
		_ = c.Close(t.Context())
	})
}
