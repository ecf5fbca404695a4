package lock

import (
	"context"
	"errors"
	"sync"
	"time"
)

// The cache of prefix rules. A coordinator reads all rules in one consistent request before its first grant, and again when they are older than a
// period, counted from before the request was sent. So a rule is used everywhere within a period of its write, except by requests
// that were under way: a write that was decided on by older rules may still land.
//
// Where a table has rules, or had some within [RuleMemory], the period is [RulePeriod], so that a freeze is used at once. Where it has none, it is
// [NoRulesPeriod], so that rules cost tables without them nearly nothing; the first rule of a table takes so long.

const (
	// RulePeriod is how old the prefix rules may be by which a coordinator grants, where the table has any.
	RulePeriod = time.Second
	// NoRulesPeriod is the same where the table has none, and had none within [RuleMemory].
	NoRulesPeriod = 10 * time.Second
)

// periodOf is how long rules that were read may be used.
func periodOf(rules []PrefixRule) time.Duration {
	if len(rules) == 0 {
		return NoRulesPeriod
	}
	return RulePeriod
}

// A ruleCache has the prefix rules as they were last read. The zero ruleCache has none.
type ruleCache struct {
	mu    sync.Mutex
	rules []PrefixRule
	sent  time.Time // when the request was sent that read them; zero: they must be read
	known bool      // they were read once
	drops int       // how often they were dropped

	once  sync.Once
	turns chan struct{} // has an element while a request is under way, which others wait for
}

// get returns the rules if they may still be used. Both clocks must say so: the process's clock may be set back, and its monotonic clock may stand
// still while the process is suspended.
func (k *ruleCache) get(now time.Time) ([]PrefixRule, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sent.IsZero() {
		return nil, false
	}
	period, age, wall := periodOf(k.rules), now.Sub(k.sent), now.Round(0).Sub(k.sent.Round(0))
	return k.rules, age >= 0 && age < period && wall >= 0 && wall < period
}

// last returns the rules as they were last read, however old they are.
func (k *ruleCache) last() (rules []PrefixRule, known bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rules, k.known
}

// put keeps rules that were read, unless newer ones are there, or they were dropped since: then they may be older than what made the caller drop
// them.
func (k *ruleCache) put(rules []PrefixRule, sent time.Time, drops int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.drops == drops && !sent.Before(k.sent) {
		k.rules, k.sent, k.known = rules, sent, true
	}
}

// drop makes the next user read the rules.
func (k *ruleCache) drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sent = time.Time{}
	k.drops++
}

func (k *ruleCache) dropped() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.drops
}

// turn waits until no other request of this process reads the rules.
func (k *ruleCache) turn(ctx context.Context) (done func(), err error) {
	k.once.Do(func() { k.turns = make(chan struct{}, 1) })
	select {
	case k.turns <- struct{}{}:
		return func() { <-k.turns }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// freshRules returns the prefix rules, no older than their period. One request reads them for all that wait at the same time.
func (c *Coordinator) freshRules(ctx context.Context) ([]PrefixRule, error) {
	if rules, fresh := c.cache.get(c.clock()); fresh {
		return rules, nil
	}
	done, err := c.cache.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if rules, fresh := c.cache.get(c.clock()); fresh {
		return rules, nil
	}
	return c.readRules(ctx)
}

// readRules reads the prefix rules, and keeps them in the cache.
func (c *Coordinator) readRules(ctx context.Context) ([]PrefixRule, error) {
	sent, drops := c.clock(), c.cache.dropped()
	rules, err := c.store.PrefixRules(ctx)
	if err != nil {
		return nil, c.noteClock(err)
	}
	c.cache.put(rules, sent, drops)
	return rules, nil
}

// A hold is what may keep a lock from being granted: see [Record.heldBack]. nil keeps nothing back.
type hold struct {
	freeze *Freeze
	rates  []rate
	err    error // why the rules could not be read
}

// freezes reports whether the freeze is in force at a time.
func (h *hold) freezes(now time.Time) bool {
	return h != nil && h.freeze != nil && h.freeze.Until > now.UnixMilli()
}

// failed is the error of the rules that could not be read, or nil.
func (h *hold) failed() error {
	if h == nil {
		return nil
	}
	return h.err
}

// passes is the error of rules that could not be read for a fault that passes, or nil.
func (h *hold) passes() error {
	if err := h.failed(); err != nil && !errors.Is(err, ErrMisconfigured) {
		return err
	}
	return nil
}

// holdOn is what keeps a lock from being granted by the prefix rules. If these cannot be read, nothing may be granted.
func (c *Coordinator) holdOn(ctx context.Context, name string) *hold { return c.holdsOn(ctx, name)[0] }

// holdsOn is holdOn for several locks, all by the same rules.
func (c *Coordinator) holdsOn(ctx context.Context, names ...string) []*hold {
	list := make([]*hold, len(names))
	rules, err := c.freshRules(ctx)
	now := c.clock()
	for i, name := range names {
		if err != nil {
			list[i] = &hold{err: err}
			continue
		}
		list[i] = holdBy(rules, name, now)
	}
	return list
}

// holdBy is what rules say that may keep a lock from being granted; nil: nothing.
func holdBy(rules []PrefixRule, name string, now time.Time) *hold {
	h := hold{freeze: freezeOf(rules, name, now), rates: ratesOf(rules, name)}
	if h.freeze == nil && h.rates == nil {
		return nil
	}
	return &h
}

// A taker is a decider that may grant its caller a lock that nobody waits for.
type taker interface{ takes() }

func (acquiring) takes() {}

// withHold adds to a record what keeps the lock from being granted, if the operation may grant it. While the rules cannot be read for a fault that
// passes, the operation fails, as it does if the queue cannot be read. While they can never be read as the table is set up, the operation goes on, and
// grants nothing.
func (c *Coordinator) withHold(ctx context.Context, name string, r Record, op decider) (Record, error) {
	_, takes := op.(taker)
	if op.waiters(r) == 0 || !takes && r.Waiting == 0 {
		return r, nil
	}
	r.hold = c.holdOn(ctx, name)
	return r, r.hold.passes()
}
