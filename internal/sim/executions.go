package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-lock/holdfast/internal/history"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// executions are a fake of Step Functions: executions, and the tasks in them that wait with a token. All fields are guarded by w.mu.
type executions struct {
	w     *world
	ended map[string]time.Time // by ARN: when an execution ended
	tasks map[string]*task     // by token
}

// A task waits for a callback.
type task struct {
	waits  bool
	answer chan callback
}

// A callback is what a task was told.
type callback struct {
	fences map[string]int64 // of the leases, by lock; nil: the wait failed
	code   string           // of the failure
}

func newExecutions(w *world) *executions {
	return &executions{w: w, ended: map[string]time.Time{}, tasks: map[string]*task{}}
}

// Succeed implements [stream.Callbacks].
func (e *executions) Succeed(ctx context.Context, token lock.Token, output []byte) error {
	var granted wire.Granted
	if err := json.Unmarshal(output, &granted); err != nil {
		return err
	}
	c := callback{fences: map[string]int64{}}
	for _, l := range granted.Locks {
		c.fences[l.Lock] = l.Fence
	}
	return e.call(ctx, token, c)
}

// Fail implements [stream.Callbacks].
func (e *executions) Fail(ctx context.Context, token lock.Token, code, _ string) error {
	return e.call(ctx, token, callback{code: code})
}

// maxCallback is how long a callback is under way.
const maxCallback = time.Second

func (e *executions) call(ctx context.Context, token lock.Token, c callback) error {
	step(ctx)
	p := processOf(ctx)
	pause := p.between(time.Millisecond, 30*time.Millisecond)
	if p.happens(Callback) {
		pause = p.between(10*time.Millisecond, maxCallback)
	}
	if err := e.w.sleep(ctx, pause); err != nil {
		return err
	}
	if e.w.isOut(p, Callback) || p.happens(Callback) && p.chance(0.5) {
		return errSimulated
	}
	e.w.mu.Lock()
	t := e.tasks[token.Text]
	waits := t != nil && t.waits
	if waits {
		t.waits = false
		t.answer <- c
	}
	e.w.mu.Unlock()
	step(ctx)
	if p.happens(Callback) { // the reply is lost
		return errSimulated
	}
	if !waits {
		return stream.ErrTaskGone
	}
	return nil
}

// Running implements [stream.Executions]. Its answer may be a second old.
func (e *executions) Running(ctx context.Context, arn string) (bool, error) {
	step(ctx)
	p := processOf(ctx)
	if err := e.w.sleep(ctx, p.between(time.Millisecond, 30*time.Millisecond)); err != nil {
		return false, err
	}
	if p.happens(EndLost) && p.chance(0.2) {
		return false, errSimulated
	}
	lag := p.between(0, time.Second)
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	at, ended := e.ended[arn]
	return !ended || time.Since(at) < lag, nil
}

// wait makes a task wait with a token.
func (e *executions) wait(token string) *task {
	t := &task{waits: true, answer: make(chan callback, 1)}
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	e.tasks[token] = t
	return t
}

// leave ends a task. Its token is then nobody's.
func (e *executions) leave(t *task) {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	t.waits = false
}

// end ends an execution, and sends the event of that.
func (e *executions) end(arn string) {
	e.w.mu.Lock()
	e.ended[arn] = time.Now()
	e.w.mu.Unlock()
	d := e.w.dice(arn)
	times := 1
	if d.happens(EndLost) {
		times = d.intn(3)
	}
	for range times {
		delay := d.between(10*time.Millisecond, 800*time.Millisecond)
		if d.happens(EndLost) {
			delay = d.between(time.Second, time.Minute)
		}
		own := d.another()
		e.w.spawn(func() { e.tellEnd(own, arn, delay) })
	}
}

// tellEnd is EventBridge: it invokes the expire function, and again twice if that fails.
func (e *executions) tellEnd(d *dice, arn string, delay time.Duration) {
	event, err := json.Marshal(map[string]any{"detail-type": "Step Functions Execution Status Change", "detail": stream.ExecutionEnd{Execution: arn, Status: "SUCCEEDED"}})
	if err != nil {
		panic(err) // plain types
	}
	for range 3 {
		time.Sleep(delay)
		p := newProcess(d.another(), nil, 10)
		reply := make(chan error, 1)
		e.w.spawn(func() {
			defer close(reply)
			ctx, cancel := p.context(30 * time.Second)
			defer cancel()
			_, err := e.w.expirer().Handle(ctx, event)
			reply <- err
		})
		if err, replied := <-reply; replied && err == nil {
			return
		}
		delay = d.between(time.Minute, 2*time.Minute)
	}
}

// A machine is a state machine: it runs one execution after another, each of which waits for a lock or for several together, works, and ends.
type machine struct {
	w *world
	*dice
	name string
	runs int
}

func (m *machine) run() {
	for !m.w.over() {
		m.w.sleepThroughNight(m.dice)
		time.Sleep(m.between(10*time.Millisecond, 8*time.Second))
		m.runs++
		targets := []*target{m.w.locks[m.intn(len(m.w.locks))]}
		if m.happens(Sets) {
			targets = m.w.several(m.dice)
			slices.SortFunc(targets, func(a, b *target) int { return strings.Compare(a.name, b.name) })
		}
		m.execute(targets)
	}
}

// execute is one execution.
func (m *machine) execute(ts []*target) {
	arn := fmt.Sprintf("arn:aws:states:eu-west-1:123456789012:execution:sim:%s-%d", m.name, m.runs)
	secret := fmt.Sprintf("lease-of-%s-%d------------------", m.name, m.runs)
	began, told := m.wait(ts, arn, secret)
	if told.fences != nil {
		m.work(ts, secret, began, told.fences)
	}
	m.mayEnd(ts, secret)
	m.w.execs.end(arn)
}

// mayEnd records that the coordinator may end the leases at any time from now on, since their execution is over or their task waits no more.
func (m *machine) mayEnd(ts []*target, secret string) (list []*request) {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	for _, t := range ts {
		list = append(list, &request{Op: history.Op{
			Client: m.name, Op: history.Release, Lock: t.name, Set: setOf(ts), Lease: m.w.nameOf(m.name, secret), Began: m.w.at(), Ended: m.w.at(), Result: history.Unknown,
		}, landed: 1 << 62})
	}
	m.w.ops = append(m.w.ops, list...)
	return list
}

// setOf are the names of several locks, with commas between; empty for one.
func setOf(ts []*target) string {
	if len(ts) == 1 {
		return ""
	}
	return strings.Join(namesOf(ts), ",")
}

func namesOf(ts []*target) (names []string) {
	for _, t := range ts {
		names = append(names, t.name)
	}
	return names
}

// maxTaskWait is how long a task waits at most, in the run's virtual time. It is longer than everything else in a run.
const maxTaskWait = 40 * time.Hour

// wait is the task that waits for the locks. It is retried with another token now and then, or its execution is stopped.
func (m *machine) wait(ts []*target, arn, secret string) (began int64, told callback) {
	began = m.w.at()
	var gone []*request
	defer func() {
		if told.fences != nil { // the lease is that of a task that knows of it
			m.w.mu.Lock()
			defer m.w.mu.Unlock()
			for _, op := range gone {
				op.landed = m.w.at()
			}
		}
	}()
	for try := 1; ; try++ {
		token := fmt.Sprintf("token-of-%s-%d-%d", m.name, m.runs, try)
		task := m.w.execs.wait(token)
		refused := make(chan struct{})
		d, over := m.another(), make(chan struct{})
		for _, t := range ts {
			visits := m.another()
			m.w.spawn(func() { m.visit(visits, t, over) })
		}
		defer close(over)
		m.w.spawn(func() {
			if !m.ask(d, ts, arn, secret, token, task) {
				close(refused)
			}
		})
		patience := maxTaskWait
		if m.happens(TaskGone) {
			patience = m.between(time.Millisecond, 20*time.Second)
		}
		select {
		case told := <-task.answer: // it may come before the acquire is answered
			return began, told
		case <-refused:
			m.w.execs.leave(task)
			return began, callback{}
		case <-time.After(patience):
		}
		m.w.execs.leave(task)
		select {
		case told := <-task.answer: // at the last moment
			return began, told
		default:
		}
		if patience == maxTaskWait {
			m.w.problem(fmt.Sprintf("task %s was told nothing within %v", token, patience))
			return began, callback{}
		}
		if m.chance(0.5) { // the execution is stopped
			return began, callback{}
		}
		gone = append(gone, m.mayEnd(ts, secret)...)
	}
}

// orphanLife is how long the lease of an execution that is over may last, if a copy of its acquire took the lock after the end. A check finds
// it, by a timer, or else a refused caller a minute later.
const orphanLife = 10 * time.Minute

// visit asks for the lock every two hours while a task waits for it, as another user of the lock would. If the timer of the lease before a
// waiting task is lost, only that ends the lease: the queue of timers loses none, but the simulation does.
func (m *machine) visit(d *dice, t *target, over <-chan struct{}) {
	for n := 0; ; n++ {
		select {
		case <-over:
			return
		case <-time.After(2*time.Hour + d.between(0, time.Minute)):
		}
		secret := fmt.Sprintf("visitor-of-%s-%d-%d-of-%s------------------", m.name, m.runs, n, strings.ReplaceAll(t.name, ":", "-"))
		l := &link{w: m.w, client: m.name + "-visitor"}
		for _, r := range []lockclient.Request{
			{Op: "acquire", Lock: t.name, Body: encode(wire.AcquireRequest{Lease: secret, TTL: t.ttl.Milliseconds(), Capacity: int64(t.capacity), Permits: 1})},
			{Op: "release", Lock: t.name, Body: encode(wire.ReleaseRequest{Lease: secret})},
		} {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			_, _ = l.RoundTrip(ctx, r) // the history has what the coordinator answered
			cancel()
		}
	}
}

func encode(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain types
	}
	return body
}

// waits reports whether a task waits.
func (e *executions) waits(t *task) bool {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	return t.waits
}

// ask sends the task's acquire until it is answered, or the task waits no more. It returns false if the request is refused, or never answered.
func (m *machine) ask(d *dice, ts []*target, arn, secret, token string, task *task) bool {
	t := ts[0]
	r := lockclient.Request{Op: "acquire", Lock: t.name, Body: encode(wire.AcquireRequest{
		Lease: secret, Owner: m.name, TTL: t.ttl.Milliseconds(), Capacity: int64(t.capacity), Permits: 1, Execution: arn, TaskToken: token,
	})}
	if len(ts) > 1 {
		body := wire.AcquireSetRequest{Lease: secret, Owner: m.name, TTL: t.ttl.Milliseconds(), Execution: arn, TaskToken: token}
		for _, t := range ts {
			body.Locks = append(body.Locks, wire.SetLock{Name: t.name, Capacity: int64(t.capacity), Permits: 1})
		}
		r = lockclient.Request{Op: string(wire.OpAcquireSet), Lock: "*", Body: encode(body)}
	}
	l := &link{w: m.w, client: m.name, life: orphanLife}
	for range 20 {
		if !m.w.execs.waits(task) {
			return true
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second+d.between(0, time.Second))
		resp, err := l.RoundTrip(ctx, r)
		cancel()
		if problem, failed := resp.Answer.(*wire.Problem); err == nil && (!failed || !problem.Outage()) {
			return !failed
		}
		time.Sleep(d.between(200*time.Millisecond, 5*time.Second))
	}
	return false
}

// work holds the locks for a while, and then releases them, or leaves that to the end of the execution.
func (m *machine) work(ts []*target, secret string, began int64, fences map[string]int64) {
	w := m.w
	from := w.at()
	w.mu.Lock()
	lease := w.nameOf(m.name, secret)
	var beliefs []history.Belief
	for _, t := range ts {
		// The callback was sent while the lease was stored.
		op := &request{Op: history.Op{
			Client: m.name, Op: history.Acquire, Lock: t.name, Set: setOf(ts), Lease: lease, Permits: 1, Capacity: int64(t.capacity), Began: max(began, from-int64(10*time.Second)), Ended: from,
			Result: history.Granted, Fence: fences[t.name], TTL: int64(lock.ExecutionLife),
		}}
		w.ops = append(w.ops, op)
		beliefs = append(beliefs, history.Belief{
			Client: m.name, Lock: t.name, Lease: lease, Fence: fences[t.name], Permits: 1, Capacity: int64(t.capacity), From: from,
		})
	}
	w.mu.Unlock()
	time.Sleep(m.between(time.Millisecond, 3*ts[0].ttl))
	w.mu.Lock()
	for _, b := range beliefs {
		b.Until = w.at()
		w.h.Beliefs = append(w.h.Beliefs, b)
	}
	w.mu.Unlock()
	if m.chance(0.3) {
		return
	}
	r := lockclient.Request{Op: "release", Lock: ts[0].name, Body: encode(wire.ReleaseRequest{Lease: secret})}
	if len(ts) > 1 {
		r = lockclient.Request{Op: string(wire.OpReleaseSet), Lock: "*", Body: encode(wire.ReleaseSetRequest{Locks: namesOf(ts), Lease: secret})}
	}
	l := &link{w: w, client: m.name}
	for range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		resp, err := l.RoundTrip(ctx, r)
		cancel()
		if problem, failed := resp.Answer.(*wire.Problem); err == nil && (!failed || !problem.Outage()) {
			return
		}
		time.Sleep(m.between(200*time.Millisecond, 2*time.Second))
	}
}
