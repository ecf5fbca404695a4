package sim

import (
	"context"
	"encoding/json"
	"errors"
	"hash/fnv"
	"strconv"
	"strings"
	"sync"
	"time"

	lambdaevents "github.com/aws/aws-lambda-go/events"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/history"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

var errSimulated = errors.New("simulated failure")

// changed is the table's stream: it records a write as a row, and passes it to its shard unless the stream's filters drop it.
func (w *world) changed(name string, before, after lock.Record) {
	write := lock.Write{Lock: name, Before: before, After: after}
	for _, waiter := range lock.PlacesEnded(before, after) {
		if !waiter.Tokens.Empty() && after.Rev > 0 {
			write.Ended = append(write.Ended, waiter)
		}
	}
	w.mu.Lock()
	row := history.RowOf(write, w.at())
	listened := w.listens(name)
	row.Quiet = !listened
	w.h.Rows = append(w.h.Rows, row)
	w.mu.Unlock()
	purged := after.Rev == 0
	if !purged && after.Cause.Quiet() || !listened && (purged || !write.OfQueue()) {
		return
	}
	shard := w.shardOf(name)
	// The end of a wait is an item of its own. The records of one transaction are in any order.
	ended := write.Ended
	write.Ended = nil
	first := w.draw(2) == 0
	if first {
		shard.add(write)
	}
	for _, waiter := range ended {
		shard.add(lock.Write{Lock: name, Ended: []lock.Waiter{waiter}})
	}
	if !first {
		shard.add(write)
	}
}

// shardOf is the shard that has the records of a lock, or of the rule of a prefix.
func (w *world) shardOf(name string) *shard {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(name))
	return w.shards[hash.Sum32()%uint32(len(w.shards))]
}

func (w *world) listens(name string) bool {
	for _, t := range w.locks {
		if t.name == name {
			return t.listened
		}
	}
	return true
}

// A shard is a shard of the stream with its event source mapping: it delivers batches in order, and again what failed.
type shard struct {
	w *world
	*dice

	mu      sync.Mutex
	pending []stream.Write
	next    int
	wake    chan struct{}
}

func newShard(w *world, id int) *shard {
	return &shard{w: w, dice: w.dice("shard", int64(id)), wake: make(chan struct{}, 1)}
}

func (s *shard) add(write lock.Write) {
	s.mu.Lock()
	s.next++
	s.pending = append(s.pending, stream.Write{Write: write, Sequence: strconv.Itoa(s.next)})
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run delivers until the end of the world.
func (s *shard) run() {
	for {
		select {
		case <-s.wake:
		case <-s.w.done:
			return
		}
		for s.deliver() {
		}
	}
}

// deliver delivers one batch. It returns false if there is none.
func (s *shard) deliver() bool {
	s.mu.Lock()
	batch := s.pending[:min(len(s.pending), 1+s.intn(20))]
	s.mu.Unlock()
	if len(batch) == 0 {
		return false
	}
	time.Sleep(s.between(20*time.Millisecond, 600*time.Millisecond))
	failed, died := s.consume(batch)
	done := len(batch)
	switch {
	case died:
		done = 0
	case len(failed) > 0: // from the first that failed on
		for done = 0; batch[done].Sequence != failed[0]; done++ {
		}
	}
	if done < len(batch) {
		time.Sleep(s.between(100*time.Millisecond, 2*time.Second))
	}
	s.mu.Lock()
	s.pending = s.pending[done:]
	s.mu.Unlock()
	return true
}

// consume is one invocation of the stream function. died reports whether it ended without a reply.
func (s *shard) consume(batch []stream.Write) (failed []string, died bool) {
	p := newProcess(s.another(), nil, 5*len(batch)+5)
	if p.crashAt == 0 && p.happens(Crash) { // a batch has many steps
		p.crashAt = 1 + p.intn(5*len(batch)+5)
	}
	reply := make(chan []string, 1)
	s.w.spawn(func() {
		defer close(reply)
		ctx, cancel := p.context(time.Minute)
		defer cancel()
		reply <- s.w.consumer().Consume(ctx, batch)
	})
	failed, ok := <-reply
	return failed, !ok
}

// consumer is a new process of the stream function or the expire function.
func (w *world) consumer() *stream.Consumer {
	return &stream.Consumer{
		Bus: bus{w}, Listens: func(name string) bool { return w.listens(name) }, Timers: w.queue, Backlog: w.queue, DeadLetter: deadLetters{w},
		Callbacks: stream.ByKind{lock.TaskToken: w.execs}, Coordinator: w.back.coordinator, Skew: lock.DefaultSkew, Log: quiet, Clock: w.back.now,
	}
}

func (w *world) expirer() *stream.Expirer {
	return &stream.Expirer{
		Coordinator: w.back.coordinator, Timers: w.queue, Executions: w.execs, Consumer: w.consumer(), Log: quiet, Clock: w.back.now,
	}
}

// A queue is the queue of timers and jobs.
type queue struct {
	w       *world
	pending int // guarded by w.mu
}

// send puts a message into the queue, to be delivered at a time.
func (q *queue) send(d *dice, body []byte, due time.Time) {
	delay := min(max(time.Until(due), 0), stream.MaxDelay) + d.between(time.Millisecond, 500*time.Millisecond)
	q.count(1)
	q.w.spawn(func() {
		defer q.count(-1)
		q.deliver(d, string(body), delay)
	})
}

// mostTwice is the number of messages in the queue above which none is sent twice: a timer that is set again is sent twice again, and so on
// for as long as its lease lasts.
const mostTwice = 20

// count counts the messages in the queue, and returns how many there are.
func (q *queue) count(more int) int {
	q.w.mu.Lock()
	defer q.w.mu.Unlock()
	q.pending += more
	return q.pending
}

// deliver delivers a message until it is handled.
func (q *queue) deliver(d *dice, body string, delay time.Duration) {
	event := lambdaevents.SQSEvent{Records: []lambdaevents.SQSMessage{{MessageId: "message", Body: body}}}
	for range 100 {
		select {
		case <-time.After(delay):
		case <-q.w.done:
			return
		}
		p := newProcess(d.another(), nil, 8)
		reply := make(chan lambdaevents.SQSEventResponse, 1)
		q.w.spawn(func() {
			defer close(reply)
			ctx, cancel := p.context(30 * time.Second)
			defer cancel()
			resp, _ := q.w.expirer().HandleTimers(ctx, event) // it returns no error
			reply <- resp
		})
		resp, replied := <-reply
		q.w.mu.Lock()
		q.w.fired++
		q.w.mu.Unlock()
		if replied && len(resp.BatchItemFailures) == 0 {
			return
		}
		delay = d.between(30*time.Second, 60*time.Second) // the visibility timeout
	}
	q.w.problem("a message was received 100 times: " + body)
}

// Arm implements [stream.Timers].
func (q *queue) Arm(ctx context.Context, timers []stream.Timer) []error {
	errs := make([]error, len(timers))
	for i, t := range timers {
		if errs[i] = q.refuses(ctx); errs[i] != nil {
			continue
		}
		body, err := stream.EncodeTimer(t)
		if err != nil {
			return []error{err}
		}
		p := processOf(ctx)
		switch {
		case p.happens(TimerLost):
		case p.happens(TimerLate):
			q.send(p.another(), body, t.Due.Add(p.between(time.Second, 40*time.Second)))
		default:
			q.send(p.another(), body, t.Due)
		}
		if p.happens(TimerTwice) && q.count(0) < mostTwice {
			q.send(p.another(), body, t.Due.Add(p.between(-time.Second, 5*time.Second)))
		}
		step(ctx)
	}
	return errs
}

// Defer implements [stream.Backlog].
func (q *queue) Defer(ctx context.Context, jobs []stream.Job) []error {
	errs := make([]error, len(jobs))
	for i, j := range jobs {
		if errs[i] = q.refuses(ctx); errs[i] != nil {
			continue
		}
		body, err := stream.EncodeJob(j)
		if err != nil {
			return []error{err}
		}
		q.send(processOf(ctx).another(), body, j.Due)
		step(ctx)
	}
	return errs
}

func (q *queue) refuses(ctx context.Context) error {
	step(ctx)
	if p := processOf(ctx); p.happens(Queue) || q.w.isOut(p, Queue) {
		return errSimulated
	}
	return ctx.Err()
}

// A bus records the events that it takes.
type bus struct{ w *world }

// Put implements [stream.Bus].
func (b bus) Put(ctx context.Context, entries []stream.Entry) []error {
	step(ctx)
	p := processOf(ctx)
	if err := b.w.sleep(ctx, p.between(time.Millisecond, 20*time.Millisecond)); err != nil {
		return repeat(err, len(entries))
	}
	if b.w.isOut(p, Bus) {
		return repeat(errSimulated, len(entries))
	}
	errs := make([]error, len(entries))
	for i, e := range entries {
		if p.happens(Bus) && p.chance(0.5) {
			errs[i] = errSimulated
			continue
		}
		b.record(e)
		if p.happens(Bus) { // the reply is lost
			errs[i] = errSimulated
		}
	}
	step(ctx)
	return errs
}

func repeat(err error, n int) []error {
	errs := make([]error, n)
	for i := range errs {
		errs[i] = err
	}
	return errs
}

func (b bus) record(e stream.Entry) {
	var detail struct {
		ID    string `json:"id"`
		Fence int64  `json:"fence"`
	}
	if err := json.Unmarshal(e.Detail, &detail); err != nil {
		b.w.problem("an event's detail is not JSON: " + err.Error())
		return
	}
	if e.DetailType == events.TypeRuleChanged {
		b.recordRule(e)
		return
	}
	kind := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(e.DetailType, "Lock ")), " ", "-")
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	b.w.h.Events = append(b.w.h.Events, history.Event{Lock: e.Lock, Type: kind, Fence: detail.Fence, ID: detail.ID})
}

// deadLetters are what was given up, which is a problem of the run.
type deadLetters struct{ w *world }

// Bury implements [stream.DeadLetter].
func (d deadLetters) Bury(ctx context.Context, write stream.Write) error {
	step(ctx)
	d.w.problem("a dead letter of lock " + write.Lock + ": " + write.Poison.Error())
	return nil
}
