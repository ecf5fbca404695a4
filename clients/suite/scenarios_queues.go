package main

import (
	"strings"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
)

// queues are scenarios of waits.
var queues = []scenario{
	{"wait is over", "the error says who holds the lock, and the place in the queue is left", 0, func(s *stage) {
		r := s.rival("a", time.Minute)
		d := s.open("me")
		p := d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "wait_ms": 2000})
		p.waits(1)
		f := p.fails("acquire", "held", "timeout", "!unavailable", "!cancelled")
		s.check(len(f.Holders) == 1 && f.Holders[0].Fence == r.fence && f.Holders[0].Owner == "rival", "the holders are %+v", f.Holders)
		s.until("that the waiter leaves the queue", func() bool { return s.status("a").Waiting == 0 })
		s.holdsNow("a", r.fence)
	}},
	{"cancelled wait", "the place in the queue is left", 0, func(s *stage) {
		r := s.rival("a", time.Minute)
		d := s.open("me")
		p := d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "wait_ms": 60_000})
		p.waits(1)
		d.must("cancel", fields{"target": p.id})
		p.fails("acquire", "cancelled", "!lost")
		s.until("that the waiter leaves the queue", func() bool { return s.status("a").Waiting == 0 })
		s.holdsNow("a", r.fence)
		r.release()
		s.free("a")
	}},
	{"cancelled grant", "an acquire that is cancelled while its grant is on the way releases it", 0, func(s *stage) {
		d := s.open("me")
		gate := make(chan struct{})
		defer close(gate)
		s.front.then("acquire", held(gate))
		p := d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "b", "ttl_ms": long})
		s.front.awaitServed("acquire", "b")
		d.must("cancel", fields{"target": p.id})
		p.fails("acquire", "cancelled")
		s.free("b")
		s.check(s.front.requests("release", "b")[0].secret == s.front.requests("acquire", "b")[0].secret, "the release has another secret")
	}},
	{"cancelled turn", "a waiter that is cancelled when the lock has been granted to it passes it on", 0, func(s *stage) {
		r := s.rival("a", time.Minute)
		d, e := s.open("me"), s.open("you")
		p := d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "ttl_ms": long, "wait_ms": 60_000})
		p.waits(1)
		q := e.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "ttl_ms": long, "wait_ms": 60_000})
		q.waits(2)
		gate := make(chan struct{})
		defer close(gate)
		s.front.all("acquire", held(gate))
		n := len(s.front.requests("acquire", "a"))
		r.release() // grants the lock to the first waiter
		s.front.await("acquire", n+1)
		d.must("cancel", fields{"target": p.id})
		p.fails("acquire", "cancelled")
		s.front.heal("acquire")
		s.front.await("release", 1)
		l := e.granted("a", q)
		s.holdsNow("a", l.Fence)
	}},
	{"lost reply of a turn", "the waiter finds the same grant at its next poll", 0, func(s *stage) {
		r := s.rival("a", time.Minute)
		d := s.open("me")
		p := d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "ttl_ms": long, "wait_ms": 60_000})
		p.waits(1)
		gate := make(chan struct{})
		s.front.all("acquire", trick{what: "waits", before: gate, pass: true, lose: true})
		n := len(s.front.requests("acquire", "a"))
		s.front.await("acquire", n+1)
		r.release()
		s.front.heal("acquire")
		fence := s.status("a").Holders[0].Fence
		close(gate) // this poll claims the grant, and its answer is lost
		l := d.granted("a", p)
		s.check(l.Fence == fence, "the fencing token is %d; want %d, of the grant whose answer was lost", l.Fence, fence)
		s.holdsNow("a", fence)
		s.sameSecret("acquire", "a", len(s.front.requests("acquire", "a")))
	}},
	{"lost reply of a place", "a waiter whose first answers are lost has one place", 0, func(s *stage) {
		r := s.rival("a", time.Minute)
		d := s.open("me")
		s.front.then("acquire", lose, afterwards(503, outage))
		p := d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "ttl_ms": long, "wait_ms": 60_000})
		p.waits(1)
		s.check(s.status("a").Waiting == 1, "%d waiters; want 1", s.status("a").Waiting)
		r.release()
		d.granted("a", p)
		s.check(s.status("a").Waiting == 0, "a place was left")
	}},
	{"full queue", "a try fails at once with the limit; a waiter waits until there is room", 0, func(s *stage) {
		s.rule("a", wire.RuleRequest{Limits: &wire.LimitsRequest{MaxQueue: 1}})
		s.rival("a", time.Minute)
		first := s.waiter("a", time.Minute)
		d := s.open("me")
		d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "wait_ms": 2000}).fails("acquire", "held", "limit", "timeout")
		p := d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "ttl_ms": long, "wait_ms": 60_000})
		n := len(s.front.requests("acquire", "a"))
		s.front.awaitAnswers("acquire", "a", n+2)
		first.release()
		p.waits(1)
		s.forceRelease("a")
		d.granted("a", p)
	}},
	{"rate", "a waiter is granted the lock when the rate allows it", 0, func(s *stage) {
		s.rule("a", wire.RuleRequest{Limits: &wire.LimitsRequest{Rate: wire.Rate{Grants: 1, Period: 2000}}})
		d := s.open("me")
		d.acquire("L1", "a", fields{"ttl_ms": long})
		d.must("release", fields{"lease": "L1"})
		d.start("acquire", fields{"client": "c1", "lease": "L2", "lock": "a", "try": true}).fails("acquire", "held", "limit")
		p := d.start("acquire", fields{"client": "c1", "lease": "L3", "lock": "a", "ttl_ms": long, "wait_ms": 60_000})
		p.waits(0)
		d.granted("a", p)
	}},
}

// refusals are requests that can never succeed, and locks that nobody is granted.
var refusals = []scenario{
	{"frozen lock", "a try fails with the freeze's end and reason", 0, func(s *stage) {
		s.rule("deploy:", freezeUntil("year-end close"))
		d := s.open("me")
		f := d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "deploy:prod", "try": true}).fails("acquire", "held", "frozen")
		s.check(strings.Contains(f.Text, "year-end close"), "the error does not say why: %s", f.Text)
		d.start("acquire", fields{"client": "c1", "lease": "L2", "lock": "deploy:prod", "wait_ms": 2000}).fails("acquire", "held", "frozen", "timeout")
		s.check(s.front.requests("acquire", "deploy:prod")[0].wait == 0, "the try joined the queue")
	}},
	{"limit", "a request beyond a limit fails at once, also if it waits", 0, func(s *stage) {
		s.rule("a", wire.RuleRequest{Limits: &wire.LimitsRequest{MaxTTL: 5000}})
		d := s.open("me")
		f := d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "ttl_ms": 10_000, "wait_ms": 60_000}).fails("acquire", "limit", "refused", "!held")
		s.check(strings.Contains(f.Text, "5000"), "the error does not name the limit: %s", f.Text)
		s.check(len(s.front.requests("acquire", "a")) == 1, "%d requests; want 1", len(s.front.requests("acquire", "a")))
		d.acquire("L2", "a") // without a TTL: the limit's
	}},
	{"bad requests", "they fail at once, with the field, and are not repeated", 0, func(s *stage) {
		d := s.open("me")
		for lock, bad := range map[string]fields{
			"":       {},
			"a b":    {},
			"é":      {},
			"..":     {},
			"a/b":    {},
			"ttl":    {"ttl_ms": 10},
			"long":   {"ttl_ms": 800 * 3600 * 1000},
			"beat":   {"ttl_ms": 2000, "heartbeat_ms": 3000},
			"many":   {"capacity": 101},
			"more":   {"capacity": 2, "permits": 3},
			"mode":   {"mode": "append"},
			"both":   {"mode": "read", "capacity": 3},
			"wait":   {"wait_ms": -1},
			"hold":   {"min_hold_ms": -1},
			"data":   {"metadata": fields{"text": string(make([]byte, 2100))}},
			"nested": {"metadata": nested(9)},
		} {
			f := d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": lock}, bad).fails("acquire", "refused", "!held", "!unavailable")
			s.check(f.Field != "" && len(f.Text) > 20, "%q: the error names no field, or says nothing: %q, field %q", lock, f.Text, f.Field)
			s.check(len(s.front.requests("acquire", lock)) <= 1, "%q: the request was repeated", lock)
		}
		s.front.mu.Lock()
		defer s.front.mu.Unlock()
		s.check(len(s.front.seen) <= 4, "%d requests that cannot succeed were sent; want 4 at most: those that only the coordinator can judge", len(s.front.seen))
	}},
	{"all characters of names", "a name is one segment of the path, whatever it has", 0, func(s *stage) {
		d := s.open("me")
		name := "az:AZ:09.._:@+=-" + "x:y@z+1=2-3"
		l := d.acquire("L1", name, fields{"ttl_ms": 900})
		s.holdsNow(name, l.Fence)
		s.front.awaitAnswers("renew", name, 1)
		s.check(d.must("status", fields{"client": "c1", "lock": name}).Locked, "status finds another lock")
		d.must("release", fields{"lease": "L1"})
		s.holdsNow(name)
	}},
	{"not allowed", "a 403 of API Gateway fails at once", 0, func(s *stage) {
		d := s.open("me")
		s.front.all("acquire", instead(403, `{"message":"Forbidden"}`))
		f := d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "wait_ms": 60_000}).fails("acquire", "refused", "!unavailable")
		s.check(strings.Contains(f.Text, "Forbidden"), "the error does not repeat the message: %s", f.Text)
		s.check(len(s.front.requests("acquire", "a")) == 1, "%d requests; want 1", len(s.front.requests("acquire", "a")))
	}},
}

// nested returns an object of so many levels.
func nested(levels int) fields {
	f := fields{"a": 1}
	for range levels - 1 {
		f = fields{"a": f}
	}
	return f
}
