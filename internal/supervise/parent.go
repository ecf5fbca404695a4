//go:build unix

package supervise

import (
	"context"
	"os"
	"time"
)

// parentEvery is the interval at which [ParentGone] compares parents.
const parentEvery = time.Second

// ParentGone returns a channel that is closed within a second after the process that started this one has ended. It
// stops watching when ctx is done.
func ParentGone(ctx context.Context) <-chan struct{} { return parentGone(ctx, os.Getppid, parentEvery) }

// parentGone returns a channel that is closed when parent returns another value than at first.
func parentGone(ctx context.Context, parent func() int, every time.Duration) <-chan struct{} {
	gone := make(chan struct{})
	first := parent()
	go func() {
		for tick := time.NewTicker(every); ; {
			select {
			case <-ctx.Done(): // the supervisor passes the signal on to the command
				return
			case <-tick.C:
			}
			if parent() != first {
				close(gone)
				return
			}
		}
	}()
	return gone
}
