package supervise

import (
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// suspend stops this process and the rest of its process group, which the terminal's keys did not reach, until a SIGCONT. In a
// process group that no shell looks after (an orphaned one) nothing stops, and it returns at once.
func suspend() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signal.Ignore(syscall.SIGTSTP) // it is for the others
	_ = syscall.Kill(0, syscall.SIGTSTP)
	signal.Reset(syscall.SIGTSTP)
	_ = unix.Tgkill(os.Getpid(), unix.Gettid(), syscall.SIGTSTP) // to this thread: it does not go on before the SIGCONT
}
