package supervise

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// suspend stops the rest of our process group, which the terminal's keys did not reach, and then this process until a SIGCONT.
func suspend() {
	signal.Ignore(syscall.SIGTSTP) // it is for the others
	_ = syscall.Kill(0, syscall.SIGTSTP)
	// SIGSTOP, because the Go runtime does not restore the default effect of SIGTSTP. It stops the calling thread before
	// Tgkill returns.
	_ = unix.Tgkill(os.Getpid(), unix.Gettid(), syscall.SIGSTOP)
}

// controlled tells whether a shell with job control looks after our process group and can resume it: whether the first
// process up the line that is not in the group is in the same session. Otherwise the group is an orphaned one, in the words of
// POSIX, where SIGTSTP has no effect.
func controlled() bool {
	p, err := readProcess(os.Getpid())
	group, session := p.group, p.session
	for err == nil && p.group == group && p.parent > 0 {
		p, err = readProcess(p.parent)
	}
	return err == nil && p.session == session && p.group != group
}
