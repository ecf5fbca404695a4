package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/fatih/color"

	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

type statusCmd struct {
	Name    string `arg:"" predictor:"lock" help:"The lock's name."`
	Waiters int    `placeholder:"N" help:"Also show the first N waiters, at most 100: who waits, since when, and for how many permits."`
}

// Run shows a lock.
func (c *statusCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	if c.Waiters < 0 || c.Waiters > wire.MaxPage {
		return fmt.Errorf("--waiters is %d; give 1 to %d", c.Waiters, wire.MaxPage)
	}
	status, err := ask(ctx, s, conn, "status", func(client *lockclient.Client) (lockclient.Status, error) {
		if c.Waiters == 0 {
			return client.Status(ctx, c.Name)
		}
		return client.Queue(ctx, c.Name, c.Waiters)
	})
	if err != nil {
		return err
	}
	return s.result(wireStatus(status), s.describe(status))
}

// describe formats a lock in a few lines.
func (s *streams) describe(status lockclient.Status) string {
	var b strings.Builder
	state := s.paint("free", color.FgGreen)
	if status.Locked {
		state = s.paint("held", color.FgYellow)
	}
	fmt.Fprintf(&b, "%s is %s", s.paint(printable(status.Lock), color.Bold), state)
	if !status.Locked && status.Fence > 0 {
		fmt.Fprintf(&b, ", last held with fence %d", status.Fence)
	}
	if status.Capacity > 1 {
		fmt.Fprintf(&b, ", %d of %d permits are free", status.Available, status.Capacity)
	}
	if status.Waiting > 0 {
		fmt.Fprintf(&b, ", %d wait", status.Waiting)
	}
	if status.Frozen != nil {
		fmt.Fprintf(&b, "\n  %s", s.paint(frozen(status.Frozen), color.FgCyan))
	}
	if !status.NextGrant.IsZero() {
		fmt.Fprintf(&b, "\n  %s", s.paint("granted next at "+stamp(status.NextGrant)+" at the earliest, by its rate", color.FgCyan))
	}
	for _, h := range status.Holders {
		fmt.Fprintf(&b, "\n  %s", who(h.Owner))
		if h.Principal != "" {
			fmt.Fprintf(&b, " (%s)", printable(h.Principal))
		}
		if h.Permits > 1 {
			fmt.Fprintf(&b, ", %d permits", h.Permits)
		}
		fmt.Fprintf(&b, "\n    fence %d, since %s, renewed %s, expires %s (in %v)", h.Fence, stamp(h.AcquiredAt), stamp(h.RenewedAt), stamp(h.ExpiresAt), h.Remaining.Round(100*time.Millisecond))
		if len(h.Metadata) > 0 {
			fmt.Fprintf(&b, "\n    %s", printable(string(h.Metadata)))
		}
	}
	for _, w := range status.Queue {
		fmt.Fprintf(&b, "\n  waiter %d: %s", w.Position, who(w.Owner))
		if w.Principal != "" {
			fmt.Fprintf(&b, " (%s)", printable(w.Principal))
		}
		if w.Permits > 1 {
			fmt.Fprintf(&b, ", %d permits", w.Permits)
		}
		if w.Task {
			b.WriteString(", a task of a state machine")
		}
		if len(w.Set) > 0 {
			fmt.Fprintf(&b, ", for %s together", strings.Join(w.Set, " and "))
		}
		if !w.JoinedAt.IsZero() {
			fmt.Fprintf(&b, ", since %s (%v)", stamp(w.JoinedAt), max(status.At.Sub(w.JoinedAt), 0).Round(time.Second))
		}
	}
	return b.String()
}

func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

type lsCmd struct {
	Prefix string `arg:"" predictor:"lock" optional:"" help:"The prefix of the names to list; by default all locks."`
	All    bool   `help:"Also list free locks whose record still exists (for a day)."`
	Limit  int    `placeholder:"N" help:"List at most N locks; by default all."`
}

// Run lists locks.
func (c *lsCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	if c.Limit < 0 {
		return fmt.Errorf("--limit is %d; give a number above 0", c.Limit)
	}
	client, err := conn.client(ctx)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(s.out, 0, 8, 2, ' ', 0)
	n := 0
	answered := s.slow("ls")
	defer answered()
	for status, err := range client.List(ctx, c.Prefix, c.All) {
		answered()
		if err != nil {
			return errors.Join(err, table.Flush())
		}
		if n++; n == c.Limit+1 && c.Limit > 0 {
			_ = table.Flush()
			s.notice("more", fmt.Sprintf("there are more than %d; give a longer prefix, or a higher --limit", c.Limit))
			return nil
		}
		if s.json {
			if err := s.result(wireStatus(status), ""); err != nil {
				return err
			}
			continue
		}
		if n == 1 {
			_, _ = fmt.Fprintln(table, "LOCK\tHELD BY\tFENCE\tEXPIRES IN\tWAITING")
		}
		_, _ = fmt.Fprintln(table, row(status))
	}
	if n == 0 {
		s.notice("none", c.nothing())
	}
	return table.Flush()
}

// nothing is the notice of an empty list.
func (c *lsCmd) nothing() string {
	text := "no locks are held"
	if c.All {
		text = "no locks are held or remembered"
	}
	if c.Prefix != "" {
		text += " whose names begin with " + c.Prefix
	}
	return text
}

// row formats a lock as a row of the table.
func row(status lockclient.Status) string {
	owner, expires := "-", "-"
	if len(status.Holders) > 0 {
		owner, expires = who(status.Holders[0].Owner), status.Holders[0].Remaining.Round(time.Second).String()
		if more := len(status.Holders) - 1; more > 0 {
			owner += fmt.Sprintf(" and %d more", more)
		}
	}
	return fmt.Sprintf("%s\t%s\t%d\t%s\t%d", printable(status.Lock), owner, status.Fence, expires, status.Waiting)
}

type forceReleaseCmd struct {
	Name   string `arg:"" predictor:"lock" help:"The lock's name."`
	Reason string `required:"" placeholder:"TEXT" help:"The reason; recorded with your name, and published to subscribers."`
	Fence  *int64 `placeholder:"N" help:"End only the lease with this fencing token, so that a newer holder keeps its lease."`
}

// Help is shown with force-release's flags.
func (c *forceReleaseCmd) Help() string {
	return `The holder learns of it at its next renewal, and works on until then: make sure that it has ended, or that its writes carry
the fencing token. Releasing a free lock is no error. With --fence, only the lease with that token is ended: if it has ended
already, nothing changes and the exit code is 125; repeating the last force-release changes nothing and is no error.`
}

// Run force-releases the lock.
func (c *forceReleaseCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	var fence int64
	switch {
	case strings.TrimSpace(c.Reason) == "":
		return errors.New("--reason is empty; say why, for those who read of it later")
	case c.Fence != nil && *c.Fence < 1:
		return fmt.Errorf("--fence is %d; give the holder's fencing token, as status shows it", *c.Fence)
	case c.Fence != nil:
		fence = *c.Fence
	}
	ended, err := ask(ctx, s, conn, "force-release", func(client *lockclient.Client) ([]lockclient.StatusHolder, error) {
		return client.ForceRelease(ctx, c.Name, c.Reason, fence)
	})
	if err != nil {
		return err
	}
	var lines []string
	for _, h := range ended {
		lines = append(lines, fmt.Sprintf("ended %s's lease of %s, fence %d", who(h.Owner), c.Name, h.Fence))
	}
	switch {
	case len(lines) > 0:
	case fence > 0:
		lines = append(lines, fmt.Sprintf("nobody was ended: the lease of %s with fence %d was force-released before", c.Name, fence))
	default:
		lines = append(lines, "nobody held "+c.Name)
	}
	return s.result(map[string]any{"lock": c.Name, "released": wireHolders(ended)}, strings.Join(lines, "\n"))
}
