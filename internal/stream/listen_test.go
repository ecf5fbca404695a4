package stream

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

// A deployment is a coordinator in memory whose writes reach a consumer as the stream's filters of a setting of Events let them through.
type deployment struct {
	*rig
	t         *testing.T
	expirer   *Expirer
	now       time.Time
	delivered int // writes that invoked the consumer
}

func newDeployment(t *testing.T) *deployment {
	d := &deployment{rig: newRig(), t: t, now: time.Unix(1_800_000_000, 0)}
	clock := func() time.Time { return d.now }
	store := &lock.Memory{}
	c, err := lock.New(lock.Config{Store: store, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	d.Coordinator, d.Clock = c, clock
	d.expirer = &Expirer{Coordinator: c, Timers: d.timers, Consumer: &d.Consumer, Log: d.Log, Clock: clock}
	store.Changed = func(name string, before, after lock.Record) {
		w := lock.Write{Lock: name, Before: before, After: after}
		if listened := d.Listens == nil || d.Listens(name); after.Cause.Quiet() || !listened && !w.OfQueue() {
			return
		}
		d.delivered++
		if failed := d.Consume(t.Context(), []Write{{Write: w, Sequence: fmt.Sprint(d.delivered)}}); failed != nil {
			t.Errorf("failed %v", failed)
		}
	}
	return d
}

func (d *deployment) none() { d.Listens = func(string) bool { return false } }
func (d *deployment) all()  { d.Listens = nil }

// acquire asks for the lock "a"; wait makes it join the queue.
func (d *deployment) acquire(secret string, wait time.Duration) error {
	_, err := d.Coordinator.Acquire(d.t.Context(), lock.AcquireRequest{Lock: "a", Secret: secret, Owner: secret, TTL: time.Minute, Capacity: 1, Permits: 1, Wait: wait})
	return err
}

// pass lets time pass, and fires the timers that are due.
func (d *deployment) pass(by time.Duration) {
	d.now = d.now.Add(by)
	armed := d.timers.armed
	d.timers.armed = nil
	for _, timer := range armed {
		if timer.Due.After(d.now) {
			d.timers.armed = append(d.timers.armed, timer)
		} else if err := d.expirer.Fire(d.t.Context(), timer); err != nil {
			d.t.Error(err)
		}
	}
}

func (d *deployment) want(what string, events ...string) {
	d.t.Helper()
	var got []string
	for _, id := range d.bus.taken {
		got = append(got, id[strings.LastIndex(id, "/")+1:])
	}
	if !slices.Equal(got, events) {
		d.t.Errorf("%s: events %v, want %v", what, got, events)
	}
	d.bus.taken = nil
}

// Without a listener and without a waiter a lock costs its writes alone: no invocation, no event, no timer.
func TestNobodyListensNobodyWaits(t *testing.T) {
	d := newDeployment(t)
	d.none()
	if err := d.acquire("x", 0); err != nil {
		t.Fatal(err)
	}
	d.pass(2 * time.Minute) // dead: the next acquire ends it
	if err := d.acquire("y", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Coordinator.Release(t.Context(), lock.ReleaseRequest{Lock: "a", Secret: "y"}); err != nil {
		t.Fatal(err)
	}
	if d.want("nobody listens"); d.delivered != 0 || len(d.timers.armed) != 0 {
		t.Errorf("%d invocations, timers %v", d.delivered, d.timers.armed)
	}
}

// Without a listener the first waiter behind a holder that dies is granted a skew allowance after the expiry, by the timer that its joining set.
func TestWaiterBehindADeadHolderWithoutListener(t *testing.T) {
	d := newDeployment(t)
	d.none()
	if err := d.acquire("dead", 0); err != nil {
		t.Fatal(err)
	}
	d.pass(30 * time.Second)
	if err := d.acquire("waits", time.Hour); err == nil {
		t.Fatal("granted beside the holder")
	}
	if len(d.timers.armed) != 1 || d.delivered != 1 {
		t.Fatalf("timers %v after %d invocations, want one of the join", d.timers.armed, d.delivered)
	}
	d.pass(30*time.Second + d.Skew)
	s, err := d.Coordinator.Status(t.Context(), "a")
	if err != nil || len(s.Holders) != 1 || s.Holders[0].Owner != "waits" {
		t.Errorf("status %+v, %v: the waiter must hold the lock", s, err)
	}
	d.want("nobody listens")
}

// Events turned off while a lease is held: the timer that is armed ends the lease, so a waiter is granted; no event is published.
func TestEventsTurnedOffWhileHeld(t *testing.T) {
	d := newDeployment(t)
	if err := d.acquire("dead", 0); err != nil {
		t.Fatal(err)
	}
	if d.want("listened", "acquired"); len(d.timers.armed) != 1 {
		t.Fatalf("timers %v", d.timers.armed)
	}
	d.none()
	if err := d.acquire("waits", time.Hour); err == nil {
		t.Fatal("granted beside the holder")
	}
	d.pass(time.Minute + d.Skew)
	s, err := d.Coordinator.Status(t.Context(), "a")
	if err != nil || len(s.Holders) != 1 || s.Holders[0].Owner != "waits" {
		t.Errorf("status %+v, %v", s, err)
	}
	d.want("turned off")
}

// Events turned on while a lease without a timer is held: its expiry is published when the next acquire ends it, or in time if somebody waits behind it.
func TestEventsTurnedOnWhileHeld(t *testing.T) {
	for _, waits := range []bool{false, true} {
		d := newDeployment(t)
		d.none()
		if err := d.acquire("dead", 0); err != nil {
			t.Fatal(err)
		}
		d.all()
		if waits {
			if err := d.acquire("waits", time.Hour); err == nil {
				t.Fatal("granted beside the holder")
			}
			d.pass(time.Minute + d.Skew)
			d.want("somebody waits", "expired", "acquired")
			continue
		}
		d.pass(2 * time.Minute)
		d.want("nobody asks")
		if err := d.acquire("next", 0); err != nil {
			t.Fatal(err)
		}
		if d.want("the next acquire", "expired", "acquired"); len(d.timers.armed) != 1 {
			t.Errorf("timers %v, want that of the new lease", d.timers.armed)
		}
	}
}

// An event that was deferred before Events was turned off is published.
func TestDeferredEventOutlivesItsListener(t *testing.T) {
	d := newDeployment(t)
	backlog := &fakeBacklog{}
	d.Backlog = backlog
	d.bus.refuse = func(int, Entry) error { return fmt.Errorf("busy") }
	if err := d.acquire("x", 0); err != nil {
		t.Fatal(err)
	}
	jobs := backlog.take()
	if len(jobs) != 1 {
		t.Fatalf("jobs %v", jobs)
	}
	d.none()
	d.bus.refuse = nil
	d.pass(time.Hour)
	for _, err := range d.Do(t.Context(), jobs) {
		if err != nil {
			t.Error(err)
		}
	}
	d.want("deferred", "acquired")
}

// A batch with records of both kinds: those that nobody listens for make no event, whatever brought them.
func TestEventsOfListenedLocksOnly(t *testing.T) {
	r := newRig()
	r.Listens = func(name string) bool { return strings.HasPrefix(name, "deploy:") }
	handOff := end(2, "other", 1)
	handOff.Before.Waiting = 1
	handOff.After.Holders = record(lock.CauseRelease, 2).Holders
	if failed := r.Consume(t.Context(), []Write{grant(1, "deploy:a", 1), handOff, grant(3, "other2", 1)}); failed != nil {
		t.Fatal(failed)
	}
	if len(r.bus.taken) != 1 || !strings.HasPrefix(r.bus.taken[0], "deploy:a/") || len(r.timers.armed) != 1 || r.timers.armed[0].Lock != "deploy:a" {
		t.Errorf("events %v, timers %v", r.bus.taken, r.timers.armed)
	}
}

// What a million pairs of acquire and release cost in dollars, in the settings of docs/cost.md in which nobody listens and nobody waits. Prices are of us-east-1;
// 6 ms of Lambda's time for a request at 256 MB is an assumption.
func TestDollarsPerPair(t *testing.T) {
	d := newDeployment(t)
	d.none()
	if err := d.acquire("x", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Coordinator.Release(t.Context(), lock.ReleaseRequest{Lock: "a", Secret: "x"}); err != nil {
		t.Fatal(err)
	}
	if d.delivered != 0 || len(d.timers.armed) != 0 || len(d.bus.taken) != 0 {
		t.Fatalf("%d invocations of the stream function, %d timers, %d events", d.delivered, len(d.timers.armed), len(d.bus.taken))
	}
	const writes, requests = 2, 2 // TestRequestsPerOperation: each request is one write
	table := writes * 0.625
	direct := table + requests*(0.20+0.006*0.25*13.3334)
	for setting, c := range map[string]struct{ dollars, goal float64 }{
		"the table itself": {table, 1.25}, "direct invocation": {direct, 1.70}, "HTTP API": {direct + requests*1.00, 3.70},
	} {
		if c.dollars > c.goal {
			t.Errorf("%s: %.2f dollars a million pairs, and the goal is %.2f", setting, c.dollars, c.goal)
		}
	}
	if got := fmt.Sprintf("%.2f %.2f", direct, direct+2); got != "1.69 3.69" {
		t.Errorf("%s dollars a million pairs; docs/cost.md has others", got)
	}
}
