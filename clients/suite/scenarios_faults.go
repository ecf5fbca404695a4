package main

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// faults are requests and answers that go wrong, and pass.
var faults = []scenario{
	{"lost reply of acquire", "the retry has the same secret, and there is one lease", 0, func(s *stage) {
		d := s.open("me")
		s.front.then("acquire", lose)
		l := d.acquire("L1", "a", fields{"ttl_ms": long, "try": true})
		s.sameSecret("acquire", "a", 2)
		s.holdsNow("a", l.Fence)
	}},
	{"lost reply of renew", "the retry succeeds, and the lease stays", 0, func(s *stage) {
		d := s.open("me")
		l := d.acquire("L1", "a", fields{"ttl_ms": long, "manual_renew": true})
		s.front.then("renew", lose)
		r := d.must("renew", fields{"lease": "L1"})
		d.proved(r.Deadline, s.front.requests("renew", "a"))
		s.sameSecret("renew", "a", 2)
		s.holdsNow("a", l.Fence)
		d.holds("L1", true)
	}},
	{"lost reply of release", "the retry finds the lease gone, and the release has succeeded", 0, func(s *stage) {
		d := s.open("me")
		d.acquire("L1", "a")
		s.front.then("release", lose)
		d.must("release", fields{"lease": "L1"})
		s.sameSecret("release", "a", 2)
		s.holdsNow("a")
		s.check(d.losses("L1") == 0, "the release was reported as a loss")
	}},
	{"late retry of release", "the coordinator does not know the lease any more, and the release has succeeded", 0, func(s *stage) {
		d := s.open("me")
		d.acquire("L1", "a")
		gate := make(chan struct{})
		s.front.then("release", lose, trick{what: "waits", before: gate, pass: true})
		p := d.start("release", fields{"lease": "L1"})
		s.front.await("release", 2)
		s.rival("a", time.Minute).release()
		r := s.rival("a", time.Minute)
		close(gate)
		p.ok()
		s.holdsNow("a", r.fence)
		s.check(s.front.requests("release", "a")[1].status == http.StatusGone, "the coordinator knows the lease: it answers %d", s.front.requests("release", "a")[1].status)
	}},
	{"lost request", "a request that does not arrive is sent again", 0, func(s *stage) {
		d := s.open("me")
		s.front.then("acquire", cut)
		s.front.then("renew", cut)
		s.front.then("release", cut)
		s.front.then("status", cut)
		d.acquire("L1", "a", fields{"ttl_ms": long, "manual_renew": true, "try": true})
		d.must("renew", fields{"lease": "L1"})
		d.must("status", fields{"client": "c1", "lock": "a"})
		d.must("release", fields{"lease": "L1"})
		s.holdsNow("a")
		for _, op := range []string{"acquire", "renew", "release", "status"} {
			s.check(len(s.front.requests(op, "a")) == 2, "%d requests to %s; want 2", len(s.front.requests(op, "a")), op)
		}
	}},
	{"503 after commit", "an outage that is reported after the request took effect changes nothing", 0, func(s *stage) {
		d := s.open("me")
		for _, op := range []string{"acquire", "renew", "release"} {
			s.front.then(op, afterwards(503, outage))
		}
		l := d.acquire("L1", "a", fields{"ttl_ms": long, "manual_renew": true, "try": true})
		s.holdsNow("a", l.Fence)
		d.must("renew", fields{"lease": "L1"})
		s.holdsNow("a", l.Fence)
		d.must("release", fields{"lease": "L1"})
		s.holdsNow("a")
		for _, op := range []string{"acquire", "renew", "release"} {
			s.sameSecret(op, "a", 2)
		}
	}},
	{"busy coordinator", "503 and 429 with Retry-After, of the coordinator, API Gateway and Lambda, are retried, and not before that time", 0, func(s *stage) {
		d := s.open("me", fields{"retries": 4})
		s.front.then("acquire",
			instead(503, `{"message":"Service Unavailable"}`, "Retry-After", "1"),
			instead(429, `{"message":"Too Many Requests"}`),
			instead(502, "<html>Bad Gateway</html>", "Content-Type", "text/html"),
			instead(503, strings.Replace(outage, "store_unavailable", "throttled", 1)))
		l := d.acquire("L1", "a", fields{"ttl_ms": long, "try": true})
		s.sameSecret("acquire", "a", 5)
		requests := s.front.requests("acquire", "a")
		s.check(requests[1].at-requests[0].at >= 999, "the retry came %v ms after an answer with Retry-After of 1 s", requests[1].at-requests[0].at)
		s.holdsNow("a", l.Fence)
	}},
	{"slow answer", "the deadline counts from before the request, not from its answer", 0, func(s *stage) {
		d := s.open("me")
		gate := make(chan struct{})
		s.front.then("acquire", held(gate))
		p := d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "ttl_ms": 4000, "try": true, "manual_renew": true})
		s.front.awaitServed("acquire", "a")
		time.Sleep(time.Second) // a quarter of the lease's life
		close(gate)
		d.granted("a", p)
		gate = make(chan struct{})
		s.front.then("renew", held(gate))
		p = d.start("renew", fields{"lease": "L1"})
		s.front.awaitServed("renew", "a")
		time.Sleep(time.Second)
		close(gate)
		d.proved(p.ok().Deadline, s.front.requests("renew", "a"))
	}},
	{"answer after the time-out", "an answer that comes later than the request's time-out is not waited for; the retry finds the same lease", 0, func(s *stage) {
		d := s.open("me", fields{"request_timeout_ms": 300})
		gate := make(chan struct{})
		defer close(gate)
		s.front.then("acquire", held(gate))
		l := d.acquire("L1", "a", fields{"ttl_ms": long, "try": true})
		s.sameSecret("acquire", "a", 2)
		s.holdsNow("a", l.Fence)
		s.front.then("release", held(gate))
		d.must("release", fields{"lease": "L1"})
		s.holdsNow("a")
	}},
	{"grant after its time", "a grant whose answer comes when its TTL is over is no lease; a lease has a new secret then", 0, func(s *stage) {
		d := s.open("me")
		gate := make(chan struct{})
		s.front.then("acquire", held(gate))
		p := d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "ttl_ms": 1000, "try": true, "manual_renew": true})
		s.front.awaitServed("acquire", "a")
		fence := s.status("a").Holders[0].Fence
		s.free("a")
		close(gate)
		r := p.wait()
		if r.Error != nil {
			s.kinds(r.Error, "acquire", "lost")
			s.check(len(s.front.requests("acquire", "a")) == 1, "the request was repeated with a secret whose lease is over")
			return
		}
		s.check(r.OK.Fence > fence, "the lease has the fencing token of a grant that was over, %d", fence)
		d.proved(r.OK.Deadline, s.front.requests("acquire", "a"))
		requests := s.front.requests("acquire", "a")
		s.check(len(requests) == 2 && requests[0].secret != requests[1].secret, "%d requests; want two with different secrets", len(requests))
	}},
	{"bounded retries", "a try gives up after its retries; so do a renewal, a release and a status", 0, func(s *stage) {
		d := s.open("me", fields{"retries": 2})
		d.acquire("L1", "a", fields{"ttl_ms": long, "manual_renew": true})
		for _, op := range []string{"acquire", "renew", "release", "status"} {
			s.front.all(op, instead(503, outage))
		}
		d.start("acquire", fields{"client": "c1", "lease": "L2", "lock": "b", "try": true}).fails("acquire", "unavailable", "!held", "!refused")
		d.start("renew", fields{"lease": "L1"}).fails("renew", "unavailable", "!lost")
		d.holds("L1", true)
		d.start("status", fields{"client": "c1", "lock": "a"}).fails("status", "unavailable")
		d.start("release", fields{"lease": "L1"}).fails("release", "unavailable")
		for op, lock := range map[string]string{"acquire": "b", "renew": "a", "release": "a", "status": "a"} {
			n := 0
			for _, r := range s.front.requests(op, lock) {
				if r.status == 0 {
					n++
				}
			}
			s.check(n == 3, "%d requests to %s; want the first and 2 retries", n, op)
		}
	}},
	{"no retries", "a client with no retries sends each request once", 0, func(s *stage) {
		d := s.open("me", fields{"retries": 0})
		s.front.then("acquire", cut)
		d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "try": true}).fails("acquire", "unavailable")
		s.check(len(s.front.requests("acquire", "a")) == 1, "%d requests; want 1", len(s.front.requests("acquire", "a")))
	}},
	{"grant of a try that gave up", "a lease that may have been granted is released", 0, func(s *stage) {
		d := s.open("me", fields{"retries": 1})
		s.front.then("acquire", lose, lose)
		d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "try": true, "ttl_ms": long}).fails("acquire", "unavailable")
		s.free("a")
		requests := s.front.requests("release", "a")
		s.check(requests[0].secret == s.front.requests("acquire", "a")[0].secret, "the release has another secret")
	}},
	{"answers of others", "an answer that is not the coordinator's, or not of this lock or lease, is never a lease", 0, func(s *stage) {
		d := s.open("me", fields{"retries": 1})
		for i, t := range []trick{
			instead(200, "<html>login</html>", "Content-Type", "text/html"),
			instead(200, `[]`),
			instead(404, "not found", "Content-Type", "text/plain"),
			instead(204, ""),
			changed("is answered for another lock", func(f map[string]any) { f["lock"] = "other" }),
			changed("is answered with another secret", func(f map[string]any) { f["lease"] = "another-secret-0001" }),
			changed("is answered without a fencing token", func(f map[string]any) { delete(f, "fence") }),
			changed("is answered without a TTL", func(f map[string]any) { f["ttl_ms"] = 0 }),
		} {
			lock := fmt.Sprintf("a%d", i)
			s.front.then("acquire", t)
			d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": lock, "try": true}).fails("acquire", "refused")
			s.check(len(s.front.requests("acquire", lock)) == 1, "an answer that is no coordinator's was retried: %s", t.what)
			s.free(lock) // what was granted is released
		}
		s.front.then("acquire", instead(200, `{"lock":"b","lea`))
		d.acquire("L2", "b", fields{"try": true})
		s.sameSecret("acquire", "b", 2)
	}},
	{"answer of a renewal of another lease", "it does not move the deadline", 0, func(s *stage) {
		d := s.open("me")
		l := d.acquire("L1", "a", fields{"ttl_ms": long, "manual_renew": true})
		s.front.then("renew", changed("is answered with another secret", func(f map[string]any) { f["lease"] = "another-secret-0001" }))
		d.start("renew", fields{"lease": "L1"}).fails("renew", "refused")
		got := d.holds("L1", true)
		s.check(got.Deadline <= l.Deadline+1, "the deadline moved from %v to %v", l.Deadline, got.Deadline)
	}},
	{"redirect", "a redirect is not followed, since the request has the lease's secret", 0, func(s *stage) {
		other, err := newFront(s.ctx, s)
		if err != nil {
			s.failf("%v", err)
		}
		defer other.close()
		d := s.open("me", fields{"retries": 1})
		for _, status := range []int{http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
			s.front.then("acquire", instead(status, "", "Location", other.url+"/v1/locks/a/acquire"))
			d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "try": true}).fails("acquire", "refused")
		}
		other.mu.Lock()
		defer other.mu.Unlock()
		s.check(len(other.seen) == 0, "%d requests followed a redirect", len(other.seen))
	}},
	{"secret in an error", "an answer that repeats the request does not bring the secret into an error's text", 0, func(s *stage) {
		d := s.open("me", fields{"retries": 0})
		for _, t := range []trick{
			instead(400, `{"message":"bad request: SECRET"}`),
			instead(403, `{"message":"Forbidden SECRET"}`),
			instead(503, `{"message":"SECRET"}`),
			instead(400, `{"code":"invalid_request","status":400,"detail":"lease SECRET is wrong","field":"lease"}`),
			instead(200, `SECRET`),
		} {
			s.front.then("acquire", t)
			f := d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "try": true}).fails("acquire")
			requests := s.front.requests("acquire", "a")
			secret := requests[len(requests)-1].secret
			s.check(!strings.Contains(fmt.Sprintf("%+v", *f), secret), "the error has the lease's secret: %s", f.Text)
		}
	}},
	{"outage while waiting", "an acquire that waits outlasts more failures than a try has retries", 0, func(s *stage) {
		d := s.open("me", fields{"retries": 1})
		s.front.then("acquire", cut, instead(503, outage), cut, instead(500, ""), cut, lose)
		l := d.acquire("L1", "a", fields{"ttl_ms": long, "wait_ms": 20_000})
		s.sameSecret("acquire", "a", 7)
		s.holdsNow("a", l.Fence)
	}},
	{"outage until the wait is over", "the error says that the coordinator is unavailable", 0, func(s *stage) {
		d := s.open("me")
		s.front.all("acquire", instead(503, outage))
		d.start("acquire", fields{"client": "c1", "lease": "L1", "lock": "a", "wait_ms": 500}).fails("acquire", "unavailable", "!held")
	}},
}

// sameSecret fails the scenario unless there were n requests of an operation for a lock, all with the same secret.
func (s *stage) sameSecret(op, lock string, n int) {
	requests := s.front.requests(op, lock)
	s.check(len(requests) == n, "%d requests to %s; want %d", len(requests), op, n)
	for _, r := range requests {
		s.check(r.secret == requests[0].secret && r.secret != "", "the retries of %s have different secrets", op)
	}
}
