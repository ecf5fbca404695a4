package lockclient

import (
	"context"
	"errors"
	"testing"
)

// A client without providers observes nothing, and allocates nothing for it.
func TestNoTelemetryAllocatesNothing(t *testing.T) {
	var none *telemetry
	ctx, held, err := context.Background(), &HeldError{}, errors.New("x")
	lease := &Lease{name: "a"}
	allocs := testing.AllocsPerRun(100, func() {
		a := none.acquiring(ctx, "a,b", Options{Mode: ModeRead, Permits: 2})
		_, _, _ = a.within(ctx), a.traceparent(), a.refusedTraceparent(nil)
		a.sent()
		a.held(held)
		a.noAnswer(err)
		a.newLease()
		a.done(lease, err)
		_, h := none.holding(ctx, lease)
		_, _ = h.within(ctx), h.under(ctx)
		h.ended(err)
		_, o := none.operation(ctx, spanRenew, "a,b")
		o.tried(err)
		o.done(err)
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}
