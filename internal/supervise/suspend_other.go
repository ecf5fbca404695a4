//go:build unix && !linux

package supervise

import (
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// suspend stops the rest of our process group, which the terminal's keys did not reach, and then this process until a SIGCONT.
func suspend() {
	resumed := make(chan os.Signal, 1)
	signal.Notify(resumed, syscall.SIGCONT)
	defer signal.Stop(resumed)
	signal.Ignore(syscall.SIGTSTP) // it is for the others
	_ = syscall.Kill(0, syscall.SIGTSTP)
	_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	select { // another thread may have been the one that was stopped first
	case <-resumed:
	case <-time.After(time.Second):
	}
}

// controlled tells whether the process that started this one is a shell with job control: of the same session, and of
// another process group.
func controlled() bool {
	session, err := unix.Getsid(0)
	parents, parentErr := unix.Getsid(os.Getppid())
	group, groupErr := unix.Getpgid(os.Getppid())
	return err == nil && parentErr == nil && groupErr == nil && session == parents && group != unix.Getpgrp()
}
