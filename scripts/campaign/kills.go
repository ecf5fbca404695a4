package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// holdTTL is the TTL of the holders that are killed.
const holdTTL = time.Second

// killBound is how much later than TTL and skew allowance after a kill another client has the lock, at most.
const killBound = 2 * time.Second

// A holderConfig configures a holder that is killed.
type holderConfig struct {
	clientConfig
	Lock string `json:"lock"`
}

// runHolder acquires a lock and renews it until it is killed.
func runHolder(text string) error {
	var cfg holderConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return err
	}
	rec, err := newRecorder(cfg.Dir, cfg.Name)
	if err != nil {
		return err
	}
	w, err := newWorker(cfg.clientConfig, rec, 0)
	if err != nil {
		return err
	}
	opts := lockclient.Options{TTL: holdTTL}
	lease, err := w.client.Acquire(context.Background(), cfg.Lock, opts)
	if err != nil {
		return err
	}
	b := w.believe(lease, []lockclient.Want{{Lock: cfg.Lock}})
	go func() {
		for lease.Err() == nil {
			time.Sleep(10 * time.Millisecond)
			b.update()
		}
	}()
	ready("")
	untilInputEnds(func(string) {})
	return nil
}

// A killResult has, for each killed holder, how long after the kill another client got the lock. Times are milliseconds.
type killResult struct {
	Took []float64 `json:"took,omitempty"`
	// Control has, for each kill, how long the same client took at the same time to wait for TTL and skew allowance and then get a free lock.
	// It shows what the machine adds, not the lock.
	Control []float64 `json:"control,omitempty"`
	Failed  []string  `json:"failed,omitempty"`
}

// bound is the longest time that a kill may take by itself, in milliseconds.
func (k killResult) bound() float64 {
	return float64((holdTTL + lock.DefaultSkew + killBound).Milliseconds())
}

// late is how many locks came later than the bound: by this machine's clock, and after what the machine added to the control is taken off.
func (k killResult) late() (measured, corrected int) {
	for i, ms := range k.Took {
		added := max(k.Control[i]-float64((holdTTL+lock.DefaultSkew).Milliseconds()), 0)
		if ms > k.bound() {
			measured++
		}
		if ms-added > k.bound() {
			corrected++
		}
	}
	return measured, corrected
}

func (k killResult) violations() (list []string) {
	for _, f := range k.Failed {
		list = append(list, "kills: "+f)
	}
	if _, n := k.late(); n > 0 {
		list = append(list, fmt.Sprintf("kills: %d locks came later than %.0f ms after the kill", n, k.bound()))
	}
	return list
}

// percentiles are the median, the 99th percentile and the largest of a list, in milliseconds.
func percentiles(list []float64) string {
	if len(list) == 0 {
		return "none"
	}
	sorted := slices.Sorted(slices.Values(list))
	at := func(p float64) float64 { return sorted[min(int(p*float64(len(sorted))), len(sorted)-1)] }
	return fmt.Sprintf("p50 %.0f, p90 %.0f, p99 %.0f, max %.0f ms", at(0.5), at(0.9), at(0.99), sorted[len(sorted)-1])
}

// killSlots is how many holders are killed at a time.
const killSlots = 8

// killHolders kills holders, one process each, and measures when another client gets their locks.
func (r *round) killHolders() error {
	if r.plan.Kills == 0 {
		return nil
	}
	api, err := r.api.Listen("127.0.0.1:0", "waiters")
	if err != nil {
		return err
	}
	rec, err := newRecorder(r.dir, "waiters")
	if err != nil {
		return err
	}
	slots := make(chan int, killSlots)
	for i := range killSlots {
		slots <- i
	}
	var work sync.WaitGroup
	for n := range r.plan.Kills {
		slot := <-slots
		work.Go(func() {
			defer func() { slots <- slot }()
			took, control, err := r.killHolder(n, api, rec)
			r.mu.Lock()
			defer r.mu.Unlock()
			if err != nil {
				r.kills.Failed = append(r.kills.Failed, err.Error())
				return
			}
			r.kills.Took = append(r.kills.Took, float64(took.Microseconds())/1000)
			r.kills.Control = append(r.kills.Control, float64(control.Microseconds())/1000)
		})
	}
	work.Wait()
	return nil
}

// killHolder kills one holder. It returns how long another client took to get its lock, and what the control took.
func (r *round) killHolder(n int, api string, rec *recorder) (took, control time.Duration, err error) {
	kind := []string{"http", "invoke", "direct"}[n%3]
	name := fmt.Sprintf("%s-holder%d", kind, n)
	cfg := clientConfig{Name: name, Kind: kind, Table: tableName, Dir: r.dir, Seed: r.plan.Seed, Parent: r.parent}
	if cfg.API, err = r.api.Listen("127.0.0.1:0", name); err != nil {
		return 0, 0, err
	}
	if cfg.DynamoDB, err = r.dynamo.Listen("127.0.0.1:0", name); err != nil {
		return 0, 0, err
	}
	lockName := fmt.Sprintf("kill:m%d", n)
	holder, err := startProcess(r.versions[0].Program, r.dir, name, "holder", holderConfig{cfg, lockName})
	if err != nil {
		return 0, 0, err
	}
	defer os.Remove(holder.log) //nolint:errcheck // thousands of empty logs
	waiter, err := newWorker(clientConfig{Name: fmt.Sprint("http-waiter", n), Kind: "http", API: api, Seed: r.plan.Seed}, rec, 0)
	if err != nil {
		return 0, 0, err
	}
	// With the client's own pauses, as a user's.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	time.Sleep(time.Duration(waiter.random.IntN(700)) * time.Millisecond) // within a renewal, or before or after it
	holder.signal(9)
	killed := time.Now()
	<-holder.done
	r.note(holder)
	var controls sync.WaitGroup
	controls.Go(func() {
		time.Sleep(time.Until(killed.Add(holdTTL + lock.DefaultSkew)))
		if free, err := waiter.client.TryAcquire(ctx, lockName+":control", lockclient.Options{TTL: holdTTL}); err == nil {
			control = time.Since(killed)
			_ = free.Release(ctx)
		}
	})
	lease, err := waiter.client.Acquire(ctx, lockName, lockclient.Options{TTL: holdTTL})
	took = time.Since(killed)
	controls.Wait()
	if err != nil {
		return 0, 0, fmt.Errorf("the lock of killed holder %d was not granted within 30 s: %w", n, err)
	}
	b := waiter.believe(lease, []lockclient.Want{{Lock: lease.Name()}})
	b.end()
	_ = lease.Release(ctx)
	return took, control, waiter.client.Close(ctx)
}
