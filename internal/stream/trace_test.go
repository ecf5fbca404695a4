package stream

import (
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/internal/lock"
)

const traced = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// The callback of a grant and the events of the lease have the trace context of the acquire.
func TestTraceOfCallbacksAndEvents(t *testing.T) {
	w := newTasks(t)
	w.waits("one")
	w.waits("two", func(r *lock.AcquireRequest) { r.Trace = traced })
	w.release("one")
	all := w.writes
	w.deliver(1)
	const field = `"traceparent":"` + traced + `"`
	if one, two := w.fake.output["one's token"], w.fake.output["two's token"]; strings.Contains(one, "traceparent") || !strings.Contains(two, field) {
		t.Errorf("callbacks %s, %s", one, two)
	}
	w.writes = nil
	w.release("two")
	seen := map[string]string{}
	for _, write := range append(all, w.writes...) {
		for _, e := range Events(write.Write, lock.Changes(write.Before, write.After)) {
			seen[e.Subject().Owner+" "+e.DetailType()] = e.Subject().Traceparent
		}
	}
	if len(seen) != 4 || seen["one Lock Acquired"]+seen["one Lock Released"] != "" || seen["two Lock Acquired"] != traced || seen["two Lock Released"] != traced {
		t.Errorf("events %v", seen)
	}
}
