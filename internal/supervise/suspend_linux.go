package supervise

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// suspend stops the rest of this process group, which the terminal's keys did not reach, and then this process until a
// SIGCONT.
func suspend() {
	signal.Ignore(syscall.SIGTSTP) // it is for the other processes of the group
	_ = syscall.Kill(0, syscall.SIGTSTP)
	// SIGSTOP, since the Go runtime does not restore the default action of SIGTSTP. It takes effect before Tgkill
	// returns, as it is sent to the calling thread.
	_ = unix.Tgkill(os.Getpid(), unix.Gettid(), syscall.SIGSTOP)
}

// controlled reports whether a shell with job control can resume this process group: whether the nearest ancestor
// outside the group is in the same session. Otherwise the group is what POSIX calls an orphaned process group, where
// SIGTSTP has no effect.
func controlled() bool {
	p, err := readProcess(os.Getpid())
	group, session := p.group, p.session
	for err == nil && p.group == group && p.parent > 0 {
		p, err = readProcess(p.parent)
	}
	return err == nil && p.session == session && p.group != group
}
