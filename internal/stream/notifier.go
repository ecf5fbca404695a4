package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// endedEarly is the cause of FailLost.
const endedEarly = "the lease ended before its callback was sent"

// AtOnceLimit bounds the time that [AtOnce] adds to a request.
const AtOnceLimit = time.Second

// AtOnce returns a [lock.Config.Granted] that sends the callbacks of a write within the request that made it, for at most
// [AtOnceLimit]. What fails or takes longer, and grants to tasks of other kinds than those of callbacks, are left to the consumer of
// the stream. metrics is the CloudWatch namespace of the
// metrics in log records; empty: no metrics.
func AtOnce(callbacks ByKind, notifications Notifications, log *slog.Logger, metrics string) func(context.Context, *lock.Coordinator, []lock.Write) {
	return func(ctx context.Context, c *lock.Coordinator, writes []lock.Write) {
		ctx, cancel := context.WithTimeout(ctx, AtOnceLimit)
		defer cancel()
		n := notifier{callbacks: callbacks, notifications: notifications, coordinator: c, reporter: reporter{log, metrics, nil}, atOnce: true}
		seen := map[string]*lock.Record{} // as the last write of each lock left it
		for _, w := range writes {
			seen[w.Lock] = &w.After
		}
		for _, w := range writes {
			for _, ch := range lock.CallbacksDue(w.Before, w.After) {
				if callbacks.leaves(ch.Lease.Tokens) {
					continue
				}
				err := catchPanic(func() error { return n.deliver(ctx, w.Lock, ch.Key, ch.Lease, seen[w.Lock]) })
				if err != nil { // the other grants keep their first attempts for the stream's consumer
					log.LogAttrs(ctx, slog.LevelWarn, "callbacks of a write are left to the stream", slog.String("lock", w.Lock), slog.Any("error", err))
					return
				}
			}
		}
	}
}

// A notifier delivers callbacks.
type notifier struct {
	callbacks     Callbacks
	notifications Notifications
	coordinator   *lock.Coordinator
	atOnce        bool // it works within the request that made the grant: what it cannot do, the stream's consumer does
	reporter
}

func (c *Consumer) notifier() notifier {
	return notifier{callbacks: c.Callbacks, notifications: c.Notifications, coordinator: c.Coordinator, reporter: c.reporter()}
}

// deliver sends the callbacks of a grant, one for each of its tokens, unless that was done before. seen is the lock's record, if
// it was read or written a moment ago, else the zero Record; deliver sets it to the record as it leaves it. After an error,
// deliver must be retried. A grant with a token of a kind that this version does not know stays as it is, with [ErrUnknownKind].
//
// It first stores under the lease and its fence that a callback is about to be attempted. So if a task is gone:
//
//   - On the first attempt, with the only token there ever was, no callback can have been delivered: the task has ended. Its
//     lease is ended at once, unless another attempt has begun since, or another caller has asked for the lease.
//   - On a later attempt, an earlier one may have succeeded and its reply been lost, or this process may have died after it.
//     The task may work under the lock, so the lease stays; its TTL, or the end of its execution, ends it. The same holds for
//     a task that was retried and so has several tokens: each gets a callback, and it is unknown which token is the live one.
//
// Afterwards it stores that every callback was answered, so that nobody sends them again. A crash before the attempt is stored
// makes the next attempt a first one; a crash after that, a later one, which may repeat a callback that was delivered. So a
// live task never loses its lock, and the lock of a dead task stays for a TTL at most.
func (n notifier) deliver(ctx context.Context, name string, key lock.LeaseKey, l lock.Lease, seen *lock.Record) error {
	attrs := []slog.Attr{slog.String("lock", name), slog.Int64("fence", l.Fence), slog.String("owner", l.Owner)}
	ref := lock.GrantRef{Lock: name, Key: key, Fence: l.Fence}
	if !l.Tokens.OfTask() {
		return n.hint(ctx, ref, l)
	}
	if kinds, ok := n.callbacks.(ByKind); ok {
		if err := kinds.unknown(l.Tokens); err != nil { // nothing is stored, so that the newer version's attempt is the first
			n.log.LogAttrs(ctx, slog.LevelWarn, "callback of a grant is left to a newer version", append(attrs, slog.Any("error", err))...)
			return err
		}
	}
	attempt, err := n.coordinator.MarkAttempt(ctx, ref, l.Tokens, *seen)
	switch {
	case errors.Is(err, lock.ErrTold), errors.Is(err, lock.ErrSuperseded): // the write that added a token has its own job for all of them
		return nil
	case errors.Is(err, lock.ErrLeaseLost) && n.atOnce:
		return nil
	case errors.Is(err, lock.ErrLeaseLost):
		return n.fail(ctx, name, l.Tokens, FailLost, endedEarly)
	case err != nil:
		n.failed(ctx, "callback of a grant was not delivered", err, attrs...)
		return err
	}
	*seen = attempt.Seen
	gone, err := n.answer(ctx, ref, l, append(attrs, slog.Bool("first", attempt.First)))
	if attempt.First && gone {
		// If EndTask fails, a retry is not a first attempt: the lease's TTL ends it.
		if err := n.coordinator.EndTask(ctx, ref, l, "task gone"); err != nil {
			n.failed(ctx, "lease of a dead task was not ended", err, attrs...)
		}
		return err
	}
	if err != nil {
		return err
	}
	if *seen, err = n.coordinator.MarkTold(ctx, ref, l.Tokens, *seen); err != nil { // a repetition ends nothing
		n.log.LogAttrs(ctx, slog.LevelWarn, "callback of a grant may be repeated", append(attrs, slog.Any("error", err))...)
	}
	return nil
}

// answer sends the callbacks of a grant. gone reports whether no task uses the lease: its only task cannot get a callback, or was told that a set's lease
// is lost. Of a set it first reads the leases of the other locks: one may have been forced out, or have expired, since the grant.
func (n notifier) answer(ctx context.Context, ref lock.GrantRef, l lock.Lease, attrs []slog.Attr) (gone bool, failed error) {
	if l.Set == "" {
		return n.succeed(ctx, l.Tokens, output(ref.Lock, l), attrs)
	}
	leases, err := n.coordinator.LeasesOfSet(ctx, l.Set, ref.Key)
	switch {
	case errors.Is(err, lock.ErrLeaseLost):
		n.log.LogAttrs(ctx, slog.LevelWarn, "a lock of the set was lost before the callback of its grant", attrs...)
		return true, n.fail(ctx, ref.Lock, l.Tokens, FailLost, endedEarly)
	case err != nil:
		n.failed(ctx, "callback of a grant was not delivered", err, attrs...)
		return false, err
	}
	return n.succeed(ctx, l.Tokens, setOutput(l, leases), attrs)
}

// succeed sends the callbacks of a grant. gone reports whether its only task cannot get one. An error is that of a callback of which
// it is unknown whether it was delivered.
func (n notifier) succeed(ctx context.Context, all lock.Tokens, output []byte, attrs []slog.Attr) (gone bool, failed error) {
	tokens := all.List()
	for _, token := range tokens {
		err := n.callbacks.Succeed(ctx, token, output)
		withError := append(slices.Clone(attrs), slog.Any("error", err))
		switch {
		case err == nil:
			n.log.LogAttrs(ctx, slog.LevelInfo, "callback of a grant was delivered", attrs...)
		case errors.Is(err, ErrTaskGone):
			gone = len(tokens) == 1
			n.log.LogAttrs(ctx, slog.LevelInfo, "no task waits with this token", withError...)
		case errors.Is(err, ErrUndeliverable): // the task can never get its callback, as if it were gone
			gone = len(tokens) == 1
			n.fault(ctx, CallbackUndeliverable, "callback of a grant cannot be delivered", withError...)
		default:
			failed = err
			n.failed(ctx, "callback of a grant was not delivered", err, attrs...)
		}
	}
	return gone, failed
}

// hint notifies a waiter that polls of its grant, as long as the waiter has not claimed it. Nothing is stored of that: a repetition
// is harmless, and the waiter polls all the same, though rarely. A queue that does not exist any more, or is not allowed, costs
// the waiter its hint only.
func (n notifier) hint(ctx context.Context, ref lock.GrantRef, l lock.Lease) error {
	attrs := []slog.Attr{slog.String("lock", ref.Lock), slog.Int64("fence", l.Fence), slog.String("owner", l.Owner)}
	if n.notifications == nil {
		return nil
	}
	if !n.atOnce { // the waiter may have claimed its grant since it was made
		if due, err := n.coordinator.Unclaimed(ctx, ref); err != nil || !due {
			return err
		}
	}
	for _, token := range l.Tokens.List() {
		var to wire.Notify
		err := json.Unmarshal([]byte(token.Text), &to)
		if err != nil {
			err = fmt.Errorf("%w: its token is not valid: %w", ErrUndeliverable, err)
		} else {
			err = n.notifications.Notify(ctx, to.Queue, notification(ref.Lock, l, to.ID))
		}
		switch {
		case err == nil:
			n.log.LogAttrs(ctx, slog.LevelInfo, "waiter was notified of its grant", attrs...)
		case errors.Is(err, ErrUndeliverable):
			n.log.LogAttrs(ctx, slog.LevelWarn, "waiter cannot be notified of its grant", append(attrs, slog.Any("error", err))...)
		default:
			n.log.LogAttrs(ctx, slog.LevelWarn, "waiter was not notified of its grant", append(attrs, slog.Any("error", err))...)
			return err
		}
	}
	return nil
}

// notification is the message of a grant to a waiter that polls.
func notification(name string, l lock.Lease, id string) []byte {
	return mustJSON(wire.Notification{Type: wire.NotificationGranted, Lock: name, Fence: l.Fence, ExpiresAt: wire.At(l.ExpiresAt), ID: id})
}

// failed logs what will be tried again. Where the stream's consumer does that, it is no fault yet.
func (n notifier) failed(ctx context.Context, message string, err error, attrs ...slog.Attr) {
	attrs = append(slices.Clone(attrs), slog.Any("error", err))
	if n.atOnce {
		n.log.LogAttrs(ctx, slog.LevelWarn, message, attrs...)
		return
	}
	n.fault(ctx, CallbackFailed, message, attrs...)
}

// fail ends the waits of tokens with an error. After an error of its own, it must be retried.
func (n notifier) fail(ctx context.Context, name string, tokens lock.Tokens, code, cause string) error {
	var failed error
	for _, token := range tokens.List() {
		switch err := n.callbacks.Fail(ctx, token, code, cause); {
		case err == nil, errors.Is(err, ErrTaskGone):
		case errors.Is(err, ErrUndeliverable):
			n.fault(ctx, CallbackUndeliverable, "callback of an ended wait cannot be delivered", slog.String("lock", name), slog.Any("error", err))
		case errors.Is(err, ErrUnknownKind):
			failed = err
			n.log.LogAttrs(ctx, slog.LevelWarn, "callback of an ended wait is left to a newer version", slog.String("lock", name), slog.Any("error", err))
		default:
			failed = err
			n.fault(ctx, CallbackFailed, "callback of an ended wait was not delivered", slog.String("lock", name), slog.Any("error", err))
		}
	}
	return failed
}

// output is the result of a task's wait for one lock: its lease, as JSON.
func output(name string, l lock.Lease) []byte {
	return mustJSON(wire.Granted{Lock: name, Fence: l.Fence, Permits: l.Permits, SetGranted: granted(l, []string{name}, []lock.Lease{l})})
}

// setOutput is the result of a task's wait for a set: its leases, as JSON. l is the first of them.
func setOutput(l lock.Lease, leases []lock.Lease) []byte {
	return mustJSON(granted(l, lock.SetNames(l.Set), leases))
}

func granted(first lock.Lease, names []string, leases []lock.Lease) wire.SetGranted {
	out := wire.SetGranted{Owner: first.Owner, AcquiredAt: wire.At(first.AcquiredAt), TTL: first.TTL, Waited: first.Waited(), Traceparent: first.Trace}
	expires, ends := first.ExpiresAt, int64(0)
	for i, l := range leases {
		out.Locks = append(out.Locks, wire.GrantedLock{Lock: names[i], Fence: l.Fence, Permits: l.Permits})
		if expires = min(expires, l.ExpiresAt); l.EndsAt > 0 && (ends == 0 || l.EndsAt < ends) {
			ends = l.EndsAt
		}
	}
	out.ExpiresAt, out.EndsAt = wire.At(expires), wire.AtOrNone(ends)
	if json.Valid([]byte(first.Metadata)) {
		out.Metadata = []byte(first.Metadata)
	}
	return out
}

func mustJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Errorf("stream: %w", err)) // cannot happen: plain types
	}
	return data
}
