//go:build unix && !linux

package supervise

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

// suspend stops this process and the rest of its process group until a SIGCONT. In a process group that no shell looks after
// (an orphaned one) nothing stops, and it returns soon.
func suspend() {
	resumed := make(chan os.Signal, 1)
	signal.Notify(resumed, syscall.SIGCONT)
	defer signal.Stop(resumed)
	signal.Reset(syscall.SIGTSTP)
	_ = syscall.Kill(0, syscall.SIGTSTP)
	select {
	case <-resumed:
	case <-time.After(100 * time.Millisecond):
	}
}
