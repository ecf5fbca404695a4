package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/meter"
	"github.com/holdfast-lock/holdfast/scripts/scale/model"
)

// leaseTTL is longer than a run, so that no lease expires.
const leaseTTL = time.Hour

// A run is an open-loop load on the real coordinator: acquires arrive by a Poisson process, whether or not earlier ones have been answered.
type run struct {
	c     *lock.Coordinator
	load  model.Load
	pick  []float64 // cumulative shares of the locks
	names string

	mu        sync.Mutex
	rng       *mathrand.Rand
	granted   int
	refused   int
	joined    int
	polls     int
	failed    map[string]int
	held      time.Duration   // between grant and release of all leases
	latencies []time.Duration // of first answers, from the intended time of the request
	late      int             // requests that this process sent more than 10 ms after their time
}

// load runs a load and compares what it consumed with the model.
func load(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	var l model.Load
	flags.Float64Var(&l.Rate, "rate", 50, "acquires a second")
	flags.IntVar(&l.Locks, "locks", 200, "locks")
	flags.Float64Var(&l.Exponent, "exponent", 1, "of Zipf's law")
	flags.Float64Var(&l.Hold, "hold", 0.2, "seconds for which a lock is held, on average")
	flags.Float64Var(&l.Wait, "wait", 0, "the share of callers that wait")
	flags.Float64Var(&l.Poll, "poll", 0.5, "seconds between a waiter's polls")
	seconds := flags.Float64("seconds", 30, "how long requests arrive")
	memory := flags.Bool("memory", false, "a store in memory, whose calls are counted as requests, for a machine on which DynamoDB Local is slower than the load")
	seed := flags.Uint64("seed", 1, "of arrivals, locks and hold times")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if l.Rate <= 0 || l.Locks < 1 || l.Hold <= 0 || l.Wait < 0 || l.Wait > 1 || l.Poll <= 0 || *seconds <= 0 || *seconds > 600 {
		return errors.New("load: rate, locks, hold and poll are above 0, wait is 0 to 1, and seconds is 1 to 600")
	}
	m := meter.New(nil)
	store, err := storeOf(ctx, m, *memory)
	if err != nil {
		return err
	}
	c, err := lock.New(lock.Config{Store: store})
	if err != nil {
		return err
	}
	r := &run{c: c, load: l, names: "load:" + rand.Text()[:6], rng: mathrand.New(mathrand.NewPCG(*seed, 7)), failed: map[string]int{}}
	r.pick = shares(l)
	if err := r.makeRows(ctx); err != nil { // the model counts new rows apart
		return err
	}
	m.Take()
	took := r.arrivals(ctx, time.Duration(*seconds*float64(time.Second)))
	r.report(took, m.Take())
	return ctx.Err()
}

// storeOf is the store of a run: a table of DynamoDB Local, or one in memory.
func storeOf(ctx context.Context, m *meter.Meter, memory bool) (lock.Store, error) {
	if memory {
		return counting{&lock.Memory{}, m}, nil
	}
	endpoint, err := local()
	if err != nil {
		return nil, err
	}
	cfg := awsConfig()
	cfg.HTTPClient = m.Client()
	store, err := dynamo.New(dynamo.Config{AWS: cfg, Table: "scale-load", Endpoint: endpoint})
	if err != nil {
		return nil, err
	}
	return store, store.CreateTable(ctx)
}

// counting counts the calls of a store, each of which is one request of internal/dynamo. Units are not counted.
type counting struct {
	*lock.Memory
	meter *meter.Meter
}

func (s counting) Get(ctx context.Context, name string) (lock.Reply, error) {
	s.meter.Add("Get", meter.Count{Requests: 1})
	return s.Memory.Get(ctx, name)
}

func (s counting) Apply(ctx context.Context, name string, c lock.Command) (lock.Reply, error) {
	s.meter.Add("Apply", meter.Count{Requests: 1})
	return s.Memory.Apply(ctx, name, c)
}

func (s counting) Waiters(ctx context.Context, name string, limit int) ([]lock.Waiter, error) {
	s.meter.Add("Waiters", meter.Count{Requests: 1})
	return s.Memory.Waiters(ctx, name, limit)
}

func (s counting) Poll(ctx context.Context, name string, ticket int64) (lock.Reply, lock.Waiter, error) {
	s.meter.Add("Poll", meter.Count{Requests: 1})
	return s.Memory.Poll(ctx, name, ticket)
}

// shares are the cumulative shares of the locks, by Zipf's law.
func shares(l model.Load) []float64 {
	list, sum := make([]float64, l.Locks), 0.0
	for n := range list {
		sum += math.Pow(float64(n+1), -l.Exponent)
		list[n] = sum
	}
	for n := range list {
		list[n] /= sum
	}
	return list
}

func (r *run) name(n int) string { return fmt.Sprintf("%s:%d", r.names, n) }

func (r *run) makeRows(ctx context.Context) error {
	for n := range r.load.Locks {
		secret := rand.Text()
		if _, err := r.c.Acquire(ctx, lock.AcquireRequest{Lock: r.name(n), Secret: secret, TTL: leaseTTL, Capacity: 1, Permits: 1}); err != nil {
			return err
		}
		if _, err := r.c.Release(ctx, lock.ReleaseRequest{Lock: r.name(n), Secret: secret}); err != nil {
			return err
		}
	}
	return nil
}

// arrivals starts a caller for each arrival, and returns when all are done.
func (r *run) arrivals(ctx context.Context, long time.Duration) time.Duration {
	var wg sync.WaitGroup
	start := time.Now()
	for at := time.Duration(0); ctx.Err() == nil; {
		at += time.Duration(r.rng.ExpFloat64() / r.load.Rate * float64(time.Second))
		if at > long {
			break
		}
		n := sort.SearchFloat64s(r.pick, r.rng.Float64())
		hold := time.Duration(r.rng.ExpFloat64() * r.load.Hold * float64(time.Second))
		waits := r.rng.Float64() < r.load.Wait
		intended := start.Add(at)
		time.Sleep(time.Until(intended))
		if time.Since(intended) > 10*time.Millisecond {
			r.late++
		}
		wg.Go(func() { r.caller(ctx, r.name(n), hold, waits, intended) })
	}
	wg.Wait()
	return long
}

// caller acquires a lock, holds it and releases it.
func (r *run) caller(ctx context.Context, name string, hold time.Duration, waits bool, intended time.Time) {
	req := lock.AcquireRequest{Lock: name, Secret: rand.Text(), TTL: leaseTTL, Capacity: 1, Permits: 1}
	if waits {
		req.Wait = 2 * time.Minute
	}
	lease, err := r.c.Acquire(ctx, req)
	r.note(func() { r.latencies = append(r.latencies, time.Since(intended)) })
	held, refused := errors.AsType[*lock.HeldError](err)
	if refused {
		r.note(func() {
			if waits {
				r.joined++
			} else {
				r.refused++
			}
		})
	}
	for ; refused && waits; held, refused = errors.AsType[*lock.HeldError](err) {
		time.Sleep(time.Duration(r.load.Poll * float64(time.Second)))
		req.Ticket = held.Ticket
		r.note(func() { r.polls++ })
		lease, err = r.c.Acquire(ctx, req)
	}
	if refused {
		return
	}
	if err == nil {
		time.Sleep(hold)
		_, err = r.c.Release(ctx, lock.ReleaseRequest{Lock: name, Secret: req.Secret})
	}
	r.note(func() {
		if err != nil {
			r.failed[err.Error()]++
			return
		}
		r.granted++
		r.held += time.Since(time.UnixMilli(lease.Lease.AcquiredAt))
	})
}

func (r *run) note(do func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	do()
}

// report prints what was counted beside what the model says of the arrivals and hold times that were.
func (r *run) report(took time.Duration, counts map[string]meter.Count) {
	l := r.load
	arrived := len(r.latencies)
	l.Rate = float64(arrived) / took.Seconds()
	l.Hold = r.held.Seconds() / float64(max(1, r.granted)) // with the time of the requests, and for waiters until their poll
	all, _ := l.Flows()
	fmt.Printf("load: %d arrivals in %v (%d sent late), %d locks, exponent %.2f, wait %.2f; held for %.3f s on average, requests included; failures %v\n",
		arrived, took, r.late, l.Locks, l.Exponent, l.Wait, l.Hold, r.failed)
	compare := func(what string, counted, predicted float64) {
		predicted *= took.Seconds()
		fmt.Printf("load: %-22s counted %8.0f, model %8.0f, error %+5.1f %%\n", what, counted, predicted, 100*(predicted-counted)/math.Max(1, counted))
	}
	compare("granted", float64(r.granted), all.Granted)
	compare("refused", float64(r.refused), all.Refused)
	compare("joined the queue", float64(r.joined), all.Joined)
	compare("polls", float64(r.polls), all.Polls+all.Joined)
	compare("DynamoDB requests", float64(meter.Total(counts).Requests), all.DynamoRequests)
	if meter.Total(counts).WriteUnits > 0 {
		compare("write units", meter.Total(counts).WriteUnits, all.WriteUnits)
		compare("read units", meter.Total(counts).ReadUnits, all.ReadUnits)
	}
	slices.Sort(r.latencies)
	at := func(q float64) time.Duration {
		return r.latencies[min(arrived-1, int(q*float64(arrived)))].Round(time.Millisecond)
	}
	fmt.Printf("load: first answers, from their intended time: p50 %v, p99 %v, longest %v (%s)\n", at(0.5), at(0.99), at(1), byOperation(counts))
}
