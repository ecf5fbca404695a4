package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/holdfast-lock/holdfast/internal/duration"
	"github.com/holdfast-lock/holdfast/internal/wire"
	"github.com/holdfast-lock/holdfast/lockclient"
)

type freezeCmd struct {
	Prefix string `arg:"" predictor:"lock" help:"How the names of the locks begin, such as deploy: ; '*' for all locks."`
	Until  string `required:"" placeholder:"WHEN" help:"The end of the freeze: 18:00, mon, 2026-12-01, '2026-12-01 18:00', a time in RFC 3339, or a duration such as 2h or 3d."`
	Reason string `required:"" placeholder:"TEXT" help:"The reason; shown to everybody who asks for one of the locks, and published to subscribers."`
	NoWait bool   `help:"Do not wait until every coordinator goes by the freeze."`
}

// Help is shown with freeze's flags.
func (c *freezeCmd) Help() string {
	return `Until the freeze ends, the locks are granted to nobody. Holders go on: they renew and release as always. Waiters keep their
places, and are granted the locks when the freeze ends. A second freeze of the same prefix replaces the first. The command returns when every
coordinator goes by the freeze: after a second, or after ten if the table had no rules. A request that was under way before may still be granted.`
}

// Run freezes locks.
func (c *freezeCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	if strings.TrimSpace(c.Reason) == "" {
		return errors.New("--reason is empty; say why, for those who are refused")
	}
	until, err := parseUntil(c.Until, time.Now())
	if err != nil {
		return err
	}
	rule, err := ask(ctx, s, conn, "freeze", func(client *lockclient.Client) (lockclient.Rule, error) {
		return client.Freeze(ctx, c.Prefix, until, c.Reason)
	})
	if err != nil {
		return err
	}
	if err := settle(ctx, s, rule, "freeze is", c.NoWait); err != nil {
		return err
	}
	return s.result(wireRule(rule), fmt.Sprintf("%s is frozen until %s: %s", below(rule.Prefix), stamp(rule.Frozen.Until), printable(rule.Frozen.Reason)))
}

// settle waits until every coordinator goes by a rule, of which a part was changed: "freeze is" or "limits are". It counts from the answer, whatever the clocks of both sides say.
func settle(ctx context.Context, s *streams, rule lockclient.Rule, part string, noWait bool) error {
	period := rule.InForceAt.Sub(rule.ChangedAt)
	if noWait || period <= 0 {
		return nil
	}
	period = min(period, time.Minute).Round(100 * time.Millisecond) // the answer may be another server's
	s.notice("settling", fmt.Sprintf("the %s stored; waiting %v until every coordinator goes by it", part, period), "prefix", rule.Prefix, "wait_ms", period.Milliseconds())
	timer := time.NewTimer(period)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the %s stored, and may not be in force everywhere yet: %w", part, ctx.Err())
	}
}

// parseUntil reads the end of a freeze. Times without a zone are in that of now.
func parseUntil(text string, now time.Time) (time.Time, error) {
	at, err := untilOf(text, now)
	switch {
	case err != nil:
		return at, err
	case !at.After(now):
		return at, fmt.Errorf("--until %s is %s, which is over", text, stamp(at))
	case at.After(now.Add(wire.MaxFreeze)):
		return at, fmt.Errorf("--until %s is %s; a freeze may last %d days at most", text, stamp(at), wire.MaxFreeze/(24*time.Hour))
	}
	return at, nil
}

func untilOf(text string, now time.Time) (time.Time, error) {
	midnight := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location())
	if clock, err := time.ParseInLocation("15:04", text, now.Location()); err == nil {
		at := time.Date(now.Year(), now.Month(), now.Day(), clock.Hour(), clock.Minute(), 0, 0, now.Location())
		if !at.After(now) {
			at = time.Date(now.Year(), now.Month(), now.Day()+1, clock.Hour(), clock.Minute(), 0, 0, now.Location())
		}
		return at, nil
	}
	for days := 1; days <= 7; days++ {
		day := midnight.AddDate(0, 0, days)
		if name := day.Weekday().String(); strings.EqualFold(text, name) || strings.EqualFold(text, name[:3]) {
			return day, nil
		}
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly, "2006-01-02 15:04", "2006-01-02T15:04"} {
		if at, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return at, nil
		}
	}
	if d, err := duration.Parse(text); err == nil {
		return now.Add(d), nil
	}
	return time.Time{}, fmt.Errorf("--until is %q; give a time of day (18:00), a weekday (mon), a day (2026-12-01), a day and a time (2026-12-01 18:00), a time in RFC 3339, or a duration (2h, 3d)", text)
}

type unfreezeCmd struct {
	Prefix string `arg:"" predictor:"lock" help:"The prefix, as it was frozen."`
}

// Run ends a freeze.
func (c *unfreezeCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	rule, err := ask(ctx, s, conn, "unfreeze", func(client *lockclient.Client) (lockclient.Rule, error) { return client.Unfreeze(ctx, c.Prefix) })
	if err != nil {
		return err
	}
	return s.result(wireRule(rule), below(rule.Prefix)+" has no freeze any more; waiters are granted their locks within seconds")
}

type rulesCmd struct{}

// Run shows all rules.
func (c *rulesCmd) Run(ctx context.Context, s *streams, conn *connection) error {
	list, err := ask(ctx, s, conn, "rules", func(client *lockclient.Client) ([]lockclient.Rule, error) { return client.Rules(ctx) })
	if err != nil {
		return err
	}
	if len(list) == 0 {
		s.notice("none", "there are no rules")
		return nil
	}
	table := tabwriter.NewWriter(s.out, 0, 8, 2, ' ', 0)
	if !s.json {
		_, _ = fmt.Fprintln(table, "PREFIX\tRULE\tBY\tREASON")
	}
	for _, r := range list {
		if s.json {
			if err := s.result(wireRule(r), ""); err != nil {
				return err
			}
			continue
		}
		row := func(says, by, reason string) {
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", printable(r.Prefix), says, cmp.Or(printable(by), "-"), reason)
		}
		if f := r.Frozen; f != nil {
			says := "frozen until " + stamp(f.Until)
			if !f.Until.After(time.Now()) {
				says += " (over)"
			}
			row(says, f.By, printable(f.Reason))
		}
		if l := r.Limits; l != nil {
			row(limitsText(l), l.By, "-")
		}
		if k := r.History; k != nil {
			row("history kept for "+days(k.For), k.By, "-")
		}
		if len(r.Unknown) > 0 {
			s.notice("unknown", fmt.Sprintf("%s has parts that this coordinator does not know, and does not go by: %s; a newer version has set them",
				printable(r.Prefix), printable(strings.Join(r.Unknown, ", "))))
		}
	}
	return table.Flush()
}

// below names the locks below a prefix.
func below(prefix string) string {
	if prefix == wire.AllLocks {
		return "every lock"
	}
	return "every lock whose name begins with " + printable(prefix)
}

// frozen describes a freeze for those who wait for its end.
func frozen(f *lockclient.Freeze) string {
	text := "frozen until " + stamp(f.Until)
	if f.By != "" {
		text += " by " + printable(f.By)
	}
	return text + ": " + printable(f.Reason)
}

// wireRule is a rule as the API writes it, without its revision.
func wireRule(r lockclient.Rule) map[string]any {
	out := map[string]any{"prefix": r.Prefix}
	if r.By != "" {
		out["by"] = r.By
	}
	if !r.ChangedAt.IsZero() {
		out["changed_at"] = wire.Time{Time: r.ChangedAt}
	}
	if r.Frozen != nil {
		out["freeze"] = wireFreeze(r.Frozen)
	}
	if k := r.History; k != nil {
		out["history"] = wireKeeping(k)
	}
	if r.Limits != nil {
		out["limits"] = wireLimits(r.Limits)
	}
	if len(r.Unknown) > 0 {
		out["unknown"] = r.Unknown
	}
	return out
}

func wireFreeze(f *lockclient.Freeze) *wire.Freeze {
	if f == nil {
		return nil
	}
	return &wire.Freeze{Prefix: f.Prefix, Until: wire.Time{Time: f.Until}, Reason: f.Reason, By: f.By, Since: wire.Time{Time: f.Since}}
}

func wireKeeping(k *lockclient.Keeping) *wire.Keeping {
	if k == nil {
		return nil
	}
	return &wire.Keeping{Prefix: k.Prefix, Keep: k.For.Milliseconds(), By: k.By, Since: wire.Time{Time: k.Since}}
}
