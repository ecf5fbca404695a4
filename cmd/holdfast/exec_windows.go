package main

import (
	"context"
	"errors"
	"os"
)

// resized sends nothing: Windows has no signal for it. The next line is drawn in the new width.
func resized(chan<- os.Signal) {}

// errNoExec is why exec does not run here: package supervise stops a command, with all processes that it started, by Unix signals.
var errNoExec = errors.New("exec does not run on Windows, where it could not stop a command with all its processes before the lease expires; " +
	"run holdfast in WSL, or hold the lock by acquire, renew and release")

// Run refuses to run the command.
func (c *execCmd) Run(context.Context, *streams, *connection) error { return errNoExec }

type guardCmd struct{}

// Run refuses to run the guard.
func (c *guardCmd) Run() error { return errNoExec }
