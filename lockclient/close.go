package lockclient

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// A CloseError says that [Client.Close] failed to release some leases. Those expire by themselves.
type CloseError struct {
	Left  int     // the number of leases that may still be held
	Total int     // the number of leases that the client held
	Errs  []error // one for each lease that was not released or had been lost
}

func (e *CloseError) Error() string {
	if e.Left == 0 {
		return fmt.Sprintf("lockclient: close: %v%s", e.Errs[0], andMore(len(e.Errs)-1))
	}
	return fmt.Sprintf("lockclient: close: %d of %d leases were not released, and expire by themselves: %v%s", e.Left, e.Total, e.Errs[0], andMore(len(e.Errs)-1))
}

func andMore(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (and %d more)", n)
}

// Unwrap returns e.Errs.
func (e *CloseError) Unwrap() []error { return e.Errs }

// Close closes the client. It ends acquisitions in progress with [ErrClosed], releases every lease that the client holds, and waits
// until nothing of the client runs in the background. Status works afterwards.
//
// Close continues after a failed release, and retries while the coordinator throttles it. It gives up when all tries of a release
// had no answer and no other release had one meanwhile. The leases that it could not release are counted in a [*CloseError]; they
// expire by themselves, as do the leases that were released before their [Options.MinHold] had passed. If ctx ends, Close returns
// soon after. At last it closes Config.Notify.
func (c *Client) Close(ctx context.Context) error {
	c.mu.Lock()
	c.end(ErrClosed)
	held := make(chan *Lease, len(c.leases))
	for _, l := range slices.SortedFunc(maps.Keys(c.leases), func(a, b *Lease) int { return cmp.Compare(a.fence, b.fence) }) {
		held <- l // oldest grant first
	}
	c.mu.Unlock()
	close(held)
	err := c.releaseAll(ctx, held)
	ended := make(chan struct{})
	go func() {
		c.work.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		if err == nil {
			err = fmt.Errorf("lockclient: close: %w", ctx.Err())
		}
	}
	if n := c.notifiedWaits.notifier; n != nil {
		if failed := n.Close(ctx); failed != nil && err == nil {
			err = fmt.Errorf("lockclient: close: Config.Notify: %w", failed)
		}
	}
	if t, ok := c.transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
	return err
}

// closers is the number of releases that [Client.Close] makes at a time.
const closers = 32

// A closing is the state of one Close.
type closing struct {
	answers atomic.Int64 // the number of releases that had an answer
	away    atomic.Bool  // the coordinator does not answer, so Close gives up

	mu   sync.Mutex
	left int
	errs []error
}

func (c *Client) releaseAll(ctx context.Context, held <-chan *Lease) error {
	total := len(held)
	var closing closing
	var work sync.WaitGroup
	for range min(closers, total) {
		work.Go(func() {
			for l := range held {
				closing.note(closing.release(ctx, l))
			}
		})
	}
	work.Wait()
	if len(closing.errs) == 0 {
		return nil
	}
	return &CloseError{closing.left, total, closing.errs}
}

// release releases one lease. While others are answered, it repeats a release that was throttled.
func (c *closing) release(ctx context.Context, l *Lease) error {
	if c.away.Load() {
		l.stop(ErrReleased)
		return &OpError{ErrRelease, l.name, &unavailable{err: errors.New("the coordinator did not answer the releases before")}}
	}
	before := c.answers.Load()
	err := l.releaseOnce(ctx, func(err error) bool {
		down, ok := errors.AsType[*unavailable](err)
		now := c.answers.Load()
		progress := now > before
		before = now
		return ok && down.throttled && progress && ctx.Err() == nil
	})
	if !errors.Is(err, ErrUnavailable) {
		c.answers.Add(1)
	} else if c.answers.Load() == before {
		c.away.Store(true)
	}
	return err
}

func (c *closing) note(err error) {
	if err == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.errs = append(c.errs, err)
	if !errors.Is(err, ErrLost) {
		c.left++
	}
}
