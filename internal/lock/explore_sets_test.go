package lock

import (
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

type wants = [maxClients][2]int64

var (
	both    = [2]int64{1, 1}
	onlyA   = [2]int64{1, 0}
	onlyB   = [2]int64{0, 1}
	oneEach = [2]int64{1, 1}
)

// Each world is explored completely.
var setWorlds = []setWorld{
	{name: "two sets", clients: 2, clocks: 1, wants: wants{both, both}, capacity: oneEach, sends: 2, stream: true, ttl: 1, wait: 2, retention: 3, horizon: 2},
	{name: "two sets and two clocks", clients: 2, clocks: 2, wants: wants{both, both}, capacity: oneEach, sends: 1, timers: 2, stream: true, ttl: 1, wait: 2, retention: 3, horizon: 3},
	{name: "two sets that poll", clients: 2, clocks: 1, wants: wants{both, both}, capacity: oneEach, sends: 2, polls: true, stream: true, ttl: 2, wait: 2, retention: 3, horizon: 1},
	{name: "a set between two locks, writers do not die", clients: 3, clocks: 1, wants: wants{onlyA, both, onlyB}, capacity: oneEach, sends: 1, forces: 1, follows: true, ttl: 2, wait: 3, retention: 3, horizon: 2},
	{name: "a set between two locks and timers", clients: 3, clocks: 1, wants: wants{onlyA, both, onlyB}, capacity: oneEach, sends: 1, timers: 2, stream: true, ttl: 1, wait: 2, retention: 3, horizon: 3},
	{name: "three sets", clients: 3, clocks: 1, wants: wants{both, both, both}, capacity: oneEach, sends: 1, forces: 2, stream: true, ttl: 3, wait: 4, retention: 3, horizon: 1},
	{name: "a set before a task in the queue of a free lock", clients: 3, clocks: 1, wants: wants{onlyB, both, onlyA}, capacity: oneEach, sends: 1, stream: true, jobs: true, ttl: 6, wait: 1, patience: [maxClients]int64{2: 6}, retention: 3, horizon: 3},
	{name: "a waiter for two permits before a task that fits", clients: 3, clocks: 1, wants: wants{onlyA, {2, 0}, onlyA}, capacity: [2]int64{2, 1}, sends: 1, stream: true, jobs: true, ttl: 6, wait: 1, patience: [maxClients]int64{2: 6}, retention: 3, horizon: 4},
	{name: "a task, and a set that polls", clients: 2, clocks: 1, wants: wants{both, both}, capacity: oneEach, sends: 1, stream: true, tasks: 2, deaths: 1, deliveries: 1, crashes: 1, ttl: 4, wait: 5, retention: 3, horizon: 2},
	{name: "a task that is told by two", clients: 1, clocks: 1, wants: wants{both}, capacity: oneEach, sends: 2, stream: true, tasks: 1, deaths: 1, deliveries: 2, crashes: 2, ttl: 4, wait: 5, retention: 3, horizon: 2},
	{name: "a task, and an operator", clients: 2, clocks: 1, wants: wants{both, onlyB}, capacity: oneEach, sends: 1, forces: 1, stream: true, tasks: 1, deliveries: 1, crashes: 1, ttl: 4, wait: 5, retention: 3, horizon: 2},
	{name: "sets on two permits", clients: 3, clocks: 1, wants: wants{both, both, both}, capacity: [2]int64{1, 2}, sends: 1, timers: 2, stream: true, ttl: 1, wait: 3, retention: 3, horizon: 2},
	{name: "sets of many permits", clients: 3, clocks: 1, wants: wants{{2, 1}, {1, 2}, {1, 0}}, capacity: [2]int64{2, 3}, sends: 1, timers: 2, stream: true, ttl: 1, wait: 3, retention: 3, horizon: 2},
	{name: "a freeze", clients: 2, clocks: 1, wants: wants{onlyA, onlyA}, capacity: oneEach, sends: 1, again: 1, freezes: 1, frozen: 1, stream: true, ttl: 3, wait: 4, retention: 5, horizon: 2},
	{name: "a freeze and two clocks", clients: 2, clocks: 2, wants: wants{onlyA, onlyA}, capacity: oneEach, sends: 1, forces: 1, freezes: 1, frozen: 1, stream: true, ttl: 4, wait: 5, retention: 6, horizon: 3},
	{name: "a freeze of a lock of a set", clients: 2, clocks: 1, wants: wants{onlyA, both}, capacity: oneEach, sends: 1, forces: 1, freezes: 1, frozen: 1, stream: true, ttl: 3, wait: 4, retention: 5, horizon: 1},
	{name: "a freeze that ends with a set waiting", clients: 2, clocks: 1, wants: wants{both, onlyB}, capacity: oneEach, sends: 1, freezes: 1, frozen: 1, stream: true, ttl: 3, wait: 4, retention: 5, horizon: 2},
	{name: "a writer becomes a reader", clients: 3, clocks: 1, wants: wants{{2, 0}, onlyA, onlyA}, capacity: [2]int64{2, 1}, sends: 1, again: 1, downgrade: true, stream: true, ttl: 2, wait: 3, retention: 4, horizon: 2},
}

var largeSetWorlds = []setWorld{
	{name: "a freeze of a lock of a set, longer", clients: 2, clocks: 1, wants: wants{onlyA, both}, capacity: oneEach, sends: 1, forces: 1, freezes: 1, frozen: 1, stream: true, ttl: 3, wait: 4, retention: 5, horizon: 2},
	{name: "two sets, and writers settle", clients: 2, clocks: 1, wants: wants{both, both}, capacity: oneEach, sends: 1, forces: 2, stream: true, follows: true, ttl: 2, wait: 3, retention: 3, horizon: 2},
	{name: "two sets and an operator", clients: 2, clocks: 1, wants: wants{both, both}, capacity: oneEach, sends: 2, forces: 1, stream: true, ttl: 2, wait: 3, retention: 3, horizon: 1},
	{name: "two sets, writers do not die", clients: 2, clocks: 1, wants: wants{both, both}, capacity: oneEach, sends: 2, follows: true, ttl: 1, wait: 2, retention: 3, horizon: 2},
	{name: "a set between two locks", clients: 3, clocks: 1, wants: wants{onlyA, both, onlyB}, capacity: oneEach, sends: 1, forces: 2, stream: true, follows: true, ttl: 3, wait: 4, retention: 3, horizon: 1},
	{name: "a set between two locks, writers do not die, two ends by force", clients: 3, clocks: 1, wants: wants{onlyA, both, onlyB}, capacity: oneEach, sends: 1, forces: 2, follows: true, ttl: 2, wait: 3, retention: 3, horizon: 2},
	{name: "a set that asks again before a task in the queue of a free lock", clients: 3, clocks: 1, wants: wants{onlyB, both, onlyA}, capacity: oneEach, sends: 1, again: 2, stream: true, jobs: true, ttl: 6, wait: 1, patience: [maxClients]int64{2: 6}, retention: 3, horizon: 3},
	{name: "a set before a task in the queue of a free lock, longer", clients: 3, clocks: 1, wants: wants{onlyB, both, onlyA}, capacity: oneEach, sends: 1, again: 2, stream: true, jobs: true, ttl: 6, wait: 1, patience: [maxClients]int64{2: 6}, retention: 3, horizon: 4},
	{name: "two sets, and writers settle, more requests", clients: 2, clocks: 1, wants: wants{both, both}, capacity: oneEach, sends: 2, stream: true, follows: true, ttl: 2, wait: 3, retention: 3, horizon: 1},
	{name: "three sets, and writers settle", clients: 3, clocks: 1, wants: wants{both, both, both}, capacity: oneEach, sends: 1, forces: 2, stream: true, follows: true, ttl: 2, wait: 3, retention: 3, horizon: 1},
	{name: "a set between two locks and two clocks", clients: 3, clocks: 2, wants: wants{onlyA, both, onlyB}, capacity: oneEach, sends: 1, forces: 2, stream: true, follows: true, ttl: 3, wait: 4, retention: 3, horizon: 2},
	{name: "two sets that poll, longer", clients: 2, clocks: 1, wants: wants{both, both}, capacity: oneEach, sends: 2, polls: true, stream: true, ttl: 2, wait: 2, retention: 3, horizon: 2},
}

func TestExploreSets(t *testing.T) {
	todo := slices.Concat(setWorlds, rateWorlds)
	if *exploreAll {
		todo = append(todo, largeSetWorlds...)
	}
	states, failed := atomic.Int64{}, atomic.Bool{}
	t.Run("worlds", func(t *testing.T) {
		for _, w := range todo {
			t.Run(w.name, func(t *testing.T) {
				t.Parallel()
				start := time.Now()
				x := exploreSets(w, 0)
				states.Add(int64(x.visited.n))
				t.Logf("%s: %d states, %d transitions, %d records in %v", w.name, x.visited.n, x.transitions, len(x.records), time.Since(start).Round(time.Second))
				if x.found != "" {
					failed.Store(true)
					t.Error(x.found)
				}
			})
		}
	})
	if !failed.Load() {
		fmt.Printf("explorer: %d states in %d worlds of sets, no violation\n", states.Load(), len(todo))
	}
}

// setMutants break the rules of sets. A world must show each.
var setMutants = map[string]func(*setWorld){
	"a part of a set that was read once is believed":      func(w *setWorld) { w.trust = true },
	"whoever settles looks at its own lock only":          func(w *setWorld) { w.alone = true },
	"no job is set for the end of a place":                func(w *setWorld) { w.once = true },
	"a job for the end of a place is not repeated":        func(w *setWorld) { w.still, w.again = true, 2 },
	"nothing goes by a freeze":                            func(w *setWorld) { w.deaf = true },
	"the stream's consumer goes by a freeze that is over": func(w *setWorld) { w.stale = true },
	"the end of a freeze is looked at too early":          func(w *setWorld) { w.hasty = true },
	"nothing looks at the end of a freeze":                func(w *setWorld) { w.asleep = true },
	"a holder that gives permits back keeps them": func(w *setWorld) {
		w.mutate = became(func(from Record, to *Record) {
			for k, h := range to.Holders {
				if was := from.Holders[k]; was.Fence == h.Fence {
					h.Permits = was.Permits
					to.Holders[k] = h
				}
			}
		})
	},
	"permits that are given back are granted to nobody": func(w *setWorld) {
		w.mutate = became(func(from Record, to *Record) {
			if len(to.Holders) <= len(from.Holders) || len(from.Holders) == 0 {
				return
			}
			for k := range to.Holders {
				if _, held := from.Holders[k]; !held {
					delete(to.Holders, k)
				}
			}
			to.Queue, to.Waiting, to.Head = from.Queue, from.Waiting, from.Head
		})
	},
	"one part of a write is applied": func(w *setWorld) {
		w.mutate = func(parts []Part) []Part { return parts[:1] }
	},
	"the last part of a write has no guard": func(w *setWorld) {
		w.mutate = func(parts []Part) []Part {
			parts[len(parts)-1].Command.Guard = nil
			return parts
		}
	},
	"a set is granted without its place in the second queue": func(w *setWorld) {
		w.mutate = func(parts []Part) []Part {
			last := &parts[len(parts)-1]
			last.Command.Guard = slices.DeleteFunc(slices.Clone(last.Command.Guard), func(c Clause) bool { return c.Test == RevIs || c.Test == FenceIs })
			return parts
		}
	},
}

// thawMutants break what a set needs that waits for the end of a freeze.
var thawMutants = map[string]func(*setWorld){
	"a set goes by no freeze":                             func(w *setWorld) { w.deaf = true },
	"nothing looks at the end of a freeze of a set":       func(w *setWorld) { w.asleep = true },
	"the end of a freeze grants no set":                   func(w *setWorld) { w.alone = true },
	"the consumer goes by a freeze of a set that is over": func(w *setWorld) { w.stale = true },
}

func TestSetMutants(t *testing.T) {
	var killed atomic.Int64
	kill := func(t *testing.T, change func(*setWorld), fits func(setWorld) bool) {
		t.Parallel()
		for _, limit := range []int{30_000, 300_000} {
			for _, w := range slices.Concat(setWorlds, rateWorlds) {
				if change(&w); !fits(w) {
					continue
				}
				if x := exploreSets(w, limit); x.found != "" {
					t.Logf("caught by %s after %d states", w.name, x.visited.n)
					killed.Add(1)
					return
				}
			}
		}
		t.Error("survives")
	}
	t.Run("all", func(t *testing.T) {
		for name, change := range setMutants {
			t.Run(name, func(t *testing.T) {
				kill(t, change, func(w setWorld) bool {
					ofRules := w.deaf || w.stale || w.hasty || w.asleep
					return w.tasks == 0 && w.rate == 0 && (w.jobs || !w.once && !w.still) && (w.freezes > 0 || !ofRules)
				})
			})
		}
		for name, change := range thawMutants {
			t.Run(name, func(t *testing.T) {
				kill(t, change, func(w setWorld) bool { return w.name == "a freeze that ends with a set waiting" })
			})
		}
		for name, change := range rateMutants {
			t.Run(name, func(t *testing.T) { kill(t, change, func(w setWorld) bool { return w.rate != 0 }) })
		}
		for name, change := range setTaskMutants {
			t.Run(name, func(t *testing.T) { kill(t, change, func(w setWorld) bool { return w.tasks != 0 }) })
		}
	})
	fmt.Printf("mutants: %d of %d of sets killed\n", killed.Load(), len(setMutants)+len(thawMutants)+len(rateMutants)+len(setTaskMutants))
}

// became changes the records that a write of one lock makes of others.
func became(change func(from Record, to *Record)) func([]Part) []Part {
	return func(parts []Part) []Part {
		for i, p := range parts {
			if b, ok := p.Command.Effect.(Become); ok {
				b.To.Holders = maps.Clone(b.To.Holders)
				change(b.From, &b.To)
				parts[i].Command.Effect = b
			}
		}
		return parts
	}
}
