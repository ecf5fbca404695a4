//go:build unix

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-lock/holdfast/internal/supervise"
	"github.com/holdfast-lock/holdfast/lockclient"
)

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
	lease, err := r.take(acquiring, r.client, opts, r.conn, r.s)
	if err != nil {
		return r.conn.giveUp(ctx, r.client, r.s, r.Name, err)
	}
	acquired := time.Now()
	if r.set == nil {
		r.say("acquired", fmt.Sprintf("acquired %s, fence %d", r.Name, lease.Fence()), "fence", lease.Fence())
	} else {
		r.say("acquired", "acquired "+r.Name, "fences", lease.Fences())
	}
	if acquiring.Err() != nil { // a signal arrived before the grant
		return errors.Join(acquiring.Err(), r.conn.close(ctx, r.client))
	}
	self, err := os.Executable()
	if err = cmp.Or(err, lease.Err()); err != nil { // the lease expired meanwhile
		return errors.Join(err, r.conn.close(ctx, r.client))
	}
	outcome, err := supervise.Run(supervise.Config{
		Path: r.path, Args: r.Command, Guard: []string{self, "guard"},
		Env:   append(os.Environ(), r.environment(lease)...),
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

// finish releases the lock after the command has ended. Its result sets the exit code.
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
	case released != nil: // the exit code stays the command's, as the lease expires by itself
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

// closeInTime releases a lease that could not be renewed, unless it expires first.
func (r *execution) closeInTime(ctx context.Context, lease *lockclient.Lease) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lease.Remaining())
	defer cancel()
	_ = r.client.Close(ctx)
}

// renewal is [lockclient.Options].OnRenewal: it reports the first renewal that fails, and the first that succeeds
// again.
func (r *execution) renewal(err error, proved time.Time) {
	until := proved.Local().Format("15:04:05")
	if err != nil {
		r.say("renewal_failing", fmt.Sprintf("renewal is failing; the lease of %s is proved until %s: %s", r.Name, until, message(err)), "proved_until", proved.UTC())
		return
	}
	r.say("renewed", fmt.Sprintf("renewal works again; the lease of %s is proved until %s", r.Name, until), "proved_until", proved.UTC())
}

// keep waits until the time of --at-least has passed, and reports whether it has. A signal ends the wait; the lease
// then stays until it expires, since its MinHold has not passed.
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
	case <-lease.Context().Done(): // the lease is lost, so that nothing is left to keep
		return true
	case <-r.orphaned:
	case <-r.signals:
	}
	return false
}

// notice reports what the supervisor does to the command.
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
		r.notices.drain(time.Second) // this process stops next
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

// execLease makes a lease a [supervise.Lease].
type execLease struct{ *lockclient.Lease }

// Done is closed when the lease is lost.
func (l execLease) Done() <-chan struct{} { return l.Context().Done() }

// environment is what the command finds of its lease. Of a set there is no single fencing token.
func (r *execution) environment(lease *lockclient.Lease) []string {
	if r.set == nil {
		return []string{"HOLDFAST_LOCK=" + r.Name, "HOLDFAST_FENCE=" + strconv.FormatInt(lease.Fence(), 10)}
	}
	fences, _ := json.Marshal(lease.Fences()) // numbers always encode
	return []string{"HOLDFAST_LOCK=" + r.Name, "HOLDFAST_FENCE=", "HOLDFAST_FENCES=" + string(fences)}
}
