package main

import (
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// slow are the scenarios that last for some seconds.
var slow = []scenario{
	{"waiter dies", "its place is over in time, and the next waiter is granted the lock", 0, func(s *stage) {
		d := s.open("me") // first, so that the waiter's place lasts until the driver's process has started and asks for one, too
		r := s.rival("a", time.Minute)
		s.waiter("a", 1500*time.Millisecond)
		p := d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "ttl_ms": long, "wait_ms": 60_000})
		p.waits(2)
		r.release()
		d.granted("a", p)
	}},
	{"silent coordinator", "a lease that cannot be renewed is lost before the coordinator grants the lock to another", 1900 * time.Millisecond, func(s *stage) {
		d := s.open("me", fields{"request_timeout_ms": 400})
		l := d.acquire("L1", "a", fields{"ttl_ms": 1500})
		s.front.all("renew", silent())
		granted := make(chan *rival, 1)
		go func() { // not takeover: a failure ends the scenario's goroutine only
			for s.ctx.Err() == nil {
				if r, problem := s.try("a", time.Minute, 0); problem == nil {
					granted <- r
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		}()
		e := d.lost("L1", "renew")
		select {
		case r := <-granted:
			s.failf("the lock was granted to another, fence %d, before the client said that it had lost it: %s", r.fence, e.Error.Text)
		default:
		}
		d.holds("L1", false)
		s.holdsNow("a", l.Fence)
		select {
		case <-granted:
		case <-time.After(s.options.patience):
			s.failf("the coordinator did not grant the lock to another")
		}
		s.check(d.losses("L1") == 1, "%d events of the loss; want 1", d.losses("L1"))
		d.start("renew", fields{"lease": "L1"}).fails("renew", "lost")
		d.start("release", fields{"lease": "L1"}).fails("release", "lost")
	}},
	{"renewals in the background", "about one in a third of the TTL, and for as long as the lease is held", 0, func(s *stage) {
		const ttl, n = 1500, 8
		d := s.open("me")
		l := d.acquire("L1", "a", fields{"ttl_ms": ttl})
		begun := s.front.requests("acquire", "a")[0].at
		// A lease of another that is not renewed measures the time by the coordinator's clock.
		s.rival("rod", n*ttl/3*time.Millisecond)
		s.free("rod")
		got := s.front.requests("renew", "a")
		s.check(len(got) >= n/2, "%d renewals in %d thirds of the TTL", len(got), n)
		for i, r := range got {
			s.check(r.at-begun >= float64(i+1)*ttl/3*0.9, "renewal %d came %v ms after the acquire, with a TTL of %d ms: more than one in a third of the TTL", i+1, r.at-begun, ttl)
		}
		s.holdsNow("a", l.Fence)
		state := d.holds("L1", true)
		d.proved(state.Deadline, s.front.requests("renew", "a"))
		s.check(d.losses("L1") == 0, "the lease was lost")
	}},
	{"renewals fail for a while", "the lease stays when they succeed again before its deadline", 0, func(s *stage) {
		d := s.open("me", fields{"request_timeout_ms": 1000, "retries": 0}) // each failure is that of a renewal
		l := d.acquire("L1", "a", fields{"ttl_ms": 6000})
		s.front.then("renew", instead(503, outage), cut, lose, instead(429, `{"message":"Too Many Requests"}`), cut)
		s.front.awaitAnswers("renew", "a", 7)
		s.holdsNow("a", l.Fence)
		state := d.holds("L1", true)
		d.proved(state.Deadline, s.front.requests("renew", "a"))
		s.check(state.Deadline > l.Deadline, "the deadline did not move")
		s.check(d.losses("L1") == 0, "the lease was lost")
	}},
	{"renewal that hangs", "a renewal without an answer leaves time for another before the deadline", 0, func(s *stage) {
		d := s.open("me", fields{"request_timeout_ms": 60_000})
		l := d.acquire("L1", "a", fields{"ttl_ms": 3000})
		s.front.then("renew", silent())
		s.front.awaitAnswers("renew", "a", 2)
		s.holdsNow("a", l.Fence)
		d.holds("L1", true)
	}},
	{"renewal by hand that hangs", "it ends with the lease, and says that the lease is lost", 0, func(s *stage) {
		d := s.open("me", fields{"request_timeout_ms": 600_000})
		d.acquire("L1", "a", fields{"ttl_ms": 1000, "manual_renew": true})
		s.front.all("renew", silent())
		d.start("renew", fields{"lease": "L1"}).fails("renew", "lost")
	}},
	{"freeze and thaw", "a process that was stopped for longer than its lease knows at once that it has lost it", 0, func(s *stage) {
		d := s.open("me")
		l := d.acquire("L1", "a", fields{"ttl_ms": 1500})
		s.frozen(d, "a", l.Fence)
		p := d.start("state", fields{"lease": "L1"}) // read before anything else
		d.thaw()
		s.check(!p.ok().Held, "after the thaw the client says that it holds the lease")
		d.lost("L1")
		s.check(d.losses("L1") == 1, "%d events of the loss; want 1", d.losses("L1"))
		d.start("release", fields{"lease": "L1"}).fails("release", "lost")
		s.check(s.status("a").Locked, "the release of a lost lease has ended another's")
	}},
	{"freeze and thaw, renewed by hand", "the same without renewals in the background", 0, func(s *stage) {
		d := s.open("me")
		l := d.acquire("L1", "a", fields{"ttl_ms": 1000, "manual_renew": true})
		s.frozen(d, "a", l.Fence)
		p, r := d.start("state", fields{"lease": "L1"}), d.start("renew", fields{"lease": "L1"})
		d.thaw()
		s.check(!p.ok().Held, "after the thaw the client says that it holds the lease")
		r.fails("renew", "lost")
		d.lost("L1")
	}},
	{"freeze and thaw in a scope", "the body is interrupted, and the error says why", 0, func(s *stage) {
		d := s.open("me")
		p := d.start("scoped", fields{"client": "c1", "lease": "L1", "lock": "a", "body": "wait", "ttl_ms": 1500})
		e := d.event("entered", func(e event) bool { return e.Event == "entered" })
		s.frozen(d, "a", e.Fence)
		d.thaw()
		p.fails("lost", "!body")
		d.lost("L1")
		s.check(s.status("a").Locked, "the end of the scope has ended another's lease")
	}},
	{"clock steps forward", "the wall clock is set an hour ahead: the lease stays, and its deadline is right", 0, func(s *stage) { s.clockSteps(3_600_000) }},
	{"clock steps back", "the wall clock is set an hour back: the lease stays, and its deadline is right", 0, func(s *stage) { s.clockSteps(-3_600_000) }},
	{"renewals stop", "a lease that was released, or lost, is not renewed any more", 0, func(s *stage) {
		d := s.open("me")
		ttl := fields{"ttl_ms": 600}
		d.acquire("L1", "a", ttl)
		d.acquire("L2", "b", ttl)
		s.front.awaitAnswers("renew", "a", 1)
		d.must("release", fields{"lease": "L1"})
		s.forceRelease("b")
		d.lost("L2")
		a, b := len(s.front.requests("renew", "a")), len(s.front.requests("renew", "b"))
		d.acquire("L3", "c", ttl)
		s.front.awaitAnswers("renew", "c", 5)
		s.check(len(s.front.requests("renew", "a")) == a, "a released lease was renewed")
		s.check(len(s.front.requests("renew", "b")) == b, "a lost lease was renewed")
	}},
	{"grants one after the other", "three waiters are granted the lock in their order, and told their places", 0, func(s *stage) {
		r := s.rival("a", time.Minute)
		var drivers []*driver
		var waits []pending
		for i, name := range []string{"one", "two", "three"} {
			d := s.open(name)
			p := d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "ttl_ms": long, "wait_ms": 60_000})
			p.waits(i + 1)
			drivers, waits = append(drivers, d), append(waits, p)
		}
		s.check(s.status("a").Waiting == 3, "%d waiters; want 3", s.status("a").Waiting)
		last := r.fence
		r.release()
		for i, p := range waits {
			l := drivers[i].granted("a", p)
			s.check(l.Fence > last, "the fencing token %d follows %d", l.Fence, last)
			s.holdsNow("a", l.Fence)
			for _, later := range waits[i+1:] {
				_, answered := later.answered()
				s.check(!answered, "a later waiter was answered first")
			}
			last = l.Fence
			drivers[i].must("release", fields{"lease": "L1"})
		}
		s.free("a")
	}},
	{"pace of polls", "a waiter does not poll in a tight loop, and not too rarely to keep its place", 0, func(s *stage) {
		r := s.rival("a", time.Minute)
		d := s.open("me", fields{"retry_delay_ms": 500})
		p := d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "ttl_ms": long, "wait_ms": 60_000})
		p.waits(1)
		s.rival("rod", 3*time.Second)
		s.free("rod")
		requests := s.front.requests("acquire", "a")
		s.check(len(requests) >= 4 && len(requests) <= 16, "%d polls in 3 s with a delay of 500 ms; want 4 to 16", len(requests))
		for i, q := range requests {
			s.check(q.wait >= 5000 && q.wait <= wire.MaxWait.Milliseconds(), "the place is kept for %d ms", q.wait)
			s.check(i == 0 || q.fields["ticket"] != nil, "poll %d has no ticket", i+1)
		}
		s.sameSecret("acquire", "a", len(requests))
		r.release()
		d.granted("a", p)
	}},
	{"release wakes a waiter of the same client", "it does not sleep until its next poll", 0, func(s *stage) {
		d := s.open("me", fields{"retry_delay_ms": 200_000})
		d.acquire("L1", "a", fields{"ttl_ms": 600_000})
		p := d.start("acquire", fields{"client": "c1", "lease": "L2", "lock": "a", "ttl_ms": 600_000})
		p.waits(1)
		s.front.awaitAnswers("acquire", "a", 3) // after a pause of 3 s at most; the next is 25 s
		d.must("release", fields{"lease": "L1"})
		d.granted("a", p)
		requests := s.front.requests("acquire", "a")
		freed := s.front.requests("release", "a")[0].at
		s.check(requests[3].at-freed < requests[2].at-requests[1].at, "the waiter asked %v ms after the release", requests[3].at-freed)
	}},
}

// frozen stops a process until its lease is over and another has the lock.
func (s *stage) frozen(d *driver, lock string, fence int64) {
	s.holdsNow(lock, fence)
	d.freeze()
	s.takeover(lock, time.Minute)
}

func (s *stage) clockSteps(step int) {
	d := s.open("me")
	l := d.acquire("L1", "a", fields{"ttl_ms": 1500})
	r := d.start("clock", fields{"step_ms": step}).wait()
	if r.Error != nil {
		s.kinds(r.Error, "unsupported")
		s.notRun(r.Error.Text)
	}
	d.holds("L1", true)
	n := len(s.front.requests("renew", "a"))
	s.front.awaitAnswers("renew", "a", n+3)
	state := d.holds("L1", true)
	d.proved(state.Deadline, s.front.requests("renew", "a"))
	s.holdsNow("a", l.Fence)
	s.check(d.losses("L1") == 0, "the lease was lost")
	d.acquire("L2", "b", fields{"ttl_ms": long})
	d.must("release", fields{"lease": "L1"})
}

// ends are the ways in which leases and clients end.
var ends = []scenario{
	{"force-release", "the holder learns of it at its next renewal, once", 0, func(s *stage) {
		d := s.open("me")
		d.acquire("L1", "a", fields{"ttl_ms": 900})
		s.front.awaitAnswers("renew", "a", 1)
		s.forceRelease("a")
		n := len(s.front.requests("renew", "a"))
		e := d.lost("L1", "renew")
		s.check(len(s.front.requests("renew", "a")) <= n+1, "%d renewals after the force-release; want one", len(s.front.requests("renew", "a"))-n)
		s.check(len(e.Error.Text) > 10, "the error says only %q", e.Error.Text)
		d.holds("L1", false)
		d.start("release", fields{"lease": "L1"}).fails("release", "lost")
		s.check(d.losses("L1") == 1, "%d events of the loss; want 1", d.losses("L1"))
	}},
	{"force-release of a scope", "the body is interrupted", 0, func(s *stage) {
		d := s.open("me")
		p := d.start("scoped", fields{"client": "c1", "lease": "L1", "lock": "a", "body": "wait", "ttl_ms": 900})
		d.event("entered", func(e event) bool { return e.Event == "entered" })
		s.forceRelease("a")
		p.fails("lost", "!body")
		d.lost("L1")
	}},
	{"shutdown", "close releases all leases, ends waits with an error, and leaves nothing", 0, func(s *stage) {
		s.rival("held", time.Minute)
		d := s.open("me")
		for _, n := range []string{"1", "2", "3"} {
			d.acquire("L"+n, "a"+n, fields{"ttl_ms": long})
		}
		p := d.start("acquire", fields{"client": "c1", "lease": "L4", "lock": "held", "wait_ms": 60_000})
		p.waits(1)
		d.must("close", fields{"client": "c1"})
		p.fails("acquire", "closed")
		for _, n := range []string{"1", "2", "3"} {
			s.holdsNow("a" + n)
			d.holds("L"+n, false)
			s.check(d.losses("L"+n) == 0, "close was reported as a loss")
		}
		s.check(s.status("held").Waiting == 0, "close left a waiter")
		d.start("acquire", fields{"client": "c1", "lease": "L5", "lock": "a1", "try": true}).fails("acquire", "closed")
		s.check(len(s.front.requests("acquire", "a1")) == 1, "a closed client sent a request")
	}},
	{"shutdown with a request on its way", "what is granted to a client that closes is released", 0, func(s *stage) {
		d := s.open("me")
		gate := make(chan struct{})
		s.front.then("acquire", held(gate))
		p := d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "ttl_ms": long})
		s.front.awaitServed("acquire", "a")
		closing := d.start("close", fields{"client": "c1"})
		p.fails("acquire", "closed")
		close(gate)
		closing.ok()
		s.holdsNow("a")
	}},
	{"process ends", "a driver that ends without a close leaves its lease to expire, and ends by itself", 0, func(s *stage) {
		d := s.open("me")
		d.acquire("L1", "a", fields{"ttl_ms": 900})
		if err := d.end(); err != nil {
			s.failf("%v", err)
		}
		s.free("a")
	}},
}
