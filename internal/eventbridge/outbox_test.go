package eventbridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/events"
	"github.com/holdfast-lock/holdfast/internal/awstest"
	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/internal/stream"
)

// fakeEventBridge is a fake of EventBridge at the HTTP level with all of its faults: it refuses entries or whole requests, throttles,
// answers 500, takes a request and loses the response, and is unreachable for a while.
type fakeEventBridge struct {
	rng       *rand.Rand
	requests  int
	awayUntil int
	first     map[string][]string // lock -> event ids, in the order of their first arrival
	copies    map[string]int      // event id -> deliveries
}

func (f *fakeEventBridge) Do(r *http.Request) (*http.Response, error) {
	f.requests++
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var in struct {
		Entries []struct{ Detail string }
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, err
	}
	if f.rng.IntN(2000) == 0 {
		f.awayUntil = f.requests + 60
	}
	if f.requests < f.awayUntil {
		return nil, errors.New("connection refused")
	}
	switch f.rng.IntN(20) {
	case 0:
		return awstest.Answer(400, `{"__type":"ThrottlingException","message":"Rate exceeded"}`), nil
	case 1:
		return awstest.Answer(500, `{"__type":"InternalException"}`), nil
	case 2:
		return nil, context.DeadlineExceeded // on the way there
	case 3: // on the way back
		for _, e := range in.Entries {
			f.take(e.Detail)
		}
		return nil, errors.New("connection reset by peer")
	}
	var out struct {
		FailedEntryCount int
		Entries          []map[string]string
	}
	for _, e := range in.Entries {
		if f.rng.IntN(10) == 0 {
			out.FailedEntryCount++
			out.Entries = append(out.Entries, map[string]string{"ErrorCode": "InternalFailure", "ErrorMessage": "try again"})
			continue
		}
		f.take(e.Detail)
		out.Entries = append(out.Entries, map[string]string{"EventId": "x"})
	}
	data, _ := json.Marshal(out)
	return awstest.Answer(200, string(data)), nil
}

func (f *fakeEventBridge) take(detail string) {
	var l events.Lease
	if err := json.Unmarshal([]byte(detail), &l); err != nil {
		panic(err)
	}
	if f.copies[l.ID]++; f.copies[l.ID] == 1 {
		f.first[l.Lock] = append(f.first[l.Lock], l.ID)
	}
}

const transitions = 100_000

// The outbox property: whatever faults EventBridge has, in the end the event of every transition has arrived, no other event, and those
// of each lock in order. The transitions are derived from the coordinator's answers, not from the images.
func TestOutbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // backoff costs no time in here
		history, want := makeHistory(t)
		fake := &fakeEventBridge{rng: rand.New(rand.NewPCG(1, 2)), first: map[string][]string{}, copies: map[string]int{}}
		c := &stream.Consumer{Bus: New(awstest.Config(fake), "bus"), Log: slog.New(slog.DiscardHandler)}
		// As an event source mapping does: a batch at a time, again from the first that failed.
		for at := 0; at < len(history); {
			batch := history[at:min(at+100, len(history))]
			failed := c.Consume(t.Context(), batch)
			if len(failed) == 0 {
				at += len(batch)
				continue
			}
			at += slices.IndexFunc(batch, func(w stream.Write) bool { return w.Sequence == failed[0] })
		}
		lost, invented, deliveries, total := 0, 0, 0, 0
		expected := map[string]bool{}
		for name, ids := range want {
			total += len(ids)
			for _, id := range ids {
				expected[id] = true
				if fake.copies[id] == 0 {
					lost++
				}
			}
			if !slices.Equal(ids, fake.first[name]) {
				t.Errorf("%s: the order of %d events is not kept", name, len(ids))
			}
		}
		for id, n := range fake.copies {
			deliveries += n
			if !expected[id] {
				invented++
				t.Errorf("invented %s", id)
			}
		}
		if lost > 0 {
			t.Errorf("lost %d", lost)
		}
		fmt.Printf("outbox: %d transitions, %d events, %d lost, %d invented, %.0f duplicates per thousand, all with equal ids, in %d requests\n",
			len(history), total, lost, invented, 1000*float64(deliveries-total)/float64(total), fake.requests)
	})
}

// makeHistory runs random operations on a few locks until there are enough transitions. It returns, from the answers alone, the events
// that each lock must have.
func makeHistory(t *testing.T) (history []stream.Write, want map[string][]string) {
	store := &lock.Memory{}
	store.Changed = func(name string, before, after lock.Record) {
		history = append(history, stream.Write{Write: lock.Write{Lock: name, Before: before, After: after}, Sequence: fmt.Sprint(len(history))})
	}
	c, err := lock.New(lock.Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	want = map[string][]string{}
	rng := rand.New(rand.NewPCG(3, 4))
	type held struct {
		secret string
		fence  int64
	}
	live := map[string][]held{} // by lock, oldest first
	for n := 0; len(history) < transitions; n++ {
		name := fmt.Sprint("team", rng.IntN(3), ":lock", rng.IntN(8))
		tell := func(fence int64, kind string) { want[name] = append(want[name], events.ID(name, fence, kind)) }
		pick := func() (held, bool) {
			if len(live[name]) == 0 {
				return held{}, false
			}
			return live[name][rng.IntN(len(live[name]))], true
		}
		var granted, released held
		forced := map[int64]bool{}
		switch rng.IntN(8) {
		case 0, 1, 2:
			granted.secret = fmt.Sprint("s", n)
			l, err := c.Acquire(t.Context(), lock.AcquireRequest{Lock: name, Secret: granted.secret, TTL: 5 * time.Second, Capacity: 2, Permits: 1, Metadata: `{"n":1}`})
			if granted.fence = l.Lease.Fence; err != nil && !errors.Is(err, lock.ErrLockHeld) {
				t.Fatal(err)
			}
		case 3, 4:
			if h, ok := pick(); ok {
				if _, err := c.Release(t.Context(), lock.ReleaseRequest{Lock: name, Secret: h.secret}); err == nil {
					released = h
				}
			}
		case 5:
			if h, ok := pick(); ok {
				_, _ = c.Renew(t.Context(), lock.RenewRequest{Lock: name, Secret: h.secret, TTL: 6 * time.Second})
			}
		case 6:
			if h, ok := pick(); ok {
				_, _ = c.Expire(t.Context(), lock.GrantRef{Lock: name, Key: lock.KeyOf(name, h.secret), Fence: h.fence})
			}
			time.Sleep(time.Duration(rng.IntN(2000)) * time.Millisecond)
		case 7:
			if rng.IntN(4) == 0 {
				ended, err := c.ForceRelease(t.Context(), lock.ForceReleaseRequest{Lock: name, Reason: "random"})
				if err != nil {
					t.Fatal(err)
				}
				for _, h := range ended {
					forced[h.Fence] = true
				}
			}
		}
		r, err := store.Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		there := map[int64]bool{}
		for _, h := range r.After.Holders {
			there[h.Fence] = true
		}
		live[name] = slices.DeleteFunc(live[name], func(h held) bool {
			switch {
			case there[h.fence]:
				return false
			case h == released:
				tell(h.fence, events.TypeReleased)
			case forced[h.fence]:
				tell(h.fence, events.TypeForceReleased)
			default:
				tell(h.fence, events.TypeExpired)
			}
			return true
		})
		if granted.fence != 0 {
			live[name] = append(live[name], granted)
			tell(granted.fence, events.TypeAcquired)
		}
	}
	return history, want
}
