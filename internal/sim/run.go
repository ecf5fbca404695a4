package sim

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/fnv"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/chance"
	"github.com/holdfast-lock/holdfast/internal/history"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// A Run is what a run of the simulation left.
type Run struct {
	Params  Params
	History history.History
	// Problems are what only the simulation can see: a task that was told nothing, a lock that stays held, a dead letter.
	Problems []string
	Fired    int           // timers and deferred jobs that were delivered
	Crashes  int           // of coordinators, consumers and expirers
	Faults   map[Fault]int // how often each happened
	Start    time.Time     // the time 0 of the history
	Virtual  time.Duration // how long the run took in virtual time
}

// Simulate makes a run. It must be called in a bubble of testing/synctest, with one CPU for the run to repeat exactly. It replaces the source of
// package chance for the time of the run.
func Simulate(p Params) *Run {
	w := newWorld(p)
	defer chance.Replace(w.draw)()
	var background sync.WaitGroup
	for _, s := range w.shards {
		background.Go(s.run)
	}
	background.Go(w.moveClocks)
	var actors sync.WaitGroup
	for i := range p.Clients {
		c := &clientProcess{w: w, id: i, dice: w.dice("client", int64(i))}
		actors.Go(func() { time.Sleep(c.between(0, time.Second)); c.run() })
	}
	for i := range p.Tasks {
		m := &machine{w: w, name: fmt.Sprintf("machine-%d", i), dice: w.dice("machine", int64(i))}
		actors.Go(func() { time.Sleep(m.between(0, time.Second)); m.run() })
	}
	if p.has(Force) {
		actors.Go(w.operate)
	}
	if p.has(Freezes) || p.has(Rates) {
		actors.Go(w.govern)
	}
	actors.Wait()
	w.settle()
	close(w.done)
	background.Wait()
	w.life.Wait()
	w.mu.Lock()
	for _, work := range w.idle {
		close(work)
	}
	w.mu.Unlock()
	return w.finish()
}

// settle ends all faults, lets everything that is under way end, and then takes and releases each lock, which must be possible. Whatever
// the crashes left is found by that, by the timers, or by native TTL.
func (w *world) settle() {
	d := w.dice("end")
	w.mu.Lock()
	w.calm = true
	w.mu.Unlock()
	time.Sleep(time.Hour + d.between(0, time.Second))
	l := &link{w: w, client: "last"}
	client, err := lockclient.New(lockclient.Config{Transport: l, Owner: "last", RetryDelay: time.Second + d.between(0, time.Millisecond)})
	if err != nil {
		panic(err) // the configuration is valid
	}
	for round := range 2 {
		l.finder = round == 0
		for _, t := range w.locks {
			opts := lockclient.Options{TTL: time.Minute, Capacity: t.capacity, Permits: t.capacity, ManualRenew: true}
			if round == 0 { // this finds what no timer will end
				_, _ = client.TryAcquire(context.Background(), t.name, opts)
			} else if lease, err := client.TryAcquire(context.Background(), t.name, opts); err != nil {
				w.problem(fmt.Sprintf("lock %s cannot be acquired after everything has ended: %v", t.name, err))
			} else if err := lease.Release(context.Background()); err != nil {
				w.problem(fmt.Sprintf("lock %s cannot be released after everything has ended: %v", t.name, err))
			}
		}
		time.Sleep(4*time.Hour + d.between(0, time.Second)) // deferred jobs come at least every 15 minutes
	}
	_ = client.Close(context.Background()) // it holds nothing
}

// finish makes the history of what was recorded.
func (w *world) finish() *Run {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, op := range w.ops {
		for _, o := range op.ops() {
			if op.landed > o.Ended {
				o.Late = op.landed
				if o.Result == history.Refused {
					o.Result = history.Unknown
				}
			}
			w.h.Ops = append(w.h.Ops, o)
		}
	}
	w.finishRules()
	slices.SortStableFunc(w.h.Beliefs, func(a, b history.Belief) int { // several may end at once
		return cmp.Or(cmp.Compare(a.Until, b.Until), cmp.Compare(a.Lease, b.Lease))
	})
	slices.SortStableFunc(w.h.Guarded, func(a, b history.Guarded) int { return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Fence, b.Fence)) })
	return &Run{
		Params: w.p, History: w.h, Problems: w.problems, Fired: w.fired, Crashes: w.crashes, Faults: w.kinds, Start: w.start, Virtual: time.Since(w.start),
	}
}

// Check runs the checks of package history on a run. The problems of the run are violations of the check "simulation".
func (r *Run) Check() history.Report {
	cfg := history.Config{
		Skew: 250 * time.Millisecond, Claim: 10 * time.Second, Stable: true, Recorded: true, Queues: true, Start: r.Start.UnixMilli(), Timed: true, Ordered: !r.Params.has(Bus), Timeout: time.Minute,
		RuleUse: lock.RulePeriod, NoRuleUse: lock.NoRulesPeriod, RuleRead: 50 * time.Millisecond, Flight: serveTimeout + maxLate, Forgotten: 10 * time.Minute,
	}
	if r.Params.has(Slow) {
		cfg.RuleRead += maxSlow
	}
	report := history.Check(&r.History, cfg)
	for _, p := range r.Problems {
		report.Violations = append(report.Violations, history.Violation{Check: "simulation", What: p})
	}
	return report
}

// Hash is a hash of everything that the run recorded. Two runs with equal parameters have the same.
func (r *Run) Hash() uint64 {
	h := fnv.New64a()
	for _, o := range r.History.Ops {
		text(h, o.Client, string(o.Op), o.Lock, o.Set, o.Lease, string(o.Result))
		numbers(h, o.Permits, o.Capacity, o.Began, o.Ended, o.Fence, o.Ticket, o.TTL, o.Wait, o.Left, o.Late, o.Frozen)
	}
	for _, r := range r.History.Rules {
		text(h, r.Prefix)
		numbers(h, r.At, r.Rev, r.Until, r.InForce)
	}
	for _, b := range r.History.Beliefs {
		text(h, b.Client, b.Lock, b.Lease)
		numbers(h, b.From, b.Until)
	}
	for _, g := range r.History.Guarded {
		text(h, g.Client, g.Lock)
		numbers(h, g.Fence, g.At)
	}
	for _, e := range r.History.Events {
		text(h, e.ID, e.Type)
	}
	for _, row := range r.History.Rows {
		text(h, row.Lock, row.Cause)
		numbers(h, row.At)
		if row.After != nil {
			numbers(h, row.After.Rev, row.After.Fence, row.After.Waiting)
			var fences []int64
			for l := range maps.Values(row.After.Holders) {
				fences = append(fences, l.Fence, l.Expires)
			}
			slices.Sort(fences)
			numbers(h, fences...)
		}
	}
	return h.Sum64()
}

func text(h hash.Hash, list ...string) {
	for _, s := range list {
		_, _ = h.Write([]byte(s + "\x00")) // a hash does not fail
	}
}

func numbers(h hash.Hash, list ...int64) {
	var b [8]byte
	for _, n := range list {
		binary.LittleEndian.PutUint64(b[:], uint64(n))
		_, _ = h.Write(b[:])
	}
}
