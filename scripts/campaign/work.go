package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/holdfast-lock/holdfast/internal/history"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// cycle acquires a lock, holds it, and releases it or leaves it.
func (w *worker) cycle(ctx context.Context) {
	name, opts := w.lock()
	opts.ManualRenew = w.random.IntN(3) == 0
	var lease *lockclient.Lease
	var err error
	if w.random.IntN(2) == 0 {
		lease, err = w.client.TryAcquire(ctx, name, opts)
	} else {
		opts.Wait = time.Duration(200+w.random.IntN(4000)) * time.Millisecond
		lease, err = w.client.Acquire(ctx, name, opts)
	}
	if err != nil {
		w.rec.refused(w.name, err)
		w.rest(ctx, 30*time.Millisecond)
		return
	}
	b := w.believe(lease, opts)
	w.hold(ctx, b, opts)
	switch n := w.random.IntN(100); {
	case n < 6 && opts.ManualRenew: // it expires by itself
		b.untilOver(ctx)
		return
	case n < 8:
		_, _ = w.client.ForceRelease(ctx, name, "campaign", 0)
	case n < 10:
		_, _ = w.client.ForceRelease(ctx, name, "campaign", lease.Fence())
	}
	b.end()
	err = lease.Release(ctx)
	w.rec.refused(w.name, err)
	if err == nil && w.random.IntN(20) == 0 {
		w.rec.refused(w.name, w.client.Release(ctx, name, lease.Secret()))
	}
}

// hold uses the lock for a time, mostly a short one.
func (w *worker) hold(ctx context.Context, b *belief, opts lockclient.Options) {
	length := time.Duration(w.random.ExpFloat64() * float64(8*time.Millisecond))
	switch n := w.random.IntN(100); {
	case w.cfg.Long && n < 60:
		length = opts.TTL + time.Duration(w.random.Float64()*float64(opts.TTL))
	case n < 6:
		length = time.Duration(w.random.Float64() * float64(opts.TTL))
	case n < 8:
		length = opts.TTL + time.Duration(w.random.Float64()*float64(opts.TTL))
	}
	end := time.Now().Add(length)
	for ctx.Err() == nil {
		if w.random.IntN(3) == 0 && b.lease.Err() == nil {
			w.guarded(ctx, b)
		}
		left := time.Until(end)
		if left <= 0 || b.lease.Err() != nil {
			return
		}
		w.rest(ctx, min(left, 100*time.Millisecond))
		b.update()
		if opts.ManualRenew && w.random.IntN(4) == 0 {
			w.rec.refused(w.name, b.lease.Renew(ctx))
			b.update()
		}
	}
}

func (w *worker) rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// A belief is the time in which a client takes itself for the holder, as it is recorded.
type belief struct {
	w      *worker
	lease  *lockclient.Lease
	number int64
	entry  history.Belief
}

// believe begins to record the belief in a lease that the client has just got.
func (w *worker) believe(lease *lockclient.Lease, opts lockclient.Options) *belief {
	b := &belief{w: w, lease: lease, number: w.rec.next.Add(1), entry: history.Belief{
		Client: w.name, Lock: lease.Name(), Lease: string(lock.KeyOf(lease.Name(), lease.Secret())), Fence: lease.Fence(),
		Permits: int64(opts.Permits), Capacity: int64(opts.Capacity), From: now(),
	}}
	b.update()
	return b
}

// deadline is until when the client takes itself for the holder if nothing more happens.
func (b *belief) deadline() int64 { return now() + time.Until(b.lease.ExpiresAt()).Nanoseconds() }

// update records how long the belief lasts if the client does nothing more.
func (b *belief) update() {
	at := now()
	until := max(b.deadline(), at)
	if b.lease.Err() != nil { // told, or expired by the client's own clock
		until = min(b.deadline(), now())
	}
	if until > b.entry.Until {
		b.entry.Until = until
		b.write()
	}
}

// end records that the client ends the belief now, if it did not end before.
func (b *belief) end() {
	at := now()
	if b.lease.Err() != nil {
		at = min(b.deadline(), now())
	}
	b.entry.Until = at
	b.write()
}

// untilOver waits until the client's own clock ends the lease.
func (b *belief) untilOver(ctx context.Context) {
	for ctx.Err() == nil && b.lease.Err() == nil {
		b.w.rest(ctx, min(max(time.Until(b.lease.ExpiresAt()), 0)+time.Millisecond, 100*time.Millisecond))
	}
	b.end()
}

func (b *belief) write() {
	entry := b.entry
	b.w.rec.write(line{Number: b.number, Belief: &entry})
}

// guarded writes to the resource of the round's parent, which compares fencing tokens.
func (w *worker) guarded(ctx context.Context, b *belief) {
	guardedWrite(ctx, w.parent, w.cfg.Parent, w.name, b.entry.Lock, b.entry.Fence)
}

func guardedWrite(ctx context.Context, client *http.Client, parent, name, lockName string, fence int64) {
	q := url.Values{"client": {name}, "lock": {lockName}, "fence": {fmt.Sprint(fence)}}
	_, _ = get(ctx, client, parent+"/guard?"+q.Encode())
}

func get(ctx context.Context, client *http.Client, url string) (answer map[string]any, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read whole
	return answer, json.NewDecoder(resp.Body).Decode(&answer)
}

// task acquires with the token of a Step Functions task, waits for the callback as a state machine does, and releases the lock or leaves it.
func (w *worker) task(ctx context.Context) {
	name, opts := w.lock()
	secret, token := text(w), "task-"+text(w)
	body := fmt.Sprintf(`{"lease":%q,"owner":%q,"ttl_ms":%d,"task_token":%q,"wait_ms":20000,"capacity":%d,"permits":%d}`,
		secret, w.name, opts.TTL.Milliseconds(), token, max(opts.Capacity, 1), max(opts.Permits, 1))
	accepted := false
	for try := 0; try < 4 && !accepted && ctx.Err() == nil; try++ { // as a state machine retries the invocation
		resp, err := w.send(ctx, "acquire", name, body)
		accepted = err == nil && resp.Status == http.StatusOK
		if !accepted {
			w.rest(ctx, 100*time.Millisecond)
		}
	}
	if accepted {
		answer, err := get(ctx, w.parent, w.cfg.Parent+"/task?token="+url.QueryEscape(token))
		if err == nil && answer["status"] == "succeeded" && w.random.IntN(10) > 0 {
			w.rest(ctx, time.Duration(w.random.ExpFloat64()*float64(20*time.Millisecond)))
		}
	}
	for range 3 {
		resp, err := w.send(context.WithoutCancel(ctx), "release", name, fmt.Sprintf(`{"lease":%q}`, secret))
		if err == nil && resp.Status < http.StatusInternalServerError && resp.Status != http.StatusTooManyRequests {
			return
		}
	}
}

// send sends a request of a state machine.
func (w *worker) send(ctx context.Context, op, name, body string) (lockclient.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return w.tasks.RoundTrip(ctx, lockclient.Request{Op: op, Lock: name, Body: []byte(body)})
}

// text is a random text of the worker.
func text(w *worker) string {
	var b strings.Builder
	for range 3 {
		fmt.Fprintf(&b, "%016x", w.random.Uint64())
	}
	return b.String()
}
