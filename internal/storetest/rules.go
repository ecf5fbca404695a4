package storetest

import (
	"errors"
	"fmt"
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

func second[T any](_ T, err error) error { return err }

// limit sets the limits of the names that begin with the fixture's lock's name.
func (f *fixture) limit(l lock.Limits) {
	f.t.Helper()
	if _, err := f.SetRule(f.t.Context(), lock.RuleRequest{Prefix: f.name, Principal: "arn:op", Set: lock.RuleParts{Limits: &l}}); err != nil {
		f.t.Fatal(err)
	}
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
	"a frozen lock that is waited for is listed, although nobody holds it": func(f *fixture) {
		f.mustAcquire("a")
		f.must(f.release("a"))
		listed := func(all bool) (n int) {
			f.t.Helper()
			list, _, err := f.List(f.t.Context(), lock.ListRequest{Prefix: f.name, All: all, Limit: 100})
			if err != nil {
				f.t.Fatal(err)
			}
			return len(list)
		}
		f.clock.Advance(time.Second)
		if held, all := listed(false), listed(true); held != 0 || all != 1 {
			f.t.Errorf("free: %d listed as held, %d of all", held, all)
		}
		f.freeze(time.Hour)
		f.clock.Advance(lock.RulePeriod)
		if _, err := f.acquire("b", func(r *lock.AcquireRequest) { r.Wait = time.Hour }); !errors.Is(err, lock.ErrLockHeld) {
			f.t.Fatal(err)
		}
		if held := listed(false); held != 1 {
			f.t.Errorf("waited for: %d listed", held)
		}
	},
	"limits are read as they were stored, and a change of them leaves the freeze": func(f *fixture) {
		frozen := *f.freeze(time.Hour).Freeze
		all := lock.Limits{Capacity: 3, MaxTTL: 60_000, MaxHold: 90_000, MaxQueue: 4, MaxPerPrincipal: 5, Rate: lock.Rate{Grants: 6, Period: 7000}}
		f.limit(all)
		all.By = "arn:op"
		p, err := f.Rule(f.t.Context(), f.name)
		if err == nil && p.Limits != nil {
			all.At = p.Limits.At
		}
		if err != nil || p.Limits == nil || all.At == 0 || *p.Limits != all || p.Freeze == nil || *p.Freeze != frozen || p.TTL != 0 {
			f.t.Errorf("read %+v, %v, stored %+v", p, err, all)
		}
		if _, err := f.SetRule(f.t.Context(), lock.RuleRequest{Prefix: f.name, Remove: []lock.RulePart{lock.PartLimits}}); err != nil {
			f.t.Fatal(err)
		}
		if p, err := f.Rule(f.t.Context(), f.name); err != nil || p.Limits != nil || p.Freeze == nil || p.TTL == 0 {
			f.t.Errorf("read %+v, %v", p, err)
		}
	},
	"a lease and a place keep their limits, and no renewal passes them": func(f *fixture) {
		f.limit(lock.Limits{Capacity: 2, MaxTTL: 60_000, MaxHold: 90_000})
		both := func(r *lock.AcquireRequest) { r.Capacity, r.Permits = 0, 2 }
		granted := f.mustAcquire("a", both).Lease.AcquiredAt
		if _, err := f.acquire("b", both, func(r *lock.AcquireRequest) { r.Wait = time.Hour }); !errors.Is(err, lock.ErrLockHeld) {
			f.t.Fatal(err)
		}
		f.clock.Advance(50 * time.Second)
		l, err := f.renew("a")
		if err != nil || l.Lease.EndsAt != granted+90_000 || l.Lease.ExpiresAt != granted+90_000 {
			f.t.Errorf("%+v, %v", l, err)
		}
		_, err = f.Renew(f.t.Context(), lock.RenewRequest{Lock: f.name, Secret: "a", TTL: 61 * time.Second})
		if e, ok := errors.AsType[*lock.LimitError](err); !ok || e.Name != lock.LimitTTL || e.Prefix != f.name || e.Value != 60_000 {
			f.t.Errorf("error %v", err)
		}
		f.clock.Advance(40 * time.Second)
		if _, err = f.renew("a"); !errors.Is(err, lock.ErrLimit) || !errors.Is(err, lock.ErrLeaseLost) {
			f.t.Errorf("error %v", err)
		}
		f.clock.Advance(time.Second)
		if err := f.Settle(f.t.Context(), f.name); err != nil {
			f.t.Fatal(err)
		}
		if h := f.record().Holders[lock.KeyOf(f.name, "b")]; h.EndsAt != h.AcquiredAt+90_000 || h.Bounds.MaxTTL != 60_000 {
			f.t.Errorf("%+v", h)
		}
	},
	"a lock is granted as often as its rate says": func(f *fixture) {
		f.limit(lock.Limits{Rate: lock.Rate{Grants: 2, Period: 60_000}})
		for _, secret := range []string{"a", "b"} {
			f.mustAcquire(secret)
			f.must(f.release(secret))
			f.clock.Advance(20 * time.Second)
		}
		err := second(f.acquire("c"))
		if e, ok := errors.AsType[*lock.LimitError](err); !ok || e.Name != lock.LimitRate || e.RetryAfter.Round(time.Second) != 20*time.Second {
			f.t.Errorf("error %v", err)
		}
		f.wantErr(second(f.acquire("c", func(r *lock.AcquireRequest) { r.Wait = time.Hour })), lock.ErrLockHeld)
		f.clock.Advance(20 * time.Second)
		third := f.mustAcquire("c").Lease.AcquiredAt
		if r := f.record(); len(r.Grants) != 2 || r.Grants[0] < third-41_000 || r.Grants[0] > third-40_000 || r.Grants[1] != third {
			f.t.Errorf("grants %v, want two, the last at %d", r.Grants, third)
		}
		f.must(f.release("c"))
		f.limit(lock.Limits{MaxQueue: 3})
		f.clock.Advance(lock.RulePeriod)
		f.mustAcquire("d")
		f.must(f.release("d"))
		if r := f.record(); len(r.Holders) != 0 {
			f.t.Errorf("%+v", r)
		}
	},
	"the permits of a principal are counted in all its leases and places": func(f *fixture) {
		f.limit(lock.Limits{MaxPerPrincipal: 3})
		of := func(principal string, wait time.Duration) func(r *lock.AcquireRequest) {
			return func(r *lock.AcquireRequest) { r.Capacity, r.Principal, r.Wait = 4, principal, wait }
		}
		const role = "arn:aws:sts::1:assumed-role/r/"
		f.mustAcquire("a", of("arn:other", 0))
		f.mustAcquire("b", of(role+"1", 0)) // its texts are kept apart
		f.mustAcquire("c", of(role+"2", 0))
		f.mustAcquire("d", of("arn:other", 0))
		for n := range lock.QueueHead + 1 {
			f.wantErr(second(f.acquire(fmt.Sprint("w", n), of(fmt.Sprint("arn:", n), time.Hour))), lock.ErrLockHeld)
		}
		f.wantErr(second(f.acquire("e", of(role+"3", time.Hour))), lock.ErrLockHeld)
		err := second(f.acquire("f", of(role+"4", time.Hour)))
		if e, ok := errors.AsType[*lock.LimitError](err); !ok || e.Asked != 4 || !e.Passes {
			f.t.Errorf("error %v, %+v", err, e)
		}
		f.wantErr(second(f.acquire("e", of(role+"3", time.Hour))), lock.ErrLockHeld)
		f.mustAcquire("c", of(role+"2", 0))
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
