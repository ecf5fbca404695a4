package main

import (
	"bufio"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// Notices are written in order, and say never blocks if nothing reads them.
func TestNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		n := newNotices(&streams{err: w})
		for i := range 100 { // more than are kept
			n.say("x", fmt.Sprint(i))
		}
		start := time.Now()
		n.drain(time.Second)
		n.flush()
		n.flush()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("waited %v for a reader", took)
		}
		lines := bufio.NewScanner(r)
		for i := range 60 {
			if !lines.Scan() || lines.Text() != fmt.Sprintf("holdfast: %d", i) {
				t.Fatalf("line %d is %q", i, lines.Text())
			}
		}
		_ = r.Close()
	})
}
