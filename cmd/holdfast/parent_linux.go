package main

import "syscall"

// dieWithParent has the kernel end a command when holdfast dies: should the guard, which does more, be killed as well.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGTERM }
