package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// When a caller should send a request again, if the coordinator knows no better.
const (
	retryOutage = time.Second     // after an outage or a throttle
	retryFull   = 5 * time.Second // when others have left
)

const outage = "the store cannot be used just now; it is not known whether the write happened: send the same request again"

// problems is the table of the coordinator's errors and the problems that callers get for them. The first row that matches
// counts. What a caller cannot use is in the log only.
var problems = []struct {
	err    error
	code   wire.Code
	retry  time.Duration // zero: no hint
	detail func(error) string
}{
	{lock.ErrLeaseLost, wire.LeaseLost, 0, always("the lease has expired, was released or forced out, or never was; acquire with a new one")},
	{lock.ErrRuleChanged, wire.RuleChanged, 0, always("the rule has another revision than rev says; read it again, and decide whether to change it")},
	{lock.ErrTooManyRules, wire.TooManyRules, 0, always(fmt.Sprintf("the table has %d rules, which is the most; delete one (one that was removed counts for %d days)", lock.MaxPrefixRules, lock.RuleMemory/(24*time.Hour)))},
	{lock.ErrCapacityMismatch, wire.CapacityMismatch, 0, mismatch},
	{lock.ErrMorePermits, wire.MorePermits, 0, always("the lease has fewer permits, and a lease never gets more, nor does a reader become a writer: two that both wait for more would wait for each other for ever; release it, and acquire with a new lease")},
	{lock.ErrQueueFull, wire.QueueFull, retryFull, always(fmt.Sprintf("%d wait for the lock already; come back later", lock.MaxQueue))},
	{lock.ErrLockFull, wire.LockFull, retryFull, full},
	{lock.ErrLockChanged, wire.LockChanged, 0, always("no holder has the fence given any more; look at the lock again")},
	{lock.ErrMisconfigured, wire.Misconfigured, 0, misconfigured},
	{lock.ErrThrottled, wire.Throttled, retryOutage, always("too many writes at once; it is not known whether this one happened: send the same request again")},
	{lock.ErrUnavailable, wire.StoreUnavailable, retryOutage, always(outage)},
	{context.DeadlineExceeded, wire.StoreUnavailable, retryOutage, always(outage)},
	{context.Canceled, wire.StoreUnavailable, retryOutage, always(outage)},
}

func always(text string) func(error) string { return func(error) string { return text } }

// newProblem returns the problem that a caller gets for the error of a call.
func newProblem(c *call, err error) *wire.Problem {
	p := problemOf(err, c.requestID)
	if wire.CheckName(c.lock) == "" && !c.op.OfRules() {
		p.Lock = c.lock
	}
	if of, ok := errors.AsType[*lock.SetError](err); ok {
		p.Lock = of.Lock
	}
	if c.op == wire.OpAcquireSet && (p.Field == "capacity" || p.Field == "permits") {
		at := max(slices.Index(c.names(), p.Lock), 0)
		p.Field, p.Detail = "locks", fmt.Sprintf("locks[%d]: %s", at, p.Detail)
	}
	if held, ok := errors.AsType[*lock.HeldError](err); ok && c.op.IsSet() {
		p.Lock = held.Lock
		p.Detail = setDetail(held)
	}
	return p
}

func problemOf(err error, requestID string) *wire.Problem {
	if errors.Is(err, lock.ErrBadCursor) {
		err = invalid("cursor", "cursor is not one that a list answered; start without one")
	}
	if bad, ok := errors.AsType[*badInput](err); ok {
		p := wire.NewProblem(bad.code, requestID)
		p.Field, p.Detail = bad.field, bad.detail
		return p
	}
	if held, ok := errors.AsType[*lock.HeldError](err); ok {
		return heldProblem(held, requestID)
	}
	if limit, ok := errors.AsType[*lock.LimitError](err); ok {
		return limitProblem(limit, requestID)
	}
	if permits, ok := errors.AsType[*lock.PermitsError](err); ok {
		p := wire.NewProblem(wire.InvalidRequest, requestID)
		p.Field, p.Detail = "permits", permits.Error()
		return p
	}
	for _, row := range problems {
		if errors.Is(err, row.err) {
			p := wire.NewProblem(row.code, requestID)
			p.RetryAfter, p.Detail = row.retry.Milliseconds(), row.detail(err)
			return p
		}
	}
	p := wire.NewProblem(wire.Internal, requestID)
	p.Detail = "this is a bug; the log has more under this request_id"
	return p
}

// heldProblem says who holds the lock, and where in its queue the caller is.
func heldProblem(held *lock.HeldError, requestID string) *wire.Problem {
	p := wire.NewProblem(wire.LockHeld, requestID)
	if held.Freeze != nil {
		p = wire.NewProblem(wire.Frozen, requestID)
		p.Freeze = freezeAnswer(held.Freeze)
	}
	p.RetryAfter, p.Position, p.Waiting, p.Ticket = max(held.RetryAfter.Milliseconds(), 1), held.Position, held.Waiting, held.Ticket
	p.Tickets = held.Tickets
	if held.Rate != nil {
		nameLimit(p, held.Rate)
	}
	switch {
	case held.Freeze != nil:
		p.Detail = frozen(held)
	case held.Rate != nil && held.Position > 0:
		p.Detail = fmt.Sprintf("%s; place %d of %d in its queue is yours: send the same request again, with the ticket, to keep it", rateText(held.Rate), held.Position, held.Waiting)
	case held.Rate != nil:
		p.Detail = fmt.Sprintf("%s; %d wait for it: send wait_ms to join them", rateText(held.Rate), held.Waiting)
	case held.Position > 0:
		p.Detail = fmt.Sprintf("the lock is held, and place %d of %d in its queue is yours; send the same request again, with the ticket, to keep it", held.Position, held.Waiting)
	case held.Waiting > 0:
		p.Detail = fmt.Sprintf("the lock is held, and %d wait for it; send wait_ms to join them", held.Waiting)
	default:
		p.Detail = fmt.Sprintf("the lock is held; the next permit is free in %d ms at the latest, unless its lease is renewed", p.RetryAfter)
	}
	for _, h := range held.Holders {
		p.Holders = append(p.Holders, wire.ProblemHolder{
			Owner: h.Owner, Fence: h.Fence, ExpiresAt: wire.At(h.ExpiresAt), Remaining: max(h.ExpiresAt-held.Now, 0), Traceparent: h.Trace,
		})
	}
	return p
}

// frozen is the detail of a request for a lock that is frozen.
func frozen(held *lock.HeldError) string {
	text := freezeText(held.Freeze)
	switch {
	case held.Position > 0:
		return text + fmt.Sprintf("; place %d of %d in its queue is yours: send the same request again, with the ticket, to keep it", held.Position, held.Waiting)
	case held.Full:
		return text + fmt.Sprintf("; %d wait for it already", held.Waiting)
	}
	return text + "; send wait_ms to wait for its end"
}

func freezeText(f *lock.Freeze) string {
	text := "the lock is frozen until " + wire.At(f.Until).Format(time.RFC3339)
	if f.By != "" {
		text += " by " + f.By
	}
	return text + ", as are all below " + lock.RuleSubject(f.Prefix) + ": " + f.Reason
}

// limitProblem says which limit refuses a request, who can change it, and what the caller can do.
func limitProblem(e *lock.LimitError, requestID string) *wire.Problem {
	code, fix := wire.LimitExceeded, ""
	below := "for locks below " + lock.RuleSubject(e.Prefix)
	if e.Prefix == "" {
		below = "for all locks"
	}
	limit := fmt.Sprintf("the limit %s is %d %s", e.Name, e.Value, below)
	switch e.Name {
	case lock.LimitCapacity:
		if e.Field == "mode" {
			fix = fmt.Sprintf("mode makes it %d, so readers cannot share these locks; leave mode out, or use a lock below another prefix", e.Asked)
			break
		}
		fix = fmt.Sprintf("%s is %d; leave capacity out, and ask for at most %d permits", e.Field, e.Asked, e.Value)
	case lock.LimitTTL:
		fix = fmt.Sprintf("ttl_ms is %d; ask for at most %d, and renew the lease", e.Asked, e.Value)
	case lock.LimitHold:
		code, fix = wire.LeaseLost, "the lease has lasted so long since its grant, and its time is over; acquire the lock again"
	case lock.LimitQueue:
		code, fix = wire.QueueFull, fmt.Sprintf("%d wait already; come back later", e.Asked-1)
	case lock.LimitRate:
		limit, fix = rateText(e), "come back then, or send wait_ms to wait for it in the queue"
	case lock.LimitPrincipal:
		fix = fmt.Sprintf("with this request, you would hold and wait for %d permits; release some, or leave the queue", e.Asked)
		if !e.Passes {
			fix = fmt.Sprintf("%s is %d; ask for fewer", e.Field, e.Asked)
			if e.Field == "mode" {
				fix = fmt.Sprintf("a writer takes all %d permits; use a lock below another prefix", e.Asked)
			}
		}
	}
	p := wire.NewProblem(code, requestID)
	nameLimit(p, e)
	p.Field = e.Field
	if p.Detail = limit + ": " + fix; e.Passes {
		p.RetryAfter = cmp.Or(e.RetryAfter, retryFull).Milliseconds()
	}
	return p
}

func nameLimit(p *wire.Problem, e *lock.LimitError) {
	p.Limit, p.Value, p.Period, p.Prefix = string(e.Name), e.Value, e.Period, lock.RuleSubject(e.Prefix)
}

// rateText says how often a lock is granted, and when it may be granted next.
func rateText(e *lock.LimitError) string {
	return wire.RateText(lock.RuleSubject(e.Prefix), e.Value, time.Duration(e.Period)*time.Millisecond, e.RetryAfter.Round(time.Millisecond))
}

// mismatch is the detail of a request for a lock in use with another capacity: who named which, and how to change it without harm.
func mismatch(err error) string {
	e, ok := errors.AsType[*lock.CapacityError](err)
	if !ok {
		return err.Error()
	}
	by, wants := "its holders named that", "this request names"
	if e.Owner != "" {
		by = fmt.Sprintf("its holder %q named that", e.Owner)
	}
	if e.Rule != (lock.Limit{}) {
		wants = fmt.Sprintf("the rule of %s says", lock.RuleSubject(e.Rule.Prefix))
	}
	return fmt.Sprintf("the lock is in use with capacity %d, since %s, and %s %d; send wait_ms to be granted as soon as the leases that are held fit both, or come back when it is free",
		e.Capacity, by, wants, e.Asked)
}

// full is the detail of a request that does not fit into the lock's record.
func full(err error) string {
	const fix = "send less metadata, or come back when others have left"
	if e, ok := errors.AsType[*lock.FullError](err); ok {
		return fmt.Sprintf("the lock's record would have %d bytes with this request; at most %d are allowed: %s", e.Size, e.Most, fix)
	}
	return "the lock's record is full: " + fix
}

// misconfigured is the detail of a fault that lasts until the deployment is corrected. Its cause is in the log only.
func misconfigured(err error) string {
	fault, ok := errors.AsType[*lock.StoreError](err)
	if !ok {
		return "the store can never work as it is set up; the log has more under this request_id"
	}
	if fault.Fix == "" {
		return fault.What
	}
	return fault.What + "; " + fault.Fix
}
