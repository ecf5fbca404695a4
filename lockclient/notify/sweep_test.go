package notify

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// A process that is killed while it waits leaves its queue behind. A sweep deletes it when its owner's time is over, and no queue whose
// owner lives, nor one that is another deployment's or says nothing.
func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		p, _ := parsePrefix(Config{Prefix: testPrefix})
		alive := newNotifier(f, p, func() {})
		living := listen(t, alive)
		livingQueue, _ := address(t, living)
		for range 3 { // as of processes that were killed: nobody moves their time on
			if _, err := newNotifier(f, p, func() {}).create(p.name + "orphan" + string(rune('a'+len(f.urls())))); err != nil {
				t.Fatal(err)
			}
		}
		f.do(func() {
			f.queues[testPrefix+"silent"] = &fakeQueue{}
			f.queues[testPrefix+"strange"] = &fakeQueue{tags: map[string]string{aliveTag: "soon"}}
			f.queues[testAccount+"Other-notify-orphan"] = &fakeQueue{tags: map[string]string{aliveTag: stamp(time.Now().Add(-time.Hour))}}
		})
		for _, step := range []struct {
			wait    time.Duration
			deleted int
		}{{0, 0}, {aliveFor, 0}, {sweepMargin - time.Second, 0}, {2 * time.Second, 3}, {24 * time.Hour, 0}} {
			time.Sleep(step.wait)
			before := len(f.urls())
			if found, err := sweep(t.Context(), f, p, false); err != nil || len(found.Deleted) != step.deleted || len(f.urls()) != before {
				t.Errorf("found after %v: %+v, %v", step.wait, found, err)
			}
			done, err := sweep(t.Context(), f, p, true)
			if err != nil || len(done.Deleted) != step.deleted || len(done.Unknown) != 2 || slices.Contains(done.Deleted, livingQueue) {
				t.Errorf("after %v: %+v, %v", step.wait, done, err)
			}
		}
		if len(f.urls()) != 4 {
			t.Errorf("left: %v", f.urls())
		}
		for _, op := range []string{"ListQueues", "ListQueueTags"} {
			f.do(func() {
				f.fail = func(o string) error {
					if o == op {
						return denied()
					}
					return nil
				}
			})
			if _, err := sweep(t.Context(), f, p, true); err == nil {
				t.Errorf("no error without %s", op)
			}
		}
		f.do(func() { f.fail = nil })
		living.Stop()
		if err := alive.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
