package lock

import (
	"slices"
	"time"
)

// Rates. A limit of a prefix may say how often each of its locks is granted: at most so many times in any period of a length. While a rate is in force for a lock, its
// record has the times of the last grants, as many as the rate counts, and no write grants the lock before the first of them is a period old. Waiters keep
// their order: the next of them is granted then, by its poll, or by a job of the stream's consumer ([HeldUp]). Every grant counts, also one that its waiter does not claim.

// A Rate is how often a lock is granted: at most Grants times in any Period, in milliseconds. The zero Rate sets no limit. Period is at most the retention of a lock's
// row: each write of a lock keeps the row for so long, and so the times of its grants.
type Rate struct{ Grants, Period int64 }

// A rate is a Rate of a prefix: Value grants in any period.
type rate struct {
	Limit
	period int64 // milliseconds
}

// ratesOf are the rates of all rules that cover a lock. All of them count.
func ratesOf(rules []PrefixRule, name string) (list []rate) {
	for _, p := range rules {
		if p.Limits != nil && p.Limits.Rate.Grants > 0 && p.covers(name) {
			list = append(list, rate{Limit{LimitRate, p.Limits.Rate.Grants, p.Prefix}, p.Limits.Rate.Period})
		}
	}
	return list
}

// nextGrant is when the rates in force allow the next grant of the lock, in Unix milliseconds, and the rate that allows it last. 0: now.
func (r Record) nextGrant() (at int64, by rate) {
	if r.hold == nil {
		return 0, rate{}
	}
	for _, one := range r.hold.rates {
		counted := len(r.Grants) - int(one.Value)
		if counted < 0 {
			continue
		}
		if next := r.Grants[counted] + one.period; next > at {
			at, by = next, one
		}
	}
	return at, by
}

// counting is the record with the time of a grant, if a rate is in force, and else without the times of grants.
func (r Record) counting(now time.Time) Record {
	most := 0
	if r.hold != nil {
		for _, one := range r.hold.rates {
			most = max(most, int(one.Value))
		}
	}
	if most == 0 {
		r.Grants = nil
		return r
	}
	at := now.UnixMilli()
	if n := len(r.Grants); n > 0 { // the clock of another coordinator may be ahead
		at = max(at, r.Grants[n-1])
	}
	r.Grants = append(slices.Clip(r.Grants), at)
	r.Grants = r.Grants[max(len(r.Grants)-most, 0):]
	return r
}

// heldBack is what keeps the lock from being granted at a time: a freeze, rules that could not be read, or a rate. nil: nothing does.
func (r Record) heldBack(now time.Time) *hold {
	h := r.hold
	switch {
	case h == nil:
		return nil
	case h.err != nil, h.freezes(now):
		return h
	}
	if at, _ := r.nextGrant(); at > now.UnixMilli() {
		return h
	}
	return nil
}

// tooOften is the error of a request for a lock of which a rate allows the next grant later, if that is all that keeps it from being granted; else nil.
func (r Record) tooOften(now time.Time, want Terms) *LimitError {
	at, by := r.nextGrant()
	if at <= now.UnixMilli() || !r.hasPermits(want) {
		return nil
	}
	return &LimitError{Limit: by.Limit, Period: by.period, Passes: true, RetryAfter: time.Duration(at-now.UnixMilli()) * time.Millisecond}
}
