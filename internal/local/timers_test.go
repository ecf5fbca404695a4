package local

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// Timers in process that were armed are set off in their order, the due ones at once, and Close waits for those that run.
func TestTimersThatAreDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, at := time.Now(), []time.Duration{}
		var l *Timers
		l = NewTimers(func(ctx context.Context, timer stream.Timer) error {
			l.mu.Lock()
			at = append(at, time.Since(start))
			times := len(at)
			l.mu.Unlock()
			if timer.Lock == "slow" {
				<-ctx.Done()
				return ctx.Err()
			}
			if timer.Lock == "again" && times < 4 {
				return errors.New("not now")
			}
			return nil
		})
		if errs := l.Arm(t.Context(), []stream.Timer{{GrantRef: lock.GrantRef{Lock: "past"}, Due: start.Add(-time.Hour)}, {GrantRef: lock.GrantRef{Lock: "again"}, Due: start.Add(time.Second)}}); errs != nil {
			t.Error(errs)
		}
		time.Sleep(10 * time.Second)
		l.mu.Lock()
		if want := []time.Duration{minHop, time.Second, 2 * time.Second, 3 * time.Second}; !slices.Equal(at, want) {
			t.Errorf("fired at %v, want %v", at, want)
		}
		l.mu.Unlock()
		l.Arm(t.Context(), []stream.Timer{{GrantRef: lock.GrantRef{Lock: "slow"}, Due: time.Now()}})
		time.Sleep(time.Second)
		l.Close() // ends its context; it is not set again
	})
}

func TestTimers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fired atomic.Int64
		l := NewTimers(func(context.Context, stream.Timer) error {
			if fired.Add(1) == 1 {
				return errors.New("try again")
			}
			return nil
		})
		l.Arm(t.Context(), []stream.Timer{{GrantRef: lock.GrantRef{Lock: "a"}, Due: time.Now().Add(10 * time.Second)}, {GrantRef: lock.GrantRef{Lock: "b"}, Due: time.Now().Add(time.Hour)}})
		time.Sleep(9 * time.Second)
		if fired.Load() != 0 {
			t.Error("fired early")
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if fired.Load() != 2 {
			t.Errorf("fired %d times", fired.Load())
		}
		l.Close()
		l.Arm(t.Context(), []stream.Timer{{GrantRef: lock.GrantRef{Lock: "c"}}})
		time.Sleep(2 * time.Hour)
		if fired.Load() != 2 {
			t.Error("fired after Close")
		}
	})
}
