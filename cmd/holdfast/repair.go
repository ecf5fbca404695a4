package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"
)

type repairCmd struct {
	Name   string `arg:"" predictor:"lock" help:"The lock's name."`
	Reason string `required:"" placeholder:"TEXT" help:"The reason; stored in the lock's row with your name."`
}

// Help is shown with repair's flags.
func (c *repairCmd) Help() string {
	return `For a lock that cannot be acquired because "its fencing token is ahead of now": a coordinator with a wrong clock wrote the
token. The command uses the table directly (--table). It checks that this machine's clock agrees with DynamoDB's, that the
token is further ahead than any that a client can have received (about an hour), and that no live lease has such a token:
force-release that lease first. It then sets the token to one above all that clients can have received; the lock can be
granted some seconds later. It cannot check whether a resource has stored the wrong token, from an event for example: reset
it there.`
}

// Run repairs the lock.
func (c *repairCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	if err := conn.noEndpoint("repair"); err != nil {
		return err
	}
	if strings.TrimSpace(c.Reason) == "" {
		return errors.New("--reason is empty; say why, for those who read of it later")
	}
	if conn.Table == "" {
		return errors.New("which table? Give --table NAME or set HOLDFAST_TABLE; repair uses the table directly")
	}
	table, err := conn.direct(ctx)
	if err != nil {
		return err
	}
	answered := s.slow("repair")
	done, err := table.Repair(ctx, c.Name, cmp.Or(conn.Owner, thisUser()), c.Reason)
	answered()
	if err != nil {
		return err
	}
	return s.result(map[string]any{"lock": c.Name, "fence_before": done.Before, "fence": done.After, "opens_at": done.Opens.UTC()},
		fmt.Sprintf("repaired %s: its fencing token went from %d to %d; it can be granted from %s on", c.Name, done.Before, done.After, done.Opens.Local().Format("15:04:05")))
}

// thisUser is the operating system's user and host.
func thisUser() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, _ := os.Hostname()
	return name + "@" + host
}
