package stream

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// fakeQueues are the queues of waiters.
type fakeQueues struct {
	sent []string // "queue: message"
	err  error    // instead of the request
}

func (f *fakeQueues) Notify(_ context.Context, queue string, message []byte) error {
	if f.err != nil {
		return f.err
	}
	f.sent = append(f.sent, queue+": "+string(message))
	return nil
}

// polls lets a caller poll for the lock a, to be notified by its own queue. It reports whether the caller holds the lock.
func (w *tasks) polls(secret string) bool {
	w.t.Helper()
	_, err := w.coordinator.Acquire(w.t.Context(), lock.AcquireRequest{
		Lock: "a", Secret: secret, Owner: secret, TTL: time.Minute, Capacity: 1, Permits: 1, Wait: time.Hour,
		Token: lock.Token{Kind: lock.NotifyToken, Text: `{"queue":"q","id":"` + secret + `-1"}`},
	})
	if err != nil && !errors.Is(err, lock.ErrLockHeld) {
		w.t.Fatal(err)
	}
	return err == nil
}

func (w *tasks) wantSent(what string, n int) {
	w.t.Helper()
	const message = `q: {"type":"granted","lock":"a","fence":1800000000000001,"expires_at":"2027-01-15T08:00:10.000Z","id":"two-1"}`
	for _, sent := range w.queues.sent {
		if sent != message {
			w.t.Errorf("%s: sent %s, want %s", what, sent, message)
		}
	}
	if len(w.queues.sent) != n || len(w.fake.told) != 0 {
		w.t.Errorf("%s: sent %v, told %v, want %d messages", what, w.queues.sent, w.fake.told, n)
	}
}

// The function that frees a lock notifies the next waiter before it answers. Nothing is stored of that, and the waiter must claim its grant.
func TestNotifiedAtOnce(t *testing.T) {
	w := newTasks(t)
	s := w.atOnce()
	if !w.polls("one") || w.polls("two") {
		t.Fatal("the first of two does not hold the lock alone")
	}
	w.wantSent("before the release", 0)
	s.causes, s.reads = nil, 0
	w.release("one")
	w.wantSent("the release", 1)
	if got := fmt.Sprint(s.causes, s.reads); got != "[release release] 0" {
		t.Errorf("writes and reads: %s", got)
	}
	w.deliver(1) // nobody knows whether the message arrived
	w.wantSent("the stream, before the claim", 2)
	again := storedA(w)
	if !w.polls("two") {
		t.Fatal("the grant cannot be claimed")
	}
	if failed := w.consumer.Consume(t.Context(), []Write{{Write: lock.Write{Lock: "a", After: again}, Sequence: "1"}}); len(failed) > 0 {
		t.Errorf("failed %v", failed)
	}
	w.deliver(3)
	w.wantSent("the stream, after the claim", 2)
	for _, h := range storedA(w).Holders {
		if !h.Tokens.Empty() || h.Unclaimed || h.Attempted || h.Told || h.Known {
			t.Errorf("claimed %+v", h)
		}
	}
	w.release("two")
	w.deliver(3)
	w.wantSent("the end", 2)
}

// The stream's consumer notifies a waiter whose lock was freed by a client without callbacks.
func TestNotifiedByTheStream(t *testing.T) {
	w := newTasks(t)
	w.polls("one")
	w.polls("two")
	w.deliver(3)
	w.release("one")
	w.wantSent("the release", 0)
	w.deliver(3)
	w.wantSent("the stream", 1)
	w.now = w.now.Add(time.Hour) // it did not claim
	if failed := w.consumer.Consume(t.Context(), []Write{{Write: lock.Write{Lock: "a", After: storedA(w)}, Sequence: "1"}}); len(failed) > 0 {
		t.Errorf("failed %v", failed)
	}
	w.wantSent("an hour later", 1)
}

// A message that cannot be sent ends no lease, fails no release, and is repeated only where that can help.
func TestNotificationsThatFail(t *testing.T) {
	for name, test := range map[string]struct {
		err   error
		again int // messages once the queue works
	}{
		"the queue was deleted": {fmt.Errorf("%w: QueueDoesNotExist", ErrUndeliverable), 0},
		"SQS does not answer":   {errReset, 1},
	} {
		w := newTasks(t)
		w.atOnce()
		w.polls("one")
		w.polls("two")
		w.deliver(3)
		w.queues.err = test.err
		w.release("one")
		w.deliver(1)
		w.queues.err = nil
		w.deliver(3)
		w.wantSent(name, test.again)
		if w.holder() != "two" || !w.polls("two") {
			t.Errorf("%s: held by %q", name, w.holder())
		}
	}
}

// A token that this version did not write is skipped.
func TestNotificationWithoutAQueue(t *testing.T) {
	w := newTasks(t)
	w.polls("one")
	w.polls("two")
	w.release("one")
	for i := range w.writes {
		for k, h := range w.writes[i].After.Holders {
			if !h.Tokens.Empty() {
				h.Tokens[0].Text = "nonsense"
				w.writes[i].After.Holders[k] = h
			}
		}
	}
	w.deliver(1)
	w.wantSent("nonsense", 0)
	if len(w.writes) > 0 {
		t.Errorf("%d writes are delivered again", len(w.writes))
	}
	w.consumer.Notifications = nil
	w.consumer.Callbacks = w.fake
	if failed := w.consumer.Consume(t.Context(), []Write{{Write: lock.Write{Lock: "a", After: storedA(w)}, Sequence: "1"}}); len(failed) > 0 {
		t.Errorf("failed %v", failed)
	}
}

// A place of a notified waiter that ends without a grant, and a grant that nobody claims, fail no task.
func TestNotifiedWaitsThatEnd(t *testing.T) {
	w := newTasks(t)
	w.atOnce()
	for _, name := range []string{"one", "two", "three"} {
		w.polls(name)
	}
	w.release("three")
	w.release("one")
	w.now = w.now.Add(lock.ClaimTime + lock.DefaultSkew)
	w.force()
	calls := 0
	w.fake.before = func(string) error { calls++; return nil }
	w.deliver(3)
	if w.holder() != "" || calls != 0 {
		t.Errorf("held by %q, %d callbacks", w.holder(), calls)
	}
}
