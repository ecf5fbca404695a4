package lock

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"
)

// A prefix rule is what an operator sets for all locks whose names begin with a prefix. The rules of a table are few; a coordinator reads
// them all in one request, and may use them for a while: see rulecache.go.

const (
	// MaxPrefixRules is how many prefix rules a table can have. All of them are read in one request, of a unit for each 4 KB.
	MaxPrefixRules = 100
	// RuleMemory is how long the item of a prefix rule is kept that has been removed, or whose freeze has ended. While any is kept, coordinators read
	// the rules every [RulePeriod].
	RuleMemory = 7 * 24 * time.Hour
)

// A PrefixRule is what an operator has set for every lock whose name begins with Prefix. Times are Unix milliseconds.
type PrefixRule struct {
	Prefix string // empty: every lock
	Rev    int64  // number of writes of the rule so far
	RuleParts
	// Unknown names the parts that a newer version has set and this one does not know, with a space between two. A change keeps them, and a
	// store writes the parts that it knows.
	Unknown string
	By      string // the principal that made the last write; empty: unknown
	At      int64  // when it was made
	TTL     int64  // native TTL in Unix seconds; 0: a part has no end
}

// Empty reports whether nothing is set: the rule was removed.
func (p PrefixRule) Empty() bool { return p.empty() && p.Unknown == "" }

// covers reports whether a lock's name begins with the prefix.
func (p PrefixRule) covers(name string) bool { return strings.HasPrefix(name, p.Prefix) }

// freezeOf is the freeze of a lock at a time: of all that are in force, the one that ends last. nil: none.
func freezeOf(rules []PrefixRule, name string, now time.Time) (last *Freeze) {
	for _, p := range rules {
		f := p.Freeze
		if f != nil && p.covers(name) && f.Until > now.UnixMilli() && (last == nil || f.Until > last.Until) {
			last = f
		}
	}
	return last
}

// purgeAt is the native TTL of the rule.
func (p PrefixRule) purgeAt() int64 {
	until := p.until()
	if until < 0 || p.Unknown != "" {
		return 0
	}
	return max(p.At, until)/1000 + int64(RuleMemory/time.Second)
}

// The kinds of error of a change of a prefix rule.
var (
	// ErrRuleChanged: the rule has another revision than the one that a change of it names.
	ErrRuleChanged = errors.New("the rule was changed by another request")
	// ErrTooManyRules: the table has [MaxPrefixRules] prefix rules.
	ErrTooManyRules = errors.New("too many rules")
)

// A RuleRequest changes parts of a prefix rule.
type RuleRequest struct {
	Prefix    string
	Principal string
	Rev       *int64     // the revision that the rule must have; nil: any
	Set       RuleParts  // a part that is not nil replaces that of the rule. The prefix, the principal and the time in it are the request's
	Remove    []RulePart // these are removed first
}

// A RuleStatus is a prefix rule, and when every coordinator uses it.
type RuleStatus struct {
	PrefixRule
	// InForceAt is when the last coordinator has read the rule at the latest. A request that was under way then, with the rules as they were
	// before, may still be carried out.
	InForceAt int64
}

// SetRule changes parts of a prefix rule, and leaves the others as they are. A rule that is as the request says is not
// written, so that a repeated request makes no further change. A rule without parts is removed. The errors are [ErrRuleChanged], [ErrTooManyRules] and the store's.
func (c *Coordinator) SetRule(ctx context.Context, req RuleRequest) (RuleStatus, error) {
	for range maxTries {
		rules, err := c.readRules(ctx)
		if err != nil {
			return RuleStatus{}, err
		}
		now := c.clock()
		old := ruleIn(rules, req.Prefix)
		next := req.rule(now, old)
		switch same := next.sameAs(old.RuleParts); {
		case req.Rev != nil && *req.Rev != old.Rev && (*req.Rev != old.Rev-1 || !same || old.By != req.Principal): // not the repetition of a request whose reply was lost
			return RuleStatus{}, ErrRuleChanged
		case same:
			return RuleStatus{old, inForceAt(old, rules, c.clock())}, nil
		case old.Rev == 0 && len(rules) >= MaxPrefixRules:
			return RuleStatus{}, ErrTooManyRules
		}
		err = c.store.PutPrefixRule(ctx, next)
		if err == nil {
			c.cache.drop()
			return RuleStatus{next, inForceAt(next, rules, c.clock())}, nil
		}
		if !errors.Is(err, ErrRuleChanged) {
			return RuleStatus{}, c.noteClock(err)
		}
	}
	return RuleStatus{}, tooManyTries()
}

// rule is the rule that the request makes of an old one.
func (q RuleRequest) rule(now time.Time, old PrefixRule) PrefixRule {
	next := PrefixRule{
		Prefix: q.Prefix, Rev: old.Rev + 1, RuleParts: old.change(q, now.UnixMilli()), Unknown: old.Unknown, By: q.Principal, At: now.UnixMilli(),
	}
	next.TTL = next.purgeAt()
	return next
}

// ruleLanding is how long after a change of a rule was decided on (PrefixRule.At) its write is stored at the latest: a request to the store ends within
// about 7 s.
const ruleLanding = 10 * time.Second

// inForceAt is when every coordinator goes by a rule that is stored by now, in Unix milliseconds; 0 for a rule that was never set. others are the rules
// that the table had when the rule was written. A coordinator goes by the rules that it read for [RulePeriod], and for [NoRulesPeriod] if it read before
// the table had any.
func inForceAt(p PrefixRule, others []PrefixRule, now time.Time) int64 {
	stored, landing, none := now.UnixMilli(), ruleLanding.Milliseconds(), NoRulesPeriod.Milliseconds()
	switch {
	case p.At == 0:
		return 0
	case stored > p.At+landing+none: // the repetition of a change that has been in force for long, at the latest since then
		return p.At + landing + none
	}
	first := stored // by then the table had a rule
	for _, o := range others {
		first = min(first, o.At+landing)
	}
	return max(stored+RulePeriod.Milliseconds(), first+none)
}

func ruleIn(rules []PrefixRule, prefix string) PrefixRule {
	for _, p := range rules {
		if p.Prefix == prefix {
			return p
		}
	}
	return PrefixRule{Prefix: prefix}
}

// Rule reads a prefix rule. One that was never set, or that was removed, is empty.
func (c *Coordinator) Rule(ctx context.Context, prefix string) (PrefixRule, error) {
	rules, err := c.readRules(ctx)
	if err != nil {
		return PrefixRule{}, err
	}
	return ruleIn(rules, prefix), nil
}

// PrefixRules reads all prefix rules, by which the coordinator then goes, and returns those that are not empty, in the order of their prefixes.
func (c *Coordinator) PrefixRules(ctx context.Context) ([]PrefixRule, error) {
	rules, err := c.readRules(ctx)
	if err != nil {
		return nil, err
	}
	rules = slices.DeleteFunc(slices.Clone(rules), PrefixRule.Empty)
	slices.SortFunc(rules, func(a, b PrefixRule) int { return cmp.Compare(a.Prefix, b.Prefix) })
	return rules, nil
}

// thawPage is how many locks one call of [Coordinator.Thaw] reads.
const thawPage = 100

// A Thawed is the outcome of one call of [Coordinator.Thaw].
type Thawed struct {
	Waiting []string  // the locks that others wait for; settle each of them
	Next    string    // the cursor of the next call; empty after the last
	Again   time.Time // not zero: the rule's freeze is still in force, and Thaw must be called again at this time, from the beginning
}

// Thaw finds the locks whose waiters may be granted after a freeze of a prefix has ended, a page at a time. It reads the rules anew, so that the caller,
// who settles the locks next, does not go by a freeze that this process still remembers.
func (c *Coordinator) Thaw(ctx context.Context, prefix, cursor string) (Thawed, error) {
	rules, err := c.readRules(ctx)
	if err != nil {
		return Thawed{}, err
	}
	now := c.clock()
	if f := ruleIn(rules, prefix).Freeze; f != nil && f.Until > now.UnixMilli() {
		return Thawed{Again: time.UnixMilli(f.Until)}, nil
	}
	page, err := c.store.List(ctx, ListQuery{Prefix: prefix, Limit: thawPage, Cursor: cursor})
	if err != nil {
		return Thawed{}, err
	}
	done := Thawed{Next: page.Next}
	for _, e := range page.Entries {
		if e.Record.Waiting > 0 && freezeOf(rules, e.Name, now) == nil {
			done.Waiting = append(done.Waiting, e.Name)
		}
	}
	return done, nil
}
