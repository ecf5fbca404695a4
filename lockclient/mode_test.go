package lockclient_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
)

// Readers share a lock, and a writer has it alone. A writer that becomes a reader lets others read, and holds its lease.
func TestModes(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		read, write := lockclient.Options{Mode: lockclient.ModeRead}, lockclient.Options{Mode: lockclient.ModeWrite}
		acquire := func(opts lockclient.Options) *lockclient.Lease {
			t.Helper()
			l, err := c.TryAcquire(t.Context(), "a", opts)
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		release := func(l *lockclient.Lease) {
			t.Helper()
			if err := l.Release(t.Context()); err != nil {
				t.Error(err)
			}
		}
		writer := acquire(write)
		_, err := c.TryAcquire(t.Context(), "a", read)
		wantIs(t, err, lockclient.ErrHeld)
		granted := make(chan *lockclient.Lease)
		go func() {
			l, err := c.Acquire(t.Context(), "a", read)
			if err != nil {
				t.Error(err)
			}
			granted <- l
		}()
		time.Sleep(time.Minute)
		start := time.Now()
		for range 2 {
			if err := writer.Downgrade(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		first := <-granted
		if took := time.Since(start); took > 100*time.Millisecond { // it does not wait for its next poll
			t.Errorf("a reader of the same process is granted the lock after %v", took)
		}
		time.Sleep(10 * time.Minute) // renewals go on
		if err := errors.Join(writer.Err(), first.Err()); err != nil {
			t.Error(err)
		}
		second := acquire(read)
		_, err = c.TryAcquire(t.Context(), "a", write)
		wantIs(t, err, lockclient.ErrHeld)
		release(writer)
		release(first)
		release(second)
		wantIs(t, writer.Downgrade(t.Context()), lockclient.ErrReleased)
		release(acquire(write))
	})
}

// A mode on a lock that is in use otherwise fails at once, also with a wait, and so does a downgrade of a lease without a mode.
func TestModeOfALockInUse(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		c := w.client()
		plain := w.acquire(c, lockclient.Options{})
		for _, mode := range []lockclient.Mode{lockclient.ModeRead, lockclient.ModeWrite} {
			start := time.Now()
			_, err := c.Acquire(context.Background(), "a", lockclient.Options{Mode: mode})
			refused, ok := errors.AsType[*lockclient.RefusedError](err)
			if !ok || refused.Code != "capacity_mismatch" || time.Since(start) > time.Second {
				t.Errorf("%s: %v after %v", mode, err, time.Since(start))
			}
		}
		err := plain.Downgrade(t.Context())
		wantIs(t, err, lockclient.ErrRelease)
		wantIs(t, err, lockclient.ErrRefused)
		if err := plain.Release(t.Context()); err != nil {
			t.Error(err)
		}
		for name, opts := range map[string]lockclient.Options{
			"Options.Mode is \"both\"": {Mode: "both"}, "Options.Mode is there with Capacity": {Mode: lockclient.ModeRead, Capacity: 3},
		} {
			_, err := c.Acquire(t.Context(), "a", opts)
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%v", err)
			}
		}
	})
}
