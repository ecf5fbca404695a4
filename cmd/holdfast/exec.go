package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-lock/holdfast/internal/supervise"
	"github.com/holdfast-lock/holdfast/lockclient"
)

type execCmd struct {
	taking
	Grace      *time.Duration `placeholder:"TIME" help:"How long the command has to end after SIGTERM, before SIGKILL; at most a sixth of the TTL. By default 5s, or a sixth of a TTL below 30s."`
	AtLeast    time.Duration  `placeholder:"TIME" help:"Keep the lock for at least this long after it was acquired, even if the command ends sooner."`
	WithParent bool           `env:"HOLDFAST_WITH_PARENT" help:"End the command when the process that started holdfast ends."`
	Command    []string       `arg:"" passthrough:"" help:"The command and its arguments, after --."`
}

// Help is shown with exec's flags.
func (c *execCmd) Help() string {
	return `Waits for its turn, runs the command, renews the lease while it runs, and releases the lock. The command finds the lock's
name in HOLDFAST_LOCK and its fencing token in HOLDFAST_FENCE. If the lease is lost, the command and all processes that it
started get SIGTERM, and SIGKILL after the grace; if the lease cannot be renewed, early enough that they are gone before the
lock passes on. Processes that the command leaves running when it ends are stopped as well.`
}

const (
	defaultGrace = 5 * time.Second
	graceShare   = 6 // the grace is at most this part of the TTL: stopping a command must not begin before renewals had their chances
	checksPerTTL = 12
	parentEvery  = time.Second
)

// grace is the time between SIGTERM and SIGKILL.
func (c *execCmd) grace() time.Duration {
	if c.Grace != nil {
		return *c.Grace
	}
	return min(defaultGrace, c.TTL/graceShare)
}

// check says which flag is wrong, and how to put it right.
func (c *execCmd) check() error {
	switch most := c.TTL / graceShare; {
	case len(c.Command) == 0:
		return errors.New("there is no command; give it after --, like: holdfast exec deploy:prod -- ./deploy.sh")
	case c.grace() < 0:
		return fmt.Errorf("--grace is %v; give a time of 0 or more", *c.Grace)
	case c.grace() > most:
		return fmt.Errorf("--grace is %v; with --ttl %v it is at most %v, a sixth; give that, or --ttl %v", *c.Grace, c.TTL, most, *c.Grace*graceShare)
	case c.AtLeast < 0:
		return fmt.Errorf("--at-least is %v; give a time above 0, or 0 for none", c.AtLeast)
	}
	return nil
}

// cutDashes takes the -- off the command. Without it, what looks like a flag is a flag misspelt.
func (c *execCmd) cutDashes() error {
	switch {
	case len(c.Command) == 0:
	case c.Command[0] == "--":
		c.Command = c.Command[1:]
	case strings.HasPrefix(c.Command[0], "-"):
		return fmt.Errorf("there is no flag %s; the command comes after --", c.Command[0])
	}
	return nil
}

// Run runs the command under the lock.
func (c *execCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	if err := c.cutDashes(); err != nil {
		return err
	}
	opts, err := c.options()
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return err
	}
	path, err := exec.LookPath(c.Command[0]) // before the lock is taken
	if err != nil {
		if failed, ok := errors.AsType[*exec.Error](err); ok { // without the name again
			err = failed.Err
		}
		s.notice("failed", fmt.Sprintf("cannot run %s: %v", c.Command[0], err), "lock", c.Name)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			return exit(exitMissing)
		}
		return exit(exitCannot)
	}
	client, err := conn.client(ctx)
	if err != nil {
		return err
	}
	r := &execution{execCmd: c, conn: conn, client: client, path: path, s: s, notices: newNotices(s)}
	defer r.notices.flush()
	r.signals = make(chan os.Signal, 16) // from now on, so that none is lost
	signal.Notify(r.signals, endings()...)
	defer signal.Stop(r.signals)
	if c.WithParent {
		r.orphaned = parentGone(ctx, os.Getppid, parentEvery)
	}
	return r.run(ctx, opts)
}

// close releases whatever the client holds, or may hold unheard; also when a signal ended ctx.
func (c *connection) close(ctx context.Context, client *lockclient.Client) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*c.Timeout)
	defer cancel()
	return client.Close(ctx)
}

// giveUp closes the client after acquiring has failed, and answers that failure. Nothing is known to be held then, so a failure
// to close tells no more: a grant that was not heard of runs out by itself.
func (c *connection) giveUp(ctx context.Context, client *lockclient.Client, s *streams, name string, failed error) error {
	slow := time.AfterFunc(time.Second, func() {
		s.notice("giving_up", fmt.Sprintf("giving up; releasing %s first, which may have been granted unheard: 5 s at most", name), "lock", name)
	})
	defer slow.Stop()
	_ = c.close(ctx, client)
	return failed
}

// endings are the signals that end a command, except for those that are ignored, as nohup has it.
func endings() (list []os.Signal) {
	for _, n := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		if !signal.Ignored(n) {
			list = append(list, n)
		}
	}
	return list
}

// parentGone answers a channel that is closed when the process has another parent than now.
func parentGone(ctx context.Context, parent func() int, every time.Duration) <-chan struct{} {
	gone := make(chan struct{})
	first := parent()
	go func() {
		for tick := time.NewTicker(every); ; {
			select {
			case <-ctx.Done(): // the supervisor passes the signal on to the command
				return
			case <-tick.C:
			}
			if parent() != first {
				close(gone)
				return
			}
		}
	}()
	return gone
}

// An execution is one run of a command under a lock.
type execution struct {
	*execCmd
	conn     *connection
	client   *lockclient.Client
	path     string // of the executable
	s        *streams
	notices  *notices
	signals  chan os.Signal
	orphaned <-chan struct{}
}

func (r *execution) run(ctx context.Context, opts lockclient.Options) error {
	opts.MinHold, opts.OnRenewal = r.AtLeast, r.renewal
	acquiring, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-r.orphaned:
			cancel()
		case <-acquiring.Done():
		}
	}()
	lease, err := r.take(acquiring, r.client, opts, r.s)
	if err != nil {
		return r.conn.giveUp(ctx, r.client, r.s, r.Name, err)
	}
	acquired := time.Now()
	r.say("acquired", fmt.Sprintf("acquired %s, fence %d", r.Name, lease.Fence()), "fence", lease.Fence())
	if acquiring.Err() != nil { // a signal came first
		return errors.Join(acquiring.Err(), r.conn.close(ctx, r.client))
	}
	self, err := os.Executable()
	if err = cmp.Or(err, lease.Err()); err != nil { // starting took longer than the lease lasts
		return errors.Join(err, r.conn.close(ctx, r.client))
	}
	outcome, err := supervise.Run(supervise.Config{
		Path: r.path, Args: r.Command, Guard: []string{self, "guard"},
		Env:   append(os.Environ(), "HOLDFAST_LOCK="+r.Name, "HOLDFAST_FENCE="+strconv.FormatInt(lease.Fence(), 10)),
		Lease: execLease{lease}, Grace: r.grace(), CheckEvery: r.TTL / checksPerTTL,
		Signals: r.signals, Orphaned: r.orphaned, Notify: func(n supervise.Notice) { r.notice(n, lease) },
	})
	if err != nil {
		text := fmt.Sprintf("cannot run %s: %v", r.path, err)
		if strings.HasSuffix(text, syscall.ENOEXEC.Error()) {
			text += "; if it is a script, let it begin with a line such as #!/bin/sh"
		}
		r.say("failed", text)
		return errors.Join(exit(exitCannot), r.conn.close(ctx, r.client))
	}
	return r.finish(ctx, lease, acquired, outcome)
}

// finish releases the lock after the command has ended, and answers what exec exits with.
func (r *execution) finish(ctx context.Context, lease *lockclient.Lease, acquired time.Time, outcome supervise.Outcome) error {
	if len(outcome.Left) > 0 {
		r.say("left_running", fmt.Sprintf("these processes could not be ended and may run on without the lock: %v", list(outcome.Left)),
			"processes", outcome.Left)
	}
	switch outcome.Stopped {
	case supervise.Lost, supervise.Expiring:
		r.closeInTime(ctx, lease)
		return exit(exitLost)
	case supervise.Unguarded:
		r.say("failed", "the guard process was killed; the command and its processes were killed as well")
	}
	over, least := lease.Err(), acquired.Add(r.AtLeast)
	kept := over == nil && !r.keep(lease, least)
	until := lease.ExpiresAt()
	if until.Before(least) {
		until = least
	}
	released := r.conn.close(ctx, r.client)
	switch {
	case over != nil, errors.Is(released, lockclient.ErrLost):
		r.say("lost", fmt.Sprintf("the lease of %s was over when the command had ended", r.Name))
		return exit(exitLost)
	case released != nil: // the command's outcome counts; the lock comes free by itself
		r.say("not_released", message(released))
	case kept:
		r.say("kept", fmt.Sprintf("%s stays held until its lease runs out at %s (--at-least)", r.Name, until.Local().Format("15:04:05")), "expires_at", until.UTC())
	default:
		r.say("released", "released "+r.Name)
	}
	if outcome.Signal == syscall.SIGINT && outcome.HadTerminal {
		r.notices.flush()
		supervise.Interrupt()
	}
	switch {
	case outcome.Code < 0:
		return exit(exitFailed)
	case outcome.Code > 0:
		return exit(outcome.Code)
	}
	return nil
}

// closeInTime releases a lease that could not be renewed, if it can be released before it runs out by itself.
func (r *execution) closeInTime(ctx context.Context, lease *lockclient.Lease) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lease.Remaining())
	defer cancel()
	_ = r.client.Close(ctx)
}

// renewal says that the lease cannot be renewed, or can be again.
func (r *execution) renewal(err error, proved time.Time) {
	until := proved.Local().Format("15:04:05")
	if err != nil {
		r.say("renewal_failing", fmt.Sprintf("renewal is failing; the lease of %s is proved until %s: %s", r.Name, until, message(err)), "proved_until", proved.UTC())
		return
	}
	r.say("renewed", fmt.Sprintf("renewal works again; the lease of %s is proved until %s", r.Name, until), "proved_until", proved.UTC())
}

// keep waits until the lock was held for as long as it was asked for, and answers whether it was. A signal ends the wait; the
// lease then runs out by itself, since its MinHold is not over.
func (r *execution) keep(lease *lockclient.Lease, until time.Time) bool {
	left := time.Until(until)
	if left <= 0 {
		return true
	}
	r.say("keeping", fmt.Sprintf("the command has ended; keeping %s until %s (--at-least)", r.Name, until.Local().Format("15:04:05")))
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-lease.Context().Done(): // the command is done; the next one may begin
		return true
	case <-r.orphaned:
	case <-r.signals:
	}
	return false
}

// notice says what happens to the command.
func (r *execution) notice(n supervise.Notice, lease *lockclient.Lease) {
	switch {
	case n.Stopping == supervise.Lost && lease.Err() != nil:
		r.say("stopping", fmt.Sprintf("the lock is lost, stopping the command: %s", message(lease.Err())))
	case n.Stopping == supervise.Lost, n.Stopping == supervise.Expiring:
		r.say("stopping", fmt.Sprintf("the lease of %s was not renewed in time; stopping the command before the lock passes on", r.Name))
	case n.Stopping == supervise.Orphaned:
		r.say("stopping", "the process that started holdfast has ended, stopping the command (--with-parent)")
	case n.Suspended:
		r.say("suspended", fmt.Sprintf("stopped; the lease of %s is not renewed meanwhile, and the command is ended before it runs out at %s",
			r.Name, lease.ExpiresAt().Local().Format("15:04:05")))
		r.notices.drain(time.Second) // before we stop
	case len(n.Denied) > 0:
		text := "not permitted to signal %v, which may be another user's; run holdfast itself as that user, as in: sudo holdfast exec …"
		if lease.Err() != nil {
			text = "the lock is lost, and holdfast is " + text
		}
		r.say("not_permitted", fmt.Sprintf(text, list(n.Denied)), "processes", n.Denied)
	}
}

func (r *execution) say(event, text string, attrs ...any) {
	r.notices.say(event, text, append([]any{"lock", r.Name}, attrs...)...)
}

func list(processes []supervise.Process) string {
	texts := make([]string, len(processes))
	for i, p := range processes {
		texts[i] = p.String()
	}
	return strings.Join(texts, ", ")
}

// execLease is a lease as the supervisor sees it.
type execLease struct{ *lockclient.Lease }

// Done is closed when the lease is lost.
func (l execLease) Done() <-chan struct{} { return l.Context().Done() }

// notices writes notices in order, without making anyone wait: perhaps nobody reads standard error, and the command must be
// stopped all the same.
type notices struct {
	s       *streams
	queue   chan func()
	written chan struct{}
	closed  bool
}

func newNotices(s *streams) *notices {
	n := &notices{s: s, queue: make(chan func(), 64), written: make(chan struct{})}
	go func() {
		defer close(n.written)
		for write := range n.queue {
			write()
		}
	}()
	return n
}

// say queues a notice. If the queue is full, nobody reads, and the notice is dropped.
func (n *notices) say(event, text string, attrs ...any) {
	select {
	case n.queue <- func() { n.s.notice(event, text, attrs...) }:
	default:
	}
}

// drain waits until what is queued is written, but no longer than most.
func (n *notices) drain(most time.Duration) {
	written := make(chan struct{})
	select {
	case n.queue <- func() { close(written) }:
	default:
		return
	}
	select {
	case <-written:
	case <-time.After(most):
	}
}

// flush writes the queued notices, as far as standard error takes them. No notice can be queued afterwards.
func (n *notices) flush() {
	if n.closed {
		return
	}
	n.closed = true
	close(n.queue)
	select {
	case <-n.written:
	case <-time.After(time.Second):
	}
}

type guardCmd struct {
	FD int `arg:"" help:"The descriptor of the connection to exec."`
}

// Run runs the guard.
func (c *guardCmd) Run() error { return supervise.Guard(c.FD) }
