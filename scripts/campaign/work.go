package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-lock/holdfast/internal/history"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// cycle acquires a lock, or several at once, holds it, and releases it or leaves it.
func (w *worker) cycle(ctx context.Context) {
	name, opts := w.lock()
	wants := []lockclient.Want{{Lock: name, Capacity: opts.Capacity, Permits: opts.Permits}}
	if w.cfg.Sets && w.random.IntN(6) == 0 {
		wants = w.several(wants)
	}
	opts.ManualRenew = w.random.IntN(3) == 0
	wait := w.random.IntN(2) == 1
	if wait {
		opts.Wait = time.Duration(200+w.random.IntN(4000)) * time.Millisecond
	}
	lease, err := w.acquire(ctx, wants, opts, wait)
	if err != nil {
		w.rec.refused(w.name, err)
		w.rest(ctx, 30*time.Millisecond)
		return
	}
	b := w.believe(lease, wants)
	w.hold(ctx, b, opts)
	if len(wants) == 1 && opts.Permits == wire.ModeCapacity && w.random.IntN(3) == 0 {
		b = w.downgrade(ctx, b, wants)
		w.hold(ctx, b, opts)
	}
	switch n := w.random.IntN(100); {
	case n < 6 && opts.ManualRenew: // it expires by itself
		b.untilOver(ctx)
		return
	case n < 8:
		_, _ = w.client.ForceRelease(ctx, name, "campaign", 0)
	case n < 10:
		_, _ = w.client.ForceRelease(ctx, name, "campaign", lease.Fences()[name])
	}
	b.end()
	err = lease.Release(ctx)
	w.rec.refused(w.name, err)
	if err == nil && len(wants) == 1 && w.random.IntN(20) == 0 {
		w.rec.refused(w.name, w.client.Release(ctx, name, lease.Secret()))
	}
}

// several adds one or two other locks, if it finds them.
func (w *worker) several(wants []lockclient.Want) []lockclient.Want {
	for range 1 + w.random.IntN(2) {
		name, opts := w.lock()
		if !slices.ContainsFunc(wants, func(other lockclient.Want) bool { return other.Lock == name }) {
			wants = append(wants, lockclient.Want{Lock: name, Capacity: opts.Capacity, Permits: opts.Permits})
		}
	}
	return wants
}

func (w *worker) acquire(ctx context.Context, wants []lockclient.Want, opts lockclient.Options, wait bool) (*lockclient.Lease, error) {
	if len(wants) > 1 {
		opts.Capacity, opts.Permits = 0, 0
		if wait {
			return w.client.AcquireAll(ctx, wants, opts)
		}
		return w.client.TryAcquireAll(ctx, wants, opts)
	}
	if opts.Capacity == wire.ModeCapacity {
		mode := lockclient.ModeRead
		if opts.Permits > 1 {
			mode = lockclient.ModeWrite
		}
		opts.Mode, opts.Capacity, opts.Permits = mode, 0, 0
	}
	if wait {
		return w.client.Acquire(ctx, wants[0].Lock, opts)
	}
	return w.client.TryAcquire(ctx, wants[0].Lock, opts)
}

// downgrade makes a reader of a writer. From the beginning of the request on, the client believes in one permit only.
func (w *worker) downgrade(ctx context.Context, b *belief, wants []lockclient.Want) *belief {
	if b.lease.Err() != nil {
		return b
	}
	b.end()
	wants = slices.Clone(wants)
	wants[0].Permits = 1
	next := w.believe(b.lease, wants)
	w.rec.refused(w.name, b.lease.Downgrade(ctx))
	next.update()
	return next
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

// A belief is the time in which a client takes itself for the holder, as it is recorded: an entry for each lock of the lease.
type belief struct {
	w       *worker
	lease   *lockclient.Lease
	number  int64 // of the first entry
	entries []history.Belief
}

// believe begins to record the belief in a lease that the client has just got.
func (w *worker) believe(lease *lockclient.Lease, wants []lockclient.Want) *belief {
	b := &belief{w: w, lease: lease, number: w.rec.next.Add(int64(len(wants)))}
	var names []string
	for _, want := range wants {
		names = append(names, want.Lock)
	}
	for _, want := range wants {
		b.entries = append(b.entries, history.Belief{
			Client: w.name, Lock: want.Lock, Lease: string(lock.SetKey(names, lease.Secret())), Fence: lease.Fences()[want.Lock],
			Permits: int64(want.Permits), Capacity: int64(want.Capacity), From: now(),
		})
	}
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
	if until > b.entries[0].Until {
		b.write(until)
	}
}

// end records that the client ends the belief now, if it did not end before.
func (b *belief) end() {
	at := now()
	if b.lease.Err() != nil {
		at = min(b.deadline(), now())
	}
	b.write(at)
}

// untilOver waits until the client's own clock ends the lease.
func (b *belief) untilOver(ctx context.Context) {
	for ctx.Err() == nil && b.lease.Err() == nil {
		b.w.rest(ctx, min(max(time.Until(b.lease.ExpiresAt()), 0)+time.Millisecond, 100*time.Millisecond))
	}
	b.end()
}

// write records until when the belief lasts.
func (b *belief) write(until int64) {
	for i := range b.entries {
		b.entries[i].Until = until
		entry := b.entries[i]
		b.w.rec.write(line{Number: b.number - int64(i), Belief: &entry})
	}
}

// guarded writes to the resources of the round's parent, which compare fencing tokens.
func (w *worker) guarded(ctx context.Context, b *belief) {
	for _, e := range b.entries {
		guardedWrite(ctx, w.parent, w.cfg.Parent, w.name, e.Lock, e.Fence)
	}
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
