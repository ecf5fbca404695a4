package chance

import (
	"testing"
	"time"
)

func TestReplace(t *testing.T) {
	restore := Replace(func(n int64) int64 { return n - 1 })
	if got := N(time.Second); got != time.Second-1 {
		t.Errorf("got %v of the replaced source", got)
	}
	restore()
	for range 100 {
		if got := N(3); got < 0 || got >= 3 {
			t.Errorf("got %v, want 0 to 2", got)
		}
	}
}
