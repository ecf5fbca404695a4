package stream

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/lock"
)

// offersOf are events with the given sizes in bytes, each of its own lock.
func offersOf(sizes ...int) (list []*offer) {
	for i, size := range sizes {
		e := Entry{DetailType: "d", Lock: fmt.Sprint("l", i)}
		e.Detail = bytes.Repeat([]byte("x"), size-e.size())
		list = append(list, &offer{write: i, entry: e})
	}
	return list
}

// A request has at most 256 KiB, exactly, and at least one event.
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

// An event that fits keeps its metadata; one that is a byte too large is sent without.
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

// The time of an event is that of the grant, or of the end. Merged lists are in the order of their writes.
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

func TestBatchesOfTenAndOrderWithinALock(t *testing.T) {
	r := newRig()
	var batch []Write
	for i := range 25 {
		batch = append(batch, grant(i, fmt.Sprint("l", i), 1))
	}
	batch = append(batch, end(25, "l0", 1), grant(26, "l0", 2))
	if failed := r.Consume(t.Context(), batch); failed != nil {
		t.Fatalf("failed %v", failed)
	}
	var sizes []int
	for _, p := range r.bus.puts {
		sizes = append(sizes, len(p))
		locks := map[string]bool{}
		for _, e := range p {
			if locks[e.Lock] {
				t.Errorf("a request has two events of %s", e.Lock)
			}
			locks[e.Lock] = true
		}
	}
	if !slices.Equal(sizes, []int{10, 10, 6, 1}) {
		t.Errorf("requests of %v", sizes)
	}
	var ofL0 []string
	for _, id := range r.bus.taken {
		if strings.HasPrefix(id, "l0/") {
			ofL0 = append(ofL0, id)
		}
	}
	if !slices.Equal(ofL0, []string{"l0/1/acquired", "l0/1/released", "l0/2/acquired"}) {
		t.Errorf("l0: %v", ofL0)
	}
}

// Only refused events are sent again; an event that stays refused fails its write, and the later events of its lock without a request.
func TestRefusedEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		batch := []Write{grant(1, "a", 1), grant(2, "b", 1), grant(3, "c", 1), end(4, "b", 1), end(5, "c", 1)}
		r.bus.refuse = func(put int, e Entry) error {
			if e.Lock == "b" || e.Lock == "a" && put == 1 {
				return errors.New("ThrottlingException")
			}
			return nil
		}
		if failed := r.Consume(t.Context(), batch); !slices.Equal(failed, []string{"2", "4"}) {
			t.Errorf("failed %v", failed)
		}
		if !slices.Equal(r.bus.taken, []string{"c/1/acquired", "a/1/acquired", "c/1/released"}) {
			t.Errorf("taken %v", r.bus.taken)
		}
		sent := map[string]int{}
		for _, p := range r.bus.puts {
			for _, e := range p {
				sent[e.Lock+" "+e.DetailType]++
			}
		}
		if sent["b "+events.TypeAcquired] != maxPuts || sent["b "+events.TypeReleased] != 0 || sent["a "+events.TypeAcquired] != 2 || sent["c "+events.TypeAcquired] != 1 {
			t.Errorf("sent %v", sent)
		}
	})
}

// An event that is too large is sent without its metadata, and says so.
func TestTooLargeIsShrunk(t *testing.T) {
	r := newRig()
	w := end(1, "a", 1)
	h := w.Before.Holders[leaseKey(1)]
	h.Metadata = `{"a":"` + strings.Repeat("m", MaxBytes) + `"}`
	w.Before.Holders[leaseKey(1)] = h
	if failed := r.Consume(t.Context(), []Write{w}); failed != nil {
		t.Fatal(failed)
	}
	e, err := events.Decode(r.bus.puts[0][0].DetailType, r.bus.puts[0][0].Detail)
	if err != nil || !e.Subject().MetadataOmitted || e.Subject().Metadata != nil || e.(events.Released).HeldMS != 2000 {
		t.Errorf("%+v, %v", e, err)
	}
}

// Requests keep the bus's limit of bytes.
func TestRequestsKeepToTheSize(t *testing.T) {
	r := newRig()
	var batch []Write
	for i := range 4 {
		w := grant(i, fmt.Sprint("l", i), 1)
		h := w.After.Holders[leaseKey(1)]
		h.Metadata = `{"a":"` + strings.Repeat("m", 100*1024) + `"}`
		w.After.Holders[leaseKey(1)] = h
		batch = append(batch, w)
	}
	if failed := r.Consume(t.Context(), batch); failed != nil || len(r.bus.puts) != 2 {
		t.Errorf("failed %v, %d requests", failed, len(r.bus.puts))
	}
}

// The delay between an expiry and its event is a metric.
func TestExpiryLag(t *testing.T) {
	var log bytes.Buffer
	r := newRig()
	r.Log, r.Metrics = slog.New(slog.NewJSONHandler(&log, nil)), "Holdfast/test"
	r.Clock = func() time.Time { return time.UnixMilli(5700) } // the record's lease ran out at 5000
	r.Consume(t.Context(), []Write{
		grant(1, "deploy:x", 1),
		{Write: lock.Write{Lock: "deploy:x", Before: record(lock.CauseAcquire, 1), After: retired(record(lock.CauseExpire), 1)}, Sequence: "2"},
	})
	if lines := strings.Count(log.String(), "\n"); lines != 1 || !strings.Contains(log.String(), `"expiry_lag_ms":700,"group":"deploy","_aws":{`) {
		t.Errorf("log %s", &log)
	}
}

// The wait that a grant ended is a metric, whether events of the lock are published or not; a grant without a wait is none.
func TestWaitsAreMeasured(t *testing.T) {
	for _, listened := range []bool{true, false} {
		var log bytes.Buffer
		r := newRig()
		r.Log, r.Metrics = slog.New(slog.NewJSONHandler(&log, nil)), "Holdfast/test"
		r.Listens = func(string) bool { return listened }
		waited := grant(1, "deploy:x", 1)
		h := waited.After.Holders[leaseKey(1)]
		h.Joined = h.AcquiredAt - 640
		waited.After.Holders[leaseKey(1)] = h
		r.Consume(t.Context(), []Write{waited, grant(2, "deploy:y", 2)})
		if lines := strings.Count(log.String(), "\n"); lines != 1 || !strings.Contains(log.String(), `"waited_ms":640,"group":"deploy","_aws":{`) {
			t.Errorf("listened %v: log %s", listened, &log)
		}
	}
}

// With a backlog, a bus that does not answer for two hours blocks nothing: every batch takes the time of one request at most, callbacks
// are sent, and all events are published when the bus is back.
func TestBusThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTasks(t)
		bus, backlog := &away{hangs: true}, &fakeBacklog{}
		w.consumer.Bus, w.consumer.Backlog, w.consumer.Clock = bus, backlog, time.Now
		w.now = time.Now()
		consume := func() {
			t.Helper()
			batch, start := w.writes, time.Now()
			w.writes = nil
			if failed := w.consumer.Consume(t.Context(), batch); failed != nil {
				t.Fatalf("failed %v", failed)
			}
			if took := time.Since(start); took > putTimeout {
				t.Errorf("the batch took %v", took)
			}
		}
		var told []string
		for hour := range 2 {
			for n := range 30 {
				name := fmt.Sprintf("task-%d-%d", hour, n)
				w.now = time.Now()
				w.waits(name)
				consume()
				told = append(told, name+"'s token ok")
				w.want(name, told...)
				w.release(name)
				consume()
				time.Sleep(2 * time.Minute)
			}
		}
		bus.back = true
		time.Sleep(busPause)
		for i, err := range w.consumer.Do(t.Context(), backlog.take()) {
			if err != nil {
				t.Errorf("job %d: %v", i, err)
			}
		}
		counts := map[string]int{}
		for _, e := range bus.taken {
			counts[e]++
		}
		if counts["a Lock Acquired"] != 60 || counts["a Lock Released"] != 60 || len(backlog.jobs) != 0 {
			t.Errorf("taken %v, left %v", counts, backlog.kinds())
		}
	})
}

// With a backlog, a bus that takes no event gets one request in each busPause.
func TestBusIsNotTriedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		bus, backlog := &away{}, &fakeBacklog{}
		r.Bus, r.Backlog = bus, backlog
		log := logged(&r.Consumer)
		consume := func(seq int) {
			t.Helper()
			if failed := r.Consume(t.Context(), []Write{grant(seq, fmt.Sprint("l", seq), 1)}); failed != nil {
				t.Errorf("failed %v", failed)
			}
		}
		consume(1)
		if bus.puts != maxPuts || counted(log, EventPutOff) != 1 {
			t.Errorf("%d requests, counted %d", bus.puts, counted(log, EventPutOff))
		}
		time.Sleep(busPause - time.Millisecond)
		consume(2)
		if bus.puts != maxPuts || len(backlog.jobs) != 2 || counted(log, EventPutOff) != 2 {
			t.Errorf("%d requests within the pause, %d jobs", bus.puts, len(backlog.jobs))
		}
		time.Sleep(time.Millisecond)
		bus.back = true
		consume(3)
		if bus.puts != maxPuts+1 || len(backlog.jobs) != 2 {
			t.Errorf("%d requests after the pause, %d jobs", bus.puts, len(backlog.jobs))
		}
		r.Bus = &fakeBus{refuse: func(_ int, e Entry) error { // one that takes something is not away
			if e.Lock == "l4" {
				return errors.New("no")
			}
			return nil
		}}
		if failed := r.Consume(t.Context(), []Write{grant(4, "l4", 1), grant(5, "l5", 1)}); failed != nil || len(backlog.jobs) != 3 {
			t.Errorf("failed %v, %d jobs", failed, len(backlog.jobs))
		}
		r.Bus = bus
		consume(6)
		if bus.puts != maxPuts+2 {
			t.Errorf("%d requests", bus.puts)
		}
	})
}
