package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

type execCmd struct {
	taking
	Lock       []string       `sep:"none" predictor:"lock" placeholder:"NAME[/CAPACITY[/PERMITS]]" help:"One lock of a set, up to 10, which are acquired all at once, in place of a name before --."`
	Grace      *time.Duration `placeholder:"TIME" help:"Time between SIGTERM and SIGKILL when the command is stopped; at most a sixth of the TTL. By default 5s, or a sixth of a TTL below 30s."`
	AtLeast    time.Duration  `placeholder:"TIME" help:"Keep the lock for at least this long after it was acquired, even if the command ends sooner."`
	WithParent bool           `env:"HOLDFAST_WITH_PARENT" help:"End the command when the process that started holdfast ends."`
	Command    []string       `arg:"" optional:"" passthrough:"" help:"The command and its arguments, after --."`
}

// Help is shown with exec's flags.
func (c *execCmd) Help() string {
	return `Waits until the lock is granted, runs the command, renews the lease while it runs, and releases the lock. The command finds
the lock's name in HOLDFAST_LOCK and its fencing token in HOLDFAST_FENCE. If the lease is lost, the command and all processes
that it started get SIGTERM, and SIGKILL after the grace; if the lease cannot be renewed, early enough that they have ended
before the lock is granted to others. Processes that the command leaves running when it ends are stopped as well.

With --lock, given once for each, several locks are acquired all at once: it waits in all their queues and holds none meanwhile. HOLDFAST_LOCK
then has all names, with commas between, and HOLDFAST_FENCES their fencing tokens, a JSON object:

  holdfast exec --lock customer:42 --lock api/20 -- ./import.sh`
}

const (
	defaultGrace = 5 * time.Second
	graceShare   = 6  // the grace is at most this fraction of the TTL, which leaves time for failed renewals to be repeated
	checksPerTTL = 12 // how often per TTL the supervisor passes a renewed expiry on to the guard
)

// grace is the time between SIGTERM and SIGKILL.
func (c *execCmd) grace() time.Duration {
	if c.Grace != nil {
		return *c.Grace
	}
	return min(defaultGrace, c.TTL/graceShare)
}

// check validates the flags of exec itself; [taking.options] validates the others.
func (c *execCmd) check() error {
	switch most := c.TTL / graceShare; {
	case len(c.set) > 0 && (c.Capacity != nil || c.Permits != 1):
		return errors.New("--capacity or --permits is beside --lock; write them after the lock's name, like --lock api/20/2")
	case len(c.set) > 0 && (c.Read || c.Write):
		return fmt.Errorf("--read or --write is beside --lock; write --lock NAME/%d for a reader and --lock NAME/%[1]d/%[1]d for a writer", wire.ModeCapacity)
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

// readSet reads the flags --lock. The argument in the place of a name is then the first word of the command.
func (c *execCmd) readSet() error {
	if len(c.Lock) == 0 {
		return nil
	}
	if len(c.Lock) > wire.MaxSet {
		return fmt.Errorf("--lock is given %d times; a set has up to %d locks", len(c.Lock), wire.MaxSet)
	}
	if c.Name != "" && c.Name != "--" {
		c.Command = append([]string{c.Name}, c.Command...)
	}
	var names []string
	for _, text := range c.Lock {
		want, err := readWant(text)
		if err != nil {
			return err
		}
		if slices.Contains(names, want.Lock) {
			return fmt.Errorf("--lock %s is given twice; name each lock once", want.Lock)
		}
		c.set, names = append(c.set, want), append(names, want.Lock)
	}
	slices.Sort(names)
	c.Name = strings.Join(names, ",")
	return nil
}

// readWant reads NAME[/[CAPACITY][/PERMITS]]. No lock's name contains a slash. Without a capacity, it is that of a limit of the lock's prefix, or 1.
func readWant(text string) (w lockclient.Want, err error) {
	parts := strings.Split(text, "/")
	w = lockclient.Want{Lock: parts[0], Permits: 1}
	if problem := wire.CheckName(w.Lock); problem != "" {
		return w, fmt.Errorf("--lock %q: the name %s", text, problem)
	}
	if len(parts) > 3 {
		return w, fmt.Errorf("--lock %q has more than two slashes; write it as NAME/CAPACITY/PERMITS", text)
	}
	for i, to := range []*int{&w.Capacity, &w.Permits}[:len(parts)-1] {
		if i == 0 && len(parts) == 3 && parts[1] == "" {
			continue
		}
		if *to, err = strconv.Atoi(parts[i+1]); err != nil || *to < 1 || *to > wire.MaxCapacity || w.Permits > cmp.Or(w.Capacity, wire.MaxCapacity) {
			return w, fmt.Errorf("--lock %q: %q is no number of permits; give a capacity of 1 to %d, and after it 1 to as many permits", text, parts[i+1], wire.MaxCapacity)
		}
	}
	return w, nil
}

// cutDashes removes the -- before the command. A first word that begins with a dash and has no -- before it is a
// misspelt flag.
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
