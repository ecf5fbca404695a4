package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wirefault"
)

// A plan says what one round does. Everything else of the round follows from it, so a round is replayed by its plan.
type plan struct {
	Seed         uint64   `json:"seed"`
	Seconds      float64  `json:"seconds"`      // for which clients work
	Coordinators int      `json:"coordinators"` // processes
	HTTP         int      `json:"http"`         // client processes over HTTP
	Invoke       int      `json:"invoke"`       // client processes over Lambda's Invoke
	Direct       int      `json:"direct"`       // client processes on the table
	CLI          int      `json:"cli"`          // client processes that run the command
	Workers      int      `json:"workers"`      // clients in a process
	Locks        int      `json:"locks"`        // that are in use at a time
	Epoch        float64  `json:"epoch"`        // seconds after which all clients go on to other locks
	Long         bool     `json:"long"`         // holders mostly hold for longer than their TTL, and renew or expire
	Rules        bool     `json:"rules"`        // an operator freezes locks, and limits how often they are granted
	Sets         bool     `json:"sets"`         // some callers acquire several locks at once
	Rate         float64  `json:"rate"`         // of the wire's faults, times the usual one; 0: 1
	Kills        int      `json:"kills"`        // holders that are killed to measure when others get their locks
	StreamKills  int      `json:"stream_kills"` // how often the stream's process is killed, beside family kill-stream
	Families     []string `json:"families"`     // of faults
}

// The families of faults.
const (
	famAPI         = "api"              // wire faults between clients and coordinators
	famDynamo      = "dynamodb"         // wire faults before DynamoDB
	famServices    = "services"         // wire faults between the stream's process and its queue, bus and tasks
	famPartition   = "partition"        // one client is cut off
	famPause       = "pause"            // SIGSTOP and SIGCONT of a client, past its leases
	famPauseServer = "pause-server"     // SIGSTOP and SIGCONT of a coordinator or of the stream's process
	famKillClient  = "kill-client"      // kill -9
	famKillServer  = "kill-coordinator" // kill -9
	famKillStream  = "kill-stream"      // kill -9, at a random time or at a request
	famClock       = "clock"            // coordinators' clocks move within the allowance
	famClockPast   = "clock-past"       // a coordinator's clock is past the allowance: the checks must find it
)

// safeFamilies are those under which Holdfast keeps its guarantees.
var safeFamilies = []string{famAPI, famDynamo, famServices, famPartition, famPause, famPauseServer, famKillClient, famKillServer, famKillStream, famClock}

func (p plan) has(family string) bool { return slices.Contains(p.Families, family) }

// The longest times of faults; the history's checks must know them.
const (
	maxLate  = 2500 * time.Millisecond // between a sender's end and the delivery, at one proxy
	maxDelay = 400 * time.Millisecond
	maxHold  = time.Second
	maxPause = 5 * time.Second // of a client's process
)

// wireRules are the faults of a proxy. rate is the share of the requests that get one of the kinds, all together.
func wireRules(rate float64) []wirefault.Rule {
	ms := func(d time.Duration) wirefault.Duration { return wirefault.Duration(d) }
	share := rate / float64(len(wirefault.Kinds()))
	var rules []wirefault.Rule
	for _, kind := range wirefault.Kinds() {
		r := wirefault.Rule{Kind: kind, Rate: share}
		switch kind {
		case wirefault.DropRequest, wirefault.DropReply:
			r.Max = ms(maxHold)
		case wirefault.Delay, wirefault.DelayReply:
			r.Min, r.Max = ms(5*time.Millisecond), ms(maxDelay)
		case wirefault.Duplicate, wirefault.Late:
			r.Min, r.Max = ms(time.Millisecond), ms(maxLate)
		}
		rules = append(rules, r)
	}
	return rules
}

// An action is a fault that the round's parent injects at a time after the start.
type action struct {
	at     time.Duration
	family string
	target int           // which of the processes, modulo their number
	length time.Duration // of a partition or a pause
	offset time.Duration // of a clock
	part   int           // chooses among forms
}

// actions are the faults of a round beside those of the wire, in the order of their times.
func (p plan) actions() (list []action) {
	every := map[string]time.Duration{ // the mean time between two
		famPartition: 2500 * time.Millisecond, famPause: 2 * time.Second, famPauseServer: 4 * time.Second, famKillClient: 3 * time.Second,
		famKillServer: 5 * time.Second, famKillStream: 3 * time.Second, famClock: 1500 * time.Millisecond,
	}
	longest := map[string]time.Duration{famPartition: 4 * time.Second, famPause: maxPause, famPauseServer: 2 * time.Second}
	end := time.Duration(p.Seconds * float64(time.Second))
	for i, family := range safeFamilies {
		mean, timed := every[family]
		if !timed || !p.has(family) {
			continue
		}
		random := rand.New(rand.NewPCG(p.Seed, uint64(i)+1))
		for at := time.Duration(random.ExpFloat64() * float64(mean)); at < end; at += time.Duration(random.ExpFloat64() * float64(mean)) {
			a := action{at: at, family: family, target: random.IntN(1 << 20), part: random.IntN(1 << 20)}
			if most := longest[family]; most > 0 {
				a.length = 50*time.Millisecond + time.Duration(random.Float64()*random.Float64()*float64(most))
			}
			a.offset = time.Duration(random.IntN(2*maxOffset+1)-maxOffset) * time.Millisecond
			list = append(list, a)
		}
	}
	slices.SortStableFunc(list, func(a, b action) int { return int(a.at - b.at) })
	return list
}

// maxOffset is how far a coordinator's clock may be from this machine's, in milliseconds, so that two are within the allowance of 250 ms.
const maxOffset = 120

// pastOffset is the offset of a clock that is past the allowance, and below what a coordinator notices.
const pastOffset = 950 * time.Millisecond

// smaller are the plans that are tried when a plan has failed: each lacks something.
func (p plan) smaller() (list []plan) {
	for i := range p.Families {
		q := p
		q.Families = slices.Delete(slices.Clone(p.Families), i, i+1)
		list = append(list, q)
	}
	for _, n := range []func(*plan) *int{
		func(q *plan) *int { return &q.CLI }, func(q *plan) *int { return &q.Direct }, func(q *plan) *int { return &q.Invoke },
		func(q *plan) *int { return &q.HTTP }, func(q *plan) *int { return &q.StreamKills }, func(q *plan) *int { return &q.Kills },
	} {
		q := p
		if count := n(&q); *count > 0 {
			*count /= 2
			list = append(list, q)
		}
	}
	if p.Rules {
		q := p
		q.Rules = false
		list = append(list, q)
	}
	if p.Seconds > 8 {
		q := p
		q.Seconds /= 2
		list = append(list, q)
	}
	if p.Workers > 2 {
		q := p
		q.Workers /= 2
		list = append(list, q)
	}
	return slices.DeleteFunc(list, func(q plan) bool { return q.HTTP+q.Invoke+q.Direct+q.CLI == 0 && q.Kills == 0 })
}

func (p plan) String() string {
	return fmt.Sprintf("seed %d, %.0f s, %d coordinators, clients: %d http, %d invoke, %d direct, %d cli, %d workers each, %d locks; faults: %s",
		p.Seed, p.Seconds, p.Coordinators, p.HTTP, p.Invoke, p.Direct, p.CLI, p.Workers, p.Locks, strings.Join(p.Families, " "))
}
