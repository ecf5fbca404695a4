package lockclient_test

import (
	"context"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// lossy makes the network lose a tenth of all requests and of all answers. It returns the seeded function that chooses them, which is
// true in percent of all cases.
func (w *world) lossy() (chance func(percent int) bool) {
	rng := mathrand.New(mathrand.NewPCG(1, 2))
	var mu sync.Mutex
	chance = func(percent int) bool {
		mu.Lock()
		defer mu.Unlock()
		return rng.IntN(100) < percent
	}
	w.breakWith(func(string, int, *http.Request) (*http.Response, error) {
		if chance(10) {
			return nil, errCut
		}
		return nil, nil
	}, func(_ string, _ int, resp *http.Response) (*http.Response, error) {
		if chance(10) {
			return nil, errCut
		}
		return resp, nil
	})
	return chance
}

// Ten thousand leases are acquired, lost and released through a network that loses a tenth of all requests and of all answers. None
// leaves a goroutine, a timer, or an entry in its client. Goroutines are counted before the client is closed; TestMain also runs
// goleak.
func TestCyclesLeakNothing(t *testing.T) {
	const cycles, workers = 10_000, 8
	run(t, func(t *testing.T, w *world) {
		chance := w.lossy()
		c := w.client()
		before := runtime.NumGoroutine()
		var lost, failed, released atomic.Int64
		var work sync.WaitGroup
		for worker := range workers {
			work.Go(func() {
				name := fmt.Sprintf("cycle:%d", worker)
				for range cycles / workers {
					l, err := c.Acquire(t.Context(), name, lockclient.Options{TTL: 5 * time.Second, Wait: time.Minute})
					switch {
					case err != nil:
						failed.Add(1)
						continue
					case chance(30): // the lease is forced out, or expires
						if chance(50) {
							_, _ = c.ForceRelease(t.Context(), name, "test", 0)
						}
						select {
						case <-l.Context().Done():
						case <-time.After(7 * time.Second):
						}
					case chance(10):
						ctx, cancel := context.WithCancel(t.Context())
						cancel()
						_ = l.Release(ctx)
						continue
					}
					if l.Release(t.Context()) != nil {
						lost.Add(1)
					} else {
						released.Add(1)
					}
				}
			})
		}
		work.Wait()
		time.Sleep(time.Minute) // for what runs in the background
		synctest.Wait()
		after := runtime.NumGoroutine()
		if after > before {
			t.Errorf("%d goroutines before, %d after", before, after)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if lost.Load() < 100 || released.Load() < 1000 {
			t.Errorf("%d lost, %d released: not much of a test", lost.Load(), released.Load())
		}
		fmt.Printf("client: %d cycles with faults: %d released, %d lost, %d not acquired; %d goroutines before, %d after\n", cycles, released.Load(), lost.Load(), failed.Load(), before, after)
	})
}
