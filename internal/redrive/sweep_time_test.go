package redrive

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// unsettled makes locks that are free and have a waiter, as if a hand-off had been lost.
func unsettled(k *kit, n int) {
	k.t.Helper()
	for i := range n {
		name := fmt.Sprint("u", i)
		k.acquire(name, "holder")
		k.acquire(name, "w", waits)
		k.change(name, "lock", "SET holders = :h, free_at = :z", map[string]types.AttributeValue{":h": &types.AttributeValueMemberM{Value: map[string]types.AttributeValue{}}, ":z": &types.AttributeValueMemberN{Value: "0"}})
	}
	k.ahead += 15 * time.Minute
}

// An ending context is one whose time is nearly over after a number of the kit's requests: first work of the first kind must not begin, later none.
type ending struct {
	context.Context
	k           *kit
	first, last int
}

func (e ending) Deadline() (time.Time, bool) {
	switch {
	case e.k.requests >= e.last:
		return time.Now(), true
	case e.k.requests >= e.first:
		return time.Now().Add((margin + secondMargin) / 2), true
	}
	return time.Time{}, false
}

// A sweep looks at all queues that could move before it waits, so that it waits once for all of them.
func TestSweepWaitsOnce(t *testing.T) {
	k := newKit(t)
	unsettled(k, 12)
	if a := k.do(Request{Work: WorkSweep}); len(a.Outcomes) != 12 || k.pauses != 1 {
		t.Errorf("%d outcomes after %d pauses:\n%s", len(a.Outcomes), k.pauses, short(a))
	}
	k.pause = func(context.Context, time.Duration) error { // one queue is written between the two looks, and could still move
		k.change("u0", "lock", "SET rev = rev + :one", map[string]types.AttributeValue{":one": &types.AttributeValueMemberN{Value: "1"}})
		return nil
	}
	if a := k.do(Request{Work: WorkSweep}); len(a.Outcomes) != 11 || strings.Contains(short(a)+" ", "u0 ") {
		t.Errorf("%d outcomes, although a queue has moved:\n%s", len(a.Outcomes), short(a))
	}
}

// Wherever in a scan the time of the function ends, a sweep answers what it has found and where to go on. The answers together show each finding
// once, and with Apply everything is done.
func TestSweepEndsInTime(t *testing.T) {
	const n = 12
	k := newKit(t)
	unsettled(k, n)
	k.acquire("lasting", "a")
	k.change("lasting", "lock", "REMOVE ttl", nil)
	for _, apply := range []bool{false, true} {
		// A dry run takes a scan, one for each look at the queue of a lock, which are two requests each.
		for _, end := range []struct{ first, last int }{{1, 1}, {2, 100}, {3, 4}, {5, 20}, {20, 21}, {21, 30}, {100, 30}, {35, 36}, {100, 100}} {
			if apply && end.first != 5 {
				continue
			}
			req := Request{Work: WorkSweep, Apply: apply}
			found, locks, answers := map[string]int{}, 0, 0
			for answers == 0 || req.Cursor != "" && answers < 100 {
				ctx := ending{t.Context(), k, k.requests + end.first, k.requests + end.last}
				a, err := k.Do(ctx, req)
				if err != nil {
					t.Fatal(err)
				}
				if req.Cursor == a.Cursor && a.Cursor != "" {
					t.Fatalf("%+v: no progress after %d answers", end, answers)
				}
				for _, o := range a.Outcomes {
					found[o.Lock+" "+string(o.State)]++
				}
				locks, answers, req.Cursor = locks+a.Locks, answers+1, a.Cursor
			}
			state := Due
			if apply {
				state = Done
			}
			for i := range n {
				if got := found[fmt.Sprintf("u%d %s", i, state)]; got != 1 {
					t.Errorf("%+v, apply %t: u%d was shown %d times", end, apply, i, got)
				}
			}
			if len(found) != n+1 || found["lasting "+string(state)] != 1 || locks != n+1 || (answers == 1) != (end.first == 100 && end.last == 100) {
				t.Errorf("%+v, apply %t: %v in %d answers with %d locks", end, apply, found, answers, locks)
			}
		}
	}
	if a := k.do(Request{Work: WorkSweep}); len(a.Outcomes) != 0 {
		t.Errorf("left:\n%s", short(a))
	}
}

// If the time ends between the two looks at a queue, the answer goes back to it, and still tells what was done on locks behind it.
func TestSweepTellsWhatItDidBehindItsCursor(t *testing.T) {
	k := newKit(t)
	unsettled(k, 4)
	for i := range 8 {
		name := fmt.Sprint("lasting", i)
		k.acquire(name, "a")
		k.change(name, "lock", "REMOVE ttl", nil)
	}
	ctx := &ending{t.Context(), k, 1 << 30, 1 << 30}
	k.pause = func(context.Context, time.Duration) error {
		ctx.last = k.requests // only the first queue is looked at again
		return nil
	}
	a, err := k.Do(ctx, Request{Work: WorkSweep, Apply: true})
	if err != nil || a.Cursor == "" || strings.Count(short(a), "unsettled done") != 1 {
		t.Errorf("%v, cursor %q:\n%s", err, a.Cursor, short(a))
	}
	k.pause = func(context.Context, time.Duration) error { return nil }
	all := short(a) + "\n" + short(k.do(Request{Work: WorkSweep, Apply: true, Cursor: a.Cursor}))
	if strings.Count(all, "no-ttl done") != 8 || strings.Count(all, "unsettled done") != 4 {
		t.Errorf("both answers:\n%s", all)
	}
}

// A lock that cannot be read loses nothing that was found before it; a request that begins with it fails, and names it.
func TestSweepMeetsAnError(t *testing.T) {
	k := newKit(t)
	unsettled(k, 6)
	whole := short(k.do(Request{Work: WorkSweep}))
	down := errors.New("this lock's partition is down")
	reads := 0
	k.fails = func(request string) error {
		if strings.Contains(request, "GetItem") && strings.Contains(request, `"u3"`) {
			reads++
			return down
		}
		return nil
	}
	found, req := "", Request{Work: WorkSweep}
	var failed error
	for answers := 0; answers == 0 || req.Cursor != "" && failed == nil; answers++ {
		var a Answer
		if a, failed = k.Do(t.Context(), req); failed == nil {
			found, req.Cursor = found+short(a), a.Cursor
		}
	}
	if failed == nil || !strings.Contains(failed.Error(), "u3") || !errors.Is(failed, lock.ErrUnavailable) || reads < 1 {
		t.Errorf("the sweep ended with %v after %d reads", failed, reads)
	}
	if before, _, _ := strings.Cut(whole, "u3 "); found != strings.TrimSpace(before) {
		t.Errorf("shown before the error:\n%s\nof\n%s", found, whole)
	}
	k.fails = nil
	for answers := 0; answers == 0 || req.Cursor != ""; answers++ {
		a := k.do(req)
		found, req.Cursor = found+"\n"+short(a), a.Cursor
	}
	for i := range 6 {
		if n := strings.Count(found, fmt.Sprintf("u%d unsettled due", i)); n != 1 {
			t.Errorf("u%d was shown %d times:\n%s", i, n, found)
		}
	}
}
