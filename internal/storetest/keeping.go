package storetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// entry is an entry of a history: a grant, or with an end the end of a lease.
func entry(i int, end lock.ChangeKind) lock.HistoryEntry {
	at := int64(1_700_000_000_000 + i*1000)
	e := lock.HistoryEntry{
		At: at, Kind: lock.LeaseAcquired, Fence: at*1000 + 1, Owner: fmt.Sprint("o", i), Principal: "arn:p", Permits: 2, AcquiredAt: at, Waited: 17, Held: 2, Waiting: 3,
	}
	if i%2 == 1 {
		e.Set = "a,b:c"
	}
	if end != "" {
		e.At, e.Kind, e.Cause, e.By, e.Reason, e.Unclaimed, e.Purged, e.Held = at+500, end, lock.CauseForceRelease, "arn:op", "stuck <x>", true, true, 0
	}
	return e
}

// keepingSuite is the part of the suite that covers the history of locks.
var keepingSuite = map[string]func(*fixture){
	"entries of the history are read as they were stored, once each": func(f *fixture) {
		want := []lock.HistoryEntry{entry(0, ""), entry(0, lock.LeaseForceReleased), entry(1, ""), entry(1, lock.LeaseReleased), entry(2, "")}
		keep := 100 * 365 * 24 * time.Hour // they are of the past
		for _, list := range [][]lock.HistoryEntry{want[3:], want[:3], want} {
			f.must(nil, f.store.PutHistory(f.t.Context(), f.name, list, keep))
		}
		f.must(nil, f.store.PutHistory(f.t.Context(), f.name+":x", []lock.HistoryEntry{entry(9, "")}, keep))
		all := lock.HistoryQuery{Lock: f.name, From: "0", To: "~", Oldest: true, Limit: 100}
		got, more, err := f.store.History(f.t.Context(), all)
		if err != nil || more || !slices.Equal(got, want) {
			f.t.Fatalf("read %+v, %v, %v; want\n%+v", got, more, err, want)
		}
		for _, oldest := range []bool{true, false} {
			order := slices.Clone(want)
			if !oldest {
				slices.Reverse(order)
			}
			got = nil
			q := all
			q.Oldest, q.Limit = oldest, 2
			for pages := 0; ; pages++ {
				page, more, err := f.store.History(f.t.Context(), q)
				if err != nil || len(page) > 2 || pages > 4 {
					f.t.Fatalf("page %+v, %v", page, err)
				}
				if got = append(got, page...); !more {
					break
				}
				q.After = page[len(page)-1].Key()
			}
			if !slices.Equal(got, order) {
				f.t.Errorf("oldest first %v: %+v, want\n%+v", oldest, got, order)
			}
		}
	},
	"a history is read between two times": func(f *fixture) {
		keep := 100 * 365 * 24 * time.Hour
		for i := range 5 {
			f.must(nil, f.store.PutHistory(f.t.Context(), f.name, []lock.HistoryEntry{entry(i, "")}, keep))
		}
		at := func(i int) int64 { return entry(i, "").At }
		for _, test := range []struct {
			from, to int64
			want     []string
		}{
			{0, 0, []string{"o4", "o3", "o2", "o1", "o0"}}, {at(1), at(3), []string{"o2", "o1"}}, {at(1) + 1, at(3) + 1, []string{"o3", "o2"}}, {at(4), 0, []string{"o4"}}, {at(4) + 1, 0, nil}, {0, at(0), nil},
			{at(3), at(1), nil},
		} {
			page, err := f.History(f.t.Context(), lock.HistoryRequest{Lock: f.name, From: test.from, To: test.to, Limit: 10})
			var got []string
			for _, e := range page.Entries {
				got = append(got, e.Owner)
			}
			if err != nil || !slices.Equal(got, test.want) || page.Next != "" || page.Keeping != nil {
				f.t.Errorf("from %d to %d: %v, %v; want %v", test.from, test.to, got, err, test.want)
			}
		}
		first, err := f.History(f.t.Context(), lock.HistoryRequest{Lock: f.name, Limit: 2})
		if err != nil || first.Next == "" {
			f.t.Fatalf("%+v, %v", first, err)
		}
		for _, cursor := range []string{"x", first.Next + "A", "bG9jaw"} {
			_, err := f.History(f.t.Context(), lock.HistoryRequest{Lock: f.name, Limit: 2, Cursor: cursor})
			f.wantErr(err, lock.ErrBadCursor)
		}
		_, err = f.History(f.t.Context(), lock.HistoryRequest{Lock: f.name, Limit: 2, Cursor: first.Next, To: at(2)})
		f.wantErr(err, lock.ErrBadCursor)
	},
	"a rule that asks for the history has no end, beside a freeze": func(f *fixture) {
		set := func(parts lock.RuleParts, remove ...lock.RulePart) lock.PrefixRule {
			s, err := f.SetRule(f.t.Context(), lock.RuleRequest{Prefix: f.name, Principal: "arn:op", Set: parts, Remove: remove})
			f.must(nil, err)
			return s.PrefixRule
		}
		freeze := lock.RuleParts{Freeze: &lock.Freeze{Until: f.clock.Now().Add(time.Hour).UnixMilli(), Reason: "r"}}
		set(freeze)
		if r := set(lock.RuleParts{History: &lock.Keeping{For: 3600_000}}); r.TTL != 0 || r.Freeze == nil || r.History.By != "arn:op" {
			f.t.Errorf("%+v", r)
		}
		read, err := f.Rule(f.t.Context(), f.name)
		if err != nil || read.TTL != 0 || read.Freeze == nil || read.History == nil || read.History.For != 3600_000 || read.History.Prefix != f.name || read.Unknown != "" {
			f.t.Errorf("%+v, %v", read, err)
		}
		if k, err := f.KeepsHistory(f.t.Context(), f.name+":x"); err != nil || k == nil || *k != *read.History {
			f.t.Errorf("%+v, %v", k, err)
		}
		if r := set(lock.RuleParts{History: &lock.Keeping{For: 7200_000}}); r.History.For != 7200_000 || r.Freeze == nil {
			f.t.Errorf("%+v", r)
		}
		if r := set(lock.RuleParts{}, lock.PartFreeze); r.Freeze != nil || r.History == nil {
			f.t.Errorf("%+v", r)
		}
		if r := set(lock.RuleParts{}, lock.PartHistory); !r.Empty() || r.TTL == 0 {
			f.t.Errorf("%+v", r)
		}
	},
}
