package lock

import "slices"

// The parts of a prefix rule. Each part is set and removed by itself: a change of one leaves the others as they are.

// RuleParts are what a prefix rule says. A part that is nil is not set.
type RuleParts struct {
	Freeze  *Freeze
	Limits  *Limits
	History *Keeping
}

// A RulePart names a part of a prefix rule.
type RulePart string

// The parts.
const (
	PartFreeze  RulePart = "freeze"
	PartLimits  RulePart = "limits"
	PartHistory RulePart = "history"
)

// AllParts are the parts that a rule can have.
func AllParts() []RulePart { return []RulePart{PartFreeze, PartLimits, PartHistory} }

// A Freeze keeps a lock from being granted until a time. Its holders go on: they renew and release. Its waiters keep their places.
type Freeze struct {
	Prefix string // of the rule
	Until  int64
	Reason string
	By     string // the principal that froze the locks; empty: unknown
	At     int64  // when it did
}

// change is the parts after a request: those that it removes are gone, those that it sets replace what was there. at is the
// time of the request.
func (p RuleParts) change(q RuleRequest, at int64) RuleParts {
	if slices.Contains(q.Remove, PartFreeze) {
		p.Freeze = nil
	}
	if slices.Contains(q.Remove, PartHistory) {
		p.History = nil
	}
	if q.Set.Freeze != nil {
		next := *q.Set.Freeze
		next.Prefix, next.By, next.At = q.Prefix, q.Principal, at
		if f := p.Freeze; f == nil || f.Until != next.Until || f.Reason != next.Reason { // otherwise its first author stays known
			p.Freeze = &next
		}
	}
	if q.Set.History != nil {
		next := *q.Set.History
		next.Prefix, next.By, next.At = q.Prefix, q.Principal, at
		if k := p.History; k == nil || k.For != next.For {
			p.History = &next
		}
	}
	var newer string // limits that only a newer version knows stay
	if p.Limits != nil {
		newer = p.Limits.Newer
	}
	switch {
	case q.Set.Limits != nil:
		next := *q.Set.Limits
		next.Newer, next.By, next.At = newer, q.Principal, at
		if l := p.Limits; l == nil || l.values() != next.values() {
			p.Limits = &next
		}
	case !slices.Contains(q.Remove, PartLimits):
	case newer != "":
		p.Limits = &Limits{Newer: newer, By: p.Limits.By, At: p.Limits.At}
	default:
		p.Limits = nil
	}
	return p
}

// sameAs reports whether two rules say the same.
func (p RuleParts) sameAs(o RuleParts) bool {
	return same(p.Freeze, o.Freeze) && same(p.Limits, o.Limits) && same(p.History, o.History)
}

// empty reports whether no part is set.
func (p RuleParts) empty() bool { return p == (RuleParts{}) }

// until is when the last of the parts ends; 0 if they have ended or are not set, -1 if one of them has no end.
func (p RuleParts) until() int64 {
	switch {
	case p.History != nil, p.Limits != nil:
		return -1
	case p.Freeze == nil:
		return 0
	}
	return p.Freeze.Until
}

func same[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }
