package storetest

import (
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/history"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// concurrent runs concurrent clients of one lock and checks that some order of the requests, consistent with real time, explains all
// answers.
func concurrent(f *fixture) {
	const clients, rounds = 6, 40
	var mu sync.Mutex
	var h history.History
	var wg sync.WaitGroup
	start := time.Now()
	for client := range clients {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(client), 1))
			name := strconv.Itoa(client)
			lease, held, leases := Secret(), false, 0
			for range rounds {
				op := history.Op{
					Client: name, Op: []history.Kind{history.Acquire, history.Acquire, history.Renew, history.Release}[rng.IntN(4)],
					Lock: "l", Lease: name + "/" + strconv.Itoa(leases), TTL: int64(time.Hour), Began: int64(time.Since(start)),
				}
				op.Fence, op.Result = f.send(op.Op, lease)
				op.Ended = int64(time.Since(start))
				ok := op.Result == history.OK || op.Result == history.Granted
				if op.Op == history.Release && held && ok { // a lease is used once
					lease, leases = Secret(), leases+1
				}
				held = ok && op.Op != history.Release || held && op.Op == history.Renew
				mu.Lock()
				h.Ops = append(h.Ops, op)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if err := history.Check(&h, history.Config{Skew: lock.DefaultSkew, Claim: lock.ClaimTime}).Err(); err != nil {
		f.t.Error(err)
	}
}

// send sends one request of a concurrent run.
func (f *fixture) send(op history.Kind, lease string) (fence int64, result history.Result) {
	var l lock.LeaseStatus
	var err error
	switch op {
	case history.Acquire:
		l, err = f.acquire(lease, func(r *lock.AcquireRequest) { r.TTL = time.Hour })
	case history.Renew:
		l, err = f.renew(lease, func(r *lock.RenewRequest) { r.TTL = time.Hour })
	default:
		if _, err = f.release(lease); err == nil {
			return 0, history.OK
		}
	}
	switch {
	case err == nil:
		return l.Lease.Fence, history.Granted
	case errors.Is(err, lock.ErrLockHeld):
		return 0, history.Held
	case errors.Is(err, lock.ErrLeaseLost):
		return 0, history.Lost
	}
	f.t.Errorf("%s of %s: %v", op, lease, err)
	return 0, history.Unknown
}
