package wire

import (
	"fmt"
	"time"
)

// AllLocks is the prefix of a rule for all locks, in place of the empty text, which a URL cannot carry.
const AllLocks = "*"

// MaxFreeze is how far ahead the end of a freeze may be.
const MaxFreeze = 366 * 24 * time.Hour

// Freeze is a time in which nobody is granted the locks whose names begin with Prefix.
type Freeze struct {
	Prefix string `json:"prefix"`
	Until  Time   `json:"until"`
	Reason string `json:"reason"`
	By     string `json:"by,omitempty"` // the principal that froze the locks
	Since  Time   `json:"since"`
}

// The shortest and the longest time for which the history of locks can be kept.
const (
	MinKeep = time.Hour
	MaxKeep = 400 * 24 * time.Hour
)

// Keeping says for how long the history of the locks below a prefix is kept.
type Keeping struct {
	Prefix string `json:"prefix"`
	Keep   int64  `json:"keep_ms"`      // an entry, from the change that it describes
	By     string `json:"by,omitempty"` // the principal that asked for it
	Since  Time   `json:"since"`
}

// KeepRequest asks that the history of the locks below a prefix is kept.
type KeepRequest struct {
	Keep int64 `json:"keep_ms"` // from [MinKeep] to [MaxKeep]
}

// RuleRequest sets parts of a prefix rule. A part that it leaves out stays as it is.
type RuleRequest struct {
	Freeze  *FreezeRequest `json:"freeze,omitempty"`
	Limits  *LimitsRequest `json:"limits,omitempty"`
	History *KeepRequest   `json:"history,omitempty"`
	Rev     *int64         `json:"rev,omitempty"` // the revision that the rule must have, 0 for none; nil: any
}

// RuleRemoval removes a part of a prefix rule, "freeze", "limits" or "history", or all parts if it is empty.
type RuleRemoval struct {
	Part string `json:"part,omitzero"`
}

// FreezeRequest asks that the locks below a prefix are frozen.
type FreezeRequest struct {
	Until  Time   `json:"until"`
	Reason string `json:"reason"`
}

// Limits of the values of limits. MaxHold may be as long as an execution, and is no shorter than the time in which a waiter claims its grant.
const (
	MinHoldLimit = 10 * time.Second
	MaxHoldLimit = 366 * 24 * time.Hour
	MaxQueue     = 500 // waiters of one lock
	MaxGrants    = 100 // of a rate

	MinRatePeriod = time.Second
	MaxRatePeriod = 24 * time.Hour // as long as a row is kept after its last write
)

// LimitsRequest asks for limits of the locks below a prefix, in place of earlier ones. A number that is 0 sets no limit.
type LimitsRequest struct {
	Capacity        int64 `json:"capacity,omitzero"`          // permits of each lock
	MaxTTL          int64 `json:"max_ttl_ms,omitzero"`        // of a lease
	MaxHold         int64 `json:"max_hold_ms,omitzero"`       // from a grant on, with all renewals
	MaxQueue        int64 `json:"max_queue,omitzero"`         // waiters of one lock
	MaxPerPrincipal int64 `json:"max_per_principal,omitzero"` // permits of one lock that one principal holds and waits for
	Rate            Rate  `json:"rate,omitzero"`              // how often one lock is granted
}

// Rate is how often a lock is granted: at most Grants times in any Period.
type Rate struct {
	Grants int64 `json:"grants"`
	Period int64 `json:"period_ms"`
}

// Times says how often: once, or n times.
func Times(n int64) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// RateText says how often the locks below the prefix of a rule, or "*", are granted, and when the next grant of one of them is possible.
func RateText(prefix string, grants int64, period, next time.Duration) string {
	each := "each lock"
	if prefix != "*" {
		each += " below " + prefix
	}
	return fmt.Sprintf("%s is granted %s in %v at most, and the next grant is possible in %v", each, Times(grants), period, next)
}

// Limits are the limits of the locks whose names begin with a prefix.
type Limits struct {
	LimitsRequest
	By    string `json:"by,omitempty"` // the principal that set them
	Since Time   `json:"since"`
}

// Rule is a prefix rule.
type Rule struct {
	Prefix    string   `json:"prefix"`
	Rev       int64    `json:"rev"` // number of changes so far; 0: it was never set
	Freeze    *Freeze  `json:"freeze,omitempty"`
	Limits    *Limits  `json:"limits,omitempty"`
	History   *Keeping `json:"history,omitempty"`
	Unknown   []string `json:"unknown,omitempty"`     // the parts that a newer version has set and this one does not know, and does not go by
	By        string   `json:"by,omitempty"`          // the principal that made the last change
	ChangedAt *Time    `json:"changed_at,omitempty"`  // of the last change
	InForceAt *Time    `json:"in_force_at,omitempty"` // in the answer to a change: from then on every coordinator goes by it
}

// Rules is the answer to a request for all rules.
type Rules struct {
	Rules []Rule `json:"rules"`
}

// CheckRulePrefix returns what is wrong with the prefix of a rule, or "". The text follows the word "prefix".
func CheckRulePrefix(prefix string) string {
	if prefix == AllLocks {
		return ""
	}
	if prefix == "" {
		return `is empty; give the beginning of locks' names, or "*" for all locks`
	}
	return CheckName(prefix)
}
