package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/holdfast-lock/holdfast/lockclient"
)

type execCmd struct {
	connection
	taking
	Grace   time.Duration `default:"5s" help:"How long the command has to end after SIGTERM, before SIGKILL; at most a sixth of the TTL."`
	Command []string      `arg:"" passthrough:"" help:"The command and its arguments, after --."`
}

// Help is shown with exec's flags.
func (c *execCmd) Help() string {
	return `Waits for its turn, runs the command, renews the lease while it runs, and gives the lock back. The command finds the lock's
name in HOLDFAST_LOCK and its fencing token in HOLDFAST_FENCE. If the lease is lost the whole process group of the command
gets SIGTERM, and SIGKILL after the grace; if it cannot be renewed, early enough that the command is gone before the lock
passes on. What the command leaves running in its process group when it ends is stopped as well.`
}

// grace is at most a sixth of the TTL: stopping a command must not begin before renewals had their chances.
func (c *execCmd) grace() time.Duration { return min(c.Grace, c.TTL/6) }

// Run runs the command under the lock.
func (c *execCmd) Run(ctx context.Context, s *streams) error {
	if len(c.Command) > 0 && c.Command[0] == "--" {
		c.Command = c.Command[1:]
	}
	if len(c.Command) == 0 {
		return errors.New("there is no command; give it after --, like: holdfast exec deploy:prod -- ./deploy.sh")
	}
	if c.Grace < 0 {
		return fmt.Errorf("--grace is %v; give a time of 0 or more", c.Grace)
	}
	path, err := exec.LookPath(c.Command[0]) // before the lock is taken
	if err != nil {
		s.notice("failed", fmt.Sprintf("cannot run %s: %v", c.Command[0], err), "lock", c.Name)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			return exit(exitMissing)
		}
		return exit(exitCannot)
	}
	opts, err := c.options()
	if err != nil {
		return err
	}
	client, err := c.client(ctx, c.Owner)
	if err != nil {
		return err
	}
	opts.OnWait = c.waiting(s)
	lease, err := client.Acquire(ctx, c.Name, opts)
	if err != nil {
		return err
	}
	s.notice("acquired", fmt.Sprintf("acquired %s, fence %d", c.Name, lease.Fence()), "lock", c.Name, "fence", lease.Fence())
	code, lost, err := c.supervise(lease, path, s)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*c.Timeout) // also when a signal ended ctx
	defer cancel()
	released := lease.Release(ctx)
	switch {
	case err != nil:
		s.notice("failed", fmt.Sprintf("cannot run %s: %v", path, err), "lock", c.Name)
		return exit(exitCannot)
	case lost != nil:
		return lost
	case errors.Is(released, lockclient.ErrLost): // lost after the command had ended
		s.notice("lost", fmt.Sprintf("the lease of %s was over when the command had ended: %s", c.Name, message(released)), "lock", c.Name)
		return exit(exitLost)
	case released != nil: // the command's outcome counts; the lock comes free by itself
		s.notice("not_released", message(released), "lock", c.Name)
	default:
		s.notice("released", "released "+c.Name, "lock", c.Name)
	}
	if code != 0 {
		return exit(code)
	}
	return nil
}

// supervise runs the command until it and its process group are gone. It answers the exit code, or why the lease was lost;
// err is why the command could not be started.
func (c *execCmd) supervise(lease *lockclient.Lease, path string, s *streams) (code int, lost, err error) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)

	guard, err := startGuard(c.grace())
	if err != nil {
		return 0, nil, err
	}
	defer guard.dismiss()
	cmd := exec.Command(path, c.Command[1:]...) //nolint:gosec,noctx // running what we are told is the job; a context would kill the leader alone
	cmd.Args[0] = c.Command[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "HOLDFAST_LOCK="+c.Name, "HOLDFAST_FENCE="+strconv.FormatInt(lease.Fence(), 10))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: int(guard.group)}
	dieWithParent(cmd.SysProcAttr)
	if term.IsTerminal(int(s.in.Fd())) { // the terminal's keys and input are the command's
		cmd.SysProcAttr.Foreground, cmd.SysProcAttr.Ctty = true, int(s.in.Fd())
		defer takeTerminalBack(int(s.in.Fd()))
	}
	ended := make(chan error, 1)
	started := make(chan error, 1)
	go func() { // the thread that starts the command must outlive it: its end would count as the parent's
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return 0, nil, err
	}
	group := guard.group
	var kill <-chan time.Time // when patience ends
	stop := func(why string, deadline time.Time) {
		s.notice("stopping", why, "lock", c.Name)
		group.signal(syscall.SIGTERM)
		kill = time.After(max(min(c.grace(), time.Until(deadline)), 0))
	}
	running := lease.Context().Done()
	early := time.NewTimer(time.Until(lease.ExpiresAt()) - c.grace())
	defer early.Stop()
	for {
		select {
		case err := <-ended:
			guard.dismiss()
			group.finish(c.grace())
			if lost != nil {
				return 0, lost, nil
			}
			return exitCode(cmd, err), nil, nil
		case <-running:
			running = nil
			if lost == nil {
				lost = context.Cause(lease.Context())
				stop("the lock is lost, stopping the command: "+message(lost), time.Now().Add(c.grace()))
			}
		case <-early.C:
			if left := time.Until(lease.ExpiresAt()) - c.grace(); left > 0 { // it was renewed
				early.Reset(left)
			} else if lost == nil {
				lost = fmt.Errorf("%s: %w: it could not be renewed in time", c.Name, lockclient.ErrLost)
				stop("the lock cannot be renewed, stopping the command before the lock passes on", lease.ExpiresAt())
			}
		case <-kill:
			group.signal(syscall.SIGKILL)
		case sig := <-signals:
			if n, ok := sig.(syscall.Signal); ok {
				group.signal(n)
			}
		}
	}
}

// exitCode is a command's, or 128 and the number of the signal that ended it, as shells put it.
func exitCode(cmd *exec.Cmd, err error) int {
	if state, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && state.Signaled() {
		return 128 + int(state.Signal())
	}
	if code := cmd.ProcessState.ExitCode(); code >= 0 && (err == nil || code != 0) {
		return code
	}
	return exitFailed
}

// A processGroup is a command and what it started, named by the process id of the guard that leads it.
type processGroup int

func (g processGroup) signal(n syscall.Signal) { _ = syscall.Kill(-int(g), n) }

func (g processGroup) alive() bool { return syscall.Kill(-int(g), 0) == nil }

// finish ends what is left of a group whose leader is gone.
func (g processGroup) finish(grace time.Duration) {
	if !g.alive() {
		return
	}
	g.signal(syscall.SIGTERM)
	for end := time.Now().Add(grace); g.alive() && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	g.signal(syscall.SIGKILL)
	for end := time.Now().Add(time.Second); g.alive() && time.Now().Before(end); { // until they are gone, not only told
		time.Sleep(time.Millisecond)
	}
}

// takeTerminalBack makes our own process group the terminal's foreground again, after the command had it.
func takeTerminalBack(fd int) {
	signal.Ignore(syscall.SIGTTOU) // a background process that does this is stopped
	defer signal.Reset(syscall.SIGTTOU)
	_ = unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, unix.Getpgrp())
}

// A guard is a process that leads the command's process group, and stops that group if we are killed: a kill -9 of holdfast
// leaves nothing running under a lock that will pass on. It leads the group, rather than being told of it, so that there is
// no moment in which the command runs unguarded.
type guard struct {
	cmd   *exec.Cmd
	pipe  io.WriteCloser
	group processGroup
	once  sync.Once
}

func startGuard(grace time.Duration) (*guard, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "guard", "--grace", grace.String()) //nolint:gosec,noctx // ourselves; it ends with its pipe
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the guard: %w", err)
	}
	g := &guard{cmd: cmd, pipe: in, group: processGroup(cmd.Process.Pid)}
	if _, err := io.ReadFull(out, make([]byte, len(guardReady))); err != nil {
		g.dismiss()
		return nil, fmt.Errorf("the guard did not start: %w", err)
	}
	return g, nil
}

// dismiss ends the guard.
func (g *guard) dismiss() {
	g.once.Do(func() {
		_, _ = io.WriteString(g.pipe, guardDone)
		_ = g.pipe.Close()
		_ = g.cmd.Wait()
	})
}

const (
	guardReady = "ready\n" // from the guard: it is deaf to signals
	guardDone  = "done\n"  // to it
)

type guardCmd struct {
	Grace time.Duration `required:"" help:"Between SIGTERM and SIGKILL."`
}

// Run waits for the end of standard input; without a last word it stops the process group that it leads, itself included.
func (c *guardCmd) Run(s *streams) error {
	if syscall.Getpgrp() != os.Getpid() {
		return errors.New("guard is for exec to start, at the head of a process group")
	}
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	if _, err := io.WriteString(s.out, guardReady); err != nil {
		return err
	}
	if word, err := io.ReadAll(s.in); err != nil || string(word) == guardDone {
		return err
	}
	group := processGroup(os.Getpid())
	group.signal(syscall.SIGTERM)
	time.Sleep(c.Grace)
	group.signal(syscall.SIGKILL)
	return nil
}
