package redrive

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-lock/holdfast/internal/dynamo"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

const (
	// maxOutcomes is how many outcomes a sweep collects before it answers, so that its answer fits what a function may return: 6 MB.
	maxOutcomes = 2000
	// maxUnsettled is for how many queues that could move a sweep waits at once.
	maxUnsettled = 100
	// secondMargin is the part of the time of a context within which no queue is looked at for the second time: they have the time between it and
	// margin.
	secondMargin = 5 * time.Second
)

// sweep reads a part of the table and looks closer at what seems to be left undone: a lease past its expiry whose timer died, a queue that could
// move, a grant that was not told, an execution whose check is overdue, a waiter whose time is over, items without a row, without native TTL or
// without their place in the index of names. With Apply it mends them, and sets timers of live leases again where they may be lost.
//
// The items are handled in their order. An answer ends after the last item that was handled, so that what it says is never lost: when the time is
// nearly over, when it is long enough, and when an item failed that is not the first one.
func (r *Redriver) sweep(ctx context.Context, req Request) (a Answer, err error) {
	a.Outcomes, a.Cursor = []Outcome{}, req.Cursor
	for scans := 1; ; scans++ {
		scan, err := r.Store.Sweep(ctx, dynamo.SweepQuery{Prefix: req.Prefix, Cursor: a.Cursor, Scans: 1})
		if err == nil {
			a.Items += scan.Read
			a.Units += scan.Units
			p := &part{r: r, req: req, items: scan.Items, room: maxOutcomes - len(a.Outcomes), seen: map[string]bool{}, rows: map[string]bool{}}
			var end int
			end, err = p.handle(ctx)
			p.answer(ctx, end, &a)
			switch {
			case end == len(scan.Items) && err == nil:
				a.Cursor = scan.Next
			case end > 0:
				a.Cursor = scan.Items[end-1].Cursor()
				return a, nil
			}
		}
		if err != nil && a.Cursor != req.Cursor { // the next request meets it, if it lasts
			return a, nil
		}
		if err != nil || a.Cursor == "" || late(ctx, margin) || len(a.Outcomes) >= maxOutcomes || scans == r.ScansPerAnswer {
			return a, err
		}
	}
}

// A part of a sweep handles the items of one scan.
type part struct {
	r     *Redriver
	req   Request
	items []dynamo.Swept
	room  int // for how many outcomes the answer has room

	found  []found
	timers []timed
	seen   map[string]bool // the locks that were looked at closely
	rows   map[string]bool // whether a lock has a row
}

// found is an outcome of an item, by the item's index.
type found struct {
	at int
	Outcome
}

// timed is a timer of a lease in an item.
type timed struct {
	at int
	stream.Timer
}

// A look is the first of two at a queue that could move.
type look struct {
	at  int
	rev int64 // of the lock's row
}

func (p *part) add(at int, list ...Outcome) {
	for _, o := range list {
		p.found = append(p.found, found{at, o})
	}
}

// full reports whether an answer is due before the next item.
func (p *part) full(ctx context.Context) bool { return late(ctx, margin) || len(p.found) >= p.room }

// handle handles items, one at least. It returns how many of them are handled.
func (p *part) handle(ctx context.Context) (end int, err error) {
	for end < len(p.items) && err == nil && (end == 0 || !p.full(ctx)) {
		var next int
		if next, err = p.some(ctx, end); next == end {
			return end, err
		}
		end = next
	}
	return end, err
}

// some handles items from start on, until so many queues could move that it waits for them. It returns the index of the first item that is not
// handled: that of the first queue that could not be looked at again, if there is one.
func (p *part) some(ctx context.Context, start int) (end int, err error) {
	var twice []look
	for end = start; end < len(p.items) && len(twice) < maxUnsettled && (end == start || !p.full(ctx)); end++ {
		var again *look
		if again, err = p.item(ctx, end); err != nil {
			break
		}
		if again != nil {
			twice = append(twice, *again)
		}
	}
	if len(twice) == 0 {
		return end, err
	}
	if err := p.r.wait(ctx, settleTime); err != nil {
		return twice[0].at, err
	}
	for i, l := range twice {
		if i > 0 && late(ctx, secondMargin) {
			return l.at, nil
		}
		if err := p.again(ctx, l); err != nil {
			return l.at, err
		}
	}
	return end, err
}

// item handles one item. It returns a look if the item's lock has a queue that could move.
func (p *part) item(ctx context.Context, at int) (again *look, err error) {
	it := p.items[at]
	overdue := p.r.now().Add(-lock.Patience).UnixMilli()
	switch {
	case it.Err != nil:
		p.add(at, unreadable(it))
	case it.Kind == dynamo.SweptLock:
		p.timersOf(at)
		p.add(at, lostOf(p.req.Lost, it)...)
		if p.r.Coordinator.Suspect(it.Lock, it.Record, p.r.listens(it.Lock)) {
			again, err = p.look(ctx, at)
		}
		if it.NoIndex && err == nil {
			p.add(at, p.r.unlisted(ctx, p.req, it))
		}
		return again, err
	case it.Kind == dynamo.SweptWaiter && it.Waiter.Until <= overdue:
		if again, err = p.look(ctx, at); err == nil {
			err = p.stray(ctx, at)
		}
	case it.Kind == dynamo.SweptPlace:
		err = p.stray(ctx, at)
	}
	if it.NoTTL && it.Err == nil && err == nil {
		p.add(at, p.r.lasting(ctx, p.req, it))
	}
	return again, err
}

func unreadable(it dynamo.Swept) Outcome {
	return Outcome{
		What: "unreadable", Lock: it.Lock, State: Kept, Detail: fmt.Sprintf("the item %s cannot be read: %v", it.SK, it.Err),
		Fix: "look at the item, and correct or delete it by hand",
	}
}

// look looks closer at a lock, once for all its items. What is due is mended at once, but for a queue that could move.
func (p *part) look(ctx context.Context, at int) (*look, error) {
	name := p.items[at].Lock
	if p.seen[name] {
		return nil, nil
	}
	p.seen[name] = true
	list, record, err := p.r.Coordinator.Examine(ctx, name, p.r.listens(name))
	switch {
	case err != nil:
		return nil, fmt.Errorf("lock %s: %w", name, err)
	case len(list) > 0 && list[0].Kind == lock.FindingUnsettled:
		return &look{at, record.Rev}, nil
	}
	p.add(at, p.r.treat(ctx, list, p.req.Apply)...)
	return nil, nil
}

// again looks at a queue for the second time.
func (p *part) again(ctx context.Context, l look) error {
	name := p.items[l.at].Lock
	list, record, err := p.r.Coordinator.Examine(ctx, name, p.r.listens(name))
	if err != nil {
		return fmt.Errorf("lock %s: %w", name, err)
	}
	if record.Rev == l.rev {
		p.add(l.at, p.r.treat(ctx, list, p.req.Apply)...)
	}
	return nil
}

// answer adds the outcomes of the items before end to an answer, in the order of the items. Of those behind it the next request finds again what
// was not done.
func (p *part) answer(ctx context.Context, end int, a *Answer) {
	slices.SortStableFunc(p.found, func(a, b found) int { return cmp.Compare(a.at, b.at) })
	for _, f := range p.found {
		if f.at < end || f.State == Done {
			a.Outcomes = append(a.Outcomes, f.Outcome)
		}
	}
	var timers []stream.Timer
	for _, t := range p.timers {
		if t.at < end {
			timers = append(timers, t.Timer)
		}
	}
	for _, it := range p.items[:end] {
		if it.Kind == dynamo.SweptLock && it.Err == nil {
			a.Locks++
		}
	}
	if p.req.Apply {
		p.r.arm(ctx, timers, a)
	}
}

// timersOf notes the timers of a lock's leases that may be lost, among those that its leases need by the rules of [lock.Write.Effects]. That is all of
// them, if the request says so. Otherwise it is those of grants whose record of the stream may be lost; and all of a lock with waiters, since
// that of the first waiter's joining may be.
func (p *part) timersOf(at int) {
	it, c := p.items[at], p.r.Expirer.Consumer
	if c == nil || c.Timers == nil {
		return
	}
	for key, l := range it.Record.Holders {
		needed := l.Execution != "" || it.Record.Waiting > 0 || p.r.listens(it.Lock)
		lost := p.req.Timers || len(p.req.Lost) > 0 && it.Record.Waiting > 0 || within(p.req.Lost, l.AcquiredAt)
		if needed && lost {
			p.timers = append(p.timers, timed{at, c.TimerOf(lock.GrantRef{Lock: it.Lock, Key: key, Fence: l.Fence}, l)})
		}
	}
}

func (r *Redriver) arm(ctx context.Context, timers []stream.Timer, a *Answer) {
	if len(timers) == 0 {
		return
	}
	errs := r.Expirer.Consumer.Timers.Arm(ctx, timers)
	a.Timers += len(timers)
	for i, err := range errs {
		if err != nil {
			a.Timers--
			a.Outcomes = append(a.Outcomes, Outcome{What: "timer", Lock: timers[i].Lock, State: Failed, Detail: "the timer was not set again: " + err.Error()})
		}
	}
}

// How far the time of a write, by its coordinator's clock, and the arrival of its record may differ: a coordinator reads its clock before requests
// that it may repeat for as long as a function runs, and clocks differ by two seconds at most without that anybody notices.
const (
	writeTime = 12 * time.Second
	clockTime = 2 * time.Second
)

// within reports whether the record of a write at a time in Unix milliseconds may have arrived in one of the windows.
func within(windows []Window, ms int64) bool {
	at := time.UnixMilli(ms)
	return slices.ContainsFunc(windows, func(w Window) bool { return !at.Before(w.From.Add(-writeTime)) && !at.After(w.To.Add(clockTime)) })
}

// lostOf names the events of a lock that fell into a time in which records of the stream were lost. Only the last grants and the last end are in
// the table, so that there may be more.
func lostOf(windows []Window, it dynamo.Swept) (list []Outcome) {
	lost := func(event string, fence int64) {
		list = append(list, Outcome{
			What: "event", Lock: it.Lock, State: Kept, Detail: "may not have been published, and cannot be made from the table",
			Lost: []string{fmt.Sprintf("%s of grant %d", event, fence)},
		})
	}
	for _, l := range it.Record.Holders {
		if within(windows, l.AcquiredAt) {
			lost("Lock Acquired", l.Fence)
		}
	}
	if end := it.Record.Retired; end.Fence != 0 && within(windows, end.At) {
		lost(fmt.Sprintf("the end (%s)", end.Cause), end.Fence)
	}
	return list
}

// stray handles the item of a waiter whose time is over, or of a ticket, if its lock has no row.
func (p *part) stray(ctx context.Context, at int) error {
	it := p.items[at]
	has, known := p.rows[it.Lock]
	if !known {
		reply, err := p.r.Store.Get(ctx, it.Lock)
		if err != nil {
			return err
		}
		has = reply.After.Rev > 0
		p.rows[it.Lock] = has
	}
	if has {
		return nil
	}
	o := Outcome{What: "orphan", Lock: it.Lock, State: Due, Detail: fmt.Sprintf("the item %s belongs to a queue whose lock has no row", it.SK), Fix: "holdfast redrive --apply"}
	if p.req.Apply {
		removed, err := p.r.Store.RemoveOrphan(ctx, it)
		switch {
		case err != nil:
			o.State, o.Detail = Failed, o.Detail+": "+err.Error()
		case removed:
			o.State, o.Fix = Done, ""
		default:
			o.State, o.Detail, o.Fix = Pointless, o.Detail+"; it has changed since", ""
		}
	}
	p.add(at, o)
	return nil
}
