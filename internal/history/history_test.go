package history

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

func TestFences(t *testing.T) {
	checkCases(t, []historyCase{
		{"tokens that grow in a semaphore", "", []Op{op(Acquire, "a", 1, 2, Granted, fence(1), of(1, 2)), op(Acquire, "b", 3, 4, Granted, fence(2), of(1, 2))}},
		{"a token that falls in a semaphore", "fences", []Op{op(Acquire, "a", 1, 2, Granted, fence(2), of(1, 2)), op(Acquire, "b", 3, 4, Granted, fence(1), of(1, 2))}},
		{"a waiter that claims its older grant later", "", []Op{
			op(Acquire, "x", 0.1, 0.2, Granted, fence(1), of(2, 2)), op(Acquire, "a", 1, 2, Held, ticket(1), of(1, 2)), op(Release, "x", 3, 4, OK),
			op(Acquire, "b", 5, 6, Granted, fence(3), of(1, 2)), op(Acquire, "a", 7, 8, Granted, fence(2), of(1, 2)),
		}},
		{"one token for two leases", "fences", []Op{op(Acquire, "a", 1, 4, Granted, fence(1), of(1, 2)), op(Acquire, "b", 2, 3, Granted, fence(1), of(1, 2))}},
	})
}

func TestQueue(t *testing.T) {
	x := op(Acquire, "x", 0.1, 0.2, Granted, fence(1))
	leave := op(Release, "x", 3, 4, OK)
	checkCases(t, []historyCase{
		{"in turn", "", []Op{
			x, op(Acquire, "a", 1, 1.1, Held, ticket(1)), op(Acquire, "b", 2, 2.1, Held, ticket(2)), leave,
			op(Acquire, "a", 5, 6, Granted, fence(2), waits()), op(Release, "a", 6.5, 6.6, OK), op(Acquire, "b", 7, 8, Granted, fence(3), waits()),
		}},
		{"the second before the first", "queue", []Op{
			x, op(Acquire, "a", 1, 1.1, Held, ticket(1)), op(Acquire, "b", 2, 2.1, Held, ticket(2)), leave,
			op(Acquire, "b", 5, 6, Granted, fence(2), waits()), op(Release, "b", 6.5, 6.6, OK), op(Acquire, "a", 7, 8, Granted, fence(3), waits()),
		}},
		{"the second while the first goes on waiting", "queue", []Op{
			x, op(Acquire, "a", 1, 1.1, Held, ticket(1)), op(Acquire, "b", 2, 2.1, Held, ticket(2)), leave,
			op(Acquire, "b", 5, 6, Granted, fence(2), waits()), op(Acquire, "a", 7, 8, Held, ticket(1)),
		}},
		{"a newcomer before a waiter", "queue", []Op{
			x, op(Acquire, "a", 1, 1.1, Held, ticket(1)), leave, op(Acquire, "b", 5, 6, Granted, fence(2)), op(Release, "b", 6.5, 6.6, OK),
			op(Acquire, "a", 7, 8, Granted, fence(3), waits()),
		}},
		{"a newcomer after a waiter that left", "", []Op{
			x, op(Acquire, "a", 1, 1.1, Held, ticket(1)), op(Release, "a", 2, 2.1, OK), leave, op(Acquire, "b", 5, 6, Granted, fence(2)),
		}},
		{"a waiter that lapsed", "", []Op{
			x, op(Acquire, "a", 1, 1.1, Held, ticket(1)), op(Acquire, "b", 2, 2.1, Held, ticket(2)), leave, op(Acquire, "b", 8, 9, Held, ticket(2)),
			op(Acquire, "b", 14, 15, Granted, fence(3), waits()), op(Release, "b", 16, 16.5, OK), op(Acquire, "a", 30, 31, Granted, fence(4), waits()),
		}},
	})
}

func TestBeliefs(t *testing.T) {
	held := func(client string, from, until, permits, capacity int64) Belief {
		return Belief{Client: client, Lock: "l", Lease: client, Fence: from, From: from, Until: until, Permits: permits, Capacity: capacity}
	}
	force := []Op{{Op: Force, Lock: "l", Began: 5, Ended: 6, Result: OK}}
	for _, c := range []struct {
		name    string
		refused bool
		list    []Belief
		ops     []Op
	}{
		{"one after the other", false, []Belief{held("a", 1, 5, 0, 0), held("b", 5, 9, 0, 0)}, nil},
		{"two at once", true, []Belief{held("a", 1, 6, 0, 0), held("b", 5, 9, 0, 0)}, nil},
		{"two of a semaphore", false, []Belief{held("a", 1, 6, 1, 2), held("b", 5, 9, 1, 2)}, nil},
		{"three permits of two", true, []Belief{held("a", 1, 6, 1, 2), held("b", 5, 9, 2, 2)}, nil},
		{"the smaller capacity counts", true, []Belief{held("a", 1, 6, 1, 1), held("b", 5, 9, 1, 2)}, nil},
		{"after a force-release", false, []Belief{held("a", 1, 8, 0, 0), held("b", 6, 9, 0, 0)}, force},
		{"of a grant that was forced out before its answer arrived", false, []Belief{held("a", 7, 9, 0, 0), held("b", 8, 9, 0, 0)}, append(force, Op{
			Op: Acquire, Lock: "l", Lease: "a", Fence: 7, Began: 4, Ended: 7, Result: Granted,
		})},
		{"before a force-release", true, []Belief{held("a", 1, 8, 0, 0), held("b", 4, 9, 0, 0)}, force},
	} {
		found := checkBeliefs(c.list, map[string][]Op{"l": c.ops}, exact())
		if (len(found) > 0) != c.refused {
			t.Errorf("%s: %v", c.name, found)
		}
	}
}

func TestGuarded(t *testing.T) {
	write := func(fence, at int64, ok bool) Guarded { return Guarded{Lock: "l", Fence: fence, At: at, OK: ok} }
	for _, c := range []struct {
		refused bool
		list    []Guarded
	}{
		{false, []Guarded{write(1, 1, true), write(1, 2, true), write(2, 3, true), write(1, 4, false)}},
		{true, []Guarded{write(2, 1, true), write(1, 2, true)}},
		{true, []Guarded{write(1, 1, true), write(2, 2, false)}},
	} {
		if found := checkGuarded(c.list); (len(found) > 0) != c.refused {
			t.Errorf("%v: %v", c.list, found)
		}
	}
}

// rows are the writes of a lock that is granted to a, renewed, released, and granted to b, whose row is purged in the end.
func rows() []Row {
	lease := func(fence, expires int64) Lease {
		return Lease{Fence: fence, Permits: 1, Capacity: 1, Expires: expires}
	}
	a := &Record{Rev: 1, Fence: 1, Holders: map[string]Lease{"a": lease(1, 10)}}
	later := lease(1, 20)
	later.Renewed = 9
	renewed := &Record{Rev: 2, Fence: 1, Holders: map[string]Lease{"a": later}}
	over := &Record{Rev: 3, Fence: 1, Retired: "a", Ended: "release", EndedAt: 19}
	b := &Record{Rev: 4, Fence: 2, Retired: "a", Ended: "release", Holders: map[string]Lease{"b": lease(2, 30)}}
	return []Row{
		{Lock: "l", Cause: "acquire", After: a}, {Lock: "l", Cause: "renew", Before: a, After: renewed},
		{Lock: "l", Cause: "release", Before: renewed, After: over}, {Lock: "l", Cause: "acquire", Before: over, After: b}, {Lock: "l", Before: b},
	}
}

func TestRows(t *testing.T) {
	cfg := exact()
	cfg.Recorded = true
	if found := checkRows(&History{Rows: rows()}, freezes{cfg: cfg}, cfg); len(found) > 0 {
		t.Errorf("refused: %v", found)
	}
	for name, change := range map[string]func([]Row) []Row{
		"a row is left out":     func(r []Row) []Row { return slices.Delete(r, 2, 3) },
		"the first is left out": func(r []Row) []Row { return r[1:] },
		"a row is there twice":  func(r []Row) []Row { return slices.Insert(r, 2, r[1]) },
		"a holder from nowhere": func(r []Row) []Row { r[3].Before = r[1].Before; return r },
		"a revision is missing": func(r []Row) []Row { r[2].After.Rev = 5; return r },
		"the expiry moved back": func(r []Row) []Row {
			r[1].After.Holders["a"] = Lease{Fence: 1, Permits: 1, Capacity: 1, Expires: 5}
			return r
		},
		"a fence that falls": func(r []Row) []Row {
			r[3].After.Holders["b"] = Lease{Fence: 1, Permits: 1, Capacity: 1, Expires: 30}
			return r
		},
		"too many permits": func(r []Row) []Row {
			r[3].After.Holders["c"] = Lease{Fence: 3, Permits: 1, Capacity: 1, Expires: 30}
			return r
		},
		"a renewal at the expiry": func(r []Row) []Row {
			r[1].After.Holders["a"] = Lease{Fence: 1, Permits: 1, Capacity: 1, Renewed: 10, Expires: 20}
			return r
		},
		"a waiter is left out":    func(r []Row) []Row { r[2].Before.Waiting, r[2].After.Waiting = 2, 2; return r },
		"a release at the expiry": func(r []Row) []Row { r[2].After.EndedAt = 20; return r },
		"an expiry before its time": func(r []Row) []Row {
			r[2].Cause, r[2].After.Ended, r[2].After.EndedAt = "expire", "expire", 269
			return r
		},
		"a lease that has ended": func(r []Row) []Row { r[3].After.Holders = map[string]Lease{"a": r[3].After.Holders["b"]}; return r },
	} {
		if found := checkRows(&History{Rows: change(rows())}, freezes{cfg: cfg}, cfg); len(found) == 0 {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A set that removes its place at the head of a queue, as what is left of its places, grants the lock to nobody behind it in the same write. Every other write does.
func TestSetLeavesTheHeadOfAQueue(t *testing.T) {
	cfg := exact()
	cfg.Queues = true
	row := func(cause string, setFirst bool) []Row {
		return []Row{{
			Lock: "l", Cause: cause,
			Before: &Record{Rev: 1, Fence: 1, Capacity: 1, Waiting: 2, SetFirst: setFirst, Holders: map[string]Lease{"a": {Fence: 1, Permits: 1, Capacity: 1, Expires: 10}}},
			After:  &Record{Rev: 2, Fence: 1, Capacity: 1, Waiting: 1},
		}}
	}
	for _, c := range []struct {
		cause    string
		setFirst bool
		found    int
	}{{"acquire", true, 0}, {"acquire", false, 1}, {"queue", true, 1}} {
		if found := checkRows(&History{Rows: row(c.cause, c.setFirst)}, freezes{cfg: cfg}, cfg); len(found) != c.found {
			t.Errorf("%+v: %v", c, found)
		}
	}
}

// A grant that a client was told of is in the rows.
func TestGrantsAreInRows(t *testing.T) {
	h := &History{Rows: rows(), Ops: []Op{op(Acquire, "a", 1, 2, Granted, fence(1)), op(Renew, "b", 3, 4, Granted, fence(2))}}
	if found := checkGrants(h); len(found) > 0 {
		t.Errorf("refused: %v", found)
	}
	h.Ops[1].Fence = 3
	if found := checkGrants(h); len(found) != 1 {
		t.Errorf("a grant that is in no row: %v", found)
	}
	if report := Check(&History{Ops: h.Ops[:1]}, Config{Skew: exact().Skew, Recorded: true}); len(report.Violations) == 0 {
		t.Error("no rows at all: accepted")
	}
}

// A refusal is explained by the row, at some time between the beginning and the end of the request.
func TestRefusals(t *testing.T) {
	cfg := exact()
	cfg.Start = 1
	held := func(permits int64, expires int64) *Record {
		return &Record{Holders: map[string]Lease{"h": {Permits: permits, Capacity: 3, Expires: expires}}}
	}
	second := func(n float64) int64 { return int64(n * float64(second)) }
	h := &History{Rows: []Row{
		{Lock: "l", At: second(2), After: held(2, 9000)}, {Lock: "l", At: second(5), After: &Record{}}, {Lock: "l", At: second(20), After: held(2, 21000)},
		{Lock: "l", At: second(30), After: &Record{Waiting: 1}}, {Lock: "l", At: second(31)},
	}}
	for name, c := range map[string]struct {
		refused bool
		op      Op
	}{
		"held":                            {false, op(Acquire, "a", 3, 4, Held, of(2, 3))},
		"freed while it was under way":    {false, op(Acquire, "a", 4, 6, Held, of(2, 3))},
		"held while it was under way":     {false, op(Acquire, "a", 19, 20.5, Held, of(2, 3))},
		"others wait":                     {false, op(Acquire, "a", 30.1, 30.5, Held, of(1, 3))},
		"just expired":                    {false, op(Acquire, "a", 21.4, 21.45, Held, of(2, 3))},
		"before all rows":                 {true, op(Acquire, "a", 1, 1.5, Held, of(2, 3))},
		"it fits beside the holder":       {true, op(Acquire, "a", 3, 4, Held, of(1, 3))},
		"free":                            {true, op(Acquire, "a", 6, 7, Held, of(2, 3))},
		"free since long":                 {true, op(Acquire, "a", 18, 19, Held, of(2, 3))},
		"the holder has expired for long": {true, op(Acquire, "a", 21.6, 22, Held, of(2, 3))},
		"purged":                          {true, op(Acquire, "a", 32, 33, Held, of(2, 3))},
	} {
		h.Ops = []Op{c.op}
		if found := checkRefusals(h, cfg); (len(found) > 0) != c.refused {
			t.Errorf("%s: %v", name, found)
		}
	}
}

func TestEvents(t *testing.T) {
	all := []Event{
		{"l", "acquired", 1, "a1"}, {"l", "released", 1, "r1"}, {"l", "released", 1, "r1"}, {"l", "acquired", 2, "a2"}, {"l", "expired", 2, "e2"},
	}
	for name, c := range map[string]struct {
		refused bool
		events  []Event
	}{
		"all":           {false, all},
		"one is lost":   {true, all[:4]},
		"one invented":  {true, append([]Event{{"l", "released", 2, "r2"}}, all...)},
		"another id":    {true, append([]Event{{"l", "released", 1, "r9"}}, all...)},
		"an id of two":  {true, append([]Event{{"l", "expired", 2, "a1"}}, all...)},
		"another cause": {true, append([]Event{{"l", "expired", 1, "e1"}}, all...)},
	} {
		found := checkEvents(&History{Rows: rows(), Events: c.events}, Config{Stable: true})
		if (len(found) > 0) != c.refused {
			t.Errorf("%s: %v", name, found)
		}
	}
	late := []Event{all[0], all[3], all[1], all[1], all[4]}
	if found := checkEvents(&History{Rows: rows(), Events: late}, Config{Stable: true}); len(found) > 0 {
		t.Errorf("an order is asked for where none is promised: %v", found)
	}
	if found := checkEvents(&History{Rows: rows(), Events: late}, Config{Stable: true, Ordered: true}); len(found) != 1 {
		t.Errorf("events in another order than the writes: %v", found)
	}
	quiet := rows()
	for i := range quiet {
		quiet[i].Quiet = true
	}
	if found := checkEvents(&History{Rows: quiet}, Config{Stable: true}); len(found) > 0 {
		t.Errorf("events of a lock whose events are not published: %v", found)
	}
	if found := checkEvents(&History{Rows: rows(), Events: all[:4]}, Config{}); len(found) > 0 {
		t.Errorf("an event that is still to come is not lost: %v", found)
	}
	twice := append(rows(), rows()[0])
	if found := checkEvents(&History{Rows: twice, Events: all}, Config{Stable: true}); len(found) == 0 {
		t.Error("two grants with one fencing token have one event: accepted")
	}
}

func TestRowOf(t *testing.T) {
	after := lock.Record{
		Rev: 3, Fence: 7, Capacity: 2, Waiting: 1, Cause: lock.CauseAcquire, Retired: lock.Retired{Key: "x", Cause: lock.CauseRelease},
		Holders: map[lock.LeaseKey]lock.Lease{"k": {Terms: lock.Terms{Permits: 1, Capacity: 2}, Fence: 7, ExpiresAt: 99}},
	}
	got := RowOf(lock.Write{Lock: "l", After: after}, 5)
	want := Row{Lock: "l", Cause: "acquire", At: 5, After: &Record{
		Rev: 3, Fence: 7, Capacity: 2, Waiting: 1, Retired: "x", Ended: "release", Holders: map[string]Lease{"k": {Fence: 7, Permits: 1, Capacity: 2, Expires: 99}},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestFile(t *testing.T) {
	h := &History{
		Ops: []Op{op(Acquire, "a", 1, 2, Granted, fence(1))}, Beliefs: []Belief{{Client: "c", Lock: "l", Lease: "a", Fence: 1, From: 1, Until: 2}},
		Guarded: []Guarded{{Client: "c", Lock: "l", Fence: 1, At: 3, OK: true}}, Events: []Event{{"l", "acquired", 1, "id"}}, Rows: rows(),
	}
	var file bytes.Buffer
	if err := h.WriteTo(NewWriter(&file)); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(file.String(), `{"t":"op","client":"a","op":"acquire","lock":"l","lease":"a","began":1000000000`) {
		t.Errorf("the file begins with %.200q", file.String())
	}
	var back History
	if err := back.Read(&file); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(&back, h) || back.Entries() != 4+len(h.Rows) {
		t.Errorf("read %+v, want %+v", back, h)
	}
	for _, text := range []string{"{\"t\":\"op\"}\nnonsense", `{"t":"other"}`, `{"t":"op","began":"soon"}`} {
		if err := new(History).Read(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), "line") {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := NewWriter(&file).Write(1); err == nil {
		t.Error("1 is no entry")
	}
}
