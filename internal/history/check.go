package history

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// Config is what the checks must know of the service.
type Config struct {
	// Skew is how far apart, pairwise, the clocks that decide on expiry may be. A lease is lost to its holder at most this much before
	// its expiry, and lasts at most this much longer.
	Skew time.Duration
	// Claim is how long a grant to a waiter lasts until the waiter asks for it.
	Claim time.Duration
	// Late is how long after its caller got an answer, or gave up, a request or a copy of it may still reach the coordinator. It is for
	// operations that do not say so themselves (see [Op.Late]).
	Late time.Duration
	// Timeout bounds the search for an order of one span of operations of a lock. A span that takes longer is undecided, which is not
	// passed. 0: 10 s.
	Timeout time.Duration
	// Span is the number of operations of a lock after which the search begins anew at the next moment in which no operation is under
	// way. 0: 2,000.
	Span int
	// Stable says that the events are complete: whatever reads the stream has read and published all of it. Otherwise events may be
	// missing at the end.
	Stable bool
	// Recorded says that the rows have every write of every lock, from the first on. Then each grant must be in them.
	Recorded bool
	// Queues says that the rows have [Record.SetFirst]. Otherwise a write that frees a lock which a set of the history names, and grants it to none, is
	// not judged.
	Queues bool
	// Ordered says that nothing delayed single events: those of one lock come in the order of its writes.
	Ordered bool
	// Start is the time 0 of the history, in Unix milliseconds; 0: unknown. Answers that a lock is frozen are then judged by the rules.
	Start int64
	// Timed says that the rows have the times of their writes. Refusals are then judged by the rows.
	Timed bool
	// RuleUse is how long a coordinator goes by prefix rules that it has read, counted from before the request, where the table has any; NoRuleUse is the same
	// where it has none. RuleRead is how long such a request and the decision after it may take. RuleLanding is how long after [Rule.At] a rule may be stored that has no [Rule.Seen].
	RuleUse, NoRuleUse, RuleRead, RuleLanding time.Duration
	// Flight is how long before the time of its row a write may have been decided on.
	Flight time.Duration
	// Forgotten is how long a task may wait for a lock that is free and not frozen; 0: that is not checked.
	Forgotten time.Duration
}

// Holdfast is the Config of Holdfast with its default rules.
func Holdfast() Config {
	return Config{Skew: 250 * time.Millisecond, Claim: 10 * time.Second, Late: 10 * time.Second, RuleUse: lock.RulePeriod, NoRuleUse: lock.NoRulesPeriod}
}

// grain is the precision of times in Holdfast's records and answers.
const grain = int64(time.Millisecond)

// A Violation is something that the history shows and the service must not do.
type Violation struct {
	Check string // the check that found it
	Lock  string
	At    int64 // about when, in the history's time; 0: unknown
	What  string
}

func (v Violation) String() string {
	return fmt.Sprintf("%s: lock %s at %v: %s", v.Check, v.Lock, time.Duration(v.At), v.What)
}

// A Report is what [Check] found.
type Report struct {
	Ops, Beliefs, Guarded, Events, Rows, Rules int // what was checked
	Violations                                 []Violation
	Undecided                                  []string // what was not decided in time, which is not passed
}

// Err is an error that lists the violations and what is undecided, at most ten of each; nil with neither.
func (r Report) Err() error {
	if len(r.Violations) == 0 && len(r.Undecided) == 0 {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d violations, %d spans undecided", len(r.Violations), len(r.Undecided))
	for _, v := range r.Violations[:min(len(r.Violations), 10)] {
		b.WriteString("\n" + v.String())
	}
	for _, u := range r.Undecided[:min(len(r.Undecided), 10)] {
		b.WriteString("\nundecided: " + u)
	}
	return fmt.Errorf("%s", b.String())
}

// Check runs all checks on a history. A check for which the history has no entries finds nothing.
func Check(h *History, cfg Config) Report {
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Span == 0 {
		cfg.Span = 2000
	}
	r := Report{Ops: len(h.Ops), Beliefs: len(h.Beliefs), Guarded: len(h.Guarded), Events: len(h.Events), Rows: len(h.Rows), Rules: len(h.Rules)}
	freezes := freezesOf(h, cfg)
	byLock := map[string][]Op{}
	for _, o := range h.Ops {
		if o.Result != Refused {
			byLock[o.Lock] = append(byLock[o.Lock], o)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byLock)) {
		ops := byLock[name]
		slices.SortStableFunc(ops, func(a, b Op) int { return compare(a.Began, b.Began) })
		linear, undecided := checkOrder(name, ops, cfg)
		r.Violations, r.Undecided = append(r.Violations, linear...), append(r.Undecided, undecided...)
		r.Violations = append(r.Violations, checkFences(name, ops)...)
		r.Violations = append(r.Violations, checkQueue(name, ops, cfg)...)
	}
	r.Violations = append(r.Violations, checkBeliefs(h.Beliefs, byLock, cfg)...)
	r.Violations = append(r.Violations, checkGuarded(h.Guarded)...)
	r.Violations = append(r.Violations, checkRows(h, freezes, cfg)...)
	r.Violations = append(r.Violations, checkFreezes(h, freezes)...)
	r.Violations = append(r.Violations, checkRates(h, freezes)...)
	if cfg.Recorded {
		r.Violations = append(r.Violations, checkGrants(h)...)
		r.Violations = append(r.Violations, checkSets(h, cfg)...)
	}
	if cfg.Timed {
		r.Violations = append(r.Violations, checkRefusals(h, cfg)...)
		r.Violations = append(r.Violations, checkHeads(h, freezes)...)
		r.Violations = append(r.Violations, checkForgotten(h, freezes)...)
		r.Violations = append(r.Violations, checkDowngrades(h)...)
	}
	r.Violations = append(r.Violations, checkEvents(h, cfg)...)
	return r
}

func compare(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// until is the time until which copies of an operation may reach the coordinator.
func (c Config) until(o Op) int64 {
	if o.Late > 0 {
		return max(o.Late, o.Ended)
	}
	return o.Ended + int64(c.Late)
}
