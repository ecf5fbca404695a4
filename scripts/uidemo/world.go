package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/ui"
	"github.com/holdfast-lock/holdfast/internal/wire"
)

// A world is a coordinator that makes everything up.
type world struct {
	changed chan string

	mu      sync.Mutex
	locks   map[string]*wire.Status
	history map[string][]wire.HistoryEntry // newest first
	rules   []wire.Rule
	failure *ui.Failure
	fences  int64
}

const account = "arn:aws:sts::123456789012:assumed-role/"

func newWorld() *world {
	w := &world{changed: make(chan string, 64), locks: map[string]*wire.Status{}, history: map[string][]wire.HistoryEntry{}, fences: time.Now().Add(-time.Hour).UnixMicro()}
	w.hold("deploy:prod:eu", "ci/run-8121", "deployer/run-8121", 12*time.Minute, 60*time.Second, 22*time.Second, `{"commit":"9f31c0e","url":"https://ci.example/runs/8121","step":"migrate"}`).Waiting = 3
	w.hold("deploy:prod:us", "ci/run-8119", "deployer/run-8119", 95*time.Second, 60*time.Second, 51*time.Second, `{"commit":"77aa210"}`)
	w.hold("deploy:staging", "ci/run-8124", "deployer/run-8124", 40*time.Second, 60*time.Second, 35*time.Second, "")
	w.hold("report:daily", "batch-7/4112", "reporter/batch-7", 3*time.Hour+4*time.Minute, 5*time.Minute, 4*time.Minute, `{"day":"2026-11-25"}`)
	w.hold("migrate:orders", "alice@laptop", "admin/alice", 26*time.Minute, 30*time.Minute, 4*time.Minute+10*time.Second, `{"ticket":"OPS-311"}`).Waiting = 1
	for i := range 4 {
		w.hold("quota:crm-api", fmt.Sprintf("worker-%d", i+1), fmt.Sprintf("worker/w%d", i+1), time.Duration(i+1)*70*time.Second, 2*time.Minute, time.Duration(110-20*i)*time.Second, "")
	}
	quota := w.locks["quota:crm-api"]
	quota.Capacity, quota.Available, quota.Waiting = 5, 1, 2
	for i := range 6 {
		w.hold(fmt.Sprintf("customer:%04d:sync", 1040+7*i), fmt.Sprintf("sync-%d", i), "worker/sync", time.Duration(i*9+4)*time.Second, 30*time.Second, time.Duration(28-4*i)*time.Second, "")
	}
	w.hold("hostile:texts", `<script>document.title="owned"</script>`+"\u202e\u0007", "x", time.Minute, time.Minute, 30*time.Second, `{"<b>":"</pre><script>alert(1)</script>","img":"<img src=x onerror=alert(1)>"}`)
	w.setRules()
	w.pastOf("deploy:prod:eu")
	return w
}

// hold adds a lease: held for a time, with a TTL, of which something is left.
func (w *world) hold(name, owner, principal string, held, ttl, left time.Duration, metadata string) *wire.Status {
	now := time.Now()
	w.fences += int64(time.Minute / time.Microsecond)
	s := w.locks[name]
	if s == nil {
		s = &wire.Status{Lock: name, Locked: true, Capacity: 1}
		w.locks[name] = s
	}
	h := wire.Holder{
		Owner: owner, Principal: account + principal, Fence: w.fences, Permits: 1, AcquiredAt: wire.At(now.Add(-held).UnixMilli()),
		RenewedAt: wire.At(now.Add(left - ttl).UnixMilli()), ExpiresAt: wire.At(now.Add(left).UnixMilli()),
	}
	if metadata != "" {
		h.Metadata = json.RawMessage(metadata)
	}
	s.Fence, s.Holders = w.fences, append(s.Holders, h)
	return s
}

func (w *world) setRules() {
	now := time.Now()
	at := func(d time.Duration) wire.Time { return wire.At(now.Add(d).UnixMilli()) }
	alice := account + "admin/alice"
	w.rules = []wire.Rule{
		{Prefix: "*", History: &wire.Keeping{Prefix: "*", Keep: (90 * 24 * time.Hour).Milliseconds(), By: alice, Since: at(-200 * time.Hour)}},
		{Prefix: "migrate:", Freeze: &wire.Freeze{Prefix: "migrate:", Until: at(5 * time.Hour), Since: at(-time.Hour), Reason: "year-end close; ask #releases", By: alice}},
		{Prefix: "quota:", Limits: &wire.Limits{
			LimitsRequest: wire.LimitsRequest{Capacity: 5, MaxTTL: 300_000, MaxQueue: 100, Rate: wire.Rate{Grants: 30, Period: 60_000}}, By: alice, Since: at(-80 * time.Hour),
		}},
	}
}

// pastOf makes up the last hour and a half of a lock: leases of some minutes, with waits before them.
func (w *world) pastOf(name string) {
	now := time.Now()
	var entries []wire.HistoryEntry
	add := func(i int, began, ended, waited time.Duration, kind, cause string) {
		from := wire.At(now.Add(-began).UnixMilli())
		e := wire.HistoryEntry{
			At: from, Kind: "acquired", Fence: w.locks[name].Fence - int64(10-i)*1_000_000, Owner: fmt.Sprintf("ci/run-%d", 8100+3*i), Principal: account + "deployer/run",
			Permits: 1, AcquiredAt: from, Waited: waited.Milliseconds(),
		}
		entries = append(entries, e)
		e.At, e.Kind, e.Cause, e.Held = wire.At(now.Add(-ended).UnixMilli()), kind, cause, new((began - ended).Milliseconds())
		if kind == "force-released" {
			e.By, e.Reason = account+"admin/alice", "runner was terminated"
		}
		entries = append(entries, e)
	}
	add(1, 88*time.Minute, 70*time.Minute, 0, "released", "release")
	add(2, 58*time.Minute, 49*time.Minute, 4*time.Minute, "released", "release")
	add(3, 49*time.Minute, 37*time.Minute, 8*time.Minute, "expired", "expire")
	add(4, 33*time.Minute, 26*time.Minute, 0, "released", "release")
	add(5, 26*time.Minute, 14*time.Minute, 6*time.Minute, "force-released", "force-release")
	h := w.locks[name].Holders[0]
	entries = append(entries, wire.HistoryEntry{
		At: h.AcquiredAt, Kind: "acquired", Fence: h.Fence, Owner: h.Owner, Principal: h.Principal, Permits: 1, AcquiredAt: h.AcquiredAt, Waited: 240_000,
		Set: []string{"deploy:prod:eu", "quota:crm-api"},
	})
	slices.Reverse(entries)
	w.history[name] = entries
}

func (w *world) many(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.locks); i < n; i++ {
		w.hold(fmt.Sprintf("bulk:%02d:%02d:%05d", i%40, i%25, i), fmt.Sprintf("worker-%d", i), "worker/bulk", time.Duration(i%600)*time.Second, time.Hour, time.Duration(i%3000+60)*time.Second, "")
	}
}

func (w *world) renew(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for _, name := range slices.Sorted(maps.Keys(w.locks))[:min(n, len(w.locks))] {
		h := &w.locks[name].Holders[0]
		h.RenewedAt, h.ExpiresAt = wire.At(now.UnixMilli()), wire.At(now.Add(time.Hour).UnixMilli())
	}
}

func (w *world) end(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.locks, name)
}

func (w *world) change(name string) {
	w.mu.Lock()
	delete(w.locks, name)
	w.hold(name, "next-holder", "worker/next", 0, time.Minute, time.Minute, "")
	w.mu.Unlock()
	w.changed <- name
}

func (w *world) fail(f *ui.Failure) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failure = f
}

// look returns the failure of a request, if it is to fail, as an error.
func (w *world) look() error {
	if w.failure != nil {
		return w.failure
	}
	return nil
}

// at is a status as of now.
func at(s wire.Status) wire.Status {
	now := time.Now()
	s.ServerTime = wire.At(now.UnixMilli())
	s.Holders = slices.Clone(s.Holders)
	for i := range s.Holders {
		s.Holders[i].Remaining = max(0, s.Holders[i].ExpiresAt.Sub(now).Milliseconds())
	}
	return s
}

// List implements [ui.Source].
func (w *world) List(_ context.Context, prefix string, _ bool) iter.Seq2[wire.Status, error] {
	return func(yield func(wire.Status, error) bool) {
		w.mu.Lock()
		err := w.look()
		var list []wire.Status
		for name, s := range w.locks {
			if strings.HasPrefix(name, prefix) {
				list = append(list, at(*s))
			}
		}
		w.mu.Unlock()
		if err != nil {
			yield(wire.Status{}, err)
			return
		}
		slices.SortFunc(list, func(a, b wire.Status) int { return cmp.Compare(a.Lock, b.Lock) })
		for _, s := range list {
			if !yield(s, nil) {
				return
			}
		}
	}
}

// Status implements [ui.Source].
func (w *world) Status(_ context.Context, name string, waiters int) (wire.Status, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.look(); err != nil {
		return wire.Status{}, err
	}
	s := w.locks[name]
	if s == nil {
		s = &wire.Status{Lock: name, Capacity: 1, Available: 1}
	}
	out := at(*s)
	for _, r := range w.rules {
		if r.Freeze != nil && strings.HasPrefix(name, r.Prefix) {
			out.Freeze = r.Freeze
		}
	}
	for i := range min(int64(waiters), out.Waiting) {
		joined := time.Now().Add(-time.Duration(12-3*i) * time.Minute).Truncate(time.Minute)
		out.Queue = append(out.Queue, wire.Waiter{
			Position: i + 1, Owner: fmt.Sprintf("ci/run-%d", 8127+i), Principal: fmt.Sprintf("arn:aws:sts::123456789012:assumed-role/deployer/run-%d", 8127+i), Permits: 1,
			JoinedAt: new(wire.At(joined.UnixMilli())), Task: i == 1,
		})
	}
	return out, nil
}

// History implements [ui.Source].
func (w *world) History(_ context.Context, name string, r wire.HistoryRequest) (wire.History, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := wire.History{Lock: name, Entries: []wire.HistoryEntry{}, Keeping: w.rules[0].History, ServerTime: wire.At(time.Now().UnixMilli())}
	for _, e := range w.history[name] {
		if r.From == nil || !e.At.Before(r.From.Time) {
			out.Entries = append(out.Entries, e)
		}
	}
	return out, w.look()
}

// Rules implements [ui.Source].
func (w *world) Rules(context.Context) ([]wire.Rule, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rules, w.look()
}

// ForceRelease implements [ui.Source].
func (w *world) ForceRelease(_ context.Context, name string, r wire.ForceReleaseRequest) (wire.ForceReleased, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.look(); err != nil {
		return wire.ForceReleased{}, err
	}
	s := w.locks[name]
	if s == nil || !slices.ContainsFunc(s.Holders, func(h wire.Holder) bool { return h.Fence == r.Fence }) {
		return wire.ForceReleased{}, &ui.Failure{Status: 409, Code: string(wire.LockChanged), Detail: "no live lease has this fence"}
	}
	var released []wire.Holder
	s.Holders = slices.DeleteFunc(s.Holders, func(h wire.Holder) bool {
		if h.Fence == r.Fence {
			released = append(released, h)
		}
		return h.Fence == r.Fence
	})
	if s.Locked = len(s.Holders) > 0; !s.Locked && s.Waiting > 0 { // the next waiter is granted the lock
		s.Waiting--
		w.hold(name, "ci/run-8127", "deployer/run-8127", 0, time.Minute, time.Minute, "").Locked = true
	}
	return wire.ForceReleased{Lock: name, Released: released}, nil
}
