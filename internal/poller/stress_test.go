//go:build stress

package poller

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/events"
)

// The time from a dead holder's expiry to its event, on DynamoDB Local with the stream polled as Lambda does. The figure is printed; a
// missing event fails the test.
func TestStressExpiry(t *testing.T) {
	const holders = 500
	c := newCloud(t)
	expiry := map[string]time.Time{}
	for n := range holders {
		name := fmt.Sprint("dead:", n)
		l := c.acquire(t, name, "s", time.Second+rand.N(4*time.Second))
		expiry[events.ID(name, l.Lease.Fence, events.TypeExpired)] = time.UnixMilli(l.Lease.ExpiresAt)
	}
	c.log.wait(t, func(ids []string) bool {
		n := 0
		for _, id := range ids {
			if _, ok := expiry[id]; ok {
				n++
			}
		}
		return n == holders
	})
	c.log.mu.Lock()
	defer c.log.mu.Unlock()
	var took []time.Duration
	for id, at := range expiry {
		took = append(took, c.log.at[id].Sub(at))
	}
	slices.Sort(took)
	fmt.Printf("expiry: %d dead holders, from expiry to Lock Expired: p50 %v, p99 %v, max %v\n", holders,
		took[holders/2].Round(time.Millisecond), took[holders*99/100].Round(time.Millisecond), took[holders-1].Round(time.Millisecond))
}
