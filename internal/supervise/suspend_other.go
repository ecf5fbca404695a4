//go:build unix && !linux

package supervise

import (
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// suspend stops the rest of this process group, which the terminal's keys did not reach, and then this process until a
// SIGCONT.
func suspend() {
	resumed := make(chan os.Signal, 1)
	signal.Notify(resumed, syscall.SIGCONT)
	defer signal.Stop(resumed)
	signal.Ignore(syscall.SIGTSTP) // it is for the other processes of the group
	_ = syscall.Kill(0, syscall.SIGTSTP)
	_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	select { // the signal may stop another thread first, so that this one runs on for a moment
	case <-resumed:
	case <-time.After(time.Second):
	}
}

// controlled reports whether the parent is a shell with job control: it is in the same session and in another process
// group.
func controlled() bool {
	session, err := unix.Getsid(0)
	parents, parentErr := unix.Getsid(os.Getppid())
	group, groupErr := unix.Getpgid(os.Getppid())
	return err == nil && parentErr == nil && groupErr == nil && session == parents && group != unix.Getpgrp()
}
