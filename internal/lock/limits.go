package lock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
)

// Limits of locks by prefix. They are part of a prefix rule, and of several rules that cover a lock the smallest value of each limit counts. A request that would
// make a new lease or a new place is compared with the rules that the coordinator has read; a request for a lease or a place that is there is
// not, so a limit that is set later refuses no repetition, claim or poll. What a lease needs later, at its renewals, is stored in its terms
// ([Bounds]): renewals read no rules.

// Limits bind the locks whose names begin with a prefix. A number that is 0 sets no limit.
type Limits struct {
	Capacity        int64  // of each lock, whatever its callers name
	MaxTTL          int64  // of a lease, in milliseconds. The TTL of the lease of an execution, which is the time between two checks, is not limited
	MaxHold         int64  // how long one lease lasts from its grant on, however often it is renewed, in milliseconds
	MaxQueue        int64  // waiters of one lock
	Rate            Rate   // how often one lock is granted
	MaxPerPrincipal int64  // permits of one lock that one principal holds and waits for together
	Newer           string // limits of a newer version, in a text of the store's own; empty: none
	By              string // the principal that set the limits; empty: unknown
	At              int64  // when it did
}

// values are the limits without who set them.
func (l Limits) values() Limits {
	l.By, l.At = "", 0
	return l
}

// A LimitName names a limit as the API does.
type LimitName string

// The limits.
const (
	LimitCapacity  LimitName = "capacity"
	LimitTTL       LimitName = "max_ttl_ms"
	LimitHold      LimitName = "max_hold_ms"
	LimitQueue     LimitName = "max_queue"
	LimitPrincipal LimitName = "max_per_principal"
	LimitRate      LimitName = "rate"
)

// A Limit is one limit of a lock. The zero Limit is none.
type Limit struct {
	Name   LimitName
	Value  int64
	Prefix string // of the rule
}

func (l Limit) set() bool { return l.Value > 0 }

// ErrLimit is the kind of a [*LimitError].
var ErrLimit = errors.New("a limit of the lock's prefix is exceeded")

// A LimitError is the answer to a request that a limit refuses. Nothing was written.
type LimitError struct {
	Limit
	Field      string        // of the request that names more than the limit; empty: none
	Asked      int64         // what the field names, or what there would be with the request
	Passes     bool          // the same request can succeed later, when waiters or leases have ended
	Period     int64         // of a limit of grants, in milliseconds
	RetryAfter time.Duration // of a limit of grants: until the next one is possible
}

func (e *LimitError) Error() string {
	if e.Name == LimitRate {
		return fmt.Sprintf("%v: %s is %d in %v for locks below %q; the next is possible in %v", ErrLimit, e.Name, e.Value, time.Duration(e.Period)*time.Millisecond, RuleSubject(e.Prefix), e.RetryAfter)
	}
	return fmt.Sprintf("%v: %s is %d for locks below %q, and the request makes it %d", ErrLimit, e.Name, e.Value, RuleSubject(e.Prefix), e.Asked)
}

// Is makes it an [ErrLimit]; of the queue also an [ErrQueueFull], and of a lease whose time is over an [ErrLeaseLost].
func (e *LimitError) Is(target error) bool {
	return target == ErrLimit || target == ErrQueueFull && e.Name == LimitQueue || target == ErrLeaseLost && e.Name == LimitHold
}

// A PermitsError is the answer to a request for more permits than the lock has, where no limit sets its capacity.
type PermitsError struct{ Permits, Capacity int64 }

func (e *PermitsError) Error() string {
	return fmt.Sprintf("permits is %d; it must be from 1 to the capacity, which is %d", e.Permits, e.Capacity)
}

// Bounds are the limits that a lease keeps from its acquire on. Times are milliseconds; the prefixes are numbers of bytes of the lock's
// name. The zero Bounds are none.
type Bounds struct {
	MaxTTL, MaxHold       int64
	TTLPrefix, HoldPrefix int64
}

// ttl and hold are the limits as an error names them.
func (b Bounds) ttl(name string) Limit { return Limit{LimitTTL, b.MaxTTL, bytesOf(name, b.TTLPrefix)} }

func (b Bounds) hold(name string) Limit {
	return Limit{LimitHold, b.MaxHold, bytesOf(name, b.HoldPrefix)}
}

func bytesOf(name string, n int64) string { return name[:min(max(n, 0), int64(len(name)))] }

// lockLimits are the limits of one lock: of each, the smallest value of all rules that cover it.
type lockLimits struct{ capacity, ttl, hold, queue, principal Limit }

func limitsOf(rules []PrefixRule, name string) (all lockLimits) {
	for _, p := range rules {
		if p.Limits == nil || !p.covers(name) {
			continue
		}
		for _, one := range []struct {
			limit *Limit
			name  LimitName
			value int64
		}{
			{&all.capacity, LimitCapacity, p.Limits.Capacity}, {&all.ttl, LimitTTL, p.Limits.MaxTTL}, {&all.hold, LimitHold, p.Limits.MaxHold},
			{&all.queue, LimitQueue, p.Limits.MaxQueue}, {&all.principal, LimitPrincipal, p.Limits.MaxPerPrincipal},
		} {
			if one.value > 0 && (!one.limit.set() || one.value < one.limit.Value) {
				*one.limit = Limit{one.name, one.value, p.Prefix}
			}
		}
	}
	return all
}

// admit completes a request by the limits, and returns why it can never be granted by them; nil if it can. A capacity or a TTL that the caller does not
// name is that of the limit.
func (l lockLimits) admit(req *AcquireRequest) error {
	named := req.Capacity != 0
	req.Capacity = cmp.Or(req.Capacity, l.capacity.Value, 1)
	most := time.Duration(l.ttl.Value) * time.Millisecond
	tooLong := l.ttl.set() && req.TTL > most && req.Execution == ""
	if tooLong && req.AnyTTL {
		req.TTL, tooLong = most, false
	}
	switch {
	case named && l.capacity.set() && req.Capacity != l.capacity.Value:
		return &LimitError{Limit: l.capacity, Field: "capacity", Asked: req.Capacity}
	case req.Permits > req.Capacity && l.capacity.set():
		return &LimitError{Limit: l.capacity, Field: "permits", Asked: req.Permits}
	case req.Permits > req.Capacity:
		return &PermitsError{req.Permits, req.Capacity}
	case l.counts(req.Principal) && req.Permits > l.principal.Value:
		return &LimitError{Limit: l.principal, Field: "permits", Asked: req.Permits}
	case tooLong:
		return &LimitError{Limit: l.ttl, Field: "ttl_ms", Asked: req.TTL.Milliseconds()}
	}
	return nil
}

// bounds are what a lease or a place keeps of the limits.
func (l lockLimits) bounds(execution bool) (b Bounds) {
	if l.ttl.set() && !execution {
		b.MaxTTL, b.TTLPrefix = l.ttl.Value, int64(len(l.ttl.Prefix))
	}
	if l.hold.set() {
		b.MaxHold, b.HoldPrefix = l.hold.Value, int64(len(l.hold.Prefix))
	}
	return b
}

// counts reports whether the permits of a principal are limited. Those of a caller that no authorizer names are not.
func (l lockLimits) counts(principal string) bool { return l.principal.set() && principal != "" }

// maxQueue is how many waiters the lock can have.
func (l lockLimits) maxQueue() int64 {
	if l.queue.set() {
		return min(l.queue.Value, MaxQueue)
	}
	return MaxQueue
}

// queueFull is the error of a request that would join a full queue.
func (l lockLimits) queueFull(r Record) error {
	if !l.queue.set() {
		return ErrQueueFull
	}
	return &LimitError{Limit: l.queue, Asked: r.Waiting + 1, Passes: true}
}

// overPrincipal is the error of a new lease or place with which a principal would hold and wait for more permits than it may; nil if it would not. The whole
// queue must have been read, and the texts of the leases.
func (l lockLimits) overPrincipal(r Record, want Terms) error {
	if !l.counts(want.Principal) {
		return nil
	}
	sum, who := want.Permits, accountable(want.Principal)
	for _, h := range r.Holders {
		if accountable(h.With(r.texts[h.Fence]).Principal) == who {
			sum += h.Permits
		}
	}
	for _, w := range r.Places() {
		if accountable(w.Principal) == who {
			sum += w.Permits
		}
	}
	if sum <= l.principal.Value {
		return nil
	}
	return &LimitError{Limit: l.principal, Asked: sum, Passes: true}
}

// accountable is the principal whose permits are counted together: of a session of a role, the role, since a caller may name its sessions as it likes.
func accountable(principal string) string {
	const role = ":assumed-role/"
	before, after, isRole := strings.Cut(principal, role)
	if name, _, session := strings.Cut(after, "/"); isRole && session {
		return before + role + name
	}
	return principal
}

// withLimits completes an acquire by the limits of its lock. While the rules cannot be read, the request makes no lease and no place.
func (c *Coordinator) withLimits(ctx context.Context, op acquiring) acquiring {
	rules, err := c.freshRules(ctx)
	if err != nil {
		op.req.Capacity, op.refused = cmp.Or(op.req.Capacity, 1), err
		return op
	}
	op.limits = limitsOf(rules, op.req.Lock)
	op.refused = op.limits.admit(&op.req)
	return op
}

// withLimitsOfSet completes an acquire of a set, as withLimits does.
func (c *Coordinator) withLimitsOfSet(ctx context.Context, op setAcquiring) setAcquiring {
	return op.limitedBy(c.freshRules(ctx))
}

// limitedBy makes of the request of a set one for each of its locks, completed by the limits of the lock. All have the same TTL. With an error, none
// may be granted or join.
func (o setAcquiring) limitedBy(rules []PrefixRule, err error) setAcquiring {
	for i, w := range o.req.Locks {
		one := acquiring{rules: o.rules, key: o.key, limits: limitsOf(rules, w.Lock), refused: err, req: AcquireRequest{
			Lock: w.Lock, Owner: o.req.Owner, Principal: o.req.Principal, Metadata: o.req.Metadata, Capacity: w.Capacity, Permits: w.Permits,
			Wait: o.req.Wait, Execution: o.req.Execution, Trace: o.req.Trace, set: setOf(o.names),
		}}
		if i == 0 { // see settask.go
			one.req.Token = o.req.Token
		}
		if most := time.Duration(one.limits.ttl.Value) * time.Millisecond; o.req.AnyTTL && o.req.Execution == "" && one.limits.ttl.set() {
			o.req.TTL = min(o.req.TTL, most)
		}
		o.ones = append(o.ones, one)
	}
	for i := range o.ones {
		one := &o.ones[i] // completed in place
		one.req.TTL = o.req.TTL
		one.refused = cmp.Or(one.refused, one.limits.admit(&one.req))
	}
	return o
}

// countsPrincipal reports whether an acquire without a lease or a place must see whose all leases and places are.
func (o acquiring) countsPrincipal() bool {
	return o.refused == nil && o.limits.counts(o.req.Principal)
}

// withPrincipals reads the texts of a record's leases that an operation counts by their principals.
func (c *Coordinator) withPrincipals(ctx context.Context, name string, r Record, op decider) (_ Record, err error) {
	if o, ok := op.(acquiring); ok && o.countsPrincipal() && o.waiters(r) > 0 {
		r.texts, err = c.lookUp(ctx, name, maps.Values(r.Holders))
	}
	return r, err
}
