package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/history"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// govern is an operator who freezes all locks, or some, or none that there are, for a second to ten minutes; who freezes them anew for a longer or a shorter time;
// and who ends freezes early; and who sets and removes rates.
func (w *world) govern() {
	d := w.dice("governor")
	l := &link{w: w, client: "governor"}
	client, err := lockclient.New(lockclient.Config{Transport: l, Owner: "governor", RetryDelay: 700*time.Millisecond + d.between(0, time.Millisecond)})
	if err != nil {
		panic(err) // the configuration is valid
	}
	prefixes := []string{lock.AllLocks, "lock:", "lock:0", "lock:0", "lock:1", "lock:2", "other:"}
	for !w.over() {
		w.sleepThroughNight(d)
		time.Sleep(d.between(time.Second, 50*time.Second))
		prefix := prefixes[d.intn(len(prefixes))]
		rates, freezes := d.happens(Rates), d.happens(Freezes)
		if w.over() || !rates && !freezes {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), d.between(3*time.Second, 9*time.Second))
		switch ends := d.chance(0.4); { // the history has the rules as they are stored
		case rates && ends:
			_, _ = client.RemoveLimits(ctx, prefix)
		case rates:
			rate := lockclient.Rate{Grants: 1 + d.intn(4), Period: d.between(time.Second, 40*time.Second).Truncate(time.Millisecond)}
			_, _ = client.SetLimits(ctx, prefix, lockclient.Limits{Rate: rate})
		case ends:
			_, _ = client.Unfreeze(ctx, prefix)
		default:
			_, _ = client.Freeze(ctx, prefix, time.Now().Add(d.freezeTime()), "simulated")
		}
		cancel()
	}
	_ = client.Close(context.Background()) // it holds nothing
}

// freezeTime is how long a freeze lasts: mostly so long that some waits end within it.
func (d *dice) freezeTime() time.Duration {
	switch d.intn(6) {
	case 0:
		return d.between(time.Second, 5*time.Second)
	case 1:
		return d.between(time.Minute, 10*time.Minute)
	}
	return d.between(5*time.Second, time.Minute)
}

// changeRule sends a change of a rule, and records from when on its answer says that the rule is in force.
func (l *link) changeRule(ctx context.Context, r lockclient.Request, d *dice) (lockclient.Response, error) {
	w := l.w
	w.mu.Lock()
	w.requests++
	w.mu.Unlock()
	resp, err := l.exchange(ctx, r, nil, d)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch answer := resp.Answer.(type) {
	case wire.Rule:
		if answer.InForceAt != nil {
			promised := ruleWrite{lock.RulePrefix(answer.Prefix), answer.Rev}
			w.promises = append(w.promises, promise{promised, answer.InForceAt.UnixMilli()})
		}
	case *wire.Problem:
		late := answer.Code == wire.InvalidRequest // the freeze was over when the request arrived
		if !late && answer.Code != wire.RuleChanged {
			l.unexpected(&request{Op: history.Op{Op: history.Kind(r.Op), Lock: r.Lock}}, answer)
		}
	}
	return resp, err
}

// A ruleWrite names a write of a prefix rule.
type ruleWrite struct {
	prefix string
	rev    int64
}

// A promise is what an answer says of a rule: from when on it is in force, in Unix milliseconds.
type promise struct {
	ruleWrite
	inForce int64
}

// ruleChanged is the table's stream, as far as it shows writes of prefix rules. Both templates' filters deliver all of them.
func (w *world) ruleChanged(before, after lock.PrefixRule) {
	w.mu.Lock()
	rule := history.Rule{Prefix: after.Prefix, Rev: after.Rev, At: w.at()}
	if after.Freeze != nil {
		rule.Until = after.Freeze.Until
	}
	if after.Limits != nil {
		rule.Grants, rule.Period = after.Limits.Rate.Grants, after.Limits.Rate.Period
	}
	w.h.Rules = append(w.h.Rules, rule)
	w.mu.Unlock()
	subject := lock.RuleSubject(after.Prefix)
	w.shardOf(subject).add(lock.Write{Lock: subject, Rule: &lock.RuleWrite{Before: before, After: after}})
}

// unread notes that a coordinator could not read the rules for a request.
func (w *world) unread(op *request) {
	if op == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	op.NoRules = true
	for i := range op.set {
		op.set[i].NoRules = true
	}
}

// recordRule notes the event of a change of a rule.
func (b bus) recordRule(e stream.Entry) {
	var change events.RuleChanged
	if err := json.Unmarshal(e.Detail, &change); err != nil {
		b.w.problem("a rule's event is not JSON: " + err.Error())
		return
	}
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	b.w.told[ruleWrite{lock.RulePrefix(change.Prefix), change.Rev}] = true
}

// finishRules adds to the history's rules what the answers to their changes said, and checks that there is an event of each. It needs w.mu.
func (w *world) finishRules() {
	byWrite := map[ruleWrite]*history.Rule{}
	for i := range w.h.Rules {
		r := &w.h.Rules[i]
		id := ruleWrite{r.Prefix, r.Rev}
		byWrite[id] = r
		if !w.told[id] {
			w.problems = append(w.problems, fmt.Sprintf("there is no event of revision %d of the rule of %q", r.Rev, r.Prefix))
		}
	}
	for _, p := range w.promises {
		r := byWrite[p.ruleWrite]
		if r == nil {
			w.problems = append(w.problems, fmt.Sprintf("an answer names revision %d of the rule of %q, which was never written", p.rev, p.prefix))
		} else if r.InForce == 0 || p.inForce < r.InForce {
			r.InForce = p.inForce
		}
	}
}

// frozenUntil is the end of the freeze that an answer names, in Unix milliseconds; 0 for none.
func frozenUntil(f *wire.Freeze) int64 {
	if f == nil {
		return 0
	}
	return f.Until.UnixMilli()
}
