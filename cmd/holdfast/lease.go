package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
	"github.com/holdfast-lock/holdfast/lockclient/notify"
)

// taking are the arguments and flags of exec and acquire.
type taking struct {
	Name     string         `arg:"" predictor:"lock" optional:"" help:"The lock's name: A-Z a-z 0-9 . _ : @ + = -, with : for hierarchy."`
	TTL      time.Duration  `name:"ttl" placeholder:"TIME" default:"60s" help:"How long the lease lasts without a renewal; by default 60s."`
	Wait     *time.Duration `placeholder:"TIME" help:"How long to wait while others hold the lock; by default without a limit."`
	NoWait   bool           `help:"Fail at once if others hold the lock."`
	Metadata string         `placeholder:"JSON" help:"A JSON object for others to see."`
	Capacity *int           `placeholder:"N" help:"The lock's permits in all; above 1 it is a semaphore. By default that of a limit, or else 1."`
	Permits  int            `default:"1" help:"Permits to acquire."`
	Read     bool           `help:"Share the lock with other readers: all its users give --read or --write."`
	Write    bool           `help:"Have the lock alone, without readers."`
	Verbose  bool           `short:"v" help:"Also say how the command waits."`
	notifying

	set      []lockclient.Want // of exec: the locks of a set; nil: one lock
	notifier *notify.Notifier  // nil: the wait polls
	stopping sync.Mutex        // held while the notifier is closed and what it says is printed
	polls    string            // why it polls, as far as is known beforehand
}

// options validates the flags. The coordinator checks the limits that depend on its settings, such as the shortest TTL.
func (t *taking) options() (lockclient.Options, error) {
	o := lockclient.Options{TTL: t.TTL, Permits: t.Permits}
	if t.Capacity != nil {
		o.Capacity = *t.Capacity
	}
	switch {
	case t.TTL <= 0:
		return o, fmt.Errorf("--ttl is %v; give a time above 0, like 60s", t.TTL)
	case t.Wait != nil && t.NoWait:
		return o, errors.New("--wait and --no-wait are both given; give one")
	case t.Wait != nil && *t.Wait <= 0:
		return o, fmt.Errorf("--wait is %v; give a time above 0, or --no-wait", *t.Wait)
	case t.Read && t.Write:
		return o, errors.New("--read and --write are both given; give one")
	case (t.Read || t.Write) && (t.Capacity != nil || t.Permits != 1):
		return o, errors.New("--read or --write is given with --capacity or --permits; give one or the other")
	case t.Capacity != nil && (o.Capacity < 1 || o.Capacity > wire.MaxCapacity):
		return o, fmt.Errorf("--capacity is %d; give 1 to %d", o.Capacity, wire.MaxCapacity)
	case t.Permits < 1 || t.Permits > cmp.Or(o.Capacity, wire.MaxCapacity):
		return o, fmt.Errorf("--permits is %d; give 1 to the capacity, which is %d", t.Permits, cmp.Or(o.Capacity, wire.MaxCapacity))
	}
	if t.Wait != nil {
		o.Wait = *t.Wait
	}
	switch {
	case t.Read:
		o.Mode, o.Capacity, o.Permits = lockclient.ModeRead, 0, 0
	case t.Write:
		o.Mode, o.Capacity, o.Permits = lockclient.ModeWrite, 0, 0
	}
	var err error
	o.Metadata, err = metadata(t.Metadata)
	return o, err
}

// metadata parses --metadata; nil: none was given.
func metadata(flag string) (any, error) {
	if flag == "" {
		return nil, nil
	}
	var m map[string]any
	if err := json.Unmarshal([]byte(flag), &m); err != nil || m == nil {
		return nil, errors.New("--metadata is not a JSON object; give one, like '{\"build\":7}'")
	}
	return json.RawMessage(flag), nil
}

// A secret is where a lease's secret is read from or written to. It is never an argument, since other users can read a
// process's command line.
type secret struct {
	LeaseFile string `type:"path" placeholder:"FILE" help:"The file that keeps the lease's secret, readable by its owner only; by default HOLDFAST_LEASE holds the secret."`
}

func (c *secret) read() (string, error) {
	if c.LeaseFile == "" {
		if lease := os.Getenv("HOLDFAST_LEASE"); lease != "" {
			return lease, nil
		}
		return "", errors.New("the lease's secret is missing: set HOLDFAST_LEASE to what acquire printed, or give --lease-file FILE")
	}
	data, err := os.ReadFile(c.LeaseFile)
	if err != nil {
		return "", fmt.Errorf("--lease-file: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

type acquireCmd struct {
	taking
	secret
}

// leaseResult is the output of acquire and renew. Lease is the secret; it is empty if a file keeps it.
type leaseResult struct {
	Lock      string    `json:"lock"`
	Lease     string    `json:"lease,omitempty"`
	Fence     int64     `json:"fence"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Help is shown with acquire's flags.
func (c *acquireCmd) Help() string {
	return `The lease is not renewed automatically: renew it within its TTL, or use exec. A shell can evaluate the output:

  lease=$(holdfast acquire deploy:prod) || exit; eval "$lease"; export HOLDFAST_LEASE
  ...
  holdfast release deploy:prod`
}

// Run acquires the lock and leaves it held.
func (c *acquireCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	if c.Name == "" {
		return errors.New("there is no lock; give its name, like: holdfast acquire deploy:prod")
	}
	opts, err := c.options()
	if err != nil {
		return err
	}
	client, err := c.open(ctx, conn) // not closed once the lock is held, since Close would release it
	if err != nil {
		return err
	}
	var file *os.File
	// The file is created before the lock is acquired, so that no secret is lost, and in the same folder, so that a
	// rename replaces an earlier secret only when the new one is known.
	if c.LeaseFile != "" {
		if file, err = os.CreateTemp(filepath.Dir(c.LeaseFile), ".lease-*"); err != nil { // mode 0600
			return fmt.Errorf("--lease-file: %w", err)
		}
		defer func() { _, _ = file.Close(), os.Remove(file.Name()) }()
	}
	opts.ManualRenew = true
	lease, err := c.take(ctx, client, opts, conn, s)
	defer c.stopNotifier(ctx, conn, s)
	if err != nil {
		return conn.giveUp(ctx, client, s, c.Name, err)
	}
	r := leaseResult{c.Name, lease.Secret(), lease.Fence(), lease.ExpiresAt().UTC()}
	text := fmt.Sprintf("HOLDFAST_LEASE=%s\nHOLDFAST_FENCE=%d", r.Lease, r.Fence)
	if file != nil {
		_, err := fmt.Fprintln(file, r.Lease)
		if err = errors.Join(err, file.Sync(), file.Close()); err == nil { // Windows renames no open file
			err = os.Rename(file.Name(), c.LeaseFile)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("--lease-file: %w", err), lease.Release(ctx))
		}
		r.Lease = ""
		text = fmt.Sprintf("HOLDFAST_FENCE=%d", r.Fence)
	}
	if err := s.result(r, text); err != nil {
		return errors.Join(err, lease.Release(ctx))
	}
	s.notice("acquired", fmt.Sprintf("acquired %s until %s", c.Name, r.ExpiresAt.Local().Format("15:04:05")), "lock", c.Name, "fence", r.Fence)
	return nil
}

// held are the arguments of renew and release: a lease of an earlier acquire.
type held struct {
	secret
	Name string `arg:"" predictor:"lock" help:"The lock's name."`
}

func (h *held) open(ctx context.Context, conn *connection) (client *lockclient.Client, lease string, err error) {
	if lease, err = h.read(); err != nil {
		return nil, "", err
	}
	client, err = conn.client(ctx)
	return client, lease, err
}

type renewCmd struct {
	held
	TTL *time.Duration `name:"ttl" placeholder:"TIME" help:"How long the lease lasts from now; by default its current TTL."`

	Metadata string `placeholder:"JSON" help:"A JSON object for others to see, which replaces the current one; {} for none."`
}

// Run renews the lease.
func (c *renewCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	opts := lockclient.Options{ManualRenew: true}
	if c.TTL != nil {
		if opts.TTL = *c.TTL; opts.TTL <= 0 {
			return fmt.Errorf("--ttl is %v; give a time above 0, like 60s", opts.TTL)
		}
	}
	var err error
	if opts.Metadata, err = metadata(c.Metadata); err != nil {
		return err
	}
	client, lease, err := c.open(ctx, conn)
	if err != nil {
		return err
	}
	answered := s.slow("renew")
	l, err := client.Adopt(ctx, c.Name, lease, opts)
	answered()
	if err != nil {
		return err
	}
	r := leaseResult{Lock: c.Name, Fence: l.Fence(), ExpiresAt: l.ExpiresAt().UTC()}
	return s.result(r, fmt.Sprintf("renewed %s until %s", c.Name, r.ExpiresAt.Local().Format("15:04:05")))
}

type releaseCmd struct {
	held
	Downgrade bool `help:"Make a reader of a writer (acquire --write): other readers get the lock, and the lease goes on."`
}

// Run releases the lease.
func (c *releaseCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	client, lease, err := c.open(ctx, conn)
	if err != nil {
		return err
	}
	release := client.Release
	if c.Downgrade {
		release = client.Downgrade
	}
	answered := s.slow("release")
	err = release(ctx, c.Name, lease)
	answered()
	switch {
	case err != nil:
		return err
	case c.Downgrade:
		return s.result(map[string]any{"lock": c.Name, "released": false, "mode": "read"}, c.Name+" is shared with other readers now")
	}
	return s.result(map[string]any{"lock": c.Name, "released": true}, "released "+c.Name)
}
