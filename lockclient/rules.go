package lockclient

import (
	"context"
	"net/http"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A Rule is what an operator has set for all locks whose names begin with a prefix.
type Rule struct {
	Prefix    string // "*" for all locks
	Frozen    *Freeze
	Limits    *Limits
	History   *Keeping  // nil: the rule asks for no history
	Unknown   []string  // the parts that a newer version has set and the coordinator does not know, and does not go by
	By        string    // the ARN of the operator who made the last change; empty if it is not known
	ChangedAt time.Time // of the last change
	// InForceAt, in the answer to a change, is the time from which every coordinator goes by the rule. A request that is under way then may still be
	// carried out by the rules as they were before.
	InForceAt time.Time
}

// Freeze freezes all locks whose names begin with prefix, or "*" for all locks, until a time, in place of an earlier freeze of the same prefix. Until
// then they are granted to nobody; holders renew and release as always, and waiters keep their places. All callers get the reason, 1 to 512 bytes.
// The freeze is in force from [Rule.InForceAt] on: about a second after the change, or ten seconds if the table had no rules until shortly before. The
// caller needs a permission of its own (see docs/iam.md).
func (c *Client) Freeze(ctx context.Context, prefix string, until time.Time, reason string) (Rule, error) {
	r, err := c.changeRule(ctx, wire.OpPutRule, prefix, wire.RuleRequest{Freeze: &wire.FreezeRequest{Until: wire.At(until.UnixMilli()), Reason: reason}})
	if err != nil {
		return Rule{}, &OpError{ErrFreeze, prefix, err}
	}
	return r, nil
}

// Unfreeze ends the freeze of a prefix. Other parts of its rule stay. Waiters are granted their locks at their next poll, or some seconds later. A prefix without a freeze is
// no error. Locks that other prefixes freeze stay frozen.
func (c *Client) Unfreeze(ctx context.Context, prefix string) (Rule, error) {
	r, err := c.changeRule(ctx, wire.OpDeleteRule, prefix, wire.RuleRemoval{Part: "freeze"})
	if err != nil {
		return Rule{}, &OpError{ErrUnfreeze, prefix, err}
	}
	return r, nil
}

// Limits bind the locks whose names begin with a prefix. A number that is 0 sets no limit. They bind new leases and new places in queues; those that are
// there keep what they have.
type Limits struct {
	Capacity int // of each lock: callers that name another are refused, those that name none get it
	// MaxTTL is the longest TTL of a lease; a longer one is refused. MaxHold is how long a lease lasts from its grant on, however often it is renewed.
	MaxTTL, MaxHold time.Duration
	MaxQueue        int  // waiters of one lock
	Rate            Rate // how often one lock is granted
	MaxPerPrincipal int  // permits of one lock that one principal holds and waits for together; all sessions of a role are one principal

	By    string    // in answers: the ARN of the operator who set the limits; empty if it is not known
	Since time.Time // in answers: when
}

// A Rate is how often a lock is granted: at most Grants times, 1 to 100, in any Period, from a second to a day. The zero Rate sets no limit.
type Rate struct {
	Grants int
	Period time.Duration
}

// SetLimits sets the limits of the locks whose names begin with prefix, or "*" for all locks, in place of earlier ones of the same prefix. A freeze of the prefix stays. Of the
// limits of several prefixes the smallest value of each counts. They are in force from [Rule.InForceAt] on. The caller needs the permission for [Client.Freeze].
func (c *Client) SetLimits(ctx context.Context, prefix string, limits Limits) (Rule, error) {
	request := wire.RuleRequest{Limits: &wire.LimitsRequest{
		Capacity: int64(limits.Capacity), MaxTTL: limits.MaxTTL.Milliseconds(), MaxHold: limits.MaxHold.Milliseconds(),
		MaxQueue: int64(limits.MaxQueue), MaxPerPrincipal: int64(limits.MaxPerPrincipal),
		Rate: wire.Rate{Grants: int64(limits.Rate.Grants), Period: limits.Rate.Period.Milliseconds()},
	}}
	r, err := c.changeRule(ctx, wire.OpPutRule, prefix, request)
	if err != nil {
		return Rule{}, &OpError{ErrSetLimits, prefix, err}
	}
	return r, nil
}

// RemoveLimits removes the limits of a prefix. A prefix without limits is no error. Limits of other prefixes stay.
func (c *Client) RemoveLimits(ctx context.Context, prefix string) (Rule, error) {
	r, err := c.changeRule(ctx, wire.OpDeleteRule, prefix, wire.RuleRemoval{Part: "limits"})
	if err != nil {
		return Rule{}, &OpError{ErrRemoveLimits, prefix, err}
	}
	return r, nil
}

func newLimits(l *wire.Limits) *Limits {
	if l == nil {
		return nil
	}
	return &Limits{
		Capacity: int(l.Capacity), MaxTTL: time.Duration(l.MaxTTL) * time.Millisecond, MaxHold: time.Duration(l.MaxHold) * time.Millisecond,
		MaxQueue: int(l.MaxQueue), MaxPerPrincipal: int(l.MaxPerPrincipal),
		Rate: Rate{int(l.Rate.Grants), time.Duration(l.Rate.Period) * time.Millisecond}, By: l.By, Since: l.Since.Time,
	}
}

func (c *Client) changeRule(ctx context.Context, op wire.Op, prefix string, request any) (Rule, error) {
	if problem := wire.CheckRulePrefix(prefix); problem != "" {
		return Rule{}, refused("prefix", "prefix %s", problem)
	}
	var answer wire.Rule
	if err := c.retry(ctx, func() error { return c.send(ctx, op, prefix, request, &answer) }); err != nil {
		return Rule{}, err
	}
	return newRule(answer), checkLock(answer.Prefix, prefix)
}

// Rules reads all rules, in the order of their prefixes.
func (c *Client) Rules(ctx context.Context) ([]Rule, error) {
	var answer wire.Rules
	err := c.retry(ctx, func() error { return c.send(ctx, wire.OpRules, "", nil, &answer) })
	if err == nil && answer.Rules == nil {
		err = notCoordinator(http.StatusOK, "an answer that is no list of rules")
	}
	if err != nil {
		return nil, &OpError{ErrRules, "", err}
	}
	var list []Rule
	for _, r := range answer.Rules {
		list = append(list, newRule(r))
	}
	return list, nil
}

func newRule(r wire.Rule) Rule {
	return Rule{
		Prefix: r.Prefix, Frozen: newFreeze(r.Freeze), Limits: newLimits(r.Limits), History: newKeeping(r.History), Unknown: r.Unknown, By: r.By,
		ChangedAt: timeOf(r.ChangedAt), InForceAt: timeOf(r.InForceAt),
	}
}
