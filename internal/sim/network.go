package sim

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/holdfast-lock/holdfast/internal/history"
	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// A link is the network between one client and the coordinators. It is the client's transport, and records each request as an operation.
type link struct {
	w      *world
	client string
	life   time.Duration // how long a lease that nobody uses may last; 0: the TTL that was asked for
	dead   bool          // the client crashed: it sends and gets nothing more; guarded by w.mu
	finder bool          // a lock that is held is no answer to judge: the acquire makes a coordinator look for an end that nothing told of
	cut    time.Time     // until when it is partitioned; guarded by w.mu
}

var errReset = errors.New("simulated: connection reset")

// serveTimeout is how long a coordinator works on a request.
const serveTimeout = 6 * time.Second

// RoundTrip implements [lockclient.Transport].
func (l *link) RoundTrip(ctx context.Context, r lockclient.Request) (lockclient.Response, error) {
	var f fields
	if err := json.Unmarshal(r.Body, &f); err != nil {
		panic(fmt.Errorf("sim: %w", err)) // the client's requests are JSON
	}
	d := l.diceOf(r.Op, f.Lease)
	if err := l.w.sleep(ctx, d.between(0, 50*time.Microsecond)); err != nil { // of requests that a client sends at the same moment, one is first
		return lockclient.Response{}, err
	}
	if wire.Op(r.Op).OfRules() {
		return l.changeRule(ctx, r, d)
	}
	op := l.begin(r, f)
	resp, err := l.exchange(ctx, r, op, d)
	l.end(op, resp, err)
	return resp, err
}

// isDead reports whether the client has crashed.
func (l *link) isDead() bool {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	return l.dead
}

// isCut reports whether nothing arrives.
func (l *link) isCut(d *dice) bool {
	if d.happens(Partition) {
		until := time.Now().Add(d.between(time.Second, 30*time.Second))
		l.w.mu.Lock()
		l.cut = until
		l.w.mu.Unlock()
	}
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	return l.dead || time.Now().Before(l.cut)
}

// exchange sends a request and waits for the answer. Copies of the request may arrive before or after that.
func (l *link) exchange(ctx context.Context, r lockclient.Request, op *request, d *dice) (lockclient.Response, error) {
	cut := l.isCut(d)
	if !cut && d.happens(Busy) && d.chance(0.5) {
		if err := l.w.sleep(ctx, d.travel()); err != nil {
			return lockclient.Response{}, err
		}
		return busy(), nil
	}
	answers := make(chan lockclient.Response, 1)
	if !cut && !d.happens(LostRequest) {
		l.w.deliver(d.another(), r, op, d.travel(), answers)
	}
	if !cut && d.happens(Duplicate) {
		l.w.deliver(d.another(), r, op, d.between(time.Millisecond, 15*time.Second), nil)
	}
	if !cut && d.happens(Late) {
		l.w.deliver(d.another(), r, op, d.between(2*time.Second, 15*time.Second), nil)
	}
	patience := time.NewTimer(time.Hour)
	if d.chance(0.3) { // what gets no answer may be told by a reset
		patience.Reset(d.between(300*time.Millisecond, 4*time.Second))
	}
	defer patience.Stop()
	select {
	case resp := <-answers:
		if d.happens(LostReply) || l.isCut(d) {
			break
		}
		if err := l.w.sleep(ctx, d.travel()); err != nil || l.isDead() {
			break
		}
		if d.happens(Busy) {
			return busy(), nil
		}
		return resp, nil
	case <-patience.C:
		if !l.isDead() {
			return lockclient.Response{}, errReset
		}
	case <-ctx.Done():
	}
	if !l.isDead() && d.chance(0.5) {
		return lockclient.Response{}, errReset
	}
	<-ctx.Done()
	return lockclient.Response{}, ctx.Err()
}

// travel is the time of a request or reply on its way.
func (d *dice) travel() time.Duration {
	if d.happens(Slow) {
		return d.between(10*time.Millisecond, 3*time.Second)
	}
	return d.between(200*time.Microsecond, 6*time.Millisecond)
}

func busy() lockclient.Response {
	p := wire.NewProblem(wire.Throttled, "simulated")
	return lockclient.Response{Status: p.Status, Answer: p}
}

// deliver brings a copy of a request to a coordinator.
func (w *world) deliver(d *dice, r lockclient.Request, op *request, after time.Duration, answers chan<- lockclient.Response) {
	p := newProcess(d, op, 6)
	w.spawn(func() {
		time.Sleep(after)
		ctx, cancel := p.context(serveTimeout)
		defer cancel()
		defer func() { w.landed(op, w.at()) }() // also if it crashes
		resp := w.serve(ctx, r)
		if answers != nil {
			answers <- resp
		}
	})
}

// serve has a coordinator carry out a request.
func (w *world) serve(ctx context.Context, r lockclient.Request) lockclient.Response {
	front := w.fronts[processOf(ctx).intn(len(w.fronts))]
	answer, problem := front.api.Call(ctx, wire.Op(r.Op), r.Lock, r.Body)
	if problem != nil {
		return lockclient.Response{Status: problem.Status, Answer: problem}
	}
	return lockclient.Response{Status: http.StatusOK, Answer: answer}
}

// fields are those of all requests that matter to a history.
type fields struct {
	Lease    string          `json:"lease"`
	Locks    json.RawMessage `json:"locks"` // of a set
	TTL      int64           `json:"ttl_ms"`
	Capacity int64           `json:"capacity"`
	Permits  int64           `json:"permits"`
	Wait     int64           `json:"wait_ms"`
	Fence    int64           `json:"fence"`
	Mode     wire.Mode       `json:"mode"`
}

var kinds = map[wire.Op]history.Kind{
	wire.OpAcquire: history.Acquire, wire.OpRenew: history.Renew, wire.OpRelease: history.Release, wire.OpForceRelease: history.Force,
	wire.OpAcquireSet: history.Acquire, wire.OpRenewSet: history.Renew, wire.OpReleaseSet: history.Release,
}

// diceOf are the dice of the client's next request of this kind for a lease.
func (l *link) diceOf(op, secret string) *dice {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	party := l.client + " " + l.w.nameOf(l.client, secret) + " " + op
	l.w.sent[party]++
	return l.w.dice(party, l.w.sent[party])
}

// begin records the beginning of a request.
func (l *link) begin(r lockclient.Request, f fields) *request {
	kind := kinds[wire.Op(r.Op)]
	switch {
	case kind == history.Release && f.Mode != "":
		kind = history.Downgrade
	case f.Mode != "":
		f.Capacity, f.Permits = wire.ModeCapacity, f.Mode.Permits()
	}
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	op := &request{Op: history.Op{
		Client: l.client, Op: kind, Lock: r.Lock, Lease: l.w.nameOf(l.client, f.Lease), Permits: f.Permits, Capacity: f.Capacity, Began: l.w.at(),
		Fence: f.Fence, TTL: f.TTL * int64(time.Millisecond), Wait: f.Wait * int64(time.Millisecond),
	}}
	if l.life > 0 && op.TTL > 0 {
		op.TTL = int64(l.life)
	}
	if f.Locks != nil {
		if l.life > 0 && op.Op.Op == history.Acquire { // the place of a task; another user of one of the locks leaves it there
			op.Wait = int64(maxTaskWait)
		}
		var err error
		if op.set, err = history.SetOps(op.Op, f.Locks); err != nil {
			panic(err) // the client's requests are JSON
		}
	}
	l.w.ops = append(l.w.ops, op)
	l.w.requests++
	return op
}

// nameOf is the name of a lease in the history. It needs w.mu.
func (w *world) nameOf(client, secret string) string {
	if secret == "" {
		return ""
	}
	name, known := w.names[secret]
	if !known {
		w.leases[client]++
		name = fmt.Sprintf("%s/%d", client, w.leases[client])
		w.names[secret] = name
	}
	return name
}

// end records the answer to a request.
func (l *link) end(op *request, resp lockclient.Response, err error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	op.Ended = l.w.at()
	op.Result = history.Unknown
	for i := range op.set {
		op.set[i].Ended, op.set[i].Result = op.Ended, history.Unknown
	}
	if err != nil {
		return
	}
	if op.set != nil {
		l.endSet(op, resp)
		return
	}
	switch answer := resp.Answer.(type) {
	case wire.Lease:
		op.Result, op.Fence, op.Left = history.Granted, answer.Fence, answer.Remaining*int64(time.Millisecond)
	case wire.Released:
		op.Result = history.OK
		if op.Op.Op == history.Downgrade {
			op.Fence = answer.Fence
		}
	case wire.ForceReleased:
		op.Result = history.OK
	case wire.Queued:
		op.Result, op.Ticket, op.Frozen, op.Rated = history.Held, answer.Ticket, frozenUntil(answer.Freeze), answer.NextGrant != nil
	case *wire.Problem:
		if (answer.Code == wire.LockHeld || answer.Code == wire.Frozen) && l.finder {
			op.Result = history.Refused
			return
		}
		switch answer.Code {
		case wire.LockHeld, wire.Frozen, wire.LimitExceeded:
			op.Result, op.Ticket, op.Frozen, op.Rated = history.Held, answer.Ticket, frozenUntil(answer.Freeze), answer.Limit == "rate"
		case wire.LeaseLost, wire.LockChanged:
			op.Result = history.Lost
		case wire.CapacityMismatch, wire.QueueFull, wire.LockFull:
			op.Result = history.Refused // unless a copy of it is under way, see finish
		default:
			l.unexpected(op, answer)
		}
	}
}

// endSet records the answer to a request about a set. A lease that is lost in one of the locks may be live in others, and is ended there by the
// release that is told so.
func (l *link) endSet(op *request, resp lockclient.Response) {
	result := func(result history.Result) {
		for i := range op.set {
			op.set[i].Result = result
		}
	}
	switch answer := resp.Answer.(type) {
	case wire.SetLease:
		result(history.Granted)
		for i := range op.set {
			op.set[i].Left = answer.Remaining * int64(time.Millisecond)
			for _, m := range answer.Locks {
				if m.Lock == op.set[i].Lock {
					op.set[i].Fence = m.Fence
				}
			}
		}
	case wire.SetQueued:
		result(history.Held)
		for i := range op.set {
			op.set[i].Frozen, op.set[i].Rated = frozenUntil(answer.Freeze), answer.NextGrant != nil
		}
		for i, ticket := range answer.Tickets {
			op.set[i].Ticket = ticket
		}
	case wire.SetReleased:
		for i := range op.set {
			if slices.ContainsFunc(answer.Locks, func(r wire.Released) bool { return r.Lock == op.set[i].Lock }) {
				op.set[i].Result = history.OK
			}
		}
	case *wire.Problem:
		switch answer.Code {
		case wire.LockHeld, wire.Frozen, wire.LimitExceeded:
			result(history.Held)
			for i := range op.set {
				op.set[i].Frozen, op.set[i].Rated = frozenUntil(answer.Freeze), answer.Limit == "rate"
			}
			for i, ticket := range answer.Tickets {
				op.set[i].Ticket = ticket
			}
		case wire.LeaseLost:
		case wire.CapacityMismatch, wire.QueueFull, wire.LockFull:
			result(history.Refused)
		default:
			l.unexpected(op, answer)
		}
	}
}

// unexpected notes an answer that no request of the simulation should get. It needs w.mu.
func (l *link) unexpected(op *request, p *wire.Problem) {
	if p.Code != wire.Throttled && p.Code != wire.StoreUnavailable {
		l.w.problems = append(l.w.problems, fmt.Sprintf("%s of %s was answered %s: %s", op.Op.Op, cmp.Or(op.Lock, op.Set), p.Code, p.Detail))
	}
}
