package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

type limitCmd struct {
	Prefix          string        `arg:"" predictor:"lock" help:"How the names of the locks begin, such as deploy: ; '*' for all locks."`
	Capacity        int           `placeholder:"N" help:"The permits of each lock. Callers that name another capacity are refused; those that name none get it."`
	MaxTTL          time.Duration `name:"max-ttl" placeholder:"TIME" help:"The longest TTL of a lease; a longer one is refused."`
	MaxHold         time.Duration `placeholder:"TIME" help:"How long a lease lasts from its grant on, however often it is renewed."`
	MaxQueue        int           `placeholder:"N" help:"The most waiters of one lock."`
	MaxPerPrincipal int           `placeholder:"N" help:"The most permits of one lock that one principal, a user or a role, holds and waits for."`
	Rate            string        `placeholder:"N/TIME" help:"How often each lock is granted in any such time, like 10/1h: 1 to 100 times, in 1s to 24h."`
	NoWait          bool          `help:"Do not wait until every coordinator goes by the limits."`
}

// Help is shown with limit's flags.
func (c *limitCmd) Help() string {
	return `The limits take the place of the prefix's earlier ones: what no flag names is not limited by this prefix. If several prefixes cover a lock, the smallest value of
each limit counts. Limits bind new leases and new places in queues; holders and waiters keep what they have. unlimit removes them. The command returns when every
coordinator goes by the limits: after a second, or after ten if the table had no rules.`
}

// Run sets limits.
func (c *limitCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	limits, err := c.limits()
	if err != nil {
		return err
	}
	rule, err := ask(ctx, s, conn, "limit", func(client *lockclient.Client) (lockclient.Rule, error) {
		return client.SetLimits(ctx, c.Prefix, limits)
	})
	if err != nil {
		return err
	}
	if err := settle(ctx, s, rule, "limits are", c.NoWait); err != nil {
		return err
	}
	return s.result(wireRule(rule), below(rule.Prefix)+" has these limits: "+limitsText(rule.Limits))
}

// limits are those of the flags.
func (c *limitCmd) limits() (l lockclient.Limits, err error) {
	for _, flag := range []struct {
		name        string
		value       int
		most        int
		time        time.Duration
		least, last time.Duration
	}{
		{name: "--capacity", value: c.Capacity, most: wire.MaxCapacity}, {name: "--max-queue", value: c.MaxQueue, most: wire.MaxQueue},
		{name: "--max-per-principal", value: c.MaxPerPrincipal, most: wire.MaxCapacity},
		{name: "--max-ttl", time: c.MaxTTL, least: wire.MinTTL, last: wire.MaxTTL}, {name: "--max-hold", time: c.MaxHold, least: wire.MinHoldLimit, last: wire.MaxHoldLimit},
	} {
		switch {
		case flag.value < 0 || flag.value > flag.most:
			return l, fmt.Errorf("%s is %d; give a number from 1 to %d, or leave it out for no limit", flag.name, flag.value, flag.most)
		case flag.time != 0 && (flag.time < flag.least || flag.time > flag.last):
			return l, fmt.Errorf("%s is %v; give a time from %v to %v, or leave it out for no limit", flag.name, flag.time, flag.least, flag.last)
		}
	}
	l = lockclient.Limits{Capacity: c.Capacity, MaxTTL: c.MaxTTL, MaxHold: c.MaxHold, MaxQueue: c.MaxQueue, MaxPerPrincipal: c.MaxPerPrincipal}
	if c.Rate != "" {
		if l.Rate, err = readRate(c.Rate); err != nil {
			return l, err
		}
	}
	if l == (lockclient.Limits{}) {
		return l, errors.New("there is no limit; give --capacity, --max-ttl, --max-hold, --max-queue, --max-per-principal or --rate, or use unlimit to remove all")
	}
	return l, nil
}

// readRate reads N/TIME.
func readRate(text string) (r lockclient.Rate, err error) {
	n, of, _ := strings.Cut(text, "/")
	grants, wrong := strconv.Atoi(n)
	period, err := time.ParseDuration(of)
	if wrong != nil || err != nil || grants < 1 || grants > wire.MaxGrants || period < wire.MinRatePeriod || period > wire.MaxRatePeriod {
		return r, fmt.Errorf("--rate is %q; give how many grants in which time, like 10/1h: 1 to %d, in %v to %v", text, wire.MaxGrants, wire.MinRatePeriod, wire.MaxRatePeriod)
	}
	return lockclient.Rate{Grants: grants, Period: period}, nil
}

type unlimitCmd struct {
	Prefix string `arg:"" predictor:"lock" help:"The prefix, as its limits were set."`
}

// Run removes limits.
func (c *unlimitCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	rule, err := ask(ctx, s, conn, "unlimit", func(client *lockclient.Client) (lockclient.Rule, error) { return client.RemoveLimits(ctx, c.Prefix) })
	if err != nil {
		return err
	}
	return s.result(wireRule(rule), below(rule.Prefix)+" has no limits by this prefix any more; leases that were granted under them keep them")
}

// limitsText lists limits in words.
func limitsText(l *lockclient.Limits) string {
	var list []string
	for _, one := range []struct {
		set  bool
		text string
	}{
		{l.Capacity > 0, fmt.Sprintf("capacity %d", l.Capacity)}, {l.MaxTTL > 0, fmt.Sprintf("TTL up to %v", l.MaxTTL)}, {l.MaxHold > 0, fmt.Sprintf("held up to %v", l.MaxHold)},
		{l.MaxQueue > 0, fmt.Sprintf("up to %d waiters", l.MaxQueue)}, {l.MaxPerPrincipal > 0, fmt.Sprintf("up to %d permits for a principal", l.MaxPerPrincipal)},
		{l.Rate.Grants > 0, fmt.Sprintf("granted up to %s in %v", wire.Times(int64(l.Rate.Grants)), l.Rate.Period)},
	} {
		if one.set {
			list = append(list, one.text)
		}
	}
	return strings.Join(list, ", ")
}

func wireLimits(l *lockclient.Limits) *wire.Limits {
	if l == nil {
		return nil
	}
	return &wire.Limits{
		LimitsRequest: wire.LimitsRequest{
			Capacity: int64(l.Capacity), MaxTTL: l.MaxTTL.Milliseconds(), MaxHold: l.MaxHold.Milliseconds(), MaxQueue: int64(l.MaxQueue), MaxPerPrincipal: int64(l.MaxPerPrincipal),
			Rate: wire.Rate{Grants: int64(l.Rate.Grants), Period: l.Rate.Period.Milliseconds()},
		},
		By: l.By, Since: wire.Time{Time: l.Since},
	}
}
