package lock

import (
	"testing"
)

var mutexWorld = world{
	name: "mutex", clients: 2, capacity: 1, leases: 2, sends: 4, duplicates: 1, timers: 1, inFlight: 3,
	ttl: 2, retention: 3, horizon: 6,
}

func TestTune(t *testing.T) {
	x := explore(mutexWorld, 20_000_000)
	t.Logf("%s: %d states, %d transitions, %d records, %d commands", x.name, x.visited.n, x.transitions, len(x.records), len(x.commands))
	if x.found != "" {
		t.Fatal(x.found)
	}
}
