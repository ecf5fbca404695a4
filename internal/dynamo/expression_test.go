package dynamo

import (
	"fmt"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// The longest update, all holders of the largest semaphore out and as many waiters in as one write moves, is within DynamoDB's
// limit for an expression.
func TestLongestExpression(t *testing.T) {
	from := lock.Record{Rev: 1, Holders: map[lock.LeaseKey]lock.Holder{}}
	to := lock.Record{Holders: map[lock.LeaseKey]lock.Holder{}, Retired: lock.Retired{Lease: "r"}}
	for i := range 100 {
		from.Holders[lock.KeyOf("from", fmt.Sprint(i))] = lock.Holder{Fence: 1}
	}
	for i := range 40 {
		to.Holders[lock.KeyOf("to", fmt.Sprint(i))] = lock.Holder{Fence: 2}
	}
	u := compile("locks", "a", lock.Command{
		Guard: []lock.Clause{{Test: lock.RevIs}, {Test: lock.FenceIs, N: 1}}, Effect: lock.Become{From: from, To: to}, Stamp: lock.Stamp{TTL: 1, By: "b", Reason: "r"},
	})
	if n := len(*u.UpdateExpression); n > 4096 {
		t.Errorf("it has %d bytes; DynamoDB takes 4096", n)
	}
}
