package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/local"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// minTTL is the shortest TTL that the coordinator accepts, as in holdfast dev.
const minTTL = 100 * time.Millisecond

// A coordinator is the real one, with its locks in memory.
type coordinator struct {
	api     *api.API
	gateway http.Handler
}

func newCoordinator(skew time.Duration) (*coordinator, error) {
	c, err := lock.New(lock.Config{Store: &lock.Memory{}, Rules: lock.Rules{Skew: skew}})
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.DiscardHandler)
	a, err := api.New(api.Config{Coordinator: c, Log: log, MinTTL: minTTL})
	if err != nil {
		return nil, err
	}
	return &coordinator{api: a, gateway: local.NewGateway(a, log)}, nil
}

// call sends a request past the front.
func (c *coordinator) call(op wire.Op, name string, fields any) (any, *wire.Problem) {
	var body []byte
	if fields != nil {
		var err error
		if body, err = json.Marshal(fields); err != nil {
			panic(err)
		}
	}
	return c.api.Call(context.Background(), op, name, body)
}

// status reads a lock.
func (s *stage) status(lock string) wire.Status {
	answer, problem := s.call(wire.OpStatus, lock, nil)
	if problem != nil {
		s.failf("status of %s: %s", lock, problem.Detail)
	}
	return answer.(wire.Status)
}

// holdsNow fails the scenario unless the holders of a lock have these fencing tokens.
func (s *stage) holdsNow(lock string, fences ...int64) {
	got := []int64{}
	for _, h := range s.status(lock).Holders {
		got = append(got, h.Fence)
	}
	if fmt.Sprint(got) != fmt.Sprint(append([]int64{}, fences...)) {
		s.failf("the holders of %s have the fencing tokens %v; want %v", lock, got, fences)
	}
}

// free waits until a lock has no holder. The scenario fails if the lock then has waiters.
func (s *stage) free(lock string) {
	s.until("that "+lock+" is free", func() bool { return !s.status(lock).Locked })
	if n := s.status(lock).Waiting; n != 0 {
		s.failf("%s has %d waiters; want none", lock, n)
	}
}

// A rival is another caller, which the runner plays.
type rival struct {
	s            *stage
	lock, secret string
	fence        int64
}

// rival acquires a lock that is free.
func (s *stage) rival(lock string, ttl time.Duration) *rival {
	r, problem := s.try(lock, ttl, 0)
	if problem != nil {
		s.failf("the rival was refused %s: %s", lock, problem.Detail)
	}
	return r
}

// takeover acquires a lock as soon as the coordinator grants it.
func (s *stage) takeover(lock string, ttl time.Duration) {
	s.until("that the coordinator grants "+lock+" to another", func() bool {
		_, problem := s.try(lock, ttl, 0)
		return problem == nil
	})
}

// try acquires a lock, or joins its queue if wait is not 0. The problem says why it has no grant.
func (s *stage) try(lock string, ttl, wait time.Duration) (*rival, *wire.Problem) {
	r := &rival{s: s, lock: lock, secret: rand.Text()}
	answer, problem := s.call(wire.OpAcquire, lock, wire.AcquireRequest{Lease: r.secret, Owner: "rival", TTL: ttl.Milliseconds(), Wait: wait.Milliseconds()})
	if problem != nil {
		return r, problem
	}
	r.fence = answer.(wire.Lease).Fence
	s.logf("the rival holds %s, fence %d", lock, r.fence)
	return r, nil
}

// waiter joins the queue of a lock, and polls no more.
func (s *stage) waiter(lock string, place time.Duration) *rival {
	r, problem := s.try(lock, time.Minute, place)
	s.check(problem != nil && problem.Position > 0, "the rival did not join the queue of %s: %+v", lock, problem)
	return r
}

// release ends the rival's lease, or leaves the queue.
func (r *rival) release() {
	r.s.logf("the rival releases %s", r.lock)
	if _, problem := r.s.call(wire.OpRelease, r.lock, wire.ReleaseRequest{Lease: r.secret}); problem != nil {
		r.s.failf("the rival's release of %s: %s", r.lock, problem.Detail)
	}
}

// forceRelease ends the leases of a lock, as an operator does.
func (s *stage) forceRelease(lock string) {
	s.logf("an operator ends the leases of %s", lock)
	if _, problem := s.call(wire.OpForceRelease, lock, wire.ForceReleaseRequest{Reason: "suite"}); problem != nil {
		s.failf("force-release of %s: %s", lock, problem.Detail)
	}
}

// rule sets a prefix rule. It must be set before the coordinator is asked for a lock, since rules are read once in a while.
func (s *stage) rule(prefix string, r wire.RuleRequest) {
	if _, problem := s.call(wire.OpPutRule, prefix, r); problem != nil {
		s.failf("rule of %s: %s", prefix, problem.Detail)
	}
}
