package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/fatih/color"

	"github.com/holdfast-lock/holdfast/lockclient"
)

type statusCmd struct {
	Name string `arg:"" help:"The lock's name."`
}

// Run shows a lock.
func (c *statusCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	client, err := conn.client(ctx)
	if err != nil {
		return err
	}
	status, err := client.Status(ctx, c.Name)
	if err != nil {
		return err
	}
	return s.result(wireStatus(status), s.describe(status))
}

// describe is a lock in a few lines.
func (s *streams) describe(status lockclient.Status) string {
	var b strings.Builder
	state := s.paint("free", color.FgGreen)
	if status.Locked {
		state = s.paint("held", color.FgYellow)
	}
	fmt.Fprintf(&b, "%s is %s", s.paint(status.Lock, color.Bold), state)
	if status.Capacity > 1 {
		fmt.Fprintf(&b, ", %d of %d permits are free", status.Available, status.Capacity)
	}
	if status.Waiting > 0 {
		fmt.Fprintf(&b, ", %d wait", status.Waiting)
	}
	for _, h := range status.Holders {
		fmt.Fprintf(&b, "\n  %s", who(h.Owner))
		if h.Principal != "" {
			fmt.Fprintf(&b, " (%s)", h.Principal)
		}
		if h.Permits > 1 {
			fmt.Fprintf(&b, ", %d permits", h.Permits)
		}
		fmt.Fprintf(&b, "\n    fence %d, since %s, renewed %s, expires %s (in %v)", h.Fence, stamp(h.AcquiredAt), stamp(h.RenewedAt), stamp(h.ExpiresAt), h.Remaining.Round(100*time.Millisecond))
		if len(h.Metadata) > 0 {
			fmt.Fprintf(&b, "\n    %s", h.Metadata)
		}
	}
	return b.String()
}

func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

type lsCmd struct {
	Prefix string `arg:"" optional:"" help:"The beginning of the names to list; by default all."`
	All    bool   `help:"Also locks that nobody holds, as long as they are remembered (a day)."`
}

// Run lists locks.
func (c *lsCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	client, err := conn.client(ctx)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(s.out, 0, 8, 2, ' ', 0)
	n := 0
	for status, err := range client.List(ctx, c.Prefix, c.All) {
		if err != nil {
			return errors.Join(err, table.Flush())
		}
		if s.json {
			if err := s.result(wireStatus(status), ""); err != nil {
				return err
			}
			continue
		}
		if n++; n == 1 {
			_, _ = fmt.Fprintln(table, "LOCK\tHELD BY\tFENCE\tEXPIRES IN\tWAITING")
		}
		owner, expires := "-", "-"
		if status.Locked {
			owner, expires = who(status.Holders[0].Owner), status.Holders[0].Remaining.Round(time.Second).String()
			if more := len(status.Holders) - 1; more > 0 {
				owner += fmt.Sprintf(" and %d more", more)
			}
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%d\n", status.Lock, owner, status.Fence, expires, status.Waiting)
	}
	if n == 0 && !s.json {
		s.notice("none", "no such locks")
	}
	return table.Flush()
}

type watchCmd struct {
	Name string `arg:"" help:"The lock's name."`
}

// Run shows changes until it is interrupted.
func (c *watchCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	client, err := conn.client(ctx)
	if err != nil {
		return err
	}
	for status, err := range client.Watch(ctx, c.Name) {
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, lockclient.ErrRefused):
			return err
		case err != nil:
			s.notice("unavailable", message(err), "lock", c.Name)
		default:
			line := stamp(status.At) + " " + s.describe(status)
			if err := s.result(wireStatus(status), line); err != nil {
				return err
			}
		}
	}
	return nil
}

type forceReleaseCmd struct {
	Name   string `arg:"" help:"The lock's name."`
	Reason string `required:"" placeholder:"TEXT" help:"Why; recorded with who you are, and told to subscribers."`
	Fence  int64  `placeholder:"N" help:"Only the holder with this fencing token, so that a newer one is not hit."`
}

// Help is shown with force-release's flags.
func (c *forceReleaseCmd) Help() string {
	return "The holder hears of it at its next renewal, and works on until then: be sure that it is gone, or that its writes carry the fencing token."
}

// Run ends leases.
func (c *forceReleaseCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	client, err := conn.client(ctx)
	if err != nil {
		return err
	}
	ended, err := client.ForceRelease(ctx, c.Name, c.Reason, c.Fence)
	if err != nil {
		return err
	}
	var lines []string
	for _, h := range ended {
		lines = append(lines, fmt.Sprintf("ended %s's lease of %s, fence %d", who(h.Owner), c.Name, h.Fence))
	}
	if len(lines) == 0 {
		lines = append(lines, "nobody held "+c.Name)
	}
	return s.result(map[string]any{"lock": c.Name, "released": wireHolders(ended)}, strings.Join(lines, "\n"))
}
