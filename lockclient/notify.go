package lockclient

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/chance"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A Notifier lets the waits of a [Client] be notified of their grants by messages, so that they need not poll. Package notify has one
// over SQS. A Notifier must be safe for concurrent use.
type Notifier interface {
	// Listen begins to listen for the messages of one wait. An error means that the wait is not notified, and polls.
	Listen(ctx context.Context) (Listener, error)
	// Close ends all listening, and removes what Listen has made. [Client.Close] calls it. It may be called more than once.
	Close(ctx context.Context) error
}

// A Listener hears the messages of one wait.
type Listener interface {
	// Address returns where the messages of this wait are to be sent, and the id that they must carry. It may change. An error means
	// that no more messages will be heard.
	Address() (queue, id string, err error)
	// Wake returns a channel that gets a value after a message has arrived, and after the result of Address has changed.
	Wake() <-chan struct{}
	// Stop ends listening.
	Stop()
}

const (
	keepAliveEvery   = time.Minute      // the shortest interval for which a place is kept 2.5 times
	keepAliveSpacing = 20 * time.Second // between two keep-alives of a client, so that it makes at most three a minute
	pollsFor         = 5 * time.Minute  // how long the waits of a client poll after a coordinator has refused to notify one
)

// A notifiedWait is the state of an acquisition that waits to be notified.
type notifiedWait struct {
	listener Listener
	place    time.Duration // for how long the coordinator keeps the place after it was last extended
	kept     time.Time     // until when the place is kept at least
	secret   string        // of the lease that has the place
	awaited  int64         // the highest fencing token of the holders whose expiry was awaited
}

// notifiedWaits is what the notified waits of a client have in common.
type notifiedWaits struct {
	notifier Notifier // nil: waits poll

	mu      sync.Mutex
	waits   int                         // the number of waits that are notified
	next    time.Time                   // when the next keep-alive may be sent
	asked   map[*notifiedWait]time.Time // the waits that have asked for their turn, and when they need it at the latest
	refusal error                       // the coordinator's last refusal
	until   time.Time                   // when to ask the coordinator again after it
}

// join adds a wait, or returns why waits are not notified at present.
func (t *notifiedWaits) join() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refusal != nil && time.Now().Before(t.until) {
		return t.refusal
	}
	t.waits++
	return nil
}

func (t *notifiedWaits) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waits--
}

func (t *notifiedWaits) refused(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refusal, t.until = err, time.Now().Add(pollsFor)
}

// place returns for how long a place is to be kept: 2.5 intervals, which are a minute for up to three waits, and for more waits such
// that all together need three keep-alives a minute.
func (t *notifiedWaits) place() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	interval := max(keepAliveEvery, time.Duration(t.waits)*keepAliveSpacing)
	return min(interval*5/2, wire.MaxTokenWait)
}

// turn returns 0 if w may send its request now, and otherwise when to ask again. Of those that have asked the one with the earliest
// time latest is first, and all others ahead of those whose request is not urgent. From latest on a request is sent in any case.
func (t *notifiedWaits) turn(w *notifiedWait, now, latest time.Time, urgent bool) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !urgent {
		latest = latest.Add(wire.MaxTokenWait)
	}
	t.asked[w] = latest
	switch {
	case !now.Before(latest):
	case now.Before(t.next):
		return min(t.next.Sub(now), latest.Sub(now))
	default:
		for _, other := range t.asked {
			if other.Before(latest) {
				return time.Second // the other has its turn now
			}
		}
	}
	delete(t.asked, w)
	t.next = now.Add(keepAliveSpacing)
	return 0
}

// unask is called when a wait that has asked for its turn needs none any more.
func (t *notifiedWaits) unask(w *notifiedWait) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.asked, w)
}

// rest waits after a failed try until the next one: for pause, or, if the wait is notified, until a message arrives or the place has to
// be kept. It returns ctx's error if ctx has ended.
func (a *acquisition) rest(ctx context.Context, failed error, pause time.Duration) error {
	held, ok := errors.AsType[*HeldError](failed)
	switch {
	case !ok || held.Position == 0 || a.onlyPolls:
		return a.pause(ctx, pause)
	case a.notified != nil:
		err := a.await(ctx, held)
		a.readdress()
		return err
	}
	if err := a.listen(ctx); err != nil {
		a.poll(err)
		return a.pause(ctx, pause)
	}
	return ctx.Err() // the next try says where to send the message, and learns of a grant that was made meanwhile
}

// listen makes the wait one that is notified.
func (a *acquisition) listen(ctx context.Context) error {
	t := &a.client.notifiedWaits
	if err := t.join(); err != nil {
		return err
	}
	listenCtx, cancel := context.WithTimeout(ctx, a.client.timeout)
	defer cancel()
	listener, err := t.notifier.Listen(listenCtx)
	if err != nil {
		t.leave()
		return err
	}
	a.notified = &notifiedWait{listener: listener}
	a.polling = a.request.Wait
	a.readdress()
	return nil
}

// readdress sets what the next try asks for.
func (a *acquisition) readdress() {
	queue, id, err := a.notified.listener.Address()
	if err != nil {
		a.poll(err)
		return
	}
	a.notified.place = a.client.notifiedWaits.place()
	a.request.Notify, a.request.Wait = &wire.Notify{Queue: queue, ID: id}, a.notified.place.Milliseconds()
}

// poll makes the wait one that polls until its end, and says why.
func (a *acquisition) poll(reason error) {
	if a.notified != nil {
		a.stopListening()
		a.request.Notify, a.request.Wait = nil, a.polling
	}
	a.onlyPolls = true
	if a.opts.OnPolling != nil {
		a.opts.OnPolling(reason)
	}
}

func (a *acquisition) stopListening() {
	if a.notified == nil {
		return
	}
	a.notified.listener.Stop()
	a.notified = nil
	a.client.notifiedWaits.leave()
}

// notNotifiedHere reports whether a try was refused because of its address: the coordinator notifies nobody, or not this queue.
func (a *acquisition) notNotifiedHere(err error) bool {
	refused, ok := errors.AsType[*RefusedError](err)
	return ok && a.notified != nil && (wire.Code(refused.Code) == wire.NotifyRefused || strings.HasPrefix(refused.Field, "notify"))
}

// pollHere makes the wait one that polls after [acquisition.notNotifiedHere], and so the later waits of the client for some time.
func (a *acquisition) pollHere(err error) {
	reason := fmt.Errorf("the coordinator sends it no notifications: %w", err)
	a.client.notifiedWaits.refused(reason)
	a.poll(reason)
}

// extended notes that the coordinator has answered a try that was sent at a time: it extends a place of which half is over. Close to
// the half it is not certain.
func (t *notifiedWait) extended(sent time.Time, secret string) {
	if t.kept.Sub(sent) < t.place*49/100 || t.secret != secret {
		t.kept, t.secret = sent.Add(t.place), secret
	}
}

// await waits until the next try of a wait that is notified. Without a message that is the keep-alive, as soon as it extends the place, or
// earlier, once for each holder, at the holder's expiry: the next try then ends the expired lease, should nothing else do that. Both
// have their turns among the requests of the client's other waits, keep-alives first.
func (a *acquisition) await(ctx context.Context, held *HeldError) error {
	t, now := a.notified, time.Now()
	t.extended(a.sent, a.request.Lease)
	due, latest := t.kept.Add(-t.place*48/100), t.kept.Add(-t.place/10)
	first := due
	if fence := highestFence(held.Holders); fence > t.awaited {
		if expiry := now.Add(held.RetryAfter + chance.N(herdSpread)); expiry.Before(due) {
			first, t.awaited = expiry, fence
		}
	}
	timer := time.NewTimer(first.Sub(now))
	defer timer.Stop()
	defer a.client.notifiedWaits.unask(t)
	a.client.await(a, true)
	defer a.client.await(a, false)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.listener.Wake():
			return nil
		case <-a.wake:
			return nil
		case <-timer.C:
		}
		now := time.Now()
		again := a.client.notifiedWaits.turn(t, now, latest, !now.Before(due))
		if again == 0 {
			return nil
		}
		timer.Reset(again)
	}
}

func highestFence(holders []Holder) (fence int64) {
	for _, h := range holders {
		fence = max(fence, h.Fence)
	}
	return fence
}
