package lock

import (
	"testing"
	"time"
)

const traced = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func trace(text string) func(*AcquireRequest) { return func(r *AcquireRequest) { r.Trace = text } }

// A lease has the trace context of the acquire that asked for it first, whichever write granted it, and so have the entries of the history.
func TestGrantsKeepTheTrace(t *testing.T) {
	for name, end := range handOffs {
		k := newKit(t)
		l := k.must("a", bind(name), trace("first"))
		k.waits("b", placeFor(100*time.Second), trace(traced))
		k.waits("b", placeFor(100*time.Second), trace("of a repetition"))
		if err := end(k, l); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got, err := k.acquire("b", placeFor(time.Minute))
		if err != nil || l.Lease.Trace != "first" || got.Lease.Trace != traced {
			t.Errorf("%s: %q, then %q, %v", name, l.Lease.Trace, got.Lease.Trace, err)
		}
		w := Write{Before: Record{}, After: Record{Holders: map[LeaseKey]Lease{"k": got.Lease}}}
		if list := HistoryOf(w, Changes(w.Before, w.After)); len(list) != 1 || list[0].Trace != traced {
			t.Errorf("%s: history %+v", name, list)
		}
	}
}

// The trace of a lease whose texts are kept apart is read with them; one that an older version left in the record wins.
func TestTraceIsATextOfALease(t *testing.T) {
	apart := Texts{Owner: "o", Trace: traced}
	for _, test := range []struct{ here, want string }{{"", traced}, {"in the record", "in the record"}} {
		if got := (Lease{Terms: Terms{Trace: test.here}, Split: Split}).With(apart).Trace; got != test.want {
			t.Errorf("%q: %q", test.here, got)
		}
		if got := (HistoryEntry{Trace: test.here, Split: true}).with(apart).Trace; got != test.want {
			t.Errorf("history, %q: %q", test.here, got)
		}
	}
}
