// Package sim is a deterministic simulation of Holdfast: the real client, API, coordinators, stream consumer and expirer, over a store in
// memory, with clocks, a network, queues, an event bus and executions that fail by a seeded plan. It runs within a bubble of
// testing/synctest, whose time is virtual, and records a history for the checks of package history.
//
// A seed decides everything: the size of the world, the load and every fault. The same seed gives the same history, as long as at most one
// goroutine is woken at a moment of virtual time: so every pause has a random number of nanoseconds, and the bubble runs on one CPU.
package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// A Fault is a kind of fault.
type Fault string

// The kinds of fault.
const (
	LostRequest   Fault = "lost-request"   // a client's request never reaches a coordinator
	LostReply     Fault = "lost-reply"     // a reply is lost after the commit
	Slow          Fault = "slow"           // a request, a reply or a request to the store takes up to some seconds
	Duplicate     Fault = "duplicate"      // a request is delivered again, up to 15 s later
	Late          Fault = "late"           // a request is delivered after its caller gave up
	Busy          Fault = "busy"           // the gateway answers 503 without asking a coordinator, or after the commit
	Partition     Fault = "partition"      // nothing of one client arrives, for up to 30 s
	StoreThrottle Fault = "store-throttle" // the store refuses a request
	StoreLost     Fault = "store-lost"     // the reply of the store is lost, before or after the write
	StoreRepeat   Fault = "store-repeat"   // the store's client sends a write twice, and gets the second answer
	StoreLate     Fault = "store-late"     // a write lands after its coordinator gave up
	Crash         Fault = "crash"          // a coordinator, consumer or expirer dies between two of its steps
	ClientCrash   Fault = "client-crash"   // a client stops without a release
	Pause         Fault = "pause"          // a holder checks its lease, is paused, and then writes
	Force         Fault = "force"          // an operator ends leases
	Clocks        Fault = "clocks"         // the coordinators' clocks differ and step, within Params.ClockError
	TimerLost     Fault = "timer-lost"
	TimerLate     Fault = "timer-late"
	TimerTwice    Fault = "timer-twice"
	Queue         Fault = "queue"      // the queue of timers and jobs refuses messages
	Bus           Fault = "bus"        // the event bus refuses events
	Callback      Fault = "callback"   // a callback is lost, or its reply is
	TaskGone      Fault = "task-gone"  // an execution ends while its task waits, or its task is retried with another token
	EndLost       Fault = "end-lost"   // the event of an execution's end is lost, late or repeated
	Night         Fault = "night"      // nobody uses the locks for more than a day, and native TTL purges their rows
	Cancel        Fault = "cancel"     // a caller gives up its acquire
	Capacities    Fault = "capacities" // callers name different capacities for one lock
	Sets          Fault = "sets"       // callers acquire several locks at once: no fault, but as rare as one
	Freezes       Fault = "freezes"    // an operator freezes locks, and changes and ends freezes: no fault either
	Rates         Fault = "rates"      // an operator sets and removes limits of how often locks are granted: no fault either
	NoRules       Fault = "no-rules"   // the prefix rules cannot be read
	Modes         Fault = "modes"      // readers and a writer share some of the locks, and writers become readers: no fault either
)

// Faults are all kinds of fault.
var Faults = []Fault{
	LostRequest, LostReply, Slow, Duplicate, Late, Busy, Partition, StoreThrottle, StoreLost, StoreRepeat, StoreLate, Crash, ClientCrash, Pause,
	Force, Clocks, TimerLost, TimerLate, TimerTwice, Queue, Bus, Callback, TaskGone, EndLost, Night, Cancel, Capacities, Sets, Freezes, NoRules, Modes, Rates,
}

// Params are the parameters of a run.
type Params struct {
	Seed         uint64
	Clients      int // processes with a lockclient.Client each
	Sessions     int // callers in each of them
	Tasks        int // state machines, each with one execution at a time
	Locks        int
	Coordinators int
	Ops          int // after so many requests nobody begins anything new
	Faults       []Fault
	Level        float64 // multiplies the probability of every fault; 1 is usual
	// ClockError is how far a coordinator's clock may be from the true time. Clocks then differ by at most twice that. The allowance is
	// 250 ms.
	ClockError time.Duration
}

// Allowed is the ClockError within which Holdfast must be safe: two clocks then differ by less than the allowance.
const Allowed = 124 * time.Millisecond

// Random are the parameters that a seed chooses, for a run of about ops requests.
func Random(seed uint64, ops int) Params {
	rng := rand.New(rand.NewPCG(seed, 1))
	p := Params{
		Seed: seed, Clients: 1 + rng.IntN(5), Sessions: 1 + rng.IntN(3), Tasks: rng.IntN(3), Locks: 1 + rng.IntN(3), Coordinators: 1 + rng.IntN(3), Ops: ops,
		Level: []float64{0.3, 1, 1, 3}[rng.IntN(4)], ClockError: Allowed,
	}
	for _, f := range Faults {
		if rng.IntN(4) > 0 {
			p.Faults = append(p.Faults, f)
		}
	}
	return p
}

func (p Params) String() string {
	names := make([]string, len(p.Faults))
	for i, f := range p.Faults {
		names[i] = string(f)
	}
	return fmt.Sprintf("seed %d: %d clients of %d sessions, %d tasks, %d locks, %d coordinators, %d operations, clocks off by up to %v, faults at level %v: %s",
		p.Seed, p.Clients, p.Sessions, p.Tasks, p.Locks, p.Coordinators, p.Ops, p.ClockError, p.Level, strings.Join(names, " "))
}

func (p Params) has(f Fault) bool { return slices.Contains(p.Faults, f) }
