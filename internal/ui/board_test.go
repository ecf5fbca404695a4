package ui

import (
	"fmt"
	"testing"
	"time"
)

// apply applies a message to the names that a tab knows, and returns the number of changes.
func apply(known map[string]string, m message) int {
	if m.Reset {
		clear(known)
	}
	for _, raw := range m.Locks {
		known[string(raw)] = string(raw)
	}
	for _, name := range m.Gone {
		known[name] = "gone"
	}
	return len(m.Locks) + len(m.Gone)
}

// The answer to a later request counts, whichever arrives first, and so does a removal that a later request found.
func TestLaterRequestsCount(t *testing.T) {
	b := newBoard()
	start := time.Now()
	at := func(n int) time.Time { return start.Add(time.Duration(n) * time.Second) }
	b.put(held("a", "new"), at(5))
	b.put(held("a", "old"), at(3)) // of a list that began before
	if got := string(b.rows["a"].text); got != string(encodeLine(held("a", "new"))) {
		t.Errorf("an older answer won: %s", got)
	}
	b.listed(map[string]bool{}, at(4), state{})
	if b.rows["a"].text == nil {
		t.Error("a list removed a lock that was read after the list began")
	}
	b.listed(map[string]bool{}, at(6), state{Truncated: 1})
	if b.rows["a"].text == nil {
		t.Error("a list that was cut removed a lock that it did not reach")
	}
	b.listed(map[string]bool{}, at(6), state{})
	if b.rows["a"].text != nil {
		t.Error("a list that does not name a lock did not remove it")
	}
	b.put(held("a", "old"), at(5))
	if b.rows["a"].text != nil {
		t.Error("an older answer brought a lock back")
	}
}

// A tab that reads rarely gets the last state of each lock once; one that has read everything gets nothing; what all tabs know to be gone is
// forgotten.
func TestSlowTabs(t *testing.T) {
	b := newBoard()
	start := time.Now()
	quick, slow := b.join(false), b.join(false)
	for _, r := range []*reader{quick, slow} {
		if m, _ := b.next(r); !m.Reset || m.Locks == nil || m.Gone == nil {
			t.Errorf("the first message is %+v", m)
		}
	}
	known := map[string]string{}
	for i := range 10 {
		b.put(held("a", fmt.Sprint("owner-", i)), start)
		m, _ := b.next(quick)
		if apply(known, m) != 1 || m.Reset {
			t.Errorf("change %d sent %+v", i, m)
		}
	}
	b.put(held("a", "owner-9"), start.Add(time.Second)) // the same again
	if m, _ := b.next(quick); apply(known, m) != 0 {
		t.Errorf("no change sent %+v", m)
	}
	if m, _ := b.next(slow); apply(known, m) != 1 {
		t.Errorf("the slow tab got %+v", m)
	}
	gone := start.Add(2 * time.Second)
	b.listed(map[string]bool{}, gone, state{})
	m, _ := b.next(quick)
	if len(m.Gone) != 1 {
		t.Errorf("the quick tab got %+v", m)
	}
	b.listed(map[string]bool{}, gone.Add(time.Second), state{})
	if len(b.rows) != 1 {
		t.Error("a removal was forgotten that the slow tab does not know")
	}
	if m, _ := b.next(slow); len(m.Gone) != 1 {
		t.Errorf("the slow tab got %+v", m)
	}
	b.listed(map[string]bool{}, gone.Add(2*time.Second), state{})
	if len(b.rows) != 0 {
		t.Error("a removal that all tabs know was kept")
	}
	late := b.join(false)
	if m, _ := b.next(late); !m.Reset || apply(known, m) != 0 {
		t.Errorf("a new tab got %+v", m)
	}
}

// A line has the first holders and the number of all.
func TestLines(t *testing.T) {
	s := held("a", "first")
	for range 5 {
		s.Holders = append(s.Holders, s.Holders[0])
	}
	want := `{"name":"a","capacity":1,"free":0,"waiting":0,"holders":[` +
		`{"owner":"first","fence":7,"since":1000,"from":-62135596800000,"until":61000},{"owner":"first","fence":7,"since":1000,"from":-62135596800000,"until":61000},` +
		`{"owner":"first","fence":7,"since":1000,"from":-62135596800000,"until":61000}],"count":6}`
	if got := string(encodeLine(s)); got != want {
		t.Errorf("%s", got)
	}
}
