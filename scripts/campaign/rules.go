package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/history"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// Prefix rules: an operator, who is a client of the round's own behind the same faults, freezes locks and limits how often they are granted. A rule that is to be judged must be in force everywhere
// while its locks are used, and a process that is stopped may go by the rules that it had before. So most rules are set before the epoch of their locks begins.

const (
	// ruleLead is how long before an epoch its rules are set: for the change through the faults, the period in which coordinators use what they have read, and ruleRead.
	ruleLead = 14 * time.Second
	// ruleRead is how long a process may go by rules longer than their period: a client's process is stopped for 5 s with the reply unread, the reply is delayed, and the engine and the machine
	// are late.
	ruleRead = maxPause + 50*time.Millisecond + maxDelay + 2*time.Second
	// ruleFlight is how long before it was read in the stream a write may have been decided on: as long as a copy of a request is late, and the stream behind.
	ruleFlight = 30 * time.Second
	// maxRulePrefixes is how many prefixes of a round have rules. A rule that has ended counts as one of the table's hundred for a week.
	maxRulePrefixes = lock.MaxPrefixRules - 10
	ruleTimeout     = 5 * time.Second // of a change
)

// A ruleChange is what the operator does at a time after the start.
type ruleChange struct {
	at     time.Duration
	prefix string
	freeze time.Duration   // freeze until this time after the start; 0: no freeze
	rate   lockclient.Rate // limit to this
	remove string          // "freeze" or "limits"; empty: none
}

// rules are the operator's changes in a round, in the order of their times. They follow from the plan.
func (p plan) rules() (list []ruleChange) {
	if !p.Rules {
		return nil
	}
	random := rand.New(rand.NewPCG(p.Seed, 98))
	between := func(from, to time.Duration) time.Duration { return from + time.Duration(random.Int64N(int64(to-from))) }
	// A table without rules is read every ten seconds only.
	list = append(list, ruleChange{prefix: "none:", freeze: time.Hour})
	used := 1
	epoch, length := time.Duration(p.Epoch*float64(time.Second)), time.Duration(p.Seconds*float64(time.Second))
	for n := 0; time.Duration(n)*epoch < length; n++ {
		start := time.Duration(n) * epoch
		prefixes := p.rulePrefixes(n, random)
		if used += len(prefixes); used > maxRulePrefixes {
			break
		}
		set := max(start-ruleLead-between(0, 2*time.Second), time.Second)
		frozen, rated, sudden := prefixes[0], prefixes[1], prefixes[2]
		until := start + between(time.Second, 5*time.Second)
		list = append(list, ruleChange{at: set, prefix: frozen, freeze: until})
		if early := start + between(500*time.Millisecond, 4*time.Second); early < until {
			list = append(list, ruleChange{at: early, prefix: frozen, remove: "freeze"})
		}
		rate := lockclient.Rate{Grants: 1 + random.IntN(5), Period: between(time.Second, 3*time.Second).Truncate(time.Millisecond)}
		list = append(list, ruleChange{at: set, prefix: rated, rate: rate})
		if random.IntN(2) == 0 {
			list = append(list, ruleChange{at: start + between(6*time.Second, epoch), prefix: rated, remove: "limits"})
		}
		at := start + between(0, 6*time.Second)
		list = append(list, ruleChange{at: at, prefix: sudden, freeze: at + between(time.Second, 3*time.Second)})
	}
	list = slices.DeleteFunc(list, func(c ruleChange) bool { return c.at >= length })
	for i := range list {
		if list[i].prefix != "none:" {
			list[i].freeze = min(list[i].freeze, length)
		}
	}
	slices.SortStableFunc(list, func(a, b ruleChange) int { return int(a.at - b.at) })
	return list
}

// rulePrefixes are the prefixes of an epoch that have rules: those of single locks, of which some are also prefixes of others, and sometimes that of all locks of a kind.
func (p plan) rulePrefixes(epoch int, random *rand.Rand) []string {
	var list []string
	for len(list) < 3 {
		prefix := lockName(int64(epoch), random.IntN(min(p.Locks, 16)))
		if random.IntN(5) == 0 {
			prefix = fmt.Sprintf("e%d:%s", epoch, []string{"rw", "s"}[random.IntN(2)])
		}
		if !slices.Contains(list, prefix) {
			list = append(list, prefix)
		}
		if p.Locks < 3 {
			list = append(list, fmt.Sprintf("e%d:none%d", epoch, len(list)))
		}
	}
	return list
}

// A rulePromise is what an answer to a change says: from when on the rule is in force, in Unix milliseconds.
type rulePromise struct {
	prefix           string
	changed, inForce int64
}

// govern makes the changes of rules until all are made.
func (r *round) govern() {
	changes := r.plan.rules()
	if len(changes) == 0 {
		return
	}
	api, err := r.api.Listen("127.0.0.1:0", "operator")
	var client *lockclient.Client
	if err == nil {
		client, err = lockclient.New(lockclient.Config{Endpoint: api, Owner: "operator", RequestTimeout: 3 * time.Second, RetryDelay: 200 * time.Millisecond})
	}
	if err != nil {
		r.complain("rules: the operator's client: " + err.Error())
		return
	}
	began := time.Now().Add(-time.Duration(now() - r.start)) // of the first epoch
	var under sync.WaitGroup
	for _, c := range changes {
		time.Sleep(time.Until(began.Add(c.at)))
		under.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), ruleTimeout)
			defer cancel()
			r.changeRule(ctx, client, began, c)
		})
	}
	under.Wait()
	_ = client.Close(context.Background()) // it holds nothing
}

// changeRule makes one change, and keeps what its answer says. The history has the rules as they are stored.
func (r *round) changeRule(ctx context.Context, client *lockclient.Client, began time.Time, c ruleChange) {
	var rule lockclient.Rule
	var err error
	switch {
	case c.remove == "limits":
		rule, err = client.RemoveLimits(ctx, c.prefix)
	case c.remove == "freeze":
		rule, err = client.Unfreeze(ctx, c.prefix)
	case c.rate != lockclient.Rate{}:
		rule, err = client.SetLimits(ctx, c.prefix, lockclient.Limits{Rate: c.rate})
	default:
		rule, err = client.Freeze(ctx, c.prefix, began.Add(c.freeze), "campaign")
	}
	if err != nil || rule.InForceAt.IsZero() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.promises = append(r.promises, rulePromise{c.prefix, rule.ChangedAt.UnixMilli(), rule.InForceAt.UnixMilli()})
}

// complain notes a violation.
func (r *round) complain(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.complaints = append(r.complaints, text)
}

// takeRule notes a write of a rule. It needs t.mu.
func (t *truth) takeRule(after lock.PrefixRule) {
	rule := history.Rule{Prefix: after.Prefix, Rev: after.Rev, At: (after.At - t.start) * int64(time.Millisecond), Seen: now()}
	if after.Freeze != nil {
		rule.Until = after.Freeze.Until
	}
	if after.Limits != nil {
		rule.Grants, rule.Period = after.Limits.Rate.Grants, after.Limits.Rate.Period
	}
	t.rules = append(t.rules, rule)
}

// A ruleWrite names a write of a rule.
type ruleWrite struct {
	prefix string
	rev    int64
}

// rules are the history's rules, with what the answers to their changes said. It finds changes without an event.
func (r *round) rules() (rules []history.Rule, found []string) {
	rules = slices.Clone(r.truth.rules)
	for i := range rules {
		rule := &rules[i]
		if !r.services.rules[ruleWrite{rule.Prefix, rule.Rev}] {
			found = append(found, fmt.Sprintf("events: there is none of revision %d of the rule of %q", rule.Rev, rule.Prefix))
		}
		for _, p := range r.promises {
			at := (p.changed - r.truth.start) * int64(time.Millisecond)
			if lock.RulePrefix(p.prefix) == rule.Prefix && at == rule.At && (rule.InForce == 0 || p.inForce < rule.InForce) {
				rule.InForce = p.inForce
			}
		}
	}
	return rules, found
}
