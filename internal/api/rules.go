package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/scope"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// ruleOp is the operation on rules that an HTTP request asks for.
func ruleOp(method string, named bool) wire.Op {
	switch {
	case !named:
		return wire.OpRules
	case method == http.MethodPut:
		return wire.OpPutRule
	case method == http.MethodDelete:
		return wire.OpDeleteRule
	}
	return wire.OpRule
}

// admitRules is admit for the operations on rules. Through an alias with a pattern, only rules whose locks are all of the pattern are served.
func (c *call) admitRules() error {
	if c.op == wire.OpRules {
		if !scope.AllowsBelow(c.function, "") {
			return invalid("op", `op is "rules"; this alias of the function serves the rules of some locks only`)
		}
		return nil
	}
	if wrong := wire.CheckRulePrefix(c.lock); wrong != "" {
		if c.http {
			wrong += spelling(c.lock)
		}
		return invalid("prefix", "prefix %s", wrong)
	}
	if !scope.AllowsBelow(c.function, lock.RulePrefix(c.lock)) {
		return invalid("prefix", "prefix is %q; this alias of the function serves the rules of other locks only", c.lock)
	}
	return nil
}

func (a *API) rules(ctx context.Context, c *call) (any, int64, error) {
	if err := c.fields.done(); err != nil {
		return nil, 0, err
	}
	list, err := a.coordinator.PrefixRules(ctx)
	if err != nil {
		return nil, 0, err
	}
	answer := wire.Rules{Rules: []wire.Rule{}}
	for _, p := range list {
		answer.Rules = append(answer.Rules, ruleAnswer(p))
	}
	return answer, 0, nil
}

func (a *API) rule(ctx context.Context, c *call) (any, int64, error) {
	if err := c.fields.done(); err != nil {
		return nil, 0, err
	}
	p, err := a.coordinator.Rule(ctx, lock.RulePrefix(c.lock))
	if err != nil {
		return nil, 0, err
	}
	return ruleAnswer(p), 0, nil
}

func (a *API) putRule(ctx context.Context, c *call) (any, int64, error) {
	req := lock.RuleRequest{Prefix: lock.RulePrefix(c.lock), Principal: c.principal}
	req.Set.Freeze, req.Set.History = c.readFreeze(a.coordinator.Now()), c.readKeeping()
	req.Set.Limits = c.readLimits()
	if req.Set == (lock.RuleParts{}) {
		c.fields.fail("freeze", `the request has no part of a rule; send freeze, {"until": TIME, "reason": TEXT}, limits, {"capacity": 3, …}, or history, {"keep_ms": N}; to remove a part, delete it`)
	}
	if rev, given := c.fields.integer("rev", 0, wire.MaxTicket, ""); given {
		req.Rev = &rev
	}
	return a.setRule(ctx, c, req)
}

func (a *API) deleteRule(ctx context.Context, c *call) (any, int64, error) {
	req := lock.RuleRequest{Prefix: lock.RulePrefix(c.lock), Principal: c.principal, Remove: lock.AllParts()}
	if part, given := c.fields.str("part"); given {
		if !slices.Contains(req.Remove, lock.RulePart(part)) {
			c.fields.fail("part", "part is %q; it must be %s; leave it out to remove the whole rule", brief([]byte(part)), oneOf(lock.AllParts()))
		}
		req.Remove = []lock.RulePart{lock.RulePart(part)}
	}
	return a.setRule(ctx, c, req)
}

func (a *API) setRule(ctx context.Context, c *call, req lock.RuleRequest) (any, int64, error) {
	if err := c.fields.done(); err != nil {
		return nil, 0, err
	}
	s, err := a.coordinator.SetRule(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	answer := ruleAnswer(s.PrefixRule)
	if s.InForceAt != 0 {
		answer.InForceAt = new(wire.At(s.InForceAt))
	}
	return answer, 0, nil
}

// part reads the field of a part of a rule, an object such as example; nil if it is absent or wrong.
func (c *call) part(field, example string) *object {
	raw := c.fields.raw(field)
	if raw == nil {
		return nil
	}
	if raw[0] != '{' {
		c.fields.fail(field, `%s is %s; it must be an object, like %s`, field, kind(raw), example)
		return nil
	}
	o, err := parseObject(raw)
	if err != nil {
		c.fields.fail(field, "%s: %v", field, err)
		return nil
	}
	return o
}

// readFreeze reads the freeze of a rule; nil if it is absent or wrong.
func (c *call) readFreeze(now time.Time) *lock.Freeze {
	o := c.part("freeze", `{"until": "2026-12-01T18:00:00Z", "reason": "…"}`)
	if o == nil {
		return nil
	}
	until, hasUntil := o.str("until")
	reason, _ := o.str("reason")
	at, wrong := time.Parse(time.RFC3339, until)
	problem := wire.CheckText(reason, wire.MaxReason, true)
	switch err := o.done(); {
	case err != nil:
		c.fields.fail("freeze", "freeze: %v", err)
	case !hasUntil || wrong != nil:
		c.fields.fail("freeze", "until of freeze is %q; give a time in RFC 3339, like 2026-12-01T18:00:00Z", brief([]byte(until)))
	case !at.After(now):
		c.fields.fail("freeze", "until of freeze is %q, which is over; it is now %s", brief([]byte(until)), now.UTC().Format(time.RFC3339))
	case at.After(now.Add(wire.MaxFreeze)):
		c.fields.fail("freeze", "until of freeze is %q; it may be %d days ahead at most", brief([]byte(until)), wire.MaxFreeze/(24*time.Hour))
	case wire.Blank(reason):
		c.fields.fail("freeze", "reason of freeze is missing; say why, in 1 to %d bytes: everybody who asks for a lock gets it", wire.MaxReason)
	case problem != "":
		c.fields.fail("freeze", "reason of freeze %s", problem)
	}
	return &lock.Freeze{Until: at.UnixMilli(), Reason: reason}
}

// readLimits reads the limits of a rule; nil if they are absent.
func (c *call) readLimits() *lock.Limits {
	o := c.part("limits", `{"capacity": 3, "max_hold_ms": 7200000}`)
	if o == nil {
		return nil
	}
	l := &lock.Limits{}
	l.Capacity, _ = o.integer("capacity", 1, wire.MaxCapacity, "")
	l.MaxTTL, _ = o.integer("max_ttl_ms", wire.MinTTL.Milliseconds(), wire.MaxTTL.Milliseconds(), " milliseconds")
	l.MaxHold, _ = o.integer("max_hold_ms", wire.MinHoldLimit.Milliseconds(), wire.MaxHoldLimit.Milliseconds(), " milliseconds")
	l.MaxQueue, _ = o.integer("max_queue", 1, wire.MaxQueue, "")
	l.MaxPerPrincipal, _ = o.integer("max_per_principal", 1, wire.MaxCapacity, "")
	l.Rate = readRate(o)
	switch err := o.done(); {
	case err != nil:
		c.fields.fail("limits", "limits: %v", err)
	case *l == lock.Limits{}:
		c.fields.fail("limits", "limits is empty; give one limit at least: capacity, max_ttl_ms, max_hold_ms, max_queue, max_per_principal, or rate")
	}
	return l
}

// readRate reads the rate of limits; the zero Rate if it is absent or wrong.
func readRate(of *object) (r lock.Rate) {
	raw := of.raw("rate")
	if raw == nil {
		return r
	}
	if raw[0] != '{' {
		of.fail("rate", `rate is %s; it must be an object, like {"grants": 10, "period_ms": 3600000}`, kind(raw))
		return r
	}
	o, err := parseObject(raw)
	if err == nil {
		var grants, period bool
		r.Grants, grants = o.integer("grants", 1, wire.MaxGrants, "")
		r.Period, period = o.integer("period_ms", wire.MinRatePeriod.Milliseconds(), wire.MaxRatePeriod.Milliseconds(), " milliseconds")
		if err = o.done(); err == nil && (!grants || !period) {
			err = errors.New("grants or period_ms is missing; say how many grants of a lock, in which period")
		}
	}
	if err != nil {
		of.fail("rate", "rate: %v", err)
	}
	return r
}

func limitsAnswer(l *lock.Limits) *wire.Limits {
	if l == nil {
		return nil
	}
	return &wire.Limits{
		LimitsRequest: wire.LimitsRequest{Capacity: l.Capacity, MaxTTL: l.MaxTTL, MaxHold: l.MaxHold, MaxQueue: l.MaxQueue, MaxPerPrincipal: l.MaxPerPrincipal, Rate: wire.Rate(l.Rate)},
		By:            l.By, Since: wire.At(l.At),
	}
}

func ruleAnswer(p lock.PrefixRule) wire.Rule {
	r := wire.Rule{Prefix: lock.RuleSubject(p.Prefix), Rev: p.Rev, Freeze: freezeAnswer(p.Freeze), Limits: limitsAnswer(p.Limits), History: keepingAnswer(p.History), Unknown: strings.Fields(p.Unknown), By: p.By}
	if p.At != 0 {
		r.ChangedAt = new(wire.At(p.At))
	}
	return r
}

func freezeAnswer(f *lock.Freeze) *wire.Freeze {
	if f == nil {
		return nil
	}
	return &wire.Freeze{Prefix: lock.RuleSubject(f.Prefix), Until: wire.At(f.Until), Reason: f.Reason, By: f.By, Since: wire.At(f.At)}
}
