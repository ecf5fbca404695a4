package dynamo_test

import (
	"slices"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// The requests by which a writer becomes a reader: alone, and with a reader that waits.
func TestRequestsOfADowngrade(t *testing.T) {
	wire := &large{}
	s := newStore(t, func(c *dynamo.Config) { c.AWS.HTTPClient = wire })
	c, err := lock.New(lock.Config{Store: s})
	if err != nil {
		t.Fatal(err)
	}
	acquire := func(name, secret string, permits int64) {
		_, _ = c.Acquire(t.Context(), lock.AcquireRequest{Lock: name, Secret: secret, TTL: time.Minute, Capacity: 100, Permits: permits, SameCapacity: true, Wait: time.Minute})
	}
	acquire("alone", "w", 100)
	acquire("waited for", "w", 100)
	acquire("waited for", "r", 1)
	for name, want := range map[string][]string{
		"alone":      {"GetItem", "UpdateItem"},
		"waited for": {"GetItem", "Query", "TransactWriteItems"},
	} {
		wire.took()
		if _, err := c.Release(t.Context(), lock.ReleaseRequest{Lock: name, Secret: "w", Keep: 1, Capacity: 100}); err != nil {
			t.Fatal(err)
		}
		if took := wire.took(); !slices.Equal(took, want) {
			t.Errorf("%s: %v, want %v", name, took, want)
		}
	}
}
