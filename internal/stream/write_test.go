package stream

import (
	"fmt"
	"slices"
	"testing"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// record returns a record whose leases are named by their fencing tokens; each was acquired at 1000 and expires at 5000.
func record(cause lock.Cause, fences ...int64) lock.Record {
	r := lock.Record{Rev: 1, Capacity: 3, Cause: cause, Holders: map[lock.LeaseKey]lock.Lease{}}
	for _, f := range fences {
		r.Holders[leaseKey(f)] = lock.Lease{Terms: lock.Terms{Owner: fmt.Sprint("o", f), Permits: 1, TTL: 4000}, Fence: f, AcquiredAt: 1000, RenewedAt: 1000, ExpiresAt: 5000}
		r.Fence = max(r.Fence, f)
	}
	return r
}

func leaseKey(fence int64) lock.LeaseKey { return lock.LeaseKey(fmt.Sprint("lease-", fence)) }

func retired(r lock.Record, fence int64) lock.Record {
	r.Retired = lock.Retired{Key: leaseKey(fence), Fence: fence, At: 3000, Cause: r.Cause}
	return r
}

// Every transition of a record, and its events.
func TestEventsOfEveryTransition(t *testing.T) {
	forced := retired(record(lock.CauseForceRelease), 2)
	forced.By, forced.Reason = "arn:operator", "stuck"
	reused := record(lock.CauseAcquire, 9)
	reused.Holders = map[lock.LeaseKey]lock.Lease{leaseKey(1): reused.Holders[leaseKey(9)]}
	renewed := record(lock.CauseRenew, 1)
	h := renewed.Holders[leaseKey(1)]
	h.ExpiresAt, h.RenewedAt, h.Metadata = 9000, 5000, `{"n":2}`
	renewed.Holders[leaseKey(1)] = h
	for name, test := range map[string]struct {
		before, after lock.Record
		want          []string
	}{
		"first grant":                     {lock.Record{}, record(lock.CauseAcquire, 1), []string{"acquired 1"}},
		"grant of a free lock":            {record(lock.CauseRelease), record(lock.CauseAcquire, 2), []string{"acquired 2"}},
		"take-over of an expired lease":   {record(lock.CauseAcquire, 1), record(lock.CauseAcquire, 2), []string{"expired 1 at 5000", "acquired 2"}},
		"take-over of several":            {record(lock.CauseAcquire, 1, 2), record(lock.CauseAcquire, 3), []string{"expired 1 at 5000", "expired 2 at 5000", "acquired 3"}},
		"join":                            {record(lock.CauseAcquire, 1), record(lock.CauseAcquire, 1, 2), []string{"acquired 2"}},
		"join that puts one out":          {record(lock.CauseAcquire, 1, 2), record(lock.CauseAcquire, 2, 3), []string{"expired 1 at 5000", "acquired 3"}},
		"renewal":                         {record(lock.CauseAcquire, 1), renewed, nil},
		"renewal beside an expired one":   {record(lock.CauseAcquire, 1, 2), record(lock.CauseRenew, 1, 2), nil},
		"release":                         {record(lock.CauseAcquire, 1), retired(record(lock.CauseRelease), 1), []string{"released 1 at 3000"}},
		"release after a renewal":         {renewed, retired(record(lock.CauseRelease), 1), []string{"released 1 at 3000"}},
		"leave":                           {record(lock.CauseAcquire, 1, 2), retired(record(lock.CauseRelease, 2), 1), []string{"released 1 at 3000"}},
		"leave that puts one out":         {record(lock.CauseAcquire, 1, 2, 3), retired(record(lock.CauseRelease, 3), 2), []string{"expired 1 at 5000", "released 2 at 3000"}},
		"expiry":                          {record(lock.CauseAcquire, 1), retired(record(lock.CauseExpire), 1), []string{"expired 1 at 5000"}},
		"expiry of several":               {record(lock.CauseAcquire, 1, 2, 3), retired(record(lock.CauseExpire, 3), 2), []string{"expired 1 at 5000", "expired 2 at 5000"}},
		"force-release":                   {record(lock.CauseAcquire, 2), forced, []string{"force-released 2 at 3000 by arn:operator: stuck"}},
		"force-release of several":        {record(lock.CauseAcquire, 1, 2), forced, []string{"force-released 1 at 3000 by arn:operator: stuck", "force-released 2 at 3000 by arn:operator: stuck"}},
		"purge of a held lock":            {record(lock.CauseAcquire, 1, 2), lock.Record{}, []string{"expired 1 at 5000, purged", "expired 2 at 5000, purged"}},
		"purge of a released one":         {retired(record(lock.CauseRelease), 1), lock.Record{}, nil},
		"a secret used again":             {record(lock.CauseAcquire, 1), reused, []string{"expired 1 at 5000", "acquired 9"}},
		"an unknown cause that ends one":  {record(lock.CauseAcquire, 1), record("hand-off", 2), []string{"expired 1 at 5000", "acquired 2"}},
		"nothing":                         {record(lock.CauseRelease), record(lock.CauseRelease), nil},
		"a release that retired another":  {record(lock.CauseAcquire, 1), retired(record(lock.CauseRelease), 7), []string{"expired 1 at 5000"}},
		"undone: the displaced one is in": {record(lock.CauseAcquire, 2), retired(record(lock.CauseRelease, 1), 2), []string{"released 2 at 3000", "acquired 1"}},
	} {
		var got []string
		for _, e := range eventsOf(Write{Write: lock.Write{Lock: "a:b", Before: test.before, After: test.after}}) {
			l := e.Subject()
			kind := e.DetailType()
			if l.ID != events.ID("a:b", l.Fence, kind) || l.Lock != "a:b" || l.Version != 1 || !slices.Equal(l.Prefixes, []string{"a", "a:b"}) {
				t.Errorf("%s: %+v", name, l)
			}
			text := ""
			ended := func(kind string, end events.End) {
				text = fmt.Sprintf("%s %d at %d", kind, l.Fence, end.EndedAt.UnixMilli())
				if end.HeldMS != end.EndedAt.UnixMilli()-1000 {
					t.Errorf("%s: held for %d ms", name, end.HeldMS)
				}
			}
			switch e := e.(type) {
			case events.Acquired:
				text = fmt.Sprint("acquired ", l.Fence)
			case events.Released:
				ended("released", e.End)
			case events.Expired:
				ended("expired", e.End)
				if e.Purged {
					text += ", purged"
				}
			case events.ForceReleased:
				ended("force-released", e.End)
				text += " by " + e.By + ": " + e.Reason
			}
			got = append(got, text)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestMetadataThatIsNoJSONIsLeftOut(t *testing.T) {
	r := record(lock.CauseAcquire, 1)
	h := r.Holders[leaseKey(1)]
	h.Metadata = "{broken"
	r.Holders[leaseKey(1)] = h
	if l := eventsOf(Write{Write: lock.Write{Lock: "a", After: r}})[0].Subject(); l.Metadata != nil || !l.MetadataOmitted {
		t.Errorf("%+v", l)
	}
}

// eventsOf are the events of a write.
func eventsOf(w Write) []events.Event { return Events(w.Write, w.Effects(true).Changes) }
