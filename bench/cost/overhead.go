package main

import (
	"cmp"
	"context"
	"errors"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Overhead is what one kind's acquire and release of a free lock take, in microseconds, and in relation to the bare
// write in the same run.
type Overhead struct {
	Kind    string
	Clients int
	Acquire Timing
	Release Timing
}

// A Timing has the median over all samples, and the ratio of the medians to those of the bare write on a table with a stream: the
// median of the rounds' ratios, the smallest and the largest.
type Timing struct {
	P50us              float64
	Ratio, Least, Most float64
}

const (
	overheadRounds  = 5
	overheadSamples = 192 // of each operation of each kind in a round
)

// overhead lets a number of clients acquire and release free locks. Each client uses the kinds in turn, in a random order, so that
// whatever else the machine does affects them alike.
func overhead(ctx context.Context, endpoint string, clients int) ([]Overhead, error) {
	kinds := []string{ours, bareStream, bare, other}
	lockers := make([]locker, len(kinds))
	for i, kind := range kinds {
		start, err := newTable(ctx, kind, endpoint, 0)
		if err == nil {
			lockers[i], err = start(nil)
		}
		if err != nil {
			return nil, err
		}
	}
	all := make([][2][]time.Duration, len(kinds))
	ratios := make([][2][]float64, len(kinds))
	for round := range overheadRounds + 1 {
		samples, err := overheadRound(ctx, lockers, clients, "overhead:"+strconv.Itoa(round))
		if err != nil {
			return nil, err
		}
		if round == 0 { // it warms the engine and the connections up
			continue
		}
		for i := range kinds {
			for op := range 2 {
				all[i][op] = append(all[i][op], samples[i][op]...)
				reference := median(samples[slices.Index(kinds, bareStream)][op])
				ratios[i][op] = append(ratios[i][op], float64(median(samples[i][op]))/float64(reference))
			}
		}
	}
	var list []Overhead
	for i, kind := range kinds {
		list = append(list, Overhead{kind, clients, timing(all[i][0], ratios[i][0]), timing(all[i][1], ratios[i][1])})
	}
	return list, nil
}

// overheadRound returns the times of acquires and releases, by kind.
func overheadRound(ctx context.Context, lockers []locker, clients int, prefix string) ([][2][]time.Duration, error) {
	samples := make([][2][]time.Duration, len(lockers))
	var mu sync.Mutex
	var failed error
	var work sync.WaitGroup
	for client := range clients {
		work.Go(func() {
			mine := make([][2][]time.Duration, len(lockers))
			err := func() error {
				for n := range overheadSamples / clients {
					name := prefix + ":" + strconv.Itoa(client) + ":" + strconv.Itoa(n%200)
					for _, i := range mathrand.Perm(len(lockers)) {
						start := time.Now()
						release, err := lockers[i](ctx, name)
						acquired := time.Now()
						if err != nil {
							return err
						}
						if err := release(ctx); err != nil {
							return err
						}
						mine[i][0] = append(mine[i][0], acquired.Sub(start))
						mine[i][1] = append(mine[i][1], time.Since(acquired))
					}
				}
				return nil
			}()
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
			for i := range mine {
				for op := range mine[i] {
					samples[i][op] = append(samples[i][op], mine[i][op]...)
				}
			}
		})
	}
	work.Wait()
	return samples, failed
}

func timing(samples []time.Duration, ratios []float64) Timing {
	return Timing{float64(median(samples).Nanoseconds()) / 1000, median(ratios), slices.Min(ratios), slices.Max(ratios)}
}

func median[T cmp.Ordered](list []T) T { return percentile(list, 50) }

func percentile[T cmp.Ordered](list []T, percent int) T {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)*percent/100]
}
