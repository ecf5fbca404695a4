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

// isInput tells whether standard input and output are the terminal: whether to expect that the command reads from it. In a
// pipeline another process may want to, and the command gets the terminal when it asks for it.
func (t terminal) isInput() bool {
	for _, fd := range []int{syscall.Stdin, syscall.Stdout} {
		if _, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err != nil {
			return false
		}
	}
	return t.is()
}

// ours tells whether our process group is the foreground: in the background the terminal is not ours to give.
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
	signal.Ignore(syscall.SIGTTOU) // it would stop us: we are in the background
	defer signal.Reset(syscall.SIGTTOU)
	_ = t.give(unix.Getpgrp())
}
