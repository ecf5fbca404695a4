package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// patience is the time without an answer after which a coordinator is reported as unreachable.
const patience = 2 * time.Second

// take acquires the lock; with --no-wait it does not join the queue. Meanwhile it shows the holders, and why the
// coordinator does not answer.
func (t *taking) take(ctx context.Context, client *lockclient.Client, opts lockclient.Options, conn *connection, s *streams) (*lockclient.Lease, error) {
	w := &wait{streams: s, name: t.Name, began: time.Now()}
	opts.OnWait, opts.OnUnavailable = w.held, w.unavailable
	if t.Verbose {
		w.polls = t.polls
		opts.OnPolling = func(reason error) { w.polling(message(reason)) }
	}
	defer s.watch(w.silence)()
	switch {
	case t.set != nil && t.NoWait:
		opts.Capacity, opts.Permits = 0, 0
		return client.TryAcquireAll(ctx, t.set, opts)
	case t.set != nil:
		opts.Capacity, opts.Permits = 0, 0
		lease, err := client.AcquireAll(ctx, t.set, opts)
		go t.stopNotifier(ctx, conn, s)
		return lease, err
	case t.NoWait:
		return client.TryAcquire(ctx, t.Name, opts)
	}
	lease, err := client.Acquire(ctx, t.Name, opts)
	go t.stopNotifier(ctx, conn, s) // closing the client, or another call, waits for it
	return lease, err
}

// watch calls silence after [patience] and then each second, until stop is called. It draws the live line again when
// the terminal's width changes.
func (s *streams) watch(silence func()) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		changed := make(chan os.Signal, 1)
		resized(changed)
		defer signal.Stop(changed)
		timer := time.NewTimer(patience)
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
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

// A wait shows the progress of one acquire: a live line on a terminal, and otherwise a notice at each change.
type wait struct {
	*streams
	name  string
	began time.Time

	mu      sync.Mutex
	heard   time.Time         // of the last answer; zero: none yet
	reason  string            // why the last attempt had no answer
	told    string            // the reason in the last notice
	holder  int64             // the holder's fence in the last notice
	waiting bool              // a notice that others hold the lock was written
	frozen  lockclient.Freeze // in the last notice; the zero Freeze: the lock was not frozen
	limit   string            // in the last notice; empty: none
	polls   string            // why the wait polls, to be said in a notice when it begins
}

// held is [lockclient.Options].OnWait.
func (w *wait) held(held *lockclient.HeldError) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard, w.reason = time.Now(), ""
	if w.polls != "" {
		w.polling(w.polls)
		w.polls = ""
	}
	if w.isLive() {
		place := ""
		if held.Position > 0 {
			place = fmt.Sprintf(", place %d of %d", held.Position, held.Waiting)
		}
		w.live(fmt.Sprintf("waiting for %s (%v%s): %s", w.name, w.age(), place, reasonOf(held)))
		return
	}
	if f := held.Frozen; f != nil {
		if !w.waiting || w.told != "" || w.frozen != *f {
			w.waiting, w.frozen, w.told = true, *f, ""
			w.notice("waiting", fmt.Sprintf("waiting for %s: %s", w.name, frozen(f)), "lock", w.name, "holders", held.Holders, "freeze", wireFreeze(f))
		}
		return
	}
	if l := held.Limit; l != nil {
		if !w.waiting || w.told != "" || w.limit != l.Limit {
			w.waiting, w.limit, w.told = true, l.Limit, ""
			w.notice("waiting", fmt.Sprintf("waiting for %s: %s", w.name, printable(l.Detail)), "lock", w.name, "limit", l.Limit, "value", l.Value, "prefix", l.Prefix)
		}
		return
	}
	fence := int64(0)
	if len(held.Holders) > 0 {
		fence = held.Holders[0].Fence
	}
	if !w.waiting || fence != w.holder || w.told != "" || w.limit != "" || w.frozen != (lockclient.Freeze{}) {
		w.waiting, w.holder, w.told, w.limit, w.frozen = true, fence, "", "", lockclient.Freeze{}
		w.notice("waiting", fmt.Sprintf("waiting for %s: held by %s", w.name, holders(held.Holders)), "lock", w.name, "holders", held.Holders)
	}
}

// reasonOf says for what a waiter waits.
func reasonOf(held *lockclient.HeldError) string {
	switch {
	case held.Frozen != nil:
		return frozen(held.Frozen)
	case held.Limit != nil:
		return printable(held.Limit.Detail)
	}
	return "held by " + holders(held.Holders)
}

// polling says why the wait polls.
func (w *wait) polling(reason string) {
	w.notice("polling", fmt.Sprintf("waiting for %s by polling: %s", w.name, reason), "lock", w.name, "reason", reason)
}

// unavailable is [lockclient.Options].OnUnavailable.
func (w *wait) unavailable(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reason = why(err)
	w.tell()
}

// silence is called by [streams.watch]: an attempt that hangs calls neither held nor unavailable.
func (w *wait) silence() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reason == "" && w.heard.IsZero() {
		w.reason = "no answer yet"
	}
	w.tell()
}

// tell reports a coordinator that has not answered for [patience].
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

// ask sends a command's only request, and reports a coordinator that does not answer it soon.
func ask[T any](ctx context.Context, s *streams, conn *connection, what string, send func(*lockclient.Client) (T, error)) (answer T, err error) {
	client, err := conn.client(ctx)
	if err != nil {
		return answer, err
	}
	defer s.slow(what)()
	return send(client)
}

// slow reports, once, a coordinator that does not answer a command for [patience], until answered is called.
func (s *streams) slow(what string) (answered func()) {
	var once sync.Once
	return s.watch(func() {
		once.Do(func() {
			s.notice("unavailable", "coordinator unreachable, trying: no answer yet to "+what, "reason", "no answer yet")
		})
	})
}
