package storetest

import (
	"errors"
	"slices"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// freeze freezes the names that begin with the fixture's lock's name, for a time.
func (f *fixture) freeze(d time.Duration) lock.RuleStatus {
	f.t.Helper()
	s, err := f.SetRule(f.t.Context(), lock.RuleRequest{Prefix: f.name, Principal: "arn:op", Set: lock.RuleParts{Freeze: &lock.Freeze{Until: f.clock.Now().Add(d).Truncate(time.Millisecond).UnixMilli(), Reason: "audit"}}})
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

func (f *fixture) frozen(err error) *lock.HeldError {
	f.t.Helper()
	held, ok := errors.AsType[*lock.HeldError](err)
	if !ok || held.Freeze == nil {
		f.t.Fatalf("error %v, want a freeze", err)
	}
	return held
}

var ruleSuite = map[string]func(*fixture){
	"a rule is read as it was stored": func(f *fixture) {
		want := f.freeze(time.Hour).PrefixRule
		all, err := f.store.PrefixRules(f.t.Context())
		i := slices.IndexFunc(all, func(p lock.PrefixRule) bool { return p.Prefix == f.name })
		if err != nil || i < 0 {
			f.t.Fatalf("rules %+v, %v", all, err)
		}
		got, frozen := all[i], *all[i].Freeze
		if frozen != *want.Freeze || frozen.By != "arn:op" || frozen.Reason != "audit" {
			f.t.Errorf("read %+v, stored %+v", frozen, *want.Freeze)
		}
		got.Freeze, want.Freeze = nil, nil
		if got != want || got.Rev != 1 || got.By != "arn:op" || got.TTL == 0 {
			f.t.Errorf("read %+v, stored %+v", got, want)
		}
	},
	"a rule is stored only after the revision before": func(f *fixture) {
		rule := f.freeze(time.Hour).PrefixRule
		for _, rev := range []int64{0, 1, 3} {
			bad := rule
			bad.Rev = rev
			f.wantErr(f.store.PutPrefixRule(f.t.Context(), bad), lock.ErrRuleChanged)
		}
		rule.Rev, rule.Freeze, rule.By, rule.TTL = 2, nil, "", 0
		if err := f.store.PutPrefixRule(f.t.Context(), rule); err != nil {
			f.t.Fatal(err)
		}
		if got, err := f.Rule(f.t.Context(), f.name); err != nil || got != rule {
			f.t.Errorf("read %+v, %v, stored %+v", got, err, rule)
		}
		f.wantErr(f.store.PutPrefixRule(f.t.Context(), lock.PrefixRule{Prefix: f.name + ":new", Rev: 2}), lock.ErrRuleChanged)
	},
	"nobody is granted a frozen lock, and waiters are granted it afterwards": func(f *fixture) {
		f.mustAcquire("a")
		f.freeze(time.Minute)
		if _, err := f.renew("a"); err != nil {
			f.t.Error("renewal of a frozen lock:", err)
		}
		_, err := f.acquire("b", func(r *lock.AcquireRequest) { r.Wait = time.Hour })
		if held := f.frozen(err); held.Position != 1 || held.Ticket == 0 || len(held.Holders) != 1 || held.Freeze.Reason != "audit" {
			f.t.Errorf("answer to a waiter: %+v", held)
		}
		if _, err := f.release("a"); err != nil {
			f.t.Fatal(err)
		}
		_, err = f.acquire("c")
		_ = f.frozen(err)
		if r := f.record(); len(r.Holders) != 0 || r.Waiting != 1 {
			f.t.Fatalf("frozen: %+v", r)
		}
		f.clock.Advance(time.Minute)
		if err := f.Settle(f.t.Context(), f.name); err != nil {
			f.t.Fatal(err)
		}
		if _, mine := f.record().Holders[lock.KeyOf(f.name, "b")]; !mine {
			f.t.Errorf("after the freeze: %+v", f.record())
		}
	},
}
