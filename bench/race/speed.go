package main

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Speed is what an acquire and a release of a free lock take.
type Speed struct {
	Kind             string
	Clients          int
	Acquire, Release Timing
}

// Timing has the percentiles of all samples, in milliseconds, and their ratios to the bare write of the same run: over all samples, and the
// smallest and the largest p50 ratio of a round.
type Timing struct {
	Samples               int
	P50ms, P99ms          float64
	P50Ratio, P99Ratio    float64
	LeastRatio, MostRatio float64
}

// speeds compares the times of all kinds. A number of clients acquire and release free locks; each uses the kinds in turn, in a random
// order, so that what else the machine does affects them alike. The first round warms up.
func (w *world) speeds(clients, rounds, samples int) ([]Speed, error) {
	list := append(kinds(w.peers), bareStream)
	procs := make([]*process, len(list))
	for i, kind := range list {
		p, err := start(w.dir, settings{Kind: kind, Name: "speed", Endpoint: w.upstream(kind), Table: w.table(kind), Clients: clients})
		if err != nil {
			return nil, err
		}
		defer p.kill()
		procs[i] = p
	}
	all := make([][2][]time.Duration, len(list))
	ratios := make([][2][]float64, len(list))
	reference := slices.Index(list, bare)
	for round := range rounds + 1 {
		got, err := speedRound(procs, clients, samples, round)
		if err != nil {
			return nil, err
		}
		if round == 0 {
			continue
		}
		for i := range list {
			for op := range 2 {
				all[i][op] = append(all[i][op], got[i][op]...)
				ratios[i][op] = append(ratios[i][op], float64(percentile(got[i][op], 50))/float64(percentile(got[reference][op], 50)))
			}
		}
	}
	var result []Speed
	for i, kind := range list {
		result = append(result, Speed{kind, clients, timing(all[i][0], all[reference][0], ratios[i][0]), timing(all[i][1], all[reference][1], ratios[i][1])})
	}
	return result, nil
}

// speedRound returns the times of acquires and releases, by kind, as the drivers measured them.
func speedRound(procs []*process, clients, samples, round int) ([][2][]time.Duration, error) {
	result := make([][2][]time.Duration, len(procs))
	var mu sync.Mutex
	var failed error
	var work sync.WaitGroup
	for client := range clients {
		work.Go(func() {
			for n := range samples / clients {
				for _, i := range rand.Perm(len(procs)) {
					a, err := procs[i].acquire(client, fmt.Sprintf("speed:%d:%d:%d:%d", clients, round, client, n), 10*time.Second)
					var r answer
					if err == nil {
						r, err = procs[i].release(client)
					}
					mu.Lock()
					if err != nil {
						failed = cmp.Or(failed, fmt.Errorf("%s: %w", procs[i].Kind, err))
						mu.Unlock()
						return
					}
					result[i][0] = append(result[i][0], time.Duration(a.Ended-a.Began))
					result[i][1] = append(result[i][1], time.Duration(r.Ended-r.Began))
					mu.Unlock()
				}
			}
		})
	}
	work.Wait()
	return result, failed
}

func timing(samples, reference []time.Duration, ratios []float64) Timing {
	ratio := func(percent int) float64 {
		return float64(percentile(samples, percent)) / float64(percentile(reference, percent))
	}
	return Timing{len(samples), milliseconds(percentile(samples, 50)), milliseconds(percentile(samples, 99)), ratio(50), ratio(99), slices.Min(ratios), slices.Max(ratios)}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// percentile returns a percentile of a list, by nearest rank; the zero value of an empty list.
func percentile[T cmp.Ordered](list []T, percent int) (none T) {
	if len(list) == 0 {
		return none
	}
	list = slices.Sorted(slices.Values(list))
	return list[min(len(list)-1, len(list)*percent/100)]
}
