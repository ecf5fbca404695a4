//go:build unix

package supervise

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// A terminal is the controlling terminal of this process. The zero value is that of a process without one.
type terminal struct{ file *os.File }

func controllingTerminal() terminal {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return terminal{}
	}
	return terminal{f}
}

func (t terminal) close() {
	if t.is() {
		_ = t.file.Close()
	}
}

func (t terminal) is() bool { return t.file != nil }

// isInput reports whether standard input and output are the terminal, so that the command probably reads from it. In a
// pipeline another process may read from it; there the command gets the terminal when it tries to read.
func (t terminal) isInput() bool {
	for _, fd := range []int{syscall.Stdin, syscall.Stdout} {
		if _, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err != nil {
			return false
		}
	}
	return t.is()
}

// ours reports whether this process group is the foreground. Only then may it give the terminal away.
func (t terminal) ours() bool { return t.of(unix.Getpgrp()) }

func (t terminal) of(group int) bool {
	if !t.is() {
		return false
	}
	foreground, err := unix.IoctlGetInt(int(t.file.Fd()), unix.TIOCGPGRP)
	return err == nil && foreground == group
}

func (t terminal) give(group int) bool {
	return unix.IoctlSetPointerInt(int(t.file.Fd()), unix.TIOCSPGRP, group) == nil
}

func (t terminal) take() {
	signal.Ignore(syscall.SIGTTOU) // it would stop this process, which is in the background
	defer signal.Reset(syscall.SIGTTOU)
	_ = t.give(unix.Getpgrp())
}
