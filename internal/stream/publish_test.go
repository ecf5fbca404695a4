package stream

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// offers are events of so many bytes each, of locks of their own.
func offersOf(sizes ...int) (list []*offer) {
	for i, size := range sizes {
		e := Entry{DetailType: "d", Lock: fmt.Sprint("l", i)}
		e.Detail = bytes.Repeat([]byte("x"), size-e.size())
		list = append(list, &offer{write: i, entry: e})
	}
	return list
}

// A request has 256 KiB at most, exactly, and one event at least.
func TestBytesOfARequest(t *testing.T) {
	for _, test := range []struct {
		sizes []int
		want  int // of the first request
	}{
		{[]int{MaxBytes - 100, 100}, 2}, {[]int{MaxBytes - 100, 101}, 1}, {[]int{MaxBytes}, 1}, {[]int{MaxBytes + 1}, 1}, {[]int{MaxBytes + 1, 100}, 1},
		{[]int{MaxBytes / 2, MaxBytes / 2, 100}, 2}, {slices.Repeat([]int{100}, 11), 10}, {[]int{MaxBytes, 100}, 1},
		{[]int{100, MaxBytes, 100}, 2}, // the one that does not fit waits; a later one goes on
	} {
		request, rest := nextRequest(offersOf(test.sizes...), map[string]bool{})
		if len(request) != test.want || len(request)+len(rest) != len(test.sizes) {
			t.Errorf("%v: %d in the request, %d left", test.sizes, len(request), len(rest))
		}
	}
	list := offersOf(100, MaxBytes, 100, 100)
	list[3].entry.Lock = "l1" // of the lock whose earlier event waits
	if request, _ := nextRequest(list, map[string]bool{"l0": true}); len(request) != 1 || request[0] != list[1] {
		t.Errorf("a stuck lock first: %d in the request", len(request))
	}
	if request, _ := nextRequest(list, map[string]bool{"l2": true}); len(request) != 1 || request[0] != list[0] {
		t.Errorf("an overtaken lock: %d in the request", len(request))
	}
	if e := (Entry{DetailType: "Lock Acquired", Detail: []byte("ä{}")}); e.size() != len("holdfast")+len("Lock Acquired")+4+14 {
		t.Errorf("size %d", e.size())
	}
}

// An event that fits keeps its metadata, and one that is a byte too large goes without.
func TestLargestEvent(t *testing.T) {
	withMetadata := func(n int) Entry {
		w := grant(1, "a", 1)
		h := w.After.Holders[leaseKey(1)]
		h.Metadata = `{"a":"` + strings.Repeat("m", n) + `"}`
		w.After.Holders[leaseKey(1)] = h
		return entry(eventsOf(w)[0])
	}
	room := MaxBytes - withMetadata(0).size()
	if e := withMetadata(room); e.size() != MaxBytes || !bytes.Contains(e.Detail, []byte("mmm")) {
		t.Errorf("size %d", e.size())
	}
	if e := withMetadata(room + 1); e.size() > 1000 || !bytes.Contains(e.Detail, []byte(`"metadata_omitted":true`)) {
		t.Errorf("size %d", e.size())
	}
	for _, e := range []events.Event{
		events.Acquired{Lease: events.Lease{Metadata: []byte(`{}`)}}, events.Released{Lease: events.Lease{Metadata: []byte(`{}`)}},
		events.Expired{Lease: events.Lease{Metadata: []byte(`{}`)}}, events.ForceReleased{Lease: events.Lease{Metadata: []byte(`{}`)}},
	} {
		if l := withoutMetadata(e).Subject(); l.Metadata != nil || !l.MetadataOmitted {
			t.Errorf("%T keeps its metadata", e)
		}
	}
}

// The time of an event is its lease's grant, or its end; what is merged comes in the order of its writes.
func TestTimesOfEvents(t *testing.T) {
	for _, test := range []struct {
		w    Write
		want int64
	}{
		{grant(1, "a", 1), 1000}, {end(1, "a", 1), 3000},
		{Write{Write: lock.Write{Before: record(lock.CauseAcquire, 1), After: retired(record(lock.CauseExpire), 1)}}, 5000},
		{Write{Write: lock.Write{Before: record(lock.CauseAcquire, 1), After: retired(record(lock.CauseForceRelease), 1)}}, 3000},
	} {
		if got := entry(eventsOf(test.w)[0]).Time.UnixMilli(); got != test.want {
			t.Errorf("%s: %d, want %d", eventsOf(test.w)[0].DetailType(), got, test.want)
		}
	}
}
