package history

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// RowOf is the row of a write at a time.
func RowOf(w lock.Write, at int64) Row {
	return Row{Lock: w.Lock, Cause: string(w.After.Cause), At: at, Before: recordOf(w.Before), After: recordOf(w.After)}
}

func recordOf(r lock.Record) *Record {
	if r.Rev == 0 {
		return nil
	}
	out := &Record{
		Rev: r.Rev, Fence: r.Fence, Capacity: r.Capacity, Waiting: r.Waiting, Retired: string(r.Retired.Key), Ended: string(r.Retired.Cause), EndedAt: r.Retired.At,
		Holders: make(map[string]Lease, len(r.Holders)), SetFirst: len(r.Queue) > 0 && r.Queue[0].Set != "", Head: r.Head,
	}
	if len(r.Queue) > 0 {
		out.First, out.Of = r.Queue[0].Permits, r.Queue[0].Capacity
	}
	for key, l := range r.Holders {
		out.Holders[string(key)] = Lease{Fence: l.Fence, Permits: l.Permits, Capacity: l.Capacity, Renewed: l.RenewedAt, Expires: l.ExpiresAt, Set: l.Set}
	}
	return out
}

// checkRows checks the writes of each lock's row: each begins with what the one before left, revisions count by one, permits fit the
// capacity, each grant has a fencing token above all before it, no lease is granted again that is remembered as ended, no lease's expiry
// moves back, and a lease is renewed, claimed or released before its expiry, by the clock of the coordinator that does it. A lease that
// ends by expiry has expired by every clock.
// A lease gets no further permits. A write that frees permits grants them to the first waiter if they suffice, unless the lock may be frozen.
func checkRows(h *History, freezes freezes, cfg Config) (found []Violation) {
	inSet := map[string]bool{} // locks at the head of whose queue a set may be
	for _, o := range h.Ops {
		inSet[o.Lock] = inSet[o.Lock] || o.Set != ""
	}
	top := map[string]int64{}
	last := map[string]*Record{}
	for _, r := range h.Rows {
		before, after := orEmpty(r.Before), orEmpty(r.After)
		wrong := func(format string, args ...any) {
			found = append(found, Violation{"rows", r.Lock, r.At, fmt.Sprintf("write with cause %q: ", r.Cause) + fmt.Sprintf(format, args...)})
		}
		stored, known := last[r.Lock]
		if last[r.Lock] = r.After; (known || cfg.Recorded) && !reflect.DeepEqual(stored, r.Before) {
			wrong("it begins with revision %d, and the write before it left revision %d, or another content", before.Rev, orEmpty(stored).Rev)
		}
		if r.After == nil {
			continue // purged
		}
		if after.Rev != before.Rev+1 {
			wrong("its revision is %d after %d", after.Rev, before.Rev)
		}
		sum, capacity := int64(0), int64(0)
		for _, key := range slices.Sorted(maps.Keys(after.Holders)) {
			l, was := after.Holders[key], before.Holders[key]
			sum += max(l.Permits, 1)
			if capacity == 0 || l.Capacity < capacity {
				capacity = l.Capacity
			}
			switch {
			case was.Fence == l.Fence && l.Expires < was.Expires && !corrects(r.Cause):
				wrong("the expiry of the lease with fencing token %d moved back from %d to %d", l.Fence, was.Expires, l.Expires)
			case was.Fence == l.Fence && l.Renewed > was.Renewed && l.Renewed >= was.Expires && was.Expires > 0:
				wrong("the lease with fencing token %d is renewed at %d, and expired at %d", l.Fence, l.Renewed, was.Expires)
			case was.Fence != l.Fence && l.Fence <= top[r.Lock] && !corrects(r.Cause):
				wrong("a grant has the fencing token %d, and an earlier one had %d", l.Fence, top[r.Lock])
			case was.Fence == l.Fence && l.Permits > was.Permits:
				wrong("the lease with fencing token %d has %d permits, and had %d", l.Fence, l.Permits, was.Permits)
			case was.Fence != l.Fence && key == before.Retired && before.Ended != string(lock.CauseTaskGone) && !corrects(r.Cause):
				wrong("the lease with fencing token %d is granted, and is remembered as ended", l.Fence)
			}
		}
		if l, ends := before.Holders[after.Retired]; ends && after.Ended == string(lock.CauseRelease) && after.EndedAt >= l.Expires {
			wrong("the lease with fencing token %d is released at %d, and expired at %d", l.Fence, after.EndedAt, l.Expires)
		}
		if l, ends := before.Holders[after.Retired]; ends && after.Ended == string(lock.CauseExpire) && after.EndedAt < l.Expires+cfg.Skew.Milliseconds() {
			wrong("the lease with fencing token %d is ended at %d as expired, and expires at %d", l.Fence, after.EndedAt, l.Expires)
		}
		if frees(before, after) && before.Waiting-after.Waiting+joined(r.Cause) < lock.QueueHead && settles(r.Cause) && !after.SetFirst && !setLeaves(r.Cause, before, after) && (cfg.Queues || !inSet[r.Lock]) && !freezes.may(r.Lock, r.At-int64(cfg.Flight), r.At) {
			wrong("it frees permits, and grants them to none of %d waiters, of whom the first wants %d", after.Waiting, after.First) // it removes the abandoned among those that it reads
		}
		if sum > max(capacity, 1) && len(after.Holders) > 0 {
			wrong("%d permits of %d are held", sum, capacity)
		}
		top[r.Lock] = max(top[r.Lock], after.Fence)
		if corrects(r.Cause) {
			top[r.Lock] = after.Fence
		}
	}
	return found
}

// checkGrants checks that each grant that a client was told of is in a row.
func checkGrants(h *History) (found []Violation) {
	type grant struct {
		lock  string
		fence int64
	}
	stored := map[grant]bool{}
	for _, r := range h.Rows {
		for _, l := range orEmpty(r.After).Holders {
			stored[grant{r.Lock, l.Fence}] = true
		}
	}
	for _, o := range h.Ops {
		if o.Result == Granted && !stored[grant{o.Lock, o.Fence}] {
			found = append(found, Violation{"rows", o.Lock, o.Ended, fmt.Sprintf("%s was told of a grant with the fencing token %d, which is in no row", o.Client, o.Fence)})
		}
	}
	return found
}

// joined is how many waiters a write of a cause may add: an acquire that finds only abandoned waiters at the head of the queue removes them, and joins.
func joined(cause string) int64 {
	if cause == string(lock.CauseAcquire) || cause == string(lock.CauseRecheck) {
		return 1
	}
	return 0
}

// rowsOf are the rows of each lock.
func rowsOf(h *History) map[string][]Row {
	rows := map[string][]Row{}
	for _, r := range h.Rows {
		rows[r.Lock] = append(rows[r.Lock], r)
	}
	return rows
}

// checkRefusals checks that whenever an acquire was answered "held", the row had, at some time between its beginning and its end, waiters or
// holders beside which the request did not fit.
func checkRefusals(h *History, cfg Config) (found []Violation) {
	rows := rowsOf(h)
	for _, o := range h.Ops {
		if o.Op != Acquire || o.Result != Held || o.Set != "" || o.ruled() {
			continue
		}
		if !refusedBy(rows[o.Lock], o, cfg) {
			found = append(found, Violation{"refusals", o.Lock, o.Ended, fmt.Sprintf("acquire of %s by %s is answered \"held\", and the lock was free for it from %v to %v",
				o.Lease, o.Client, time.Duration(o.Began), time.Duration(o.Ended))})
		}
	}
	return found
}

// refusedBy reports whether a lock refused an acquire at some time between its beginning and its end. list are the lock's rows.
func refusedBy(list []Row, o Op, cfg Config) bool {
	return within(list, o, func(r Record) bool { return r.refuses(o, cfg) })
}

// within reports whether a condition held for what was stored of a lock at some time between the beginning and the end of an operation.
func within(list []Row, o Op, holds func(Record) bool) bool {
	from, _ := slices.BinarySearchFunc(list, o.Began, func(r Row, at int64) int { return compare(r.At, at) })
	if from == 0 && holds(Record{}) {
		return true
	}
	for i := max(from-1, 0); i < len(list) && list[i].At <= o.Ended; i++ { // the first is what was stored when it began
		if holds(orEmpty(list[i].After)) {
			return true
		}
	}
	return false
}

// refuses reports whether a coordinator may refuse an acquire because of a record. A lease blocks others until a skew allowance after its
// expiry by a clock that may be as much behind.
func (r Record) refuses(o Op, cfg Config) bool {
	held, limit := int64(0), o.capacity()
	for _, l := range r.Holders {
		if l.Expires+2*cfg.Skew.Milliseconds() >= cfg.Start+o.Began/int64(time.Millisecond) {
			held, limit = held+max(l.Permits, 1), min(limit, max(l.Capacity, 1))
		}
	}
	return r.Waiting > 0 || held+o.permits() > limit
}

// frees reports whether a write leaves fewer permits held than before, and enough of them free for the first waiter. What the first waiter wants is not known from all
// rows; then all permits must be free.
func frees(before, after Record) bool {
	had, _ := before.held()
	has, capacity := after.held()
	if after.Waiting == 0 || has >= had {
		return false
	}
	for key, l := range after.Holders {
		if l.Set != "" && before.Holders[key].Fence != l.Fence { // the write that grants a set leaves those behind it to the next write
			return false
		}
	}
	return has == 0 || after.First > 0 && has+after.First <= min(capacity, after.Of)
}

// setLeaves reports whether an acquire of a set removes its own place from the head of the queue, since its places in other queues are gone. It reads no
// more of the queue than that place, and leaves those behind it to the next write.
func setLeaves(cause string, before, after Record) bool {
	return cause == string(lock.CauseAcquire) && before.SetFirst && after.Waiting == before.Waiting-1
}

// held is how many permits are held, and of how many.
func (r Record) held() (sum, capacity int64) {
	for _, l := range r.Holders {
		sum += max(l.Permits, 1)
		if capacity == 0 || l.Capacity < capacity {
			capacity = l.Capacity
		}
	}
	return sum, capacity
}

// settles reports whether a write with this cause grants a lock that it frees to those who wait. A force-release may leave that to the next
// write, and what takes back the write of a wrong clock writes what was there.
func settles(cause string) bool { return cause != string(lock.CauseForceRelease) && !corrects(cause) }

// corrects reports whether a write with this cause takes back what a wrong clock wrote.
func corrects(cause string) bool {
	return cause == string(lock.CauseUndo) || cause == string(lock.CauseRepair)
}

func orEmpty(r *Record) Record {
	if r == nil {
		return Record{}
	}
	return *r
}
