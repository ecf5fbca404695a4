package locktest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/locktest"
)

// report is the code under test. It works in steps, and stops when it has lost its lock.
func report(ctx context.Context, client *lockclient.Client) error {
	return client.Do(ctx, "report:daily", lockclient.Options{}, func(ctx context.Context, _ *lockclient.Lease) error {
		for range 1000 {
			select {
			case <-time.After(time.Second): // a step
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
}

func TestReportStopsWhenItsLockIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a minute passes at once
		locks := locktest.New(t)
		time.AfterFunc(time.Minute, func() { locks.Steal("report:daily", "another") })

		err := report(t.Context(), locks.Client("me"))

		if !errors.Is(err, lockclient.ErrLost) {
			t.Errorf("report ended with %v", err)
		}
	})
}
