package lockclient

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// A CloseError says that [Client.Close] could not release all leases. The rest expire by themselves.
type CloseError struct {
	Left  int     // leases that may still be held
	Total int     // leases that were to be released
	Errs  []error // why, one for each lease that was not released, or was lost before
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

// Unwrap gives all of Errs.
func (e *CloseError) Unwrap() []error { return e.Errs }

// Close ends what is being acquired ([ErrClosed]), releases every lease that this client holds, and waits until nothing of it
// runs any more. It goes on past failures, and for as long as a throttled coordinator takes; but it gives up when a release
// got no answer, in all its retries, and no other did meanwhile. What it could not release it counts in a [*CloseError]; those
// leases expire by themselves, as do leases that were released before their [Options.MinHold] had passed. If ctx ends first,
// Close returns soon. Status still works afterwards.
func (c *Client) Close(ctx context.Context) error {
	c.mu.Lock()
	c.end(ErrClosed)
	held := make(chan *Lease, len(c.leases))
	for l := range c.leases {
		held <- l
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
	if t, ok := c.transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
	return err
}

// closers is how many releases [Client.Close] has under way at a time.
const closers = 32

// closing is one Close.
type closing struct {
	answers atomic.Int64 // releases that got an answer
	away    atomic.Bool  // the coordinator does not answer

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

// release releases one lease. A throttled release is repeated for as long as others are answered.
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
