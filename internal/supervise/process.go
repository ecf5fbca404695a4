//go:build unix

package supervise

import (
	"os"
	"syscall"
)

// startProcess starts a command with the standard streams and the environment of this process.
func startProcess(s start, attr *syscall.SysProcAttr) (pid int, err error) {
	p, err := os.StartProcess(string(s.Path), s.args(), &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: attr})
	if err != nil {
		return 0, err
	}
	pid = p.Pid
	return pid, p.Release() // the tree reaps it
}
