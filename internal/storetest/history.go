package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// A historyCall is one request of a concurrent run, with its answer.
type historyCall struct {
	op, lease string
}

type historyAnswer struct {
	ok    bool
	fence int64
}

type historyState struct {
	holder, retired string
	fence           int64 // the highest fencing token granted
	holderFence     int64
}

// historyModel is a mutex whose leases never expire, as a single thread runs it.
var historyModel = porcupine.Model{
	Init: func() any { return historyState{} },
	Step: func(state, input, output any) (bool, any) {
		s, in, out := state.(historyState), input.(historyCall), output.(historyAnswer)
		switch in.op {
		case "acquire":
			switch {
			case !out.ok:
				return s.holder != "" && s.holder != in.lease || s.retired == in.lease, s
			case s.holder == in.lease:
				return out.fence == s.holderFence, s
			}
			granted := s.holder == "" && s.retired != in.lease && out.fence > s.fence
			s.holder, s.fence, s.holderFence = in.lease, out.fence, out.fence
			return granted, s
		case "renew":
			return out.ok == (s.holder == in.lease), s
		}
		if s.holder == in.lease {
			s.holder, s.retired = "", in.lease
			return out.ok, s
		}
		return out.ok == (s.retired == in.lease), s
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%v -> %v", input, output) },
}

// history runs concurrent clients of one lock and checks that their answers are linearizable: some order of the requests, consistent
// with real time, explains all of them.
func history(f *fixture) {
	const clients, rounds = 6, 40
	var mu sync.Mutex
	var ops []porcupine.Operation
	var wg sync.WaitGroup
	start := time.Now()
	for client := range clients {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(client), 1))
			lease, held := Secret(), false
			for range rounds {
				call := historyCall{op: []string{"acquire", "acquire", "renew", "release"}[rng.IntN(4)], lease: lease}
				began := time.Since(start)
				var answer historyAnswer
				var err error
				switch call.op {
				case "acquire":
					var l lock.LeaseStatus
					l, err = f.acquire(lease, func(r *lock.AcquireRequest) { r.TTL = time.Hour })
					answer.fence = l.Lease.Fence
				case "renew":
					_, err = f.renew(lease, func(r *lock.RenewRequest) { r.TTL = time.Hour })
				default:
					_, err = f.release(lease)
				}
				if err != nil && !errors.Is(err, lock.ErrLockHeld) && !errors.Is(err, lock.ErrLeaseLost) {
					f.t.Errorf("%v: %v", call, err)
				}
				answer.ok = err == nil
				if call.op == "release" && held && answer.ok { // a lease is used once
					lease = Secret()
				}
				held = answer.ok && call.op != "release" || held && call.op == "renew"
				mu.Lock()
				ops = append(ops, porcupine.Operation{
					ClientId: client, Input: call, Call: int64(began), Output: answer, Return: int64(time.Since(start)),
				})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if !porcupine.CheckOperations(historyModel, ops) {
		f.t.Errorf("no order of the requests explains the answers: %v", ops)
	}
}
