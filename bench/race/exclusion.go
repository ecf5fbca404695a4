package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-lock/holdfast/internal/history"
	"github.com/holdfast-lock/holdfast/internal/wirefault"
)

const (
	exclusionLease   = 2 * time.Second
	exclusionPoll    = 100 // ms
	exclusionClients = 4
	// patience is how long a client may take to end what it does after a run. A process that takes longer is ended, and another started.
	patience = 20 * time.Second
)

// Exclusion is what clients that contend for a lock did under one kind of fault.
type Exclusion struct {
	Kind       string
	Fault      string
	Faults     int64 // injected
	Acquired   int
	Increments int // of a counter that the lock guards, each after a check that the lock is held
	Lost       int // increments that another increment overwrote
	FencedLost int // the same with a counter that compares fencing tokens; -1: the client has none
	Refused    int // writes that this counter refused
	Told       int // checks before an increment that said that the lock is lost
	Errors     int // acquires and releases that failed
	Overlaps   int // times at which two clients believed that they hold the lock
	Fences     int // grants whose fencing token is not above that of every grant that was told before they were asked for; of clients with tokens
}

// A fault of the contention: rules at the wire, or something done to one client every few seconds.
type fault struct {
	name  string
	rules []wirefault.Rule
	do    func(s *site, p *process)
}

const faultRate = 0.1

func rule(kind wirefault.Kind, least, most time.Duration) []wirefault.Rule {
	return []wirefault.Rule{{Kind: kind, Rate: faultRate, Min: wirefault.Duration(least), Max: wirefault.Duration(most)}}
}

var exclusionFaults = []fault{
	{name: "none"},
	{name: "request lost", rules: rule(wirefault.DropRequest, 50*time.Millisecond, 300*time.Millisecond)},
	{name: "reply lost", rules: rule(wirefault.DropReply, 50*time.Millisecond, 300*time.Millisecond)},
	{name: "request delayed", rules: rule(wirefault.Delay, 100*time.Millisecond, 3*time.Second)},
	{name: "request duplicated", rules: rule(wirefault.Duplicate, 10*time.Millisecond, 3*time.Second)},
	{name: "delivered late", rules: rule(wirefault.Late, 10*time.Millisecond, 3*time.Second)},
	{name: "500 after commit", rules: rule(wirefault.Error500, 0, 0)},
	{name: "throttled", rules: rule(wirefault.Throttle, 0, 0)},
	{name: "connection reset", rules: rule(wirefault.Reset, 0, 0)},
	{name: "client cut off", do: func(s *site, p *process) {
		_ = s.proxy.Partition(p.Name, wirefault.Both)
		time.Sleep(exclusionLease + 1500*time.Millisecond)
		s.proxy.Heal(p.Name)
	}},
	{name: "process stopped", do: func(_ *site, p *process) {
		p.signal(syscall.SIGSTOP)
		time.Sleep(exclusionLease + 1500*time.Millisecond)
		p.signal(syscall.SIGCONT)
	}},
}

// A contention is a run of clients that increment counters under one lock.
type contention struct {
	mu     sync.Mutex
	result Exclusion
	plain  int
	fenced int
	top    int64 // the highest fencing token that the fenced counter has seen
	told   int64 // the highest fencing token of a grant that a client was told
	hist   history.History
	until  time.Time
}

// exclusion lets clients of a peer contend for a lock, under one kind of fault after the other.
func (w *world) exclusion(p peer, faults []fault, length time.Duration) ([]Exclusion, error) {
	s, err := w.site(p, 2)
	if err != nil {
		return nil, err
	}
	defer s.proxy.Close() //nolint:errcheck // the race is over
	var list []Exclusion
	procs := make([]*process, exclusionClients)
	defer func() {
		for _, p := range procs {
			p.kill()
		}
	}()
	for n, f := range faults {
		if err := s.crew(procs, n); err != nil {
			return list, err
		}
		e, err := s.contend(f, procs, length)
		if err != nil {
			return list, err
		}
		list = append(list, e)
	}
	return list, nil
}

// crew starts the processes that are missing: at first all, later those that were ended because they did not end an acquire.
func (s *site) crew(procs []*process, round int) error {
	errs := make([]error, len(procs))
	var work sync.WaitGroup
	for i, p := range procs {
		if p != nil && p.alive() {
			continue
		}
		work.Go(func() {
			procs[i], errs[i] = s.join(fmt.Sprintf("%s-%d-%d", s.peer.kind, round, i), exclusionLease, exclusionPoll)
		})
	}
	work.Wait()
	return errors.Join(errs...)
}

func (s *site) contend(f fault, procs []*process, length time.Duration) (Exclusion, error) {
	run := &contention{result: Exclusion{Kind: s.peer.kind, Fault: f.name, FencedLost: -1}, until: time.Now().Add(length)}
	if s.peer.kind == bare || s.peer.kind == direct || s.peer.kind == throughAPI {
		run.result.FencedLost = 0
	}
	before := injected(s.proxy.Stats())
	if err := s.proxy.SetPlan(wirefault.Plan{Seed: 3, Rules: f.rules}); err != nil {
		return run.result, err
	}
	name := s.name("exclusion")
	var work sync.WaitGroup
	for _, p := range procs {
		work.Go(func() { run.client(p, name) })
	}
	if f.do != nil {
		work.Go(func() {
			for time.Now().Add(exclusionLease + 2*time.Second).Before(run.until) {
				time.Sleep(500 * time.Millisecond)
				f.do(s, procs[rand.N(len(procs))])
				run.result.Faults++
			}
		})
	}
	work.Wait()
	if err := s.proxy.SetPlan(wirefault.Plan{}); err != nil {
		return run.result, err
	}
	if f.do == nil {
		run.result.Faults = injected(s.proxy.Stats()) - before
	}
	for _, p := range procs {
		_, _ = p.do(0, 5*time.Second, "held") // what it wrote before is read then
		for _, b := range p.history() {
			if b.Lock == name {
				run.hist.Beliefs = append(run.hist.Beliefs, b)
			}
		}
	}
	run.judge()
	return run.result, s.keep(f, run)
}

// judge counts the times at which two clients believed that they hold the lock.
func (r *contention) judge() {
	for _, v := range history.Check(&r.hist, history.Holdfast()).Violations {
		if v.Check == "beliefs" {
			r.result.Overlaps++
		}
	}
}

// granted compares the fencing token of a grant with those that were told before it was asked for.
func (r *contention) granted(fence, before int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.result.FencedLost >= 0 && fence <= before {
		r.result.Fences++
	}
	r.told = max(r.told, fence)
}

// keep writes the history of a run beside the drivers.
func (s *site) keep(f fault, run *contention) error {
	var b bytes.Buffer
	if err := run.hist.WriteTo(history.NewWriter(&b)); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir, fmt.Sprintf("history-%s-%s.jsonl", s.peer.kind, f.name)), b.Bytes(), 0o600)
}

func injected(s wirefault.Stats) (n int64) {
	for _, count := range s.Faults {
		n += count
	}
	return n
}

// client is one client's loop: acquire, read the counters, work, check, write the counters, release.
func (r *contention) client(p *process, name string) {
	for time.Now().Before(r.until) {
		r.mu.Lock()
		before := r.told
		r.mu.Unlock()
		// A wait that ends with the run: the library may not give up earlier.
		c, err := p.send(0, "acquire", name, fmt.Sprint((5 * time.Second).Milliseconds()))
		if err != nil {
			return
		}
		var got answer
		select {
		case got = <-c:
		case <-p.ended:
			return
		case <-time.After(time.Until(r.until) + patience):
			p.kill()
			return
		}
		if !got.OK {
			r.count(func(e *Exclusion) { e.Errors++ })
			time.Sleep(50 * time.Millisecond)
			continue
		}
		r.granted(got.Fence, before)
		if time.Now().Before(r.until) {
			r.work(p, got)
		}
		if _, err := p.do(0, patience, "release"); err != nil {
			p.kill()
			return
		}
	}
}

func (r *contention) count(f func(*Exclusion)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.result)
}

func (r *contention) work(p *process, got answer) {
	r.mu.Lock()
	r.result.Acquired++
	plain, fenced := r.plain, r.fenced
	// The first write with a fencing token is that of the reading: it shuts out the holders before.
	refused := got.Fence < r.top
	r.top = max(r.top, got.Fence)
	r.mu.Unlock()
	length := 20*time.Millisecond + rand.N(60*time.Millisecond)
	if rand.N(4) == 0 {
		length = time.Second + rand.N(1500*time.Millisecond)
	}
	time.Sleep(length)
	held, err := p.do(0, 10*time.Second, "held")
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil || !held.OK {
		r.result.Told++
		return
	}
	r.result.Increments++
	if r.plain != plain {
		r.result.Lost++
	}
	r.plain = plain + 1
	if r.result.FencedLost < 0 {
		return
	}
	if refused || got.Fence < r.top {
		r.result.Refused++
		return
	}
	if r.fenced != fenced {
		r.result.FencedLost++
	}
	r.fenced = fenced + 1
}
