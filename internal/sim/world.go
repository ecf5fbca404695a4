package sim

import (
	"context"
	"hash/fnv"
	"log/slog"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/api"
	"github.com/holdfast-lock/holdfast/internal/history"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A world is one run.
type world struct {
	p      Params
	start  time.Time
	rates  map[Fault]float64
	memory lock.Memory
	store  *store
	locks  []*target
	fronts []*front // the coordinators that serve requests
	back   *front   // the one of the consumer and the expirer
	shards []*shard
	queue  *queue
	execs  *executions

	mu       sync.Mutex
	ops      []*request
	h        history.History
	fired    int // timers and jobs that were delivered
	names    map[string]string
	leases   map[string]int   // by client: how many leases it has named
	sent     map[string]int64 // by party: how many requests it has sent
	requests int
	tops     map[string]int64 // the highest fencing token that the guarded resource of each lock has seen
	calm     bool             // no more faults
	night    time.Time
	done     chan struct{}  // closed at the end: what runs for ever ends
	life     sync.WaitGroup // what spawn started
	idle     []chan func()  // workers of spawn that have nothing to do
	timers   []*time.Timer  // those of sleep that are stopped
	promises []promise
	told     map[ruleWrite]bool  // the writes of prefix rules of which there is an event
	problems []string            // what only the simulation can see
	outages  map[Fault]time.Time // until when a service refuses everything
	crashes  int
	kinds    map[Fault]int // how often each fault happened
}

// rates are the probabilities of the faults at level 1: of a request, a step, a message or a session, as the case may be.
var rates = map[Fault]float64{
	LostRequest: 0.02, LostReply: 0.02, Slow: 0.02, Duplicate: 0.02, Late: 0.005, Busy: 0.01, Partition: 0.002, StoreThrottle: 0.01, StoreLost: 0.01,
	StoreRepeat: 0.01, StoreLate: 0.003, Crash: 0.01, ClientCrash: 0.03, Pause: 0.05, Force: 1, Clocks: 1, TimerLost: 0.05, TimerLate: 0.1, TimerTwice: 0.1,
	Queue: 0.02, Bus: 0.05, Callback: 0.1, TaskGone: 0.1, EndLost: 0.2, Night: 1, Cancel: 0.1, Capacities: 0.05, Sets: 0.3, Freezes: 1,
	NoRules: 0.02, Modes: 0.4, Rates: 0.4,
}

// A target is a lock that the run uses.
type target struct {
	name     string
	capacity int
	ttl      time.Duration
	listened bool // somebody listens for its events
	modes    bool // its callers are readers and writers
}

// A front is a coordinator with its own clock.
type front struct {
	w           *world
	offset      time.Duration // guarded by w.mu
	coordinator *lock.Coordinator
	api         *api.API
}

func newWorld(p Params) *world {
	w := &world{
		p: p, start: time.Now(), rates: map[Fault]float64{}, names: map[string]string{}, leases: map[string]int{}, sent: map[string]int64{},
		done: make(chan struct{}), kinds: map[Fault]int{}, outages: map[Fault]time.Time{}, tops: map[string]int64{}, told: map[ruleWrite]bool{},
	}
	for _, f := range p.Faults {
		w.rates[f] = min(rates[f]*p.Level, 1)
	}
	w.memory.Changed, w.memory.RuleChanged = w.changed, w.ruleChanged
	d := w.dice("world")
	w.store = &store{w}
	for i := range p.Locks {
		t := &target{name: "lock:" + strconv.Itoa(i), capacity: 1, ttl: time.Duration(1500+d.intn(20000)) * time.Millisecond, listened: d.intn(5) > 0}
		if d.intn(3) == 0 {
			t.capacity = 2 + d.intn(3)
		}
		if p.has(Modes) && d.intn(2) == 0 {
			t.capacity, t.modes = wire.ModeCapacity, true
		}
		w.locks = append(w.locks, t)
	}
	w.execs = newExecutions(w)
	w.queue = &queue{w: w}
	for range p.Coordinators {
		w.fronts = append(w.fronts, w.newFront())
	}
	w.back = w.newFront()
	for i := range 2 {
		w.shards = append(w.shards, newShard(w, i))
	}
	return w
}

// quiet is the log of all parts.
var quiet = slog.New(slog.DiscardHandler)

func (w *world) newFront() *front {
	f := &front{w: w}
	cfg := lock.Config{Store: w.store, Clock: f.now, Granted: stream.AtOnce(stream.ByKind{lock.TaskToken: w.execs}, nil, quiet, "")}
	var err error
	if f.coordinator, err = lock.New(cfg); err != nil {
		panic(err) // the configuration is constant
	}
	if f.api, err = api.New(api.Config{Coordinator: f.coordinator, Log: quiet, Machines: []string{"sim"}}); err != nil {
		panic(err)
	}
	return f
}

func (f *front) now() time.Time {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return time.Now().Add(f.offset)
}

// at is the virtual time since the start of the run, in nanoseconds.
func (w *world) at() int64 { return int64(time.Since(w.start)) }

// draw is the source of package chance. It depends on the moment alone, so that it does not matter which of two goroutines comes first.
func (w *world) draw(n int64) int64 {
	h := fnv.New64a()
	numbers(h, int64(w.p.Seed), w.at(), n)
	return int64(h.Sum64()>>1) % n
}

// sleep waits for d, or until ctx ends. It reuses its timers: to make one costs more than to wait for it.
func (w *world) sleep(ctx context.Context, d time.Duration) error {
	w.mu.Lock()
	var timer *time.Timer
	if n := len(w.timers); n > 0 {
		timer, w.timers = w.timers[n-1], w.timers[:n-1]
	}
	w.mu.Unlock()
	if timer == nil {
		timer = time.NewTimer(d)
	} else {
		timer.Reset(d)
	}
	var err error
	select {
	case <-timer.C:
	case <-ctx.Done():
		timer.Stop()
		err = ctx.Err()
	}
	w.mu.Lock()
	w.timers = append(w.timers, timer)
	w.mu.Unlock()
	return err
}

// over reports whether no more work begins.
func (w *world) over() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.requests >= w.p.Ops
}

func (w *world) problem(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, text)
}

// isOut reports whether a service refuses everything for a while: one in ten of its faults begins that.
func (w *world) isOut(p *process, f Fault) bool {
	begins := p.happens(f) && p.chance(0.1)
	length := p.between(time.Second, 30*time.Second)
	w.mu.Lock()
	defer w.mu.Unlock()
	if begins {
		w.outages[f] = time.Now().Add(length)
	}
	return !w.calm && time.Now().Before(w.outages[f])
}

// spawn runs f in a goroutine, which is reused afterwards: a new one spends much of its time on growing its stack.
func (w *world) spawn(f func()) {
	w.life.Add(1)
	w.mu.Lock()
	var work chan func()
	if n := len(w.idle); n > 0 {
		work, w.idle = w.idle[n-1], w.idle[:n-1]
	}
	w.mu.Unlock()
	if work == nil {
		work = make(chan func(), 1)
		go w.work(work)
	}
	work <- f
}

func (w *world) work(work chan func()) {
	for f := range work {
		returned := false
		func() {
			defer func() {
				if !returned { // f is a process that crashes, which ends this goroutine
					w.life.Done()
				}
			}()
			f()
			returned = true
		}()
		w.mu.Lock()
		w.idle = append(w.idle, work)
		w.mu.Unlock()
		w.life.Done()
	}
}

// A process is something that may crash between two of its steps: a request at a coordinator, a batch of the consumer, a message of the
// expirer. Its context carries it.
type process struct {
	*dice
	crashAt int // the step at which it dies; 0: it does not
	steps   int
	op      *request // the request that it serves; nil: none
}

type processKey struct{}

// newProcess returns a process, which may be one that will crash within its first steps.
func newProcess(d *dice, op *request, steps int) *process {
	p := &process{dice: d, op: op}
	if d.happens(Crash) {
		p.crashAt = 1 + d.intn(steps)
	}
	return p
}

func (p *process) context(timeout time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithValue(context.Background(), processKey{}, p), timeout)
}

// processOf is the process of a context. Everything that the simulation passes to the code under test has one.
func processOf(ctx context.Context) *process { return ctx.Value(processKey{}).(*process) }

// step is called before and after everything that a process does to the world. It ends the goroutine of one that crashes here.
func step(ctx context.Context) {
	p := processOf(ctx)
	if p.steps++; p.steps == p.crashAt {
		p.w.mu.Lock()
		p.w.crashes++
		p.w.mu.Unlock()
		runtime.Goexit()
	}
}

// A request is an operation, with the time at which the last of its effects landed. A request about a set of locks is an operation on each of
// them.
type request struct {
	history.Op
	set    []history.Op // with the result of each; empty: it is about one lock
	landed int64
}

// ops are the operations of a request.
func (r *request) ops() []history.Op {
	if r.set != nil {
		return r.set
	}
	return []history.Op{r.Op}
}

// landed notes that a request may take effect until a time.
func (w *world) landed(op *request, at int64) {
	if op == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	op.landed = max(op.landed, at)
}
