package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/internal/lock"
	"github.com/holdfast-lock/holdfast/lockclient"
)

// A following is a command that runs until its test ends it.
type following struct {
	t    *testing.T
	out  *output
	stop context.CancelFunc
	done chan int
}

func follow(t *testing.T, args ...string) *following {
	ctx, stop := context.WithCancel(t.Context())
	f := &following{t, newOutput(), stop, make(chan int, 1)}
	go func() { f.done <- run(ctx, args, &streams{in: os.Stdin, out: f.out, err: f.out}) }()
	return f
}

// until waits until something has happened.
func (f *following) until(happened func() bool, what string) {
	f.t.Helper()
	for deadline := time.Now().Add(time.Minute); !happened(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("waited in vain until %s:\n%s", what, f.out)
		}
	}
}

// hasListed waits until the command has seen the locks that are held at first.
func (f *following) hasListed(s *service) {
	f.t.Helper()
	f.until(func() bool { return s.lists.Load() > 0 }, "the locks are listed")
}

// says waits until the command has written a text.
func (f *following) says(text string) {
	f.t.Helper()
	f.until(func() bool { return strings.Contains(f.out.String(), text) }, fmt.Sprintf("the command says %q", text))
}

func (f *following) end() {
	f.t.Helper()
	f.stop()
	if code := <-f.done; code != 0 {
		f.t.Errorf("exit code %d:\n%s", code, f.out)
	}
}

// watch shows each lock below a prefix at first, and each change.
func TestWatchBelowAPrefix(t *testing.T) {
	for _, arg := range []string{"deploy:", "dep*", ""} {
		s := newService(t)
		t.Setenv("HOLDFAST_ENDPOINT", s.url)
		s.hold(t, "deploy:one", "alice")
		args := []string{"watch"}
		if arg != "" {
			args = append(args, arg)
		}
		f := follow(t, args...)
		f.says("deploy:one is held")
		s.hold(t, "deploy:two", "bob")
		f.says("deploy:two is held")
		if _, err := s.coordinator.ForceRelease(t.Context(), lock.ForceReleaseRequest{Lock: "deploy:one", Reason: "r"}); err != nil {
			t.Fatal(err)
		}
		f.says("deploy:one is free")
		f.end()
	}
}

// events shows the events of a local coordinator as they happen.
func TestEventsOfALocalCoordinator(t *testing.T) {
	url, _ := startDev(t, devCmd{}, connection{})
	t.Setenv("HOLDFAST_ENDPOINT", url)
	text, asJSON := follow(t, "events", "deploy:"), follow(t, "--json", "events")
	c, err := lockclient.New(lockclient.Config{Endpoint: url, Owner: "ci"})
	if err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(text.out.String(), "deploy:x acquired") || !strings.Contains(asJSON.out.String(), "Lock Acquired") { // the streams may not be open at first
		for _, name := range []string{"other", "deploy:x"} {
			if _, err := c.Acquire(t.Context(), name, lockclient.Options{}); err != nil {
				t.Fatal(err)
			}
			if _, err := c.ForceRelease(t.Context(), name, "the test", 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	text.says("deploy:x acquired, ci, fence ")
	text.says("deploy:x force-released, ci, fence ")
	text.says(": the test")
	if _, err := c.Freeze(t.Context(), "deploy:", time.Now().Add(time.Hour), "audit"); err != nil {
		t.Fatal(err)
	}
	text.says("the rule of deploy: has changed")
	asJSON.says(`"detail-type":"Lock Force Released"`)
	if out := text.out.String(); strings.Contains(out, "other") {
		t.Errorf("an event of another lock:\n%s", out)
	}
	text.end()
	asJSON.end()
}

// A grant is shown also if no lock was held when the command began.
func TestEventsBelowAQuietPrefix(t *testing.T) {
	s := newService(t)
	t.Setenv("HOLDFAST_ENDPOINT", s.url+"/")
	f := follow(t, "events", "deploy:")
	f.says("looking for changes instead")
	f.hasListed(s)
	s.hold(t, "deploy:x", "alice")
	f.says("deploy:x is held")
	f.end()
}

// Of a coordinator whose events go elsewhere, events shows the entries of the histories that are kept, also where they are late, and the statuses of other locks.
func TestEventsFromHistories(t *testing.T) {
	s := newService(t)
	t.Setenv("HOLDFAST_ENDPOINT", s.url)
	if _, err := s.coordinator.SetRule(t.Context(), lock.RuleRequest{Prefix: "deploy:", Set: lock.RuleParts{History: &lock.Keeping{For: int64(time.Hour / time.Millisecond)}}}); err != nil {
		t.Fatal(err)
	}
	s.hold(t, "deploy:old", "before")
	s.hold(t, "plain:old", "before")
	f := follow(t, "events")
	f.says("looking for changes instead")
	f.hasListed(s)
	l := s.hold(t, "deploy:x", "alice")
	s.hold(t, "plain:x", "bob")
	f.says("plain:x is held")
	if strings.Contains(f.out.String(), "alice") {
		t.Errorf("shown before its entry is there:\n%s", f.out)
	}
	entry := lock.HistoryEntry{At: l.Lease.AcquiredAt, Kind: lock.LeaseAcquired, Fence: l.Lease.Fence, Owner: "alice", Permits: 1, AcquiredAt: l.Lease.AcquiredAt, Held: 1, Waited: 4000}
	keep := &lock.Keeping{For: time.Hour.Milliseconds()}
	if err := s.coordinator.Record(t.Context(), "deploy:x", keep, []lock.HistoryEntry{entry}); err != nil {
		t.Fatal(err)
	}
	f.says("deploy:x acquired, alice, fence ")
	f.says(", waited 4s")
	if _, err := s.coordinator.ForceRelease(t.Context(), lock.ForceReleaseRequest{Lock: "deploy:x", Reason: "r"}); err != nil {
		t.Fatal(err)
	}
	end := entry
	end.At, end.Kind, end.Cause, end.Reason, end.Held = entry.At+1000, lock.LeaseForceReleased, lock.CauseForceRelease, "stuck", 0
	if err := s.coordinator.Record(t.Context(), "deploy:x", keep, []lock.HistoryEntry{end}); err != nil {
		t.Fatal(err)
	}
	f.says("deploy:x force-released, alice, fence ")
	f.says(": stuck")
	if out := f.out.String(); strings.Count(out, "deploy:x acquired") != 1 || strings.Contains(out, "before") {
		t.Errorf("shown twice, or what is no change:\n%s", out)
	}
	f.end()
}
