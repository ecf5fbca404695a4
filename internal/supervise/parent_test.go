//go:build unix

package supervise

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestParentGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var parent atomic.Int64
		parent.Store(7)
		gone := parentGone(ctx, func() int { return int(parent.Load()) }, time.Second)
		time.Sleep(time.Hour)
		select {
		case <-gone:
			t.Error("the parent is there")
		default:
		}
		at := time.Now()
		parent.Store(1)
		if <-gone; time.Since(at) > time.Second {
			t.Errorf("noticed after %v", time.Since(at))
		}
		never := parentGone(ctx, func() int { return 1 }, time.Second)
		cancel()
		synctest.Wait() // it ends with ctx
		select {
		case <-never:
			t.Error("the parent is there")
		default:
		}
	})
}
