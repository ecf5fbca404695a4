package main

import "syscall"

// dieWithParent has the kernel kill a command when holdfast dies: should the guard be killed as well.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
