package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/notify"
)

// notifying are the settings of waits that are notified of their grants by a queue.
type notifying struct {
	NotifyPrefix string `env:"HOLDFAST_NOTIFY_PREFIX" placeholder:"URL" help:"How the URLs of the deployment's notify queues begin: the stack's output NotifyPrefix. A wait is then notified of its grant by an SQS queue instead of polling."`
}

// config is the configuration of package notify.
func (n *notifying) config(ctx context.Context, conn *connection) (notify.Config, error) {
	sdk, err := awsConfig(ctx, conn.Region, "")
	return notify.Config{AWS: sdk, Prefix: n.NotifyPrefix}, err
}

// open returns a client of the selected coordinator, whose waits are notified of their grants if that is set up.
func (t *taking) open(ctx context.Context, conn *connection) (*lockclient.Client, error) {
	cfg, err := conn.config(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case t.NoWait:
	case t.NotifyPrefix == "":
		t.polls = "--notify-prefix is not set"
	case cfg.Transport != nil:
		t.polls = "with --table nothing sends notifications"
	default:
		settings, err := t.config(ctx, conn)
		if err == nil {
			t.notifier, err = notify.New(settings)
		}
		if err != nil {
			return nil, err
		}
		cfg.Notify = t.notifier
	}
	return lockclient.New(cfg)
}

// stopNotifier deletes the queue by which the wait was notified, if there is one. A second call waits for the first.
func (t *taking) stopNotifier(ctx context.Context, conn *connection, s *streams) {
	if t.notifier == nil {
		return
	}
	t.stopping.Lock()
	defer t.stopping.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*conn.Timeout)
	defer cancel()
	if err := t.notifier.Close(ctx); err != nil && t.Verbose {
		s.notice("queue_left", "the queue of this wait is left: "+message(err), "lock", t.Name)
	}
}

type sweepCmd struct{ notifying }

// Help is shown with sweep's flags.
func (*sweepCmd) Help() string {
	return `A process that is killed while it waits leaves its notify queue behind. Such a queue costs nothing while it is idle. The
command deletes those whose owners have shown no life for some hours, and none whose owner lives. It needs permission to
list the account's queues.`
}

// Run deletes the queues of processes that are gone.
func (c *sweepCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	if err := conn.noEndpoint("sweep"); err != nil {
		return err
	}
	if c.NotifyPrefix == "" {
		return errors.New("which queues? Give --notify-prefix URL or set HOLDFAST_NOTIFY_PREFIX: the stack's output NotifyPrefix")
	}
	cfg, err := c.config(ctx, conn)
	if err != nil {
		return err
	}
	answered := s.slow("sweep")
	done, err := notify.Sweep(ctx, cfg)
	answered()
	text := []string{fmt.Sprintf("deleted %d queues; the owners of %d live", len(done.Deleted), done.Alive)}
	for _, url := range done.Deleted {
		text = append(text, "  deleted "+url)
	}
	if len(done.Unknown) > 0 {
		text = append(text, fmt.Sprintf("  left %d that say nothing about their owner: %s", len(done.Unknown), strings.Join(done.Unknown, " ")))
	}
	if len(done.Deleted) > 0 || err == nil {
		err = errors.Join(err, s.result(map[string]any{"deleted": append([]string{}, done.Deleted...), "alive": done.Alive, "unknown": append([]string{}, done.Unknown...)}, strings.Join(text, "\n")))
	}
	return err
}
