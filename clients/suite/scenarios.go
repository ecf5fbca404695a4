package main

import (
	"slices"
	"strings"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// scenarios are all scenarios, in the order in which they start: those that last long are first.
var scenarios = slices.Concat(slow, basics, faults, ends, queues, refusals)

const long = 60_000 // a TTL in milliseconds that is not over before the scenario is

// basics are the operations without faults.
var basics = []scenario{
	{"take and free", "acquire, state, release; the deadline counts from before the request, less 1/1000", 0, func(s *stage) {
		d := s.open("me")
		l := d.acquire("L1", "a:b", fields{"ttl_ms": long})
		s.holdsNow("a:b", l.Fence)
		s.check(s.status("a:b").Holders[0].Owner == "me", "the owner is %q; want me", s.status("a:b").Holders[0].Owner)
		state := d.holds("L1", true)
		s.check(state.Fence == l.Fence && state.Remaining > 0, "state says fence %d and %v ms", state.Fence, state.Remaining)
		d.must("release", fields{"lease": "L1"})
		s.holdsNow("a:b")
		d.holds("L1", false)
		d.must("release", fields{"lease": "L1"}) // the result of the first
		for _, op := range []string{"acquire", "release"} {
			s.check(len(s.front.requests(op, "a:b")) == 1, "%d requests to %s; want 1", len(s.front.requests(op, "a:b")), op)
		}
		s.check(d.losses("L1") == 0, "the release was reported as a loss")
		again := d.acquire("L2", "a:b")
		s.check(again.Fence > l.Fence, "the second fencing token, %d, is not higher than the first, %d", again.Fence, l.Fence)
		requests := s.front.requests("acquire", "a:b")
		s.check(requests[1].secret != requests[0].secret, "two leases have the same secret")
	}},
	{"scoped use", "the lock is freed when the body returns, leaves and fails; the body's error comes out", 0, func(s *stage) {
		d := s.open("me")
		d.must("scoped", fields{"client": "c1", "lease": "L1", "lock": "a", "body": "return"})
		s.holdsNow("a")
		f := d.start("scoped", fields{"client": "c1", "lease": "L2", "lock": "a", "body": "raise"}).fails("body", "!lost")
		s.check(strings.Contains(f.Text, "body failed"), "the error does not say what the body said: %s", f.Text)
		s.holdsNow("a")
		p := d.start("scoped", fields{"client": "c1", "lease": "L3", "lock": "a", "body": "wait"})
		e := d.event("L3 entered", func(e event) bool { return e.Event == "entered" && e.Lease == "L3" })
		s.holdsNow("a", e.Fence)
		d.must("leave", fields{"lease": "L3"})
		p.ok()
		s.holdsNow("a")
		for _, lease := range []string{"L1", "L2", "L3"} {
			s.check(d.losses(lease) == 0, "the end of %s was reported as a loss", lease)
		}
	}},
	{"scoped use of a held lock", "the body does not run", 0, func(s *stage) {
		r := s.rival("a", time.Minute)
		d := s.open("me")
		f := d.start("scoped", fields{"client": "c1", "lease": "L1", "lock": "a", "body": "return", "try": false, "wait_ms": 2000}).fails("acquire", "held")
		s.check(len(f.Holders) == 1 && f.Holders[0].Fence == r.fence, "the holders are %v", f.Holders)
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, e := range d.events {
			s.check(e.Event != "entered", "the body ran")
		}
	}},
	{"metadata and status", "others see owner, fence and metadata; a renewal replaces the metadata", 0, func(s *stage) {
		d := s.open("me")
		s.check(!d.must("status", fields{"client": "c1", "lock": "a"}).Locked, "a lock that nobody has taken is locked")
		l := d.acquire("L1", "a", fields{"metadata": fields{"build": "17", "é": []int{1}}})
		st := d.must("status", fields{"client": "c1", "lock": "a"})
		s.check(st.Locked && len(st.Holders) == 1 && st.Holders[0].Fence == l.Fence && st.Holders[0].Owner == "me", "status says %+v", st)
		s.check(st.Holders[0].Metadata["build"] == "17" && st.Holders[0].Metadata["é"] != nil, "the metadata is %v", st.Holders[0].Metadata)
		d.must("renew", fields{"lease": "L1", "metadata": fields{"build": "18"}})
		st = d.must("status", fields{"client": "c1", "lock": "a"})
		s.check(st.Holders[0].Metadata["build"] == "18" && len(st.Holders[0].Metadata) == 1, "after the renewal the metadata is %v", st.Holders[0].Metadata)
	}},
	{"renewal by hand", "a renewal moves the deadline; no other renewal is sent", 0, func(s *stage) {
		d := s.open("me")
		l := d.acquire("L1", "a", fields{"ttl_ms": long, "manual_renew": true})
		r := d.must("renew", fields{"lease": "L1"})
		s.check(r.Deadline > l.Deadline, "the deadline was %v, and is %v after the renewal", l.Deadline, r.Deadline)
		d.proved(r.Deadline, s.front.requests("renew", "a"))
		s.check(len(s.front.requests("renew", "a")) == 1, "%d renewals; want 1", len(s.front.requests("renew", "a")))
	}},
	{"try of a held lock", "one request, which joins no queue; the error has the holders", 0, func(s *stage) {
		r := s.rival("a", time.Minute)
		d := s.open("me")
		f := d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "try": true}).fails("acquire", "held", "!unavailable", "!refused")
		s.check(len(f.Holders) == 1 && f.Holders[0].Fence == r.fence && f.Holders[0].Owner == "rival", "the holders are %+v", f.Holders)
		s.check(f.RetryAfter > 0, "retry_after_ms is %v", f.RetryAfter)
		requests := s.front.requests("acquire", "a")
		s.check(len(requests) == 1 && requests[0].wait == 0, "%d requests, wait_ms %d; want one without", len(requests), requests[0].wait)
		s.check(s.status("a").Waiting == 0, "the try left a waiter")
	}},
	{"two leases", "two leases of one client at once are renewed and released each by itself", 0, func(s *stage) {
		d := s.open("me")
		a, b := d.acquire("L1", "a", fields{"ttl_ms": 900}), d.acquire("L2", "b", fields{"ttl_ms": 900})
		s.front.awaitAnswers("renew", "a", 2)
		s.front.awaitAnswers("renew", "b", 2)
		s.holdsNow("a", a.Fence)
		s.holdsNow("b", b.Fence)
		d.must("release", fields{"lease": "L1"})
		s.holdsNow("a")
		d.holds("L2", true)
		n := len(s.front.requests("renew", "b"))
		s.front.awaitAnswers("renew", "b", n+2)
		s.holdsNow("b", b.Fence)
		s.check(d.losses("L1")+d.losses("L2") == 0, "a lease was lost")
	}},
	{"semaphore", "capacity and permits", 0, func(s *stage) {
		d := s.open("me")
		three := fields{"capacity": 3}
		d.acquire("L1", "pool", three, fields{"permits": 2})
		d.acquire("L2", "pool", three)
		f := d.start("acquire", fields{"client": "c1", "lease": "L3", "lock": "pool", "try": true}, three).fails("acquire", "held")
		s.check(len(f.Holders) == 2, "the holders are %+v; want two", f.Holders)
		d.must("release", fields{"lease": "L1"})
		d.acquire("L4", "pool", three, fields{"permits": 2})
		d.start("acquire", fields{"client": "c1", "lease": "L5", "lock": "pool", "try": true, "capacity": 4}).fails("acquire", "refused", "!held")
	}},
	{"readers and a writer", "readers share the lock; a writer has it alone", 0, func(s *stage) {
		d := s.open("me")
		d.acquire("L1", "doc", fields{"mode": "read"})
		d.acquire("L2", "doc", fields{"mode": "read"})
		d.start("acquire", fields{"client": "c1", "lease": "L3", "lock": "doc", "try": true, "mode": "write"}).fails("acquire", "held")
		d.must("release", fields{"lease": "L1"})
		d.must("release", fields{"lease": "L2"})
		d.acquire("L4", "doc", fields{"mode": "write"})
		d.start("acquire", fields{"client": "c1", "lease": "L5", "lock": "doc", "try": true, "mode": "read"}).fails("acquire", "held")
	}},
	{"adopt", "a lease is handed over by its secret, and renewed by its new process", 0, func(s *stage) {
		d, e := s.open("me"), s.open("you")
		l := d.acquire("L1", "a", fields{"ttl_ms": 1500, "manual_renew": true})
		secret := d.must("secret", fields{"lease": "L1"}).Secret
		s.check(secret == s.front.requests("acquire", "a")[0].secret, "the secret is not the one of the request")
		got := e.must("adopt", fields{"client": "c1", "lease": "L2", "lock": "a", "secret": secret})
		s.check(got.Fence == l.Fence, "the adopted lease has the fence %d; want %d", got.Fence, l.Fence)
		e.proved(got.Deadline, s.front.requests("renew", "a"))
		s.front.awaitAnswers("renew", "a", 3)
		e.must("release", fields{"lease": "L2"})
		s.holdsNow("a")
		e.start("adopt", fields{"client": "c1", "lease": "L3", "lock": "a", "secret": secret}).fails("renew", "lost")
		e.start("adopt", fields{"client": "c1", "lease": "L4", "lock": "a", "secret": "short"}).fails("refused")
	}},
	{"force-release by the client", "an operator's command ends one lease, and no other", 0, func(s *stage) {
		r := s.rival("a", time.Minute)
		d := s.open("me")
		d.start("force_release", fields{"client": "c1", "lock": "a", "fence": r.fence + 1, "reason": "dead"}).fails("force_release", "refused")
		s.holdsNow("a", r.fence)
		d.must("force_release", fields{"client": "c1", "lock": "a", "fence": r.fence, "reason": "dead"})
		s.holdsNow("a")
	}},
	{"minimum hold", "a lease that is released early keeps the lock held until the minimum is over", 0, func(s *stage) {
		d := s.open("me")
		l := d.acquire("L1", "a", fields{"ttl_ms": long, "min_hold_ms": 1000})
		d.must("release", fields{"lease": "L1"})
		s.check(len(s.front.requests("release", "a")) == 0 || s.status("a").Locked, "the lock was released before its minimum hold was over")
		d.holds("L1", false)
		s.free("a")
		r := s.front.requests("release", "a")
		granted := s.front.requests("acquire", "a")[0].at
		s.check(len(r) == 1 && r[0].at >= granted+1000, "the release came %v ms after the acquire; want 1000 or more", r[0].at-granted)
		s.check(l.Fence > 0 && d.losses("L1") == 0, "the lease was reported as lost")
	}},
}

// freezeUntil is a rule that freezes locks for an hour.
func freezeUntil(reason string) wire.RuleRequest {
	return wire.RuleRequest{Freeze: &wire.FreezeRequest{Until: wire.Time{Time: time.Now().Add(time.Hour)}, Reason: reason}}
}
