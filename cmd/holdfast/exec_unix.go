//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/holdfast-lock/holdfast/internal/supervise"
)

// resized sends a value when the width of the terminal changes.
func resized(to chan<- os.Signal) { signal.Notify(to, syscall.SIGWINCH) }

// Run runs the command while holding the lock.
func (c *execCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	if err := errors.Join(c.readSet(), c.cutDashes()); err != nil {
		return err
	}
	if c.Name == "" {
		return errors.New("there is no lock; give its name, like: holdfast exec deploy:prod -- ./deploy.sh, or --lock for each lock of a set")
	}
	opts, err := c.options()
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return err
	}
	path, err := exec.LookPath(c.Command[0]) // before the lock is acquired
	if err != nil {
		if failed, ok := errors.AsType[*exec.Error](err); ok { // its text would repeat the name
			err = failed.Err
		}
		s.notice("failed", fmt.Sprintf("cannot run %s: %v", c.Command[0], err), "lock", c.Name)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			return exit(exitMissing)
		}
		return exit(exitCannot)
	}
	client, err := c.open(ctx, conn)
	if err != nil {
		return err
	}
	r := &execution{execCmd: c, conn: conn, client: client, path: path, s: s, notices: newNotices(s)}
	defer r.notices.flush()
	r.signals = make(chan os.Signal, 16) // before the lock is acquired, so that no signal is lost
	signal.Notify(r.signals, endings()...)
	defer signal.Stop(r.signals)
	if c.WithParent {
		r.orphaned = supervise.ParentGone(ctx)
	}
	return r.run(ctx, opts)
}

type guardCmd struct {
	FD int `arg:"" help:"The descriptor of the connection to exec."`
}

// Run runs the guard.
func (c *guardCmd) Run() error { return supervise.Guard(c.FD) }
