package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// patience is how long a coordinator may keep silent before that is told.
const patience = 2 * time.Second

// take acquires the lock: with --no-wait it asks whether the lock is free, and joins no queue. It shows who is in the way, and
// what keeps the coordinator from answering.
func (t *taking) take(ctx context.Context, client *lockclient.Client, opts lockclient.Options, s *streams) (*lockclient.Lease, error) {
	w := &wait{streams: s, name: t.Name, began: time.Now()}
	opts.OnWait, opts.OnUnavailable = w.held, w.unavailable
	defer s.watch(w.silence)()
	if t.NoWait {
		return client.TryAcquire(ctx, t.Name, opts)
	}
	return client.Acquire(ctx, t.Name, opts)
}

// watch calls a function, after patience and then each second, until it is told to stop; and draws the live line again when the
// terminal's width changes.
func (s *streams) watch(silence func()) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		resized := make(chan os.Signal, 1)
		signal.Notify(resized, syscall.SIGWINCH)
		defer signal.Stop(resized)
		timer := time.NewTimer(patience)
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-resized:
				s.redraw()
			case <-timer.C:
				silence()
				timer.Reset(time.Second)
			}
		}
	})
	return func() {
		cancel()
		watching.Wait()
	}
}

// A wait is what is shown of one acquire: a live line on a terminal, and otherwise a notice when something changes.
type wait struct {
	*streams
	name  string
	began time.Time

	mu      sync.Mutex
	heard   time.Time // the last answer; zero: none yet
	reason  string    // of the last try without an answer
	told    string    // the reason that was told
	holder  int64     // whose fence was told
	waiting bool      // that others hold the lock was told
}

// held is [lockclient.Options].OnWait.
func (w *wait) held(held *lockclient.HeldError) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard, w.reason = time.Now(), ""
	if w.isLive() {
		place := ""
		if held.Position > 0 {
			place = fmt.Sprintf(", place %d of %d", held.Position, held.Waiting)
		}
		w.live(fmt.Sprintf("waiting for %s (%v%s): held by %s", w.name, w.age(), place, holders(held.Holders)))
		return
	}
	fence := int64(0)
	if len(held.Holders) > 0 {
		fence = held.Holders[0].Fence
	}
	if !w.waiting || fence != w.holder || w.told != "" {
		w.waiting, w.holder, w.told = true, fence, ""
		w.notice("waiting", fmt.Sprintf("waiting for %s: held by %s", w.name, holders(held.Holders)), "lock", w.name, "holders", held.Holders)
	}
}

// unavailable is [lockclient.Options].OnUnavailable.
func (w *wait) unavailable(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reason = why(err)
	w.tell()
}

// silence is called from time to time: a try that hangs says nothing by itself.
func (w *wait) silence() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reason == "" && w.heard.IsZero() {
		w.reason = "no answer yet"
	}
	w.tell()
}

// tell says that the coordinator does not answer, when it has not for long enough.
func (w *wait) tell() {
	since := w.began
	if w.heard.After(since) {
		since = w.heard
	}
	switch {
	case w.reason == "" || time.Since(since) < patience:
	case w.isLive():
		w.live(fmt.Sprintf("coordinator unreachable, trying (%v): %s", w.age(), w.reason))
	case w.reason != w.told:
		w.told = w.reason
		w.notice("unavailable", "coordinator unreachable, trying: "+w.reason, "lock", w.name, "reason", w.reason)
	}
}

func (w *wait) age() time.Duration { return time.Since(w.began).Round(time.Second) }

// slow tells of a coordinator that keeps a command waiting, until the command has its answer.
func (s *streams) slow(what string) (answered func()) {
	var once sync.Once
	return s.watch(func() {
		once.Do(func() {
			s.notice("unavailable", "coordinator unreachable, trying: no answer yet to "+what, "reason", "no answer yet")
		})
	})
}
