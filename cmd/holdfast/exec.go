package main

import (
	"bufio"
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
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/holdfast-lock/holdfast/lockclient"
)

type execCmd struct {
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
func (c *execCmd) Run(ctx context.Context, s *streams, conn *connection) error {
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
	client, err := conn.client(ctx)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 16) // from now on, so that none is lost
	signal.Notify(signals, append(endings(), syscall.SIGTSTP)...)
	defer signal.Stop(signals)
	lease, err := c.take(ctx, client, opts, s)
	if err != nil {
		return errors.Join(err, conn.close(ctx, client))
	}
	s.notice("acquired", fmt.Sprintf("acquired %s, fence %d", c.Name, lease.Fence()), "lock", c.Name, "fence", lease.Fence())
	if ctx.Err() != nil { // a signal came first
		return errors.Join(ctx.Err(), conn.close(ctx, client))
	}
	code, lost, err := c.supervise(lease, path, signals, s)
	released := conn.close(ctx, client)
	switch {
	case err != nil:
		s.notice("failed", fmt.Sprintf("cannot run %s: %v", path, err), "lock", c.Name)
		return exit(exitCannot)
	case lost != nil:
		return lost
	case lease.Err() != nil && !errors.Is(lease.Err(), lockclient.ErrReleased), errors.Is(released, lockclient.ErrLost):
		s.notice("lost", fmt.Sprintf("the lease of %s was over when the command had ended", c.Name), "lock", c.Name)
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

// close gives back whatever the client holds, or may hold unheard; also when a signal ended ctx.
func (c *connection) close(ctx context.Context, client *lockclient.Client) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*c.Timeout)
	defer cancel()
	return client.Close(ctx)
}

// endings are the signals that end a command, but for those that whoever started us wants ignored, as nohup does.
func endings() (list []os.Signal) {
	for _, n := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		if !signal.Ignored(n) {
			list = append(list, n)
		}
	}
	return list
}

// supervise runs the command until it and its process group are gone. It answers the exit code, or why the lease was lost;
// err is why the command could not be started. Nothing here waits for anyone to read what we say: signals come first.
func (c *execCmd) supervise(lease *lockclient.Lease, path string, signals <-chan os.Signal, s *streams) (code int, lost, err error) {
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
	if fd := int(s.in.Fd()); inForeground(fd) { // the terminal's keys and input are the command's
		cmd.SysProcAttr.Foreground, cmd.SysProcAttr.Ctty = true, fd
		defer takeTerminalBack(fd)
	}
	if err := lease.Err(); err != nil { // starting took too long
		return 0, err, nil
	}
	guard.holdUntil(lease.ExpiresAt())
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
	var patience time.Time // when the command must be gone; zero: it may run
	stop := func(cause error, deadline time.Time, text string) {
		lost = cause
		patience = time.Now().Add(max(min(c.grace(), time.Until(deadline)), 0))
		group.signal(syscall.SIGTERM)
		time.AfterFunc(time.Until(patience), func() { group.signal(syscall.SIGKILL) })
		go s.notice("stopping", text, "lock", c.Name)
	}
	running := lease.Context().Done()
	early := time.NewTimer(time.Until(lease.ExpiresAt()) - c.grace())
	defer early.Stop()
	for {
		select {
		case err := <-ended:
			if patience.IsZero() { // what it left behind gets a grace, and no more than the lease
				patience = time.Now().Add(max(min(c.grace(), time.Until(lease.ExpiresAt())), 0))
			}
			guard.leave()
			group.finish(patience)
			if lost != nil {
				return 0, lost, nil
			}
			return exitCode(cmd, err), nil, nil
		case <-running:
			running = nil
			if lost == nil {
				cause := context.Cause(lease.Context())
				stop(cause, time.Now().Add(c.grace()), "the lock is lost, stopping the command: "+message(cause))
			}
		case <-early.C:
			if left := time.Until(lease.ExpiresAt()) - c.grace(); left > 0 { // it was renewed
				guard.holdUntil(lease.ExpiresAt())
				early.Reset(min(left, c.TTL/3))
			} else if lost == nil {
				stop(fmt.Errorf("%s: %w: it could not be renewed in time", c.Name, lockclient.ErrLost), lease.ExpiresAt(),
					"the lock cannot be renewed, stopping the command before the lock passes on")
			}
		case sig := <-signals:
			if n, ok := sig.(syscall.Signal); ok && n != syscall.SIGTSTP { // a stopped command would hold the lock for ever
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

// alive tells whether any process of the group is left. As process 1 of a container we are the parent of orphans, and bury
// them here.
func (g processGroup) alive() bool {
	for {
		if pid, err := syscall.Wait4(-int(g), nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
			return syscall.Kill(-int(g), 0) == nil
		}
	}
}

// finish ends what is left of a group whose leader is gone: SIGTERM, and SIGKILL at the deadline.
func (g processGroup) finish(deadline time.Time) {
	if !g.alive() {
		return
	}
	g.signal(syscall.SIGTERM)
	for g.alive() && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	g.signal(syscall.SIGKILL)
	for end := time.Now().Add(time.Second); g.alive() && time.Now().Before(end); { // until they are gone, not only told
		time.Sleep(time.Millisecond)
	}
}

// inForeground tells whether a file is a terminal of which we are the foreground: in the background the terminal is not ours
// to give.
func inForeground(fd int) bool {
	if !term.IsTerminal(fd) {
		return false
	}
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// takeTerminalBack makes our own process group the terminal's foreground again, after the command had it.
func takeTerminalBack(fd int) {
	signal.Ignore(syscall.SIGTTOU) // a background process that does this is stopped
	defer signal.Reset(syscall.SIGTTOU)
	_ = unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, unix.Getpgrp())
}

// A guard is a process that leads the command's process group, and stops that group if we are killed, or stopped for longer
// than the lease lasts: a kill -9 of holdfast leaves nothing running under a lock that will pass on. It leads the group,
// rather than being told of it, so that there is no moment in which the command runs unguarded.
type guard struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	group processGroup
	once  sync.Once
}

// Words between us and the guard, a line each.
const (
	guardReady = "ready" // from it: it is deaf to signals
	guardUntil = "until" // to it, with milliseconds from now: the end of the lease
	guardLeave = "leave" // to it: leave the group, so that one can see whether anybody else is left
	guardLeft  = "left"  // from it
	guardDone  = "done"  // to it
)

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
	g := &guard{cmd: cmd, in: in, out: bufio.NewReader(out), group: processGroup(cmd.Process.Pid)}
	if word, err := g.out.ReadString('\n'); word != guardReady+"\n" {
		g.dismiss()
		return nil, fmt.Errorf("the guard did not start: %q, %w", word, err)
	}
	return g, nil
}

func (g *guard) holdUntil(expiry time.Time) {
	_, _ = fmt.Fprintf(g.in, "%s %d\n", guardUntil, time.Until(expiry).Milliseconds())
}

// leave has the guard leave the group, which it goes on watching.
func (g *guard) leave() {
	_, _ = fmt.Fprintln(g.in, guardLeave)
	_ = g.cmd.Process.Signal(syscall.SIGCONT) // should a signal to the group have stopped it
	_, _ = g.out.ReadString('\n')
}

// dismiss ends the guard.
func (g *guard) dismiss() {
	g.once.Do(func() {
		_, _ = fmt.Fprintln(g.in, guardDone)
		_ = g.in.Close()
		_ = g.cmd.Process.Signal(syscall.SIGCONT)
		_ = g.cmd.Wait()
	})
}

type guardCmd struct {
	Grace time.Duration `required:"" help:"Between SIGTERM and SIGKILL."`
}

// Run watches the process group that it leads: it stops the group when standard input ends without a last word, and when the
// lease that was last told of is over.
func (c *guardCmd) Run(s *streams) error {
	if syscall.Getpgrp() != os.Getpid() {
		return errors.New("guard is for exec to start, at the head of a process group")
	}
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU)
	group := processGroup(os.Getpid())
	if _, err := fmt.Fprintln(s.out, guardReady); err != nil {
		return err
	}
	over := time.AfterFunc(time.Hour, func() { group.signal(syscall.SIGKILL) })
	over.Stop()
	for lines := bufio.NewScanner(s.in); lines.Scan(); {
		var left int64
		switch word, rest, _ := strings.Cut(lines.Text(), " "); word {
		case guardUntil:
			if _, err := fmt.Sscan(rest, &left); err == nil {
				over.Reset(time.Duration(left) * time.Millisecond)
			}
		case guardLeave:
			if parents, err := syscall.Getpgid(os.Getppid()); err == nil {
				_ = syscall.Setpgid(0, parents)
			}
			_, _ = fmt.Fprintln(s.out, guardLeft)
		case guardDone:
			return nil
		}
	}
	group.signal(syscall.SIGTERM)
	time.Sleep(c.Grace)
	group.signal(syscall.SIGKILL)
	return nil
}
