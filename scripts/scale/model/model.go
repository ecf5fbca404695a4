// Package model says how much of each published limit a load of locks uses, which limit ends it first, and what it costs. It counts what
// the code does for an acquire, a refusal, a wait and a release (TestRequestsPerOperation, TestUnitsOfTheIndex, TestRequestsPerPair and
// TestRequestsPerHandOff hold these counts), and spreads the load over locks by Zipf's law. docs/scale.md explains it.
package model

import "math"

// A Load is what callers do.
type Load struct {
	Rate     float64 // acquires that arrive in a second, for all locks
	Locks    int     // locks that are in use
	Exponent float64 // of Zipf's law: the n-th most popular lock gets a share in proportion to n to the power of -Exponent; 0: all equal
	Hold     float64 // seconds for which a lock is held, on average, exponentially distributed
	Renew    float64 // seconds between renewals of a lease; 0: none
	Wait     float64 // the share of callers that find a lock held and join its queue; the others are refused and gone
	Poll     float64 // seconds between polls of a waiter
	New      float64 // the share of acquires whose lock has no row
	Events   bool    // events are published of all locks
	API      bool    // over HTTP; else by direct invocation
	Tasks    float64 // the share of acquires that are tasks of state machines, and belong to executions
}

// Durations of parts that run elsewhere, in seconds. They are assumptions, as in docs/cost.md; only an account can show them.
type Durations struct {
	Request  float64 // of a function that serves a request
	Batch    float64 // of an invocation by the stream, without its requests to the bus and to SQS
	Put      float64 // of one PutEvents or SendMessageBatch
	Timer    float64 // of an invocation with ten timers
	ClientDB float64 // of one request to DynamoDB
}

// Assumed are the durations of docs/cost.md.
var Assumed = Durations{Request: 0.006, Batch: 0.020, Put: 0.010, Timer: 0.020, ClientDB: 0.004}

// Flow is what happens in a second.
type Flow struct {
	Acquires, Granted, Refused, Joined float64
	Renewals, Polls                    float64
	Requests                           float64 // to the coordinator: acquires, polls, claims, renewals, releases
	DynamoRequests                     float64
	WriteUnits, ReadUnits              float64
	IndexUnits                         float64
	Events, Timers                     float64
	Held                               float64 // leases at a time
	Waiting                            float64 // waiters at a time
	Unstable                           float64 // locks whose queue grows for ever: callers ask for more than there is
}

func (f *Flow) add(g Flow) {
	f.Acquires, f.Granted, f.Refused, f.Joined = f.Acquires+g.Acquires, f.Granted+g.Granted, f.Refused+g.Refused, f.Joined+g.Joined
	f.Renewals, f.Polls, f.Requests, f.DynamoRequests = f.Renewals+g.Renewals, f.Polls+g.Polls, f.Requests+g.Requests, f.DynamoRequests+g.DynamoRequests
	f.WriteUnits, f.ReadUnits, f.IndexUnits = f.WriteUnits+g.WriteUnits, f.ReadUnits+g.ReadUnits, f.IndexUnits+g.IndexUnits
	f.Events, f.Timers, f.Held, f.Waiting, f.Unstable = f.Events+g.Events, f.Timers+g.Timers, f.Held+g.Held, f.Waiting+g.Waiting, f.Unstable+g.Unstable
}

func (f Flow) times(n float64) Flow {
	return Flow{
		f.Acquires * n, f.Granted * n, f.Refused * n, f.Joined * n, f.Renewals * n, f.Polls * n, f.Requests * n, f.DynamoRequests * n,
		f.WriteUnits * n, f.ReadUnits * n, f.IndexUnits * n, f.Events * n, f.Timers * n, f.Held * n, f.Waiting * n, f.Unstable * n,
	}
}

// mostWaiting is the length at which the model cuts a queue that grows for ever.
const mostWaiting = 1000

// lock is the flow of one lock that gets so many acquires a second. Its holder and waiters are a birth-death chain: the first caller
// takes the lock, those who find it held join with probability Wait, and a holder leaves after Hold.
func (l Load) lock(rate float64) (f Flow) {
	demand := rate * l.Hold
	join := l.Wait * demand // the ratio of the chain's states from the second on
	if join >= 1 {
		f.Unstable, join = 1, 1-1.0/mostWaiting
	}
	free := 1 / (1 + demand/(1-join)) // Erlang's loss formula for Wait = 0, 1 - demand for Wait = 1
	if f.Unstable == 1 {
		free = 0
	}
	f.Held = 1 - free
	f.Waiting = f.Held * join / (1 - join)
	f.Acquires = rate
	contended := rate * f.Held
	f.Joined = contended * l.Wait
	if f.Unstable == 1 {
		f.Joined = 1 / l.Hold // those whose turn comes; the others give up
	}
	f.Refused = contended - f.Joined
	direct := rate - contended
	f.Granted = direct + f.Joined
	if l.Renew > 0 {
		f.Renewals = f.Granted * math.Floor(l.Hold/l.Renew)
	}
	if l.Poll > 0 {
		f.Polls = f.Waiting / l.Poll
	}
	// Grants that hand the lock on find a waiter; the release of a lock whose queue is empty is one write.
	handed := f.Joined
	f.Requests = f.Acquires + f.Polls + handed + f.Renewals + f.Granted // handed: the poll that claims
	f.WriteUnits = direct + f.Refused + f.Renewals + (f.Granted - handed) +
		f.Joined*(1+4) + // the refused write, and a transaction of two items
		handed*(1+4) + // the release that finds a waiter, and its transaction
		handed // the claim
	f.ReadUnits = f.Polls*2 + handed*(1+2) // the query of the queue's head; the poll before the claim
	f.DynamoRequests = direct + f.Refused + f.Renewals + (f.Granted - handed) + f.Joined*2 + handed*3 + handed*2 + f.Polls
	if l.Tasks > 0 { // instead of polls: attempt, answer; the binding of the execution, twice in a transaction
		f.WriteUnits += l.Tasks * f.Granted * 4
		f.DynamoRequests += l.Tasks * f.Granted * 2
	}
	f.IndexUnits = f.Granted * l.New
	if l.Events {
		f.Events = 2 * f.Granted
		f.Timers = f.Granted
	} else {
		f.Timers = f.Joined
	}
	return f
}

// Flows returns the flow of all locks and of the most popular one.
func (l Load) Flows() (all, hottest Flow) {
	groups := ranks(l.Locks)
	weights := 0.0
	for _, g := range groups {
		weights += g.locks * math.Pow(g.rank, -l.Exponent)
	}
	for i, g := range groups {
		f := l.lock(l.Rate * math.Pow(g.rank, -l.Exponent) / weights)
		if i == 0 {
			hottest = f
		}
		all.add(f.times(g.locks))
	}
	return all, hottest
}

// A group of locks of about the same rank.
type group struct{ rank, locks float64 }

// ranks are the first thousand ranks one by one, and the others in groups of a hundredth of their rank, for a thousandth of the time.
func ranks(locks int) (list []group) {
	for n := 1; n <= locks; {
		size := min(1+n/1000*10, locks-n+1)
		list = append(list, group{rank: float64(n) + float64(size-1)/2, locks: float64(size)})
		n += size
	}
	return list
}
