//go:build !linux

package main

import "syscall"

// dieWithParent does nothing where the kernel knows no such thing; the guard has to do.
func dieWithParent(*syscall.SysProcAttr) {}
